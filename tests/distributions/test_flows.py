"""Flows: densities against integrals, draws and Jacobians; zuko's import and what it leaves."""

import copy
import math
import pickle
import subprocess
import sys
import textwrap

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from densities import FALSE_ALARM
from fresh import printed_by
from pyro.infer import Trace_ELBO
from torch import nn
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae import guides, priors
from pyrovae.distributions.flows import AutoregressiveFlow
from pyrovae.nets import MLP
from pyrovae.weights.traces import trace_pair

KINDS = ["spline", "affine"]
FEATURES = 3


def far_from_start(module, seed=0):
    """Move every parameter, so that no map is near the identity, and go to float64."""
    module.double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.15 * random(1000 * seed + i, *parameter.shape))
    return module


def prior(kind, latents):
    return far_from_start(priors.Flow(latents, kind=kind, transforms=2, hidden=16))


def guide(kind, latents, net=None):
    net = net or nn.Identity()
    flow = guides.Flow(net, latents, features=FEATURES, kind=kind, transforms=2, hidden=16)
    return far_from_start(flow)


DENSITIES = {
    "prior": lambda kind, latents: prior(kind, latents).distribution(),
    "guide": lambda kind, latents: guide(kind, latents).distribution(random(1, FEATURES)),
}
every_density = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())
every_kind = pytest.mark.parametrize("kind", KINDS)


@torch.no_grad()
def cells(q, latents, points=40):
    """Return the probabilities of cells that hold what q draws, by midpoints, and their edges."""
    n = {1: 60, 2: 10}[latents]
    draws = q.sample((4000,))
    middle, reach = draws.mean(0), 1.5 * (draws - draws.mean(0)).abs().max(0).values
    unit = (2 * torch.arange(n * points).double() + 1) / (n * points) - 1
    axes = [middle[i] + reach[i] * unit for i in range(latents)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    mass = q.log_prob(grid).exp() * (2 * reach / (n * points)).prod()
    probabilities = mass.reshape([n, points] * latents).sum(tuple(range(1, 2 * latents, 2)))
    edges = [middle[i] + reach[i] * torch.linspace(-1, 1, n + 1).double() for i in range(latents)]
    return probabilities, edges


@every_kind
@every_density
@pytest.mark.parametrize("latents", [1, 2])
def test_densities_integrate_to_one_and_draws_fall_where_they_say(density, kind, latents):
    """On cells around the draws, since a spline's bumps may be narrow."""
    q = density(kind, latents)
    probabilities, edges = cells(q, latents)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-3)
    n = 20_000
    counts = torch.histogramdd(q.sample((n,)), edges).hist.flatten()
    expected = n * probabilities.flatten()
    often = expected > 10
    observed = [*counts[often].tolist(), n - float(counts[often].sum())]
    wanted = [*expected[often].tolist(), n - float(expected[often].sum())]
    assert len(wanted) > 8
    assert scipy.stats.chisquare(observed, wanted).pvalue > FALSE_ALARM


def log_normal(e):
    return torch.distributions.Normal(0.0, 1.0).log_prob(e).sum(-1)


def log_determinant(function, at):
    """Return log |det| of the Jacobian of a map of vectors, at each row."""
    jacobians = [torch.autograd.functional.jacobian(function, row) for row in at.reshape(-1, 3)]
    return torch.linalg.slogdet(torch.stack(jacobians)).logabsdet.reshape(at.shape[:-1])


def gaussian_vae(prior, guide):
    """A VAE of three latents around a fixed linear-Gaussian likelihood."""
    return pv.VAE(prior, LinearGaussian(latents=3, width=FEATURES).likelihood, guide)


@every_kind
def test_the_log_weights_of_a_flow_prior_are_the_change_of_variables(kind):
    made = prior(kind, 3)
    vae = gaussian_vae(made, guides.MeanFieldNormal(nn.Linear(FEATURES, 6).double()))
    x = random(2, 4, FEATURES)
    pyro.set_rng_seed(1)
    terms = pv.log_weight_terms(vae, x, particles=5)
    pyro.set_rng_seed(1)
    z = trace_pair(vae.model, vae.guide, x, particles=5)[1].nodes["z"]["value"].detach()
    to_noise = made.flow.transform(None)
    wanted = log_normal(to_noise(z)) + log_determinant(to_noise, z)
    torch.testing.assert_close(terms.prior["z"], wanted, rtol=1e-9, atol=1e-9)


