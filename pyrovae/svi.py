"""SVI with the whole step compiled: `pyro.infer.SVI` at the speed of hand-written code.

Pyro runs every effect handler in Python at every step. Here they run once, while `recording`
keeps what the objective's own `loss_and_grads` does to tensors, gradients included, as a graph
that is compiled. What cannot be recorded, such as control flow on sampled values, runs as Pyro
runs it, with one warning that says why.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyro
import torch
from pyro import poutine
from pyro.infer.util import torch_item
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyrovae.cuda_graphs import CudaStep, gpu_in_use, on_gpu
from pyrovae.randomness import generators_kept
from pyrovae.recording import PyroObjective, Recorded, modules_met, record
from pyrovae.signatures import (
    NotRecordable,
    ambient,
    merged,
    module_state,
    modules_of,
    refilled,
    signature,
    tensors_of,
)

MAX_GRAPHS: Final = 8
"""How many shapes or modes of the arguments are compiled before the rest stays eager."""


class SVI(pyro.infer.SVI):
    """Train as `pyro.infer.SVI` does, in a compiled step.

    Args:
        model: a Pyro program.
        guide: a Pyro program of the same arguments.
        optim: a Pyro optimiser, or a torch one. A Pyro optimiser that treats all parameters alike,
            such as `pyro.optim.Adam({"lr": 1e-3})`, and that has no state yet, becomes one fused
            torch optimiser over all, `svi.optim`, which then has the state to save.
        loss: an objective of `pyro.infer` or of this library.
        compile: False runs the programs as Pyro runs them.
        clip_norm: the largest norm of the gradient over all parameters together.

    Each new shape of the arguments is recorded and compiled once (seconds, or tens of them), at
    most `MAX_GRAPHS` of them; the rest runs as Pyro runs it. Numbers with a fractional part among
    the arguments are inputs of the graph, so that a weight may change each step.
    `compile_seconds` tells what recording and compiling took so far.

    On an NVIDIA GPU the compiled steps of a shape are, after the first three, one CUDA graph, with
    the optimiser inside where it is `capturable`, as those are that a Pyro optimiser becomes.
    `launch` takes such a step without waiting for its loss.

    A graph holds what the programs did when it was recorded. Parameters, buffers and tensors that
    change in place are read anew, arguments are inputs, and a step under an outer handler or
    autocast runs eagerly. What Python holds is not followed: numbers in closures and attributes,
    tensors that are rebound, and state outside the buffers of the modules that are called. For
    programs that keep such state, or that rely on Pyro's validation at every step, give
    `compile=False`. On the CPU a measurement chooses the library that multiplies matrices, once
    for each process: two processes may differ at one seed by roundings.

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
        *,
        compile: bool = True,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(model, guide, _as_pyros(optim), loss)
        self.compiled, self.clip_norm = compile, clip_norm
        self.compile_seconds = 0.0
        self._graphs: dict[Any, _Graph] = {}
        self._modules: list[nn.Module] = modules_of(model, guide)
        self._said: set[str] = set()

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
        the first steps of each shape, and where CUDA refuses the capture.
        """
        if not (self.compiled and gpu_in_use()):
            return None
        graph = self._graph(args, kwargs)
        if graph is None or not on_gpu(graph.parameters):
            return None
        return self._replay(graph)(tensors_of((args, kwargs)))

    def gradients(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:
        """Return the loss, and the parameters with their gradients in `grad`: half a step."""
        graph = self._graph(args, kwargs) if self.compiled else None
        if graph is None:
            return self._run_eagerly(args, kwargs)
        return float(graph.loss_and_grads(args, kwargs)), graph.parameters

    def update(self, parameters: list[Tensor]) -> None:
        """Let the optimiser use the gradients, and take them away: the other half."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.optim(parameters)
        for parameter in parameters:
            parameter.grad = None  # a zero would still move a parameter that is switched off

    def _run_eagerly(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, list[Tensor]]:
        with poutine.trace(param_only=True) as capture:
            loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        return pytree.tree_map(torch_item, loss), _announced(capture.trace)

    def _graph(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Graph | None:
        if ambient() or any(tensor.requires_grad for tensor in tensors_of((args, kwargs))):
            return None
        try:
            key = self._key(args, kwargs)
            if key not in self._graphs and len(self._graphs) < MAX_GRAPHS:
                return self._recorded(args, kwargs)
        except NotRecordable as reason:
            self.compiled = False
            self._say(f"pyrovae.SVI runs its steps uncompiled: {reason}")
            return None
        if key not in self._graphs:
            self._say(
                f"the arguments had more than {MAX_GRAPHS} shapes or modes: pyrovae.SVI runs the "
                "steps of the others uncompiled"
            )
            return None
        graph = self._graphs[key]
        return graph if all(p.requires_grad for p in graph.parameters) else None

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return signature((args, kwargs)), module_state(self._modules)

    def _recorded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Graph:
        started = time.perf_counter()
        try:
            with modules_met() as modules:
                parameters = _parameters(self, args, kwargs)
            function, inputs = _pure_step(self, parameters, args, kwargs)
            graph = _Graph(record(function, inputs, modules), parameters)
        finally:
            self.compile_seconds += time.perf_counter() - started
        # Recording runs the programs, which may have created parameters and met modules.
        self._modules = merged(self._modules, modules)
        self._graphs[self._key(args, kwargs)] = graph
        return graph

    def _replay(self, graph: _Graph) -> CudaStep:
        if graph.replay is None or graph.clip_norm != self.clip_norm:
            graph.clip_norm = self.clip_norm
            graph.replay = CudaStep(
                graph.fill_grads,
                graph.run.closed_over,
                graph.parameters,
                update=self.update,
                optimizer=lambda: getattr(self.optim, "optimizer", None),
            )
            if graph.run.cpu_work:
                graph.replay.refuse(
                    f"the CPU has a part in them, {graph.run.cpu_work}", stacklevel=5
                )
        return graph.replay

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            warnings.warn(sentence, stacklevel=5)


@dataclass
class _Graph:
    """A recorded step, the parameters whose gradients it returns, and its replay on a GPU."""

    run: Recorded
    parameters: list[Tensor]
    replay: CudaStep | None = None
    clip_norm: float | None = None

    def loss_and_grads(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        return self.fill_grads(self.run.placed(tensors_of((args, kwargs))))

    def fill_grads(self, tensors: Sequence[Tensor]) -> Tensor:
        """Run on the inputs, and what was closed over, where they stand."""
        loss, grads = self.run.on(tensors)
        taken = {tensor.data_ptr() for tensor in tensors}
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = None if grad is None else _own(grad, parameter, taken)
        return loss


def _own(grad: Tensor, parameter: Tensor, taken: set[int]) -> Tensor:
    """Give a gradient memory of its own, laid out as its parameter: optimisers rely on both."""
    if grad.stride() != parameter.stride() or grad.data_ptr() in taken:
        grad = torch.empty_like(parameter).copy_(grad)
    taken.add(grad.data_ptr())
    return grad


def _parameters(svi: SVI, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Run the objective once to find the parameters, creating those that are made lazily."""
    with torch.no_grad(), generators_kept(), poutine.trace(param_only=True) as capture:
        svi.loss(svi.model, svi.guide, *args, **kwargs)
    found = _announced(capture.trace)
    if not found:
        raise NotRecordable("the programs have no parameter")
    return found


def _announced(trace: Any) -> list[Tensor]:
    """Return the distinct trainable tensors behind the `param` messages of a trace."""
    found = [site["value"].unconstrained() for site in trace.nodes.values()]
    return list({id(p): p for p in found if p.requires_grad}.values())


def _pure_step(
    svi: SVI, parameters: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], list[Tensor]]:
    """Return the loss and its gradients as a function of the tensors among the arguments."""

    def loss_and_grads(*tensors: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        again, named = refilled((args, kwargs), tensors)
        with PyroObjective(parameters) as recording:
            loss = svi.loss_and_grads(svi.model, svi.guide, *again, **named)
        return torch.as_tensor(loss), tuple(recording.grads)

    return loss_and_grads, tensors_of((args, kwargs))


class OneOptimizer(PyroOptim):
    """A torch optimiser over all parameters together, in the form that Pyro's SVI takes.

    Pyro makes one torch optimiser per parameter; one over all of them, fused where its class can
    be, does the same in a fraction of the time.

    Args:
        make: called with a list of parameters; returns a torch optimiser.

    Example:
        >>> import functools, torch
        >>> optim = OneOptimizer(functools.partial(torch.optim.AdamW, lr=1e-3))
    """

    def __init__(self, make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        super().__init__(make, {})
        self.optimizer: torch.optim.Optimizer | None = None
        self._waiting: dict[str, Any] | None = None

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Take a step for the parameters that have a gradient, and adopt those that are new."""
        parameters = list(params)
        if self.optimizer is None:
            self.optimizer = self.pt_optim_constructor(parameters)
            if self._waiting is not None:
                self.optimizer.load_state_dict(self._waiting)
        known = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        new = [parameter for parameter in parameters if id(parameter) not in known]
        if new:
            self.optimizer.add_param_group({"params": new})
        self.optimizer.step()

    def get_state(self) -> dict[str, Any]:
        """Return the state of the torch optimiser, to give to `set_state` later."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Take up a state, now or once the parameters are met."""
        self._waiting = state_dict or None
        if self.optimizer is not None and state_dict:
            self.optimizer.load_state_dict(state_dict)


def _as_pyros(optim: Any) -> PyroOptim:
    """Return one optimiser over all parameters where Pyro's treats them alike, or torch's own."""
    if isinstance(optim, torch.optim.Optimizer):
        return OneOptimizer(lambda parameters: _adopted(optim, parameters))
    alike = type(optim) is PyroOptim and isinstance(optim.pt_optim_args, dict)
    fresh = not (optim.optim_objs or optim._state_waiting_to_be_consumed) if alike else False
    if alike and fresh and not optim.pt_clip_args:
        return OneOptimizer(lambda parameters: _fused(optim, parameters))
    return optim


def _adopted(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> torch.optim.Optimizer:
    return optimizer


def _fused(optim: PyroOptim, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Make torch's optimiser in the fastest form that its class has on this device."""
    given = dict(optim.pt_optim_args)
    forms: list[dict[str, Any]] = [{"fused": True}, {}]
    if on_gpu(parameters):
        forms = [{"fused": True, "capturable": True}, {"capturable": True}, *forms]
    for form in forms:
        arguments = {**form, **given}
        if arguments.get("capturable") and isinstance(given.get("lr"), float):
            arguments["lr"] = torch.tensor(given["lr"], device=parameters[0].device)
        with contextlib.suppress(TypeError, RuntimeError):
            return optim.pt_optim_constructor(parameters, **arguments)
    return optim.pt_optim_constructor(parameters, **given)
