"""What handlers change in what is trained, by hand-written formulas, and in what is measured."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from torch import nn
from worlds import Hierarchy, LinearGaussian, data_plate, random

import pyrovae as pv
from pyrovae import objectives
from pyrovae.objectives.handlers import capacity, free_bits, kl_weight

ROWS, SIZE = 4, 16
"""Data in the minibatch, and in the data set that it stands for."""


class Table(nn.Module):
    """A mean-field posterior with a mean for each datum: its KL is 0.3 and 1.2 nats on average."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(random(12, ROWS, 2) * torch.tensor([0.6, 1.2]))
        self.log_scale = nn.Parameter(torch.tensor([-0.4, -0.9], dtype=torch.float64))

    def forward(self, x):
        pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


def table_vae():
    world = LinearGaussian()
    return pv.VAE(world.prior, world.likelihood, Table()), world.sample(ROWS)


def mean_kl(loc, log_scale, kept=slice(None)):
    """KL(N(m, s^2) || N(0, 1)) of each dimension, averaged over data."""
    return (0.5 * (log_scale.exp() ** 2 + loc**2 - 1) - log_scale)[kept].mean(0)


def flat(parameters):
    return torch.cat([parameter.flatten() for parameter in parameters])


def loss_and_gradient(objective, programs, vae, x, **options):
    vae.zero_grad()
    torch.manual_seed(1)
    loss = objective.loss_and_grads(*programs, x, **options)
    return loss, flat([parameter.grad for parameter in vae.parameters()])


def differences(function, parameters, step=1e-5):
    """Return the gradient of a function of tensors by central finite differences."""
    point, found = flat(parameters).detach(), []
    for i in range(len(point)):
        ends = []
        for sign in (1, -1):
            moved = point.clone()
            moved[i] += sign * step
            pieces = moved.split([parameter.numel() for parameter in parameters])
            shaped = [p.reshape(like.shape) for p, like in zip(pieces, parameters, strict=True)]
            ends.append(function(*shaped))
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(found)


HANDLERS = {
    "none is free": (lambda: free_bits(0.0), lambda kl: 0 * kl.sum()),
    "one dimension is free": (lambda: free_bits(0.75), lambda kl: (0.75 - kl).relu().sum()),
    "both are free": (lambda: free_bits(2.0), lambda kl: (2.0 - kl).relu().sum()),
    "the site is not free": (lambda: free_bits(1.25, per="site"), lambda kl: 0 * kl.sum()),
    "the site is free": (lambda: free_bits(2.0, per="site"), lambda kl: 2.0 - kl.sum()),
    "a capacity above": (lambda: capacity(2.0, strength=4.0), lambda kl: 8.0 - 5.0 * kl.sum()),
    "a capacity below": (lambda: capacity(0.5, strength=4.0), lambda kl: 3.0 * kl.sum() - 2.0),
}
"""Each handler with what it adds to the loss of a datum, by the mean KL of each dimension.

For a capacity that is 4 |KL - c| - KL.
"""

AT_ONCE = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}
OBJECTIVES = {
    "Trace_ELBO": infer.Trace_ELBO(),
    "particles at once": infer.Trace_ELBO(**AT_ONCE),
    "particles one by one": infer.Trace_ELBO(num_particles=3),
    "TraceMeanField_ELBO": infer.TraceMeanField_ELBO(),
    "mean field, particles at once": infer.TraceMeanField_ELBO(**AT_ONCE),
    "TraceGraph_ELBO": infer.TraceGraph_ELBO(),
    "TraceEnum_ELBO": infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "RenyiELBO": infer.RenyiELBO(alpha=0.5, **AT_ONCE),
    "IWAE": objectives.IWAE(3),
    "IWAE, stl": objectives.IWAE(3, gradient="stl"),
    "IWAE, dreg": objectives.IWAE(3, gradient="dreg"),
    "MIWAE": objectives.MIWAE(6, k=3),
}


