r"""Latents that all data share: a Pyro autoguide for them beside the guide of each datum.

    model:  mean ~ N(0, s0^2 I),   z_n ~ N(0, I),   x_n ~ N(W z_n + mean, s^2 I)
    guide:  mean ~ autoguide,      z_n ~ q(z | x_n, mean)

The global site is sampled before the VAE's program and reaches its parts as context. Given the
global latents the rest is a VAE, and that is what `log_weights` measures: a site outside the plate
has no weight for each datum.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.nets import MLP
from pyrovae.weights.log_weights import log_weights

PRIOR_SCALE, LR, STEPS = 2.0, 0.02, 600


class SharedMean:
    """The linear-Gaussian world with one latent, whose mean is a latent of all data."""

    def __init__(self, size=30):
        self.world = LinearGaussian(latents=1)
        self.x = self.world.sample(size)
        self.vae = pv.VAE(
            pv.priors.StandardNormal(1).double(),
            self.likelihood,
            pv.guides.FullRankNormal(MLP(3 + 3, 2)).double(),
        )
        # Before the autoguide: the model alone, with the global site and no other.
        self.auto = AutoNormal(poutine.block(self.model, expose=["mean"]))

    def likelihood(self, z, x, mean):
        loc = z @ self.world.weight.T + mean
        return pyro.sample("x", dist.Normal(loc, self.world.noise).to_event(1), obs=x)

    def model(self, x):
        zero = torch.zeros(3, dtype=torch.float64)
        mean = pyro.sample("mean", dist.Normal(zero, PRIOR_SCALE).to_event(1))
        self.vae.model(x, mean)

    def guide(self, x):
        self.vae.guide(x, self.auto(x)["mean"])

    def posterior_of_mean(self):
        """Return the exact posterior's mean and precision, the z_n integrated out."""
        noise = self.world.marginal.precision_matrix
        precision = len(self.x) * noise + torch.eye(3).double() / PRIOR_SCALE**2
        return torch.linalg.solve(precision, noise @ self.x.sum(0)), precision

    def noise_of_gradients(self, parameters):
        """Return the standard deviation of the gradient of each parameter."""
        losses = (
            Trace_ELBO().differentiable_loss(self.model, self.guide, self.x) for _ in range(100)
        )
        gradients = [torch.autograd.grad(loss, parameters) for loss in losses]
        return [torch.stack(column).std(0) for column in zip(*gradients, strict=True)]


@pytest.fixture
def local_parameters():
    """Keep the autoguide's parameters in the autoguide, as a VAE keeps its own."""
    with pyro.settings.context(module_local_params=True):
        yield


@pytest.mark.usefixtures("local_parameters", "interpreted")
def test_an_autoguide_for_global_latents_trains_beside_the_amortized_guide():
    problem = SharedMean()
    optim = pyro.optim.ClippedAdam({"lr": LR, "lrd": 0.01 ** (1 / STEPS)})
    svi = pv.SVI(problem.model, problem.guide, optim, Trace_ELBO())
    for _ in range(STEPS):
        svi.step(problem.x)
    wanted, precision = problem.posterior_of_mean()
    loc, raw = problem.auto.locs.mean, problem.auto.scales.mean_unconstrained
    scale = problem.auto.scales.mean
    best = precision.diagonal().rsqrt()
    # Adam about an optimum of curvature H leaves a variance of lr s / 2 H for gradients of noise
    # s, less as the step falls; the curvature of the negative ELBO in the mean is the precision,
    # in the scale twice that.
    noise = problem.noise_of_gradients([loc, raw])
    slope = torch.sigmoid(raw.detach())
    error = (LR * noise[0] / (2 * precision.diagonal())).sqrt()
    error_of_scale = slope * (LR * noise[1] / (4 * precision.diagonal() * slope**2)).sqrt()
    assert (wanted.abs() > 4 * error).any(), "the start, 0, passes too"
    assert ((loc.detach() - wanted).abs() < 4 * error).all()
    assert ((scale.detach() - best).abs() < 4 * error_of_scale).all()


@pytest.mark.usefixtures("local_parameters")
def test_given_the_global_latents_the_rest_is_a_vae_to_measure():
    problem = SharedMean(size=4)
    mean = torch.tensor([0.3, -0.2, 1.0]).double()
    log_w = log_weights(problem.vae, problem.x, mean, particles=4000)
    shifted = torch.distributions.MultivariateNormal(
        mean, problem.world.marginal.covariance_matrix
    )
    ratio = pv.bounds.mean_estimate((log_w.detach() - shifted.log_prob(problem.x)).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()
    with pytest.raises(ValueError, match="site 'mean.*' is sampled outside the plate over data"):
        log_weights(problem, problem.x, particles=2)


@pytest.mark.usefixtures("local_parameters")
def test_an_autoguide_list_puts_the_two_together_without_the_global_draw_in_the_amortized_guide():
    problem = SharedMean()
    global_site = poutine.block(problem.model, expose=["mean"])

    def amortized(x):
        problem.vae.guide(x, x.mean(0))

    # The list sees the global site alone: it opens the plates that it sees, and the amortized
    # guide opens the plate over data itself.
    both = AutoGuideList(global_site)
    both.append(AutoNormal(global_site))
    both.append(amortized)

    def by_hand(x):
        both[0](x)
        amortized(x)

    both(problem.x)
    losses = []
    for guide in (both, by_hand):
        torch.manual_seed(1)
        losses.append(Trace_ELBO().loss(problem.model, guide, problem.x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    svi = pv.SVI(problem.model, both, pyro.optim.Adam({"lr": LR}), Trace_ELBO(), compile=False)
    before = {name: p.detach().clone() for name, p in both.named_parameters()}
    before |= {name: p.detach().clone() for name, p in problem.vae.named_parameters()}
    svi.step(problem.x)
    after = dict(both.named_parameters()) | dict(problem.vae.named_parameters())
    assert before.keys() == after.keys()
    assert all((after[name] != value).any() for name, value in before.items())


@pytest.mark.usefixtures("local_parameters", "interpreted")
def test_the_two_together_are_recorded_as_they_run():
    losses = {}
    for compile in (False, True):
        pyro.set_rng_seed(0)
        problem = SharedMean()
        problem.guide(problem.x)
        svi = pv.SVI(
            problem.model,
            problem.guide,
            pyro.optim.Adam({"lr": LR}),
            Trace_ELBO(),
            compile=compile,
        )
        torch.manual_seed(1)
        losses[compile] = [svi.step(problem.x) for _ in range(3)]
        assert svi.compiled is compile
    assert losses[True] == pytest.approx(losses[False], rel=1e-9)
