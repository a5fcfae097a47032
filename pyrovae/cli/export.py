r"""Export the encoder and the decoder of a VAE as programs that need no Pyro and no library.

    encoder:  x, c  ->  E[z | x, c], sd[z | x, c]           decoder:  z, c  ->  E[x | z, c]

Each is a program of `torch.export`, in a file .pt2, and on demand a model of ONNX. Both take any
number of data. A program is written only if it gives what torch gives, on data and on single rows.
The files hold weights as plain numbers: no data and no pickle.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.cli import recipes
from pyrovae.cli.measure import opened
from pyrovae.cli.options import Exported
from pyrovae.files.atomic import write_together
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.runs.sources import first
from pyrovae.vae import VAE
from pyrovae.weights.target import evaluation_mode

__all__ = ["TOLERANCE", "NotExportable", "Program", "as_onnx", "export", "programs"]

TOLERANCE: Final = 1e-5
"""The largest difference from torch of a number m, in units of 1 + |m|."""

CHECKED: Final = 256
"""The number of data on which a run's programs are compared with torch."""


class NotExportable(ValueError):
    """A part of a VAE that cannot be exported, and why."""


@dataclass(frozen=True)
class Program:
    """An encoder or a decoder that was exported and compared with torch.

    Attributes:
        content: the file, a program of `torch.export` (.pt2) or a model of ONNX (.onnx).
        inputs: the names of its inputs, in order.
        outputs: the names of its outputs, in order.
        error: the largest difference from torch that was met, in units of 1 + |number|.
    """

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    error: float


def export(folder: Path, options: Exported) -> int:
    """Write the encoder and the decoder of a run, and print what was written.

    Raises:
        ValueError: if neither can be exported, or one differs from torch.
    """
    run = Run(folder)
    vae, source, read = opened(run, options, split=options.split)
    data = first(getattr(source.binarized(read), options.split), CHECKED)
    out = options.out or run.folder / "export"
    with recipes.running(options.recipe):
        found, missing = programs(vae, data.draw(), *data.context, onnx=options.onnx)
    if not found:
        raise NotExportable("; ".join(f"no {part}: {why}" for part, why in missing.items()))
    write_together({out / name: program.content for name, program in found.items()})
    for name, program in found.items():
        takes, gives = ", ".join(program.inputs), ", ".join(program.outputs)
        print(f"written: {out / name}: {takes} -> {gives}, within {program.error:.1e} of torch")
    for part, why in missing.items():
        print(f"not written: the {part}: {why}")
    return 0


@torch.no_grad()
def programs(
    vae: VAE, x: Tensor, *context: Tensor, onnx: bool = False
) -> tuple[dict[str, Program], dict[str, str]]:
    r"""Export the encoder $x, c \mapsto E[z], sd[z]$ and the decoder $z, c \mapsto E[x]$.

    Args:
        vae: the VAE. Its guide is a `guides.Guide`, its likelihood a `likelihoods.Likelihood`.
        x: data [N, ...] on which the programs are compared with torch, two rows or more.
        *context: further arguments of the programs, tensors [N, ...].
        onnx: whether to export models of ONNX too (needs `pyrovae[onnx]`).

    Returns:
        The programs by file name ("encoder.pt2", "decoder.pt2", and .onnx), and why a part cannot
        be exported, by "encoder" or "decoder". An encoder gives no standard deviation if that has
        no closed form.

    Raises:
        ValueError: if a program differs from torch by more than 1e-5 of 1 + |number|, there are
            fewer than two data, or the packages of ONNX are not installed.

    Example:
        >>> import io, torch, pyrovae as pv
        >>> from pyrovae.cli.export import programs
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.zeros(5, 64)
        >>> found, missing = programs(vae, x)
        >>> sorted(found), missing
        (['decoder.pt2', 'encoder.pt2'], {})
        >>> encoder = torch.export.load(io.BytesIO(found["encoder.pt2"].content)).module()
        >>> mean, standard_deviation = encoder(torch.zeros(7, 64))
        >>> torch.allclose(mean, vae.encode(torch.zeros(7, 64)).mean)
        True
    """
    _check_data(x, *context)
    found: dict[str, Program] = {}
    missing: dict[str, str] = {}
    with evaluation_mode(vae), seeded(0), pyro.validation_enabled(is_validate=False):
        for part, make in {"encoder": _encoder, "decoder": _decoder}.items():
            try:
                net, names, inputs = make(vae, x, *context)
                graph = _graph(net, inputs)
            except NotExportable as error:
                missing[part] = str(error)
                continue
            found[f"{part}.pt2"] = _of_torch(graph, net, names, inputs)
            if onnx:
                found[f"{part}.onnx"] = as_onnx(graph, net, names, inputs)
    return found, missing


def _check_data(*values: Any) -> None:
    """Check that data and context have rows: a size of 1 would be taken for a constant."""
    for value in values:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) < 2:
            met = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"export compares programs on tensors with a row for each datum, two or more; got "
                f"{met}"
            )


class _Encoder(nn.Module):
    """Map x and the context to the mean of q(z | x) and its standard deviation, if known."""

    def __init__(self, guide: Any, *, spread: bool) -> None:
        super().__init__()
        self.guide, self.spread = guide, spread

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        q: Any = self.guide.distribution(self.guide.net(*inputs))
        return (q.mean, q.stddev) if self.spread else (q.mean,)


class _Decoder(nn.Module):
    """Map z and the context to the mean of p(x | z)."""

    def __init__(self, likelihood: Any) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        p: Any = self.likelihood.observation(*inputs)
        return (p.mean,)


