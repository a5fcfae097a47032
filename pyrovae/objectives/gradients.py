r"""Gradient estimators of bounds on log-weights with respect to model and guide.

A bound $B$ maps log-weights [K, N] to [N]. Its plain gradient with respect to the guide has two
terms: the pathwise term through the samples, $z = z(\epsilon, \phi)$, and the score term through
the density $\log q_\phi(z)$. For one particle, the score term has expectation zero; "sticking the
landing" drops it. For several particles, the doubly reparameterized estimator rewrites it as a
pathwise term: it drops the score term and multiplies the gradient with respect to the sample of
particle k by

$$ r_k = 1 - \frac{\partial^2 B}{\partial \ell_k^2} \Big/ \frac{\partial B}{\partial \ell_k},
   \qquad \ell_k = \log w_k, $$

which for IWAE is the normalized weight. Sites that are not reparameterized use the score
function. The baseline of a particle is the bound with its log-weight replaced by the mean of the
others' (VIMCO).

References:
    Roeder, Wu, Duvenaud, 2017. Sticking the Landing.
    Tucker, Lawson, Gu, Maddison, 2019. Doubly Reparameterized Gradient Estimators.
    Bauer, Mnih, 2021. Generalized Doubly Reparameterized Gradient Estimators.
    Mnih, Rezende, 2016. Variational Inference for Monte Carlo Objectives (VIMCO).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from pyrovae.weights import bounds
from pyrovae.weights.auxiliary import check_fixed_transform
from pyrovae.weights.log_joint import (
    Layout,
    check_defined,
    exponent_of_latents,
    guide_sites,
)
from pyrovae.weights.sites import (
    enumeration_dim,
    is_deterministic,
    is_point_mass,
    is_training_factor,
    log_prob,
    objective_sites,
    sample_sites,
)
from pyrovae.weights.traces import Program, check_pair, trace_guide, trace_model

__all__ = [
    "GRADIENTS",
    "Bound",
    "Draw",
    "Gradient",
    "Programs",
    "check_no_factor",
    "check_nothing_enumerated",
    "check_random",
    "detached",
    "draw",
    "gradient_only",
    "model_bound",
    "surrogate",
]

Gradient = Literal["plain", "stl", "dreg"]
GRADIENTS: Final = ("plain", "stl", "dreg")


class Bound(abc.ABC):
    """A reduction of log-weights, with the derivatives that "dreg" needs."""

    @abc.abstractmethod
    def value(self, log_w: Tensor) -> Tensor:
        """Return the bound B, [N], of log-weights [K, N]."""

    @abc.abstractmethod
    def curvature(self, log_w: Tensor) -> Tensor:
        """Return the ratio of the second to the first derivative of B in each log-weight."""


@dataclass(frozen=True)
class Programs:
    """A model and a guide with their arguments, to be run with K particles."""

    model: Program
    guide: Program
    args: tuple[Any, ...]
    particles: int

    def trace_guide(self, given: Any = None) -> Any:
        """Trace the guide, replayed on an earlier trace if given."""
        return trace_guide(self.guide, *self.args, particles=self.particles, given=given)

    def trace_model(self, given: Any) -> Any:
        """Trace the model, replayed on a trace of the guide."""
        return trace_model(self.model, *self.args, particles=self.particles, given=given)


@dataclass(frozen=True)
class Draw:
    """K weighted particles for each datum.

    Attributes:
        guide_trace: the trace of the guide.
        log_w: log-weights [K, N], with enumerated sites summed out, in nats.
        layout: the scale and the enumeration dimensions that the sites share.
        exponent: the power of the latents' densities in the weights: 1, or a KL weight.
        paths: the sampled values that enter log_w, each with its number of event axes.
    """

    guide_trace: Any
    log_w: Tensor
    layout: Layout
    exponent: Any
    paths: list[tuple[Tensor, int]]


def draw(programs: Programs, gradient: Gradient, *, freeze_model: bool = False) -> Draw:
    """Run both programs and compute log-weights with the gradients of an estimator.

    Args:
        programs: the model and the guide.
        gradient: "plain", "stl" or "dreg".
        freeze_model: whether to treat the model's parameters as constants.

    Raises:
        ValueError: as `log_weights`; and naming the site, if "stl" or "dreg" meet a site that is
            not reparameterized or a map of auxiliary sites that has parameters, the guide
            enumerates a latent that the bound would not train, two sites have different scales, or
            a weight is undefined.
    """
    guide_trace = programs.trace_guide()
    _check_enumerated(guide_trace, gradient)
    given: Any = guide_trace
    copies: Any = guide_trace
    paths: list[tuple[Tensor, int]] = []
    if gradient != "plain" or freeze_model:
        check_random(guide_trace)
        given, paths = _with_paths(guide_trace)
        copies = _with_values(given, lambda z: z.detach().requires_grad_(z.requires_grad))
    if gradient != "plain":
        _check_reparameterized(guide_trace, gradient)
        check_fixed_transform(guide_trace, programs.trace_guide, points=gradient == "stl")
    model_trace = programs.trace_model(copies if freeze_model else given)
    check_pair(model_trace, guide_trace)
    if freeze_model or (gradient == "dreg" and len(guide_sites(guide_trace)) > 1):
        check_no_factor(model_trace)
    layout = Layout.trained(model_trace, guide_trace, programs.particles)
    log_p = layout.log_density(objective_sites(model_trace))
    log_q = layout.log_density(guide_sites(guide_trace))
    if freeze_model:
        log_p = _through_draws(log_p, given, copies)
    if gradient != "plain":
        again = layout.log_density(guide_sites(programs.trace_guide(copies)))
        _check_replayed(again, log_q)
        log_q = _through_draws(again, given, copies)
    log_w = layout.summed_out(log_p - log_q)
    check_defined(log_w, model_trace, guide_trace)
    exponent = exponent_of_latents(guide_trace, layout) if gradient == "dreg" else 1.0
    return Draw(guide_trace, log_w, layout, exponent, paths)


def surrogate(bound: Bound, draw: Draw, gradient: Gradient) -> Tensor:
    """Return the bound, [N], with the gradient of the estimator."""
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


class _ThroughDraws(torch.autograd.Function):
    """Give a tensor that was computed at copies of draws the gradient of the draws alone."""

    @staticmethod
    def forward(ctx: Any, computed: tuple[Tensor, Any], *draws: Tensor) -> Tensor:  # noqa: ARG004
        ctx.computed = computed
        return computed[0].detach()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        value, copies = ctx.computed
        slopes = torch.autograd.grad(value, copies, slope, allow_unused=True, retain_graph=True)
        return None, *slopes


def _through_draws(value: Tensor, given: Any, copies: Any) -> Tensor:
    """Return a tensor with its gradient through the draws, and none for any parameter.

    Args:
        value: a tensor that was computed at `copies`.
        given: a trace of the guide.
        copies: the same trace, with copies of the values that are leaves.
    """
    pairs = [
        (given.nodes[name]["value"], site["value"])
        for name, site in guide_sites(copies)
        if site["value"].requires_grad
    ]
    if not (pairs and value.requires_grad):
        return value.detach()
    draws, leaves = zip(*pairs, strict=True)
    found: Tensor = _ThroughDraws.apply((value, leaves), *draws)
    return found


def detached(trace: Any) -> Any:
    """Return a copy of a trace with detached values."""
    return _with_values(trace, Tensor.detach)


def model_bound(programs: Programs, drawn: Draw) -> Tensor:
    """Return IWAE over all particles, [N], with a gradient for the model only."""
    fixed = detached(drawn.guide_trace)
    model_trace = programs.trace_model(fixed)
    check_no_factor(model_trace)
    log_p = drawn.layout.log_density(objective_sites(model_trace))
    log_q = drawn.layout.log_density(guide_sites(fixed)).detach()
    return bounds.iwae(drawn.layout.summed_out(log_p - log_q))


def gradient_only(value: Tensor) -> Tensor:
    """Return zeros with the gradient of a tensor."""
    return value - value.detach()


def _with_paths(trace: Any) -> tuple[Any, list[tuple[Tensor, int]]]:
    """Return the trace with a view of each sample, whose gradient can be scaled separately."""
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
                f"gradient='{gradient}' differentiates through samples, but the guide's site "
                f"'{name}' has the distribution {type(site['fn']).__name__}, which has no "
                "reparameterized sample: use gradient='plain', which uses the score function "
                "there, or a continuous relaxation"
            )
    if gradient == "dreg":
        _check_no_point_mass(guide_trace)


def _check_no_point_mass(guide_trace: Any) -> None:
    """Refuse a point mass, which has no density for "dreg" to differentiate."""
    sites = guide_sites(guide_trace)
    if any(site["infer"].get("is_auxiliary") for _, site in sites):
        return
    for name, site in sites:
        if is_point_mass(site):
            raise ValueError(
                f"gradient='dreg' needs a density, but the guide's site '{name}' is a point mass: "
                "use gradient='stl' or 'plain'"
            )


def _check_enumerated(guide_trace: Any, gradient: Gradient) -> None:
    """Refuse a guide with enumerated sites that the bound would not train correctly.

    The posterior over an enumerated latent c is not part of log sum_c p(x, z_c, c) / q(z_c | c).
    The strata of a mixture (auxiliary sites) are, if samples and densities keep their gradients.
    """
    for name, site in sample_sites(guide_trace):
        if enumeration_dim(site) is None:
            continue
        if not site["infer"].get("is_auxiliary"):
            raise ValueError(
                f"site '{name}' is enumerated, so the guide's posterior over it is not in the "
                "bound and would not be trained: remove it from the guide, or use TraceEnum_ELBO"
            )
        if gradient != "plain" or not all(_has_path(s) for _, s in guide_sites(guide_trace)):
            raise ValueError(
                f"the guide enumerates its site '{name}', which only gradient='plain' with "
                "reparameterized sites supports: use that, TraceEnum_ELBO, or a marginal mixture"
            )


def check_no_factor(model_trace: Any) -> None:
    """Refuse the factors of `free_bits` and `capacity`, whose gradients belong to both programs.

    Raises:
        ValueError: if the model has such a factor; the message names it.
    """
    for name, site in objective_sites(model_trace):
        if is_training_factor(site):
            raise ValueError(
                f"the handler's factor '{name}' needs an objective that trains both programs with "
                "one gradient, or 'dreg' for a guide with one site: use gradient='plain' of a "
                "bound such as IWAE"
            )


def check_random(guide_trace: Any) -> None:
    """Refuse a guide that gives one value probability one, which has no density to train by.

    Raises:
        ValueError: if there is such a site; the message names it.
    """
    for name, site in guide_sites(guide_trace):
        if is_deterministic(site["fn"]):
            raise ValueError(
                f"the guide gives one value of site '{name}' probability one, and this objective "
                "or gradient differentiates a density: train codes with gradient='plain' of a "
                "lower bound, or with pyro.infer.Trace_ELBO"
            )


def check_nothing_enumerated(guide_trace: Any) -> None:
    """Refuse a guide with enumerated sites.

    Raises:
        ValueError: if there is one; the message names it.
    """
    for name, site in sample_sites(guide_trace):
        if enumeration_dim(site) is not None:
            raise ValueError(
                f"the guide enumerates its site '{name}', but wake-sleep fits q to single "
                "samples: use a marginal mixture, or another objective"
            )


def _check_replayed(again: Tensor, log_q: Tensor) -> None:
    """Check that a guide has the same densities when it is replayed on its own samples."""
    if not is_fake(again) and not torch.allclose(again, log_q, rtol=1e-3, atol=1e-2):
        raise ValueError(
            "the guide returned different densities when it was replayed on its own samples. "
            "Either it has randomness outside its sites, such as dropout (disable it with "
            ".eval()), or it contains a flow that does not invert exactly; or use "
            "gradient='plain'"
        )


def _score_function(bound: Bound, log_w: Tensor, score: Tensor) -> Tensor:
    """Return zeros [N] with the score-function gradient and leave-one-out baselines."""
    learned = (bound.value(log_w) - _without_each(bound, log_w)).detach()
    return gradient_only((learned * score).sum(0))


def _without_each(bound: Bound, log_w: Tensor) -> Tensor:
    """Return the bound with log-weight k replaced by the others' mean, [K, N], 0 if infinite."""
    particles = len(log_w)
    if particles == 1:
        return torch.zeros_like(log_w)
    own = torch.eye(particles, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    others = torch.where(own, 0.0, log_w).sum(1) / (particles - 1)
    replaced = torch.where(own, others, log_w)
    found = bound.value(replaced.transpose(0, 1).reshape(particles, -1)).reshape(log_w.shape)
    return torch.where(found.isfinite(), found, 0.0)
