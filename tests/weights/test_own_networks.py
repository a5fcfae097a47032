"""Networks of one's own, and the library's: particles together weigh what each weighs alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from all_cases import CASES, in_double
from cases import Case
from pyro import poutine
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae.measure.impute import impute
from pyrovae.objectives import IWAE
from pyrovae.weights.run import run
from pyrovae.weights.sites import enumeration_dim, sample_sites
from pyrovae.weights.traces import trace_pair

ROWS = 5


class Normalized(nn.Module):
    """Batch normalization over as many hidden units as there are rows, which it mistakes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, ROWS), nn.BatchNorm1d(ROWS), nn.Tanh(), nn.Linear(ROWS, 3)
        )
        self.net[1].running_mean.copy_(random(1, ROWS))
        self.net[1].running_var.copy_(random(2, ROWS).exp())

    def forward(self, z):
        return self.net(z)


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(2, 8), nn.Conv1d(2, 3, 4)

    def forward(self, z):
        return self.conv(self.linear(z).view(-1, 2, 4)).flatten(1)


class Reshaped(nn.Module):
    """An image's decoder that takes the first axis, whatever it is, for the batch."""

    def __init__(self):
        super().__init__()
        self.linear, self.conv = nn.Linear(2, 12), nn.Conv2d(3, 3, 2)

    def forward(self, z):
        hidden = self.linear(z.reshape(z.shape[0], -1))
        return self.conv(hidden.view(z.shape[0], 3, 2, 2)).flatten(1)


class Recurrent(nn.Module):
    """It takes the first of three axes for time: of K particles the first alone is right."""

    def __init__(self):
        super().__init__()
        self.cells, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, z):
        steps = z if z.ndim == 3 else z.unsqueeze(1)
        return self.out(self.cells(steps)[0]).reshape(*z.shape[:-1], 3)


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 + 1, 3)

    def forward(self, z, label):
        return self.linear(torch.cat([z, label], -1))


class Attending(nn.Module):
    """Attention over a set of two tokens, one for each latent; with an axis more it is another."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attend = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, z):
        tokens = self.attend(self.embed(z.reshape(-1, 2, 1)))
        return self.out(tokens.flatten(1))


KINDS = Normalized, Convolved, Reshaped, Recurrent, Concatenated, Attending
OWN = {c.__name__: c for c in KINDS}


class Scored(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, x=None, *context):
        return pyro.sample("x", dist.Normal(self.net(z, *context), 0.7).to_event(1), obs=x)


def own(name):
    torch.manual_seed(0)
    net = OWN[name]()
    context = (torch.randn(ROWS, 1),) if name == "Concatenated" else ()
    encoder = pv.guides.MeanFieldNormal(pv.nets.MLP(3 + len(context), 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), Scored(net), encoder)
    return Case(vae.eval(), torch.randn(ROWS, 3), context)


ALL = CASES | {f"own: {name}": lambda name=name: own(name) for name in OWN}


def alone(case, guide_trace, k):
    """Return the log-weights of a particle by Pyro's own trace, with no axis of particles."""
    given = poutine.Trace()
    for name, site in sample_sites(guide_trace):
        dim = site["value"].ndim - site["fn"].event_dim - 2
        value = site["value"].select(dim, k if site["value"].shape[dim] > 1 else 0)
        given.add_node(name, **{**site, "value": value, "is_observed": False, "infer": {}})
    total = 0.0
    for program, sign in ((case.vae.model, 1), (case.vae.guide, -1)):
        replayed = poutine.trace(poutine.replay(program, trace=given))
        trace = replayed.get_trace(case.x, *case.context)
        trace.compute_log_prob()
        total = total + sign * sum(site["log_prob"] for _, site in sample_sites(trace))
    return total


def rows_of(case, rows):
    return Case(case.vae, case.x[rows], tuple(c[rows] for c in case.context))


@pytest.mark.parametrize("particles", [1, 2, 7])
@pytest.mark.parametrize("rows", [slice(1, 2), slice(1, 4), slice(None)], ids=["1", "3", "all"])
@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_each_particle_weighs_what_it_weighs_alone(make, rows, particles):
    case = rows_of(in_double(make()), rows)
    case.vae.eval()
    programs = case.vae.model, case.vae.guide
    with torch.no_grad():
        with pv.seeded(3):
            _, guide_trace = trace_pair(*programs, case.x, *case.context, particles=particles)
        sites = [site for _, site in sample_sites(guide_trace)]
        if any(enumeration_dim(site) is not None for site in sites):
            pytest.skip("summed out: no particle of one class stands alone")
        with pv.seeded(3):
            found = run(*programs, case.x, *case.context, particles=particles).log_w
        if any(enumeration_dim(s) for _, s in sample_sites(_)):
            pytest.skip("summed out by the model")
        wanted = [alone(case, guide_trace, k) for k in range(particles)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OWN)
