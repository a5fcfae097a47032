r"""Train on the devices of several processes: one all-reduce of the gradients for each step.

Each process computes the loss and the gradients of its part of a joint batch. They are summed
over the processes, together with a few numbers, in one flat tensor:

    [gradients, loss, data, word, failed]        P + 4 numbers for P parameters

and every process takes the same optimizer's step. If the programs scale the loss of a batch to
all N data, by a plate of size N, the sum is weighted by the data of each part: both give the
gradient of the joint batch. The word is that of the process of rank 0, which decides when an
epoch or the training ends.

The noise of rank 0 is that of a training by one process. In the others, each step has a seed
derived from that of the training, the rank and the step, so that nothing has to be saved for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, distributed

from pyrovae.data.batches import Batch, Batches
from pyrovae.data.ranks import ProcessLost, Ranks, lost_explained
from pyrovae.randomness import Steps, derived
from pyrovae.train.callbacks import StopTraining, Training
from pyrovae.train.resume import fingerprint
from pyrovae.weights.target import buffers_of, modules_of

__all__ = ["EpochEnded", "Together", "together"]

GO_ON, EPOCH_ENDS, TRAINING_ENDS = 0, 1, 2
"""What the process of rank 0 decides in a step."""

TAIL: Final = 4
"""The numbers after the gradients: the loss, the data, the word, the processes that failed."""

DECIDED: Final = ("resumed", "finished_epoch")
"""The calls of callbacks, beside those after a step, at which all processes wait for rank 0."""


WRAPPED: Final = frozenset(
    {"DTensor", "DistributedDataParallel", "FSDPModule", "FullyShardedDataParallel"}
)
"""The classes of modules and parameters that torch trains in parallel by its own hooks."""


class EpochEnded(Exception):  # noqa: N818  (not an error)
    """Raised by a step in place of which the process of rank 0 ended the epoch."""


@dataclass
class Together:
    """The processes that train together, seen from one of them.

    Attributes:
        ranks: this process among them.
        parameters: the parameters that require gradients, by name.
        scaled: whether the programs scale the loss of a batch to all data.
        seed: the seed of the noise; rank 0 does not use it.
        rows: the number of data in the last joint batch.
        trained: the parameters.
    """

    ranks: Ranks
    parameters: Mapping[str, Tensor]
    scaled: bool
    seed: int
    rows: int = 0
    _flat: list[Tensor] = field(default_factory=list)
    _views: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the flat tensors, one for each dtype of the parameters."""
        self.trained = list(self.parameters.values())
        self._known = set(self.trained)
        dtypes = {parameter.dtype for parameter in self.trained} | {torch.float32}
        views: dict[Tensor, Tensor] = {}
        for dtype in sorted(dtypes, key=lambda dtype: -dtype.itemsize):
            alike = [parameter for parameter in self.trained if parameter.dtype == dtype]
            tail = 0 if self._flat else TAIL  # in the widest dtype, of 32 bits at least
            size = sum(parameter.numel() for parameter in alike) + tail
            if size:
                self._flat.append(self.trained[0].new_zeros(size, dtype=dtype))
            start = 0
            for parameter in alike:
                form = parameter.shape, torch.empty_like(parameter).stride()
                views[parameter] = self._flat[-1].as_strided(*form, start)
                start += parameter.numel()
        self._views = [views[parameter] for parameter in self.trained]
        self._tail = self._flat[0][-TAIL:]

    def said(self) -> dict[str, int]:
        """Return what a checkpoint keeps of the processes."""
        return {"world": self.ranks.world, "seed": self.seed}

    @property
    def leads(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.ranks.rank == 0

    def groups(self, own: Iterator[list[Batch]], training: Training) -> Iterator[list[Batch]]:
        """Yield the batches of each step, if any, until rank 0 ends the epoch."""
        while True:
            if not self.leads:
                torch.manual_seed(derived(self.seed, self.ranks.rank, training.step))
            try:
                group = next(own, [])
            except Exception:
                self.fail()
                raise
            if self.leads and not group:
                self._send(EPOCH_ENDS)
                return
            yield group

    def joint(
        self,
        group: Sequence[Batch],
        gradients: Callable[[Sequence[Batch]], tuple[float, list[Tensor]]],
    ) -> float:
        """Leave the gradients of a joint batch in the parameters, and return its loss.

        Args:
            group: the batches of this process, its part of the joint batch; it may have none.
            gradients: returns the loss of a part, and the parameters with their gradients.

        Raises:
            ValueError: if the programs announce a parameter that is not among `parameters`.
            EpochEnded: if rank 0 has no batch left.
            StopTraining: if a callback of rank 0 ends the training before this step.
            ProcessLost: if another process failed or has ended.
        """
        loss, rows = 0.0, 0
        if group:
            try:
                loss, announced = gradients(group)
                self._check(announced)
            except Exception:
                self.fail()
                raise
            rows = sum(len(batch[0]) for batch in group)
        return self._reduced(loss, rows)

    @torch.no_grad()
    def _reduced(self, loss: float, rows: int) -> float:
        """Sum the gradients over the processes."""
        self._fill(rows)
        loss, rows, word = self._exchange([loss * (rows if self.scaled else 1), rows, GO_ON, 0])
        if word == EPOCH_ENDS:
            raise EpochEnded
        if word == TRAINING_ENDS:
            raise StopTraining(self.ranks.agreed(""))
        self.rows = rows
        if self.scaled:
            for flat in self._flat:
                flat.div_(rows)
            loss /= rows
        for parameter, view in zip(self.trained, self._views, strict=True):
            if parameter.grad is not None or view.any():
                parameter.grad = view
        return loss

    def fail(self) -> None:
        """Tell the other processes that this one failed in a step."""
        self._send(GO_ON, failed=1)

    def decide(self, event: str, stop: StopTraining | None) -> StopTraining | None:
        """Return rank 0's request to stop in place of this process's own."""
        if event == "stepped":
            if stop is not None and self.leads:
                self._send(TRAINING_ENDS)
                self.ranks.agreed(str(stop))
            return stop if self.leads else None
        if event not in DECIDED:
            return stop
        said = self.ranks.agreed(None if stop is None else str(stop))
        return None if said is None else StopTraining(said)

    @torch.no_grad()
    def _send(self, word: int, *, failed: int = 0) -> None:
        for flat in self._flat:
            flat.zero_()
        self._exchange([0.0, 0, word, failed])

    def _check(self, announced: list[Tensor]) -> None:
        unknown = [p for p in announced if p.requires_grad and p not in self._known]
        if unknown:
            raise ValueError(
                f"a parameter of shape {tuple(unknown[0].shape)} was announced after the first "
                "batch: several processes train the parameters that every batch announces"
            )

    def _fill(self, rows: int) -> None:
        """Write the gradients into the flat tensors."""
        for parameter, view in zip(self.trained, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad.to_dense())
        if self.scaled:
            for flat in self._flat:
                flat.mul_(rows)

    def _exchange(self, tail: list[float]) -> tuple[float, int, int]:
        """Sum the flat tensors over the processes; return the loss, the data and the word."""
        self._tail.copy_(torch.tensor(tail, dtype=self._tail.dtype))
        with lost_explained():
            for flat in self._flat:
                distributed.all_reduce(flat)
        loss, rows, word, failed = self._tail.tolist()
        if failed > tail[-1]:
            raise ProcessLost("another process failed in this step, and says why")
        return loss, round(rows), round(word)


def together(training: Training, batches: Batches, steps: Steps, *, scaled: bool) -> Together:
    """Check that all processes train the same programs on the same data, and begin alike.

    The parameters and buffers are those of rank 0. `steps` and `scaled` are as in `fit`.

    Raises:
        ValueError: if the processes differ, or have less than a datum each, or if a module is
            wrapped to be trained in parallel by itself.
    """
    ranks, parameters = batches.ranks, training.parameters
    _refuse_wrapped(training)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    several = ranks.gathered((shapes, fingerprint(batches)))
    for rank, (names, data) in enumerate(several):
        what = "programs" if names != several[0][0] else "data" if data != several[0][1] else ""
        if what:
            raise ValueError(
                f"process {rank} has other {what} than process 0: give all processes the same, of "
                "which each takes its part"
            )
    if batches.tensors and len(batches.tensors[0]) < ranks.world:
        raise ValueError(
            f"{len(batches.tensors[0])} data are fewer than {ranks.world} processes: start fewer"
        )
    ranks.overwrite([*parameters.values(), *buffers_of(training.target).values()])
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    seed = steps.next_seed
    seed = ranks.agreed(int(torch.randint(2**63 - 1, ())) if seed is None else seed)
    return Together(ranks, trained, scaled, seed)


def _refuse_wrapped(training: Training) -> None:
    """Check that each process has all parameters, and that `fit` alone sums their gradients."""
    kinds = {type(module).__name__ for module in modules_of(training.target)}
    kinds |= {type(parameter).__name__ for parameter in training.parameters.values()}
    for kind in sorted(kinds & WRAPPED):
        raise ValueError(
            f"the programs have a module or parameter of {kind}, and fit sums the gradients of "
            "whole parameters itself: give the plain module, which has to fit on each device "
            "(sharded parameters, FSDP, are not supported)"
        )
