"""The whole state of a training, so that it resumes bit for bit.

Between two steps, what a training will do is decided by its tensors, the optimizer, the random
generators, the callbacks, its place in the data, and by which steps are taken as graphs: a graph
and an eager step differ by rounding. A resumed training restores the first five, and records its
graphs anew by taking, and throwing away, the steps at which the graphs were recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.data.batches import Batch, Batches
from pyrovae.graphs import onednn
from pyrovae.randomness import Steps, random_state, restore_random_state
from pyrovae.train.callbacks import Epoch, History, Snapshot, Training
from pyrovae.train.svi import SVI

if TYPE_CHECKING:
    from pyrovae.train.loop import Loop

__all__ = [
    "EpochSoFar",
    "Recordings",
    "fingerprint",
    "first_rows",
    "generators",
    "record_graphs",
    "restore",
    "restore_generators",
    "state_of",
]


@dataclass
class EpochSoFar:
    """The steps of the present epoch.

    Attributes:
        number: the number of the epoch, from 1.
        batches: the number of batches so far.
        count: the number of data in them.
        last: the number of data in the last step.
        losses: the losses of the steps.
        seconds: their time, without compiling.
        generators: the states of the generators before the first batch was drawn.
    """

    number: int = 1
    batches: int = 0
    count: int = 0
    last: int = 0
    losses: list[float | Tensor] = field(default_factory=list)
    seconds: float = 0.0
    generators: dict[str, Any] = field(default_factory=dict)

    def add(self, loss: float | Tensor, rows: int, *, batches: int) -> None:
        """Add a step on so many data, in so many batches of this process."""
        self.losses.append(loss)
        self.batches += batches
        self.last = rows
        self.count += self.last


@dataclass
class Recordings:
    """The steps at which SVI observed the programs or recorded a graph.

    Attributes:
        steps: for each, the shape of x in its batch and its KL weight.
    """

    steps: list[tuple[list[int], float]] = field(default_factory=list)

    def note(self, shape: Sequence[int], weight: float) -> None:
        """Add a step."""
        self.steps.append((list(shape), weight))


class _Graphs(msgspec.Struct):
    compiled: bool
    recordings: list[tuple[list[int], float]]
    runs: list[int]
    onednn: bool | None


class _Ranks(msgspec.Struct):
    world: int
    seed: int


class _History(msgspec.Struct):
    epochs: list[dict[str, float]]
    ended: str
    kept: int
    compile_seconds: float
    objective: str


class _State(msgspec.Struct):
    target: dict[str, Any]
    gradients: dict[str, Any]
    optimizer: dict[Any, Any]
    callbacks: list[tuple[str, dict[Any, Any]]]
    generators: dict[str, Any]
    epoch: dict[str, Any]
    steps: dict[str, int | None]
    step: int
    loss: float
    batches: int | None
    history: _History
    data: list[Any] | None
    graphs: _Graphs
    ranks: _Ranks | None
    late: dict[str, Any]


def generators() -> dict[str, Any]:
    """Return the states of the generators of torch, NumPy and Python."""
    numpy = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    words = {**numpy, "state": {**numpy["state"], "key": key}}
    return {"torch": random_state(), "numpy": words, "python": random.getstate()}


def restore_generators(states: Mapping[str, Any]) -> None:
    """Restore the states of the generators."""
    restore_random_state(list(states["torch"]))
    numpy = states["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    random.setstate(states["python"])


def state_of(loop: Loop) -> dict[str, Any]:
    """Return the state of a training between two steps, a tree of tensors and numbers."""
    training, so_far = loop.training, loop.so_far
    losses = [float(loss) for loss in so_far.losses]
    present = {item.name: getattr(so_far, item.name) for item in fields(so_far)}
    return {
        "target": training.snapshot().as_tree(),
        "late": dict(training.late),
        "gradients": _gradients(training),
        "optimizer": loop.svi.optimizer_state(),
        "callbacks": [[type(c).__name__, c.state_dict()] for c in loop.callbacks],
        "generators": generators(),
        "epoch": {**present, "losses": losses},
        "steps": asdict(loop.before),
        "step": training.step,
        "loss": training.loss,
        "batches": training.batches,
        "history": asdict(training.history),
        "data": fingerprint(loop.batches),
        "graphs": _graphs(loop),
        "ranks": None if loop.together is None else loop.together.said(),
    }


def restore(loop: Loop, state: Mapping[str, Any]) -> None:
    """Put a training into a state of `state_of`; the target is changed last.

    Raises:
        ValueError: if the state is that of other programs, data or callbacks.
    """
    training = loop.training
    with _of_this_version():
        msgspec.convert(state, _State)
        training.late = dict(state["late"])
        if isinstance(training.target, nn.Module):
            own = training.target.named_parameters()
            training.parameters.update({name: p for name, p in own if name in training.late})
        _check(loop, state)
        _restore_ranks(loop, state["ranks"])
        history = dict(state["history"])
        epochs = [Epoch(**epoch) for epoch in history.pop("epochs")]
        for name, value in vars(History(epochs, **history)).items():
            setattr(training.history, name, value)
        training.history.ended = History().ended
        training.step, training.loss = state["step"], state["loss"]
        training.batches = loop.step.steps_in(loop.batches.number) or state["batches"]
        loop.before = Steps(state["steps"]["seed"], state["steps"]["taken"])
        loop.so_far = EpochSoFar(**state["epoch"])
        loop.svi.set_optimizer_state(state["optimizer"], training.parameters)
        for callback, (_, kept) in zip(_stateful(loop, state), _kept(state), strict=True):
            callback.load_state_dict(kept)
        _put_back(loop, state)


def record_graphs(loop: Loop, state: Mapping[str, Any]) -> None:
    """Record the graphs of a restored training anew; what the steps for it change is put back."""
    with _of_this_version():
        try:
            _record_graphs(loop, state["graphs"])
        finally:
            _put_back(loop, state)


def _put_back(loop: Loop, state: Mapping[str, Any]) -> None:
    loop.training.restore(Snapshot.of_tree(state["target"]))
    _restore_gradients(loop.training, state["gradients"], loop.svi)
    restore_generators(state["generators"])


@contextlib.contextmanager
def _of_this_version() -> Iterator[None]:
    """Raise a ValueError for a state that lacks what this version reads."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise ValueError(f"the checkpoint is not one of this version: {error}") from error


