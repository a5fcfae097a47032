"""Run functions in the processes of a gloo group, and what such functions do."""

import contextlib
import os
import signal
import traceback
from datetime import timedelta

import pyro
import pyro.distributions as dist
import torch
from fresh import context
from torch import distributed
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from trainings import StopAt

import pyrovae as pv
from pyrovae.data import Batches
from pyrovae.data.ranks import ProcessLost, Ranks
from pyrovae.measure.annealing import ais

STEPS = 20


def in_group(work, folder, *, world=2, patience=300):
    """Run a function in every process of a group; return its results and the exit codes."""
    folder.mkdir(exist_ok=True)
    several = [context().Process(target=_run, args=(work, folder, r, world)) for r in range(world)]
    for process in several:
        process.start()
    for process in several:
        process.join(patience)
        process.kill()
        process.join()
    files = [folder / f"{rank}.pt" for rank in range(world)]
    return [torch.load(file) if file.exists() else None for file in files], [
        process.exitcode for process in several
    ]


def _run(work, folder, rank, world):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(work(folder), folder / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    with contextlib.suppress(RuntimeError):
        distributed.destroy_process_group()


class Points(torch.nn.Module):
    """A model and a guide without noise: the codes are points."""

    def __init__(self, size=None):
        super().__init__()
        torch.manual_seed(Ranks.present().rank)  # rank 0's parameters are those of all
        layers = torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
        self.encoder, self.decoder = torch.nn.Sequential(*layers).double(), torch.nn.Linear(2, 6)
        self.decoder.double()
        self.size = size

    def plate(self, x):
        return pyro.plate("data", self.size or len(x), subsample=torch.arange(len(x)), dim=-1)

    def model(self, x):
        if self.decoder is None:
            raise ValueError("the decoder is gone")
        pyro.module("decoder", self.decoder)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with self.plate(x):
            pyro.sample("z", dist.Delta(self.encoder(x)).to_event(1))


def bits(rows, *, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.bernoulli(torch.full((rows, width), 0.3), generator=generator).to(dtype)


def points(*, rows, size=None, compile=False, stream=False, accumulate=1):
    """Train points for 20 steps; return the parameters and the history."""
    pair, world = Points(size), Ranks.present().world
    x = bits(rows)
    data = list(x.split(10 // world)) if stream else x
    history = pv.fit(
        (pair.model, pair.guide),
        data,
        validation=bits(9),
        batch_size=10 // world,
        epochs=9,
        step=pv.Step(
            optim=pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
            loss=pyro.infer.Trace_ELBO(),
            clip_norm=30.0,
            compile=compile,
            accumulate=accumulate,
        ),
        callbacks=[StopAt(STEPS)],
    )
    pyro.clear_param_store()
    flat = torch.cat([p.detach().flatten() for p in pair.parameters()])
    return {"flat": flat, "history": history.lines(), "compiled": history.compile_seconds > 0}


CASES = {
    "even": {"rows": 50},
    "uneven": {"rows": 53},
    "one left": {"rows": 51},
    "scaled": {"rows": 53, "size": 1000},
    "compiled": {"rows": 50, "compile": True},
    "accumulated": {"rows": 53, "accumulate": 2},
    "scaled and accumulated": {"rows": 53, "accumulate": 2, "size": 1000},
    "stream": {"rows": 45, "stream": True},
}


def vae():
    torch.manual_seed(1)
    return pv.mlp_vae(16, latents=2, hidden=8)


def dealt():
    """Return the data that this process takes in two epochs, by the kind of the data."""
    ranks, x = Ranks.present(), torch.arange(23.0).unsqueeze(1)
    torch.manual_seed(ranks.rank)
    items = TensorDataset(x)
    sampler = DistributedSampler(items)
    kinds = {
        "tensors": x,
        "a data set": items,
        "a loader": DataLoader(items, 3, shuffle=True),
        "a sharded loader": DataLoader(items, 3, sampler=sampler),
        "batches": list(x.split(3)),
    }
    found = {}
    for kind, data in kinds.items():
        batches = Batches(data, 3, shuffle=True, ranks=ranks)
        found[kind] = [torch.cat([b for b, *_ in batches]).flatten() for _ in range(2)]
    return found


class Reporting(pv.Callback):
    """Evaluate after each epoch, in the process that writes."""

    writes = True

    def __init__(self):
        self.reported = []

    def finished_epoch(self, training):
        report = pv.evaluate(
            training.target, bits(250, width=16, dtype=torch.float32), particles=5
        )
        self.reported.append(report.elbo.mean)


def measured():
    """Measure a VAE in several batches."""
    reporting = Reporting()
    x = bits(250, width=16, dtype=torch.float32)
    report = pv.evaluate(vae(), x, particles=5, batch_size=100, diagnostics=[pv.AIS(3, limit=5)])
    still = pv.Step(optim=pyro.optim.Adam({"lr": 0.0}))
    more = bits(1100, width=16, dtype=torch.float32)
    monitored = pv.fit(vae(), x[:20], validation=more, epochs=1, step=still, callbacks=[reporting])
    tensors = report.tensors()
    elbo = monitored.column("validation_elbo")
    reported = reporting.reported
    return {"tensors": tensors, "elbo": elbo, "said": str(report), "reported": reported}


def noisy(folder, *, stop=None, resume=None, callbacks=(), **settings):
    """Train a VAE with noise; return its parameters."""
    trained = vae()
    history = pv.fit(
        trained,
        pv.data.Split(torch.full((43, 16), 0.3), torch.zeros(43), dynamic=True),
        epochs=3,
        batch_size=settings.get("batch_size", 5),
        step=pv.Step(compile=settings.get("compile", False)),
        callbacks=[
            pv.Checkpoint(folder, minutes=1e-9),
            *callbacks,
            *([StopAt(stop)] if stop else []),
        ],
        resume=resume,
    )
    flat = torch.cat([p.detach().flatten() for p in trained.parameters()])
    return {"flat": flat, "steps": len(history.epochs), "ended": history.ended}


class Broken(pv.Callback):
    """Let the programs of rank 1 fail at a step."""

    def __init__(self, pair):
        self.pair = pair

    def stepped(self, training):
        if training.step == 3 and Ranks.present().rank == 1:
            self.pair.decoder = None


class DistributedDataParallel(torch.nn.Module):
    """Stands for torch's, by its name."""


def refused():
    """Train on other data in each process, fewer data than processes, and a wrapped module."""
    rank, wrapped = Ranks.present().rank, Points()
    wrapped.inner = DistributedDataParallel()
    found = []
    for pair, rows in ((Points(), 50 + rank), (Points(), 1), (wrapped, 50)):
        try:
            pv.fit((pair.model, pair.guide), bits(rows), callbacks=[])
        except ValueError as error:
            found.append(str(error))
        pyro.clear_param_store()
    return found


def failing():
    """Train while one process fails; return what is raised."""
    pair = Points()
    try:
        pv.fit((pair.model, pair.guide), bits(50), batch_size=5, callbacks=[Broken(pair)])
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def everything(folder):
    """Do all that is compared with one process, and count what is sent."""
    sent, send = [], distributed.all_reduce

    def counted(tensor, *args, **kwargs):
        sent.append(tensor.numel())
        return send(tensor, *args, **kwargs)

    distributed.all_reduce = counted
    torch.compile = lambda graph, **options: graph
    ais.NUMBERS = 64 * 16 * 2  # batches of two data
    found = {name: points(**settings) for name, settings in CASES.items()}
    found["sent"] = sent.copy()
    found["measured"] = measured()
    for kind, compile in (("eager", False), ("compiled", True)):
        whole, part = folder / f"whole {kind}", folder / f"part {kind}"
        found[f"whole, {kind}"] = noisy(whole, compile=compile)
        found[f"part, {kind}"] = noisy(part, stop=7, compile=compile)
        distributed.barrier()  # rank 0 has written
        found[f"resumed, {kind}"] = noisy(part, resume=part, compile=compile)
    found["dealt"] = dealt()
    found["refused"] = refused()
    found["failing"] = failing()
    return found


class KillAt(pv.Callback):
    """Kill the process of rank 1 after some step."""

    def stepped(self, training):
        if training.step == 7 and Ranks.present().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def killed(folder):
    try:
        noisy(folder / "run", callbacks=[KillAt()])
    except ProcessLost as error:
        return str(error)
    return ""
