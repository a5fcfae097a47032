"""Apply an ordinary module of torch, which takes rows [N, ...], to inputs [K, N, ...].

Programs get latents [N, D] in training and [K, N, D] in evaluation. Convolutions, batch
normalization and recurrent layers read another meaning into K. `Folded` makes rows of the leading
axes, runs the module once, and restores them.

`weights.particles` does the same to whole programs, whose sites it reports as [K, N], after test
runs that find out which programs need it. A network in `Folded` broadcasts, so that its program
passes these test runs, and runs wherever there are leading axes: in `decode`, in traversals, in
Pyro's own vectorized objectives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyrovae.parts import Part

__all__ = ["Folded"]


class Folded(Part):
    """Fold the leading axes of the inputs of a module, and unfold those of its outputs.

    Inputs may also be contexts, such as labels [N], columns [N, E] or a mask of the shape of the
    first input; they are expanded over the axes that they lack. Every tensor in the output, which
    may be a tuple or a dictionary, must have one row per row of the input.

    In training mode, batch normalization uses the statistics of all rows together. Measurements
    set modules to evaluation mode, where each row is on its own.

    Args:
        module: takes (x [R, ...], *context) of R rows. A saved run records it if it is a
            `Part`; otherwise pass the part that holds it to `load`.
        event_dim: the number of axes of one datum in the first input: 1 for latents [..., D], 3
            for images [..., C, H, W].

    Raises:
        ValueError: if `event_dim` is below 1, the input has fewer axes, an output has another
            number of rows, or the module takes no context and gets one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from pyrovae.nets import Folded
        >>> decoder = Folded(nn.Sequential(
        ...     nn.Linear(2, 4 * 7 * 7), nn.Unflatten(1, (4, 7, 7)), nn.BatchNorm2d(4),
        ...     nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, stride=4),
        ... ))
        >>> decoder(torch.zeros(5, 3, 2)).shape
        torch.Size([5, 3, 1, 28, 28])
        >>> encoder = Folded(nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Flatten()), event_dim=3)
        >>> encoder(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 196])
    """

    def __init__(self, module: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__()
        if event_dim < 1:
            raise ValueError(f"a datum has at least one axis; got event_dim={event_dim}")
        self.module, self.event_dim = module, event_dim

    def forward(self, x: Tensor, *context: Any) -> Any:
        """Return the module's output, with the leading axes of the inputs."""
        if x.ndim < self.event_dim:
            raise ValueError(
                f"Folded takes inputs with {self.event_dim} axes for each datum; got shape "
                f"{tuple(x.shape)}: change event_dim"
            )
        own = {place: v for place, v in enumerate(context) if isinstance(v, Tensor) and v.ndim}
        split = {place: v.ndim - self._event_dim(v) for place, v in own.items()}
        start = x.ndim - self.event_dim
        lead = torch.broadcast_shapes(
            x.shape[:start], *(v.shape[: split[place]] for place, v in own.items())
        )
        inputs = list(context)
        for place, value in own.items():
            inputs[place] = _rows(value, lead, split[place])
        try:
            out = self.module(_rows(x, lead, start), *inputs)
        except TypeError as error:
            if not context or "positional argument" not in str(error):
                raise
            raise ValueError(
                f"{type(self.module).__name__} takes no context; got {len(context)} besides x "
                f"({error}): write a module that takes it, or give x alone, "
                "pyrovae.data.Labeled(data, labels='drop') of a data set"
            ) from error
        return pytree.tree_map(lambda v: _unfolded(v, lead), out)

    def _event_dim(self, value: Tensor) -> int:
        """Return the number of axes of one datum of a context: as of x, or 1 or 0."""
        return self.event_dim if value.ndim > self.event_dim else min(1, value.ndim - 1)


def _rows(value: Tensor, lead: torch.Size, start: int) -> Tensor:
    event = value.shape[start:]
    return value.expand(*lead, *event).reshape(-1, *event)


def _unfolded(value: Any, lead: torch.Size) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.ndim < 1 or len(value) != math.prod(lead):
        raise ValueError(
            f"Folded needs one row of output for each of {math.prod(lead)} rows of input; got "
            f"shape {tuple(value.shape)}: return a tensor [R, ...] for an input of R rows"
        )
    return value.reshape(*lead, *value.shape[1:])
