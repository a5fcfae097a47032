"""Several latents in one program: ladders from either end, and joint priors, against the truth."""

import pyro
import pytest
import torch
from exact_parts import OffClasses, WithinClass, exactly, linear, noisy
from pyro import poutine
from torch import distributions as td
from torch import nn
from worlds import Hierarchy, Mixture, random

import pyrovae as pv
from pyrovae import guides, parts, priors
from pyrovae.nets import MLP, unconstrained
from pyrovae.weights.bounds import mean_estimate
from pyrovae.weights.log_weights import log_weight_terms, log_weights


def prior_of(world):
    """Return the prior of a `Hierarchy` made of the library's parts."""
    spread = torch.full((2,), world.spread, dtype=torch.float64)
    low = linear(world.lift, torch.zeros(2, dtype=torch.float64), spread)
    return priors.Hierarchical(priors.StandardNormal(1), priors.ConditionalNormal(low)).double()


def full_rank(world, target, known):
    """Return the exact conditional of some coordinates of (top, low, x) as a guide."""
    unit = torch.eye(len(known), dtype=torch.float64)
    at_zero = world.given(target, known, torch.zeros(len(known), dtype=torch.float64))
    gain = world.given(target, known, unit).mean.T
    rows, columns = torch.tril_indices(len(target), len(target))
    factor = at_zero.scale_tril[rows, columns]
    raw = torch.where(rows == columns, unconstrained(factor.abs()), factor)
    net = nn.Linear(len(known), len(target) + len(raw)).double()
    with torch.no_grad():
        net.weight.zero_()
        net.weight[: len(target)] = gain
        net.bias.copy_(torch.cat([torch.zeros(len(target), dtype=torch.float64), raw]))
    return guides.FullRankNormal(net)


def bottom_up_vae(world):
    guide = guides.Hierarchical(full_rank(world, [1, 2], [3, 4, 5]), full_rank(world, [0], [1, 2]))
    return pv.VAE(prior_of(world), noisy(exactly(world.weight), world.noise), guide)


def orthogonal_world():
    """Return a `Hierarchy` whose x tells the two low latents apart: W has orthogonal columns."""
    world = Hierarchy()
    world.weight = torch.linalg.qr(world.weight).Q * torch.tensor([1.3, 0.6]).double()
    maps = torch.zeros(6, 6, dtype=torch.float64)
    maps[0, 0] = 1.0
    maps[1:3, :1] = world.lift
    maps[1:3, 1:3] = world.spread * torch.eye(2, dtype=torch.float64)
    maps[3:] = world.weight @ maps[1:3]
    maps[3:, 3:] = world.noise * torch.eye(3, dtype=torch.float64)
    world.covariance = maps @ maps.T
    return world


def ladder_vae(world):
    """Return a VAE whose ladder has the least-squares estimate at z_1, and p(z_2 | x) on top.

    With orthogonal columns the likelihood of z_1 is a product of two normals about the estimate,
    so that prior times estimate is the exact posterior.
    """
    prior = prior_of(world)
    squares = world.weight.square().sum(0)
    zero = torch.zeros(2, dtype=torch.float64)
    low = linear(world.weight.T / squares.unsqueeze(-1), zero, world.noise * squares.rsqrt())
    known = [3, 4, 5]
    top = world.given([0], known, torch.eye(3, dtype=torch.float64))
    top = linear(top.mean.T, zero[:1], top.scale_tril[0, 0])
    identity = torch.eye(3, dtype=torch.float64)
    guide = guides.Ladder(
        prior, upward=[exactly(identity), exactly(identity)], estimates=[low, top]
    )
    return pv.VAE(prior, noisy(exactly(world.weight), world.noise), guide)


EXACT = {
    "bottom-up": lambda: (Hierarchy(), bottom_up_vae),
    "ladder": lambda: (orthogonal_world(), ladder_vae),
}


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())
def test_with_the_exact_posterior_every_log_weight_is_the_evidence(make):
    world, vae_of = make()
    x, vae = world.sample(5), vae_of(world)
    log_w = log_weights(vae, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())
def test_the_rate_is_the_divergence_of_the_ladder_from_its_prior(make):
    world, vae_of = make()
    x, vae = world.sample(3), vae_of(world)
    found = pv.monte_carlo_kl(vae, x, particles=4000)
    assert ((found.value - world.posterior_kl(x)).abs() < 4 * found.standard_error).all()


