"""Networks that read the last axis and broadcast over every axis before it.

A likelihood meets latents of shape [N, D] while it trains and [K, N, D] while it is measured, so
every network maps [..., in] to [..., out]. Data are flat vectors: the convolutional pair folds
the last axis to an image and unfolds it again, which makes it a drop-in replacement of an `MLP`.
Given several inputs (`net(z, *context)`), an `MLP` or `ConvDecoder` concatenates them along the
last axis; a `ConvEncoder` takes the image alone.
"""

from pyrovae.nets.convolutional import ConvDecoder, ConvEncoder
from pyrovae.nets.heads import SMALLEST_SCALE, join, positive, set_last_bias
from pyrovae.nets.perceptrons import MLP

__all__ = [
    "MLP",
    "SMALLEST_SCALE",
    "ConvDecoder",
    "ConvEncoder",
    "join",
    "positive",
    "set_last_bias",
]
