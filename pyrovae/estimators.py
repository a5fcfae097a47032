r"""Gradient estimators: how the gradient of a bound on log-weights reaches model and guide.

A bound $B$ maps log-weights [K, N] to [N]. Its plain gradient reaches the guide by two ways:
through the draws, $z = z(\epsilon, \phi)$, and through the density $\log q_\phi(z)$. At one
particle the second has expectation zero and is mere noise: "sticking the landing" drops it. At
more it is a pathwise gradient in disguise: "doubly reparameterised", the gradient with respect to
the draw of particle k is multiplied by

$$ r_k = 1 - \frac{\partial^2 B}{\partial \ell_k^2} \Big/ \frac{\partial B}{\partial \ell_k},
   \qquad \ell_k = \log w_k, $$

which for IWAE is the normalised weight. A site without reparameterisation gets the score
function, where each particle is held against the bound as it would be had it weighed like the
others.

References:
    Roeder, Wu, Duvenaud, 2017. Sticking the Landing.
    Tucker, Lawson, Gu, Maddison, 2019. Doubly Reparameterized Gradient Estimators.
    Bauer, Mnih, 2021. Generalized Doubly Reparameterized Gradient Estimators.
    Mnih, Rezende, 2016. Variational Inference for Monte Carlo Objectives (VIMCO).
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from pyro.distributions.util import is_identically_one
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrovae.sites import (
    UndefinedWeight,
    check_shape,
    enumeration_dim,
    log_prob,
    objective_sites,
    plate_size,
    sample_sites,
)
from pyrovae.weights import Program, check_pair, trace_guide, trace_model

Gradient = Literal["plain", "stl", "dreg"]
GRADIENTS: Final = ("plain", "stl", "dreg")
Site = tuple[str, Any]


class Bound(abc.ABC):
    """A reduction of log-weights, with what a doubly reparameterised gradient asks of it."""

    @abc.abstractmethod
    def value(self, log_w: Tensor) -> Tensor:
        """Return B, [N], of log-weights [K, N]."""

    @abc.abstractmethod
    def curvature(self, log_w: Tensor) -> Tensor:
        """Return the second derivative of B in each log-weight over the first, [K, N]."""


@dataclass(frozen=True)
class Programs:
    """A model and a guide with the arguments they run on, for K particles."""

    model: Program
    guide: Program
    args: tuple[Any, ...]
    particles: int

    def trace_guide(self, given: Any = None) -> Any:
        """Trace the guide, at the values of an earlier trace if given."""
        return trace_guide(self.guide, *self.args, particles=self.particles, given=given)

    def trace_model(self, given: Any) -> Any:
        """Trace the model at the values of a guide's trace."""
        return trace_model(self.model, *self.args, particles=self.particles, given=given)


@dataclass(frozen=True)
class Layout:
    """What the sites of two traces share.

    Attributes:
        shape: [K, N].
        scale: what multiplies each datum's bound: a number, or a tensor that goes with [N].
        enumerated: the dimensions, left of K, along which sites are summed out.
    """

    shape: tuple[int, int]
    scale: Any
    enumerated: set[int | None]

    def summed_out(self, log_w: Tensor) -> Tensor:
        """Sum weights over the dimensions of enumerated sites."""
        return log_w.reshape(-1, *self.shape).logsumexp(0) if self.enumerated else log_w


@dataclass(frozen=True)
class Draw:
    """K draws for each datum, weighed.

    Attributes:
        guide_trace: what the guide drew.
        log_w: [K, N], enumerated sites summed out, in nats.
        layout: what the sites share.
        exponent: the power of the latents' densities in the weights: 1, or a KL weight.
        paths: the draws on their way into log_w, each with its number of event axes.
    """

    guide_trace: Any
    log_w: Tensor
    layout: Layout
    exponent: Any
    paths: list[tuple[Tensor, int]]