def test_the_table_has_the_kl_that_the_cases_are_made_for():
    table = Table()
    low, high = mean_kl(table.loc, table.log_scale)
    assert 0 < low < 0.5 < 0.75 < high < 2.0
    assert 1.25 < low + high < 2.0


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize(("make", "added"), HANDLERS.values(), ids=HANDLERS)
@pytest.mark.parametrize("beta", [None, 0.5])
def test_value_and_gradient_are_those_of_the_formula(make, added, objective, beta):
    """At the same draws, what a handler adds is a function of the guide's parameters alone.

    The plate's scale stands before it, and so does a KL weight, inside or outside. Finite
    differences of step h err by h^2 f''' / 6, here 1e-8 at most.
    """
    vae, x = table_vae()
    pair = vae.model, vae.guide
    orders = [[make()]]
    if beta is not None:
        orders = [[make(), kl_weight(beta)], [kl_weight(beta), make()]]
        pair = kl_weight(beta).wrap(*pair)
    plain = loss_and_gradient(objective, pair, vae, x, size=SIZE)

    def wanted(loc, log_scale):
        return (1.0 if beta is None else beta) * SIZE * added(mean_kl(loc, log_scale))

    parameters = list(vae.parameters())
    for order in orders:
        programs = vae.model, vae.guide
        for handler in order:
            programs = handler.wrap(*programs)
        found = loss_and_gradient(objective, programs, vae, x, size=SIZE)
        assert found[0] - plain[0] == pytest.approx(wanted(*parameters).item(), abs=1e-9)
        torch.testing.assert_close(
            found[1] - plain[1], differences(wanted, parameters), rtol=0, atol=1e-6
        )


def between(kept):
    """Return a KL, exact in single precision, between those of all data and of those kept."""
    table = Table()
    means = [mean_kl(table.loc, table.log_scale, rows).sum().item() for rows in (kept, ...)]
    assert abs(means[0] - means[1]) > 0.1
    return round(16 * sum(means) / 2) / 16


KEPT = torch.tensor([True, False, True, True])
MASKED = {
    "one dimension is free": HANDLERS["one dimension is free"],
    "the site is free": HANDLERS["the site is free"],
    "the kept decide": (
        lambda: free_bits(between(KEPT), per="site"),
        lambda kl: (between(KEPT) - kl.sum()).relu(),
    ),
    "the kept decide on the capacity": (
        lambda: capacity(between(KEPT), strength=4.0),
        lambda kl: 4.0 * (kl.sum() - between(KEPT)).abs() - kl.sum(),
    ),
}


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.parametrize("kept", [KEPT, ~KEPT], ids=["three", "one"])
@pytest.mark.parametrize(("make", "added"), MASKED.values(), ids=MASKED)
def test_scales_and_masks_hold_for_what_stands_in_the_place_of_the_kl(make, added, kept, outside):
    """The mean is over the data that are kept; what is added counts once for each of them."""
    vae, x = table_vae()

    def around(programs):
        return [poutine.mask(poutine.scale(program, 3.0), kept) for program in programs]

    pair = around((vae.model, vae.guide))
    wrapped = make().wrap(vae.model, vae.guide)
    wrapped = around(wrapped) if outside else make().wrap(*pair)
    objective = infer.TraceMeanField_ELBO()
    plain, found = (loss_and_gradient(objective, each, vae, x) for each in (pair, wrapped))

    def wanted(loc, log_scale):
        return 3.0 * kept.sum() * added(mean_kl(loc, log_scale, kept))

    parameters = list(vae.parameters())
    assert found[0] - plain[0] == pytest.approx(wanted(*parameters).item(), abs=1e-9)
    torch.testing.assert_close(
        found[1] - plain[1], differences(wanted, parameters), rtol=0, atol=1e-6
    )


def two_sites(x):
    """Sample top, then low around it, for `Hierarchy`."""
    with data_plate(x):
        top = pyro.sample("top", dist.Normal(0.4 * x[:, :1], 0.6).to_event(1))
        pyro.sample("low", dist.Normal(0.3 * x[:, 1:] + 0.5 * top, 0.3).to_event(1))


