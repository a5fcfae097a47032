"""Networks that act on the last axis and broadcast over all leading axes.

A likelihood gets latents of shape [N, D] in training and [K, N, D] in evaluation, so every
network maps [..., in] to [..., out]. Data are flat vectors: the convolutional networks reshape
the last axis to an image and back, so that they can replace an `MLP`. `Folded` makes a network
that broadcasts of any module of torch, also of one for images [..., C, H, W]. Given several
inputs, `net(z, *context)`, perceptrons and image decoders concatenate them along the last axis;
image encoders take the image alone. No network of the library uses batch normalization, under
which data would depend on each other.
"""

from pyrovae.nets.autoregressive import PixelCNN
from pyrovae.nets.causal import (
    CausalAttention,
    CausalGRU,
    EmbedTokens,
    EncodeSequence,
    WordDropout,
)
from pyrovae.nets.codebooks import Codebook, Lattice, Quantized, Quantizer
from pyrovae.nets.convolutional import ConvDecoder, ConvEncoder, ResNetDecoder, ResNetEncoder
from pyrovae.nets.folded import Folded
from pyrovae.nets.heads import SMALLEST_SCALE, join, positive, set_last_bias, unconstrained
from pyrovae.nets.inputs import EncodeColumns, HideMissing, LogCounts
from pyrovae.nets.ladder import MapsDecoder
from pyrovae.nets.modalities import Modalities
from pyrovae.nets.perceptrons import MLP, GatedMLP, ResidualMLP
from pyrovae.nets.rescaled import Rescaled
from pyrovae.nets.sequences import BackwardGRU
from pyrovae.nets.transformer import CausalTransformer
from pyrovae.nets.vector_quantize import TorchCodebook

__all__ = [
    "MLP",
    "SMALLEST_SCALE",
    "BackwardGRU",
    "CausalAttention",
    "CausalGRU",
    "CausalTransformer",
    "Codebook",
    "ConvDecoder",
    "ConvEncoder",
    "EmbedTokens",
    "EncodeColumns",
    "EncodeSequence",
    "Folded",
    "GatedMLP",
    "HideMissing",
    "Lattice",
    "LogCounts",
    "Modalities",
    "MapsDecoder",
    "PixelCNN",
    "Quantized",
    "Quantizer",
    "ResNetDecoder",
    "ResNetEncoder",
    "Rescaled",
    "ResidualMLP",
    "TorchCodebook",
    "WordDropout",
    "join",
    "positive",
    "set_last_bias",
    "unconstrained",
]
