"""What stands on the screen beside a training: the bar, notices of others, the end of a pipe."""

import contextlib
import io
import logging
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console

import pyrovae as pv
from pyrovae import cli
from pyrovae.cli import main
from pyrovae.train import callbacks

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))


def small_vae():
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 8, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 8, 4)),
    )


@pytest.fixture
def bar(monkeypatch):
    """Keep every state of the bar as text, in place of a terminal."""
    states = []

    class Shown(callbacks.Progress):
        def start(self):
            self.keep()

        def stop(self):
            self.keep()

        def update(self, task, **fields):
            super().update(task, **fields)
            self.keep()

        def keep(self):
            out = io.StringIO()
            Console(file=out, width=120).print(self.get_renderable())
            states.append(" ".join(out.getvalue().split()))

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(callbacks, "Progress", Shown)
    monkeypatch.setattr(callbacks.sys, "stderr", Terminal())
    return states


def test_the_bar_counts_no_epoch_that_was_not_asked_for(bar):
    pv.fit(small_vae(), X, epochs=2, batch_size=20)
    assert bar[0].startswith("epoch 1/2")
    assert bar[-1].startswith("epoch 2/2")
    assert not any("epoch 3/2" in state for state in bar)
    assert not any("nan" in state or " 0 steps/s" in state for state in bar)


def test_the_bar_says_that_the_step_is_compiled_and_no_loss_before_there_is_one(bar, interpreted):
    pv.fit(small_vae(), X, epochs=1, batch_size=20, step=pv.Step(compile=True))
    assert "compiling the step" in bar[0]
    assert "steps/s, loss" in bar[1]
    assert not any("nan" in state for state in bar)


def test_the_bar_says_when_a_step_is_compiled_and_the_time_that_is_left(bar, interpreted):
    pv.fit(small_vae(), X, epochs=2, batch_size=20, step=pv.Step(compile=True))
    compiling = [i for i, state in enumerate(bar) if "compiling the step" in state]
    assert [" 0/3 " in bar[i] or " 1/3 " in bar[i] for i in compiling] == [True, True]
    # The step that was compiled tells nothing of the rate; its loss is there.
    after = bar[compiling[1] + 1]
    assert " 2/3 loss " in after
    assert "steps/s, loss" in bar[compiling[1] + 2]
    assert bar[compiling[1] + 2].endswith(" 0:00:00 left")
    assert not any("nan" in state for state in bar)


def test_the_bar_of_a_stream_leaves_its_length_open(bar):
    class Batches:
        def __iter__(self):
            return iter(X.split(20))

    pv.fit(small_vae(), Batches(), epochs=2)
    assert any(" 2/? " in state for state in bar)
    assert any(" 2/3 " in state for state in bar)


NOTICE = "No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'"


@pytest.mark.parametrize("work", ["fit", "evaluate"])
def test_a_notice_of_torchs_compiler_does_not_break_in(work, monkeypatch, caplog):
    logger = logging.getLogger("torch.utils.cpp_extension")

    def noisy(graph, **options):
        logger.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local/cuda")
        logger.warning("another")
        return graph

    monkeypatch.setattr(torch, "compile", noisy)
    if work == "fit":
        pv.fit(small_vae(), X, epochs=3, step=pv.Step(compile=True), callbacks=[])
    else:
        pv.evaluate(small_vae(), X, particles=2, compile=True)
    logger.warning(NOTICE)
    assert "another" in caplog.messages
    assert caplog.messages.count(NOTICE) == 1  # the one that came after


def test_a_callback_ends_a_training_by_the_name_that_the_docstring_gives():
    class Once(pv.Callback):
        def finished_epoch(self, training):
            raise pv.StopTraining("enough")

    history = pv.fit(small_vae(), X, epochs=5, callbacks=[Once()])
    assert (len(history.epochs), history.ended, history.kept) == (1, "stopped early: enough", 1)
    assert "StopTraining" in pv.__all__


# The command line.


def test_a_traceback_is_printed_when_it_is_asked_for(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["evaluate", str(tmp_path / "none"), "--traceback"]) == 2
    *above, last = capsys.readouterr().err.splitlines()
    assert above[0] == "Traceback (most recent call last):"
    assert last.startswith("pyrovae: error: no run's folder")


PRINTING = """
import sys
from pyrovae import cli
from pyrovae.cli import measure
measure.compare = lambda *_, **__: print("x" * int(sys.argv[1])) or 0
sys.exit(cli.main(["compare", "a", "b"]))
"""


@pytest.mark.parametrize("characters", [1, 100_000])
def test_a_pipe_whose_reader_is_gone_ends_a_command_without_a_word(characters):
    """The text is written at once, or as Python ends."""
    read, write = os.pipe()
    os.close(read)
    with contextlib.closing(os.fdopen(write, "w")) as stdout:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING, str(characters)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (cli.READER_GONE, "")


def test_an_evaluation_is_kept_though_nobody_reads_its_report(tmp_path, monkeypatch):
    digits = ["--latents", "2", "--hidden", "8", "--epochs", "1", "--batch-size", "400"]
    assert main(["train", "--out", str(tmp_path / "run"), *digits]) == 0

    def gone(*words, **options):
        if words and isinstance(words[0], pv.Report):
            raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    argv = ["evaluate", str(tmp_path / "run"), "--particles", "2", "--limit", "20"]
    monkeypatch.setattr(cli, "_discard_stdout", lambda: None)
    assert main(argv) == cli.READER_GONE
    assert pv.read_report(tmp_path / "run" / "evaluation.json").said["data"] == 20
