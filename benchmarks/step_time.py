"""Time one training step of the same VAE, written in several ways.

    python benchmarks/step_time.py --batch 100 512 --threads 1 2
    python benchmarks/step_time.py --device cuda
    python benchmarks/step_time.py --only "pyrovae, compiled" --before CHECKOUT

The VAE: 784-400-2x50 and 50-400-784 with ReLU, Bernoulli likelihood, Adam at 1e-3, 32-bit floats.
Each contestant lives in a process of its own, pinned to as many cores as it has threads. In every
round each takes a burst of steps in turn, while the others wait; the figure is the median over
rounds of the median step of a burst; on a GPU, of a burst's time by its steps, since nothing waits
for a single one there but Pyro's SVI. What is not installed is reported as missing.
`--before` adds the compiled step of another checkout of this repository.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

PIXELS, HIDDEN, LATENTS, ROWS = 784, 400, 50, 10_000
DEVICE = "cpu"
Step = Callable[[int], object]


def batches(batch: int):
    """Binary data with a tenth of the pixels on, cut into batches."""
    import numpy

    data = numpy.random.default_rng(0).random((ROWS, PIXELS)) < 0.13
    return data.astype(numpy.float32)[: ROWS // batch * batch].reshape(-1, batch, PIXELS)


def torch_batches(batch: int):
    import torch

    return torch.from_numpy(batches(batch)).to(DEVICE)


def networks():
    from torch import nn

    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    return encoder.to(DEVICE), decoder.to(DEVICE)


def hand_written(encoder, decoder):
    import torch
    from torch.nn import functional as F

    def negative_elbo(x):
        loc, raw = encoder(x).chunk(2, -1)
        scale = F.softplus(raw)
        z = loc + scale * torch.randn_like(loc)
        kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum()
        return F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") + kl

    return negative_elbo


def raw_torch(batch: int, *, compiled: bool) -> Step:
    import torch

    data, (encoder, decoder) = torch_batches(batch), networks()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    negative_elbo = hand_written(encoder, decoder)
    loss_of = torch.compile(negative_elbo) if compiled else negative_elbo

    def step(i: int) -> float:
        loss = loss_of(data[i % len(data)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item() if DEVICE == "cpu" else loss

    return step


def raw_torch_in_a_cuda_graph(batch: int) -> Step:
    import torch

    data, (encoder, decoder) = torch_batches(batch), networks()
    weights = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True, capturable=True)
    loss_of, x = hand_written(encoder, decoder), data[0].clone()

    def whole():
        optimizer.zero_grad()
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        return loss

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            whole()
    torch.cuda.current_stream().wait_stream(beside)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = whole()

    def step(i: int):
        x.copy_(data[i % len(data)])
        graph.replay()
        return loss

    return step


def pyros_example(batch: int) -> Step:
    """As Pyro's own VAE example is written."""
    import pyro
    import pyro.distributions as dist
    from torch.nn import functional as F

    data, (encoder, decoder) = torch_batches(batch), networks()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(x.shape[0], LATENTS)
            z = pyro.sample("latent", dist.Normal(z_loc, x.new_ones(z_loc.shape)).to_event(1))
            logits = decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, F.softplus(raw)).to_event(1))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    return lambda i: svi.step(data[i % len(data)])


def pyrovae_step(batch: int, *, compiled: bool) -> Step:
    import pyro

    import pyrovae as pv

    data = torch_batches(batch)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, HIDDEN, PIXELS)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(PIXELS, HIDDEN, 2 * LATENTS)),
    )
    adam, loss = pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
    svi = pv.SVI(vae.to(DEVICE).model, vae.guide, adam, loss, compile=compiled)
    if DEVICE == "cpu" or not compiled:
        return lambda i: svi.step(data[i % len(data)])

    def step(i: int) -> object:
        launched = svi.launch(data[i % len(data)])
        return svi.step(data[i % len(data)]) if launched is None else launched

    return step


def numpyro_jitted(batch: int) -> Step:
    import jax
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO

    data = jax.device_put(batches(batch))
    shapes = {"encoder": (PIXELS, HIDDEN, 2 * LATENTS), "decoder": (LATENTS, HIDDEN, PIXELS)}

    def apply(role, x):
        first, hidden, last = shapes[role]
        for i, (fan, width) in enumerate(((first, hidden), (hidden, last))):
            key = jax.random.PRNGKey(hash((role, i)) % 1000)
            weight = jax.random.uniform(key, (fan, width), minval=-1, maxval=1) / fan**0.5
            x = x @ numpyro.param(f"{role}.{i}.w", weight)
            x = x + numpyro.param(f"{role}.{i}.b", jax.numpy.zeros(width))
            x = jax.nn.relu(x) if i == 0 else x
        return x

    def model(x):
        with numpyro.plate("data", x.shape[0]):
            prior = dist.Normal(jax.numpy.zeros(LATENTS), 1.0).to_event(1)
            z = numpyro.sample("z", prior)
            likelihood = dist.Bernoulli(logits=apply("decoder", z)).to_event(1)
            numpyro.sample("x", likelihood, obs=x)

    def guide(x):
        loc, raw = jax.numpy.split(apply("encoder", x), 2, axis=-1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(0), data[0])
    update = jax.jit(svi.update, donate_argnums=0)

    def step(i: int) -> float:
        nonlocal state
        state, loss = update(state, data[i % len(data)])
        return float(loss)

    return step


