"""`pyrovae train --devices` trains in several processes, of which one prints and writes."""

import json

import pytest
import torch

import pyrovae as pv
from pyrovae.cli import devices, main

SMALL = ["--latents", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "200"]


def test_two_devices_write_one_run(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "run"
    command = ["train", "--out", str(folder), "--devices", "2", *SMALL]
    assert main(command) == 0
    said = capfd.readouterr()
    assert said.out.count("2 epochs, all epochs done") == 1
    assert said.err.count("epoch    2  ELBO") == 1
    assert "Traceback" not in said.err
    assert pv.load(folder).prior is not None
    assert json.loads((folder / "config.json").read_text())["command"] == ["pyrovae", *command]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


class Placed:
    def to(self, device):
        self.device = device


@pytest.mark.parametrize("there", [True, False])
def test_a_vae_is_trained_on_the_gpu_of_its_process(monkeypatch, capsys, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    vae = Placed()
    devices.place(vae)
    assert vars(vae) == ({"device": torch.device("cuda:1")} if there else {})
    assert capsys.readouterr().out == ("Device: GPU, cuda:1\n" if there else "")


def test_more_devices_than_gpus_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert main(["train", "--out", str(tmp_path / "run"), "--devices", "2", *SMALL]) == 2
    assert (
        "--devices 2, and the number of GPUs is 1: give as many or fewer"
        in capsys.readouterr().err
    )


def test_what_is_wrong_is_said_once_before_any_process_starts(tmp_path, capfd):
    command = ["train", "--out", str(tmp_path / "run"), "--devices", "2", "--prior", "Nope"]
    assert main(command) == 2
    assert capfd.readouterr().err.count("no prior 'Nope'") == 1


@pytest.mark.parametrize("number", ["0", "some"])
def test_a_number_of_devices_is_one_or_more(tmp_path, capsys, number):
    assert main(["train", "--out", str(tmp_path), "--devices", number, *SMALL]) == 2
    assert "--devices" in capsys.readouterr().err
