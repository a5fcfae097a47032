"""A VAE is two Pyro programs that share nothing with another VAE, and nothing with the process."""

import copy
import pickle
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from worlds import Hierarchy, LinearGaussian, random

import pyrovae as pv

OBJECTIVES = {"Trace_ELBO": infer.Trace_ELBO, "TraceMeanField_ELBO": infer.TraceMeanField_ELBO}
objectives = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def of_library_parts():
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 5, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 5, 4)),
    ).double()


def standard_prior():
    return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(2, 3)

    def forward(self, z, x=None):
        return pyro.sample("x", dist.Normal(self.loc(z), 1.0).to_event(1), obs=x)


class Encoder(PyroModule):
    """A Pyro module with a constrained parameter and a network within it."""

    def __init__(self):
        super().__init__()
        self.loc = PyroModule[nn.Linear](3, 2)
        self.scale = PyroParam(torch.ones(2).double(), constraint=constraints.positive)

    def forward(self, x):
        return pyro.sample("z", dist.Normal(self.loc(x), self.scale).to_event(1))


def of_function_module_and_pyro_module():
    return pv.VAE(standard_prior, Decoder(), Encoder()).double()


def of_pyro_modules_made_in_local_mode():
    with pyro.settings.context(module_local_params=True):
        return of_function_module_and_pyro_module()


VAES = {
    "library": of_library_parts,
    "mixed": of_function_module_and_pyro_module,
    "local mode": of_pyro_modules_made_in_local_mode,
}
vaes = pytest.mark.parametrize("make", VAES.values(), ids=VAES.keys())


def svi(vae, objective=infer.Trace_ELBO, lr=0.02):
    return infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": lr}), objective())


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


@vaes
@objectives
def test_pyros_svi_trains_every_parameter_and_the_store_stays_empty(make, objective):
    vae, x = make(), LinearGaussian().sample(50)
    before, trainer = state(vae), svi(vae, objective)
    losses = []
    for _ in range(100):
        losses.append(trainer.step(x))
        assert len(pyro.get_param_store()) == 0
    first, last = torch.tensor(losses[:10]), torch.tensor(losses[-10:])
    error = (first.var() / 10 + last.var() / 10).sqrt()
    assert first.mean() - last.mean() > 4 * error
    for name, _ in vae.named_parameters():
        assert not torch.equal(before[name], state(vae)[name]), f"{name} was not trained"


def trained_bound(objective, seed, x):
    torch.manual_seed(seed)
    vae = of_library_parts()
    trainer = svi(vae, objective)
    for _ in range(150):
        trainer.step(x)
    return pv.log_weights(vae, x, particles=100).mean()


def test_both_objectives_of_pyro_train_to_the_same_bound():
    x, seeds = LinearGaussian().sample(100), range(6)
    plain, mean_field = (
        torch.stack([trained_bound(objective, seed, x) for seed in seeds])
        for objective in OBJECTIVES.values()
    )
    # The same initial values seed by seed: 4 standard errors of the paired differences.
    difference = mean_field - plain
    assert difference.mean().abs() < 4 * difference.std() / len(seeds) ** 0.5
    untrained = pv.log_weights(programs(of_library_parts()), x, particles=100).mean()
    assert plain.min() - untrained > 4 * plain.std()


def programs(vae):
    return vae.model, vae.guide


def test_gradients_of_both_objectives_agree_in_expectation():
    vae, x, draws = of_library_parts(), LinearGaussian().sample(8), 600

    def gradients(objective):
        rows = []
        for _ in range(draws):
            vae.zero_grad()
            objective().loss_and_grads(vae.model, vae.guide, x)
            rows.append(torch.cat([p.grad.flatten() for p in vae.parameters()]))
        return torch.stack(rows)

    plain, mean_field = (gradients(objective) for objective in OBJECTIVES.values())
    error = ((plain.var(0) + mean_field.var(0)) / draws).sqrt()
    # 4.5 standard errors for the maximum over all parameters; the floor is rounding, where a
    # gradient does not depend on the draw.
    assert ((plain.mean(0) - mean_field.mean(0)).abs() < 4.5 * error + 1e-9).all()
    assert (plain.mean(0).abs() > 4.5 * error).any()