def pythae_vae(encoder, decoder):
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = encoder

        def forward(self, x):
            loc, log_variance = self.net(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = decoder

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))

    config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENTS, reconstruction_loss="bce")
    return VAE(config, Encoder(), Decoder())


def pythaes(batch: int) -> Step:
    import torch

    data, vae = torch_batches(batch), pythae_vae(*networks())
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)

    def step(i: int) -> float:
        optimizer.zero_grad()
        loss = vae({"data": data[i % len(data)]}).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


CONTESTANTS: dict[str, Callable[[int], Step]] = {
    "raw torch, eager": lambda batch: raw_torch(batch, compiled=False),
    "raw torch, compiled": lambda batch: raw_torch(batch, compiled=True),
    "Pyro's SVI": pyros_example,
    "NumPyro, jitted": numpyro_jitted,
    "pythae": pythaes,
    "pyrovae, eager": lambda batch: pyrovae_step(batch, compiled=False),
    "pyrovae, compiled": lambda batch: pyrovae_step(batch, compiled=True),
}
BEFORE = "pyrovae, compiled, before"
CHECKOUT = ""
ON_A_GPU: dict[str, Callable[[int], Step]] = {
    "raw torch, eager": CONTESTANTS["raw torch, eager"],
    "raw torch in a CUDA graph": raw_torch_in_a_cuda_graph,
    "Pyro's SVI": pyros_example,
    "pyrovae, compiled": CONTESTANTS["pyrovae, compiled"],
}


def serve(name: str, batch: int, burst: int) -> None:
    """Be one contestant: take a burst of steps for each line of standard input."""
    try:
        name = name.removesuffix(", before")
        step = (CONTESTANTS if DEVICE == "cpu" else ON_A_GPU)[name](batch)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    for i in range(20):
        step(i)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        times = burst_on_the_cpu(step, burst) if DEVICE == "cpu" else burst_on_a_gpu(step, burst)
        print(json.dumps(1e3 * statistics.median(times)), flush=True)


def burst_on_the_cpu(step: Step, burst: int) -> list[float]:
    times = []
    for i in range(burst):
        started = time.perf_counter()
        step(i)
        times.append(time.perf_counter() - started)
    return times


def burst_on_a_gpu(step: Step, burst: int) -> list[float]:
    import torch

    torch.cuda.synchronize()
    started = time.perf_counter()
    for i in range(burst):
        step(i)
    torch.cuda.synchronize()
    return [(time.perf_counter() - started) / burst]


def start(name: str, batch: int, threads: int, burst: int) -> subprocess.Popen[str]:
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return subprocess.Popen(
        [
            *(sys.executable, __file__, "--serve", name, "--device", DEVICE),
            *("--batch", str(batch), "--burst", str(burst)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            **({"PYTHONPATH": CHECKOUT} if name == BEFORE else {}),
            "OMP_NUM_THREADS": str(threads),
            "JAX_PLATFORMS": "cpu",
        },
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def compete(
    names: list[str], batch: int, threads: int, *, rounds: int, burst: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each contestant in each round; none where it is missing."""
    running, figures = {}, {}
    for name in names:
        process = start(name, batch, threads, burst)
        answer = json.loads(process.stdout.readline() or '{"missing": "it failed"}')
        figures[name] = []
        if "ready" in answer:
            running[name] = process
        else:
            print(f"  {name}: missing ({answer['missing']})", file=sys.stderr)
    for turn in range(rounds):
        # Every second round backwards: who follows whom makes some percent.
        for name in sorted(running, key=names.index, reverse=bool(turn % 2)):
            process = running[name]
            process.stdin.write("go\n")
            process.stdin.flush()
            figures[name].append(json.loads(process.stdout.readline()))
    for process in running.values():
        process.stdin.close()
        process.wait()
    return figures


def table(figures: dict[str, list[float]]) -> list[str]:
    medians = {name: statistics.median(times) for name, times in figures.items() if times}
    ours = medians["pyrovae, compiled"]
    lines = ["| | ms per step | pyrovae, compiled / this |", "|---|---:|---:|"]
    for name in figures:
        if name in medians:
            lines.append(f"| {name} | {medians[name]:.3f} | {ours / medians[name]:.2f} |")
        else:
            lines.append(f"| {name} | missing | |")
    return lines


def device_name() -> str:
    if DEVICE == "cpu":
        return "no GPU"
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no NVIDIA GPU is at hand: leave --device cuda away")
    return torch.cuda.get_device_name()


def versions() -> str:
    found = []
    for package in ("torch", "pyro-ppl", "numpyro", "jax", "pythae"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} missing")
    return ", ".join([f"Python {platform.python_version()}", *found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[100, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--burst", type=int, default=40, help="steps of a contestant in a round")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", help="some of the contestants")
    parser.add_argument("--before", default="", help="another checkout, whose step competes too")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    global DEVICE, CHECKOUT
    DEVICE, CHECKOUT = args.device, os.path.abspath(args.before) if args.before else ""
    if args.serve:
        serve(args.serve, args.batch[0], args.burst)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, {device_name()}; {versions()}")
    names = args.only or list(CONTESTANTS if DEVICE == "cpu" else ON_A_GPU)
    names += [BEFORE] if CHECKOUT else []
    for threads in args.threads:
        for batch in args.batch:
            print(f"\nbatch {batch}, {threads} threads\n")
            figures = compete(names, batch, threads, rounds=args.rounds, burst=args.burst)
            print("\n".join(table(figures)), flush=True)


if __name__ == "__main__":
    main()