def test_what_pyro_trains_is_measured_by_every_door(name):
    """Bounds, the closed form, imputation, annealing and checks see the same densities."""
    case = own(name)
    data = case.x, *case.context
    report = pv.evaluate(
        case.vae, data, particles=200, diagnostics=[pv.AIS(20, particles=16, limit=2)]
    )
    assert not report.refused
    q = case.vae.encode(*data)
    kl = torch.distributions.kl_divergence(q.base_dist, dist.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(report.closed_form_kl.value, kl)
    below, bound = report.findings["ais"].lower, report.iwae[200]
    error = below.standard_error.hypot(bound.standard_error[:2])
    # Both bound log p(x) from below; AIS of few temperatures is the looser one.
    assert ((below.value - bound.value[:2]).abs() < 5 * error + 0.3).all()


@pytest.mark.parametrize("name", OWN)
def test_a_bound_of_several_particles_trains_it(name):
    """The gradient is that of the mean over draws of bounds written out particle by particle."""
    case = own(name)
    programs = case.vae.model, case.vae.guide
    data = case.x, *case.context
    with pv.seeded(3):
        _, guide_trace = trace_pair(*programs, *data, particles=3)
        log_w = torch.stack([alone(case, guide_trace, k) for k in range(3)])
    wanted = -pv.bounds.log_mean_exp(log_w).sum()
    with pv.seeded(3):
        found = IWAE(3).differentiable_loss(*programs, *data)
    torch.testing.assert_close(found, wanted)
    parameters = list(case.vae.parameters())
    slopes = [torch.autograd.grad(loss, parameters) for loss in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)


def test_looking_moves_no_statistics_and_draws_nothing():
    case = own("Normalized")
    case.vae.train()
    before = case.vae.likelihood.net.net[1].num_batches_tracked.clone()
    for particles in (1, 3):
        IWAE(particles).loss(case.vae.model, case.vae.guide, case.x)
    assert case.vae.likelihood.net.net[1].num_batches_tracked == before + 2


def test_a_program_that_mixes_particles_and_takes_no_rows_is_refused():
    table = random(1, ROWS, 2)

    def model(x):
        with pyro.plate("data", ROWS, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0 * table, 1.0).to_event(1))
            centered = z - z.mean(0) if z.ndim == 3 else z
            pyro.sample("x", dist.Normal(centered + table, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", ROWS, dim=-1):
            pyro.sample("z", dist.Normal(0.0 * table, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"\[K, N, \.\.\.\], other log-probabilities together"):
        pv.log_weights((model, guide), random(2, ROWS, 2), particles=4)


def test_imputation_sees_each_particle_alone():
    torch.manual_seed(0)
    net = OWN["Normalized"]()

    class Seen(nn.Module):
        def forward(self, z, x=None, mask=None):
            fn = dist.Normal(net(z), 0.7).mask(mask if mask is not None else True).to_event(1)
            return pyro.sample("x", fn, obs=x)

    encoder = pv.guides.MeanFieldNormal(pv.nets.HideMissing(pv.nets.MLP(3, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), Seen(), encoder).eval()
    x, mask = torch.randn(ROWS, 3), torch.rand(ROWS, 3) > 0.4
    net.eval()
    filled = impute(vae, x, mask, particles=5000)
    with torch.no_grad():
        z = torch.randn(20_000, ROWS, 2)
        loc = net(z.flatten(0, 1)).unflatten(0, (20_000, ROWS))
        weights = (dist.Normal(loc, 0.7).log_prob(x) * mask).sum(-1).softmax(0)
        wanted = (weights[..., None] * loc).sum(0)
    missing = ~mask
    off = (filled.x - wanted)[missing].abs()
    assert (off < 6 * filled.standard_error[missing] + 0.05).all()


class Tied(nn.Module):
    """A decoder whose outputs are divided by the largest of the batch, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3)

    def forward(self, z, x=None):
        h = self.net(z)
        h = h / h.abs().amax(tuple(range(h.ndim - 1)), keepdim=True)
        return pyro.sample("x", dist.Normal(h, 1.0).to_event(1), obs=x)


def test_a_network_that_ties_the_rows_of_its_batch_is_not_measured():
    """It trains; but a datum's density would depend on the data and the particles beside it."""
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), Tied(), guide).double()
    x = random(3, ROWS, 3)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), IWAE(3))
    assert svi.step(x) > 0
    with pytest.raises(ValueError, match="a layer ties the rows of its batch"):
        pv.evaluate(vae, x, particles=7)


WHOLE = 7
"""The number of all data, of which a batch has `ROWS`: fewer than K N rows, or than N rows."""

PLATES = {
    "drawn by the length of x": lambda x: pyro.plate("data", WHOLE, subsample_size=len(x)),
    "given as x": lambda x: pyro.plate("data", WHOLE, subsample=x),
    "of a number of data": lambda x: pyro.plate("data", ROWS),
    "of the length of x": lambda x: pyro.plate("data", len(x)),
}


@pytest.mark.parametrize("plate", PLATES.values(), ids=PLATES.keys())
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_networks_on_rows_take_every_plate_of_the_data(plate, shift):
    """The latent's posterior is known: N(z; x / 2, 1 / 2) for unit noise about z."""

    def flat(value):
        assert value.ndim == 2, "a network of rows alone"
        return value

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(flat(z), 1.0).to_event(1), obs=x)

    def guide(x):
        with plate(x):
            loc = flat(x) / 2 + shift
            pyro.sample("z", dist.Normal(loc, 0.5**0.5).to_event(1))

    x = random(3, ROWS, 2)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
    log_w = pv.log_weights((model, guide), x, particles=4)
    if shift == 0.0:
        torch.testing.assert_close(log_w, evidence.expand(4, -1))
        scale = WHOLE / ROWS if plate in list(PLATES.values())[:2] else 1.0
        assert IWAE(4).loss(model, guide, x) == pytest.approx(-scale * evidence.sum().item())
        return
    # log_w is linear in z: log p(x) - shift^2 - shift * eps / sqrt(1/2) in each of 2 dimensions.
    draws = pv.log_weights((model, guide), x, particles=2000)
    error = 2 * shift * (draws.numel()) ** -0.5
    assert abs((draws - evidence).mean() + 2 * shift**2) < 4 * error