def two_kls(world, x, top):
    """Return KL(q || p) of both sites and of each dimension of theirs, at draws of the first."""
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence
    over_top = divergence(normal(0.4 * x[:, :1], 0.6), normal(0.0, 1.0))
    q, p = normal(0.3 * x[:, 1:] + 0.5 * top, 0.3), normal(top @ world.lift.T, world.spread)
    return over_top, divergence(q, p)


@pytest.mark.parametrize("objective", [infer.Trace_ELBO(), infer.TraceMeanField_ELBO()])
def test_several_sites_each_have_their_own_bits_and_share_one_capacity(objective):
    world = Hierarchy()
    x = world.sample(5)

    def loss(handler=None):
        torch.manual_seed(1)
        pair = (world.model, two_sites)
        return objective.loss(*(pair if handler is None else handler.wrap(*pair)), x)

    torch.manual_seed(1)
    top = poutine.trace(two_sites).get_trace(x).nodes["top"]["value"]
    over_top, over_low = two_kls(world, x, top)
    means = torch.cat([over_top.mean(0), over_low.mean(0)])
    sites = torch.stack([over_top.mean(), over_low.sum(-1).mean()])
    nats, total = means.median().item(), sites.sum().item()
    wanted = {
        free_bits(nats): (nats - means).relu().sum(),
        free_bits(total, per="site"): (total - sites).relu().sum(),
        capacity(total / 2, strength=3.0): 3.0 * (total - total / 2) - total,
        capacity(total * 2, strength=3.0): 3.0 * (2 * total - total) - total,
        # The first site alone lies under this capacity, both together above it.
        capacity(sites.max().item(), strength=3.0): 3.0 * (total - sites.max()) - total,
    }
    for handler, added in wanted.items():
        # The settings are kept in single precision.
        assert loss(handler) - loss() == pytest.approx(5 * float(added), rel=1e-6)


def test_a_kl_without_closed_form_is_the_log_ratio_of_the_draw():
    """It then cancels draw by draw: with all of it free, the loss is distortion and 5 nats."""
    world = LinearGaussian()
    x = world.sample(ROWS)

    def prior():
        zero = torch.zeros(2, dtype=torch.float64)
        return pyro.sample("z", dist.StudentT(5.0, zero, 1.0).to_event(1))

    vae = pv.VAE(prior, world.likelihood, Table())
    for handler in (free_bits(50.0), free_bits(100.0, per="site")):
        torch.manual_seed(1)
        loss = infer.Trace_ELBO().loss(*handler.wrap(vae.model, vae.guide), x)
        torch.manual_seed(1)
        drawn = poutine.trace(vae.guide).get_trace(x)
        trace = poutine.trace(poutine.replay(vae.model, trace=drawn)).get_trace(x)
        distortion = -trace.nodes["x"]["fn"].log_prob(x).sum().item()
        assert loss == pytest.approx(distortion + ROWS * 100.0, rel=1e-12)


def linear(weights, biases):
    """Return one linear layer, as a network of the library."""
    net = pv.nets.MLP(1, len(biases))
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor(weights)[:, None])
        net.layers[0].bias.copy_(torch.tensor(biases))
    return net


BOTTOM_UP = {
    "free sites": (lambda: free_bits(50.0, per="site"), 100.0),
    "free dimensions": (lambda: free_bits(50.0), 100.0),
    "a capacity of no strength": (lambda: capacity(0.0, strength=0.0), 0.0),
}


