"""Programs over K particles: by an axis left of the data, or, where that goes wrong, as K N rows.

The library's networks broadcast over leading axes, so a program of its parts runs once on latents
[K, N, ...]. A module of one's own was written for [N, ...]: batch normalization takes the second
axis for channels, a convolution folds K into N, a recurrent network reads K as time. Such a
program is shown K N rows, as if there were so many data, and its sites are reported as [K, N].

Which it is, is found by running it: three particles together must give each site the density that
the first and the last have alone. A VAE, or a program, with an attribute `broadcasts = True` is
taken at its word, which saves these runs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from pyrovae.parts import is_known
from pyrovae.randomness import generators_kept
from pyrovae.types import Program
from pyrovae.weights.sites import log_prob, objective_sites, sample_sites

Scales = dict[str, Any]

PARTICLES: Final = "particles"

PROBES: Final = 3
"""The particles that tell whether a program keeps them apart: two could be taken for another axis
of two."""


def over_particles(program: Program, particles: int) -> Program:
    """Return the program over K particles: every site in a plate of them at dim -2.

    Args:
        program: of (x, *context) with a plate over data at dim -1, or of (None, *context, size=N).
        particles: K.
    """

    def vectorized(*args: Any, **kwargs: Any) -> Any:
        scales = _as_rows(program, particles, args, kwargs)
        if scales is None:
            with pyro.plate(PARTICLES, particles, dim=-2):
                return program(*args, **kwargs)
        args, kwargs = _repeated(particles, args, kwargs)
        with Rows(particles, scales):
            return program(*args, **kwargs)

    return vectorized


class Settled:
    """A program whose way over K particles was found on data, for a run on tensors without values.

    A graph is recorded from such a run, where no two densities can be held against each other.

    Args:
        program: as of `over_particles`.
        particles: K.
        *args: what it is called with.

    Attributes:
        scales: as of `Rows`; None where the program broadcasts.

    Raises:
        ValueError: if it treats particles otherwise together than alone, and cannot run on rows.
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
    """Return the scales of a program that is to be shown rows; None for one that broadcasts.

    Raises:
        ValueError: if it treats particles otherwise together than alone, and cannot run on rows.
    """
    if isinstance(program, Settled) and program.particles == particles:
        return program.scales
    if _broadcasts(program):
        return None
    if particles == 1:
        return {}
    if any(_is_empty(value) for value in args):
        return None
    with _nothing_changed(program):
        return _probed(program, min(particles, PROBES), args, kwargs)


def _broadcasts(program: Program) -> bool:
    """Tell whether a program is made of the library's parts alone, which broadcast."""
    program = _unwrapped(program)
    owner = getattr(program, "__self__", program)
    config = getattr(owner, "config", None)
    return getattr(owner, "broadcasts", False) or (isinstance(config, dict) and is_known(config))


def _unwrapped(program: Program) -> Program:
    """Return what handlers and partial applications run in the end."""
    while True:
        if hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        elif isinstance(program, functools.partial):
            program = program.func
        else:
            return program


def _is_empty(value: Any) -> bool:
    """Tell whether a tensor has a shape and no values."""
    return isinstance(value, Tensor) and (is_fake(value) or value.device.type == "meta")


