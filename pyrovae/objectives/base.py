"""Base classes of objectives, and of those on log-weights."""

from __future__ import annotations

import abc
import functools
from typing import Any, ClassVar, final

import torch
from pyro.infer import ELBO
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
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
from pyrovae.types import Program
from pyrovae.weights.traces import trace_pair

__all__ = ["Loss", "LowerBound", "Objective", "check_groups"]


class Loss(ELBO, abc.ABC):
    """A loss for SVI, given as a tensor with a gradient."""

    @abc.abstractmethod
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss as a scalar tensor with a gradient, in nats, summed over data."""

    @final
    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a float.

        Raises:
            ValueError: as `differentiable_loss`.
        """
        with torch.no_grad():
            return _number(self.differentiable_loss(model, guide, *args, **kwargs))

    @final
    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Return the loss as a float and accumulate its gradient in the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return _number(loss)


class Objective(Loss):
    """A loss for SVI that is computed from log-weights [K, N].

    Args:
        particles: the number K of particles, sampled at once in a plate at dim -2.
        gradient: "plain", "stl" or "dreg" (see `pyrovae.objectives`).

    Raises:
        ValueError: if `particles` is not a positive integer, or the gradient is unknown.
    """

    raises: ClassVar[str] = ""
    warning: ClassVar[str] = ""

    def __init__(self, particles: int, gradient: Gradient) -> None:
        if not _is_count(particles):
            raise ValueError(f"a bound needs at least one particle; got {particles}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")
        super().__init__(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
        self.gradient: Gradient = gradient

    @final
    def __str__(self) -> str:  # noqa: D105
        particles = "particle" if self.num_particles == 1 else "particles"
        return (
            f"{self.raises}{type(self).__name__}, {self.num_particles} {particles}{self.warning}"
        )

    @final
    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        model, guide = (functools.partial(program, **kwargs) for program in (model, guide))
        return trace_pair(model, guide, *args, particles=self.num_particles)

    @abc.abstractmethod
    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the particles and the loss of each datum, [N], with the training gradient."""

    @final
    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss as a scalar tensor with a gradient, in nats, summed over data.

        Raises:
            ValueError: as `log_weights`; and naming the site, if "stl" or "dreg" meet a site that
                is not reparameterized, or the guide enumerates a latent.
        """
        model, guide = (functools.partial(program, **kwargs) for program in (model, guide))
        drawn, losses = self.losses(Programs(model, guide, args, self.num_particles))
        return (drawn.layout.scale * losses).sum()


class LowerBound(Objective, Bound):
    """A lower bound that is maximized over both the model and the guide."""

    @final
    def losses(self, programs: Programs) -> tuple[Draw, Tensor]:
        """Return the particles and the negative bound of each datum, [N]."""
        drawn = draw(programs, self.gradient)
        return drawn, -surrogate(self, drawn, self.gradient)


def check_groups(particles: int, k: int) -> None:
    """Check that particles can be divided into groups of k.

    Raises:
        ValueError: if either is not a positive integer, or k does not divide `particles`.
    """
    if not (_is_count(particles) and _is_count(k)) or particles % k:
        raise ValueError(
            "a mean of bounds needs particles that are a positive multiple of the group size k; "
            f"got particles={particles}, k={k}"
        )


def _number(loss: Tensor) -> Any:
    value = torch_item(loss)
    warn_if_nan(value, "loss")
    return value


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
