"""Masked convolutions: the output at a pixel depends only on the pixels before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyrovae.nets.blocks import Offset, Residual, on_images
from pyrovae.nets.heads import join
from pyrovae.parts import Part

__all__ = ["MaskedConvolution", "PixelCNN"]


class MaskedConvolution(nn.Module):
    """A convolution whose kernel is masked to the pixels before the center, in raster order.

    Args:
        width: channels of the input.
        following: channels of the output.
        size: side of the kernel, odd.
        sees_itself: whether the mask includes the center (mask "B" of the paper, else "A").

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, 2016. Pixel Recurrent Neural Networks.

    Example:
        >>> MaskedConvolution(1, 1, 3, sees_itself=False).mask
        tensor([[1., 1., 1.],
                [1., 0., 0.],
                [0., 0., 0.]])
    """

    mask: Tensor

    def __init__(self, width: int, following: int, size: int, *, sees_itself: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, following, size, padding=size // 2)
        before = torch.arange(size**2).reshape(size, size) < size**2 // 2 + sees_itself
        self.register_buffer("mask", before.float(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map [N, width, H, W] to [N, following, H, W]."""
        inner = self.convolution
        return nn.functional.conv2d(
            maps, inner.weight * self.mask, inner.bias, padding=inner.padding
        )


class PixelCNN(Part):
    r"""Map an image x and feature maps h to logits $f_i(x_{<i}, h)$, one for each pixel.

    The network is a masked 7 x 7 convolution of the image plus a 1 x 1 convolution of the
    features, followed by residual blocks of masked 3 x 3 convolutions. Pixels are in raster
    order. There is no normalization, because it would leak later pixels. Stacked masks have a
    blind spot above and to the right, so some earlier pixels are ignored; the product of the
    conditionals is a normalized density regardless.

    Args:
        shape: (1, height, width) of the image.
        features: the number F of channels of h, which has the image's height and width.
        channels: the width of the hidden layers.
        blocks: the number of residual blocks.

    Raises:
        ValueError: if the image does not have one channel, or an input has the wrong width.

    References:
        van den Oord, Kalchbrenner, Kavukcuoglu, 2016. Pixel Recurrent Neural Networks.
        Gulrajani et al., 2017. PixelVAE: A Latent Variable Model for Natural Images.

    Example:
        >>> import torch
        >>> from pyrovae.nets import PixelCNN
        >>> net = PixelCNN((1, 28, 28), 4)
        >>> net(torch.zeros(3, 784), torch.zeros(5, 3, 4 * 784)).shape
        torch.Size([5, 3, 784])
    """

    def __init__(
        self, shape: tuple[int, int, int], features: int, *, channels: int = 32, blocks: int = 4
    ) -> None:
        super().__init__()
        if len(shape) != 3 or shape[0] != 1 or min(shape) < 1:
            raise ValueError(
                "PixelCNN takes images of one channel, (1, height, width); got "
                f"{tuple(shape)}. Use a ConvDecoder for color images"
            )
        self.shape, self.features = tuple(shape), features
        self.first = MaskedConvolution(1, channels, 7, sees_itself=False)
        self.condition = nn.Conv2d(features, channels, 1)
        layers = [_block(channels) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(channels, 1, 1, bias=False))
        self.offset = Offset(math.prod(shape))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Map images [..., H * W] and features [..., F * H * W] to logits [..., H * W]."""
        _, height, width = self.shape
        size = height * width
        before = on_images(self.first, join((x,), size, self), (1, height, width))
        maps = (self.features, height, width)
        given = on_images(self.condition, join((h,), self.features * size, self), maps)
        hidden = before + given
        logits: Tensor = self.layers(hidden.reshape(-1, *hidden.shape[-3:]))
        flat: Tensor = self.offset(logits.reshape(*hidden.shape[:-3], size))
        return flat


def _block(channels: int) -> Residual:
    masked = MaskedConvolution(channels, channels, 3, sees_itself=True)
    return Residual(nn.Sequential(nn.ReLU(), masked, nn.ReLU(), nn.Conv2d(channels, channels, 1)))