@pytest.mark.parametrize(("make", "added"), BOTTOM_UP.values(), ids=BOTTOM_UP)
@pytest.mark.parametrize("objective", [infer.Trace_ELBO(), objectives.IWAE(1)])
def test_a_guide_that_samples_the_sites_in_another_order_has_the_same_kl(make, added, objective):
    """Where all KL is free, -E log p(x | z) is left, with z_1 ~ N(x, 1) and x ~ N(z_1, 1)."""
    raw = math.log(math.expm1(0.5)), math.log(math.expm1(1.0))
    normal = pv.guides.MeanFieldNormal
    prior = pv.priors.Hierarchical(
        pv.priors.StandardNormal(1), pv.priors.ConditionalNormal(linear([1.0, 0.0], [0.0, raw[0]]))
    )
    guide = pv.guides.Hierarchical(
        normal(linear([1.0, 0.0], [0.0, raw[1]])), normal(linear([0.8, 0.0], [0.0, raw[0]]))
    )
    vae = pv.VAE(prior, pv.likelihoods.Normal(linear([1.0], [0.0]), scale=1.0), guide)
    rows = 20_000
    torch.manual_seed(0)
    loss = objective.loss(*make().wrap(vae.model, vae.guide), torch.ones(rows, 1)) / rows - added
    # The variance of -log p(x | z) is that of half a chi-squared: 1/2.
    assert abs(loss - 0.5 * math.log(2 * math.pi) - 0.5) < 5 * (0.5 / rows) ** 0.5


@pytest.mark.parametrize(
    "alone", [poutine.mask(mask=False), poutine.scale(scale=0.5)], ids=["a mask", "a scale"]
)
@pytest.mark.parametrize("make", [lambda: free_bits(1.0), lambda: capacity(1.0, strength=1.0)])
def test_a_latent_that_one_program_masks_or_scales_is_refused(alone, make):
    vae, x = table_vae()
    with pytest.raises(ValueError, match="'z' is masked or scaled in only one"):
        infer.Trace_ELBO().loss(*make().wrap(alone(vae.model), vae.guide), x)


def test_a_site_of_full_covariance_has_bits_of_its_own():
    world = LinearGaussian()
    vae, x = world.vae(world.exact_posterior), world.sample(3)
    torch.manual_seed(1)
    plain = infer.Trace_ELBO().loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    wrapped = free_bits(50.0, per="site").wrap(vae.model, vae.guide)
    rate = pv.analytic_kl(vae, x).sum().item()
    assert infer.Trace_ELBO().loss(*wrapped, x) - plain == pytest.approx(150.0 - rate, rel=1e-9)


def test_a_discrete_site_has_its_kl_in_closed_form():
    def guide(x):
        with data_plate(x):
            probs = torch.full((), 0.7, dtype=torch.float64)
            pyro.sample("c", dist.Bernoulli(probs))

    def model(x):
        with data_plate(x):
            probs = torch.full((), 0.4, dtype=torch.float64)
            c = pyro.sample("c", dist.Bernoulli(probs))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])

    x, losses = random(3, 5, 1), []
    kl = 0.7 * math.log(0.7 / 0.4) + 0.3 * math.log(0.3 / 0.6)
    for nats in (0.0, 1.0):
        torch.manual_seed(1)
        losses.append(infer.Trace_ELBO().loss(*free_bits(nats).wrap(model, guide), x))
    assert losses[1] - losses[0] == pytest.approx(5 * (1.0 - kl), rel=1e-9)


