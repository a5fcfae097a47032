"""The optimizer, its schedule, averages, limits and logs of an experiment reach the training."""

import csv
import json
import shlex

import pytest
import torch
from complaints import complaint

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.cli.experiment import Training, seconds
from pyrovae.cli.optimizer import KNOWN, optimizer
from pyrovae.cli.options import Trained
from pyrovae.cli.train import asked
from pyrovae.train.muon import Muon

SMALL = ("--latents", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "200")
TOML = """
[optimizer]
name = "AdamW"
weight_decay = 0.01
betas = [0.8, 0.99]

[optimizer.groups."*.bias"]
weight_decay = 0.0

[optimizer.groups."likelihood.*"]
name = "SGD"
lr = "exponential:0.01:0.9"
momentum = 0.5

[training]
lr = "cosine:0.01:3"
clip_norm = 10.0
accumulate = 2
ema = 0.9
log = ["csv", "tensorboard", "figure"]
log_every = 1
log_pictures = 2
"""


@pytest.fixture
def steps(monkeypatch):
    """Keep the steps of a training in place of taking them."""
    found = []

    def fit(vae, data, *, step, callbacks, **options):
        found.append((step, callbacks))
        return pv.History()

    monkeypatch.setattr("pyrovae.cli.train.fit", fit)
    return found


def test_a_file_trains_with_its_optimizer_average_and_logs(tmp_path, capsys):
    path, out = tmp_path / "experiment.toml", tmp_path / "run"
    path.write_text(TOML)
    assert main(["train", str(path), *SMALL, "--out", str(out)]) == 0
    assert "weights averaged over steps with decay 0.9, all epochs done" in capsys.readouterr().out
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["learning_rate"]) for row in rows if row["learning_rate"]]
    # 1,257 digits make 7 batches of 200, and these 4 steps: 8 in two epochs.
    rate = pv.learning_rates.cosine(0.01, 8, warmup=3)
    assert rates == [rate(t) for t in range(8)]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [float(row["elbo"]) for row in rows if row["elbo"]] == [line["elbo"] for line in lines]
    assert list((out / "tensorboard").glob("events.*"))
    assert (out / "figures" / "history.png").is_file()
    tables = asked(None, Trained(like=out, optimizer="RAdam", log=["figure", "tensorboard"]), ())
    assert tables["optimizer"] == {"name": "RAdam"}
    assert tables["training"]["log"] == ["figure", "tensorboard"]
    assert tables["training"]["ema"] == 0.9


