"""What one step of training is: the objective, its weight and handlers, the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.optim import PyroOptim
from torch import Tensor

from pyrovae.objectives.handlers import Handler
from pyrovae.weights.kl import latent_order
from pyrovae.weights.log_weights import trace_pair
from pyrovae.weights.sites import check_supports, sample_sites

__all__ = ["Step", "default_loss", "handled"]


@dataclass(frozen=True)
class Step:
    """What one step of training is: an objective, its KL weight and handlers, an optimiser.

    Attributes:
        optim: a Pyro optimiser; Adam at 1e-3 where it is None. A scheduler
            advances each epoch; `ReduceLROnPlateau` is told the validation ELBO, else the loss.
        loss: an objective of `pyro.infer`. Where it is None: `TraceEnum_ELBO` if a site is
            enumerated, else `TraceMeanField_ELBO` if every latent is reparameterised and both
            programs sample in the same order, else `Trace_ELBO`.
        kl_weight: a number, or a function of the epochs gone by (a fraction within an epoch),
            such as `schedules.linear(0, 1, 10)` for a warm-up.
        handlers: of `pyrovae.handlers`, such as `[free_bits(0.1)]`: the step descends the
            objective of the programs that they wrap, and the history shows it as the loss.
        compile: whether `pyrovae.SVI` compiles the step. Where it is None: in trainings of
            5,000 steps or more, of a VAE made of the library's parts.
    """

    optim: PyroOptim | None = None
    loss: ELBO | None = None
    kl_weight: float | Callable[[float], float] = 1.0
    handlers: Sequence[Handler] = ()
    compile: bool | None = None

    def __post_init__(self) -> None:
        """Refuse a weight that is neither a number nor a schedule."""
        if not (callable(self.kl_weight) or isinstance(self.kl_weight, int | float)):
            raise ValueError(
                "kl_weight is a number, or a function of the epochs gone by such as "
                f"schedules.linear(0, 1, 10); got {self.kl_weight!r}"
            )


def handled(model: Any, guide: Any, handlers: Any) -> tuple[Any, Any]:
    """Return the programs that the step trains."""
    if not isinstance(handlers, Sequence) or not all(isinstance(h, Handler) for h in handlers):
        raise ValueError(
            f"handlers are a list of those in pyrovae.handlers, such as [free_bits(0.1)]; got "
            f"{handlers!r}"
        )
    for handler in handlers:
        model, guide = handler.wrap(model, guide)
    return model, guide


def default_loss(model: Any, guide: Any, x: Tensor, *context: Any) -> ELBO:
    """Return the objective of `pyro.infer` of least variance for a pair of programs."""
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
    same_order = latent_order(model_trace) == latent_order(guide_trace)
    if same_order and all(site["fn"].has_rsample for site in latents):
        return TraceMeanField_ELBO()
    return Trace_ELBO()
