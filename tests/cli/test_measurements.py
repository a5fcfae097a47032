"""`pyrovae evaluate` with further measurements, and `pyrovae compare`."""

import errno
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from complaints import complaint

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.measure.findings import Finding, Number
from pyrovae.measure.fingerprints import fingerprints

SMALL = ["--latents", "2", "--hidden", "8", "--epochs", "1", "--batch-size", "400"]
SHORT = ["--particles", "30", "--limit", "20"]


def trained(folder: Path, seed: int = 0) -> Path:
    assert main(["train", "--out", str(folder), *SMALL, "--seed", str(seed)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("measured") / "a")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run) -> tuple[Path, Path]:
    other = trained(tmp_path_factory.mktemp("other") / "b", seed=1)
    for folder in (run, other):
        assert main(["evaluate", str(folder), *SHORT]) == 0
    return run, other


def settings(monkeypatch, run, *options: str) -> list:
    """Return the diagnostics that the command hands on."""
    given = []

    def measure(*_, diagnostics, **__):
        given.extend(diagnostics)
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.cli.measure.measure", measure)
    assert main(["evaluate", str(run), *options]) == 130
    return given


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", []),
        ("--ais 50", [pv.AIS(50)]),
        ("--ais 50 --ais-start guide", [pv.AIS(50, start="guide")]),
        ("--gaps --ais 7", [pv.AIS(7), pv.Gaps()]),
        ("--ais 7 --ais-limit 5 --gaps --gaps-limit 6", [pv.AIS(7, limit=5), pv.Gaps(limit=6)]),
        ("--gaps --latents --gaps-limit 9", [pv.Gaps(limit=9), pv.Latents()]),
    ],
)
def test_options_are_the_settings_of_diagnostics(options, wanted, run, monkeypatch):
    assert settings(monkeypatch, run, *options.split()) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("--ais 0", '"0" for --ais. Must be >= 1'),
        ("--ais-start guide", "add --ais T"),
        ("--ais 5 --ais-start q", '"q" for --ais-start. Choose from'),
        ("--ais-limit 5", "add --ais T"),
        ("--gaps-limit 5 --latents", "add --gaps"),
        ("--gaps --gaps-limit 0", '"0" for --gaps-limit. Must be >= 1'),
    ],
)
def test_options_that_make_no_sense(options, wanted, run, capsys):
    assert wanted in complaint(capsys, "evaluate", run, *options.split())


def test_figures_of_an_earlier_evaluation_go(run, monkeypatch):
    assert main(["evaluate", str(run), *SHORT, "--latents"]) == 0
    figures = run / "figures"
    assert (figures / "holes.png").exists()
    assert (figures / "traversals.png").exists()
    assert main(["evaluate", str(run), *SHORT]) == 0
    assert not (figures / "holes.png").exists()
    assert not (figures / "traversals.png").exists()
    assert (figures / "bounds.png").exists()
    assert (figures / "samples.png").exists(), "of the training"


@dataclass(frozen=True)
class Stops:
    """A diagnostic that an interrupt ends, with something found or nothing."""

    found: bool
    name: ClassVar[str] = "stops"

    def __call__(self, target, x, *context):
        if not self.found:
            raise KeyboardInterrupt
        return Some()


class Some(Finding):
    title = "things, partial: 1 of 20 data"
    partial = True
    verdict = ("Something.",)
    quantities: ClassVar = {"a number": Number(1.5)}
    per_datum: ClassVar = {}


@pytest.mark.parametrize("found", [True, False])
def test_an_interrupted_diagnostic_keeps_the_rest_labeled(found, run, capsys, monkeypatch):
    for path in run.glob("evaluation*"):
        path.unlink()
    monkeypatch.setattr("pyrovae.cli.measure._diagnostics", lambda _: [Stops(found)])
    assert main(["evaluate", str(run), *SHORT]) == 130
    out = capsys.readouterr().out
    said = json.loads((run / "evaluation.json").read_text())
    assert said["partial"]
    assert said["data"] == 20
    assert ("findings" in said) == found
    assert ("things, partial: 1 of 20 data" in out) == found
    assert ("Not measured because of an interrupt: stops." in " ".join(out.split())) == (not found)
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "<strong>Partial.</strong>" in page
    assert ("Partial within: stops." in page) == found


def contents(run: Path) -> dict[str, bytes]:
    """Return what the run's evaluation consists of."""
    files = [*run.glob("evaluation*"), *run.glob("figures/*")]
    return {path.name: path.read_bytes() for path in files}


def test_one_datum_is_evaluated_and_reported(run, tmp_path, capsys):
    """It has no principal components, and no latents to compare: the rest is there."""
    run = shutil.copytree(run, tmp_path / "run")
    command = ["evaluate", str(run), "--limit", "1", "--particles", "1", "--latents"]
    with pytest.warns(UserWarning, match="'latents' was not measured"):
        assert main([*command, "--ais", "3", "--ais-limit", "1"]) == 0
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "One datum has no error over data" in page
    assert "nan" not in "".join(line for line in page.splitlines() if "base64" not in line)
    assert "latents: latent diagnostics compare different data; got 1" in page


def test_a_folder_that_cannot_be_written_is_met_before_the_measurement(run, monkeypatch, capsys):
    plain = Path.open

    def denied(path, mode="r", *rest, **options):
        if "w" in mode and run in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, mode, *rest, **options)

    def measure(*_, **__):
        raise AssertionError("measured in vain")

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr("pyrovae.cli.measure.measure", measure)
    line = complaint(capsys, "evaluate", run, *SHORT)
    assert f"cannot write to {run} (Permission denied): copy the run to a folder" in line
    monkeypatch.undo()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


