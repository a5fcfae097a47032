"""SVI with the whole step compiled: `pyro.infer.SVI` at the speed of hand-written code.

Pyro runs every effect handler in Python at every step. Here the first steps run as Pyro runs them.
Once nothing that the programs can reach changes from step to step, what the objective's own
`loss_and_grads` does to tensors, gradients included, is recorded as a graph and compiled. The
graph is used while what it was recorded under holds, and it is held against Pyro's own step the
first time, the second, the fourth, and so on.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions.constraints import Constraint
from torch.utils import _pytree as pytree

from pyrovae.graphs.capture import record
from pyrovae.graphs.contents import heard
from pyrovae.graphs.cuda import WARM_UP, CudaStep, gpu_in_use, on_gpu
from pyrovae.graphs.pyro_objective import PyroObjective
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import (
    Arguments,
    NotRecordable,
    is_autocasting,
    settings,
    under_modes,
)
from pyrovae.randomness import state_of
from pyrovae.train.optimizers import OneOptimizer, Together, of_pyro
from pyrovae.train.step_graphs import (
    Place,
    Sight,
    Slot,
    StepGraph,
    differences,
    has_hooks,
    slot_tensors,
    sole_places,
    standing,
    supports_of,
)
from pyrovae.train.step_state import Before, Gradients

__all__ = ["MAX_GRAPHS", "SVI", "OneOptimizer"]

MAX_GRAPHS: Final = 8
"""How many shapes or modes of the arguments are compiled before the rest stays eager."""

PATIENCE: Final = 64
"""How many steps are watched for a state that lasts before the rest stays eager."""

PLATES: Final = "Found plate statements in guide but not model"
"""Pyro's warning of a guide whose plates the model lacks, which is an error here."""

RESTLESS: Final = 3
"""How many watched steps in a row may change what Python holds."""