def test_closed_forms_add_up_from_the_top_down_and_are_refused_from_the_bottom_up():
    world = orthogonal_world()
    x, vae = world.sample(3), ladder_vae(world)
    rates = pv.kl.closed_form_rates(vae, x, particles=4000)
    found = mean_estimate(rates)
    assert ((found.value - world.posterior_kl(x)).abs() < 4 * found.standard_error).all()
    upwards = bottom_up_vae(world)
    with pytest.raises(ValueError, match="in the same order"):
        pv.analytic_kl(upwards, x)


def three_levels(ladder):
    """Return a VAE of three levels with untrained networks, and the networks themselves."""
    nets = {"z_2": MLP(1, 4, 2 * 2), "z_1": MLP(2, 4, 2 * 3), "x": MLP(3, 4, 2)}
    prior = priors.Hierarchical(
        priors.StandardNormal(1),
        priors.ConditionalNormal(nets["z_2"]),
        priors.ConditionalNormal(nets["z_1"]),
    )
    widths = (3, 2, 1)
    if ladder:
        up = nets["up"] = [MLP(2, 5), MLP(5, 4), MLP(4, 3)]
        estimates = nets["estimates"] = [MLP(5, 6), MLP(4, 4), MLP(3, 2)]
        guide = guides.Ladder(prior, upward=up, estimates=estimates)
    else:
        below = (2, *widths[:-1])
        nets["q"] = [MLP(b, 4, 2 * w) for b, w in zip(below, widths, strict=True)]
        guide = guides.Hierarchical(*map(guides.MeanFieldNormal, nets["q"]))
    return pv.VAE(prior, pv.likelihoods.Normal(nets["x"], scale=0.5), guide).double(), nets


def normal(parameters):
    loc, raw = parameters.chunk(2, -1)
    return td.Normal(loc, nn.functional.softplus(raw) + 1e-5)


def bottom_up_by_hand(nets, x, z):
    below = [x, z["z_1"], z["z_2"]]
    pairs = zip(nets["q"], below, strict=True)
    return {f"z_{i}": normal(net(h)) for i, (net, h) in enumerate(pairs, start=1)}


def ladder_by_hand(nets, x, z):
    first = nets["up"][0](x)
    second = nets["up"][1](first)
    third = nets["up"][2](second)
    pairs = zip(nets["estimates"], (first, second, third), strict=True)
    hats = [normal(net(d)) for net, d in pairs]
    found = {"z_3": hats[2]}
    for name, hat, above in (("z_2", hats[1], z["z_3"]), ("z_1", hats[0], z["z_2"])):
        p = normal(nets[name](above))
        precision = hat.scale**-2 + p.scale**-2
        loc = (hat.loc * hat.scale**-2 + p.loc * p.scale**-2) / precision
        found[name] = td.Normal(loc, precision**-0.5)
    return found


@pytest.mark.parametrize(
    ("ladder", "by_hand"), [(False, bottom_up_by_hand), (True, ladder_by_hand)]
)
def test_the_log_weight_is_the_sum_of_the_densities_of_the_sites(ladder, by_hand):
    vae, nets = three_levels(ladder)
    x, drawn = random(3, 5, 2), {}

    def guide(x):
        with poutine.trace() as tape:
            vae.guide(x)
        drawn.update({f"z_{i}": tape.trace.nodes[f"z_{i}"]["value"] for i in (1, 2, 3)})

    terms = log_weight_terms((vae.model, guide), x, particles=4)
    assert [z.shape for _, z in sorted(drawn.items())] == [(4, 5, 3), (4, 5, 2), (4, 5, 1)]
    p = {
        "z_3": td.Normal(torch.zeros(1).double(), 1.0),
        "z_2": normal(nets["z_2"](drawn["z_3"])),
        "z_1": normal(nets["z_1"](drawn["z_2"])),
    }
    q = by_hand(nets, x.expand(4, 5, 2), drawn)
    log_x = td.Normal(nets["x"](drawn["z_1"]), 0.5).log_prob(x).sum(-1)
    total = log_x.clone()
    for name, z in drawn.items():
        torch.testing.assert_close(terms.prior[name], p[name].log_prob(z).sum(-1))
        torch.testing.assert_close(terms.guide[name], q[name].log_prob(z).sum(-1))
        total += (p[name].log_prob(z) - q[name].log_prob(z)).sum(-1)
    torch.testing.assert_close(terms.log_w, total)


def test_the_ladder_trains_the_networks_that_it_shares_once():
    vae, _ = three_levels(ladder=True)
    assert vae.posterior.prior is vae.prior
    before = {name: p.detach().clone() for name, p in vae.prior.named_parameters()}
    optim = pyro.optim.SGD({"lr": 0.1})
    svi = pyro.infer.SVI(vae.model, vae.guide, optim, pyro.infer.Trace_ELBO())
    x = random(3, 5, 2)
    torch.manual_seed(1)
    loss = pyro.infer.Trace_ELBO().differentiable_loss(vae.model, vae.guide, x)
    wanted = dict(
        zip(before, torch.autograd.grad(loss, list(vae.prior.parameters())), strict=True)
    )
    torch.manual_seed(1)
    svi.step(x)
    for name, parameter in vae.prior.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * wanted[name])