class TestPartial:
    """An interrupt never costs a complete evaluation, and a complete one ends what was partial."""

    @pytest.fixture
    def interrupted(self, run, tmp_path, monkeypatch, capsys):
        """Return a run that was evaluated, and what that left, then again, with an interrupt."""
        run = shutil.copytree(run, tmp_path / "run")
        assert main(["evaluate", str(run), *SHORT, "--latents"]) == 0
        before = contents(run)
        with monkeypatch.context() as patch:
            patch.setattr("pyrovae.cli.measure._diagnostics", lambda _: [Stops(found=True)])
            assert main(["evaluate", str(run), *SHORT, "--seed", "1"]) == 130
        return run, before

    def test_one_lies_beside_the_complete_one_and_says_so(self, interrupted, capsys):
        run, before = interrupted
        beside = {"evaluation.partial.json", "evaluation.partial.safetensors"}
        after = contents(run)
        assert after.keys() - before.keys() == beside
        assert {name: after[name] for name in before} == before
        said = pv.read_report(run / "evaluation.partial.json")
        assert (said.partial, said.seed) == (True, 1)
        out = capsys.readouterr().out
        assert f"written: {run / 'evaluation.partial.json'}" in out
        assert f"kept: {run / 'evaluation.json'}, which is complete" in out

    def test_the_complete_one_is_reported_and_compared(self, interrupted, tmp_path, capsys):
        run, _ = interrupted
        assert main(["report", str(run)]) == 0
        assert "<strong>Partial.</strong>" not in (run / "report.html").read_text()
        other = shutil.copytree(run, tmp_path / "other")
        capsys.readouterr()
        assert main(["compare", str(run), str(other)]) == 0
        assert "An interrupt" not in capsys.readouterr().out

    def test_a_later_complete_one_removes_it_and_says_so(self, interrupted, capsys):
        run, before = interrupted
        capsys.readouterr()
        assert main(["evaluate", str(run), *SHORT, "--latents"]) == 0
        assert contents(run).keys() == before.keys()
        out = capsys.readouterr().out
        assert f"removed: {run / 'evaluation.partial.json'}, an earlier one" in out
        assert main(["evaluate", str(run), *SHORT, "--latents"]) == 0
        assert "removed:" not in capsys.readouterr().out

    def test_a_complete_one_removes_the_page_and_the_comparison_of_the_one_before(
        self, interrupted, capsys
    ):
        run, _ = interrupted
        page, figure = run / "report.html", run / "figures" / "comparison-with-b.png"
        for path in (page, figure):
            path.write_bytes(b"old")
        capsys.readouterr()
        assert main(["evaluate", str(run), *SHORT]) == 0
        out = capsys.readouterr().out
        for path in (page, figure):
            assert not path.exists()
            assert f"removed: {path}, of the evaluation before" in out

    def test_a_damaged_one_is_no_complete_one(self, interrupted, monkeypatch):
        run, _ = interrupted
        (run / "evaluation.json").write_text("{")
        monkeypatch.setattr("pyrovae.cli.measure._diagnostics", lambda _: [Stops(found=True)])
        assert main(["evaluate", str(run), *SHORT]) == 130
        assert pv.read_report(run / "evaluation.json").partial

    def test_the_only_one_is_compared_and_labeled(self, interrupted, tmp_path, capsys):
        run, _ = interrupted
        other = tmp_path / "other"
        other.mkdir()
        for end in ("json", "safetensors"):
            shutil.copy(run / f"evaluation.partial.{end}", other / f"evaluation.{end}")
        assert main(["compare", str(run), str(other)]) == 0
        assert "The evaluation of other is partial: it was interrupted." in capsys.readouterr().out


def test_compare_prints_what_compare_finds(runs, tmp_path, capsys):
    a, b = runs
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "c.png")]) == 0
    out = capsys.readouterr().out
    digits = pv.data.load("digits").test
    x = digits.draw()[:20]
    reports = [pv.evaluate(pv.load(folder), x, particles=30) for folder in runs]
    assert str(pv.compare(*reports, names=("a", "b"))) in out
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(a), str(b)]) == 0
    assert (a / "figures" / "comparison-with-b.png").exists()
    saved = pv.read_report(a / "evaluation.json")
    assert (saved.fingerprint == fingerprints(x)).all()


def test_compare_says_what_is_wrong(runs, tmp_path, capsys):
    a, b = runs
    assert "twice" in complaint(capsys, "compare", a, a)
    assert "no run's folder at" in complaint(capsys, "compare", a, tmp_path / "none")
    bare = trained(tmp_path / "bare")
    line = complaint(capsys, "compare", a, bare)
    assert line.endswith(f"has no evaluation: run `pyrovae evaluate {bare}`")
    assert main(["evaluate", str(bare), "--particles", "30", "--limit", "9"]) == 0
    assert "a has 20 data, bare has 9" in complaint(capsys, "compare", a, bare)
    assert main(["evaluate", str(bare), *SHORT, "--split", "train"]) == 0
    assert "data of a and bare differ, the first at row 0" in complaint(capsys, "compare", a, bare)
    (bare / "evaluation.json").write_text("{")
    assert "half-written or damaged" in complaint(capsys, "compare", a, bare)
    assert "requires an argument" in complaint(capsys, "compare", a)


def test_data_of_another_shape_are_refused_before_they_are_measured(run, monkeypatch, capsys):
    whole = pv.data.load("digits")
    other = replace(whole, name="mnist", shape=(1, 4, 16))
    monkeypatch.setattr("pyrovae.runs.sources.load", lambda *_, **__: other)
    assert main(["evaluate", str(run), *SHORT, "--data", "mnist"]) == 2
    said = capsys.readouterr().err
    assert "trained on images of (1, 8, 8); mnist has images of (1, 4, 16)" in said
