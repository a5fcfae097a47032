r"""Semi-amortized inference: optimize each datum's posterior, starting from the network's output.

    lambda_n = argmax ELBO(x_n, q_lambda),        lambda_n starts at net(x_n)

An amortized posterior has two sources of error: its family may not contain the exact posterior,
and its network may not return the best member of the family. Refinement removes the second and
leaves the model unchanged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import ClassVar, Final

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
from pyrovae.weights.target import Resolved

__all__ = ["Refined", "common_weights", "refine", "unrefined"]

PARTICLES: Final = 32
"""The number of particles that estimate the gradient of a step."""

CHECKED_WITH: Final = 200
"""The number of particles that check whether a datum's ELBO has fallen."""


def refine(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    steps: int = 100,
    lr: float = 0.05,
    family: PerDatumFlow | None = None,
) -> Refined:
    r"""Optimize the posterior of each datum, and leave the target unchanged.

    $$ \lambda_n^* = \arg\max_\lambda ELBO(x_n, q_\lambda) $$

    Adam maximizes the ELBO of each datum over the network's output for it, $\lambda_n$. The step
    size falls from `lr` to 0 by a cosine schedule. At the end, fresh draws compare each posterior
    with the one it started from; a datum whose ELBO fell by more than two standard errors keeps
    its start. Measure the result on other draws, because on these the selection is biased upward.

    Args:
        target: a VAE whose guide has one site, a network `net` and a method
            `distribution(parameters)` with reparameterized draws, as most of `pyrovae.guides`; or
            a pair (model, guide) of such a guide with a plate over data. To continue a refinement,
            pass the `Refined` as the guide.
        x: data [N, ...].
        *context: further arguments of the programs. A tensor with N rows has one per datum.
        steps: the number of steps.
        lr: the initial step size, in units of the network's output.
        family: a flow on top of the guide's posterior, optimized together with it; None for the
            guide's own family.

    Returns:
        A guide of these data, for use with the same model.

    Raises:
        ValueError: if the guide or the model does not have this form, `steps` is below 1, `lr` is
            not positive, the data are outside the likelihood's domain, or the gradient of a datum
            is never finite.

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
            "expected at least one step and a positive finite step size; got "
            f"steps={steps}, lr={lr}: use defaults such as steps=100, lr=0.05"
        )
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    start = unrefined(target, *given)
    if family is not None:
        start = start.to(*family.around(start.distribution, start.parameters))
    with resolved.evaluating():
        parameters = _ascend(resolved.model, start, given, steps=steps, lr=lr)
        end = start.to(start.distribution, parameters)
        fallen = _fallen(resolved.model, (start, end), given)
    kept = torch.where(fallen.unsqueeze(-1), start.parameters, parameters)
    return start.to(start.distribution, kept)


def unrefined(target: Target, x: Tensor, *context: ContextValue) -> Refined:
    """Return the guide that refinement starts from, with the network's posterior of each datum.

    Args:
        target: as for `refine`.
        x: data [N, ...].
        *context: further arguments of the programs.

    Raises:
        ValueError: if the guide or the model does not have the form that `refine` needs.

    Example:
        >>> unrefined(vae, x).parameters.shape
        torch.Size([5, 4])
    """
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    guide = target.posterior if isinstance(target, VAE) else resolved.guide
    net, distribution = _network_and_family(guide)
    with resolved.evaluating(), torch.no_grad():
        parameters = net(*given).detach().clone()
        q = distribution(parameters)
        if not q.has_rsample or q.support.is_discrete:
            raise ValueError(
                "refinement needs reparameterized draws of continuous latents; the guide's "
                f"{type(q).__name__} has none: use a relaxed posterior"
            )
        site = _latent_site(resolved.model, given)
    return Refined(distribution, parameters, *given, site=site, per_datum=given.per_datum)


class Refined:
    """A guide with refined posteriors, a Pyro program for the data it was refined on only.

    It accepts these data, or some of their rows in any order, and samples the latent site in a
    plate over them. `log_weights` may therefore process the data in pieces.

    Attributes:
        distribution: the family, a function of parameters [N, P].
        parameters: the parameters of each datum's posterior, [N, P].
        site: the name of the latent site.
        broadcasts: True, as the parameters have no particle axis and only draws do.

    Args:
        distribution: as the attribute.
        parameters: as the attribute.
        x: the data [N, ...].
        *context: further arguments of the programs.
        site: as the attribute.
        per_datum: which arguments of the context have one row per datum; by default those with N
            rows.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.rand(5, 64).round()
        >>> guide = pv.refine(vae, x, steps=2)
        >>> guide.parameters.shape, guide(x[:3]).shape
        (torch.Size([5, 4]), torch.Size([3, 2]))
    """

    broadcasts: ClassVar[bool] = True

    def __init__(
        self,
        distribution: Family,
        parameters: Tensor,
        x: Tensor,
        *context: ContextValue,
        site: str = "z",
        per_datum: tuple[bool, ...] | None = None,
    ) -> None:
        self.distribution, self.parameters, self.site = distribution, parameters, site
        self._per_datum = Given(x, context, settled=per_datum).per_datum
        self._rows = {key: row for row, key in enumerate(self._keys(x, *context))}

    def __call__(self, x: Tensor, *context: ContextValue) -> Tensor:
        """Sample z from the refined posterior of each row of x.

        Raises:
            ValueError: if a row of x with its context was not refined.
        """
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample(self.site, self.distribution(self.net(x, *context)))
        return z

    def net(self, x: Tensor, *context: ContextValue) -> Tensor:
        """Return the parameters of each row of x [N, P], as a network would.

        Raises:
            ValueError: if a row of x with its context was not refined.
        """
        rows = [self._rows.get(key) for key in self._keys(x, *context)]
        if None in rows:
            raise ValueError(
                f"the guide was refined for {len(self.parameters)} data; got {len(x)} data of "
                f"which row {rows.index(None)}, with its context, is not one of them: call "
                "refine(vae, x, *context) for these data"
            )
        return self.parameters[rows]

    def to(self, distribution: Family, parameters: Tensor) -> Refined:
        """Return a guide of the same data with another family and other parameters."""
        other = copy.copy(self)
        other.distribution, other.parameters = distribution, parameters
        return other

    def _keys(self, x: Tensor, *context: ContextValue) -> list[bytes]:
        """Return a key per datum, from its rows of x and of the per-datum context."""
        columns = [x, *Given(x, context, settled=self._per_datum).own]
        flat = [column.detach().double().cpu().reshape(len(x), -1) for column in columns]
        return [row.tobytes() for row in torch.cat(flat, dim=1).numpy()]


def common_weights(
    model: Program, guides: Sequence[Program], x: Tensor, *context: ContextValue, particles: int
) -> list[Tensor]:
    """Return the log-weights [K, N] of each guide, drawn with the same random numbers.

    Similar posteriors then share most of their noise, which cancels in differences.
    """
    seed = int(torch.randint(2**62, ()))
    found = []
    for guide in guides:
        with seeded(seed), torch.no_grad():
            found.append(log_weights((model, guide), x, *context, particles=particles))
    return found


def _ascend(model: Program, start: Refined, given: Given, *, steps: int, lr: float) -> Tensor:
    """Return the parameters after the steps of Adam.

    Raises:
        ValueError: if the gradient of a datum is never finite.
    """
    parameters = start.parameters.clone().requires_grad_()
    guide = start.to(start.distribution, parameters)
    optimizer = torch.optim.Adam([parameters], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    moved = torch.zeros(len(given), dtype=torch.bool, device=given.x.device)
    with torch.enable_grad():
        for _ in range(steps):
            log_w = log_weights((model, guide), *given, particles=PARTICLES)
            (gradient,) = torch.autograd.grad(-log_w.mean(0).sum(), parameters)
            # A draw in the tails may have no finite gradient; that datum skips the step.
            finite = gradient.isfinite().all(-1)
            parameters.grad = torch.where(finite.unsqueeze(-1), gradient, 0.0)
            moved |= finite
            optimizer.step()
            schedule.step()
    if not moved.all():
        bad = (~moved).nonzero().flatten().tolist()
        raise ValueError(
            f"the ELBO of {len(bad)} data, first of row {bad[0]}, had no finite gradient in any "
            f"of {steps} steps: check these rows and the model's log-probabilities there, or "
            "leave them out"
        )
    return parameters.detach()


def _fallen(model: Program, guides: tuple[Refined, Refined], given: Given) -> Tensor:
    """Return whether the ELBO of each datum fell under the second guide or is not finite, [N]."""
    before, after = common_weights(model, guides, *given, particles=CHECKED_WITH)
    rise = mean_estimate(after - before)
    return ~(rise.value >= -2 * rise.standard_error)


def _network_and_family(guide: Program) -> tuple[Program, Family]:
    """Return the network of a guide, and the family that its output parameterizes."""
    net, distribution = getattr(guide, "net", None), getattr(guide, "distribution", None)
    if not (callable(net) and callable(distribution)):
        raise ValueError(
            "refinement needs a guide with a network `net` and a method `distribution` of its "
            f"output; got {type(guide).__name__}: use one such as guides.MeanFieldNormal"
        )
    return net, distribution


def _latent_site(model: Program, given: Given) -> str:
    """Return the name of the model's only latent site, besides enumerated ones."""
    trace = poutine.trace(model).get_trace(*given.first(1))
    latents = [
        name
        for name, site in sample_sites(trace)
        if not site["is_observed"] and site["infer"].get("enumerate") != "parallel"
    ]
    if len(latents) != 1:
        raise ValueError(
            f"refinement needs a model with one sampled latent site; got {latents}: put them into "
            "one vector, or enumerate the discrete ones"
        )
    return latents[0]