def draw(programs: Programs, gradient: Gradient, *, freeze_model: bool = False) -> Draw:
    """Run both programs and weigh the draws, so that gradients go where the estimator wants them.

    Raises:
        ValueError: as `log_weights`; naming the site, if "stl" or "dreg" meet one that is not
            reparameterised, if two sites are scaled differently, or if a weight is not defined.
    """
    guide_trace = programs.trace_guide()
    given: Any = guide_trace
    paths: list[tuple[Tensor, int]] = []
    if gradient != "plain":
        _check_reparameterised(guide_trace, gradient)
        given, paths = _with_paths(guide_trace)
    with Frozen() if freeze_model else contextlib.nullcontext():
        model_trace = programs.trace_model(given)
        check_pair(model_trace, guide_trace)
        layout = _layout(model_trace, guide_trace, programs.particles)
        log_p = log_density(objective_sites(model_trace), layout)
    log_q = log_density(guide_sites(guide_trace), layout)
    if gradient != "plain":
        log_q = _frozen_density(programs, given, layout, log_q)
    log_w = layout.summed_out(log_p - log_q)
    _check_defined(log_w, model_trace, guide_trace)
    exponent = _exponent_of_latents(guide_trace, layout) if gradient == "dreg" else 1.0
    return Draw(guide_trace, log_w, layout, exponent, paths)


def surrogate(bound: Bound, draw: Draw, gradient: Gradient) -> Tensor:
    """Return B of a draw, [N], with the gradient that the estimator gives it."""
    if gradient == "dreg":
        ratio = 1 - draw.exponent * bound.curvature(draw.log_w.detach())
        for z, event_dim in draw.paths:
            _scale_gradient(z, ratio.reshape(ratio.shape + (1,) * event_dim))
    found = bound.value(draw.log_w)
    drawn = [site for _, site in guide_sites(draw.guide_trace) if not _has_path(site)]
    if not drawn:
        return found
    score = torch.stack([log_prob(site) for site in drawn]).sum(0)
    return found + _score_function(bound, draw.log_w.detach(), score)


class Frozen(TorchFunctionMode):
    """Let what runs in the block see every parameter as a constant.

    Each leaf that asks for gradients is replaced by its detached self as it enters an operation;
    what depends on draws still carries their gradient.
    """

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*pytree.tree_map(_frozen, args), **pytree.tree_map(_frozen, kwargs or {}))


def _frozen(value: Any) -> Any:
    trained = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
    return value.detach() if trained else value


def log_density(sites: Iterable[Site], layout: Layout) -> Tensor:
    """Return the sum of log-probabilities, [..., K, N], each times its own part of the scale."""
    total: Any = torch.zeros(())
    for name, site in sites:
        exponent = _exponent(site["scale"], layout.scale)
        term = log_prob(site)
        check_shape(name, term.shape, layout.shape, layout.enumerated)
        total = total + (term if is_identically_one(exponent) else exponent * term)
    return total


def guide_sites(guide_trace: Any) -> list[Site]:
    """Return the sites that a guide draws: those it enumerates are summed out with the model."""
    return [site for site in sample_sites(guide_trace) if enumeration_dim(site[1]) is None]


def detached(trace: Any) -> Any:
    """Return a trace whose values are constants."""
    return _with_values(trace, Tensor.detach)


def _with_paths(trace: Any) -> tuple[Any, list[tuple[Tensor, int]]]:
    """Return the trace with an alias of each draw: its gradient can be scaled, the draw's not."""
    given = _with_values(trace, lambda z: z.view_as(z))
    sites = [site for _, site in guide_sites(given)]
    return given, [(site["value"], site["fn"].event_dim) for site in sites]


def _with_values(trace: Any, change: Any) -> Any:
    changed = trace.copy()
    for name, site in sample_sites(trace):
        changed.nodes[name] = {**site, "value": change(site["value"])}
    return changed


def _scale_gradient(z: Tensor, factor: Tensor) -> None:
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * factor)


def _has_path(site: Any) -> bool:
    return bool(site["fn"].has_rsample)


def _check_reparameterised(guide_trace: Any, gradient: Gradient) -> None:
    for name, site in guide_sites(guide_trace):
        if not _has_path(site):
            raise ValueError(
                f"gradient='{gradient}' differentiates through the draws, but the guide's site "
                f"'{name}' is drawn from {type(site['fn']).__name__}, which has no "
                "reparameterised sample: use gradient='plain', which takes the score function "
                "there, or a continuous relaxation"
            )


def _frozen_density(programs: Programs, given: Any, layout: Layout, log_q: Tensor) -> Tensor:
    """Score the draws again with the guide's parameters held constant."""
    with Frozen():
        again = log_density(guide_sites(programs.trace_guide(given)), layout)
    if not is_fake(again) and not torch.allclose(
        again, log_q, rtol=1e-3, atol=1e-2, equal_nan=True
    ):
        raise ValueError(
            "the guide gave other densities when it was run again at its own draws, as one with "
            "dropout does: use gradient='plain', or switch the noise off with .eval()"
        )
    return again


