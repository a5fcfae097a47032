"""What every objective on log-weights shares."""

from __future__ import annotations

import abc
import functools
from typing import Any, ClassVar, final

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from torch import Tensor

from pyrovae.objectives.gradients import (
    GRADIENTS,
    Bound,
    Draw,
    Gradient,
    Programs,
    draw,
    surrogate,
)
from pyrovae.weights.log_weights import trace_pair

__all__ = ["LowerBound", "Objective", "product_of"]


class Objective(ELBO, abc.ABC):
    """A loss for SVI from one bound on log-weights.

    Args:
        particles: K, drawn at once in a plate at dim -2.
        gradient: "plain", "stl" or "dreg".

    Raises:
        ValueError: if there is no particle or no such estimator.
    """

    raises: ClassVar[str] = ""
    warning: ClassVar[str] = ""

    def __init__(self, particles: int, gradient: Gradient) -> None:
        if not _is_count(particles):
            raise ValueError(f"a bound needs at least one particle; got {particles}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient is one of {', '.join(GRADIENTS)}; got {gradient!r}")
        super().__init__(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        self.gradient: Gradient = gradient

    @final
    def __str__(self) -> str:  # noqa: D105
        particles = "particle" if self.num_particles == 1 else "particles"
        return (
            f"{self.raises}{type(self).__name__}, {self.num_particles} {particles}{self.warning}"
        )

    @final
    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        model, guide = (functools.partial(program, **kwargs) for program in (model, guide))
        return trace_pair(model, guide, *args, particles=self.num_particles)

    @abc.abstractmethod
    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return a draw and the loss of each datum, [N], with the gradient that trains."""

    @final
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss, in nats summed over data.

        Raises:
            ValueError: as `log_weights`, and as `estimators.draw`.
        """
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    @final
    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss as a tensor to take the gradient of."""
        model, guide = (functools.partial(program, **kwargs) for program in (model, guide))
        drawn, losses = self.losses(Programs(model, guide, args, self.num_particles))
        return (drawn.layout.scale * losses).sum()

    @final
    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss and add its gradient to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)


class LowerBound(Objective, Bound):
    """A bound that model and guide raise together."""

    @final
    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the negative bound of each datum."""
        drawn = draw(programs, self.gradient)
        return drawn, -surrogate(self, drawn, self.gradient)


def product_of(m: int, k: int) -> int:
    """Return the particles in m bounds of k.

    Raises:
        ValueError: if either is below 1.
    """
    if not (_is_count(m) and _is_count(k)):
        raise ValueError(f"a bound averages m >= 1 bounds of k >= 1 particles; got m={m}, k={k}")
    return m * k


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
