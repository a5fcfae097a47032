r"""Gradient estimators: how the gradient of a bound on log-weights reaches model and guide.

A bound $B$ maps log-weights [K, N] to [N]. Its plain gradient reaches the guide by two ways:
through the draws, $z = z(\epsilon, \phi)$, and through the density $\log q_\phi(z)$. At one
particle the second has expectation zero and is mere noise: "sticking the landing" drops it. At
more it is a pathwise gradient in disguise: "doubly reparameterized", the gradient with respect to
the draw of particle k is multiplied by

$$ r_k = 1 - \frac{\partial^2 B}{\partial \ell_k^2} \Big/ \frac{\partial B}{\partial \ell_k},
   \qquad \ell_k = \log w_k, $$

which for IWAE is the normalized weight. A site without reparameterization gets the score
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
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pyrovae.weights.log_joint import (
    Layout,
    check_defined,
    exponent_of_latents,
    guide_sites,
    layout_of,
    log_density,
)
from pyrovae.weights.log_weights import Program, check_pair, trace_guide, trace_model
from pyrovae.weights.sites import (
    enumeration_dim,
    is_point_mass,
    is_training_factor,
    log_prob,
    objective_sites,
    sample_sites,
)

__all__ = [
    "GRADIENTS",
    "Bound",
    "Draw",
    "Frozen",
    "Gradient",
    "Programs",
    "check_no_factor",
    "check_nothing_enumerated",
    "detached",
    "draw",
    "surrogate",
]

Gradient = Literal["plain", "stl", "dreg"]
GRADIENTS: Final = ("plain", "stl", "dreg")


class Bound(abc.ABC):
    """A reduction of log-weights, with what a doubly reparameterized gradient asks of it."""

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
            reparameterized, if the guide sums out what the bound would have to train, if two
            sites are scaled differently, or if a weight is not defined.
    """
    guide_trace = programs.trace_guide()
    _check_enumerated(guide_trace, gradient)
    given: Any = guide_trace
    paths: list[tuple[Tensor, int]] = []
    if gradient != "plain":
        _check_reparameterized(guide_trace, gradient)
        given, paths = _with_paths(guide_trace)
    with Frozen() if freeze_model else contextlib.nullcontext():
        model_trace = programs.trace_model(given)
        check_pair(model_trace, guide_trace)
        if gradient == "dreg" and len(guide_sites(guide_trace)) > 1:
            check_no_factor(model_trace)
        layout = layout_of(model_trace, guide_trace, programs.particles)
        log_p = log_density(objective_sites(model_trace), layout)
    log_q = log_density(guide_sites(guide_trace), layout)
    if gradient != "plain":
        log_q = _density_of_draws(programs, given, (paths, layout), log_q)
    log_w = layout.summed_out(log_p - log_q)
    check_defined(log_w, model_trace, guide_trace)
    exponent = exponent_of_latents(guide_trace, layout) if gradient == "dreg" else 1.0
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


def _check_reparameterized(guide_trace: Any, gradient: Gradient) -> None:
    for name, site in guide_sites(guide_trace):
        if not _has_path(site):
            raise ValueError(
                f"gradient='{gradient}' differentiates through the draws, but the guide's site "
                f"'{name}' is drawn from {type(site['fn']).__name__}, which has no "
                "reparameterized sample: use gradient='plain', which takes the score function "
                "there, or a continuous relaxation"
            )
    if gradient == "dreg":
        _check_no_point_mass(guide_trace)


def _check_no_point_mass(guide_trace: Any) -> None:
    """Refuse a Delta that follows no draw: it has no score for the identity to replace."""
    sites = guide_sites(guide_trace)
    if any(site["infer"].get("is_auxiliary") for _, site in sites):
        return
    for name, site in sites:
        if is_point_mass(site):
            raise ValueError(
                f"gradient='dreg' needs a density, and the guide's site '{name}' is a point mass: "
                "use gradient='stl' or 'plain'"
            )


