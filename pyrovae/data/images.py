"""Convert flat vectors [N, C * H * W], or images [N, C, H, W], to images of a shape (C, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Shape", "fold", "rotated"]

Shape = tuple[int, ...]
"""The shape of a datum; that of an image is (channels, height, width)."""


def fold(x: Tensor, shape: Shape | None) -> Tensor:
    """Return flat vectors [N, C * H * W] or images [N, C, H, W] as [N, H, W, C] on the CPU.

    The shape (C, H, W) may be None for images, which have their own.

    Raises:
        ValueError: if the shape is not that of an image, or x does not consist of such rows.
    """
    if x.ndim == 4:
        own = (x.shape[1], x.shape[2], x.shape[3])
        if shape is not None and tuple(shape) != own:
            raise ValueError(f"images have the shape {own}; got shape={tuple(shape)}")
        shape, x = own, x.flatten(1)
    if shape is None:
        raise ValueError(
            f"flat vectors need the shape (channels, height, width) of an image; got x of shape "
            f"{tuple(x.shape)} and shape=None"
        )
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


def rotated(x: Tensor, shape: Shape | None, *, turns: int = 1) -> Tensor:
    """Rotate images counterclockwise by multiples of 90 degrees.

    Rotated images are useful as novel data with the same pixel statistics.

    Args:
        x: images as flat vectors, or [N, C, H, W].
        shape: (channels, height, width); None for images [N, C, H, W].
        turns: the number of rotations by 90 degrees.

    Raises:
        ValueError: if x is not of this shape, or the rotation changes the shape.

    Example:
        >>> import torch
        >>> from pyrovae.data import rotated
        >>> rotated(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), (1, 2, 2))
        tensor([[2., 4., 1., 3.]])
    """
    _, height, width, _ = fold(x, shape).shape
    if turns % 2 and height != width:
        raise ValueError(
            f"images of {height} x {width} pixels keep their shape only when rotated by 180 "
            f"degrees; got turns={turns}"
        )
    images = x if shape is None else x.reshape(-1, *shape)
    return torch.rot90(images, turns, (-2, -1)).reshape(x.shape)
