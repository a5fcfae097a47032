"""Objectives on the aggregate posterior, and a world where that posterior is known."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import distributions as td
from torch import nn
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.objectives.aggregate import GaussianKernel, InverseMultiquadratic
from pyrovae.objectives.regularized import DIP, MMD, FactorVAE, TotalCorrelation

ROWS = 8
LATENTS, WIDTH = 2, 3


class Quadratic(nn.Module):
    """A discriminator linear in z and z z': the log-ratio of normals is of this kind."""

    def __init__(self, latents=LATENTS):
        super().__init__()
        self.out = nn.Linear(latents + latents**2, 1, dtype=torch.float64)

    def forward(self, z):
        products = z.unsqueeze(-1) * z.unsqueeze(-2)
        return self.out(torch.cat([z, products.flatten(-2)], -1))


OBJECTIVES = {
    "stratified": lambda: TotalCorrelation(5 * ROWS, alpha=0.5, beta=6.0, gamma=2.0),
    "weighted": lambda: TotalCorrelation(5 * ROWS, beta=6.0, sampling="weighted"),
    "DIP of means": lambda: DIP(2.0, 3.0),
    "DIP of the aggregate": lambda: DIP(2.0, 3.0, covariance="aggregate"),
    "Gaussian MMD": lambda: MMD(GaussianKernel(1.0), 5.0),
    "multiquadratic MMD": lambda: MMD(InverseMultiquadratic(4.0), 5.0),
    "FactorVAE": lambda: FactorVAE(3.0, Quadratic()),
}


def trained():
    """Return a VAE with parameters in float64, and data."""
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, 5, WIDTH, activation=nn.Tanh)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(WIDTH, 5, 2 * LATENTS, activation=nn.Tanh)),
    ).double()
    return vae, torch.bernoulli(torch.full((ROWS, WIDTH), 0.4, dtype=torch.float64))


def seeded_loss(objective, model, guide, *args, **kwargs):
    torch.manual_seed(7)
    return objective.loss(model, guide, *args, **kwargs)


def seeded_gradients(objective, model, guide, x, parameters):
    torch.manual_seed(7)
    objective.loss_and_grads(model, guide, x)
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


class LinearGuide(nn.Module):
    """q(z | x) = N(A (x - m) + b, diag s^2), whose aggregate over a normal p(x) is normal."""

    def __init__(self, world):
        super().__init__()
        eye = torch.eye(world.width, dtype=torch.float64)
        self.center = world.mean
        mixing = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
        self.gain = nn.Parameter(mixing @ world.posterior_mean(eye + world.mean).T)
        self.bias = nn.Parameter(torch.tensor([0.6, -0.4], dtype=torch.float64))
        self.log_scale = nn.Parameter(world.off_scale.log())

    def forward(self, x):
        loc = (x - self.center) @ self.gain.T + self.bias
        pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


class CorrelatedData:
    """Data of latents that correlate at 0.9, which the prior of the model does not know of."""

    def __init__(self):
        self.world = LinearGaussian()
        self.guide = LinearGuide(self.world)
        self.vae = pv.VAE(self.world.prior, self.world.likelihood, self.guide)
        latents = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
        noise = self.world.noise**2 * torch.eye(WIDTH, dtype=torch.float64)
        self.covariance = self.world.weight @ latents @ self.world.weight.T + noise
        self.data = td.MultivariateNormal(self.world.mean, self.covariance)

    def sample(self, n):
        return self.data.sample((n,))

    @property
    def programs(self):
        return self.vae.model, self.vae.guide


class Aggregate:
    """The aggregate posterior of a linear guide: N(b, S), S = A Cov(x) A' + s^2."""

    def __init__(self, world):
        gain, self.loc = world.guide.gain.detach(), world.guide.bias.detach()
        self.of_means = gain @ world.covariance @ gain.T
        self.variances = (2 * world.guide.log_scale.detach()).exp()
        self.covariance = self.of_means + torch.diag(self.variances)
        self.normal = td.MultivariateNormal(self.loc, self.covariance)
        self.marginals = td.Normal(self.loc, self.covariance.diagonal().sqrt())

    @property
    def parts(self):
        log_det, logs = self.covariance.logdet(), self.covariance.diagonal().log().sum()
        information = 0.5 * (log_det - self.variances.log().sum())
        unit = td.Normal(torch.zeros_like(self.loc), 1.0)
        dimension_wise = td.kl_divergence(self.marginals, unit).sum()
        return torch.stack([information, 0.5 * (logs - log_det), dimension_wise])

    def relative_variance(self):
        """Return E_z Var_x[q(z | x)] / q(z)^2, for all dimensions together and for each.

        E_x q(z | x)^2 is a normal density of covariance Cov(means) + s^2 / 2, times a constant.
        """
        each = [self._relative_variance([j]) for j in range(len(self.loc))]
        return self._relative_variance(list(range(len(self.loc)))), sum(each)

    def _relative_variance(self, at):
        whole, half = (
            covariance[at][:, at]
            for covariance in (
                self.covariance,
                self.of_means + torch.diag(self.variances / 2),
            )
        )
        precision = half.inverse() - whole.inverse()
        log_constant = -0.5 * (len(at) * math.log(2) + self.variances[at].log().sum())
        log_integral = 0.5 * (whole.logdet() - half.logdet() - precision.logdet())
        return (log_constant + log_integral).exp().item() - 1
