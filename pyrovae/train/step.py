"""Describe a training step: objective, KL weight, effect handlers, optimizer, clipping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.objectives import handlers as library
from pyrovae.train.precision import layers_in
from pyrovae.types import ContextValue, Program
from pyrovae.weights.kl import latent_order
from pyrovae.weights.sites import check_supports, same_mask, same_scale, sample_sites
from pyrovae.weights.traces import trace_pair

__all__ = ["Handler", "Step", "default_loss"]


@runtime_checkable
class Handler(Protocol):
    """An object that wraps a model and a guide, such as those of `pyrovae.handlers`."""

    def wrap(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """Return the model and the guide to train."""


@dataclass(frozen=True)
class Step:
    r"""Describe a step of training.

    Handlers change the programs that a step trains, and never what is measured: the history shows
    the objective of the handled programs as the loss, and the ELBO of the target beside it. A
    handler is one of `pyrovae.handlers`, an object with a method `wrap(model, guide)` that returns
    a model and a guide, or a callable that takes a program and returns one. Every effect handler
    of Pyro is such a callable; it is applied to the model and to the guide. The first handler is
    the innermost.

    Attributes:
        optim: a `pyrovae.Optim`, a Pyro optimizer, or a torch optimizer over the parameters; None
            is Adam with a learning rate of 1e-3. A Pyro scheduler advances each epoch;
            `ReduceLROnPlateau` gets the validation ELBO if there is one, else the loss.
        loss: an objective of `pyro.infer` or of `pyrovae.objectives`. None is `TraceEnum_ELBO` if
            a site is enumerated, else `TraceMeanField_ELBO` if every latent site is
            reparameterized and both programs sample in the same order, else `Trace_ELBO`.
        kl_weight: the weight $\beta \ge 0$ of the KL term: a number, or a function of the number
            of epochs so far (with fractions), such as `schedules.linear(0, 1, 10)`.
        handlers: see above.
        compile: whether `pyrovae.SVI` compiles the step. None compiles in trainings of 5,000 steps
            or more, if the target and the handlers are the library's.
        clip_norm: the largest norm of the gradient over all parameters together, above 0; None
            does not clip.
        accumulate: the number of batches whose gradients make one step, which is then that of
            one batch of all their data.
        precision: "bf16" computes the networks' linear layers and convolutions in bfloat16, and
            log-probabilities and all else in the dtype of the weights. None computes everything
            in that dtype, as every measurement does.

    Raises:
        ValueError: for a weight that is neither a number nor a function, a handler of another
            form, a KL weight among the handlers, fewer batches than one, and another precision.

    Example:
        >>> import pyro
        >>> from pyrovae import Step
        >>> class Tempered(pyro.poutine.messenger.Messenger):  # the likelihood to the power 1/2
        ...     def _pyro_sample(self, msg):
        ...         if msg["is_observed"]:
        ...             msg["scale"] = 0.5 * msg["scale"]
        >>> step = Step(handlers=[Tempered()], kl_weight=0.5, clip_norm=10.0)
    """

    optim: PyroOptim | Optimizer | None = None
    loss: ELBO | None = None
    kl_weight: float | Callable[[float], float] = 1.0
    handlers: Sequence[Handler | Callable[[Program], Program]] = ()
    compile: bool | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str | None = None

    def __post_init__(self) -> None:
        """Check the precision, the weight and the handlers."""
        if self.precision is not None:
            layers_in(self.precision)
        if not (callable(self.kl_weight) or isinstance(self.kl_weight, int | float)):
            raise ValueError(
                "kl_weight is a number, or a function of the number of epochs such as "
                f"schedules.linear(0, 1, 10); got {self.kl_weight!r}"
            )
        listed = isinstance(self.handlers, Sequence) and not isinstance(self.handlers, str)
        if not listed or not all(map(_is_handler, self.handlers)):
            raise ValueError(
                "handlers are a list of handlers, such as [free_bits(0.1)] or "
                f"[poutine.scale(scale=0.5)]; got {self.handlers!r}"
            )
        if any(isinstance(handler, library.kl_weight) for handler in self.handlers):
            raise ValueError(
                "the KL weight is given once, as Step(kl_weight=0.5): kl_weight is among the "
                "handlers, where it would multiply that weight"
            )
        if not (isinstance(self.accumulate, int) and self.accumulate >= 1):
            raise ValueError(f"a step takes one batch or more; got accumulate={self.accumulate}")

    def steps_in(self, batches: int | None) -> int | None:
        """Return the number of steps in so many batches."""
        return None if batches is None else -(-batches // self.accumulate)

    def handled(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """Return the model and the guide under the handlers, without the KL weight."""
        if self.precision is not None:
            model, guide = (layers_in(self.precision)(program) for program in (model, guide))
        for handler in self.handlers:
            if isinstance(handler, Handler):
                model, guide = handler.wrap(model, guide)
            else:
                model, guide = handler(model), handler(guide)
        return model, guide

    def has_library_handlers(self) -> bool:
        """Tell whether every handler is one of `pyrovae.handlers`."""
        return all(isinstance(handler, library.Handler) for handler in self.handlers)


def _is_handler(handler: Any) -> bool:
    wraps = isinstance(handler, Handler) or callable(handler)
    return wraps and not isinstance(handler, type)


def default_loss(model: Program, guide: Program, x: Tensor, *context: ContextValue) -> ELBO:
    """Return the objective of `pyro.infer` that suits the sites of a model and a guide."""
    model_trace, guide_trace = trace_pair(model, guide, x, *context, particles=1)
    check_supports(model_trace, guide_trace)
    latents = [
        site
        for trace in (model_trace, guide_trace)
        for _, site in sample_sites(trace)
        if not site["is_observed"]
    ]
    if any(site["infer"].get("_enumerate_dim") is not None for site in latents):
        return TraceEnum_ELBO(max_plate_nesting=1)
    if not all(site["fn"].has_rsample for site in latents):
        return Trace_ELBO()
    return TraceMeanField_ELBO() if _has_closed_forms(model_trace, guide_trace) else Trace_ELBO()


def _has_closed_forms(model_trace: Any, guide_trace: Any) -> bool:
    """Return whether closed-form KLs of the sites add up to the KL of two traces.

    Both programs must sample the same sites in the same order, with the same masks and scales,
    since `TraceMeanField_ELBO` reads those of the guide alone.
    """
    names = latent_order(guide_trace)
    pairs = [(guide_trace.nodes[name], model_trace.nodes.get(name)) for name in names]
    return names == latent_order(model_trace) and all(
        same_mask(site["mask"], other["mask"]) and same_scale(site["scale"], other["scale"])
        for site, other in pairs
    )
