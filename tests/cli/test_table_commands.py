"""A table of mixed columns from the command line: imputed and sampled as a file of its kind."""

import pandas
import polars
import pytest

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.runs import Run

PEOPLE = polars.DataFrame(
    {
        "height": [1.62, 1.8, None, 1.75, 1.9, 1.55],
        "children": [0, 2, 1, None, 0, 3],
        "city": ["Bern", None, "Rome", "Oslo", "Bern", "Rome"],
        "member": [True, False, None, True, True, False],
    }
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "run"
    table = pv.data.Table.of(PEOPLE.to_arrow())
    with pv.seeded(0):
        vae = pv.table_vae(table, latents=2, hidden=8)
    pv.save(vae, folder, table=table.record)
    return folder


def test_a_file_trains_a_run_that_imputes_and_samples(tmp_path, capsys):
    rows = polars.concat([PEOPLE] * 10).with_columns(grade=polars.Series([1, 2, 3] * 20))
    file, run = tmp_path / "people.parquet", tmp_path / "run"
    rows.write_parquet(file)
    short = ["--epochs", "1", "--latents", "2", "--hidden", "8"]
    kinds = ["--data.columns.grade", "ordinal"]
    assert main(["train", "--data", str(file), *kinds, *short, "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "Table of 5 columns, 48 rows" in printed
    assert "grade     ordinal" in printed
    assert Run(run).table == pv.data.load(file, columns={"grade": "ordinal"}).table
    assert main(["evaluate", str(run), "--particles", "3"]) == 0
    said = "in the table's own units, add"
    assert said in " ".join(capsys.readouterr().out.split())
    assert any(said in each for each in Run(run).evaluation().remarks)
    filled = tmp_path / "filled.parquet"
    assert main(["impute", str(run), "--data", str(file), "--out", str(filled)]) == 0
    assert sum(polars.read_parquet(filled).null_count().row(0)) == 0
    assert main(["sample", str(run), "-n", "5", "--out", str(filled)]) == 0
    assert polars.read_parquet(filled).columns == rows.columns
    assert main(["report", str(run)]) == 0
    again = ["train", "--like", str(run), "--guide", "FullRankNormal"]
    assert main([*again, "--out", str(tmp_path / "like")]) == 0
    assert type(Run(tmp_path / "like").load_vae().posterior).__name__ == "FullRankNormal"


def test_covariates_reach_a_table_and_are_asked_for(tmp_path, capsys):
    rows = polars.concat([PEOPLE] * 10).with_columns(site=polars.Series(["x", "y"] * 30))
    file, run, filled = (tmp_path / name for name in ("people.parquet", "run", "filled.parquet"))
    rows.write_parquet(file)
    short = ["--epochs", "1", "--latents", "2", "--hidden", "8"]
    given = ["--data", str(file), "--data.covariates", "site"]
    assert main(["train", *given, *short, "--out", str(run)]) == 0
    vae = Run(run).load_vae()
    assert vae.likelihood.likelihood.trunk.sizes == (2 + 2, 8)
    assert [column.name for column in Run(run).table.columns] == PEOPLE.columns
    again = ["impute", str(run), "--out", str(filled), "--particles", "5"]
    assert main([*again, "--data", str(file)]) == 0
    assert polars.read_parquet(filled)["site"].to_list() == rows["site"].to_list()
    assert main(["sample", str(run), "-n", "3", "--out", str(filled)]) == 0
    assert "covariates are those of the first 3 test data" in capsys.readouterr().out
    rows.drop("site").write_parquet(file)
    assert main([*again, "--data", str(file)]) == 2
    assert "lacks the column 'site', a covariate of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--likelihood", "Normal"], "likelihood Normal is for columns of one kind without gaps"),
        (["--data.columns.city", "count"], "column 'city' takes numbers; got 'Bern'"),
        (["--data.columns.town", "count"], "the frame has no column 'town'"),
        (["--data.table", "false"], "column 'city' of"),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused_in_one_line(options, said, tmp_path, capsys):
    PEOPLE.write_parquet(tmp_path / "people.parquet")
    arguments = ["--data", str(tmp_path / "people.parquet"), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv"])
def test_a_file_is_imputed(run, tmp_path, suffix, capsys):
    gaps, filled = tmp_path / "gaps.parquet", tmp_path / f"filled{suffix}"
    PEOPLE.write_parquet(gaps)
    arguments = ["impute", str(run), "--data", str(gaps), "--out", str(filled)]
    assert main([*arguments, "--particles", "20"]) == 0
    assert "6 rows with 4 imputed values" in capsys.readouterr().out
    found = polars.from_arrow(pv.data.frames.read_frame(filled).to_native())
    assert found.columns == PEOPLE.columns
    assert sum(found.null_count().row(0)) == 0
    for name in PEOPLE.columns:
        seen = PEOPLE[name].is_not_null()
        assert found[name].filter(seen).to_list() == PEOPLE[name].filter(seen).to_list()
    if suffix != ".csv":
        assert found.dtypes == PEOPLE.dtypes


def test_a_column_that_is_empty_in_a_csv_is_imputed(run, tmp_path, capsys):
    (tmp_path / "gaps.csv").write_text("height,children,city,member\n1.7,2,,\n,1,,True\n")
    files = ["--data", str(tmp_path / "gaps.csv"), "--out", str(tmp_path / "filled.csv")]
    assert main(["impute", str(run), *files, "--particles", "5"]) == 0
    assert "2 rows with 4 imputed values" in capsys.readouterr().out
    filled = pandas.read_csv(tmp_path / "filled.csv")
    assert set(filled.city) <= {"Bern", "Oslo", "Rome"}
    assert filled.member.dtype == bool
    assert filled.children.tolist() == [2, 1]


def test_the_index_of_pandas_is_written_beside_what_is_imputed(run, tmp_path):
    frame = PEOPLE.to_pandas().set_axis(list("uvwxyz")).rename_axis("person")
    frame.to_parquet(tmp_path / "gaps.parquet")
    files = ["--data", str(tmp_path / "gaps.parquet"), "--out", str(tmp_path / "filled.parquet")]
    assert main(["impute", str(run), *files, "--particles", "5"]) == 0
    filled = pandas.read_parquet(tmp_path / "filled.parquet")
    assert filled.index.tolist() == list("uvwxyz")
    assert filled.columns.tolist() == PEOPLE.columns
    assert not filled.isna().any(axis=None)


def test_a_table_is_sampled_as_a_file(run, tmp_path, capsys):
    path = tmp_path / "drawn.csv"
    assert main(["sample", str(run), "-n", "30", "--out", str(path)]) == 0
    assert "30 rows" in capsys.readouterr().out
    drawn = pandas.read_csv(path)
    assert drawn.columns.tolist() == PEOPLE.columns
    assert len(drawn) == 30
    assert set(drawn.city) <= {"Bern", "Oslo", "Rome"}
    assert main(["sample", str(run)]) == 0
    assert len(pandas.read_parquet(run / "samples.parquet")) == 100
    assert main(["sample", str(run), "--means"]) == 2
    assert "--means is for images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "out", "said"),
    [
        ({"city": ["Paris"] * 6}, "out.csv", "column 'city' has 'Paris' at row 0"),
        ({"age": [1] * 6}, "out.csv", "has a column 'age', which the table does not know"),
        ({"height": ["tall"] * 6}, "out.csv", "column 'height' takes numbers; got 'tall'"),
        ({}, "out.xlsx", "a frame is written as .csv, .parquet, .feather; got"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(run, tmp_path, change, out, said, capsys):
    gaps = tmp_path / "gaps.parquet"
    PEOPLE.with_columns(**{k: polars.Series(v) for k, v in change.items()}).write_parquet(gaps)
    assert main(["impute", str(run), "--data", str(gaps), "--out", str(tmp_path / out)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / out).exists()


def test_a_column_that_is_lacking_is_named(run, tmp_path, capsys):
    PEOPLE.drop("city").write_csv(tmp_path / "gaps.csv")
    files = ["--data", str(tmp_path / "gaps.csv"), "--out", str(tmp_path / "filled.csv")]
    assert main(["impute", str(run), *files]) == 2
    error = capsys.readouterr().err
    assert "the frame lacks the table's column 'city': add it, empty where unknown" in error
    assert error.count("\n") == 1


def test_a_run_without_a_table_is_refused(tmp_path, capsys):
    pv.save(pv.mlp_vae(4, 2, hidden=4), tmp_path / "run")
    arguments = ["--data", "gaps.csv", "--out", "filled.csv"]
    assert main(["impute", str(tmp_path / "run"), *arguments]) == 2
    assert "was not trained on a table of mixed columns" in capsys.readouterr().err
