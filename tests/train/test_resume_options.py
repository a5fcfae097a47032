"""Schedules, averages, accumulation and logs resume bit for bit with the training."""

from dataclasses import replace

import pytest
import torch
from trainings import StopAt

import pyrovae as pv

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