@every_kind
def test_the_log_weights_of_a_flow_guide_are_the_change_of_variables(kind):
    made = guide(kind, 3)
    vae = gaussian_vae(LinearGaussian(latents=3).prior, made)
    x = random(2, 1, FEATURES)
    pyro.set_rng_seed(1)
    terms = pv.log_weight_terms(vae, x, particles=5)
    pyro.set_rng_seed(1)
    noise = torch.randn(5, 1, 3, dtype=torch.float64)
    from_noise = made.flow.transform(x[0])
    wanted = log_normal(noise) - log_determinant(from_noise, noise)
    torch.testing.assert_close(terms.guide["z"], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(terms.prior["z"], log_normal(from_noise(noise)))


@every_kind
def test_a_flow_is_one_pass_in_the_direction_of_training(kind):
    """Count how often the first map's network runs."""
    sides = (
        (prior(kind, 3), guides.MeanFieldNormal(nn.Linear(FEATURES, 6).double())),
        (
            LinearGaussian(latents=3).prior,
            guide(kind, 3),
        ),
    )
    for flow, vae in ((side, gaussian_vae(*side)) for side in sides):
        passes = []
        part = next(part.flow for part in flow if hasattr(part, "flow"))
        vae.broadcasts = True  # Its networks are not run beforehand to learn whether they do.
        part.transform.transforms[0].hyper.register_forward_hook(lambda *_, p=passes: p.append(1))
        pv.log_weights(vae, random(2, 4, FEATURES), particles=5)
        assert len(passes) == 1


@every_kind
def test_a_draw_scores_as_the_same_value_from_elsewhere(kind):
    q = guide(kind, 3).distribution(random(1, 4, FEATURES))
    z = q.rsample((50,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)


def test_a_draw_made_without_gradients_is_scored_with_them():
    made = guide("spline", 3)
    q = made.distribution(random(1, 4, FEATURES))
    z = q.sample()
    found = torch.autograd.grad(q.log_prob(z).sum(), list(made.flow.parameters()))
    again = made.distribution(random(1, 4, FEATURES))
    wanted = torch.autograd.grad(again.log_prob(z.clone()).sum(), list(made.flow.parameters()))
    torch.testing.assert_close(found, wanted)


@every_kind
def test_each_dimension_depends_on_all_before_it(kind):
    """A hidden layer as wide as z is the narrowest that allows it, which `hidden` enforces."""
    found = torch.zeros(6, 6)
    for _ in range(30):
        step = AutoregressiveFlow(6, kind=kind, transforms=1, hidden=6).transform(None)
        found += torch.autograd.functional.jacobian(step, torch.randn(6)).abs()
    assert torch.equal(found > 0, torch.ones(6, 6).tril().bool())


def test_a_guide_of_splines_reaches_beyond_their_domain():
    """A spline is the identity outside [-5, 5]; the location and scale come after it."""
    made = guide("spline", 2)
    features = random(1, FEATURES)
    location = made.flow.transform.transforms[-1].hyper[-1].bias.data[::2]
    pyro.set_rng_seed(1)
    near = made.distribution(features).sample((50,))
    location += 100
    pyro.set_rng_seed(1)
    far = made.distribution(features).sample((50,))
    torch.testing.assert_close(far, near + 100)
    assert near.std(0).min() > 0.1


@every_density
def test_batch_shapes_expand_over_particles_and_data(density):
    q = density("spline", 2)
    wide = q.expand(torch.Size([4, 5]))
    assert (wide.batch_shape, wide.event_shape) == ((4, 5), (2,))
    z = wide.rsample()
    assert len(z.reshape(-1, 2).unique(dim=0)) == 20
    torch.testing.assert_close(wide.log_prob(z), q.log_prob(z.clone()), rtol=1e-8, atol=1e-8)
    assert repr(wide) == "FlowDistribution()"


def test_values_of_another_width_are_refused():
    with pytest.raises(ValueError, match="event_shape"):
        prior("spline", 2).distribution().log_prob(torch.zeros(5, 3).double())


def test_context_reaches_the_guide_and_leaves_the_prior():
    net = MLP(4, 8, FEATURES)
    made = guide("affine", 2, net)
    x, label = random(0, 5, 2), random(1, 5, 2)
    vae = pv.VAE(prior("affine", 2), LinearGaussian().likelihood, made)
    wanted = made.distribution(net(torch.cat([x, label], -1)))
    z = random(2, 5, 2)
    torch.testing.assert_close(vae.encode(x, label).log_prob(z), wanted.log_prob(z))
    torch.testing.assert_close(
        vae.prior.distribution(label).log_prob(z), vae.prior.distribution().log_prob(z)
    )


@every_kind
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_have_the_same_density(kind, duplicate):
    for made in (prior(kind, 3), guide(kind, 3)):
        flows = [
            part.flow.fast_to_score
            if isinstance(part, priors.Flow)
            else lambda part=part: part.distribution(random(1, FEATURES))
            for part in (made, duplicate(made))
        ]
        z = random(4, 5, 3)
        torch.testing.assert_close(flows[0]().log_prob(z), flows[1]().log_prob(z))


def train(vae, x, *, steps, lr):
    svi = pyro.infer.SVI(
        vae.model,
        vae.guide,
        pyro.optim.ClippedAdam({"lr": lr, "lrd": 0.05 ** (1 / steps)}),
        Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1),
    )
    for _ in range(steps):
        svi.step(x)


@torch.no_grad()
def gap(vae, x, log_evidence, particles=4000):
    """Return the mean of log p(x) - ELBO over data, and its standard error over particles."""
    found = (log_evidence - pv.log_weights(vae, x, particles=particles)).mean(1)
    return float(found.mean()), float(found.std()) / math.sqrt(particles)


def test_a_flow_guide_learns_correlations_that_no_mean_field_can():
    """Against the best normal without correlations, whose loss is (sum log P_ii - log |P|) / 2."""
    world = LinearGaussian(latents=3)
    precision = world.covariance.inverse()
    mean_field = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    net = MLP(3, 16, FEATURES)
    vae = world.vae(guides.Flow(net, 3, features=FEATURES, kind="affine", transforms=2).double())
    x = world.sample(32)
    train(vae, x, steps=300, lr=1e-2)
    found, error = gap(vae, x, world.log_evidence(x))
    assert found > -4 * error
    assert found + 4 * error < 0.2 * mean_field


class Banana:
    """z ~ N(0, I) in the plane, x ~ N(z_2 + z_1^2, s^2): the posterior follows a parabola.

    Given z_1 the observation is normal, which leaves one integral for the evidence.
    """

    noise = 0.3

    def likelihood(self, z, x=None):
        loc = (z[..., 1] + z[..., 0].square()).unsqueeze(-1)
        return pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)

    def log_evidence(self, x):
        first = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        normal = torch.distributions.Normal
        joint = normal(0.0, 1.0).log_prob(first) + normal(
            first.square(), math.hypot(1, self.noise)
        ).log_prob(x)
        return joint.logsumexp(-1) + math.log(16 / 4000)