@vaes
def test_training_one_vae_leaves_another_of_the_same_names_as_it_was(make):
    one, other, x = make(), make(), random(0, 5, 3)
    svi(one).step(x)
    before = state(other)
    for _ in range(3):
        svi(one).step(x)
    assert same(state(other), before)
    moved = state(one)
    svi(other).step(x)
    assert same(state(one), moved)
    assert not same(state(other), before)


def test_frozen_parameters_stay():
    vae, x = of_library_parts(), random(0, 5, 3)
    vae.likelihood.requires_grad_(requires_grad=False)
    before, trainer = state(vae), svi(vae)
    for _ in range(3):
        trainer.step(x)
    assert same(state(vae.likelihood), {k[11:]: v for k, v in before.items() if k[:5] == "likel"})
    assert not same(state(vae), before)


@vaes
def test_only_what_is_trained_is_announced(make):
    vae, x = make(), random(0, 5, 3)
    vae.likelihood.requires_grad_(requires_grad=False)
    found = []
    for program in programs(vae):
        trace = poutine.trace(program, param_only=True).get_trace(x)
        found += [trace.nodes[name]["value"].unconstrained() for name in trace.param_nodes]
    trained = {id(p) for p in vae.parameters() if p.requires_grad}
    assert {id(parameter) for parameter in found} == trained


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda vae: pickle.loads(pickle.dumps(vae))}


@vaes
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_equal_and_trains_apart(make, steps, duplicate):
    vae, x = make(), random(0, 5, 3)
    trainer = svi(vae)
    for _ in range(steps):
        trainer.step(x)
    twin, before = duplicate(vae), state(vae)
    assert same(state(twin), before)
    svi(twin).step(x)
    assert same(state(vae), before)
    assert not same(state(twin), before)


IMPORT = """
import random, warnings, numpy, torch, pyro
def settings():
    return {
        "dtype": torch.get_default_dtype(),
        "pyro": pyro.settings.get(),
        "validation": torch.distributions.Distribution._validate_args,
        "warnings": list(warnings.filters),
        "torch's generator": torch.get_rng_state().tolist(),
        "python's generator": random.getstate(),
        "numpy's generator": str(numpy.random.get_state()),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "store": list(pyro.get_param_store()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
before = settings()
import pyrovae
from pyrovae import bounds, data, guides, handlers, kl, likelihoods, nets, parts, priors
from pyrovae import vae, weights
after = settings()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
"""


def test_importing_the_library_changes_no_setting():
    found = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_using_a_vae_changes_no_setting():
    before, vae = pyro.settings.get(), of_library_parts()
    svi(vae).step(random(0, 5, 3))
    with pytest.raises(ValueError, match="MLP"):
        vae.guide(random(0, 5, 7))
    assert pyro.settings.get() == before


def test_encode_is_the_posterior_and_decode_the_likelihood():
    world = LinearGaussian()
    x, z, vae = world.sample(5), random(0, 5, 2), world.vae(world.exact_posterior)
    torch.testing.assert_close(vae.encode(x).mean, world.posterior_mean(x))
    torch.testing.assert_close(vae.encode(x).covariance_matrix, world.covariance.expand(5, 2, 2))
    decoded = vae.decode(z)
    torch.testing.assert_close(decoded.mean, z @ world.weight.T + world.mean)
    assert (decoded.batch_shape, decoded.event_shape) == ((5,), (3,))


def of_two_latents():
    world = Hierarchy()

    def prior():
        top = pyro.sample("top", dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))
        return pyro.sample("low", dist.Normal(top @ world.lift.T, 0.7).to_event(1))

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(z @ world.weight.T, 0.5).to_event(1), obs=x)

    def posterior(x):
        pyro.sample("top", world.given([0], [3, 4, 5], x))
        pyro.sample("low", world.given([1, 2], [3, 4, 5], x))

    return world, pv.VAE(prior, likelihood, posterior)


def test_a_guide_of_several_sites_is_asked_for_one_by_name():
    world, vae = of_two_latents()
    x = world.sample(4)
    wanted = world.given([1, 2], [3, 4, 5], x).mean
    torch.testing.assert_close(vae.encode(x, site="low").mean, wanted)
    with pytest.raises(ValueError, match=r"sites \['top', 'low'\]; got site=None: name one"):
        vae.encode(x)
    with pytest.raises(ValueError, match=r"sites \['top', 'low'\]; got site='other'"):
        vae.encode(x, site="other")
    assert vae.reconstruct(x).shape == (4, 3)


