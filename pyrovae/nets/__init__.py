"""Networks that read the last axis and broadcast over every axis before it.

A likelihood meets latents of shape [N, D] while it trains and [K, N, D] while it is measured, so
every network maps [..., in] to [..., out]. Data are flat vectors: the convolutional pair folds
the last axis to an image and unfolds it again, which makes it a drop-in replacement of an `MLP`.
Given several inputs (`net(z, *context)`), a perceptron or an image's decoder concatenates them
along the last axis; an image's encoder takes the image alone. No network normalizes over a batch,
which would tie its data together.
"""

from pyrovae.nets.autoregressive import PixelCNN
from pyrovae.nets.convolutional import ConvDecoder, ConvEncoder, ResNetDecoder, ResNetEncoder
from pyrovae.nets.heads import SMALLEST_SCALE, join, positive, set_last_bias, unconstrained
from pyrovae.nets.inputs import HideMissing, LogCounts
from pyrovae.nets.perceptrons import MLP, GatedMLP, ResidualMLP
from pyrovae.nets.rescaled import Rescaled

__all__ = [
    "MLP",
    "SMALLEST_SCALE",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "HideMissing",
    "LogCounts",
    "PixelCNN",
    "ResNetDecoder",
    "ResNetEncoder",
    "Rescaled",
    "ResidualMLP",
    "join",
    "positive",
    "set_last_bias",
    "unconstrained",
]