def _score_function(bound: Bound, log_w: Tensor, score: Tensor) -> Tensor:
    """Return zeros [N] with the score-function gradient, its baseline left one particle out."""
    learned = (bound.value(log_w) - _without_each(bound, log_w)).detach()
    term = (learned * score).sum(0)
    return term - term.detach()


def _without_each(bound: Bound, log_w: Tensor) -> Tensor:
    """Return [K, N]: the bound if log-weight k were the mean of the others; 0 for a single one."""
    particles = len(log_w)
    if particles == 1:
        return torch.zeros_like(log_w)
    finite = log_w.clamp(min=torch.finfo(log_w.dtype).min / particles)
    others = (finite.sum(0) - finite) / (particles - 1)
    own = torch.eye(particles, dtype=torch.bool, device=log_w.device)
    replaced = torch.where(own.unsqueeze(-1), others.unsqueeze(0), log_w.unsqueeze(0))
    return bound.value(replaced.transpose(0, 1).reshape(particles, -1)).reshape(log_w.shape)


def _layout(model_trace: Any, guide_trace: Any, particles: int) -> Layout:
    sites = [*sample_sites(model_trace), *sample_sites(guide_trace)]
    return Layout(
        shape=(particles, plate_size(*sites[0])),
        scale=_scale_of_data(model_trace, guide_trace),
        enumerated={enumeration_dim(site) for _, site in sites} - {None},
    )


def _scale_of_data(model_trace: Any, guide_trace: Any) -> Any:
    """Return the scale that all observed sites share; it stands outside the logarithm.

    Raises:
        ValueError: if two observed sites, or the two programs, are scaled differently.
    """
    observed = [s for s in sample_sites(model_trace) if s[1]["is_observed"]]
    latents = [s for s in sample_sites(model_trace) if not s[1]["is_observed"]]
    first, site = (observed or latents)[0]
    for name, other in observed:
        if _differ(site["scale"], other["scale"]):
            raise ValueError(
                f"the observed sites '{first}' and '{name}' are scaled by {site['scale']} and "
                f"{other['scale']}, but each datum's bound has one scale: scale all sites alike"
            )
    for name, latent in latents:
        if name in guide_trace and _differ(latent["scale"], guide_trace.nodes[name]["scale"]):
            raise ValueError(
                f"site '{name}' is scaled by {latent['scale']} in the model and by "
                f"{guide_trace.nodes[name]['scale']} in the guide: give both programs the same "
                "plates, and wrap both in the same handlers"
            )
    return site["scale"]


def _exponent_of_latents(guide_trace: Any, layout: Layout) -> Any:
    """Return the power that all latents share.

    Raises:
        ValueError: if they have several, where no doubly reparameterised gradient is known.
    """
    sites = guide_sites(guide_trace)
    for name, site in sites:
        if _differ(site["scale"], sites[0][1]["scale"]):
            raise ValueError(
                f"gradient='dreg' needs one KL weight for all latents; got scales "
                f"{sites[0][1]['scale']} at site '{sites[0][0]}' and {site['scale']} at '{name}': "
                "use gradient='plain' or 'stl'"
            )
    return _exponent(sites[0][1]["scale"], layout.scale) if sites else 1.0


def _exponent(own: Any, scale: Any) -> Any:
    if isinstance(own, int | float) and isinstance(scale, int | float):
        return own / scale
    own, scale = torch.as_tensor(own), torch.as_tensor(scale)
    return torch.where(own == scale, 1.0, own / scale)


def _differ(one: Any, other: Any) -> bool:
    if one is other or is_fake(one) or is_fake(other):
        return False
    return not torch.equal(*torch.broadcast_tensors(torch.as_tensor(one), torch.as_tensor(other)))


def _check_defined(log_w: Tensor, *traces: Any) -> None:
    if is_fake(log_w):
        return
    undefined = log_w.isnan() | (log_w == torch.inf)
    if undefined.any():
        datum = int(undefined.any(0).nonzero()[0])
        bad = [name for trace in traces for name, site in sample_sites(trace) if _is_bad(site)]
        raise UndefinedWeight(
            f"the log-weights of datum {datum} are not defined: the log-probability of "
            f"{' and '.join(repr(name) for name in dict.fromkeys(bad))} is not finite there"
        )


def _is_bad(site: Any) -> bool:
    term = log_prob(site)
    return bool((term.isnan() | (term == torch.inf)).any())
