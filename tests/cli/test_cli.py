"""Every command does what it says; whatever is wrong with its input is one line and a code."""

import hashlib
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from complaints import complaint
from safetensors.torch import load_file

import pyrovae as pv
from pyrovae.cli import experiment, main
from pyrovae.cli.grammar import APP
from pyrovae.plots.image_grid import png

PNG = b"\x89PNG\r\n\x1a\n"
COMMANDS = (
    "demo train sweep evaluate compare report sample reconstruct walk interpolate manifold map "
    "impute"
).split()
SMALL = ["--latents", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "400"]

RECIPE = """
import math

import pyro
import pyro.distributions as dist
import torch

import pyrovae as pv
from neighbor import LATENTS


def prior():
    return pyro.sample("z", dist.StudentT(5.0, torch.zeros(LATENTS), 1.0).to_event(1))


class Pixels(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(LATENTS, 8), torch.nn.Linear(8, width))

    def forward(self, z, x=None):
        noise = dist.Bernoulli(logits=self.net(z)).to_event(1)
        return pyro.sample("x", noise, obs=x)


def vae(shape):
    width = math.prod(shape)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(width, 8, 2 * LATENTS))
    return pv.VAE(prior, Pixels(width), guide)
"""

LIBRARY_RECIPE = """
import pyrovae as pv


def vae(shape):
    likelihood = pv.likelihoods.Normal(pv.nets.MLP(3, 8, 64), scale=0.5)
    return pv.VAE(
        pv.priors.StandardNormal(3), likelihood, pv.guides.MeanFieldNormal(pv.nets.MLP(64, 6))
    )
"""


TRAP = """
import pyro
import pyrovae as pv
import torch


class Trap(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64)), 0

    def forward(self, z, x=None):
        self.calls += 1
        pyro.factor("trap", torch.full(z.shape[:-1], torch.inf if self.calls > 15 else 0.0))
        return self.inner(z, x)


def vae(shape):
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4))
    return pv.VAE(pv.priors.StandardNormal(2), Trap(), guide)
"""


