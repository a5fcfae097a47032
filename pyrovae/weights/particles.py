"""Vectorize a program over K particles, by a plate at dim -2 or as K N rows of data.

The library's networks broadcast over leading axes, so programs made of its parts run once on
latents [K, N, ...]. Other networks may expect [N, ...]: batch normalization treats axis 1 as
channels, and a recurrent network treats K as time. Such a program runs on K N rows, as if there
were K N data, and its sites are reported with batch shape [K, N].

Test runs decide between the two: a plate is used if, among three particles, the first and the
last have the same log-probabilities as alone. A VAE or a program with the attribute
`broadcasts = True` always uses the plate and skips the test runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final, cast

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from pyrovae.parts import is_known
from pyrovae.randomness import generators_kept
from pyrovae.types import Program
from pyrovae.weights.module_state import buffers_kept, modules_met
from pyrovae.weights.rows import PARTICLES, Rows, Scales
from pyrovae.weights.sites import log_prob, objective_sites, plate_size, sample_sites

__all__ = ["Settled", "in_test_run", "over_particles"]

PROBES: Final = 3
"""The number of particles in a test run. An axis of size 2 is more common in data."""

_TEST_RUN: Final = ContextVar("_TEST_RUN", default=False)


def in_test_run() -> bool:
    """Return whether a program runs to decide between a plate and rows, without the other one."""
    return _TEST_RUN.get()


def over_particles(program: Program, particles: int) -> Program:
    """Return the program with all its sites in a plate over K particles at dim -2.

    Args:
        program: a Pyro program with a plate over data at dim -1, called as
            `program(x, *context)` or `program(None, *context, size=N)`.
        particles: K.

    Raises:
        ValueError: when it is called, if particles affect each other's log-probabilities and the
            program does not run on K N rows.

    Example:
        >>> import torch, pyro, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> guide = pv.weights.particles.over_particles(vae.guide, 3)
        >>> trace = pyro.poutine.trace(guide).get_trace(torch.zeros(5, 64))
        >>> trace.nodes["z"]["value"].shape
        torch.Size([3, 5, 2])
    """

    def vectorized(*args: Any, **kwargs: Any) -> Any:
        scales = _as_rows(program, particles, args, kwargs)
        if scales is None:
            with pyro.plate(PARTICLES, particles, dim=-2), _WholeSums():
                return program(*args, **kwargs)
        size = _size(args, kwargs)
        args, kwargs = _repeated(particles, args, kwargs)
        with Rows(particles, scales, size), _WholeSums():
            return program(*args, **kwargs)

    return vectorized


class _WholeSums(Messenger):
    """Take sums over the whole support of a discrete site, instead of over `num_samples` draws.

    Pyro enumerates a site with `num_samples` along so many draws, for sums by Monte Carlo. A sum
    over them is none over the values of the site, which for a continuous site cannot be had: its
    particles are sampled.
    """

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"]
        if infer.get("enumerate") == "parallel" and infer.get("num_samples") is not None:
            left_out = {"num_samples"}
            if not msg["fn"].has_enumerate_support:
                left_out.add("enumerate")
            msg["infer"] = {key: infer[key] for key in infer if key not in left_out}


class Settled:
    """A program for which the test runs were done, so that a graph of it can be recorded.

    While a graph is recorded, tensors have no values, and log-probabilities cannot be compared.

    Args:
        program: as of `over_particles`.
        particles: K.
        *args: the arguments of the test runs.

    Attributes:
        scales: as of `Rows`; None if the program uses a plate.

    Raises:
        ValueError: as `over_particles`.
    """

    def __init__(self, program: Program, particles: int, *args: Any) -> None:
        self.__wrapped__, self.particles = program, particles
        self.scales = _as_rows(program, particles, args, {})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        return self.__wrapped__(*args, **kwargs)


def _as_rows(
    program: Program, particles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Scales | None:
    """Return the scales of the sites of a program that runs on rows; None if it uses a plate.

    Raises:
        ValueError: as `over_particles`.
    """
    if isinstance(program, Settled) and program.particles == particles:
        return program.scales
    if _broadcasts(program):
        return None
    if particles == 1:
        return {}
    if any(_is_empty(value) for value in args):
        return None
    with _state_kept(program):
        return _probed(program, min(particles, PROBES), args, kwargs)


def _broadcasts(program: Program) -> bool:
    """Return whether a program declares that it broadcasts, or has only parts of the library."""
    program = _unwrapped(program)
    owner = getattr(program, "__self__", program)
    config = getattr(owner, "config", None)
    return getattr(owner, "broadcasts", False) or (isinstance(config, dict) and is_known(config))


def _unwrapped(program: Program) -> Program:
    """Return the program inside handlers and partial applications."""
    while True:
        if hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        elif isinstance(program, functools.partial):
            # Pyro's handlers wrap a program as a partial application to (handler, program).
            handled = len(program.args) > 1 and isinstance(program.args[0], Messenger)
            program = program.args[1] if handled else program.func
        else:
            return program


def _is_empty(value: Any) -> bool:
    """Return whether a tensor has a shape but no values."""
    return isinstance(value, Tensor) and (is_fake(value) or value.device.type == "meta")


@contextlib.contextmanager
def _state_kept(program: Program) -> Iterator[None]:
    """Restore random generators and buffers after the block, and hide its sites from handlers."""
    owner = getattr(_unwrapped(program), "__self__", _unwrapped(program))
    known = [owner] if isinstance(owner, nn.Module) else []
    token = _TEST_RUN.set(True)
    try:
        with buffers_kept(known), generators_kept(), torch.no_grad(), poutine.block():
            yield
    finally:
        _TEST_RUN.reset(token)


def _probed(
    program: Program, particles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Scales | None:
    """Return the result of `_as_rows` from test runs, with several particles and with one."""

    def rows(count: int, given: Any = None) -> Any:
        some, named = _repeated(count, args, kwargs)
        shown = Rows(count, {}, _size(args, kwargs))(program)
        return _scored(shown if given is None else poutine.replay(shown, trace=given), some, named)

    try:
        with pyro.plate(PARTICLES, particles, dim=-2):
            together = _scored(program, args, kwargs)
    except Exception:  # noqa: BLE001 (a program may raise any exception)
        together = None
    ends = 0, particles - 1
    try:
        alone = [rows(1, None if together is None else _particle(together, k)) for k in ends]
    except Exception:  # noqa: BLE001
        return None  # It needs the plate, or cannot run: then the actual run raises its error.
    if together is not None and all(map(_agree, [together] * 2, alone, ends)):
        return None
    try:
        with _training_met() as trained:
            shown = rows(particles)
    except Exception as error:
        if together is None:
            return None
        raise ValueError(
            "the programs give K particles, with latents [K, N, ...], other log-probabilities "
            "together than each alone, and do not run on K N rows "
            f"({str(error).strip().partition(chr(10))[0]}): make their networks broadcast over "
            "leading axes, pyrovae.nets.Folded(network), which flattens [K, N, ...] to "
            "[K N, ...] before layers that take [N, ...], and unflattens after them"
        ) from error
    if not trained:
        first, again, last = (rows(1, _particle(shown, k)) for k in (0, 0, particles - 1))
        tied = not all(map(_agree, [shown] * 2, (first, last), ends))
        if tied and _agree(again, first, 0):
            raise ValueError(
                "the log-probability of a datum depends on the other rows of its batch, so K "
                "particles have other log-weights together than each alone: a layer ties the rows "
                "of its batch, such as by a statistic over the batch. Compute it for each row, or "
                "keep it in a buffer that does not change in evaluation mode"
            )
    return {name: site["scale"] for name, site in objective_sites(alone[0])}


@contextlib.contextmanager
def _training_met() -> Iterator[list[bool]]:
    """Record whether a module in training mode runs: its rows may share statistics."""
    met: list[bool] = []

    def note(module: nn.Module) -> None:
        if module.training:
            met.append(True)

    with modules_met(note):
        yield met


def _scored(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Trace a program, and store the log-probability of each site in its "score"."""
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    for _, site in sample_sites(trace):
        site["score"] = log_prob(site)
    return trace


