"""What a step of Muon takes in bfloat16 and in float32, for the matrices of a VAE on MNIST.

    OMP_NUM_THREADS=1 python benchmarks/muon.py
    OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/muon.py

The second command has the products of a processor without AVX-512. The VAE is
784-200-200-2x50 and 50-200-200-784; the contestants take turns, the times are of the process.
"""

import statistics
import time
from collections.abc import Callable

import torch

from pyrovae.train import muon

SHAPES = (200, 784), (200, 200), (100, 200), (200, 50), (200, 200), (784, 200)
ROUNDS = 11


def optimizer(kind: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    return kind(matrices)


def in_float32() -> Callable[[], None]:
    """Return the step of a processor that would emulate bfloat16."""
    made, present = optimizer(muon.Muon), muon._multiplies_bfloat16

    def step() -> None:
        muon._multiplies_bfloat16 = lambda device: False
        made.step()
        muon._multiplies_bfloat16 = present

    return step


def main() -> None:
    torch.manual_seed(0)
    steps = {
        "torch's, in bfloat16": optimizer(torch.optim.Muon).step,
        "pyrovae's, in float32": in_float32(),
        "Adam": optimizer(torch.optim.Adam).step,
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = time.process_time()
            step()
            times[name].append(time.process_time() - began)
    for name, found in times.items():
        print(f"{name}: {1e3 * statistics.median(found[1:]):.1f} ms")


if __name__ == "__main__":
    main()