def _restore_ranks(loop: Loop, saved: Mapping[str, int] | None) -> None:
    """Take the seed of the processes' noise, and warn if they are more or fewer than before."""
    present, before = loop.batches.ranks.world, 1 if saved is None else saved["world"]
    if loop.together is not None and saved is not None:
        loop.together.seed = saved["seed"]
    if present != before and not loop.batches.ranks.rank:
        warnings.warn(
            f"the training of the checkpoint had {_processes(before)} and goes on with {present}: "
            "it is equal to the uninterrupted one in distribution, and not bit for bit",
            stacklevel=2,
        )


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def rest_of(batches: Batches, so_far: EpochSoFar) -> Iterator[Batch]:
    """Return the batches of an epoch that are left, in the order in which it began."""
    if not so_far.batches:
        so_far.generators = generators()
        return iter(batches)
    present = generators()
    restore_generators(so_far.generators)
    left = batches.iterate(skip=so_far.batches)
    restore_generators(present)
    return left


def fingerprint(batches: Batches) -> list[Any] | None:
    """Return what tells data, in their order, from others; None for a stream.

    The bytes of some rows are hashed: a sum of them would depend on the number of threads.
    """
    if not batches.tensors:
        return None
    parts = []
    for tensor in batches.tensors:
        rows = tensor[:: max(1, len(tensor) // 1000)].detach().cpu()
        if rows.is_floating_point():
            rows = rows + 0  # turns -0.0 into 0.0
        content = rows.contiguous().reshape(-1).view(torch.uint8).numpy().data
        said = hashlib.blake2b(content, digest_size=16).hexdigest()
        parts.append([list(tensor.shape), str(tensor.dtype), said])
    return [batches.batch_size * batches.ranks.world, parts]


def _check(loop: Loop, state: Mapping[str, Any]) -> None:
    """Check that a state is one of these programs, data and callbacks."""
    present = loop.training.snapshot()
    shapes = {name: tuple(tensor.shape) for name, tensor in present.items()}
    saved = {name: tuple(tensor.shape) for name, tensor in state["target"]["tensors"].items()}
    late = loop.training.late.keys() - shapes.keys()  # announced by a step to come
    others = [n for n in {**shapes, **saved} if shapes.get(n) != saved.get(n) and n not in late]
    if others:
        name = others[0]
        raise ValueError(
            f"the checkpoint has {name!r} in shape {saved.get(name)}, and the target in "
            f"{shapes.get(name)}: resume with the programs of the training"
        )
    data = fingerprint(loop.batches)
    if data is not None and state["data"] is not None and data != state["data"]:
        raise ValueError(
            "the data or the batch size are not those of the checkpoint's training: resume with "
            "the same, or begin a new training of the loaded parameters"
        )
    _stateful(loop, state)


def _kept(state: Mapping[str, Any]) -> list[Any]:
    return [entry for entry in state["callbacks"] if entry[1]]


def _stateful(loop: Loop, state: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks whose states are in a checkpoint, in its order."""
    waiting, found = list(loop.callbacks), []
    for name, _ in _kept(state):
        callback = next((c for c in waiting if type(c).__name__ == name), None)
        if callback is None:
            raise ValueError(
                f"the training of the checkpoint had the callback {name}: resume with "
                f"callbacks=[..., {name}(...)]"
            )
        waiting.remove(callback)
        found.append(callback)
    return found


def _gradients(training: Training) -> dict[str, Tensor | None]:
    """Return the gradients by name, where there are any; None stands for zeros."""
    grads = {name: p.grad for name, p in training.parameters.items() if p.grad is not None}
    return {name: grad if grad.any() else None for name, grad in grads.items()}


def _restore_gradients(training: Training, saved: Mapping[str, Tensor | None], svi: SVI) -> None:
    zero = []
    for name, grad in saved.items():
        if name in training.waiting:
            continue
        parameter = training.parameters[name]
        if grad is None:
            parameter.grad = torch.zeros_like(parameter)
            zero.append(parameter)
        else:
            parameter.grad = grad.to(parameter.device)
    svi.zero_gradients(zero)


def _graphs(loop: Loop) -> dict[str, Any]:
    svi = loop.svi
    return {
        "compiled": svi.compiled,
        "recordings": list(loop.recordings.steps),
        "runs": [graph.runs for graph in svi.graphs],
        "onednn": onednn.measured(),
    }


def _record_graphs(loop: Loop, saved: Mapping[str, Any]) -> None:
    """Record the graphs of a checkpoint's training anew, on the first data."""
    svi = loop.svi
    svi.compiled = svi.compiled and saved["compiled"]
    if not (svi.compiled and saved["recordings"]):
        return
    if saved["onednn"] is not None:
        onednn.choose(saved["onednn"])
    present = loop.weight.beta
    batch = next(iter(loop.batches))
    for (led, *axes), weight in saved["recordings"]:
        rows = loop.batches.rows_beside(led)
        if not rows:
            continue
        found = _with_rows(loop.batches, batch, rows, axes)
        if found is None:
            continue
        batch, loop.weight.beta = found, weight
        given = first_rows(batch, rows)
        _, parameters = svi.gradients(*given)
        loop.training.meet(svi.names)
        svi.zero_gradients(parameters)
        loop.recordings.note(given[0].shape, weight)
    loop.weight.beta = present
    if len(svi.graphs) != len(saved["runs"]):
        warnings.warn(
            "the compiled step of the checkpoint's training could not be recorded in the same "
            "way: the training resumes, and agrees with the uninterrupted one up to rounding",
            stacklevel=2,
        )
    for graph, runs in zip(svi.graphs, saved["runs"], strict=False):
        graph.runs = runs  # decides when it is checked next


def _with_rows(batches: Batches, batch: Batch, rows: int, axes: list[int]) -> Batch | None:
    """Return this batch, or the next whose x has so many rows of a shape; None if none has.

    Several processes would wait for each other's iterations: theirs is of any shape.
    """

    def fits(each: Batch) -> bool:
        alike = batches.ranks.several or list(each[0].shape[1:]) == axes
        return len(each[0]) >= rows and alike

    return batch if fits(batch) else next(filter(fits, batches), None)


def first_rows(batch: Batch, rows: int) -> Batch:
    """Return the first rows of a batch, where its values have a row for each datum."""
    size = len(batch[0])
    return tuple(
        value[:rows] if isinstance(value, Tensor) and value.ndim and len(value) == size else value
        for value in batch
    )
