"""Run a program on K N rows of data, and report its sites with batch shape [K, N]."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.weights.sites import check_event

__all__ = ["PARTICLES", "Folded", "Rows", "Scales", "folded", "unfolded"]

Scales = dict[str, Any]
"""The scales of sites by name."""

PARTICLES: Final = "particles"
"""The name of the plate over particles."""


class Rows(Messenger):
    """Run a program on K N rows, and report its sites to outer handlers as [K, N].

    Args:
        particles: K.
        scales: the scales of the sites for N data, by name. The plate of K N rows has others.
        data: N, the number of data before they are repeated.
    """

    def __init__(self, particles: int, scales: Scales, data: int) -> None:
        super().__init__()
        self.particles, self.scales, self.data = particles, scales, data
        self._sizes: dict[str, int] = {}

    def __enter__(self) -> Any:
        """Start a run of the program."""
        self._sizes = {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            if self.particles > 1:
                # Its indices, of size K N, do not fit the other program's, of size N.
                msg["stop"] = True
                self._enlarge(msg)
            return
        frames = {frame.dim: frame for frame in msg["cond_indep_stack"] if frame.vectorized}
        if -1 not in frames:
            return
        others = [frame.name for dim, frame in frames.items() if dim != -1]
        if others:
            raise ValueError(
                f"site '{msg['name']}' is in the plates {others} besides those over particles and "
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
            if msg["is_observed"]:
                check_event(msg, fn)
            msg["value"] = unfolded(msg["value"], self.particles, fn.event_dim)

    def _enlarge(self, msg: Any) -> None:
        """Give a plate K N rows that is of N data by a number, or too small to draw so many."""
        size, drawn = msg["fn"].size, msg["fn"].subsample_size
        rows = self.particles * self.data
        if msg["value"] is None and (
            drawn == rows > size or (drawn is None and size == self.data)
        ):
            msg["value"] = torch.arange(rows, device=msg["fn"].device) % size
            msg["done"] = True

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
    """Return a tensor [..., K N, *event] as [..., K, N, *event]; a size of 1 becomes (1, 1)."""
    if value.ndim <= event_dim:
        return value
    dim = value.ndim - event_dim - 1
    if value.shape[dim] == 1:
        return value.unsqueeze(dim)
    return value.unflatten(dim, (particles, value.shape[dim] // particles))


def folded(value: Tensor, shape: tuple[int, int], event_dim: int) -> Tensor:
    """Return a tensor [..., K, N, *event] as [..., K N, *event]; sizes (1, 1) become 1."""
    value = value[(None,) * (event_dim + 2 - value.ndim)]
    start = value.ndim - event_dim - 2
    if value.shape[start : start + 2] != (1, 1):
        wanted = list(value.shape)
        wanted[start : start + 2] = shape
        value = value.expand(wanted)
    return value.flatten(start, start + 1)


class Folded(TorchDistribution):
    """A view of a distribution with batch shape [..., K N] as one with [..., K, N].

    Args:
        base_dist: the distribution over K N rows.
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
        """Return the log-probabilities of values [..., K, N, *event]."""
        shape = self.batch_shape[-2:]
        found = self.base_dist.log_prob(folded(value, (shape[0], shape[1]), self.event_dim))
        return unfolded(found, self.particles, 0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return reparameterized samples [..., K, N, *event]."""
        return self._unfolded(self.base_dist.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return samples [..., K, N, *event]."""
        return self._unfolded(self.base_dist.sample(torch.Size(sample_shape)))

    def enumerate_support(self, expand: bool = True) -> Tensor:  # noqa: FBT001, FBT002 (torch's)
        """Return the C values of the support, [C, ..., K, N, *event]."""
        return self._unfolded(self.base_dist.enumerate_support(expand=expand))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution expanded to a batch shape [..., K, N]."""
        shape = torch.Size(batch_shape)
        if shape == self.batch_shape:
            return self
        rows = (*shape[:-2], shape[-2] * shape[-1])
        return Folded(self.base_dist.expand(rows), shape[-2])

    def _unfolded(self, value: Tensor) -> Tensor:
        return unfolded(value, self.particles, self.event_dim)
