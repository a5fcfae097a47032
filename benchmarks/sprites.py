"""How many sprites a second `pyrovae.data.Sprites` renders, by side, look and threads.

    python benchmarks/sprites.py

Each figure is the best of several rounds of random combinations of the factors, by the wall and by
the processors' time. On a busy machine the wall tells about the others; the processors' time is
that of all threads together.
"""

import argparse
import time

import torch

import pyrovae as pv


def rates(sprites: pv.data.Sprites, number: int, rounds: int) -> tuple[float, float]:
    """Return the most images a second of the wall, and of the processors' time."""
    factors = sprites.factors.sample(number, generator=torch.Generator().manual_seed(0))
    sprites.images(factors[:100])
    wall, processors = [], []
    for _ in range(rounds):
        began = time.perf_counter(), time.process_time()
        sprites.images(factors)
        wall.append(time.perf_counter() - began[0])
        processors.append(time.process_time() - began[1])
    return number / min(wall), number / min(processors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print("threads  side  look      images/s  per second of a core")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for side, look in ((32, "binary"), (64, "binary"), (64, "color"), (64, "noise")):
            fast, each = rates(pv.data.Sprites(side, look), args.number, args.rounds)
            print(f"{threads:7}  {side:4}  {look:8}  {fast:8,.0f}  {each:8,.0f}")


if __name__ == "__main__":
    main()