class TwoBumps(nn.Module):
    """A mixture of two normals, which has no reparameterized draw and no closed-form KL."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
        self.loc = nn.Parameter(torch.tensor([-1.0, 0.7], dtype=torch.float64))

    def forward(self, x):
        bumps = dist.Normal(self.loc, 0.5)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=self.logits), bumps))


@pytest.mark.parametrize(
    "handler", [free_bits(4.0, per="site"), free_bits(4.0), capacity(4.0, strength=0.0)]
)
def test_score_function_gradients_are_right_where_nothing_is_reparameterized(handler):
    """The mean of 20,000 draws is the gradient of the exact distortion, within 4 standard errors.

    All the KL, of half a nat, is free: the distortion is all there is to descend.
    """
    x = torch.tensor([-0.5, 0.4, 1.5], dtype=torch.float64)

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    zero = torch.zeros((), dtype=torch.float64)
    vae = pv.VAE(lambda: pyro.sample("z", dist.Normal(zero, 1.0)), likelihood, TwoBumps())
    objective = infer.Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
    programs = handler.wrap(vae.model, vae.guide)
    draws = []
    for _ in range(200):
        vae.zero_grad()
        objective.loss_and_grads(*programs, x)
        draws.append(flat([parameter.grad for parameter in vae.parameters()]))
    guide = vae.posterior
    spread = 0.5 * ((x[:, None] - guide.loc) ** 2 + 0.5**2)
    exact = torch.autograd.grad((guide.logits.softmax(0) * spread).sum(), guide.parameters())
    error = torch.stack(draws).std(0) / math.sqrt(200)
    assert ((torch.stack(draws).mean(0) - flat(exact)).abs() < 4 * error).all()
    assert (error < 0.1 * flat(exact).abs().max()).all()


def test_a_draw_keeps_the_posterior_of_its_own_run():
    """Another run of the guide between a draw and the model changes nothing."""
    world = LinearGaussian()
    x, other = world.sample(4), world.sample(4)
    model, guide = free_bits(50.0).wrap(world.model, world.off_guide)
    drawn = poutine.trace(guide).get_trace(x)
    factors = []
    for between in (x, other):
        guide(between)
        poutine.trace(guide).get_trace(between)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x)
        factors.append(trace.nodes["z_free_bits"]["fn"].log_factor)
    kl = pv.analytic_kl((world.model, world.off_guide), x)
    assert not kl.allclose(pv.analytic_kl((world.model, world.off_guide), other))
    for factor in factors:
        torch.testing.assert_close(factor, kl - 100.0, rtol=0, atol=1e-12)


MEASURED = {
    "kl_weight": lambda: kl_weight(0.1),
    "free_bits": lambda: free_bits(2.0),
    "free_bits per site": lambda: free_bits(2.0, per="site"),
    "capacity": lambda: capacity(2.0, strength=10.0),
}


@pytest.mark.parametrize("make", MEASURED.values(), ids=MEASURED)
@pytest.mark.parametrize("measure", ["log_weights", "monte_carlo_kl", "analytic_kl", "evaluate"])
def test_measured_numbers_do_not_see_a_handler(make, measure):
    vae, x = table_vae()

    def numbers(model, guide):
        torch.manual_seed(1)
        found = getattr(pv, measure)((model, guide), x, particles=5)
        if measure == "evaluate":
            return torch.tensor([found.elbo.mean, found.iwae[5].mean])
        return getattr(found, "value", found)

    plain = numbers(vae.model, vae.guide)
    wrapped = numbers(*make().wrap(vae.model, vae.guide))
    torch.testing.assert_close(wrapped, plain, rtol=0, atol=0)


@pytest.mark.parametrize("make", MEASURED.values(), ids=MEASURED)
def test_the_terms_by_site_have_the_sites_of_the_programs_alone(make):
    vae, x = table_vae()
    terms = pv.log_weight_terms(make().wrap(vae.model, vae.guide), x, particles=2)
    assert [*terms.prior, *terms.likelihood, *terms.guide] == ["z", "x", "z"]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("loss", [infer.Trace_ELBO(), infer.TraceMeanField_ELBO(**AT_ONCE)])
def test_a_recorded_step_sees_every_setting_change(loss):
    """One graph takes the steps that Pyro takes, whatever the settings are by then."""
    first, second = free_bits(0.0), capacity(0.0, strength=1.0)
    weight, found = kl_weight(1.0), {}
    vae, x = table_vae()
    for term in (first, second):
        for compiled in (True, False):
            programs = weight.wrap(*term.wrap(vae.model, vae.guide))
            still = pyro.optim.Adam({"lr": 0.0})
            svi = pv.SVI(*programs, still, loss, compile=compiled)
            losses = []
            for i in range(6):
                first.nats, second.c, second.strength = 0.3 * i, 0.4 * i, 1.0 + i
                weight.beta = 1.0 + 0.5 * (i % 3)
                torch.manual_seed(i)
                losses.append(svi.step(x))
            found[compiled] = losses
            assert len(svi._graphs) == int(compiled)
        assert found[True] == pytest.approx(found[False], rel=1e-9)
        assert len(set(found[True])) == 6