def test_context_reaches_every_level():
    label = torch.randn(5, 2)
    prior = priors.Hierarchical(
        priors.ConditionalNormal(MLP(2, 2)), priors.ConditionalNormal(MLP(1 + 2, 4))
    )
    ladder = guides.Ladder(
        prior, upward=[MLP(3 + 2, 4), MLP(4, 4)], estimates=[MLP(4, 4), MLP(4, 2)]
    )
    upwards = guides.Hierarchical(
        guides.MeanFieldNormal(MLP(3 + 2, 4)), guides.MeanFieldNormal(MLP(2 + 2, 2))
    )
    for guide in (ladder, upwards):
        vae = pv.VAE(prior, pv.likelihoods.Normal(MLP(2 + 2, 3)), guide)
        log_w = log_weights(vae, torch.randn(5, 3), label, particles=2)
        terms = torch.autograd.grad(log_w.sum(), list(vae.parameters()))
        assert all((term != 0).any() for term in terms)
    with poutine.trace() as tape, pyro.plate("data", 5):
        prior(label)
    z_2, z_1 = (tape.trace.nodes[name] for name in ("z_2", "z_1"))
    torch.testing.assert_close(z_2["fn"].mean, prior.levels[0].net(label)[:, :1])
    given = torch.cat([z_2["value"], label], -1)
    torch.testing.assert_close(z_1["fn"].mean, prior.levels[1].net(given)[:, :2])


def cluster_prior(world):
    centers, spread = world.centers.T, torch.full((2,), world.spread, dtype=torch.float64)
    classes = priors.OneHot(3, learned=True).double()
    classes.logits.data = world.weights.log()
    zero = torch.zeros(2, dtype=torch.float64)
    return classes, priors.ConditionalNormal(linear(centers, zero, spread))


def test_a_class_on_top_of_a_ladder_is_summed_out_around_the_draws():
    world = Mixture(continuous=True)
    x, seen = world.sample(5), {}
    broad = linear(
        0.8 * torch.eye(2).double(), torch.zeros(2).double(), torch.tensor([1.1] * 2).double()
    )
    vae = pv.VAE(
        priors.Hierarchical(*cluster_prior(world)),
        noisy(nn.Identity(), world.noise),
        guides.Hierarchical(guides.MeanFieldNormal(broad)),
    )

    def guide(x):
        seen["z"] = vae.guide(x)

    log_w = log_weights((vae.model, guide), x, particles=7)
    log_q = td.Normal(0.8 * x, 1.1).log_prob(seen["z"]).sum(-1)
    torch.testing.assert_close(log_w, world.log_joint_with(x, seen["z"]) - log_q)
    # The objective of Pyro sums over the same classes.
    torch.manual_seed(1)
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    wanted = log_weights(vae, x, particles=1).detach()
    assert loss == pytest.approx(-float(wanted.sum()), rel=1e-9)


@pytest.mark.parametrize("kind", ["OneHot", "Categorical"])
def test_a_joint_of_class_and_position_is_summed_exactly(kind):
    world = Mixture(continuous=True)
    x = world.sample(5)
    classes = getattr(priors, kind)(3, learned=True).double()
    classes.logits.data = world.weights.log()
    position = torch.cat([torch.zeros(2, 3), torch.eye(2)], 1).double()
    vae = pv.VAE(
        priors.Joint(c=classes, z=cluster_prior(world)[1]),
        noisy(exactly(position), world.noise),
        guides.Joint(
            c=getattr(guides, kind)(OffClasses(world)),
            z=guides.MeanFieldNormal(WithinClass(world)),
        ),
    )
    log_w = log_weights(vae, x, particles=4)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(4, -1), rtol=0, atol=1e-9)
    # With z exact given the class, the ELBO is an explicit sum over classes, whatever is drawn.
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(vae.model, vae.guide, x)
    assert loss == pytest.approx(-float(world.sampled_elbo(x).sum()), rel=1e-9)


