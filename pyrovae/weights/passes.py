"""Split a run over data and particles into passes of bounded memory, and join the results."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.data.domains import check_finite
from pyrovae.weights.given import Given
from pyrovae.weights.run import Read, Runner

__all__ = ["Averaged", "check_request", "cut", "over_passes"]


class Averaged(NamedTuple):
    """A tensor [N, ...] that is already averaged over the particles of a pass."""

    value: Tensor


def over_passes(
    given: Given, particles: int, *, chunk: int | None = None, runner: Runner, read: Read
) -> Any:
    """Run the programs in passes and join the results.

    Data are split first, so the guide's network runs once per datum unless K exceeds the chunk.

    Args:
        given: the data and the programs.
        particles: K.
        chunk: the largest number of pairs (particle, datum) in one pass; by default it adapts to
            the size of x.
        runner: the function that runs a pass.
        read: a function of the `TracePair` that returns a tree of tensors [K, N, ...] and of
            `Averaged` tensors [N, ...].

    Returns:
        The tree for all particles and data.

    Raises:
        ValueError: as `log_weights`.
    """
    check_request(given.x, particles, chunk)
    model, guide = given.pair
    most = chunk or given.pairs_per_pass
    whole, start = _Whole(particles, len(given)), 0
    for part in given.cut(max(1, most // particles)):
        columns = slice(start, start + len(part))
        for rows in cut(particles, max(1, most // len(part))):
            found = runner(model, guide, *part, particles=len(rows), read=read)
            whole.add(found, slice(rows.start, rows.stop), columns)
        start += len(part)
    return whole.found


def check_request(x: Tensor, particles: int, chunk: int | None = None) -> None:
    """Check the arguments of a run.

    Raises:
        ValueError: if data are empty or not finite, or if there is less than one particle or pair.
    """
    check_finite(x)
    if particles < 1:
        raise ValueError(f"log-weights need at least one particle; got particles={particles}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"a chunk is at least one (particle, datum) pair; got chunk={chunk}")


def cut(length: int, size: int) -> list[range]:
    """Split a range into ranges of at most `size`."""
    return [range(i, min(i + size, length)) for i in range(0, length, size)]


class _Whole:
    """Preallocated results of all passes.

    Each pass is copied into them, and none of its tensors is kept. Keeping a small tensor of each
    pass would fragment the heap, and the memory would grow with the number of passes.
    """

    def __init__(self, particles: int, size: int) -> None:
        self.particles, self.size = particles, size
        self.structure: Any = None
        self.leaves: list[Tensor] = []

    @property
    def found(self) -> Any:
        """The result for all particles and data."""
        return pytree.tree_unflatten(self.leaves, self.structure)

    def add(self, part: Any, rows: slice, columns: slice) -> None:
        """Write the result of one pass.

        Raises:
            ValueError: if its sites differ from those of earlier passes.
        """
        leaves, structure = pytree.tree_flatten(part, is_leaf=_is_averaged)
        if self.structure is None:
            self.structure = structure
            self.leaves = [self._room(leaf) for leaf in leaves]
        if structure != self.structure:
            before, now = _names(self.found), _names(part)
            raise ValueError(
                f"the sites differ from pass to pass: {sorted(before - now)}, then "
                f"{sorted(now - before)}: write programs that have the same sites for all data"
            )
        share = (rows.stop - rows.start) / self.particles
        for whole, leaf in zip(self.leaves, leaves, strict=True):
            if isinstance(leaf, Averaged):
                whole[columns] += share * leaf.value
            else:
                whole[rows, columns] = leaf

    def _room(self, leaf: Any) -> Tensor:
        if isinstance(leaf, Averaged):
            return leaf.value.new_zeros(self.size, *leaf.value.shape[1:])
        room: Tensor = leaf.new_empty(self.particles, self.size, *leaf.shape[2:])
        return room


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Averaged)


def _names(found: Any) -> set[str]:
    """Return the keys of nested dictionaries, such as the names of sites."""
    if isinstance(found, dict):
        return set(map(str, found))
    return (
        {name for value in found for name in _names(value)} if isinstance(found, tuple) else set()
    )