def train(folder: Path, *more: str) -> int:
    return main(["train", "--out", str(folder), *SMALL, *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert train(folder) == 0
    return folder


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "neighbor.py").write_text("LATENTS = 3\n")
    path = tmp_path / "mine.py"
    path.write_text(RECIPE)
    yield path
    sys.modules.pop("neighbor", None)
    sys.modules.pop("recipe_mine", None)


def parse(words: list[str]) -> None:
    """Hold a command line against the grammar."""
    rest, _ = experiment.split(words)
    APP.parse_args(rest, exit_on_error=False, print_error=False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(PNG)


# Help.


@pytest.mark.parametrize("command", [["train"], []])
def test_help_answers_without_importing_torch(command, tmp_path):
    code = (
        "import sys; from pyrovae.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'pyro', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if not command:
        return
    assert "--recipe" in done.stdout
    for name in ("VampPrior", "NegativeBinomial", "LowRankNormal", "GatedMLP", "IWAE"):
        assert name in done.stdout


def test_a_warning_is_one_line_without_a_place_in_the_code(tmp_path):
    """As of incomes, which lie far from what a normal likelihood starts with."""
    np.save(tmp_path / "x.npy", 0.5 + 1000 * np.arange(60.0).reshape(30, 2))
    words = ["train", "--data", "x.npy", "--epochs", "1", "--latents", "1", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "pyrovae", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"^pyrovae: warning: before training, the ELBO is -1[.\d]+e[+]08 nats .* true$",
        done.stderr,
        re.MULTILINE,
    )
    assert ".py" not in done.stderr


def test_the_package_is_a_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pyrovae", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_that_parse(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 99
    examples = re.findall(rf"^  (pyrovae {command}.*)$", out, re.MULTILINE)
    assert examples
    for example in examples:
        parse(example.split()[1:])


def test_the_recipe_in_the_help_is_a_recipe(tmp_path, capsys):
    main(["train", "--help"])
    text = capsys.readouterr().out.split("a recipe, my_vae.py:\n")[1]
    path = tmp_path / "my_vae.py"
    path.write_text("\n".join(line[2:] for line in text.splitlines()))
    assert train(tmp_path / "run", "--recipe", str(path)) == 0
    sys.modules.pop("recipe_my_vae")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyrovae {pv.__version__}\n"


# The commands.


def test_demo(tmp_path, capsys, monkeypatch, drawn):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "2", "--particles", "100"]) == 0
    out = capsys.readouterr().out
    means = dict(re.findall(r"^ +(ELBO|IWAE-\d+) +(-\d+\.\d+) ", out, re.MULTILINE))
    assert list(means) == ["ELBO", "IWAE-10", "IWAE-100"]
    assert sorted(means.values(), key=float) == list(means.values())
    folder = tmp_path / "pyrovae-demo"
    figures = {path.stem for path in (folder / "figures").iterdir() if is_png(path)}
    drawn = {"history", "reconstructions", "samples", "latents", "bounds", "kl_per_dimension"}
    assert figures == drawn
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["quantities"]["ELBO"]["mean"] == pytest.approx(
        float(means["ELBO"]), abs=1e-3
    )
    suggestions = re.findall(r"^  pyrovae (.*)$", out, re.MULTILINE)
    assert "report pyrovae-demo" in suggestions
    for suggestion in suggestions:
        parse(suggestion.split())
    assert main(["report", "pyrovae-demo"]) == 0
    config = pv.runs.Run(folder).config
    assert (config["seed"], config["command"][:2]) == (0, ["pyrovae", "demo"])
    assert main(["train", "--like", "pyrovae-demo", "--epochs", "1", "--out", "like-it"]) == 0
    assert pv.load("like-it").prior.config == pv.load(folder).prior.config
    assert main(["demo", "--epochs", "1", "--particles", "2"]) == 0, "a demo may run again"


def test_a_demo_does_not_write_over_a_run_of_yours(run, capsys):
    before = (run / "model.safetensors").read_bytes()
    assert "holds a run already" in complaint(capsys, "demo", "--out", run)
    assert (run / "model.safetensors").read_bytes() == before


def test_train_records_what_it_did(run):
    config = pv.runs.Run(run).config
    assert config["command"] == ["pyrovae", "train", "--out", str(run), *SMALL]
    assert config["data"]["name"] == "digits"
    assert config["data"]["binarization"] == "dynamic"
    assert config["seed"] == 0
    assert config["experiment"]["training"]["epochs"] == 2
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert is_png(run / "figures" / "history.png")


def test_the_kl_weight_and_free_bits_reach_the_training(run, tmp_path):
    options = ["--kl-weight", "sigmoid:0.5:2:4", "--free-bits", "3"]
    assert train(tmp_path / "run", *options) == 0
    config = pv.runs.Run(tmp_path / "run").config
    assert config["experiment"]["training"]["kl_weight"] == "sigmoid:0.5:2:4"
    assert config["experiment"]["training"]["free_bits"] == 3.0
    lines, plain = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "run", run)
    )
    schedule, steps = (
        pv.schedules.sigmoid(0.5, 2, 4),
        pv.data.Batches(pv.data.load("digits").train, 400),
    )
    last = [1 - 1 / len(steps), 2 - 1 / len(steps)]
    assert [line["kl_weight"] for line in lines] == [schedule(epochs) for epochs in last]
    assert [line["kl_weight"] for line in plain] == [1.0, 1.0]
    assert "free_bits" not in pv.runs.Run(run).config["experiment"]["training"]
    # Two dimensions of less than 3 nats each are paid in full, at a weight of 0.5 or more. The
    # loss is of other pixels than the distortion: 0.5 is 4 errors of sqrt(2) * 3 / sqrt(1,203).
    for line in lines:
        paid = line["loss"] - line["distortion"]
        assert paid > 0.5 * 6 - 0.5 > line["rate"] + 1.0


