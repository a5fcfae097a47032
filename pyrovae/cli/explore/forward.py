"""The forward pass of a decoder that is written as data, in torch.

A decoder is a list of layers, each a dictionary with its kind and numbers. `decode.js` has the
same kinds, in the same order, and computes them in a browser; this module checks a decoder when
it is written. Values are [N, ...] here and [...] there, so axes are counted from the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

import pyrovae as pv

__all__ = ["ACTIVATIONS", "Layer", "forward"]

Layer = dict[str, Any]

discretized = pv.distributions.discretized

ACTIVATIONS: Final = (
    *("relu", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "hardshrink", "softshrink"),
    *("softsign", "logsigmoid", "tanhshrink"),
)
"""The kinds that are functions of torch of the same name, and of the same further arguments."""


def forward(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Apply layers, whose numbers are tensors, to inputs [N, ...].

    Example:
        >>> doubled = {"kind": "scale", "by": 2.0, "plus": 0.0}
        >>> forward([doubled, {"kind": "relu"}], torch.ones(1, 2))
        tensor([[2., 2.]])
    """
    for layer in layers:
        x = KINDS[layer["kind"]](layer, x)
    return x


def _activation(layer: Layer, x: Tensor) -> Tensor:
    further = {name: value for name, value in layer.items() if name != "kind"}
    out: Tensor = getattr(F, layer["kind"])(x, **further)
    return out


def _prelu(layer: Layer, x: Tensor) -> Tensor:
    slope = layer["slope"]
    if len(slope) > 1:
        slope = slope.reshape(-1, *[1] * (x.ndim - 2))
    return torch.where(x > 0, x, slope * x)


def _channels(layer: Layer, x: Tensor) -> Tensor:
    scale, shift = (layer[key].reshape(-1, *[1] * (x.ndim - 2)) for key in ("scale", "shift"))
    return scale * x + shift


def _convolution(layer: Layer, x: Tensor) -> Tensor:
    how = {key: layer[key] for key in ("stride", "padding", "dilation", "groups")}
    return F.conv2d(x, layer["weight"], layer["bias"], **how)


def _transposed(layer: Layer, x: Tensor) -> Tensor:
    how = {
        key: layer[key] for key in ("stride", "padding", "output_padding", "groups", "dilation")
    }
    return F.conv_transpose2d(x, layer["weight"], layer["bias"], **how)


def _repeat(layer: Layer, x: Tensor) -> Tensor:
    down, right = layer["by"]
    return x.repeat_interleave(down, -2).repeat_interleave(right, -1)


def _crop(layer: Layer, x: Tensor) -> Tensor:
    height, width = layer["to"]
    return x[..., :height, :width]


def _columns(layer: Layer, x: Tensor) -> Tensor:
    parts = [forward(branch, x) for branch in layer["branches"]]
    return torch.cat(parts, -1)[..., layer["place"]]


def _beside(layer: Layer, x: Tensor) -> Tensor:
    return torch.cat([forward(layer["layers"], x[..., :-1]), x[..., -1:]], -1)


def _block(layer: Layer, x: Tensor) -> Tensor:
    return x.unflatten(-1, (layer["blocks"], -1))[..., 0, :]


def _beta(_: Layer, x: Tensor) -> Tensor:
    logits, raw = x.chunk(2, -1)
    a, b = (
        pv.nets.positive(raw) * h.sigmoid() + pv.nets.SMALLEST_SCALE for h in (logits, -logits)
    )
    return a / (a + b)


def _means(layer: Layer, x: Tensor) -> Tensor:
    """Means of counts from log-means, or from logits of proportions and a library size."""
    size = x[..., -1:] if layer["library"] else None
    output = x[..., :-1] if layer["library"] else x
    shown = torch.ones_like(output)
    if layer["gated"]:
        output, gates = output.chunk(2, -1)
        shown = torch.sigmoid(-gates)
    return shown * pv.likelihoods.counts.log_mean(output, size).clamp(max=layer["most"]).exp()


def _shares(_: Layer, x: Tensor) -> Tensor:
    return x[..., -1:] * x[..., :-1].softmax(-1)


def _levels(layer: Layer, x: Tensor) -> Tensor:
    return pv.distributions.discretized.Levels(
        x.unflatten(-1, (layer["levels"], -1)).transpose(-1, -2)
    ).mean


def _mixture(layer: Layer, x: Tensor) -> tuple[Tensor, discretized.DiscretizedLogistic]:
    """Return the weights and the components of a mixture, with axes [..., components, pixels]."""
    half = (layer["levels"] - 1) / 2
    logits, loc, raw = x.unflatten(-1, (3, layer["components"], -1)).unbind(-3)
    scale = half * pv.nets.positive(raw)
    parts = discretized.DiscretizedLogistic(half * (1 + loc), scale, layer["levels"])
    return logits.softmax(-2), parts


def _logistics(layer: Layer, x: Tensor) -> Tensor:
    weights, parts = _mixture(layer, x)
    return (weights * parts.mean).sum(-2)


def _level_shares(layer: Layer, x: Tensor) -> Tensor:
    weights, parts = _mixture(layer, x)
    levels = torch.arange(layer["levels"]).to(x)
    shares = [(weights * parts.log_prob(level).exp()).sum(-2) for level in levels]
    return torch.cat(shares, -1)


def _likeliest(layer: Layer, x: Tensor) -> Tensor:
    return x.unflatten(-1, (layer["levels"], -1)).argmax(-2).to(x.dtype)


KINDS: Final[Mapping[str, Callable[[Layer, Tensor], Tensor]]] = {
    "linear": lambda layer, x: F.linear(x, layer["weight"], layer["bias"]),
    **dict.fromkeys(ACTIVATIONS, _activation),
    "prelu": _prelu,
    "glu": lambda layer, x: F.glu(x, layer["axis"]),
    "softmax": lambda layer, x: x.softmax(layer["axis"]),
    "log_softmax": lambda layer, x: x.log_softmax(layer["axis"]),
    "layer_norm": lambda layer, x: F.layer_norm(
        x, layer["shape"], layer["weight"], layer["bias"], layer["eps"]
    ),
    "group_norm": lambda layer, x: F.group_norm(
        x, layer["groups"], layer["weight"], layer["bias"], layer["eps"]
    ),
    "channels": _channels,
    "convolution": _convolution,
    "transposed": _transposed,
    "repeat": _repeat,
    "shuffle": lambda layer, x: F.pixel_shuffle(x, layer["by"]),
    "pick": lambda layer, x: x[..., layer["places"]],
    "reshape": lambda layer, x: x.reshape(-1, *layer["shape"]),
    "crop": _crop,
    "add": lambda layer, x: x + layer["values"],
    "scale": lambda layer, x: layer["by"] * x + layer["plus"],
    "residual": lambda layer, x: x + forward(layer["layers"], x),
    "columns": _columns,
    "beside": _beside,
    "block": _block,
    "tilted": lambda _, x: pv.distributions.continuous_bernoulli.ContinuousBernoulli(x).mean,
    "beta": _beta,
    "means": _means,
    "shares": _shares,
    "levels": _levels,
    "logistics": _logistics,
    "level_shares": _level_shares,
    "above": lambda _, x: (x > 0).to(x.dtype),
    "likeliest": _likeliest,
}
