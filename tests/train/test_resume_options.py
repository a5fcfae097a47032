"""Schedules, averages, accumulation and logs resume bit for bit with the training."""

import warnings
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from trainings import StopAt

import pyrovae as pv
from pyrovae.graphs import capture
from pyrovae.train.svi import SVI

EPOCHS, STEPS = 3, 4
"""The epochs, and the steps of two batches each in an epoch: the last of one batch."""


def vae():
    torch.manual_seed(1)
    return pv.mlp_vae(16, latents=2, hidden=8)


def bits(rows=56):
    draws = torch.Generator().manual_seed(3)
    return torch.bernoulli(torch.full((rows, 16), 0.4), generator=draws)


RATES = {
    "cosine": pv.learning_rates.cosine(0.05, 12, warmup=3),
    "plateau": pv.learning_rates.Plateau(0.05, patience=0, threshold=1e9),
}


def optim(name):
    if name == "muon":
        others = {lambda name, p: p.ndim != 2: {"optimizer": torch.optim.AdamW}}
        return pv.Optim(torch.optim.Muon, lr=RATES["cosine"], groups=others)
    biases = {"*.bias": {"weight_decay": 0.0}}
    return pv.Optim(torch.optim.AdamW, lr=RATES[name], weight_decay=0.1, groups=biases)


def train(folder, name, *, compile=False, stop=None, resume=None, limit=11):
    made, log = vae(), pv.Log(pv.CSVLogger(folder / "log.csv"), every=1)
    callbacks = [pv.EMA(0.8), pv.Limit(steps=limit), log, pv.Checkpoint(folder)]
    history = pv.fit(
        made, bits(), validation=bits(9), epochs=EPOCHS, batch_size=8, resume=resume,
        step=pv.Step(optim(name), accumulate=2, clip_norm=1.0, compile=compile),
        callbacks=[*callbacks, *([] if stop is None else [StopAt(stop)])],
    )  # fmt: skip
    # The seconds of a training that was broken off are not those of one that was not.
    history.epochs[:] = [replace(epoch, seconds=0.0) for epoch in history.epochs]
    lines = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
    seconds = lines[0].index("seconds")
    return made.state_dict(), history, [[*line[:seconds], *line[seconds + 1 :]] for line in lines]


@pytest.mark.parametrize(
    ("name", "stop"), [("cosine", 2), ("cosine", 4), ("plateau", 4), ("plateau", 6), ("muon", 6)]
)
def test_all_of_it_resumes(tmp_path, name, stop):
    wanted, history, lines = train(tmp_path / "whole", name)
    assert history.ended == "stopped early: 11 steps were asked for"
    train(tmp_path / "parts", name, stop=stop)
    found, again, others = train(tmp_path / "parts", name, resume=tmp_path / "parts")
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key
    assert again == history
    assert others == lines


def test_a_compiled_step_of_several_batches_resumes(tmp_path, interpreted):
    wanted, *_ = train(tmp_path / "whole", "cosine", compile=True)
    train(tmp_path / "parts", "cosine", compile=True, stop=6)
    found, *_ = train(tmp_path / "parts", "cosine", compile=True, resume=tmp_path / "parts")
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("limit", [4, 6])
def test_a_training_at_its_limit_stays_there_and_goes_on_with_another(tmp_path, limit):
    short, history, lines = train(tmp_path, "cosine", limit=limit)
    again, stayed, others = train(tmp_path, "cosine", limit=limit, resume=tmp_path)
    for key, tensor in short.items():
        assert torch.equal(again[key], tensor), key
    assert (stayed, others) == (history, lines)
    found, *_ = train(tmp_path, "cosine", resume=tmp_path)
    wanted, *_ = train(tmp_path / "whole", "cosine")
    for key, tensor in wanted.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("largest", [1500, 150], ids=["both compiled", "one too large"])
def test_batches_of_two_lengths_resume_with_the_same_graphs(
    tmp_path, monkeypatch, interpreted, largest
):
    """Without the warning that they could not be recorded, whichever length comes first."""
    monkeypatch.setattr(capture, "LARGEST", largest)
    used, update = [], SVI.update
    monkeypatch.setattr(SVI, "update", lambda svi, given: (used.append(svi), update(svi, given)))
    lengths = torch.tensor([1, 9] * 4)
    mask = torch.arange(9) < lengths.unsqueeze(1)
    data = pv.data.ByLength(mask.float().unsqueeze(2), mask, batch_size=2)

    def trained(folder, **options):
        with pv.seeded(1):
            loc = torch.nn.Parameter(torch.tensor(0.5))

            def model(x, mask):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    for t in range(x.shape[1]):
                        pyro.sample(f"x_{t}", dist.Normal(z.sin(), 1.0), obs=x[:, t, 0])

            def guide(x, mask):
                pyro.param("loc", loc)
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(loc, 1.0))

            stop = [StopAt(options.pop("stop"))] if "stop" in options else []
            step = pv.Step(loss=Trace_ELBO(), compile=True)
            callbacks = [pv.Checkpoint(folder), *stop]
            pv.fit((model, guide), data, epochs=3, step=step, callbacks=callbacks, **options)
            pyro.clear_param_store()
        return loc.item(), [(graph.key[-1], graph.runs) for graph in used[-1].graphs]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*of such shapes uncompiled")
        wanted = trained(tmp_path / "whole")
        assert len(wanted[1]) == 1 + (largest == 1500)
        trained(tmp_path / "parts", stop=5)
        assert trained(tmp_path / "parts", resume=tmp_path / "parts") == wanted