def test_the_seed_decides_the_run(run, tmp_path):
    state = torch.random.get_rng_state()
    assert train(tmp_path / "same") == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert train(tmp_path / "other", "--seed", "1") == 0
    first, same, other = (
        torch.cat([tensor.flatten() for tensor in pv.load(folder).state_dict().values()])
        for folder in (run, tmp_path / "same", tmp_path / "other")
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("likelihood", ["Normal", "Laplace"])
def test_train_with_other_parts(likelihood, tmp_path):
    options = ["--likelihood", likelihood, "--guide", "FullRankNormal"]
    options += ["--kl-weight", "linear:0:1:1"]
    assert train(tmp_path / "run", *options, "--patience", "1") == 0
    config = pv.runs.Run(tmp_path / "run").config
    assert config["data"]["binarization"] == "none"
    assert config["experiment"]["training"]["kl_weight"] == "linear:0:1:1"
    vae = pv.load(tmp_path / "run")
    assert type(vae.likelihood).__name__ == likelihood
    assert isinstance(vae.posterior, pv.guides.FullRankNormal)
    assert isinstance(vae.encode(torch.zeros(1, 64)), torch.distributions.MultivariateNormal)


def test_pixels_that_are_drawn_may_be_counts(tmp_path):
    options = ["--likelihood", "NegativeBinomial", "--binarization", "dynamic"]
    assert train(tmp_path / "run", *options) == 0
    assert type(pv.load(tmp_path / "run").likelihood).__name__ == "NegativeBinomial"
    assert main(["evaluate", str(tmp_path / "run"), "--particles", "4", "--limit", "5"]) == 0


def test_evaluate(run, capsys):
    options = ["--particles", "20", "--ks", "1", "5", "20", "--limit", "30"]
    assert main(["evaluate", str(run), *options, "--split", "validation"]) == 0
    out = capsys.readouterr().out
    assert "30 data, 20 particles" in out
    report = json.loads((run / "evaluation.json").read_text())
    assert (report["data_set"], report["split"], report["data"]) == ("digits", "validation", 30)
    assert {"ELBO", "IWAE-1", "IWAE-5", "IWAE-20"} <= set(report["quantities"])
    assert is_png(run / "figures" / "bounds.png")
    x = pv.data.load("digits").validation
    wanted = pv.evaluate(
        pv.load(run), pv.data.Split(x.x[:30], x.labels[:30], dynamic=True), particles=20
    )
    assert report["quantities"]["ELBO"]["mean"] == wanted.elbo.mean


def test_evaluate_with_one_particle_has_no_bound_to_draw(run, capsys):
    assert main(["evaluate", str(run), "--particles", "1", "--limit", "3"]) == 0
    assert "ELBO" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["sample", "reconstruct"])
def test_figures(command, run, tmp_path, capsys):
    assert main([command, str(run), "-n", "7", "--out", str(tmp_path / "new" / "a.png")]) == 0
    assert is_png(tmp_path / "new" / "a.png")
    assert main([command, str(run)]) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("written: "))
    assert path.parent == run / "figures"
    assert is_png(path)


@pytest.mark.parametrize("means", [False, True])
def test_sample_shows_samples_of_x_or_their_means(means, run, tmp_path, drawn):
    path, options = tmp_path / "a.png", ["--means"] if means else []
    assert main(["sample", str(run), "-n", "6", "--out", str(path), *options]) == 0
    vae = pv.load(run)
    with pv.seeded(0):
        figure = pv.plots.samples(vae, 6, (1, 8, 8), means=means)
    assert path.read_bytes() == png(figure)


def test_commands_on_a_run_that_was_saved_from_python(tmp_path, capsys):
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, 64)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(64, 4)),
    )
    pv.save(vae, tmp_path)
    assert main(["sample", str(tmp_path)]) == 0
    capsys.readouterr()
    assert "records no data set" in complaint(capsys, "evaluate", tmp_path)
    argv = ["evaluate", str(tmp_path), "--data", "digits", "--particles", "2", "--limit", "3"]
    assert main(argv) == 0


# Recipes.


def test_a_recipe_is_trained_and_measured(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder, "--recipe", str(recipe)) == 0
    assert f"pyrovae evaluate {folder} --recipe {recipe}" in capsys.readouterr().out
    for command in ("evaluate", "sample", "reconstruct"):
        line = complaint(capsys, command, folder)
        assert "programs of your own" in line
        assert f"--recipe with mine.py (sha256 {digest(recipe)[:12]})" in line
    again = ["--recipe", str(recipe)]
    options = ["--particles", "10", "--limit", "20"]
    assert main(["evaluate", str(folder), *again, *options]) == 0
    assert "IWAE-10" in capsys.readouterr().out
    assert main(["sample", str(folder), *again]) == 0
    assert main(["reconstruct", str(folder), *again]) == 0


def test_a_recipe_of_library_parts_is_rebuilt_without_the_recipe(tmp_path, capsys):
    path = tmp_path / "library.py"
    path.write_text(LIBRARY_RECIPE)
    folder = tmp_path / "run"
    assert train(folder, "--recipe", str(path)) == 0
    path.unlink()
    assert main(["evaluate", str(folder), "--particles", "10", "--limit", "20"]) == 0
    assert pv.runs.Run(folder).config["data"]["binarization"] == "none"