Names = tuple[tuple[str, ...], tuple[str, ...]]
Found = tuple[nn.Module, Names, tuple[Tensor, ...]]


def _encoder(vae: VAE, x: Tensor, *context: Tensor) -> Found:
    guide: Any = vae.posterior
    if not isinstance(guide, pv.guides.base.Posterior):
        raise NotExportable(
            f"a guide of class {_name(guide)} has no network from x to one posterior"
        )
    inputs = (x, *context)
    q: Any = guide.distribution(guide.net(*inputs))
    _check_mean(q, f"q(z | x) is a {_name(q)}")
    try:
        spread = bool(q.stddev.isfinite().all())
    except NotImplementedError:
        spread = False
    outputs = ("mean", "standard_deviation") if spread else ("mean",)
    return _Encoder(guide, spread=spread), (_names("x", context), outputs), inputs


def _decoder(vae: VAE, x: Tensor, *context: Tensor) -> Found:
    likelihood: Any = vae.likelihood
    if not isinstance(likelihood, pv.likelihoods.Likelihood):
        raise NotExportable(
            f"a likelihood of class {_name(likelihood)} has no network from z to one p(x | z)"
        )
    inputs = (_latents(vae, x, *context), *context)
    p: Any = likelihood.observation(*inputs)
    _check_mean(p, f"p(x | z) is a {_name(p)}")
    return _Decoder(likelihood), (_names("z", context), ("mean",)), inputs


def _latents(vae: VAE, x: Tensor, *context: Tensor) -> Tensor:
    """Return what the likelihood is given at draws of the guide."""
    drawn = poutine.trace(vae.guide).get_trace(x, *context)
    alone = VAE(vae.prior, lambda z, x, *context: z, vae.posterior)
    z = poutine.replay(alone.model, trace=drawn)(None, *context, size=len(x))
    if not isinstance(z, Tensor):
        raise NotExportable(f"the likelihood takes a {_name(z)}, and a program takes tensors")
    return z


def _names(first: str, context: tuple[Tensor, ...]) -> tuple[str, ...]:
    return (first, *(f"context_{i}" for i in range(len(context))))


def _name(value: Any) -> str:
    while hasattr(value, "base_dist"):
        value = value.base_dist
    return type(value).__name__


def _check_mean(fn: Any, what: str) -> None:
    """Check that a distribution has a mean that is finite and the same at each call."""
    try:
        mean, again = fn.mean, fn.mean
    except NotImplementedError:
        raise NotExportable(f"{what}, which has no mean in closed form") from None
    if not mean.isfinite().all():
        raise NotExportable(f"{what}, which has no mean in closed form that is finite")
    if not torch.equal(mean, again):
        raise NotExportable(
            f"{what}, whose mean is estimated from draws, and a program draws none"
        )


def _graph(net: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return a network as a program of `torch.export` for any number of rows."""
    rows = torch.export.Dim("N")
    try:
        with _quiet():
            return torch.export.export(
                net, inputs, dynamic_shapes=(tuple({0: rows} for _ in inputs),)
            )
    except Exception as error:  # torch raises several classes, some of them private
        line = str(error).strip().partition("\n")[0]
        raise NotExportable(f"torch.export cannot record it: {line}") from error


def _of_torch(graph: Any, net: nn.Module, names: Names, inputs: tuple[Tensor, ...]) -> Program:
    """Return the file of a program, which was read back and compared."""
    file = io.BytesIO()
    graph.example_inputs = None  # rows of the data, which would be written as a pickle
    torch.export.save(graph, file)
    again = torch.export.load(io.BytesIO(file.getvalue())).module()
    return Program(file.getvalue(), *names, _error(again, net, inputs, "torch.export"))


def as_onnx(graph: Any, net: nn.Module, names: Names, inputs: tuple[Tensor, ...]) -> Program:
    """Return a program of `torch.export` as a model of ONNX, run by onnxruntime and compared.

    Raises:
        ValueError: if the packages are not installed, or the model differs from torch.
    """
    try:
        runtime: Any = importlib.import_module("onnxruntime")
        importlib.import_module("onnxscript")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ONNX needs {error.name}, which is not installed: pip install 'pyrovae[onnx]'"
        ) from error
    with _quiet():
        made: Any = torch.onnx.export(
            graph, (), dynamo=True, verbose=False, input_names=names[0], output_names=names[1]
        )
    content: bytes = made.model_proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(*values: Tensor) -> list[Tensor]:
        given = {name: value.cpu().numpy() for name, value in zip(names[0], values, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return Program(content, *names, _error(run, net, inputs, "ONNX"))


def _error(program: Any, net: nn.Module, inputs: tuple[Tensor, ...], what: str) -> float:
    """Return the largest difference from torch on all rows, and on the first alone.

    Raises:
        ValueError: if it is above the tolerance, or not finite.
    """
    largest = 0.0
    for given in (inputs, tuple(value[:1] for value in inputs)):
        for found, wanted in zip(program(*given), net(*given), strict=True):
            if found.shape != wanted.shape:
                raise ValueError(
                    f"{what} gives {tuple(found.shape)}, where torch gives {tuple(wanted.shape)}"
                )
            wanted = wanted.cpu().double()
            apart = (found.cpu().double() - wanted).abs() / (1 + wanted.abs())
            largest = max(largest, float(apart.nan_to_num(torch.inf).max()))
    if not largest <= TOLERANCE:
        raise ValueError(
            f"the program of {what} differs from torch by {largest:.1e} of 1 + |number|, more "
            f"than {TOLERANCE:g}: it was not written"
        )
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporting says of its own future; what it cannot do is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
