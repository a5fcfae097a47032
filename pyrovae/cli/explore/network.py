r"""Write a decoder as data: a list of layers and their weights, which needs no Python to run.

    z  ->  layer 1  ->  ...  ->  layer L  =  E[x | z]

The last layers are the mean of the likelihood. Weights are 32-bit floats, compressed and written
in base64, so that a decoder is one JSON object. `decode.js` computes it in a browser. A decoder
is written only if the layers give what torch gives: they are run (`forward`) and compared.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.cli.explore.forward import Layer, forward
from pyrovae.cli.explore.layers import NotExpressible, layers_of
from pyrovae.measure.most_probable import most_probable
from pyrovae.weights.sites import UndefinedMean, mean_of
from pyrovae.weights.target import evaluation_mode

__all__ = [
    "TOLERANCE",
    "NotExpressible",
    "as_columns",
    "as_data",
    "compressed",
    "packed",
    "unpacked",
    "with_weights",
]

counts = pv.distributions.counts

Heads = dict[type, Callable[[Any], list[Layer]]]

TOLERANCE: Final = 1e-5
"""The largest error of a mean m, in units of 1 + |m|."""

SHARED: Final = "the context is not a tensor with a row for each datum"


@torch.no_grad()
def as_data(vae: Any, z: Tensor, *context: Tensor, likely: bool = False) -> dict[str, Any]:
    r"""Return the decoder of a VAE as data, $(z, c) \mapsto E[x | z, c]$.

    Args:
        vae: the VAE. Its likelihood is one of the library's.
        z: latents [N, D] on which the decoder is checked, two rows or more.
        *context: further arguments of the likelihood, [N, ...]. The decoder takes them as numbers
            after those of z; the mask of a `Masked` likelihood is left out.
        likely: whether entries of finitely many values are decoded to the most probable one in
            place of the mean, as in a row of a table.

    Returns:
        A JSON object: "inputs", the number D + E of inputs; "layers"; "weights", the numbers that
        the layers refer to; "error", the largest error that was met, in units of 1 + |mean|.

    Raises:
        NotExpressible: if a part of the decoder has no such form, its mean has no closed form, or
            the layers do not give torch's numbers to 1e-5.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.cli.explore.network import as_data
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> decoder = as_data(vae, torch.randn(5, 2))
        >>> [layer["kind"] for layer in decoder["layers"]]
        ['linear', 'relu', 'linear', 'sigmoid']
        >>> decoder["error"] < 1e-5
        True
    """
    likelihood = getattr(vae, "likelihood", None)
    if type(likelihood) is pv.likelihoods.Masked:
        likelihood = likelihood.likelihood
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) < 2:
        met = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise NotExpressible(f"the decoder takes latents {met}, where [N, D] is wanted, N > 1")
    with evaluation_mode(vae):
        columns = as_columns(vae, *context)
        if any(len(column) != len(z) for column in columns):
            raise NotExpressible(SHARED)
        inputs = torch.cat([z, *(column.to(z) for column in columns)], -1)
        numbers: list[Tensor] = []
        heads = HEADS | (LIKELY if likely else {})
        layers = _stored(_of_likelihood(likelihood, inputs, len(columns), heads), numbers)
        weights = packed(torch.cat([torch.zeros(0), *numbers]).numpy())
        data = {"inputs": inputs.shape[-1], "layers": layers, "weights": weights}
        return {**data, "error": _error(data, inputs, _wanted(vae, z, *context, likely=likely))}


def as_columns(vae: Any, *context: Any) -> list[Tensor]:
    """Return the context that the decoder takes, [N, E] each: all of it but a mask.

    Raises:
        NotExpressible: if an argument is not a tensor with a row for each datum.
    """
    if type(getattr(vae, "likelihood", None)) is pv.likelihoods.Masked:
        context = context[:-1]
    for value in context:
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise NotExpressible(SHARED)
    return [value.reshape(len(value), -1) for value in context]


def _of_likelihood(likelihood: Any, inputs: Tensor, given: int, heads: Heads) -> list[Layer]:
    """Return the layers from the inputs, latents and `given` contexts, to the mean."""
    if type(likelihood) is pv.likelihoods.Columns:
        trunk = [] if likelihood.trunk is None else _of_net(likelihood.trunk, inputs, given)
        x, given = forward(trunk, inputs), given * (likelihood.trunk is None)
        branches = [_of_likelihood(part, x, given, heads) for part in likelihood.likelihoods]
        return [*trunk, {"kind": "columns", "branches": branches, "place": _places(likelihood)}]
    head = heads.get(type(likelihood))
    if head is None:
        name = type(likelihood).__name__
        raise NotExpressible(f"the mean of a likelihood of class {name} has no form as data")
    if getattr(likelihood, "library", False):
        inner = _of_net(likelihood.net.net, inputs[:, :-1], given - 1)
        return [{"kind": "beside", "layers": inner}, *head(likelihood)]
    return [*_of_net(likelihood.net, inputs, given), *head(likelihood)]


def _places(columns: Any) -> list[int]:
    places: list[int] = columns.place.tolist()
    return places


def _of_net(net: Any, inputs: Tensor, given: int) -> list[Layer]:
    """Return the layers of a network, and its output as one axis."""
    if given and type(net) not in JOINING:
        raise NotExpressible(
            f"a network of class {type(net).__name__} takes a context in a way of its own"
        )
    layers = layers_of(net, inputs)
    output = net(inputs)
    flat = {"kind": "reshape", "shape": [math.prod(output.shape[1:])]}
    return layers if output.ndim == 2 else [*layers, flat]


JOINING: Final = (
    *(pv.nets.MLP, pv.nets.GatedMLP, pv.nets.ResidualMLP),
    *(pv.nets.ConvDecoder, pv.nets.ResNetDecoder),
)
"""Networks that take latents and contexts side by side."""


def _location(likelihood: Any) -> list[Layer]:
    return [{"kind": "block", "blocks": 2}] if likelihood.scale == "network" else []


def _counts(most: float, *, gated: bool = False) -> Callable[[Any], list[Layer]]:
    return lambda likelihood: [
        {"kind": "means", "library": likelihood.library, "gated": gated, "most": most}
    ]


def _shares(likelihood: Any) -> list[Layer]:
    if not likelihood.library:
        raise NotExpressible("a Multinomial without library=True has no mean")
    return [{"kind": "shares"}]


HEADS: Final[Heads] = {
    pv.likelihoods.Bernoulli: lambda _: [{"kind": "sigmoid"}],
    pv.likelihoods.ContinuousBernoulli: lambda _: [{"kind": "tilted"}],
    pv.likelihoods.Beta: lambda _: [{"kind": "beta"}],
    pv.likelihoods.Normal: _location,
    pv.likelihoods.Laplace: _location,
    pv.likelihoods.StudentT: _location,
    pv.likelihoods.Poisson: _counts(counts.HIGHEST_LOG_MEAN),
    pv.likelihoods.NegativeBinomial: _counts(counts.LARGEST_LOG),
    pv.likelihoods.ZeroInflatedNegativeBinomial: _counts(
        pv.distributions.counts.LARGEST_LOG, gated=True
    ),
    pv.likelihoods.Multinomial: _shares,
    pv.likelihoods.Categorical: lambda of: [{"kind": "levels", "levels": of.classes}],
    pv.likelihoods.DiscretizedLogisticMixture: lambda of: [
        {"kind": "logistics", "components": of.components, "levels": of.levels}
    ],
}
"""The layers from the output of a likelihood's network to its mean."""


