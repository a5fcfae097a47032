"""Write a module of torch as layers, known by its exact class.

A subclass may have a `forward` of its own, so it is refused, as is any class that the table does
not have. Shapes that a module leaves open are those of an example that is passed along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.cli.explore.forward import Layer, forward

__all__ = ["NotExpressible", "layers_of"]


class NotExpressible(ValueError):
    """A decoder that cannot be written as data, and why."""


def layers_of(module: nn.Module, x: Tensor) -> list[Layer]:
    """Return the layers of a module, given an input [N, ...] of it.

    Raises:
        NotExpressible: if the module, or one in it, is not of a known class.
    """
    known = MODULES.get(type(module))
    if known is None:
        raise NotExpressible(f"a module of class {type(module).__name__} has no form as data")
    return known(module, x)


def _chain(modules: Iterable[nn.Module], x: Tensor) -> list[Layer]:
    layers = []
    for module in modules:
        layers += layers_of(module, x)
        x = module(x)
    return layers


def _of_image(net: Any, x: Tensor) -> list[Layer]:
    sides = list(net.shape[1:])
    return [
        *layers_of(net.layers, x),
        {"kind": "crop", "to": sides},
        {"kind": "reshape", "shape": [math.prod(net.shape)]},
        {"kind": "add", "values": net.offset.bias},
    ]


def _rescaled(net: Any, x: Tensor) -> list[Layer]:
    by = 2 / (net.high - net.low)
    first = {"kind": "scale", "by": by, "plus": -by * net.low - 1}
    return [first, *layers_of(net.net, forward([first], x))]


def _folded(net: Any, x: Tensor) -> list[Layer]:
    if net.event_dim != x.ndim - 1:
        raise NotExpressible(f"Folded takes {net.event_dim} axes of each datum, and z has one")
    return layers_of(net.module, x)


def _reshaped(module: nn.Module, x: Tensor) -> list[Layer]:
    return [{"kind": "reshape", "shape": list(module(x).shape[1:])}]


def _linear(module: Any, _: Tensor) -> list[Layer]:
    return [{"kind": "linear", "weight": module.weight, "bias": module.bias}]


def _activation(kind: str, *names: str) -> Callable[[Any, Tensor], list[Layer]]:
    return lambda module, _: [{"kind": kind, **{name: getattr(module, name) for name in names}}]


def _along(kind: str) -> Callable[[Any, Tensor], list[Layer]]:
    def written(module: Any, x: Tensor) -> list[Layer]:
        if module.dim is None or module.dim % x.ndim == 0:
            raise NotExpressible(f"a {type(module).__name__} has the axis {module.dim}, of data")
        return [{"kind": kind, "axis": module.dim % x.ndim - x.ndim}]

    return written


def _layer_norm(module: Any, _: Tensor) -> list[Layer]:
    shape = list(module.normalized_shape)
    weight = torch.ones(shape) if module.weight is None else module.weight
    bias = torch.zeros(shape) if module.bias is None else module.bias
    kept = {"shape": shape, "weight": weight, "bias": bias, "eps": module.eps}
    return [{"kind": "layer_norm", **kept}]


def _group_norm(module: Any, _: Tensor) -> list[Layer]:
    one = torch.ones(module.num_channels)
    weight = one if module.weight is None else module.weight
    bias = 0 * one if module.bias is None else module.bias
    kept = {"groups": module.num_groups, "weight": weight, "bias": bias, "eps": module.eps}
    return [{"kind": "group_norm", **kept}]


def _batch_norm(module: Any, _: Tensor) -> list[Layer]:
    if module.running_mean is None:
        raise NotExpressible(
            "a batch normalization without running statistics depends on the other data"
        )
    scale = (module.running_var + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight
    bias = 0.0 if module.bias is None else module.bias
    return [{"kind": "channels", "scale": scale, "shift": bias - scale * module.running_mean}]


def _convolution(module: Any, x: Tensor) -> list[Layer]:
    """Write a convolution; one of sequences is one of images of height 1."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise NotExpressible(f"a convolution has the padding {module.padding_mode!r}")
    if x.ndim != module.weight.ndim:
        raise NotExpressible(f"a convolution has the input {tuple(x.shape)}")
    flat = module.weight.ndim == 3
    weight = module.weight.unsqueeze(2) if flat else module.weight
    pair = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    how = {key: [one] * flat + list(getattr(module, key)) for key, one in pair.items()}
    kind = "transposed" if module.transposed else "convolution"
    layer = {"kind": kind, "weight": weight, "bias": module.bias, "groups": module.groups, **how}
    if not flat:
        return [layer]
    channels, length = x.shape[1:]
    return [
        {"kind": "reshape", "shape": [channels, 1, length]},
        layer,
        {"kind": "reshape", "shape": list(module(x).shape[1:])},
    ]