def test_reconstruct_decodes_a_draw_of_the_posterior():
    world = LinearGaussian()
    x, vae = world.sample(5), world.vae()
    torch.manual_seed(1)
    z = vae.guide(x)
    torch.manual_seed(1)
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(z).mean)


@pytest.mark.parametrize("draw", [lambda v, n: v.sample(n), lambda v, n: v.model(None, size=n)])
def test_draws_have_the_mean_and_covariance_of_the_evidence(draw):
    world, n = LinearGaussian(), 20_000
    x = draw(world.vae(), n)
    wanted = world.marginal.covariance_matrix
    variance = wanted.diagonal()
    assert x.shape == (n, 3)
    assert ((x.mean(0) - world.mean).abs() < 4 * (variance / n).sqrt()).all()
    # The standard error of a normal's covariance is sqrt((s_ii s_jj + s_ij^2) / n).
    error = ((variance.outer(variance) + wanted.square()) / n).sqrt()
    assert ((x.T.cov() - wanted).abs() < 4 * error).all()


def test_drawing_and_reconstructing_keep_no_graph():
    vae, x = of_library_parts(), random(0, 5, 3)
    assert not vae.sample(2).requires_grad
    assert not vae.reconstruct(x).requires_grad
    assert vae.predictive(7).mean.shape == (7, 3)


def test_reconstruct_draws_a_class_that_the_guide_omits_from_its_posterior():
    """Two classes are summed out of the prior, and x ~ N(m[a, b], 1) whatever z is."""
    means = torch.tensor([[-2.0, -1.0, 0.5], [-0.5, 0.0, 1.5]]).double()
    enumerate_, n = {"enumerate": "parallel"}, 20_000

    def prior():
        a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.3).double()), infer=enumerate_).long()
        probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]).double()
        b = pyro.sample("b", dist.Categorical(probs[a]), infer=enumerate_)
        standard_prior()
        return means[a, b][..., None]

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(x.expand(*x.shape[:-1], 2), 1.0).to_event(1))

    x = torch.full((n, 1), 0.2).double()
    found = pv.VAE(prior, likelihood, guide).reconstruct(x)
    assert found.shape == (n, 1)
    p = torch.tensor([[0.7 * 0.2, 0.7 * 0.5, 0.7 * 0.3], [0.3 * 0.6, 0.3 * 0.2, 0.3 * 0.2]])
    p = (p.double().log() - (means - 0.2).square() / 2).flatten().softmax(0)
    shares = (found == means.flatten()).double().mean(0)
    assert shares.sum() == 1
    assert ((shares - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all()


def test_what_is_drawn_is_of_evaluation_mode():
    vae = of_library_parts()
    norm = nn.BatchNorm1d(2).double()
    vae.likelihood.net = pv.nets.Folded(nn.Sequential(norm, nn.Dropout(0.5), vae.likelihood.net))
    x, before = random(0, 6, 3), norm.running_mean.clone()

    def means():
        torch.manual_seed(1)
        return vae.reconstruct(x), vae.predictive(4).mean, vae.sample(1)

    in_training = means()
    assert all(module.training for module in vae.modules())
    assert torch.equal(norm.running_mean, before)
    vae.eval()
    torch.testing.assert_close(in_training, means(), rtol=0, atol=0)


def test_context_reaches_prior_likelihood_and_guide():
    seen = {}

    def prior(label, weight):
        seen["prior"] = (label, weight)
        return standard_prior()

    def likelihood(z, x, label, weight):
        seen["likelihood"] = (label, weight)
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, label, weight):
        seen["guide"] = (label, weight)
        return pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    vae, x, context = pv.VAE(prior, likelihood, guide), random(0, 5, 2), (random(1, 5), random(2))
    pv.log_weights(vae, x, *context, particles=2)
    for label, weight in seen.values():
        torch.testing.assert_close((label, weight), context, rtol=0, atol=0)
    assert seen.keys() == {"prior", "likelihood", "guide"}
    seen.clear()
    vae.reconstruct(x, *context)
    assert seen.keys() == {"prior", "likelihood", "guide"}
    seen.clear()
    vae.sample(5, *context)
    assert seen.keys() == {"prior", "likelihood"}


def test_a_subsample_is_scaled_to_the_size_of_the_data():
    vae, x = of_library_parts(), random(0, 5, 3)
    for program in (vae.model, vae.guide):
        trace = poutine.trace(program).get_trace(x, size=50)
        assert float(trace.nodes["z"]["scale"]) == 10.0
    torch.manual_seed(1)
    whole = infer.Trace_ELBO().loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    scaled = infer.Trace_ELBO().loss(vae.model, vae.guide, x, size=50)
    assert scaled == pytest.approx(10 * whole, rel=1e-12)


def test_pyros_predictive_and_handlers_work_on_the_programs():
    world = LinearGaussian()
    x, vae = world.sample(5), world.vae()
    drawn = infer.Predictive(vae.model, guide=vae.guide, num_samples=6)(x)
    assert drawn["z"].shape == (6, 5, 2)
    z = random(0, 5, 2)
    trace = poutine.trace(poutine.condition(vae.model, data={"z": z})).get_trace(x)
    wanted = dist.Normal(z @ world.weight.T + world.mean, world.noise).log_prob(x)
    torch.testing.assert_close(trace.nodes["x"]["fn"].log_prob(x), wanted.sum(-1))


@pytest.mark.parametrize(
    ("x", "size", "met"),
    [
        (None, None, "neither"),
        (None, 0, "size=0"),
        (None, -1, "size=-1"),
        (torch.zeros(0, 3).double(), None, "no data"),
    ],
)
def test_programs_without_data_or_size_are_refused(x, size, met):
    with pytest.raises(ValueError, match=f"x with at least one row, or size=n; got {met}"):
        LinearGaussian().vae().model(x, size=size)


@pytest.mark.parametrize("size", [0, 4])
def test_a_size_below_the_number_of_rows_is_refused(size):
    vae = LinearGaussian().vae()
    with pytest.raises(ValueError, match=f"size={size}"):
        vae.model(torch.zeros(5, 3).double(), size=size)


def test_a_likelihood_without_the_site_x_is_named():
    def likelihood(z, x=None):
        return pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x)

    vae = pv.VAE(standard_prior, likelihood, LinearGaussian().off_posterior)
    for use in (lambda: vae.decode(random(0, 5, 2)), lambda: vae.predictive(3)):
        with pytest.raises(ValueError, match=r"\['.*y'\] but none named 'x'.*obs=x"):
            use()


