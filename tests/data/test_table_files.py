"""A file of mixed columns is loaded by a schema, which its run keeps."""

import copy

import numpy as np
import polars
import pytest
import torch

import pyrovae as pv

ROWS = 50


def people(seed=0):
    rng = np.random.default_rng(seed)
    height = rng.normal(1.7, 0.1, ROWS)
    return polars.DataFrame(
        {
            "id": [f"p{i}" for i in range(ROWS)],
            "height": np.where(rng.random(ROWS) < 0.3, np.nan, height),
            "grade": rng.integers(1, 5, ROWS),
            "city": np.array(["Bern", "Oslo", "Rome"])[rng.integers(0, 3, ROWS)],
            "set": ["train"] * 30 + ["validation"] * 10 + ["test"] * 10,
            "job": np.array(["a", "b"])[rng.integers(0, 2, ROWS)],
        }
    )


COLUMNS = {"id": None, "grade": "ordinal"}
OPTIONS = {"columns": COLUMNS, "split": "set", "labels": "job"}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "people.parquet"
    people().write_parquet(path)
    return path


def test_a_file_of_mixed_columns_is_coded_by_its_schema(file):
    data = pv.data.load(file, **OPTIONS)
    table = data.table
    assert [column.kind for column in table.columns] == ["numeric", "ordinal", "categorical"]
    assert data.columns == ("height", "grade", "city")
    assert set(table.left_out) == {"id", "set", "job"}
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 10)
    x, mask = table.encode(people())
    assert torch.equal(data.test.x, x[40:])
    assert torch.equal(data.test.context[-1], mask[40:])
    assert data.shape == (3,)
    assert data.test.labels is not None


def test_what_is_estimated_is_of_the_training_rows_alone(file):
    column = pv.data.load(file, **OPTIONS).table.columns[0]
    height = people()["height"].to_numpy()[:30]
    assert column.loc == pytest.approx(np.nanmean(height))
    assert column.scale == pytest.approx(np.nanstd(height))


def test_numbers_without_gaps_are_read_as_before_unless_a_table_is_asked_for(tmp_path):
    path = tmp_path / "numbers.csv"
    polars.DataFrame({"a": [0.5, 1.5] * 10, "b": [1.5, 0.25] * 10}).write_csv(path)
    data = pv.data.load(path)
    assert data.table is None
    assert data.train.context == ()
    assert pv.data.load(path, table=True).table is not None
    gaps = tmp_path / "gaps.csv"
    gaps.write_text(path.read_text() + ",1.0\n")
    with pytest.raises(ValueError, match="column 'a' of .* has 1 missing values of 21"):
        pv.data.load(gaps, table=False)


def test_other_data_are_coded_by_the_schema_of_the_run(file, tmp_path):
    first = pv.data.load(file, **OPTIONS)
    other = tmp_path / "other.parquet"
    people(1).write_parquet(other)
    record = first.reading.record["table"]
    again = pv.data.load(other, table=record, fractions=(0, 0, 1))
    assert again.table == first.table
    x, _ = first.table.encode(people(1))
    assert torch.equal(again.test.x, x[torch.tensor(_order(again, x))])
    changed = copy.deepcopy(record)
    changed["columns"][0]["scale"] *= 2
    with pytest.raises(ValueError, match="the record of the table was changed"):
        pv.data.load(other, table=changed)
    unseen = people(1).with_columns(city=polars.lit("Paris"))
    unseen.write_parquet(other)
    with pytest.raises(ValueError, match="column 'city' has 'Paris' at row 0"):
        pv.data.load(other, table=record, fractions=(0, 0, 1))


def _order(data, x):
    return [int((x == row).all(1).nonzero()[0, 0]) for row in data.test.x]


def test_a_split_with_its_mask_is_trained_on_and_evaluated(file):
    data = pv.data.load(file, **OPTIONS)
    vae = pv.table_vae(data.table, latents=2, hidden=8)
    pv.fit(vae, data.train, validation=data.validation, epochs=1, callbacks=())
    report = pv.evaluate(vae, data.test, particles=5)
    both = pv.evaluate(vae, (data.test.x, data.test.context[-1]), particles=5)
    assert torch.equal(report.elbo.value, both.elbo.value)
