"""Convert flat vectors [N, C * H * W] to images of a shape (C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Shape", "fold", "rotated"]

Shape = tuple[int, ...]
"""The shape of a datum; that of an image is (channels, height, width)."""


def fold(x: Tensor, shape: Shape) -> Tensor:
    """Reshape flat vectors [N, C * H * W] to images [N, H, W, C] on the CPU.

    Raises:
        ValueError: if the shape is not that of an image, or x does not consist of such rows.
    """
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1:
        raise ValueError(
            f"an image has the shape (channels, height, width), channels 1 or 3; got {shape}"
        )
    if x.ndim != 2 or len(x) < 1 or x.shape[1] != math.prod(shape):
        raise ValueError(
            f"images of shape {tuple(shape)} are flat vectors [N, {math.prod(shape)}], N >= 1; "
            f"got {tuple(x.shape)}"
        )
    return x.detach().cpu().float().reshape(-1, *shape).permute(0, 2, 3, 1)


def rotated(x: Tensor, shape: Shape, *, turns: int = 1) -> Tensor:
    """Rotate flat images [N, C * H * W] counterclockwise by multiples of 90 degrees.

    Rotated images are useful as novel data with the same pixel statistics.

    Args:
        x: images as flat vectors.
        shape: (channels, height, width).
        turns: the number of rotations by 90 degrees.

    Raises:
        ValueError: if x is not of this shape, or the rotation changes the shape.

    Example:
        >>> rotated(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (1, 2, 2))
        tensor([[2., 4., 1., 3.]])
    """
    fold(x, shape)
    if turns % 2 and shape[1] != shape[2]:
        raise ValueError(
            f"images of {shape[1]} x {shape[2]} pixels keep their shape only when rotated by 180 "
            f"degrees; got turns={turns}"
        )
    return torch.rot90(x.reshape(-1, *shape), turns, (-2, -1)).flatten(1)
