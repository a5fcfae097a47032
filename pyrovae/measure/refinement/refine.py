r"""Semi-amortized inference: optimize each datum's posterior from where the network starts it.

    lambda_n = argmax ELBO(x_n, q_lambda),        lambda_n starts at net(x_n)

What an amortized posterior loses has two parts: its family may not hold the exact posterior, and
its network may not give the best member of the family. Refinement removes the second and leaves
the model as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrovae.measure.refinement.flow import Family, PerDatumFlow
from pyrovae.randomness import seeded
from pyrovae.types import ContextValue, Program, Target
from pyrovae.vae import VAE
from pyrovae.weights.bounds import mean_estimate
from pyrovae.weights.given import Given
from pyrovae.weights.log_weights import log_weights
from pyrovae.weights.sites import sample_sites
from pyrovae.weights.target import evaluation_mode, programs

PARTICLES: Final = 32
"""How many draws estimate the gradient of a step."""

CHECKED_WITH: Final = 200
"""How many draws tell whether a datum's posterior has become worse."""


def refine(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    steps: int = 100,
    lr: float = 0.05,
    family: PerDatumFlow | None = None,
) -> Refined:
    r"""Optimize the posterior of each datum; leave the target as it is.

    Adam ascends the ELBO of each datum in what the guide's network would have returned for it,
    $\lambda_n$, with a step size that falls from `lr` to 0 by half a cosine. At the end, fresh
    draws compare each posterior with the one it started from: a datum whose ELBO fell by more
    than two standard errors goes back. Those draws chose, so they may not measure: on them, what
    was chosen looks better than it is.

    Args:
        target: a VAE whose guide has one site, a network `net` and a method
            `distribution(parameters)` that draws by reparameterization, as most of
            `pyrovae.guides`; or a pair (model, guide) of such a guide with a plate over data. A
            `Refined` is one: it goes on from where it stands.
        x: data [N, ...].
        *context: what the programs take beside x. A tensor with N rows has one for each datum.
        steps: how many steps to take.
        lr: the size of the first step, in the units of the network's output.
        family: a flow that bends the guide's own posterior, optimized together with it; None
            stays within the guide's own family.

    Returns:
        The guide of these data, to measure with the same model.

    Raises:
        ValueError: if the guide or the model is of another kind, `steps` below 1, `lr` not
            positive, or the gradient of a datum is never finite.

    References:
        Kim, Wiseman, Miller, Sontag, Rush, 2018. Semi-Amortized Variational Autoencoders.
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16, likelihood=pv.likelihoods.Normal)
        >>> x = torch.randn(5, 64)
        >>> guide = pv.refine(vae, x, steps=10)
        >>> pv.log_weights((vae.model, guide), x, particles=100).shape
        torch.Size([100, 5])
    """
    if steps < 1 or not 0 < lr < math.inf:
        raise ValueError(
            f"refinement takes at least one step of a positive size; got steps={steps}, lr={lr}"
        )
    model, _ = programs(target)
    start = unrefined(target, x, *context)
    if family is not None:
        start = start.to(*family.around(start.distribution, start.parameters))
    with evaluation_mode(target):
        parameters = _ascend(model, start, (x, context), steps=steps, lr=lr)
        end = start.to(start.distribution, parameters)
        fallen = _fallen(model, (start, end), (x, context))
    kept = torch.where(fallen.unsqueeze(-1), start.parameters, parameters)
    return start.to(start.distribution, kept)


def unrefined(target: Target, x: Tensor, *context: ContextValue) -> Refined:
    """Return the guide that refinement starts from: each datum's posterior as the network has it.

    Args:
        target: as for `refine`.
        x: data [N, ...].
        *context: what the programs take beside x.

    Raises:
        ValueError: if the guide or the model is of another kind.

    Example:
        >>> unrefined(vae, x).parameters.shape
        torch.Size([5, 4])
    """
    guide = target.posterior if isinstance(target, VAE) else programs(target)[1]
    net, distribution = _network_and_family(guide)
    with evaluation_mode(target), torch.no_grad():
        parameters = net(x, *context).detach().clone()
        q = distribution(parameters)
        if not q.has_rsample:
            raise ValueError(
                "refinement follows the gradient through the draws; the guide's "
                f"{type(q).__name__} has none: refine a relaxed posterior"
            )
        site = _latent_site(programs(target)[0], x, context)
    return Refined(distribution, parameters, x, *context, site=site)