def test_a_resumed_run_goes_on_with_its_logs(tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.cli.train.vae_figures", lambda *_, **__: {})
    options = ("--lr", "cosine:0.01:3:14", "--log", "csv", "tensorboard", "--ema", "0.9")
    train = ["train", *options, *SMALL, "--training.log_every", "1"]
    assert main([*train, "--out", str(tmp_path / "whole")]) == 0
    assert main([*train, "--max-steps", "9", "--out", str(tmp_path / "parts")]) == 0
    before = len(list((tmp_path / "parts" / "tensorboard").iterdir()))
    assert main(["train", "--resume", str(tmp_path / "parts"), "--max-steps", "14"]) == 0
    whole, parts = (
        [line.split(",")[:10] for line in (tmp_path / name / "log.csv").read_text().splitlines()]
        for name in ("whole", "parts")
    )
    assert parts == whole
    assert len(list((tmp_path / "parts" / "tensorboard").iterdir())) == before + 1
    one, other = (pv.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_options_are_what_a_file_says(tmp_path, steps):
    options = "--optimizer AdamW --optimizer.weight_decay 0.1 --lr one-cycle:0.1 --clip-norm 2 "
    options += "--accumulate 3 --ema 0.5 --max-steps 9 --max-time 1h30m --log csv figure "
    assert main(["train", *options.split(), *SMALL, "--out", str(tmp_path / "run")]) == 0
    (step, callbacks) = steps[0]
    assert (step.clip_norm, step.accumulate) == (2.0, 3)
    assert step.optim.pt_optim_constructor is torch.optim.AdamW
    # Of three steps in each of two epochs, which --max-steps does not shorten.
    step.optim.at(4)
    assert step.optim.learning_rate == pv.learning_rates.one_cycle(0.1, 6)(4)
    names = [type(callback).__name__ for callback in callbacks]
    assert names[:5] == ["ProgressBar", "EMA", "Limit", "Log", "LiveFigure"]
    assert (callbacks[2].steps, callbacks[2].seconds) == (9, 5400.0)


def test_a_schedule_of_epochs_lasts_the_epochs(tmp_path, steps):
    options = ("--lr", "cosine:0.1", "--training.lr_per", "epoch")
    assert main(["train", *options, *SMALL, "--out", str(tmp_path / "run")]) == 0
    optim = steps[0][0].optim
    optim.at(100, [-1.0])
    assert optim.learning_rate == pytest.approx(0.05)


def test_the_default_optimizer_is_adam():
    made = optimizer(None, Training(), 10)
    assert (made.pt_optim_constructor, made.learning_rate) == (torch.optim.Adam, 1e-3)


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "Muon"])
def test_every_optimizer_is_known_by_its_name(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    made = optimizer(name, Training(lr=0.1), 10)
    made.take([parameter], {parameter: "parameter"})
    assert not torch.equal(parameter, torch.ones(2))


@pytest.mark.parametrize(
    ("table", "rest"),
    [
        ({"name": "Muon", "groups": {"*bias": {"name": "AdamW"}}}, torch.optim.AdamW),
        ("Muon", torch.optim.Adam),
    ],
    ids=["groups", "alone"],
)
def test_muon_takes_the_matrices(table, rest):
    made = optimizer(table, Training(), 10)
    weight, bias = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 3), (2,)))
    for parameter in (weight, bias):
        parameter.grad = torch.ones_like(parameter)
    made.take([weight, bias], {weight: "a.weight", bias: "a.bias"})
    assert {type(each) for each in made.optimizers} == {Muon, rest}
    assert not torch.equal(weight, torch.ones(2, 3))
    assert not torch.equal(bias, torch.ones(2))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90", 90.0), (90, 90.0), ("1.5", 1.5), ("2h", 7200.0), ("1d 2h 3m 4s", 93784.0)],
)
def test_a_time_is_seconds_or_words(text, wanted):
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--optimizer adamw", "no optimizer 'adamw': did you mean AdamW? There are ASGD, "),
        ("--optimizer LBFGS", "no optimizer 'LBFGS'"),
        ("--optimizer.weight_decai 1", "Adam takes no 'weight_decai': its arguments are lr, "),
        ("--optimizer.weight_decay x", "Adam: '<=' not supported between"),
        ("--optimizer.weight_decay -1", "Invalid weight_decay value: -1"),
        ("--optimizer.lr 1", "optimizer.lr: the learning rate is an entry of [training]: --lr"),
        ("--optimizer.groups 3", "a part is a name or a table; got 3"),
        ("--lr -1", "--training.lr: expected `float` > 0.0; got -1"),
        ("--lr cosin:1", "'cosin:1' is neither a number nor one of cosine:RATE"),
        ("--lr cosine:1:2:1", "more steps than its warm-up; got 1 steps, of which 2 warm up"),
        ("--lr cosine:1:200", "more steps than its warm-up; got 14 steps, of which 200 warm up"),
        ("--training.lr_per week", "--training.lr_per: invalid enum value 'week'"),
        ("--clip-norm 0", "--training.clip_norm: expected `float` > 0.0; got 0"),
        ("--accumulate 0", "--training.accumulate: expected `int` >= 1; got 0"),
        ("--ema 1", "--training.ema: expected `float` < 1.0; got 1"),
        ("--max-steps 0", "--training.max_steps: expected `int` >= 1; got 0"),
        ("--max-time soon", 'a time is a number of seconds, or such as "2h" or "1h30m"; got'),
        ("--max-time 0", "a time is a number of seconds"),
        ("--training.log [1]", "--training.log: expected `str`, got `int`; got [1]"),
        ("--training.log_pictures 1", "pictures are logged to TensorBoard: --log tensorboard"),
    ],
)
def test_what_is_wrong_is_one_line(options, words, tmp_path, capsys):
    assert words in complaint(capsys, "train", *options.split(), *SMALL, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def contents(folder):
    """Return the bytes of every file of a folder, without its lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_results_are_kept_until_a_resumed_run_takes_a_step(tmp_path, monkeypatch, capsys):
    """A refused training and a finished one leave the folder to the byte; then it goes on."""
    monkeypatch.setattr("pyrovae.cli.train.vae_figures", lambda *_, **__: {})
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--log", "csv", "--out", str(run)]) == 0
    results = ("evaluation.json", "evaluation.safetensors", "factors.json", "report.html")
    for name in results:
        (run / name).write_text("the results")
    wanted = contents(run)
    resume = ["train", "--resume", str(run)]
    assert main([*resume, "--epochs", "4", "--hidden", "16"]) == 2
    assert "resume with the programs of the training" in capsys.readouterr().err
    assert contents(run) == wanted
    assert main(resume) == 0
    assert contents(run) == wanted
    assert main([*resume, "--epochs", "3"]) == 0
    assert len(pv.runs.Run(run).metrics) == 3
    assert not any((run / name).exists() for name in results)


def test_a_run_that_was_broken_off_before_its_figures_gets_them(tmp_path, monkeypatch):
    run, options = tmp_path / "run", "--epochs 1 --batch-size 400 --hidden 8 --no-compile".split()
    with monkeypatch.context() as broken:
        broken.setattr("pyrovae.cli.train.save_figures", lambda *_: interrupt())
        assert main(["train", *options, "--out", str(run)]) == 130
    assert not (run / "figures").exists()
    model = (run / "model.safetensors").read_bytes()
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "figures" / "samples.png").is_file()
    assert (run / "model.safetensors").read_bytes() == model


def interrupt():
    raise KeyboardInterrupt


def test_the_next_command_is_one_that_a_shell_takes(tmp_path, capsys):
    run = tmp_path / "my runs" / "1"
    options = "--epochs 1 --batch-size 400 --hidden 8 --no-compile".split()
    assert main(["train", *options, "--out", str(run)]) == 0
    _, _, line = capsys.readouterr().out.partition("Next:\n")
    assert shlex.split(line) == ["pyrovae", "evaluate", str(run)]
    assert main([*shlex.split(line)[1:], "--particles", "2"]) == 0
    _, _, line = capsys.readouterr().out.partition("Next:\n")
    assert shlex.split(line) == ["pyrovae", "report", str(run)]
