"""What goes into a network and what comes out of it: joined inputs, positive outputs."""

from __future__ import annotations

from typing import Final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.data.domains import flat_line

__all__ = [
    "SMALLEST_SCALE",
    "diagonal_normal",
    "join",
    "positive",
    "set_last_bias",
    "unconstrained",
]

SMALLEST_SCALE: Final = 1e-5


def positive(h: Tensor) -> Tensor:
    r"""Map a network's output to a scale, $\log(1 + e^h) + 10^{-5}$.

    The value is finite and its square is a normal float32 for every |h| < 1e18: an exponential
    overflows at h = 50 once it is squared, and a bare softplus underflows at h = -50.

    Example:
        >>> import torch
        >>> positive(torch.tensor([-50.0, 0.0, 50.0]))
        tensor([1.0000e-05, 6.9316e-01, 5.0000e+01])
    """
    return nn.functional.softplus(h) + SMALLEST_SCALE


def unconstrained(scale: Tensor) -> Tensor:
    r"""Invert `positive`: return the network's output at which a scale is this one.

    Example:
        >>> import torch
        >>> positive(unconstrained(torch.tensor([0.01, 1.0, 100.0])))
        tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """
    above = scale - SMALLEST_SCALE
    return above + torch.log(-torch.expm1(-above))


def join(inputs: tuple[Tensor, ...], size: int, owner: nn.Module) -> Tensor:
    """Concatenate inputs along the last axis, leading axes broadcast, and check the width.

    Raises:
        ValueError: if the joined width is not `size`, or the dtype is not that of the weights.
    """
    joined = inputs[0]
    if len(inputs) > 1:
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        joined = torch.cat([x.expand(*lead, x.shape[-1]) for x in inputs], dim=-1)
    name = type(owner).__name__
    if joined.ndim == 0 or joined.shape[-1] != size:
        shapes = " + ".join(str(tuple(x.shape)) for x in inputs)
        image = len(inputs) == 1 and joined.ndim > 2 and joined[0].numel() == size
        remedy = f"Images are flat vectors here: {flat_line(joined)}"
        if not image:
            remedy = f"Give it {size} numbers in a row, or make it for as many as there are"
        if any(x.ndim == 1 for x in inputs[1:]):
            remedy = (
                "A context [N] is given as columns: torch.nn.functional.one_hot(label, classes)"
                ".float(), value[:, None]; labels that are no context stay out: give x alone"
            )
        raise ValueError(f"{name} expected inputs [..., {size}]; got {shapes}. {remedy}")
    wanted = next(owner.parameters()).dtype
    if joined.dtype != wanted:
        raise ValueError(
            f"{name} has weights of {wanted}; got inputs of {joined.dtype}. "
            f"Convert them with x.to({wanted})"
        )
    return joined


def set_last_bias(net: nn.Module, output: Tensor) -> None:
    """Make a network's output start around given values: set the bias of its last layer.

    Where that bias has one entry per channel of a flat image, it becomes the channel's mean.

    Raises:
        ValueError: if the last layer has no bias, or one that does not divide the output.
    """
    last = list(net.modules())[-1]
    bias = getattr(last, "bias", None)
    wanted = output.numel()
    if not isinstance(bias, nn.Parameter) or (
        wanted != bias.numel() if isinstance(last, nn.Linear) else wanted % bias.numel()
    ):
        met = "none" if bias is None else tuple(bias.shape)
        raise ValueError(
            f"expected a network that ends in a layer with a bias of width {output.numel()} (or "
            f"one per channel); got {type(last).__name__} with bias {met}"
        )
    with torch.no_grad():
        bias.copy_(output.reshape(bias.numel(), -1).mean(1))


def diagonal_normal(parameters: Tensor, owner: nn.Module) -> dist.Distribution:
    """Return the normal of D means and D unconstrained scales, [..., 2 D], for a part.

    Raises:
        ValueError: naming the part, if the width is odd or 0.
    """
    width = parameters.shape[-1]
    if width % 2 or width == 0:
        raise ValueError(
            f"{type(owner).__name__} expected a network with an even number of outputs, 2 D for "
            f"D latent dimensions; got {width}"
        )
    loc, scale = parameters.chunk(2, dim=-1)
    return dist.Normal(loc, positive(scale)).to_event(1)