class Refined:
    """The guide that `refine` returns: a Pyro program of the data it was made for, and no others.

    Called with those data, or with some of their rows in any order, it samples the latent site in
    a plate over them; so `log_weights` may cut the data into pieces.

    Attributes:
        distribution: makes a distribution of parameters.
        parameters: what stands in place of the network's output, [N, P].
        site: the name of the latent site.
        broadcasts: the parameters have no axis of particles, which alone are drawn.
    """

    broadcasts: ClassVar[bool] = True

    def __init__(
        self,
        distribution: Family,
        parameters: Tensor,
        x: Tensor,
        *context: ContextValue,
        site: str = "z",
    ) -> None:
        self.distribution, self.parameters, self.site = distribution, parameters, site
        self._per_datum = Given(x, context).per_datum
        self._rows = {key: row for row, key in enumerate(self._keys(x, *context))}

    def __call__(self, x: Tensor, *context: ContextValue) -> Tensor:
        """Sample z from the refined posterior of each row of x.

        Raises:
            ValueError: if a row of x and its context is none that was refined.
        """
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample(self.site, self.distribution(self.net(x, *context)))
        return z

    def net(self, x: Tensor, *context: ContextValue) -> Tensor:
        """Return the parameters of each row of x, as a network would.

        Raises:
            ValueError: if a row of x and its context is none that was refined.
        """
        rows = [self._rows.get(key) for key in self._keys(x, *context)]
        if None in rows:
            raise ValueError(
                f"the guide was refined for {len(self.parameters)} data, and row "
                f"{rows.index(None)} of the {len(x)} given, with its context, is none of them: "
                "call refine(vae, x, *context) for these"
            )
        return self.parameters[rows]

    def to(self, distribution: Family, parameters: Tensor) -> Refined:
        """Return a guide of the same data with other posteriors."""
        other = copy.copy(self)
        other.distribution, other.parameters = distribution, parameters
        return other

    def _keys(self, x: Tensor, *context: ContextValue) -> list[bytes]:
        """Return what tells one datum from another: its row of x and of each tensor beside it."""
        given = zip(self._per_datum, context, strict=True)
        own = (value for per_datum, value in given if per_datum and isinstance(value, Tensor))
        columns = [x, *own]
        flat = [column.detach().double().cpu().reshape(len(x), -1) for column in columns]
        return [row.tobytes() for row in torch.cat(flat, dim=1).numpy()]


def common_weights(
    model: Program, guides: Sequence[Program], x: Tensor, *context: ContextValue, particles: int
) -> list[Tensor]:
    """Return the log-weights [K, N] of each guide, drawn from the same random numbers.

    Posteriors that draw alike then have noise in common, which their difference is rid of.
    """
    seed = int(torch.randint(2**62, ()))
    found = []
    for guide in guides:
        with seeded(seed), torch.no_grad():
            found.append(log_weights((model, guide), x, *context, particles=particles))
    return found


def _ascend(
    model: Program, start: Refined, data: tuple[Tensor, tuple[Any, ...]], *, steps: int, lr: float
) -> Tensor:
    """Return the parameters after so many steps."""
    x, context = data
    parameters = start.parameters.clone().requires_grad_()
    guide = start.to(start.distribution, parameters)
    optimizer = torch.optim.Adam([parameters], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    moved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.enable_grad():
        for _ in range(steps):
            log_w = log_weights((model, guide), x, *context, particles=PARTICLES)
            (gradient,) = torch.autograd.grad(-log_w.mean(0).sum(), parameters)
            # Far out, one draw may have no finite gradient: that datum rests for a step.
            finite = gradient.isfinite().all(-1)
            parameters.grad = torch.where(finite.unsqueeze(-1), gradient, 0.0)
            moved |= finite
            optimizer.step()
            schedule.step()
    if not moved.all():
        bad = (~moved).nonzero().flatten().tolist()
        raise ValueError(
            f"the gradient of the ELBO of {len(bad)} data, the first that of row {bad[0]}, was "
            f"not finite in any of {steps} steps, so that they were not refined: look at these "
            "rows and at the model's log-probabilities there, or leave them out"
        )
    return parameters.detach()


def _fallen(
    model: Program, guides: tuple[Refined, Refined], data: tuple[Tensor, tuple[Any, ...]]
) -> Tensor:
    """Tell which data have a lower ELBO under the second guide, or none that is finite, [N]."""
    x, context = data
    before, after = common_weights(model, guides, x, *context, particles=CHECKED_WITH)
    rise = mean_estimate(after - before)
    return ~(rise.value >= -2 * rise.standard_error)


def _network_and_family(guide: Program) -> tuple[Program, Family]:
    net, distribution = getattr(guide, "net", None), getattr(guide, "distribution", None)
    if not (callable(net) and callable(distribution)):
        raise ValueError(
            "refinement needs a guide with a network `net` and a method `distribution` of its "
            f"output, such as guides.MeanFieldNormal; got {type(guide).__name__}"
        )
    return net, distribution


def _latent_site(model: Program, x: Tensor, context: tuple[Any, ...]) -> str:
    """Return the model's one latent that is drawn; discrete ones may be summed out beside it."""
    trace = poutine.trace(model).get_trace(*Given(x, context).first(1))
    latents = [
        name
        for name, site in sample_sites(trace)
        if not site["is_observed"] and site["infer"].get("enumerate") != "parallel"
    ]
    if len(latents) != 1:
        raise ValueError(
            f"refinement needs a model with one latent site that is drawn; got {latents}: put "
            "them into one vector, or sum the discrete ones out"
        )
    return latents[0]