@pytest.mark.slow
def test_a_flow_guide_learns_a_bent_posterior_better_than_the_mean_field():
    world = Banana()
    x = torch.linspace(-1, 3, 9, dtype=torch.float64)[:, None]
    gaps = {}
    for name, posterior in {
        "flow": guides.Flow(MLP(1, 32, 8), 2, features=8),
        "mean field": guides.MeanFieldNormal(MLP(1, 32, 4)),
    }.items():
        vae = pv.VAE(priors.StandardNormal(2).double(), world.likelihood, posterior.double())
        train(vae, x, steps=400, lr=5e-3)
        gaps[name] = gap(vae, x, world.log_evidence(x))
    for found, error in gaps.values():
        assert found > -4 * error
    (flow, flow_error), (mean_field, mean_field_error) = gaps.values()
    assert flow + 4 * flow_error < 0.25 * (mean_field - 4 * mean_field_error)


BAD = {
    "no latents": (lambda: priors.Flow(0), "at least one latent dimension; got 0"),
    "negative latents": (
        lambda: guides.Flow(nn.Identity(), -1, features=2),
        "at least one latent dimension; got -1",
    ),
    "no transforms": (lambda: priors.Flow(2, transforms=0), "at least one transform.*=0"),
    "narrow layers": (lambda: priors.Flow(5, hidden=4), "at least as wide as its 5.*hidden=4"),
    "another kind": (lambda: priors.Flow(2, kind="glow"), "spline or affine; got kind='glow'"),
    "no features": (
        lambda: guides.Flow(nn.Identity(), 2, features=0),
        "at least one feature of x; got features=0",
    ),
    "features of another width": (
        lambda: guides.Flow(nn.Identity(), 2, features=3).distribution(torch.zeros(4, 5)),
        "3 outputs, its features; got 5.*features=5",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_flow_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make", [lambda: priors.Flow(2), lambda: guides.Flow(None, 2, features=2)]
)
def test_without_zuko_the_command_that_installs_it_is_said(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ValueError, match=r"zuko.*pip install 'pyrovae\[flows\]'"):
        make()


@pytest.fixture
def in_a_new_process(tmp_path):
    """Run a program where the library alone is imported; return what it prints."""

    def run(program, *arguments):
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(STATE) + textwrap.dedent(program))
        return printed_by(script, *arguments, folder=tmp_path).strip()

    return run