@pytest.mark.slow
def test_pyros_mcmc_samples_the_posterior_of_the_model():
    """The mean of each latent is that of the exact posterior within 5 standard errors."""
    world = LinearGaussian()
    x = world.sample(2)
    mcmc = infer.MCMC(
        infer.NUTS(world.vae().model), num_samples=300, warmup_steps=150, disable_progbar=True
    )
    mcmc.run(x)
    drawn = mcmc.get_samples()["z"]
    size = pyro.ops.stats.effective_sample_size(drawn.unsqueeze(0), chain_dim=0, sample_dim=1)
    error = world.covariance.diagonal().sqrt() / size.sqrt()
    assert ((drawn.mean(0) - world.posterior_mean(x)).abs() < 5 * error).all()


class TestOfPerceptrons:
    def test_is_the_composition_that_its_docstring_names(self):
        torch.manual_seed(0)
        made = pv.mlp_vae(5, latents=2, hidden=3)
        torch.manual_seed(0)
        composed = pv.VAE(
            prior=pv.priors.StandardNormal(2),
            likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 3, 5)),
            guide=pv.guides.MeanFieldNormal(pv.nets.MLP(5, 3, 2 * 2)),
        )
        assert made.config == composed.config
        assert same(state(made), state(composed))

    def test_mirrors_several_hidden_layers(self):
        vae = pv.mlp_vae(5, latents=2, hidden=(4, 3))
        assert vae.posterior.net.sizes == (5, 4, 3, 4)
        assert vae.likelihood.net.sizes == (2, 3, 4, 5)

    def test_takes_what_makes_a_likelihood_of_a_network(self):
        vae = pv.mlp_vae(5, 2, likelihood=lambda net: pv.likelihoods.Normal(net, scale=0.5))
        x = torch.randn(4, 5)
        assert svi(vae).step(x) > 0
        assert torch.equal(vae.decode(torch.zeros(1, 2)).stddev, torch.full((1, 5), 0.5))

    @pytest.mark.parametrize("wrong", [{"latents": 0}, {"features": 0}, {"hidden": 0}])
    def test_refuses_widths_below_one(self, wrong):
        with pytest.raises(ValueError, match="at least one|1 or more"):
            pv.mlp_vae(**{"features": 5, "latents": 2, **wrong})
