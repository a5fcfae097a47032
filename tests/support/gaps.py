"""Data with missing entries: a world in closed form, and a table to score."""

import pyro
import pyro.distributions as dist
import torch
from cases_counts import SEEN, table
from torch import nn
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.likelihoods import Masked, Normal
from pyrovae.nets import MLP, HideMissing


class Gaps:
    """The linear-Gaussian world with missing entries, whose conditionals are in closed form."""

    def __init__(self, *, guide="exact"):
        self.world = LinearGaussian(width=4)
        self.x = self.world.sample(4)
        self.mask = SEEN
        net = nn.Linear(2, 4).double()
        net.weight.data, net.bias.data = self.world.weight.clone(), self.world.mean.clone()
        likelihood = Normal(net, scale=0.5).double()
        likelihood.fixed_scale.fill_(self.world.noise)
        self.vae = pv.VAE(self.prior, Masked(likelihood), getattr(self, f"{guide}_guide"))

    def prior(self, *context):
        return self.world.prior()

    def posterior(self, x, mask):
        """Return the mean and covariance of p(z | x_obs), row by row."""
        weight = self.world.weight * mask.unsqueeze(-1)
        eye = torch.eye(2, dtype=torch.float64)
        covariance = (eye + weight.mT @ weight / self.world.noise**2).inverse()
        residual = torch.where(mask, x - self.world.mean, 0.0).unsqueeze(-1)
        mean = covariance @ weight.mT @ residual / self.world.noise**2
        return mean.squeeze(-1), covariance

    def exact_guide(self, x, mask):
        mean, covariance = self.posterior(x, mask)
        return pyro.sample("z", dist.MultivariateNormal(mean, covariance))

    def off_guide(self, x, mask):
        mean, covariance = self.posterior(x, mask)
        scale = 1.3 * covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return pyro.sample("z", dist.Normal(mean + 0.2, scale).to_event(1))

    def mode_guide(self, x, mask):
        return pyro.sample("z", dist.Delta(self.posterior(x, mask)[0], event_dim=1))

    @property
    def conditional(self):
        """Return the mean and covariance of p(x* | x_obs) for a whole new x* at the same z."""
        mean, covariance = self.posterior(self.x, self.mask)
        weight = self.world.weight
        noise = self.world.noise**2 * torch.eye(4, dtype=torch.float64)
        return mean @ weight.T + self.world.mean, weight @ covariance @ weight.T + noise

    @property
    def log_evidence(self):
        marginal = self.world.marginal
        rows = []
        for x, seen in zip(self.x, self.mask, strict=True):
            covariance = marginal.covariance_matrix[seen][:, seen]
            part = torch.distributions.MultivariateNormal(marginal.mean[seen], covariance)
            rows.append(part.log_prob(x[seen]))
        return torch.stack(rows)


def gappy_vae(likelihood=None, encoder=None, width=4):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        likelihood or Masked(table()),
        pv.guides.MeanFieldNormal(encoder or HideMissing(MLP(width, 4))),
    )


class Unmasked(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, mask):
        return self.net(x)


def close(found, wanted, near=1e-9):
    torch.testing.assert_close(found, wanted, rtol=0, atol=near)
