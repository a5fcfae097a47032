"""SVI with a compiled step.

Pyro runs every effect handler in Python at every step. Here the first steps are eager. Once
nothing that the programs reach in Python changes from step to step, the objective's own
`loss_and_grads` is recorded as a graph, gradients included, and compiled. The graph is used while
its guards hold, and it is checked against an eager step at its first, second, fourth, eighth ...
run.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

import pyro
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.graphs.cuda import WARM_UP, CudaStep, gpu_in_use, on_gpu
from pyrovae.graphs.quiet import depth_outside
from pyrovae.graphs.rare_constants import load_rare_constants
from pyrovae.graphs.signatures import (
    Arguments,
    NotRecordable,
    TooLarge,
    is_autocasting,
    settings,
    under_modes,
)
from pyrovae.train.checked_run import checked_run
from pyrovae.train.eager_step import EagerStep, eager_gradients, observed, unmatched_plates_refused
from pyrovae.train.optimizers import JoinedOptimizer, OneOptimizer, pyro_optimizer
from pyrovae.train.record_step import record_step
from pyrovae.train.replay import cuda_step
from pyrovae.train.slots import Place, Slot, place_of, slots_at
from pyrovae.train.step_graphs import StepGraph
from pyrovae.train.step_state import GradientNorm, Gradients, StepState
from pyrovae.types import Program

load_rare_constants()

__all__ = ["MAX_GRAPHS", "SVI", "OneOptimizer"]

MAX_GRAPHS: Final = 8
"""The number of shapes or modes of the arguments that are compiled; the others run eagerly."""

PATIENCE: Final = 64
"""The number of successive steps without a graph after which no more are recorded."""

ROUNDED: Final = 3
"""The number of checks in a row at which rounding may move the gradients beyond the tolerance."""

RESTLESS: Final = 3
"""The number of successive steps with side effects after which nothing is compiled."""


class SVI(pyro.infer.SVI):
    """Train as `pyro.infer.SVI` does, with a compiled step.

    The first step with arguments of a new shape is eager. If it changes nothing in Python, the
    second is recorded and compiled, which takes seconds to tens of seconds. At most 8
    shapes are recorded. Of these, none is compiled whose step has more than
    1,500 operations, such as those of long sequences, which would take
    minutes. `compile_seconds` is the time that recording has taken so far, and `observed_steps`
    the number of steps at which it was observed or recorded; `before_compiling` is called before.
    `norm` keeps the norm of the last step's gradient. `gradients` and `update` are the halves of a
    step: to train in several processes by hand, sum the gradients over these in between.

    A graph reads parameters, buffers and other tensors anew at each step, whether they change in
    place or are rebound. It is recorded for the numbers, strings and objects that the programs
    reach by attributes, closures, arguments and globals. A float that changes becomes an input if
    the programs take a tensor in its place; other values have graphs of their own. Steps under
    an outer handler or autocast, of parameters with gradient hooks, and of programs that read the
    clock or a file are eager. So are steps whose observed arguments lie outside their support,
    whose scales are not positive or whose loss is not finite: Pyro raises its own error or warning
    there. If a check against an eager step finds a difference, a warning says so and the steps run
    uncompiled from then on.

    On an NVIDIA GPU, the compiled step is replayed as one CUDA graph after the first few steps,
    together with the optimizer's step if all parameters are stepped at once. On the CPU, one
    measurement per process chooses the library of matrix products, so that two processes with the
    same seed may differ by rounding.

    Args:
        model: a Pyro program.
        guide: a Pyro program of the same arguments.
        optim: a Pyro optimizer, which keeps its states, settings and hooks; parameters are
            stepped at once where its class works elementwise. Or a torch optimizer, which trains
            the parameters that it holds.
        loss: an objective of `pyro.infer` or of `pyrovae.objectives`, or a function.
        *pyros: further arguments of `pyro.infer.SVI`.
        compile: whether to compile; False runs every step eagerly.
        clip_norm: the largest norm of the gradient over all parameters, above 0; None does not
            clip.
        **more: further keyword arguments of `pyro.infer.SVI`.

    Raises:
        ValueError: for a `clip_norm` that is not above 0.

    References:
        Hoffman, Blei, Wang, Paisley, 2013. Stochastic Variational Inference.
        Bingham et al., 2019. Pyro: Deep Universal Probabilistic Programming.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> loss = pyro.infer.TraceMeanField_ELBO()
        >>> svi = pv.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss, compile=False)
        >>> svi.step(torch.zeros(5, 64)) > 0
        True
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Any,
        loss: Any,
        *pyros: Any,
        compile: bool = True,
        clip_norm: float | None = None,
        **more: Any,
    ) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm is a norm above 0, or None; got {clip_norm}")
        super().__init__(model, guide, pyro_optimizer(optim), loss, *pyros, **more)
        self.compiled, self.clip_norm = compile, clip_norm
        self.compile_seconds = 0.0
        self.observed_steps = 0
        self.before_compiling: Callable[[], None] | None = None
        self.norm = GradientNorm()
        self._said: set[str] = set()
        self._forget()

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a gradient step and return the loss.

        Raises:
            ValueError: as the programs and the objective do.
        """
        replayed = self.launch(*args, **kwargs)
        if replayed is None:
            loss, parameters = self.gradients(*args, **kwargs)
            self.update(parameters)
        if isinstance(self.optim, OneOptimizer):
            self.optim.count()
        return loss if replayed is None else replayed.item()

    def launch(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """Launch a step as one CUDA graph and return its loss, a tensor on the GPU.

        Nothing waits for the GPU, so that many steps can be launched before a loss is read. On
        the CPU, and whenever the step cannot be replayed, no step is taken and None is returned.
        """
        if not (self.compiled and gpu_in_use()):
            return None
        arguments = self._arguments(args, kwargs)
        graph = None if arguments is None else self._graph(arguments)
        if arguments is None or graph is None or graph.due() or graph.runs < WARM_UP:
            return None
        if graph.strays or not (
            on_gpu(graph.parameters) and self._gradients.are_zero(graph.trained)
        ):
            return None
        loss = self._replay(graph)(graph.inputs(arguments))
        graph.runs += loss is not None
        return loss

    def gradients(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
        """Return the loss, and the parameters with their gradients: the first half of a step."""
        arguments = self._arguments(args, kwargs) if self.compiled else None
        graph = None if arguments is None else self._graph(arguments)
        if arguments is None or (graph is None and not self._may_record(arguments)):
            return self._eager(args, kwargs)
        if graph is None:
            return self._observed(arguments)
        return self._checked_run(graph, arguments) if graph.due() else self._run(graph, arguments)

    def update(self, parameters: list[Tensor]) -> None:
        """Take the optimizer's step and set the gradients to zero: the second half of a step."""
        self.norm.clip(parameters, self.clip_norm)
        self._optimizer()(parameters, self._names)
        self._gradients.zero(parameters)

    def zero_gradients(self, parameters: list[Tensor]) -> None:
        """Set the gradients to zero, without the optimizer's step."""
        self._gradients.zero(parameters)

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state of the parameters that these programs have announced."""
        return self._optimizer().state(self._names)

    def set_optimizer_state(self, state: dict[str, Any], parameters: dict[str, Tensor]) -> None:
        """Load a state of `optimizer_state`, for parameters by name."""
        self._optimizer().restart(state, parameters)
        known = {parameters[name]: name for name in state if name in parameters}
        self._names.update(known)
        self._optimizer().make(list(known), self._names)

    @property
    def names(self) -> dict[Tensor, str]:
        """The names of the parameters that steps have announced."""
        return self._names

    @property
    def graphs(self) -> list[StepGraph]:
        """The recorded graphs, the latest first."""
        return self._graphs

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the graphs: a copy records its own."""
        state = self.__dict__.copy()
        for name in ("_graphs", "_observations", "_too_large", "_varying", "_by_value"):
            del state[name]
        del state["_gradients"], state["_joined"]
        return {**state, "_names": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without graphs."""
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._graphs: list[StepGraph] = []
        self._observations: list[EagerStep] = []
        self._too_large: list[Any] = []
        self._varying: set[Place] = set()
        self._by_value: set[Place] = set()
        self._without_graph, self._checked_plates, self._unsettled = 0, False, ""
        self._names: dict[Tensor, str] = {}
        self._gradients = Gradients()
        self._joined: JoinedOptimizer | None = None
        self._optimizer()

    def _optimizer(self) -> JoinedOptimizer:
        if self._joined is None or self._joined.optim is not self.optim:
            self._joined = JoinedOptimizer(self.optim)
        return self._joined

    def _is_open(self) -> bool:
        """Tell whether more graphs may be recorded."""
        return self.compiled and not self._is_full() and self._without_graph < PATIENCE

    def _may_record(self, arguments: Arguments) -> bool:
        """Tell whether a step without a graph is worth observing, to record the next."""
        return self._is_open() and not self._is_too_large(arguments)

    def _is_too_large(self, arguments: Arguments) -> bool:
        return bool(self._too_large) and self._key(arguments) in self._too_large

    def _is_full(self) -> bool:
        """Tell whether as many shapes have been recorded, or found too large, as may be."""
        return len(self._graphs) + len(self._too_large) >= MAX_GRAPHS

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        """Return the flattened arguments; None if the step has to be eager."""
        if am_i_wrapped() or under_modes():
            return None
        if is_autocasting():
            self._say(
                "pyrovae.SVI runs steps under autocast uncompiled; those of "
                'Step(precision="bf16") are compiled'
            )
            return None
        try:
            arguments = Arguments((args, kwargs))
        except NotRecordable as reason:
            self._end(str(reason))
            return None
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in arguments.leaves):
            self._say("pyrovae.SVI runs steps whose arguments require gradients uncompiled")
            return None
        return None if self._is_too_large(arguments) else arguments

    def _key(self, arguments: Arguments) -> Any:
        return (self.model, self.guide, self.loss_and_grads, settings(), arguments.shape)

    def _graph(self, arguments: Arguments) -> StepGraph | None:
        """Return the graph of a step, recorded now if the last eager step shows that it can be."""
        key = self._key(arguments)
        for graph in self._graphs:
            if graph.holds(key, arguments):
                return graph
        if not self._is_open():
            self._say_closed()
            return None
        last = self._last_observed(key)
        if last is None or not last.is_static(arguments, self._varying):
            return None
        return self._recorded(last, arguments)

    def _say_closed(self) -> None:
        if self._is_full():
            self._say(
                f"the arguments had more than {MAX_GRAPHS} shapes or modes: pyrovae.SVI runs the "
                "steps of the others uncompiled"
            )
        elif self.compiled:
            self._say(
                f"{self._unsettled or 'the shape of an argument'} changed in nearly every one of "
                f"{PATIENCE} steps: pyrovae.SVI runs such steps uncompiled"
            )

    def _last_observed(self, key: Any) -> EagerStep | None:
        return next((step for step in self._observations if step.key == key), None)

    # Eager steps

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, list[Tensor]]:
        loss, announced = self._eager_gradients(args, kwargs)
        return loss, list(dict.fromkeys(announced.values()))

    def _eager_gradients(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Tensor]]:
        """Return the loss, and the parameters by name with their gradients in `grad`."""
        check = not self._checked_plates and is_validation_enabled()
        programs = (self.model, self.guide)
        with unmatched_plates_refused() if check else contextlib.nullcontext():
            loss, announced = eager_gradients(self.loss_and_grads, programs, (args, kwargs))
        self._checked_plates |= check
        self._names.update((parameter, name) for name, parameter in announced.items())
        return loss, announced

    def _observed(self, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Take an eager step, and note the state that it leaves and its side effects."""
        roots = [self.model, self.guide, self.loss_and_grads, self.loss, *arguments.objects()]
        key = self._key(arguments)
        last = self._last_observed(key)
        take = functools.partial(self._eager_gradients, *arguments.given)
        loss, step = observed(take, roots, key=key, floats=arguments.floats)
        if last is not None:
            self._compare(last, step)
            self._observations.remove(last)
        self._observations.append(step)
        self.observed_steps += 1
        self._without_graph += 1
        if step.changing >= RESTLESS:
            self._end(f"the programs {step.deed()} as they run, which a graph would not")
        elif step.sparse_gradient():
            self._end(
                f"the gradient of {step.sparse_gradient()} is sparse, and a graph's are dense"
            )
        return loss, list(dict.fromkeys(step.announced.values()))

    def _compare(self, last: EagerStep, step: EagerStep) -> None:
        """Note which floats have changed between two eager steps: they become inputs."""
        step.follow(last)
        self._varying |= set(map(place_of, last.changed_floats())) - self._by_value
        for holder, key, *_ in last.reach.changed():
            if place_of((holder, key)) not in self._varying:
                self._unsettled = holder.name(key)
        self._unsettled = next(iter(last.reach.changed_contents()), self._unsettled)

    # Steps as graphs

    def _recorded(self, last: EagerStep, arguments: Arguments) -> StepGraph | None:
        """Record a step, or warn of the reason that it cannot be recorded."""
        if not any(parameter.requires_grad for parameter in last.announced.values()):
            self.compiled = False  # nothing to train, nothing to compile
            return None
        last.reach = last.reach.renewed()
        slots = slots_at(self._varying, last.reach.holders)
        if self.before_compiling is not None:
            self.before_compiling()
        started = time.perf_counter()
        loss_and_grads = functools.partial(self.loss_and_grads, self.model, self.guide)
        try:
            graph = record_step(loss_and_grads, last, arguments=arguments, slots=slots)
        except TooLarge as reason:
            self._too_large.append(last.key)
            self._observations.remove(last)
            self.observed_steps += 1
            self._say(f"pyrovae.SVI runs steps of such shapes uncompiled: {reason}")
            return None
        except NotRecordable as reason:
            if slots or last.varying:
                self._fix_values(last.varying, slots)
            else:
                self._end(str(reason))
            return None
        finally:
            self.compile_seconds += time.perf_counter() - started
        self._graphs.insert(0, graph)
        self.observed_steps += 1
        self._without_graph = 0
        return graph

    def _fix_values(self, varying: set[int], slots: list[Slot]) -> None:
        """Record a graph for each value of numbers that cannot be tensors."""
        places = set(map(place_of, slots))
        self._by_value |= places
        self._varying -= places
        for step in self._observations:
            step.varying -= varying

    def _run(self, graph: StepGraph, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Run a graph; where the loss is not finite, Pyro takes the step and raises or warns."""
        inputs = graph.inputs(arguments)
        if not graph.accepts(inputs):
            return self._eager(*arguments.given)
        before = StepState(graph, inputs)
        loss, grads = graph.run.on(graph.run.placed(inputs))
        value = pytree.tree_map(torch_item, loss)
        graph.runs += 1
        if not all(map(math.isfinite, pytree.tree_leaves(value))):
            before.restore()
            return self._eager(*arguments.given)
        self._gradients.add(graph.trained, grads)
        return value, graph.parameters

    def _checked_run(self, graph: StepGraph, arguments: Arguments) -> tuple[Any, list[Tensor]]:
        """Take an eager step, and check the graph against it."""
        take = functools.partial(self._eager_gradients, *arguments.given)
        found = checked_run(graph, graph.inputs(arguments), take)
        graph.runs += 1
        graph.rounded = graph.rounded + 1 if found.by_rounding else 0
        if graph.rounded == ROUNDED:
            self._end(
                f"at {ROUNDED} steps in a row, compiling changes the result: {found.different}"
            )
        elif found.different and not found.by_rounding:
            self._drop(graph, found.different)
        return found.loss, list(dict.fromkeys(found.announced.values()))

    def _drop(self, graph: StepGraph, different: str) -> None:
        self._graphs.remove(graph)
        if (graph.slots or graph.varying) and graph.runs == 1:
            self._fix_values(graph.varying, graph.slots)
            return
        self._end(f"compared with an eager step, {different}: a value changes that no guard sees")

    def _replay(self, graph: StepGraph) -> CudaStep:
        if graph.replay is None or graph.clip_norm != self.clip_norm:
            graph.clip_norm = self.clip_norm
            graph.replay = cuda_step(
                graph, self._gradients, update=self.update, optimizer=self._optimizer
            )
        return graph.replay

    def _end(self, reason: str) -> None:
        self.compiled = False
        self._graphs.clear()
        self._observations.clear()
        self._say(f"pyrovae.SVI runs its steps uncompiled: {reason}")

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=depth_outside(__name__))