def _repeated(
    particles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat the arguments that have one row per datum K times."""
    if particles == 1:
        return args, kwargs
    x = args[0] if args else None
    size = len(x) if isinstance(x, Tensor) else kwargs["size"]
    if not isinstance(x, Tensor):
        kwargs = {**kwargs, "size": particles * size}

    def repeated(value: Any) -> Any:
        own = isinstance(value, Tensor) and value.shape[:1] == (size,)
        return value.repeat(particles, *[1] * (value.ndim - 1)) if own else value

    return tuple(repeated(value) for value in args), kwargs


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the number of data that a program is called for; 0 if it is not said."""
    x = args[0] if args else None
    return len(x) if isinstance(x, Tensor) else cast(int, kwargs.get("size", 0))


def _particle(trace: Any, k: int) -> Any:
    """Return a trace with the draws of one particle, to be replayed.

    Raises:
        ValueError: naming a site outside the plate over data, which has no particles.
    """
    given = poutine.Trace()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        value = site["value"]
        if not site_is_subsample(site):
            plate_size(name, site)
            value = value.narrow(-2 - site["fn"].event_dim, k, 1)
        given.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return given


def _agree(together: Any, alone: Any, k: int) -> bool:
    """Return whether the k-th of several particles has the same log-probabilities as alone."""
    sites, others = dict(sample_sites(together)), dict(sample_sites(alone))
    if sites.keys() != others.keys():
        return False
    for name, site in sites.items():
        one, other = site["score"], others[name]["score"]
        if one.ndim >= 2:
            one = one.narrow(-2, min(k, one.shape[-2] - 1), 1)
        same = one.shape == other.shape
        if not same or not torch.allclose(one, other, rtol=1e-4, atol=1e-4, equal_nan=True):
            return False
    return True
