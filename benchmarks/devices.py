"""Time a training step in several processes beside the same step in one.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 benchmarks/devices.py 100

VAE 784-400-2x50 / 50-400-784, ReLU, Bernoulli, Adam, float32, compiled. The contestants take
turns in the same processes: B data in one process while the others wait, W B data in one, B data
in each of W without any exchange (what the machine allows), and B data in each of W as `fit` does.
Also counts what a step sends.
"""

import statistics
import sys
import time
from types import SimpleNamespace

import pyro
import torch
from torch import distributed

import pyrovae as pv
from pyrovae.data.batches import Batches
from pyrovae.data.ranks import Ranks
from pyrovae.randomness import Steps
from pyrovae.train.distributed import together

BATCH, ROUNDS, STEPS = int(sys.argv[1]) if sys.argv[1:] else 100, 30, 20


def make():
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.StandardNormal(50),
        pv.likelihoods.Bernoulli(pv.nets.MLP(50, 400, 784, activation=torch.nn.ReLU)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(784, 400, 100, activation=torch.nn.ReLU)),
    )
    adam = pyro.optim.Adam({"lr": 1e-3})
    return vae, pv.SVI(vae.model, vae.guide, adam, pyro.infer.TraceMeanField_ELBO())


def main():
    distributed.init_process_group("gloo")
    ranks = Ranks.present()
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((BATCH * ranks.world, 784), 0.2))
    (_, one), (_, double), (vae, several) = make(), make(), make()
    training = SimpleNamespace(parameters=dict(vae.named_parameters()), target=vae)
    group = together(training, Batches(x, BATCH, ranks=ranks), Steps(0), scaled=False)
    sent, send = [], distributed.all_reduce

    def counted(tensor):
        sent.append(tensor.nbytes)
        return send(tensor)

    distributed.all_reduce = counted

    def alone(svi, rows):
        if ranks.rank == 0:
            svi.step(x[:rows])

    def joint():
        group.joint((x[:BATCH],), lambda batch: several.gradients(*batch))
        several.update(group.trained)

    contestants = {
        "B in one": lambda: alone(one, BATCH),
        "W B in one": lambda: alone(double, BATCH * ranks.world),
        "each apart": lambda: one.step(x[:BATCH]),
        "each, summed": joint,
        "the all-reduce": lambda: group._send(0),
    }
    times = {name: [] for name in contestants}
    for turn in range(ROUNDS + 2):
        for name, take in contestants.items():
            distributed.barrier()
            before = time.perf_counter()
            for _ in range(STEPS):
                take()
            seconds = (time.perf_counter() - before) / STEPS
            if turn > 1:  # the first compile
                times[name].append(seconds)
    if ranks.rank == 0:
        said = f"{ranks.world} processes, {torch.get_num_threads()} thread each, B = {BATCH}"
        print(f"{said}: a step sends {set(sent)} bytes in one all-reduce")
        median = {name: statistics.median(values) for name, values in times.items()}
        for name, value in median.items():
            print(f"{name:15s} {1e3 * value:7.2f} ms")
        shared = median["each, summed"]
        print(f"W B data: {median['W B in one'] / shared:.2f} times as fast as in one process")
        print(f"each, summed over each apart: {shared / median['each apart']:.2f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
