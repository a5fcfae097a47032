"""Keep the state of modules for a block: of those that are given, and of those that run in it.

A program may keep its networks where no search finds them, such as in a dict, a list or an
object. A module that runs is met by a hook on its call.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

__all__ = ["buffers_kept", "evaluation_mode", "modules_met"]


@contextlib.contextmanager
def modules_met(meet: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call a function with each module that this thread calls in the block, before it runs."""
    thread = threading.get_ident()

    def called(module: nn.Module, _: object) -> None:
        if threading.get_ident() == thread:
            meet(module)

    with nn.modules.module.register_module_forward_pre_hook(called):
        yield


@contextlib.contextmanager
def buffers_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the buffers of the modules, and of those that run in the block, after the block.

    Batch normalization changes its buffers in training mode. Other modules may change theirs in
    any mode.
    """
    before: dict[int, tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]] = {}

    def remember(top: nn.Module) -> None:
        if id(top) in before:
            return
        for module in top.modules():
            buffers = {
                name: (buffer, buffer.clone())
                for name, buffer in module._buffers.items()
                if buffer is not None and not nn.parameter.is_lazy(buffer)
            }
            before.setdefault(id(module), (module, buffers))

    for module in modules:
        remember(module)
    try:
        with modules_met(remember):
            yield
    finally:
        with torch.no_grad():
            for module, buffers in before.values():
                for name, (buffer, value) in buffers.items():
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)
                    module._buffers[name] = buffer


@contextlib.contextmanager
def evaluation_mode(modules: Iterable[nn.Module], *, met: bool) -> Iterator[None]:
    """Set the modules to evaluation mode, and restore their modes after the block.

    Args:
        modules: the modules that are known beforehand.
        met: whether modules that run in the block are set to evaluation mode too.
    """
    before: dict[int, tuple[nn.Module, bool]] = {}

    def switch(module: nn.Module) -> None:
        before.setdefault(id(module), (module, module.training))
        module.training = False

    def switch_all(top: nn.Module) -> None:
        if top.training:
            for module in top.modules():
                switch(module)

    try:
        for module in modules:
            switch(module)
        with modules_met(switch_all) if met else contextlib.nullcontext():
            yield
    finally:
        for module, training in before.values():
            module.training = training