def test_the_parts_of_a_joint_prior_see_those_before_them_and_stand_in_order():
    prior = priors.Joint(
        a=priors.StandardNormal(1),
        b=priors.ConditionalNormal(MLP(1, 4)),
        c=priors.ConditionalNormal(MLP(1 + 2, 6)),
    )
    with poutine.trace() as tape, pyro.plate("data", 5):
        z = prior()
    a, b, c = (tape.trace.nodes[name]["value"] for name in "abc")
    torch.testing.assert_close(z, torch.cat([a, b, c], -1), rtol=0, atol=0)
    wanted = prior.parts[2].net(torch.cat([a, b], -1))[:, :3]
    torch.testing.assert_close(tape.trace.nodes["c"]["fn"].mean, wanted)


def test_parts_with_several_sites_keep_their_names_apart():
    ladder = priors.Hierarchical(priors.StandardNormal(1), priors.ConditionalNormal(MLP(1, 2)))
    nested = priors.Joint(h=ladder, j=priors.Joint(u=priors.StandardNormal(1)))
    with poutine.trace() as tape, pyro.plate("data", 2):
        nested()
    assert list(tape.trace.nodes) == ["data", "h_z_2", "h_z_1", "j_u"]


def test_a_class_summed_out_keeps_its_axis_in_the_concatenation():
    prior = priors.Joint(c=priors.OneHot(3), z=priors.StandardNormal(2))
    enumerated = poutine.enum(prior, first_available_dim=-3)
    with pyro.plate("particles", 4, dim=-2), pyro.plate("data", 5, dim=-1):
        z = enumerated()
    assert z.shape == (3, 4, 5, 5)
    torch.testing.assert_close(z[..., :3], torch.eye(3)[:, None, None].expand(3, 4, 5, 3))


@pytest.mark.parametrize("kind", ["Hierarchical", "Joint"])
def test_a_record_of_the_parts_makes_them_again(kind):
    vae, _ = three_levels(ladder=False)
    part = vae.prior if kind == "Hierarchical" else priors.Joint(b=vae.prior, a=priors.OneHot(2))
    again = parts.build(part.config)
    again.load_state_dict(part.state_dict())
    sites = []
    for prior in (part.float(), again):
        torch.manual_seed(1)
        with poutine.trace() as tape, pyro.plate("data", 3):
            prior()
        sites.append({name: site["value"] for name, site in tape.trace.iter_stochastic_nodes()})
    assert list(sites[0]) == list(sites[1])
    for name, value in sites[0].items():
        torch.testing.assert_close(sites[1][name], value, rtol=0, atol=0)


def conditional_normal():
    return priors.ConditionalNormal(MLP(1, 4))


PRIOR = priors.Hierarchical(priors.StandardNormal(1), conditional_normal())
NETS = {"upward": [MLP(3, 4), MLP(4, 4)], "estimates": [MLP(4, 4), MLP(4, 2)]}
BAD = {
    "no level": (lambda: priors.Hierarchical(), "Hierarchical.*at least one part; got none"),
    "no level in the guide": (lambda: guides.Hierarchical(), "Hierarchical.*got none"),
    "no part": (lambda: priors.Joint(), "Joint needs at least one part; got none"),
    "a function": (
        lambda: guides.Joint(z=print),
        "Joint takes torch modules as parts; got builtin_",
    ),
    "another prior": (
        lambda: guides.Ladder(priors.StandardNormal(1), **NETS),
        "Ladder takes a priors.Hierarchical as its prior; got StandardNormal",
    ),
    "too few networks": (
        lambda: guides.Ladder(PRIOR, **NETS | {"upward": [MLP(3, 4)]}),
        "prior has 2 levels; got 1 upward networks and 2 estimates: give one of each",
    ),
    "a level that is not normal": (
        lambda: guides.Ladder(priors.Hierarchical(PRIOR, priors.OneHot(3)), **NETS),
        "site 'z_1' needs a ConditionalNormal in the prior; got OneHot",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_parts_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_odd_network_is_refused():
    prior = priors.ConditionalNormal(MLP(1, 3))
    with pytest.raises(ValueError, match="ConditionalNormal.*even.*2 D.*got 3"):
        prior.distribution(torch.zeros(2, 1))


def test_a_network_of_the_wrong_width_is_refused_where_it_is_met():
    prior = priors.Hierarchical(priors.StandardNormal(2), conditional_normal())
    with pytest.raises(ValueError, match=r"MLP expected inputs \[\.\.\., 1\]; got \(5, 2\)"):
        pv.VAE(prior, print, print).sample(5)
    guide = guides.Ladder(PRIOR, **NETS | {"estimates": [MLP(4, 6), MLP(4, 2)]})
    vae = pv.VAE(PRIOR, pv.likelihoods.Normal(MLP(2, 3)), guide)
    message = "site 'z_1' has 2 dimensions in the prior; got an estimate of 3: give.* 4 outputs"
    with pytest.raises(ValueError, match=message):
        vae.guide(torch.zeros(5, 3))
