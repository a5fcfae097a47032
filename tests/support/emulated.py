"""CUDA graphs acted out on the CPU: what a replay would do, where there is no GPU.

As in CUDA, a capture changes nothing and computes nothing (what it makes is poisoned with NaN, the
generator and whatever it wrote to are put back), a value cannot be read in it, and a replay runs
the same operations on the same memory without any Python of the step.
"""

import contextlib

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.train.svi import SVI


class Ordinary(SVI):
    """The compiled step without CUDA graphs."""

    def launch(self, *args, **kwargs):
        """Launch nothing."""


class EmulatedGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self):
        self.operations = []
        self.replays = 0

    def replay(self):
        self.replays += 1
        with torch.no_grad():
            for operation, arguments, named, made in self.operations:
                again = operation(*arguments, **named)
                for old, new in zip(_memory(made), _memory(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class _Noting(TorchDispatchMode):
    def __init__(self, graph):
        super().__init__()
        self.graph, self.before, self.made = graph, {}, {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for memory in _memory((args, kwargs)):
            address = memory.data_ptr()
            if address not in self.made and address not in self.before:
                self.before[address] = (memory, memory.clone())
        found = operation(*args, **kwargs)
        self.graph.operations.append((operation, *_where_they_lie((args, kwargs)), found))
        for memory in _memory(found):
            if memory.data_ptr() not in self.before:
                self.made[memory.data_ptr()] = memory
        return found

    def undo(self):
        for memory, value in self.before.values():
            memory.copy_(value)
        for memory in self.made.values():
            memory.fill_(0xFF)


def _where_they_lie(values):
    """Return aliases of the memory as it is: a tensor that is rebound later leaves them alone."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, values)


def _memory(values):
    leaves = pytree.tree_leaves(values)
    return [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def capturing(graph, **_):
    """Stand for `torch.cuda.graph`."""
    noting = _Noting(graph)
    with torch.random.fork_rng(devices=[]), noting:
        yield
    with torch.no_grad():
        noting.undo()
