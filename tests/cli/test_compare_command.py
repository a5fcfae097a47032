"""`pyrovae compare` of several runs: `pv.rank` of their evaluations."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from complaints import complaint
from pages import Page

import pyrovae as pv
from pyrovae.cli import comparison_page, main
from pyrovae.measure.findings import Number

SHORT = ["--particles", "20", "--limit", "30"]


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> list[Path]:
    """Return three runs of one data set, evaluated alike but for the seed."""
    root = tmp_path_factory.mktemp("several")
    found = [root / f"run-{seed}" for seed in range(3)]
    data = {"name": "digits", "binarization": "dynamic", "shape": [1, 8, 8]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("pyrovae.cli.measure.report_figures", lambda *_: {})
        for seed, folder in enumerate(found):
            with pv.seeded(seed):
                pv.save(pv.mlp_vae(64, latents=2, hidden=8), folder, data=data)
            assert main(["evaluate", str(folder), *SHORT, "--seed", str(seed)]) == 0
    return found


def test_several_runs_are_ranked(three, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pyrovae.cli.measure.report_figures", lambda *_: {})
    out = tmp_path / "ranking.png"
    capsys.readouterr()
    assert main(["compare", *map(str, three), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    wanted = pv.rank({folder.name: pv.runs.Run(folder).evaluation() for folder in three})
    assert str(wanted) in said
    assert out.read_bytes()[:4] == b"\x89PNG"
    assert main(["compare", *map(str, three)]) == 0
    figure = three[0] / "figures" / "comparison-of-3.png"
    assert figure.exists()
    assert main(["evaluate", str(three[0]), *SHORT]) == 0
    assert not figure.exists()


@pytest.mark.parametrize("count", [2, 3], ids=["two", "three"])
def test_a_page_has_the_numbers_of_the_comparison_and_of_each_run(three, count, tmp_path):
    runs, out = three[:count], tmp_path / "compared.html"
    (runs[0] / "report.html").touch()
    try:
        assert main(["compare", *map(str, runs), "--out", str(out)]) == 0
    finally:
        (runs[0] / "report.html").unlink()
    page = Page(out.read_text())
    reports = {folder.name: pv.runs.Run(folder).evaluation() for folder in runs}
    names = tuple(reports)
    found = pv.rank(reports) if count > 2 else pv.compare(*reports.values(), names=names)
    columns = ("mean", "error_over_data", "error_over_particles")
    rows = page.numbers("differences")
    assert list(rows) == list(found.quantities)
    for name, quantity in found.quantities.items():
        values = [getattr(quantity, column) for column in columns]
        assert rows[name][0] == [value for value in values if value == value]
    bounds = page.numbers("runs")
    for name in ("ELBO", "IWAE-20", "KL, closed form"):
        each = [saved.quantities[name] for saved in reports.values()]
        pairs = [(quantity.mean, quantity.error_over_data) for quantity in each]
        assert bounds[name][0] == [value for pair in pairs for value in pair]
    for sentence in found.verdict:
        assert sentence.replace("`", "") in page.sections["verdict"]
    assert "seed of the evaluation" in page.sections["settings"]
    (link,) = page.attributes("a")
    assert (tmp_path / link["href"]).resolve() == (runs[0] / "report.html").resolve()
    assert "<script" not in out.read_text()


def test_a_bound_of_minus_infinity_is_no_missing_one():
    saved = {
        "possible": SimpleNamespace(quantities={"ELBO": Number(-1.5, 0.25)}),
        "impossible": SimpleNamespace(quantities={"ELBO": Number(-math.inf, math.nan)}),
        "without": SimpleNamespace(quantities={}),
    }
    rows = comparison_page._bounds(saved)
    assert rows == {"ELBO": [-1.5, 0.25, -math.inf, None, None, None]}


def test_names_of_runs_are_text_on_the_page(three, tmp_path):
    evil = tmp_path / "<script>&"
    shutil.copytree(three[1], evil)
    out = tmp_path / "compared.html"
    assert main(["compare", str(three[0]), str(evil), "--out", str(out)]) == 0
    assert "<script" not in out.read_text()
    assert f"{three[0].name} - {evil.name}" in Page(out.read_text()).sections["header"]


def test_runs_of_one_name_have_their_paths(three, tmp_path, capsys):
    shutil.copytree(three[1], tmp_path / three[0].name)
    runs = [*three[1:], tmp_path / three[0].name, three[0]]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "c.png")]) == 0
    said = "".join(capsys.readouterr().out.split())
    assert str(tmp_path / three[0].name) in said


def test_what_is_wrong_is_one_line(three, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pyrovae.cli.measure.report_figures", lambda *_: {})
    assert "twice" in complaint(capsys, "compare", *three, three[0])
    bare = [tmp_path / name for name in ("one", "two")]
    for folder in bare:
        pv.save(pv.mlp_vae(64, latents=2, hidden=8), folder)
    line = complaint(capsys, "compare", *three, *bare)
    assert f"2 of the runs have no evaluation: run `pyrovae evaluate {bare[0]} && " in line
    assert f"run `pyrovae evaluate {bare[0]}`" in complaint(capsys, "compare", *three, bare[0])
    assert "no run's folder at" in complaint(capsys, "compare", *three, *bare, tmp_path / "none")
    assert "no run's folder at" in complaint(capsys, "compare", *three, tmp_path / "none")
    shutil.rmtree(bare[0])
    shutil.copytree(three[1], bare[0])
    assert main(["evaluate", str(bare[0]), "--particles", "20", "--limit", "9"]) == 0
    line = complaint(capsys, "compare", *three, bare[0])
    assert "evaluate both on the same data" in line