def _check_enumerated(guide_trace: Any, gradient: Gradient) -> None:
    """Refuse a guide whose classes are summed out, where the bound would not train them right.

    A posterior over a summed-out latent is not part of log sum_c p(x, z_c, c) / q(z_c | c). The
    strata of a mixture (auxiliary) are, as long as densities and draws keep their gradients.
    """
    for name, site in sample_sites(guide_trace):
        if enumeration_dim(site) is None:
            continue
        if not site["infer"].get("is_auxiliary"):
            raise ValueError(
                f"site '{name}' is summed out, so the guide's posterior of it is not in the bound "
                "and would not be trained: leave it out of the guide, or train with TraceEnum_ELBO"
            )
        if gradient != "plain" or not all(_has_path(s) for _, s in guide_sites(guide_trace)):
            raise ValueError(
                f"the guide sums over its site '{name}', for which only gradient='plain' with "
                "reparameterized sites is known: use that, TraceEnum_ELBO, or a marginal mixture"
            )


def check_no_factor(model_trace: Any) -> None:
    """Refuse what free bits and capacity add, where its gradient would not be the guide's own.

    Raises:
        ValueError: naming the factor.
    """
    for name, site in objective_sites(model_trace):
        if is_training_factor(site):
            raise ValueError(
                f"the handler's factor '{name}' goes with objectives in which both programs share "
                "one gradient, and with 'dreg' for a guide of one site: use gradient='plain'"
            )


def check_nothing_enumerated(guide_trace: Any) -> None:
    """Refuse a guide with strata where every site needs a density of its own.

    Raises:
        ValueError: naming the site.
    """
    for name, site in sample_sites(guide_trace):
        if enumeration_dim(site) is not None:
            raise ValueError(
                f"the guide sums over its site '{name}', and wake-sleep fits q at single draws: "
                "use a marginal mixture, or another objective"
            )


def _density_of_draws(programs: Programs, given: Any, draw_paths: Any, log_q: Tensor) -> Tensor:
    """Score the draws again, with the gradient that reaches log q through them alone."""
    paths, layout = draw_paths
    again = log_density(guide_sites(programs.trace_guide(given)), layout)
    if not is_fake(again) and not torch.allclose(again, log_q, rtol=1e-3, atol=1e-2):
        raise ValueError(
            "the guide gave other densities when it was run again at its own draws: it draws "
            "noise beside its sites, as dropout does (switch it off with .eval()), or a flow in "
            "it does not invert exactly; or use gradient='plain'"
        )
    through = [(z, event_dim) for z, event_dim in paths if z.requires_grad and again.requires_grad]
    found = again.detach()
    slopes = (
        torch.autograd.grad(again.sum(), [z for z, _ in through], allow_unused=True)
        if through
        else ()
    )
    for (z, event_dim), slope in zip(through, slopes, strict=True):
        if slope is not None:
            found = found + _summed(slope * (z - z.detach()), event_dim)
    return found


def _summed(values: Tensor, event_dim: int) -> Tensor:
    return values.sum(tuple(range(-event_dim, 0))) if event_dim else values


def _score_function(bound: Bound, log_w: Tensor, score: Tensor) -> Tensor:
    """Return zeros [N] with the score-function gradient, its baseline left one particle out."""
    learned = (bound.value(log_w) - _without_each(bound, log_w)).detach()
    term = (learned * score).sum(0)
    return term - term.detach()


def _without_each(bound: Bound, log_w: Tensor) -> Tensor:
    """Return [K, N]: the bound if log-weight k were the others' mean; 0 if they give none."""
    particles = len(log_w)
    if particles == 1:
        return torch.zeros_like(log_w)
    own = torch.eye(particles, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    others = torch.where(own, 0.0, log_w).sum(1) / (particles - 1)
    replaced = torch.where(own, others, log_w)
    found = bound.value(replaced.transpose(0, 1).reshape(particles, -1)).reshape(log_w.shape)
    return torch.where(found.isfinite(), found, 0.0)