def _upsample(module: Any, x: Tensor) -> list[Layer]:
    by = [after / before for after, before in zip(module(x).shape[2:], x.shape[2:], strict=True)]
    if module.mode != "nearest" or len(by) != 2 or any(n % 1 for n in by):
        raise NotExpressible(
            f"an Upsample in the mode {module.mode!r} by {by} has no form as data"
        )
    return [{"kind": "repeat", "by": [int(n) for n in by]}]


_INSIDE: Final = (pv.nets.MLP, pv.nets.GatedMLP, pv.nets.ResidualMLP)
_IMAGES: Final = (pv.nets.ConvDecoder, pv.nets.ResNetDecoder)
_NOTHING: Final = (nn.Identity, nn.Dropout, nn.Dropout2d)
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)

MODULES: Final[dict[type, Callable[[Any, Tensor], list[Layer]]]] = {
    nn.Sequential: _chain,
    **{net: lambda net, x: layers_of(net.layers, x) for net in _INSIDE},
    **dict.fromkeys(_IMAGES, _of_image),
    **dict.fromkeys(_NOTHING, lambda module, x: []),
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    pv.nets.Folded: _folded,
    pv.nets.Rescaled: _rescaled,
    pv.nets.blocks.Residual: lambda net, x: [
        {"kind": "residual", "layers": layers_of(net.inner, x)}
    ],
    pv.nets.blocks.Offset: lambda net, x: [{"kind": "add", "values": net.bias}],
    nn.Flatten: _reshaped,
    nn.Unflatten: _reshaped,
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Upsample: _upsample,
    nn.PixelShuffle: lambda module, x: [{"kind": "shuffle", "by": module.upscale_factor}],
    nn.GLU: _along("glu"),
    nn.Softmax: _along("softmax"),
    nn.LogSoftmax: _along("log_softmax"),
    nn.PReLU: lambda module, x: [{"kind": "prelu", "slope": module.weight}],
    nn.RReLU: lambda module, x: [
        {"kind": "leaky_relu", "negative_slope": (module.lower + module.upper) / 2}
    ],
    nn.LeakyReLU: _activation("leaky_relu", "negative_slope"),
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _activation("hardtanh", "min_val", "max_val"),
    nn.ELU: _activation("elu", "alpha"),
    nn.CELU: _activation("celu", "alpha"),
    nn.SELU: _activation("selu"),
    nn.GELU: _activation("gelu", "approximate"),
    nn.SiLU: _activation("silu"),
    nn.Mish: _activation("mish"),
    nn.Softplus: _activation("softplus", "beta", "threshold"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Tanh: _activation("tanh"),
    nn.Hardtanh: _activation("hardtanh", "min_val", "max_val"),
    nn.Hardsigmoid: _activation("hardsigmoid"),
    nn.Hardswish: _activation("hardswish"),
    nn.Hardshrink: _activation("hardshrink", "lambd"),
    nn.Softshrink: _activation("softshrink", "lambd"),
    nn.Softsign: _activation("softsign"),
    nn.LogSigmoid: _activation("logsigmoid"),
    nn.Tanhshrink: _activation("tanhshrink"),
}
"""How a module of each class is written."""