def test_another_recipe_does_not_fit_the_run(recipe, tmp_path, capsys):
    assert train(tmp_path / "run", "--recipe", str(recipe)) == 0
    recipe.write_text(RECIPE.replace("LATENTS, 8)", "LATENTS, 9)").replace("(8,", "(9,"))
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--recipe", str(recipe)]) == 2
    warning, line = capsys.readouterr().err.splitlines()
    assert warning.startswith("pyrovae: warning: mine.py (sha256 ")
    assert "has shape (8, 3); the VAE wants (9, 3)" in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x = 1", "has no function vae(shape)"),
        ("vae = 1", "has no function vae(shape)"),
        ("def vae(shape):\n    return shape", "returned tuple; wanted pyrovae.VAE"),
        ("def vae(shape):\n    return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("\n\nraise RuntimeError('two\\nlines')", "line 3: RuntimeError: two lines"),
        ("import sys\nsys.exit('gone')", "line 2: SystemExit: gone"),
        ("import no_such_module", "line 1: ModuleNotFoundError"),
        ("def vae(shape:\n", "line 1: '(' was never closed"),
        ("def vae():\n    pass", "has no function vae(shape)"),
        (
            LIBRARY_RECIPE.replace("MLP(3, 8, 64)", "MLP(3, 8, 63)"),
            "site 'x'",
        ),
        (
            LIBRARY_RECIPE.replace("MLP(64, 6)", "MLP(60, 6)"),
            "MLP expected inputs [..., 60]",
        ),
        (
            RECIPE.replace("from neighbor import LATENTS", "LATENTS = 3").replace(
                "(8, width)", "(7, width)"
            ),
            "wrong.py, line 22: RuntimeError: ",
        ),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_recipe_that_is_wrong(text, wanted, relative, tmp_path, capsys, monkeypatch):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    if relative:
        monkeypatch.chdir(tmp_path)
        path = Path("wrong.py")
    argv = ["train", "--recipe", path, "--out", tmp_path / "run", "--epochs", "1"]
    assert wanted in complaint(capsys, *argv)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert str(tmp_path) not in sys.path
    sys.modules.pop("recipe_wrong", None)


# Bad input.


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ([], "a command is required: demo, train"),
        (["paint"], 'Unknown command "paint"'),
        (["train"], "name one with --out, or go on with one by --resume"),
        (["train", "--out", "OUT", "--data", "cifar"], "did you mean cifar10?"),
        (["train", "--out", "OUT", "--data", "mnist"], "--root"),
        (
            ["train", "--out", "OUT", "--epochs", "0"],
            "--training.epochs: expected `int` >= 1; got 0",
        ),
        (
            ["train", "--out", "OUT", "--latents", "many"],
            '"many" into int',
        ),
        (["train", "--out", "OUT", "--hidden", "8", "-3"], "--net.hidden: expected `int` >= 1"),
        (["train", "--out", "OUT", "--hidden", "8", "1.5"], '--hidden: unable to convert "1.5"'),
        (["train", "--out", "OUT", "--lr", "-1"], "--training.lr: expected `float` > 0.0"),
        (
            ["train", "--out", "OUT", "--lr", "nan"],
            "--training.lr: expected `float` > 0.0; got nan",
        ),
        (["train", "--out", "OUT", "--kl-weight", "inf"], "a KL weight is 0 or more"),
        (["train", "--out", "OUT", "--kl-weight", "cosine:0:1:9"], "one of linear:START:END:EPO"),
        (["train", "--out", "OUT", "--kl-weight", "linear:0:1:0"], "more than 0 epochs"),
        (
            ["train", "--out", "OUT", "--free-bits", "-1"],
            "--training.free_bits: expected `float` > 0.0",
        ),
        (
            ["train", "--out", "OUT", "--free-bits", "1", "--guide", "FullRankNormal"],
            "site 'z' is a MultivariateNormal, which does not factorize",
        ),
        (["train", "--out", "OUT", "--patience", "0"], "--training.patience"),
        (["train", "--out", "OUT", "--seed", "x"], "--seed"),
        (["train", "--out", "OUT", "--likelihood", "cauchy"], "no likelihood 'cauchy': There are"),
        (["train", "--out", "OUT", "--binarization", "none"], "Bernoulli takes values that are"),
        (["train", "--out", "OUT", "--recipe", "OUT/none.py"], "no recipe at"),
        (["train", "--out", "OUT", "--recipe", "OUT"], "no recipe at"),
        (["train", "--out", "FILE"], "FILE"),
        (["evaluate", "OUT"], "no run's folder at"),
        (["evaluate", "RUN", "--particles", "0"], '"0" for --particles. Must be >= 1'),
        (["evaluate", "RUN", "--particles", "5", "--ks", "6"], "k in [6] with K = 5"),
        (["evaluate", "RUN", "--split", "all"], '"all" for --split. Choose from: "test"'),
        (["evaluate", "RUN", "--data", "cifar"], "unknown data set 'cifar'"),
        (["evaluate", "RUN", "--limit", "0"], "--limit"),
        (["sample", "OUT"], "no run's folder at"),
        (["sample", "RUN", "-n", "0"], "-n"),
        (["sample", "RUN", "--out", "FILE/a.png"], "FILE"),
        (["reconstruct", "OUT"], "no run's folder at"),
        (["reconstruct", "RUN", "-n", "-4"], "-n"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_code_2(argv, wanted, run, tmp_path, capsys):
    (tmp_path / "FILE").write_text("")
    places = {"OUT": tmp_path / "out", "FILE": tmp_path / "FILE", "RUN": run}
    words = [
        re.sub(r"^(OUT|FILE|RUN)\b", lambda found: str(places[found[0]]), word) for word in argv
    ]
    assert wanted in complaint(capsys, *words)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_a_folder_with_a_run_is_refused_unless_overwritten(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(folder) == 0
    argv = ["evaluate", str(folder), "--particles", "10", "--limit", "3"]
    assert main(argv) == 0
    assert main(["report", str(folder)]) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    line = complaint(capsys, "train", "--out", folder, *SMALL, "--seed", "1")
    assert "holds a run already" in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    complaint(capsys, "train", "--out", folder, "--overwrite", "--binarization", "none")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert train(folder, "--overwrite", "--seed", "1") == 0
    assert pv.runs.Run(folder).config["seed"] == 1
    assert not (folder / "evaluation.json").exists(), "a report on other parameters"
    assert not (folder / "report.html").exists()
    assert not (folder / "figures" / "bounds.png").exists()


def test_damaged_runs(run, tmp_path, capsys):
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        for each in ("config.json", "model.safetensors"):
            whole = (run / each).read_bytes()
            (folder / each).write_bytes(whole[: len(whole) // 2] if each == name else whole)
        assert f"{name} is half-written or damaged" in complaint(capsys, "evaluate", folder)


def test_a_root_without_mnist_and_without_a_network(tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST", fail)
    argv = ["train", "--data", "mnist", "--root", tmp_path, "--out", tmp_path / "run"]
    line = complaint(capsys, *argv)
    assert "cannot load MNIST from" in line
    assert "Error downloading" in line


def test_a_loss_that_is_not_finite_is_code_1_and_the_last_good_epoch_stays(tmp_path, capsys):
    path = tmp_path / "trap.py"
    path.write_text(TRAP)
    folder = tmp_path / "run"
    assert train(folder, "--recipe", str(path), "--epochs", "9") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("pyrovae: error: the loss is")
    assert "site 'trap'" in lines[-1]
    assert "last good checkpoint, the end of epoch" in lines[-1]
    history = (folder / "metrics.jsonl").read_text().splitlines()
    assert 1 <= len(history) < 9
    saved = load_file(folder / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    sys.modules.pop("recipe_trap")


# Interrupts.


def test_an_interrupt_keeps_what_there_is(tmp_path, capsys, monkeypatch):
    class Interrupted(pv.ProgressBar):
        def stepped(self, training):
            super().stepped(training)
            if training.step == 9:
                raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.cli.train.ProgressBar", Interrupted)
    folder = tmp_path / "run"
    assert train(folder, "--epochs", "9") == 130
    out = capsys.readouterr().out
    assert "2 epochs, interrupted" in out
    assert "Nothing was trained" not in out
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert is_png(folder / "figures" / "samples.png")
    pv.load(folder)


def test_an_interrupt_of_the_first_epoch_says_that_nothing_was_trained(
    tmp_path, capsys, monkeypatch
):
    class Interrupted(pv.ProgressBar):
        def stepped(self, training):
            raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.cli.train.ProgressBar", Interrupted)
    assert train(tmp_path / "run", "--epochs", "9") == 130
    out = capsys.readouterr().out
    assert "0 epochs, interrupted" in out
    assert "Nothing was trained" in out
    assert "Next:" not in out


def test_an_interrupt_of_a_measurement_is_one_line(run, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.cli.measure.measure", interrupt)
    assert complaint(capsys, "evaluate", run, code=130) == "pyrovae: error: interrupted"


def test_a_demo_that_is_told_to_end_measures_nothing(tmp_path, monkeypatch, capsys):
    ended = types.SimpleNamespace(ended="stopped early: terminated; go on with ...")
    monkeypatch.setattr("pyrovae.cli.demo.fitted", lambda *given, **more: ended)
    monkeypatch.delattr("pyrovae.cli.demo.measure")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 143
    assert "terminated; go on with" in capsys.readouterr().err