LIKELY: Final[Heads] = {
    pv.likelihoods.Bernoulli: lambda _: [{"kind": "above"}],
    pv.likelihoods.Categorical: lambda of: [{"kind": "likeliest", "levels": of.classes}],
    pv.likelihoods.DiscretizedLogisticMixture: lambda of: [
        {"kind": "level_shares", "components": of.components, "levels": of.levels},
        {"kind": "likeliest", "levels": of.levels},
    ],
}
"""The layers to the most probable value, for the likelihoods of which `most_probable` finds it."""


def _wanted(vae: Any, z: Tensor, *context: Tensor, likely: bool) -> Tensor:
    """Return what torch decodes."""
    fn: Any = vae.decode(z, *context)
    try:
        mean = mean_of(fn)
    except UndefinedMean as error:
        raise NotExpressible(f"p(x | z) has no mean ({error})") from error
    if not likely:
        return mean
    return most_probable(fn, torch.ones(1, 1, len(z)).to(z), mean)


def _error(data: dict[str, Any], inputs: Tensor, wanted: Tensor) -> float:
    """Run the written decoder, and return its largest error in units of 1 + |mean|."""
    found = forward(with_weights(data), inputs.detach().cpu().float()).double().flatten(1)
    wanted = wanted.detach().cpu().double().flatten(1)
    if found.shape != wanted.shape:
        raise NotExpressible(
            f"the layers give {found.shape[1]} numbers, where torch gives {wanted.shape[1]}"
        )
    error = float(((found - wanted).abs() / (1 + wanted.abs())).max())
    if not error <= TOLERANCE:
        raise NotExpressible(
            f"the layers differ from torch by {error:.1e} of 1 + |mean|, more than {TOLERANCE:g}"
        )
    return error


def packed(numbers: np.ndarray) -> str:
    """Return an array's bytes, compressed and in base64.

    Example:
        >>> import numpy as np
        >>> unpacked(packed(np.float32([1.0, -0.5])), "f4")
        array([ 1. , -0.5], dtype=float32)
    """
    return compressed(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes())


def compressed(content: bytes) -> str:
    """Return bytes, compressed and in base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def unpacked(text: str, dtype: str) -> np.ndarray:
    """Return the flat array that `packed` wrote."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), f"<{dtype}")


def with_weights(data: dict[str, Any]) -> list[Layer]:
    """Return the layers of a decoder with tensors in place of references to its weights."""
    numbers = torch.from_numpy(unpacked(data["weights"], "f4").copy())

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "at" in value:
            shape = value["shape"]
            return numbers[value["at"] : value["at"] + math.prod(shape)].reshape(shape)
        return {key: filled(item) for key, item in value.items()}

    layers: list[Layer] = filled(data["layers"])
    return layers


def _stored(value: Any, numbers: list[Tensor]) -> Any:
    """Move tensors to the list of numbers, and leave their place and shape."""
    if isinstance(value, Tensor):
        place = sum(map(len, numbers))
        numbers.append(value.detach().cpu().float().flatten())
        return {"at": place, "shape": list(value.shape)}
    if isinstance(value, list):
        return [_stored(item, numbers) for item in value]
    if isinstance(value, dict):
        return {key: _stored(item, numbers) for key, item in value.items()}
    return value
