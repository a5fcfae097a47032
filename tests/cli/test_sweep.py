"""A sweep trains each of its cells once, as `pyrovae train` would, and ranks them."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import pyrovae as pv
from pyrovae.cli import experiment, main, signals
from pyrovae.cli.cells import Reader
from pyrovae.cli.children import Children
from pyrovae.cli.sweep import _environment
from pyrovae.cli.sweep_table import Cell, Range, Sweep, read
from pyrovae.cli.trials import Trials
from pyrovae.plots.style import blank
from pyrovae.runs import folder as folders

BASE = """
[net]
hidden = [8]

[prior]
latents = 2

[training]
epochs = 1
batch_size = 400
"""
GRID = """
[sweep]
"prior.latents" = [2, 3]
training.lr = [0.001, 0.03]
"""
NAMES = [f"latents={d},lr={lr}" for d in (2, 3) for lr in ("0.001", "0.03")]
TRIALS = """
[sweep]
trials = 3
seed = 4
prior.latents = {low = 2, high = 9}
training.lr = {low = 1e-3, high = 1e-1, log = true}
guide = ["MeanFieldNormal", {name = "LowRankNormal", rank = 2}]
"""


def written(folder: Path, sweep: str, base: str = BASE) -> Path:
    path = folder / "experiment.toml"
    path.write_text(base + sweep)
    return path


@pytest.fixture
def trained(monkeypatch):
    """Train cells in this process, with blank figures; return the commands that were run."""
    return in_this_process(monkeypatch)


def in_this_process(monkeypatch) -> list:
    commands = []

    def run(self, argv, log, environment):
        commands.append(argv[3:])
        with log.open("a") as file, contextlib.redirect_stdout(file):
            with contextlib.redirect_stderr(file):
                return main(argv[3:])

    monkeypatch.setattr(Children, "run", run)
    # Blank figures: drawing them takes most of the time.
    monkeypatch.setattr("pyrovae.cli.train.vae_figures", lambda *_, **__: {})
    monkeypatch.setattr("pyrovae.cli.train.plots.history", lambda _: blank(1, 1))
    monkeypatch.setattr("pyrovae.cli.measure.report_figures", lambda *_: {})
    return commands


def results(out: Path) -> dict:
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return {line["cell"]: line for line in lines}


def complaint(capsys, *argv, code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("pyrovae: error: ")
    return line


class TestTable:
    def test_a_grid_is_every_combination(self, tmp_path):
        tables, sweep = read(written(tmp_path, GRID))
        assert [cell.name for cell in sweep.grid()] == NAMES
        assert [cell.entries for cell in sweep.grid()][1] == {
            "prior.latents": 2,
            "training.lr": 0.03,
        }
        assert tables == {
            "net": {"hidden": [8]},
            "prior": {"latents": 2},
            "training": {"epochs": 1, "batch_size": 400},
        }

    def test_names_keep_the_sign_of_numbers(self):
        names = [cell.name for cell in Sweep({"prior.loc": [-1, 1, -0.5]}).grid()]
        assert names == ["loc=-1", "loc=1", "loc=-0.5"]

    def test_names_are_whole_where_their_ends_are_the_same(self):
        sweep = Sweep({"prior.latents": [2], "guide.latents": [3], "net.hidden": [[8, 4]]})
        (cell,) = sweep.grid()
        assert cell.name == "prior.latents=2,guide.latents=3,hidden=8-4"

    def test_a_long_name_keeps_its_folder_its_own(self):
        cells = Sweep({"net.activation": ["a" * 200 + end for end in "bc"]}).grid()
        assert all(len(cell.name) <= 120 for cell in cells)
        assert cells[0].name != cells[1].name

    VALUES = st.recursive(
        st.booleans()
        | st.integers(-(2**40), 2**40)
        | st.floats(allow_nan=False)
        | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    )

    @hypothesis.given(value=VALUES)
    def test_the_words_of_a_cell_are_read_as_its_values(self, value):
        words = Cell("", {"prior.thing": value}).words
        _, entries = experiment.split(words)
        assert entries == [("prior.thing", value)]

    def test_a_table_is_a_value_of_a_part(self):
        cell = Cell("", {"objective": {"name": "IWAE", "particles": 5}, "guide": "Flow"})
        assert cell.tables == {
            "objective": {"name": "IWAE", "particles": 5},
            "guide": {"name": "Flow"},
        }

    @pytest.mark.parametrize(
        ("sweep", "words"),
        [
            ("", "no table [sweep]: add one"),
            ("[sweep]", "no entries that vary"),
            ("sweep = 3", "a table of lists; got 3"),
            ('[sweep]\n"prior.latents" = 2', "a list of values; got 2: write [2]"),
            ('[sweep]\n"prior.latents" = []', "a list of values; got []"),
            ('[sweep]\n"piror.latents" = [2]', "did you mean prior?"),
            ('[sweep]\n"prior.latents" = [2, 2]', "two of its cells are latents=2"),
            ('[sweep]\n"prior.latents" = {low = 2, high = 9}', "add trials = 20, or list"),
            ("[sweep]\nprior = [3]", "names or tables of parts; got 3"),
            ('[sweep]\ntrials = 0\n"prior.latents" = [2]', "trials is a whole number from 1 on"),
            ('[sweep]\ntrials = 2\nseed = -1\n"prior.latents" = [2]', "seed is a whole number"),
            (
                "[sweep]\ntrials = 2\nprior.latents = {low = 9, high = 2}",
                "low < high; got 9 and 2",
            ),
            ("[sweep]\ntrials = 2\nprior.latents = {low = 2}", "missing required field `high`"),
            ("[sweep]\ntrials = 2\nprior.a = {low = 0, high = 2, log = true}", "needs low > 0"),
            ("[sweep]\ntrials = 2\nprior.a = {low = 0, high = 2, step = 5}", "step is above 0"),
            ('[sweep]\ntrials = 2\nprior.a = {low = "a", high = 2}', "got `str`"),
            (
                '[sweep]\nguide = ["Flow", "Flwo"]',
                "guide=Flwo: no guide 'Flwo': did you mean Flow",
            ),
            ("[sweep]\ntraining.epochs = [3, 0]", "--training.epochs: expected `int` >= 1"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, sweep, words, tmp_path, capsys):
        base = sweep if sweep.startswith("sweep") else BASE + sweep
        file = written(tmp_path, "", base)
        line = complaint(capsys, "sweep", file, "--out", tmp_path / "out")
        assert words in line
        assert not (tmp_path / "out").exists()

    def test_train_takes_a_cell_and_refuses_the_whole_sweep(self, tmp_path, capsys):
        file = written(tmp_path, GRID)
        line = complaint(capsys, "train", file, "--out", tmp_path / "out", "--latents", 3)
        assert f"run `pyrovae sweep {file}`" in line
        assert "--training.lr VALUE" in line


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    file = written(folder, GRID)
    with pytest.MonkeyPatch.context() as monkeypatch:
        commands = in_this_process(monkeypatch)
        assert main(["sweep", str(file), "--out", str(folder / "out")]) == 0
    assert [words[-1] for words in commands] == [str(folder / "out" / name) for name in NAMES]
    return folder


@pytest.fixture
def out(grid, tmp_path):
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


class TestGrid:
    def test_it_trains_each_cell_once(self, out, trained, capsys):
        capsys.readouterr()
        file = out.parent / "experiment.toml"
        assert main(["sweep", str(file), "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert trained == []
        assert "4 of 4 cells are finished" in said.err
        found = results(out)
        assert list(found) == NAMES
        assert all(line["finished"] and line["epochs"] == 1 for line in found.values())
        ranked = sorted(NAMES, key=lambda name: -found[name]["value"])
        rows = [line.split() for line in said.out.splitlines() if "latents=" in line]
        assert [row[:2] for row in rows] == [[str(i), n] for i, n in enumerate(ranked, 1)]
        for name in NAMES:
            (epoch,) = pv.runs.Run(out / name).metrics
            assert found[name]["value"] == epoch["validation_elbo"]

    def test_a_cell_is_what_train_trains(self, out, tmp_path):
        options = "--hidden 8 --latents 3 --lr 0.03 --epochs 1 --batch-size 400".split()
        assert main(["train", *options, "--out", str(tmp_path / "own")]) == 0
        own, cell = (pv.load(f).state_dict() for f in (tmp_path / "own", out / NAMES[3]))
        assert all(torch.equal(own[name], cell[name]) for name in own)

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_a_cell_that_was_broken_off_is_resumed_or_trained_anew(self, out, trained, checkpoint):
        wanted = results(out)[NAMES[1]]["value"]
        (out / NAMES[1] / "figures" / "history.png").unlink()
        (out / "results.jsonl").unlink()
        if not checkpoint:
            shutil.rmtree(out / NAMES[1] / "checkpoints")
        file = out.parent / "experiment.toml"
        assert main(["sweep", str(file), "--out", str(out)]) == 0
        (words,) = trained
        folder = str(out / NAMES[1])
        if checkpoint:
            assert words == ["train", "--resume", folder]
        else:
            assert words[-3:] == ["--out", folder, "--overwrite"]
        assert results(out)[NAMES[1]]["finished"]
        assert results(out)[NAMES[1]]["value"] == wanted

    def test_a_run_of_another_experiment_is_not_a_cell(self, out, capsys):
        file = written(out.parent, GRID, BASE.replace("epochs = 1", "epochs = 2"))
        line = complaint(capsys, "sweep", file, "--out", out)
        assert "training.epochs = 1 and not 2: choose another --out" in line

    def test_they_are_ranked_by_a_bound_if_asked(self, out, trained, capsys):
        file, more = str(out.parent / "experiment.toml"), ["--evaluate", "20"]
        for evaluated in (4, 0):
            trained.clear()
            capsys.readouterr()
            assert main(["sweep", file, "--out", str(out), *more]) == 0
            assert [words[0] for words in trained] == ["evaluate"] * evaluated
        printed = capsys.readouterr().out
        found = results(out)
        for name in NAMES:
            saved = pv.runs.Run(out / name).evaluation()
            assert saved.said["split"] == "validation"
            assert found[name]["value"] == saved.quantities["IWAE-20"].mean
        reports = {name: pv.runs.Run(out / name).evaluation() for name in NAMES}
        ranking = pv.rank(reports)
        second = ranking.differences[ranking.names[1]]
        assert f"{second.mean:.3f} ± {second.error_over_data:.3f}" in printed
        assert " ".join(ranking.verdict[0].split()) in " ".join(printed.split())


def test_a_cell_that_fails_is_named_and_the_others_are_trained(tmp_path, trained, capsys):
    file = written(tmp_path, "[sweep]\ntraining.lr = [1e30, 0.01]")
    line = complaint(capsys, "sweep", file, "--out", tmp_path / "out", code=1)
    assert "1 of 2 cells failed, lr=1e+30 first: " in line
    assert "loss" in line
    found = results(tmp_path / "out")
    assert [found[name]["finished"] for name in ("lr=1e+30", "lr=0.01")] == [False, True]
    assert found["lr=1e+30"]["failure"]


@pytest.mark.parametrize(
    ("code", "said"), [(-9, "SIGKILL, as where memory"), (143, "SIGTERM"), (-11, "SIGSEGV")]
)
def test_a_cell_that_a_signal_ended_is_said_so(code, said, tmp_path, capsys, monkeypatch):
    """What it printed last is no reason."""

    def run(self, argv, log, environment):
        log.write_text("epoch 3\n")
        return code

    monkeypatch.setattr(Children, "run", run)
    file = written(tmp_path, "[sweep]\nprior.latents = [2]")
    line = complaint(capsys, "sweep", file, "--out", tmp_path / "out", code=1)
    assert f"1 of 1 cells failed, latents=2 first: it was ended by {said}" in line


def test_early_stopping_ends_a_cell(tmp_path, trained):
    base = BASE.replace("epochs = 1", "epochs = 9\npatience = 1\nlr = 1.0")
    file = written(tmp_path, "[sweep]\nprior.latents = [2]", base)
    for expected in (1, 0):
        trained.clear()
        assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 0
        assert len(trained) == expected
    (line,) = results(tmp_path / "out").values()
    elbos = [e["validation_elbo"] for e in pv.runs.Run(tmp_path / "out" / "latents=2").metrics]
    assert line["epochs"] == len(elbos) < 9
    assert line["value"] == max(elbos)


def test_a_cell_that_was_told_to_end_in_its_last_epoch_is_resumed(tmp_path, trained, monkeypatch):
    file = written(tmp_path, "[sweep]\nprior.latents = [2]", BASE + "compile = false\n")
    argv = ["sweep", str(file), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as told:
        asked = property(lambda _: True, lambda *_: None)  # as after SIGTERM
        told.setattr(signals._Terminable, "asked", asked, raising=False)
        assert main(argv) == 1
    (line,) = results(tmp_path / "out").values()
    assert not line["finished"]
    trained.clear()
    assert main(argv) == 0
    assert trained == [["train", "--resume", str(tmp_path / "out" / "latents=2")]]
    whole = [*argv[:-1], str(tmp_path / "whole")]
    assert main(whole) == 0
    (again,), (wanted,) = (results(tmp_path / name).values() for name in ("out", "whole"))
    assert again["value"] == wanted["value"]


def test_an_epoch_whose_elbo_is_not_finite_is_not_the_best(tmp_path, trained):
    base = BASE.replace("epochs = 1", "epochs = 2\npatience = 2\ncompile = false")
    file = written(tmp_path, "[sweep]\nprior.latents = [2]", base)
    argv = ["sweep", str(file), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    metrics = tmp_path / "out" / "latents=2" / "metrics.jsonl"
    first, second = map(json.loads, metrics.read_text().splitlines())
    first["validation_elbo"] = None
    metrics.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    trained.clear()
    assert main(argv) == 0
    assert trained == []
    (line,) = results(tmp_path / "out").values()
    assert line["value"] == second["validation_elbo"]


@pytest.mark.parametrize("limit", ["max_steps = 2", "max_time = 0.001"])
def test_a_limit_ends_a_cell(limit, tmp_path, trained):
    base = BASE.replace("epochs = 1", f"epochs = 50\n{limit}")
    file = written(tmp_path, "[sweep]\nprior.latents = [2]", base)
    for expected in (1, 0):
        trained.clear()
        assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 0
        assert len(trained) == expected


def test_the_printed_commands_are_the_cells(tmp_path, trained, capsys):
    sweep = '[sweep]\nprior.latents = [2]\ntraining.kl_weight = ["linear:0:1:1", 0.5]'
    argv = ["sweep", str(written(tmp_path, sweep)), "--out", str(tmp_path / "out")]
    assert main([*argv, "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists()
    assert [shlex.split(line)[:2] for line in lines] == [["pyrovae", "train"]] * 2
    assert main(shlex.split(lines[0])[1:]) == 0
    capsys.readouterr()
    assert main([*argv, "--print"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[1:]
    assert main(argv) == 0
    assert len(trained) == 1


class TestTrials:
    def swept(self, out, *, trials=3):
        file = written(out.parent, TRIALS.replace("trials = 3", f"trials = {trials}"))
        assert main(["sweep", str(file), "--out", str(out)]) == 0
        return results(out)

    def test_a_seed_proposes_the_same_cells_also_after_an_interrupt(
        self, tmp_path, trained, monkeypatch
    ):
        whole = self.swept(tmp_path / "whole")
        assert [name[:4] for name in whole] == ["000,", "001,", "002,"]
        for line in whole.values():
            assert 2 <= line["entries"]["prior.latents"] <= 9
            assert 1e-3 <= line["entries"]["training.lr"] <= 1e-1
        assert len(trained) == 3
        first = self.swept(tmp_path / "parts", trials=1)
        trained.clear()
        parts = self.swept(tmp_path / "parts")
        assert len(trained) == 2
        assert first.items() <= parts.items()
        for line in (*whole.values(), *parts.values()):
            del line["seconds"], line["run"]
        assert parts == whole

    def test_all_that_was_proposed_is_kept_while_an_earlier_cell_is_trained_again(
        self, tmp_path, trained
    ):
        out = tmp_path / "out"
        names = list(self.swept(out))
        shutil.rmtree(out / names[0])
        tables, axes = read(written(tmp_path, TRIALS))
        found = {}
        cell = next(Trials(axes, out / "results.jsonl", Reader(tables, out)).cells(found))
        assert cell.name == names[0]
        assert list(found) == names

    def test_results_of_another_sweep_are_refused(self, tmp_path, trained, capsys):
        self.swept(tmp_path / "out", trials=1)
        file = written(tmp_path, "[sweep]\ntrials = 2\nprior.latents = [2, 3]")
        line = complaint(capsys, "sweep", file, "--out", tmp_path / "out")
        assert "is of another [sweep]" in line
        (tmp_path / "out" / "results.jsonl").write_text("{}\n")
        line = complaint(capsys, "sweep", file, "--out", tmp_path / "out")
        assert "damaged or not of Optuna's trials" in line

    def test_they_cannot_be_printed(self, tmp_path, capsys):
        file = written(tmp_path, TRIALS)
        line = complaint(capsys, "sweep", file, "--out", tmp_path / "out", "--print")
        assert "remove trials from [sweep] to print a grid" in line

    def test_without_optuna_it_is_asked_for(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        file = written(tmp_path, TRIALS)
        line = complaint(capsys, "sweep", file, "--out", tmp_path / "out")
        assert "pip install 'pyrovae[sweeps]'" in line

    def test_ranges_are_whole_if_their_ends_are(self):
        from pyrovae.cli.trials import _space

        optuna = pytest.importorskip("optuna")
        found = [_space(optuna, Range(*ends)) for ends in ((1, 9), (1.0, 9), (1, 9, False, 0.5))]
        assert [type(each).__name__ for each in found] == [
            "IntDistribution",
            "FloatDistribution",
            "FloatDistribution",
        ]


def test_several_cells_at_once_have_one_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in _environment(1)
    assert _environment(2)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_children_end_with_their_sweep(stop, tmp_path):
    """The parent alone is told; its child saves its epochs and ends before it."""
    code = (
        "import os, signal, sys, threading; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
        "from pyrovae.cli.children import Children, terminated_as_interrupted\n"
        "children, child = Children(), Path(sys.argv[1]) / 'child'\n"
        "script = f'import pathlib, time, os; pathlib.Path({str(child)!r}).write_text("
        "str(os.getpid())); time.sleep(60)'\n"
        "argv = [sys.executable, '-c', script]\n"
        "run = lambda: children.run(argv, child.with_suffix('.txt'), dict(os.environ))\n"
        "thread = threading.Thread(target=run)\n"
        "with terminated_as_interrupted():\n"
        "    try:\n"
        "        thread.start(); thread.join()\n"
        "    except KeyboardInterrupt:\n"
        "        children.end(); thread.join()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    child, deadline = tmp_path / "child", time.monotonic() + 60
    while not (child.exists() and child.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.send_signal(stop)
    assert parent.wait(30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(child.read_text()), 0)


@pytest.mark.slow
def test_ctrl_c_ends_the_cells_which_keep_their_epochs(tmp_path):
    file = written(tmp_path, GRID, BASE.replace("epochs = 1", "epochs = 100000\ncompile = false"))
    out = tmp_path / "out"
    code = (
        "import signal, sys; from pyrovae.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
        "sys.exit(main())"
    )
    argv = [sys.executable, "-c", code, "sweep", str(file), "--out", str(out), "--jobs", "2"]
    parent = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not all((out / name / "metrics.jsonl").exists() for name in NAMES[:2]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        parent.send_signal(signal.SIGINT)
        _, said = parent.communicate(timeout=60)
    finally:  # no cell outlives a test that fails
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert parent.returncode == 130
    assert said.splitlines()[-1].startswith("pyrovae: error: interrupted: the same command")
    for name in NAMES[:2]:
        with folders.held(out / name):  # no process trains into it
            assert pv.runs.Run(out / name).metrics
    assert not (out / NAMES[2]).exists()