@contextlib.contextmanager
def _nothing_changed(program: Program) -> Iterator[None]:
    """Leave generators, running statistics and the handlers around as they are."""
    owner = getattr(_unwrapped(program), "__self__", _unwrapped(program))
    buffers = list(owner.buffers()) if isinstance(owner, nn.Module) else []
    before = [buffer.clone() for buffer in buffers]
    with generators_kept(), torch.no_grad(), poutine.block():
        yield
        for buffer, value in zip(buffers, before, strict=True):
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _probed(
    program: Program, particles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Scales | None:
    """Return what `_as_rows` does, by a few particles together, and the first and last alone."""

    def rows(count: int, given: Any = None) -> Any:
        some, named = _repeated(count, args, kwargs)
        shown = Rows(count, {})(program)
        return _scored(shown if given is None else poutine.replay(shown, trace=given), some, named)

    try:
        with pyro.plate(PARTICLES, particles, dim=-2):
            together = _scored(program, args, kwargs)
    except Exception:  # noqa: BLE001 (a program of any kind fails in any way)
        together = None
    ends = 0, particles - 1
    try:
        alone = [rows(1, None if together is None else _particle(together, k)) for k in ends]
    except Exception:  # noqa: BLE001
        return None  # It needs the axis, or cannot run at all: its own error is the one to see.
    if together is not None and all(map(_agree, [together] * 2, alone, ends)):
        return None
    try:
        with _training_met() as trained:
            shown = rows(particles)
    except Exception as error:
        if together is None:
            return None
        raise ValueError(
            "the programs treat K particles, whose latents are [K, N, ...], otherwise together "
            "than each alone, and do not run on K N rows either "
            f"({str(error).strip().partition(chr(10))[0]}): let their networks broadcast over "
            "leading axes, by folding [K, N, ...] to [K N, ...] before a layer that takes "
            "[N, ...], and back after it"
        ) from error
    if not trained:
        first, again, last = (rows(1, _particle(shown, k)) for k in (0, 0, particles - 1))
        tied = not all(map(_agree, [shown] * 2, (first, last), ends))
        if tied and _agree(again, first, 0):
            raise ValueError(
                "the programs give a datum another density where further rows stand beside it, so "
                "that K particles weigh otherwise together than each alone: a layer ties the rows "
                "of its batch, as a statistic over the batch does. Compute it by row, or hold it "
                "in a buffer that evaluation does not change"
            )
    return {name: site["scale"] for name, site in objective_sites(alone[0])}


@contextlib.contextmanager
def _training_met() -> Iterator[list[bool]]:
    """Note whether a module in training mode runs in the block: its rows may share statistics."""
    met: list[bool] = []

    def note(module: nn.Module, _: Any) -> None:
        if module.training:
            met.append(True)

    with nn.modules.module.register_module_forward_pre_hook(note):
        yield met


def _scored(program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Trace a program, with the log-probability of each site beside it."""
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    for _, site in sample_sites(trace):
        site["score"] = log_prob(site)
    return trace


def _repeated(
    particles: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat what has a row for each datum K times over."""
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


def _particle(trace: Any, k: int) -> Any:
    """Return one particle of what a trace drew, to replay."""
    given = poutine.Trace()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or site["is_observed"]:
            continue
        value = site["value"]
        if not site_is_subsample(site):
            value = value.narrow(-2 - site["fn"].event_dim, k, 1)
        given.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
    return given


def _agree(together: Any, alone: Any, k: int) -> bool:
    """Tell whether the k-th of several particles has the densities that it has alone."""
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


class Rows(Messenger):
    """Show a program K N rows where the handlers around it see K particles of N data.

    Args:
        particles: K.
        scales: of the sites for N data, since a plate of K N is scaled otherwise.
    """

    def __init__(self, particles: int, scales: Scales) -> None:
        super().__init__()
        self.particles, self.scales = particles, scales
        self._sizes: dict[str, int] = {}

    def __enter__(self) -> Any:
        """Start a run of the program."""
        self._sizes = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            # The rows of a plate of K N are no rows of the other program's plate, of N.
            msg["stop"] = msg["stop"] or self.particles > 1
            return
        frames = {frame.dim: frame for frame in msg["cond_indep_stack"] if frame.vectorized}
        if -1 not in frames:
            return
        others = [frame.name for dim, frame in frames.items() if dim != -1]
        if others:
            raise ValueError(
                f"site '{msg['name']}' is in the plates {others} beside those over particles and "
                "data: declare these dimensions with .to_event(...)"
            )
        data = frames[-1]
        size = self._sizes[msg["name"]] = data.size // self.particles
        msg["cond_indep_stack"] = (
            data._replace(size=size, full_size=size),
            CondIndepStackFrame(PARTICLES, -2, self.particles, 0, self.particles),
            *(frame for frame in msg["cond_indep_stack"] if not frame.vectorized),
        )
        fn = msg["fn"]
        plain = self.particles == 1 and len(fn.batch_shape) <= 1
        msg["fn"] = fn.expand((1, size)) if plain else Folded(fn, self.particles)
        msg["mask"] = self._batch(msg["mask"])
        msg["scale"] = self.scales.get(msg["name"], self._batch(msg["scale"]))
        if msg["value"] is not None:
            msg["value"] = unfolded(msg["value"], self.particles, fn.event_dim)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._sizes:
            shape, value = (self.particles, self._sizes[msg["name"]]), msg["value"]
            try:
                msg["value"] = folded(value, shape, msg["fn"].event_dim)
            except RuntimeError as error:
                raise ValueError(
                    f"site '{msg['name']}' has a value of shape {tuple(value.shape)}; expected "
                    f"[K, N] = {shape} and an event: declare its dimensions with .to_event(...)"
                ) from error

    def _batch(self, value: Any) -> Any:
        return unfolded(value, self.particles, 0) if isinstance(value, Tensor) else value


def unfolded(value: Tensor, particles: int, event_dim: int) -> Tensor:
    """Return a tensor [..., K N, *event] as [..., K, N, *event]; an axis of one gains another."""
    if value.ndim <= event_dim:
        return value
    dim = value.ndim - event_dim - 1
    if value.shape[dim] == 1:
        return value.unsqueeze(dim)
    return value.unflatten(dim, (particles, value.shape[dim] // particles))


def folded(value: Tensor, shape: tuple[int, int], event_dim: int) -> Tensor:
    """Return a tensor [..., K, N, *event] as [..., K N, *event]; axes of one become one."""
    value = value[(None,) * (event_dim + 2 - value.ndim)]
    start = value.ndim - event_dim - 2
    if value.shape[start : start + 2] != (1, 1):
        wanted = list(value.shape)
        wanted[start : start + 2] = shape
        value = value.expand(wanted)
    return value.flatten(start, start + 1)


class Folded(TorchDistribution):
    """A distribution of batch shape [..., K N] as one of [..., K, N].

    Args:
        base_dist: the distribution over rows.
        particles: K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base_dist: Any, particles: int) -> None:
        self.base_dist, self.particles = base_dist, particles
        *left, rows = base_dist.batch_shape or (1,)
        both = (1, 1) if rows == 1 < particles else (particles, rows // particles)
        shape = torch.Size((*left, *both))
        super().__init__(shape, base_dist.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:
        """Whether the rows are reparameterized."""
        return bool(self.base_dist.has_rsample)

    @property
    def has_enumerate_support(self) -> bool:
        """Whether the rows have a finite support."""
        return bool(self.base_dist.has_enumerate_support)

    @property
    def support(self) -> Any:
        """The support of each row."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """The means, [..., K, N, *event]."""
        return self._unfolded(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        """The variances, [..., K, N, *event]."""
        return self._unfolded(self.base_dist.variance)

    def log_prob(self, value: Tensor) -> Tensor:
        """Score values [..., K, N, *event]."""
        shape = self.batch_shape[-2:]
        found = self.base_dist.log_prob(folded(value, (shape[0], shape[1]), self.event_dim))
        return unfolded(found, self.particles, 0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw [..., K, N, *event] with gradients."""
        return self._unfolded(self.base_dist.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw [..., K, N, *event]."""
        return self._unfolded(self.base_dist.sample(torch.Size(sample_shape)))

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 (torch's)
        """Return the values of the support, [C, ..., K, N, *event]."""
        return self._unfolded(self.base_dist.enumerate_support(expand=expand))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution expanded to the left."""
        shape = torch.Size(batch_shape)
        if shape == self.batch_shape:
            return self
        rows = (*shape[:-2], shape[-2] * shape[-1])
        return Folded(self.base_dist.expand(rows), shape[-2])

    def _unfolded(self, value: Tensor) -> Tensor:
        return unfolded(value, self.particles, self.event_dim)