class SVI(pyro.infer.SVI):
    """Train as `pyro.infer.SVI` does, in a compiled step.

    Args:
        model: a Pyro program.
        guide: a Pyro program of the same arguments.
        optim: a Pyro optimiser, which stays in charge: its states, settings and hooks are its
            own, and `get_state` names the parameters of modules too. Where its class treats each
            number by itself, all parameters are stepped at once. A torch optimiser trains the
            parameters that it holds.
        loss: an objective of `pyro.infer` or of this library, or a function.
        *pyros: what else `pyro.infer.SVI` takes.
        compile: False runs the programs as Pyro runs them.
        clip_norm: the largest norm of the gradient over all parameters together.
        **more: what else `pyro.infer.SVI` takes.

    The first step with arguments of a new shape is Pyro's. The second is recorded and compiled
    (seconds, or tens of them) if the first changed nothing in Python, at most `MAX_GRAPHS` times;
    the rest runs as Pyro runs it. `compile_seconds` tells what recording took so far.

    A graph follows parameters, buffers and tensors that change in place, and tensors that are
    rebound. It holds for the numbers, words and objects that the programs can reach by their
    attributes, closures, arguments and the globals they name. A float that changes becomes an
    input, where the program takes a tensor in its place; another value is another graph. A step
    under an outer handler or autocast, and a parameter with hooks, run as Pyro runs them. What
    none of this sees is found when a step is held beside Pyro's: a difference is said in a
    warning, and ends the compiling. Where an argument that is observed lies outside its support,
    and where the loss is not finite, the step is Pyro's, which refuses it or warns.

    On an NVIDIA GPU the compiled steps of a shape are, after the first few, one CUDA graph, with
    the optimiser inside where all its steps are taken at once. `launch` takes such a step without
    waiting for its loss. On the CPU a measurement chooses the library that multiplies matrices,
    once for each process: two processes may differ at one seed by roundings.

    References:
        Hoffman, Blei, Wang, Paisley, 2013. Stochastic Variational Inference.
        Bingham et al., 2019. Pyro: Deep Universal Probabilistic Programming.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> loss = pyro.infer.TraceMeanField_ELBO()
        >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss, compile=False)
        >>> svi.step(torch.zeros(5, 64)) > 0
        True
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        optim: Any,
        loss: Any,
        *pyros: Any,
        compile: bool = True,
        clip_norm: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(model, guide, of_pyro(optim), loss, *pyros, **more)
        self.compiled, self.clip_norm = compile, clip_norm
        self.compile_seconds = 0.0
        self._said: set[str] = set()
        self._forget()

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step and return the loss.

        Raises:
            What the programs and the objective raise.
        """
        replayed = self.launch(*args, **kwargs)
        if replayed is not None:
            return replayed.item()
        loss, parameters = self.gradients(*args, **kwargs)
        self.update(parameters)
        return loss

    def launch(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Take a step on a GPU as one CUDA graph; return its loss, on the device and unread.

        Nothing waits for the GPU, so many steps can be launched before their losses are read.
        None, and no step, on the CPU, and where an ordinary step has to be taken: uncompiled, in
        the first steps of each shape, beside Pyro's, and where CUDA refuses the capture.
        """
        if not (self.compiled and gpu_in_use()):
            return None
        arguments = self._arguments(args, kwargs)
        graph = None if arguments is None else self._graph(arguments)
        if arguments is None or graph is None or graph.due() or graph.runs < WARM_UP:
            return None
        if graph.strays or not (
            on_gpu(graph.parameters) and self._gradients.are_free(graph.trained)
        ):
            return None
        loss = self._replay(graph)(graph.inputs(arguments))
        graph.runs += loss is not None
        return loss

    def gradients(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
        """Return the loss, and the parameters with their gradients in `grad`: half a step."""
        arguments = self._arguments(args, kwargs) if self.compiled else None
        graph = None if arguments is None else self._graph(arguments)
        if arguments is None or (graph is None and not self._is_open()):
            return self._eager(args, kwargs)
        if graph is None:
            return self._watched(arguments)
        return self._beside(graph, arguments) if graph.due() else self._run(graph, arguments)

    def update(self, parameters: list[Tensor]) -> None:
        """Let the optimiser use the gradients, and set them to zero: the other half."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self._together()(parameters, self._names)
        self._gradients.rest(parameters)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the graphs behind: a copy records its own."""
        state = self.__dict__.copy()
        for name in ("_graphs", "_sights", "_varying", "_by_value", "_gradients", "_joined"):
            del state[name]
        return {**state, "_names": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without graphs."""
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._graphs: list[StepGraph] = []
        self._sights: list[Sight] = []
        self._varying: set[Place] = set()
        self._by_value: set[Place] = set()
        self._watching, self._checked, self._unsettled = 0, False, ""
        self._names: dict[Tensor, str] = {}
        self._gradients = Gradients()
        self._joined: Together | None = None
        self._together()

    def _together(self) -> Together:
        if self._joined is None or self._joined.optim is not self.optim:
            self._joined = Together(self.optim)
        return self._joined

    def _is_open(self) -> bool:
        """Tell whether graphs may still be recorded."""
        return self.compiled and len(self._graphs) < MAX_GRAPHS and self._watching < PATIENCE

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Return the arguments as a graph takes them; None where a step has to be Pyro's."""
        if am_i_wrapped() or under_modes():
            return None
        if is_autocasting():
            self._say("pyrovae.SVI runs steps under autocast uncompiled")
            return None
        try:
            arguments = Arguments((args, kwargs))
        except NotRecordable as reason:
            self._end(str(reason))
            return None
        asks = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in arguments.leaves)
        if asks:
            self._say("pyrovae.SVI runs steps whose arguments ask for gradients uncompiled")
        return None if asks else arguments

    def _key(self, arguments: Arguments) -> Any:
        return (self.model, self.guide, self.loss_and_grads, settings(), arguments.shape)

    def _graph(self, arguments: Arguments) -> StepGraph | None:
        """Return the graph for a step, recorded now if the last one showed that it can be."""
        key = self._key(arguments)
        for graph in self._graphs:
            if graph.holds(key, arguments):
                return graph
        if not self._is_open():
            self._say_closed()
            return None
        sight = self._sight(key)
        if sight is None or not sight.settled(arguments, self._varying):
            return None
        return self._recorded(sight, arguments)

    def _say_closed(self) -> None:
        if len(self._graphs) == MAX_GRAPHS:
            self._say(
                f"the arguments had more than {MAX_GRAPHS} shapes or modes: pyrovae.SVI runs the "
                "steps of the others uncompiled"
            )
        elif self.compiled:
            self._say(
                f"{self._unsettled or 'the shape of an argument'} was another in nearly every "
                f"one of {PATIENCE} steps: pyrovae.SVI runs such steps uncompiled"
            )

    def _sight(self, key: Any) -> Sight | None:
        return next((sight for sight in self._sights if sight.key == key), None)

    # Steps in Pyro's own way

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Tensor]]:
        loss, announced = self._in_pyros_way(args, kwargs)
        return loss, list(dict.fromkeys(announced.values()))

    def _in_pyros_way(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the loss and the parameters by name, with their gradients in `grad`."""
        with poutine.trace(param_only=True) as capture, self._plates_refused():
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        nodes = capture.trace.nodes.items()
        announced = {name: site["value"].unconstrained() for name, site in nodes}
        self._names.update((parameter, name) for name, parameter in announced.items())
        return pytree.tree_map(torch_item, loss), announced

    @contextlib.contextmanager
    def _plates_refused(self) -> Iterator[None]:
        """Refuse in the first step, under validation, plates that the model lacks."""
        if self._checked or not is_validation_enabled():
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=PLATES)
            try:
                yield
            except UserWarning as refused:
                if PLATES not in str(refused):
                    raise
                raise ValueError(str(refused)) from refused
        self._checked = True

    def _watched(self, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Take a step in Pyro's way, and note what it leaves and what it changes."""
        roots = [self.model, self.guide, self.loss_and_grads, self.loss, *arguments.objects()]
        key, draws = self._key(arguments), _pythons_draws()
        before, sight = Reach(roots), self._sight(key)
        with heard() as said:
            loss, announced = self._in_pyros_way(*arguments.given)
        disturbed = before.disturbed() + said
        if _pythons_draws() != draws:
            disturbed.append("Python's or numpy's random generator")
        after = Reach(roots) if before.changed() or disturbed else before
        seen = Sight(key, arguments.floats, after, announced, disturbed)
        if sight is not None:
            self._compare(sight, seen)
            self._sights.remove(sight)
        self._sights.append(seen)
        self._watching += 1
        if seen.disturbances >= RESTLESS:
            self._end(f"the programs change {disturbed[0]} as they run, which a graph would not")
        return loss, list(dict.fromkeys(announced.values()))

    def _compare(self, before: Sight, seen: Sight) -> None:
        """Note which floats are not what the last step left: they become inputs."""
        seen.disturbances = before.disturbances + 1 if seen.disturbed else 0
        changed = {i for i, v in seen.floats.items() if before.floats[i] != v}
        seen.varying = before.varying | changed
        for holder, key in before.numbers_changed():
            if (id(holder.at), key) not in self._by_value:
                self._varying.add((id(holder.at), key))
        for holder, key, *_ in before.reach.changed():
            if (id(holder.at), key) not in self._varying:
                self._unsettled = holder.name(key)
        self._unsettled = next(iter(before.reach.refilled()), self._unsettled)

    # Steps as graphs

    def _recorded(self, sight: Sight, arguments: Arguments) -> StepGraph | None:
        """Record the step, or say why it cannot be."""
        if not any(parameter.requires_grad for parameter in sight.announced.values()):
            self.compiled = False  # nothing to train, nothing to compile
            return None
        sight.reach = sight.reach.renewed()
        slots = [
            (holder, key)
            for holder in sight.reach.holders
            for key in holder.keys
            if (id(holder.at), key) in self._varying
        ]
        started = time.perf_counter()
        try:
            graph = self._graph_of(sight, arguments, slots)
        except NotRecordable as reason:
            if slots or sight.varying:
                self._take_by_value(sight.varying, slots)
            else:
                self._end(str(reason))
            return None
        finally:
            self.compile_seconds += time.perf_counter() - started
        self._graphs.insert(0, graph)
        self._watching = 0
        return graph

    def _take_by_value(self, varying: set[int], slots: list[Slot]) -> None:
        """Let each value of a number have a graph: a tensor will not do in its place."""
        places = {(id(holder.at), key) for holder, key in slots}
        self._by_value |= places
        self._varying -= places
        for sight in self._sights:
            sight.varying -= varying

    def _graph_of(self, sight: Sight, arguments: Arguments, slots: list[Slot]) -> StepGraph:
        parameters = list(dict.fromkeys(sight.announced.values()))
        known = (*parameters, *sight.reach.parameters, *pyro.get_param_store()._params.values())
        trained = [p for p in dict.fromkeys(known) if p.requires_grad and p.is_leaf]
        if any(map(has_hooks, trained)):
            raise NotRecordable("a parameter has hooks on its gradient")
        varying = set(sight.varying)
        given = arguments.inputs(varying)
        validated = bool(torch.distributions.Distribution._validate_args)
        supports: dict[int, Constraint] = {}

        def loss_and_grads(*tensors: Tensor) -> tuple[Any, tuple[Tensor | None, ...]]:
            left = iter(tensors)
            args, kwargs = arguments.refilled(left, varying)
            recording = PyroObjective(trained, validated=validated)
            with standing(slots, left), recording:
                loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
            supports.update(supports_of(recording.checked, tensors))
            return pytree.tree_map(torch.as_tensor, loss), tuple(recording.grads)

        run = record(loss_and_grads, [*given, *slot_tensors(slots, given)], sight.reach)
        if any(t.requires_grad and t.is_leaf for t in {*run.closed_over} - {*trained}):
            raise NotRecordable("a tensor asks for a gradient that no walk over the programs met")
        kept = [*parameters, *(run.closed_over[i] for i in run.written)]
        free = {(id(holder.at), key) for holder, key in slots}
        return StepGraph(
            key=sight.key,
            fixed={i: v for i, v in arguments.floats.items() if i not in varying},
            varying=varying,
            slots=slots,
            run=run,
            announced=sight.announced,
            trained=trained,
            watch=sight.reach.guards([*run.closed_over, *parameters], free),
            sole=sole_places(sight.reach, run.closed_over, kept),
            flags={**sight.flags, **{p: p.requires_grad for p in trained}},
            supports=supports,
        )

    def _run(self, graph: StepGraph, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Run the graph; a step whose loss is not finite is left to Pyro, to refuse or warn of."""
        inputs = graph.inputs(arguments)
        if not graph.accepts(inputs):
            return self._eager(*arguments.given)
        before = Before(graph, inputs)
        loss, grads = graph.run.on(graph.run.placed(inputs))
        value = pytree.tree_map(torch_item, loss)
        graph.runs += 1
        if not all(map(math.isfinite, pytree.tree_leaves(value))):
            before.restore()
            return self._eager(*arguments.given)
        self._gradients.add(graph.trained, grads)
        return value, graph.parameters

    def _beside(self, graph: StepGraph, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Take Pyro's step, and hold the graph's against it."""
        inputs = graph.inputs(arguments)
        before = Before(graph, inputs)
        found, grads = graph.run.on(graph.run.placed(inputs))
        after = Before(graph, inputs)
        before.restore()
        waiting = [parameter.grad for parameter in graph.trained]
        for parameter in graph.trained:
            parameter.grad = None
        try:
            loss, announced = self._in_pyros_way(*arguments.given)
            wanted = [parameter.grad for parameter in graph.trained]
        finally:
            for parameter, grad in zip(graph.trained, waiting, strict=True):
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else grad + parameter.grad
        names = {parameter: name for name, parameter in graph.announced.items()}
        named = [names.get(p, f"tensor {i}") for i, p in enumerate(graph.trained)]
        pairs = zip(named, zip(grads, wanted, strict=True), strict=True)
        left = after.differs(Before(graph, inputs))
        different = differences((found, loss), dict(pairs)) or left
        if set(announced.values()) != set(graph.parameters):
            different = "other parameters are announced"
        graph.runs += 1
        if different:
            self._drop(graph, different)
        return loss, list(dict.fromkeys(announced.values()))

    def _drop(self, graph: StepGraph, different: str) -> None:
        self._graphs.remove(graph)
        if (graph.slots or graph.varying) and graph.runs == 1:
            self._take_by_value(graph.varying, graph.slots)
            return
        self._end(
            f"beside a step of Pyro's {different}. Something changes that its graph does not see"
        )

    def _replay(self, graph: StepGraph) -> CudaStep:
        if graph.replay is None or graph.clip_norm != self.clip_norm:
            graph.clip_norm = self.clip_norm
            graph.replay = CudaStep(
                self._filling(graph),
                graph.run.closed_over,
                graph.parameters,
                update=self.update,
                optimizer=lambda: self._whole(graph.parameters),
            )
            if graph.run.cpu_work:
                graph.replay.refuse(
                    f"the CPU has a part in them, {graph.run.cpu_work}", stacklevel=5
                )
        return graph.replay

    def _filling(self, graph: StepGraph) -> Callable[[Sequence[Tensor]], Tensor]:
        def fill(tensors: Sequence[Tensor]) -> Tensor:
            loss, grads = graph.run.on(tensors)
            self._gradients.add(graph.trained, grads)
            return pytree.tree_leaves(loss)[0]

        return fill

    def _whole(self, parameters: list[Tensor]) -> torch.optim.Optimizer | None:
        """Return what steps all parameters at once, its settings brought up to date."""
        if isinstance(self.optim, OneOptimizer):
            return self.optim.optimizer
        together = self._together()
        known = all(parameter in self.optim.optim_objs for parameter in parameters)
        clips = known and any(self.optim.grad_clip[p] is not None for p in parameters)
        return together.whole if known and not clips and together.settled(parameters) else None

    def _end(self, reason: str) -> None:
        self.compiled = False
        self._graphs.clear()
        self._sights.clear()
        self._say(f"pyrovae.SVI runs its steps uncompiled: {reason}")

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=_depth_outside())


def _pythons_draws() -> Any:
    """Return where Python's and numpy's generators stand."""
    return random.getstate(), state_of(np.random.mtrand._rand)


def _depth_outside() -> int:
    """Return the stack level of the first caller that is not of this library's steps."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame, depth = frame.f_back, depth + 1
    return depth