STATE = """
    import sys
    import torch

    def state():
        "Return everything that the classes of torch.distributions hold."
        modules = [m for n, m in sys.modules.items() if n.startswith("torch.distributions")]
        classes = {c for m in modules for c in vars(m).values() if isinstance(c, type)}
        own = [c for c in classes if c.__module__.startswith("torch.distributions")]
        return {(c, "name"): c.__name__ for c in own} | {
            (c, key): value for c in own for key, value in vars(c).items()
            if not key.startswith(("__", "_abc"))
        }

    def changed(before):
        after = state()
        return sorted({key[1] for key in before.keys() | after.keys()
                       if before.get(key) is not after.get(key)})
"""


def test_importing_the_library_never_imports_zuko():
    program = """
        import sys, pkgutil, importlib, pyrovae
        for module in pkgutil.walk_packages(pyrovae.__path__, "pyrovae."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        print("zuko" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


BUILDS = {
    "a prior": "pyrovae.priors.Flow(2)",
    "a guide": "pyrovae.guides.Flow(pyrovae.nets.MLP(3, 4), 2, features=4)",
    "a pickled prior": "__import__('pickle').load(open(sys.argv[1], 'rb'))",
}


@pytest.mark.parametrize(
    ("name", "validate"), [*((name, True) for name in BUILDS), ("a prior", False)]
)
def test_building_a_flow_leaves_torch_as_it_was(name, validate, tmp_path, in_a_new_process):
    """A method that only flows have is all that zuko adds."""
    path = tmp_path / "prior.pickle"
    path.write_bytes(pickle.dumps(priors.Flow(2)))
    found = in_a_new_process(
        f"""
        import pyro, pyrovae
        pyrovae.priors, pyrovae.guides, pyrovae.nets
        pyro.enable_validation({validate})
        assert "zuko" not in sys.modules
        before = state()
        made = {BUILDS[name]}
        assert "zuko" in sys.modules
        print(changed(before))
        with pyro.plate("data", 3):
            x = torch.zeros(3, 3)
            made() if isinstance(made, pyrovae.priors.Flow) else made(x)
        try:
            torch.distributions.Normal(0.0, -1.0)
            print("unchecked")
        except ValueError:
            print("checked")
        """,
        str(path),
    )
    assert found.split("\n") == ["['call_and_ladj']", "checked" if validate else "unchecked"]


def test_what_a_user_s_own_import_of_zuko_did_stays(in_a_new_process):
    found = in_a_new_process(
        """
        import pyrovae
        pyrovae.priors
        import zuko
        before = state()
        pyrovae.priors.Flow(2)()
        print(changed(before), torch.distributions.Distribution._validate_args)
        """
    )
    assert found == "[] False"


def test_zuko_s_own_distributions_are_built_without_warning_after_it(in_a_new_process):
    found = in_a_new_process(
        """
        import pyrovae
        pyrovae.priors.Flow(2)
        import zuko
        normal = torch.distributions.Normal(torch.zeros(3), 1.0)
        print(zuko.distributions.Mixture(normal, torch.zeros(3)).batch_shape)
        """
    )
    assert found == "torch.Size([])"
