"""Inputs and outputs of networks: concatenated inputs, positive outputs, initial biases."""

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
"""The least value of `positive`."""


def positive(h: Tensor) -> Tensor:
    r"""Map an unconstrained output h to a positive scale, $\log(1 + e^h) + 10^{-5}$.

    The scale and its square are normal float32 numbers for every |h| < 1e18. The square of an
    exponential would overflow at h = 50, and that of a plain softplus underflow at h = -50.

    Example:
        >>> import torch
        >>> from pyrovae.nets import positive
        >>> positive(torch.tensor([-50.0, 0.0, 50.0]))
        tensor([1.0000e-05, 6.9316e-01, 5.0000e+01])
    """
    return nn.functional.softplus(h) + SMALLEST_SCALE


def unconstrained(scale: Tensor) -> Tensor:
    r"""Invert `positive`: return the output h with `positive(h) == scale`.

    Example:
        >>> import torch
        >>> from pyrovae.nets import positive, unconstrained
        >>> positive(unconstrained(torch.tensor([0.01, 1.0, 100.0])))
        tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """
    above = scale - SMALLEST_SCALE
    return above + torch.log(-torch.expm1(-above))


def join(inputs: tuple[Tensor, ...], size: int, owner: nn.Module) -> Tensor:
    """Concatenate inputs along the last axis, broadcast their leading axes, and check the width.

    Args:
        inputs: tensors [..., D_i].
        size: the width that the network takes, the sum of the D_i.
        owner: the network, whose weights set the dtype.

    Raises:
        ValueError: if the total width is not `size`, or the dtype is not that of the weights.
    """
    joined = inputs[0]
    if len(inputs) > 1:
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        joined = torch.cat([x.expand(*lead, x.shape[-1]) for x in inputs], dim=-1)
    name = type(owner).__name__
    if joined.ndim == 0 or joined.shape[-1] != size:
        shapes = " + ".join(str(tuple(x.shape)) for x in inputs)
        image = len(inputs) == 1 and joined.ndim > 2 and joined[0].numel() == size
        remedy = f"Flatten the images: {flat_line(joined)}"
        if not image:
            remedy = f"Give inputs of total width {size}, or change the width of the network"
        if any(x.ndim == 1 for x in inputs[1:]):
            remedy = (
                "Give a context [N] as columns: torch.nn.functional.one_hot(label, classes)"
                ".float() or value[:, None]. If the labels are not a context, give x alone, "
                "pyrovae.data.Labeled(data, labels='drop') of a data set"
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
    """Set the bias of a network's last layer, so that its initial output is near `output`.

    If the bias has one entry per channel of a flat image, it is set to the channel means.

    Raises:
        ValueError: if the last layer has no bias, or its width does not divide that of `output`.
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
    """Return the diagonal normal of D means and D unconstrained scales, [..., 2 D].

    Raises:
        ValueError: if the width is odd or 0; the message names `owner`.
    """
    width = parameters.shape[-1]
    if width % 2 or width == 0:
        raise ValueError(
            f"{type(owner).__name__} expected a network with an even number of outputs, 2 D for "
            f"D latent dimensions; got {width}"
        )
    loc, scale = parameters.chunk(2, dim=-1)
    return dist.Normal(loc, positive(scale)).to_event(1)
