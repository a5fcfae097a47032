"""A run knows its data again, and what it was trained on is no test set."""

import dataclasses
import json
import warnings

import numpy as np
import pandas
import pytest
import torch
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.runs.sources import Source

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(100, 3)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    return tmp_path / "a.npy"


@pytest.fixture
def source(path):
    source = Source().given(str(path))
    source = Source(source.name, binarization="none")
    return source.of(source.read_data())


def test_a_record_reads_back(source):
    assert Source.read(source.record) == source
    assert source.shape == (3,)
    assert source.load().domain is constraints.real


def test_the_recorded_split_is_what_it_is(source):
    data = source.read_data()
    for name in ("train", "validation", "test"):
        assert source.met_again(data, name) is None
    assert torch.equal(source.split("test").x, data.test.x)


def test_a_copy_of_the_training_data_is_no_test_set(source, tmp_path):
    np.save(tmp_path / "b.npy", ROWS[::-1])
    other = source.given(str(tmp_path / "b.npy"))
    data = other.read_data()
    assert [len(split) for split in data.splits.values()] == [0, 0, 100]
    with pytest.raises(ValueError, match="b.npy is no test set: .* trained on 80 of its 100 rows"):
        source.met_again(data, "test")
    train = source.given(str(tmp_path / "b.npy"), split="train").read_data()
    assert source.met_again(train, "train") is None


def test_held_out_rows_and_new_rows_are_a_test_set(source, tmp_path):
    held_out = source.read_data().test.x.numpy()
    new = RNG.normal(size=(30, 3)).astype(np.float32)
    for rows in (held_out, new):
        np.save(tmp_path / "b.npy", rows)
        data = source.given(str(tmp_path / "b.npy")).read_data()
        assert source.met_again(data, "test") is None


def test_a_training_row_among_many_is_said(source, tmp_path):
    new = RNG.normal(size=(200, 3)).astype(np.float32)
    train = source.read_data().train.x.numpy()
    np.save(tmp_path / "b.npy", np.concatenate([train[:1], new]))
    data = source.given(str(tmp_path / "b.npy")).read_data()
    assert "the run was trained on 1 of its 201 rows" in source.met_again(data, "test")


def test_a_file_that_changed_says_so(source, path):
    new = RNG.normal(size=(10, 3)).astype(np.float32)
    np.save(path, np.concatenate([ROWS, new]))
    with pytest.raises(ValueError, match="a.npy changed since the training, and its test data"):
        source.split("test")
    np.save(path, new)
    with pytest.warns(UserWarning, match="its test data are others than then"):
        source.split("test")


def test_another_file_is_read_with_the_same_options_and_categories(tmp_path):
    kinds = np.array(["a", "b"] * 50)
    np.savez(tmp_path / "a.npz", x=ROWS, kind=kinds, set=["train"] * 80 + ["test"] * 20)
    source = Source(
        str(tmp_path / "a.npz"),
        binarization="none",
        reading={"key": "x", "covariates": ["kind"], "split": "set"},
    )
    source = source.of(source.read_data())
    np.savez(tmp_path / "b.npz", x=-ROWS, kind=np.array(["b"] * 100))
    data = source.given(str(tmp_path / "b.npz")).read_data()
    assert data.test.context[0].unique(dim=0).tolist() == [[0.0, 1.0]]
    np.savez(tmp_path / "c.npz", x=-ROWS, kind=np.array(["c"] * 100))
    with pytest.raises(ValueError, match="has the value 'c', which is none of those trained on"):
        source.given(str(tmp_path / "c.npz")).read_data()


def test_a_run_that_records_no_content_is_read(path):
    source = Source(str(path), binarization="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.split("train").x.shape == (80, 3)


def test_data_of_another_width_are_refused(source, tmp_path):
    np.save(tmp_path / "b.npy", ROWS[:, :2])
    with pytest.raises(ValueError, match=r"trained on data of \(3,\); .* has data of \(2,\)"):
        source.given(str(tmp_path / "b.npy")).read_data()


def written(path, **columns):
    names = ",".join(columns)
    rows = np.stack(list(columns.values()), 1)
    np.savetxt(path, rows, delimiter=",", header=names, comments="", fmt="%.9g")
    return str(path)


@pytest.fixture
def named(tmp_path):
    source = Source(written(tmp_path / "a.csv", a=ROWS[:, 0], b=ROWS[:, 1], c=ROWS[:, 2]))
    return source.of(source.read_data())


def test_columns_in_another_order_are_read_in_that_of_the_training(named, tmp_path):
    new = RNG.normal(size=(5, 3)).astype(np.float32)
    path = written(tmp_path / "b.csv", c=new[:, 2], a=new[:, 0], b=new[:, 1])
    for source in (named, Source.read(json.loads(json.dumps(named.record)))):
        data = source.given(path).read_data()
        assert data.columns == ("a", "b", "c")
        assert np.array_equal(data.test.x.numpy(), new[data.rows["test"]])
    written(named.name, b=ROWS[:, 1], c=ROWS[:, 2], a=ROWS[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isin(named.split("train").x.numpy(), ROWS).all()


@pytest.mark.parametrize("kind", ["number", "word"])
def test_labels_are_read_from_another_file_that_has_them(kind, tmp_path):
    y = np.arange(100) % 4
    words = y if kind == "number" else np.array(["a", "b", "c", "d"])[y]
    frame = pandas.DataFrame({"u": ROWS[:, 0], "y": words, "v": ROWS[:, 1]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    source = Source(str(tmp_path / "a.csv"), reading={"labels": "y"})
    source = source.of(source.read_data())
    new = frame.assign(u=frame.v, v=frame.u)
    new.to_csv(tmp_path / "b.csv", index=False)
    data = source.given(str(tmp_path / "b.csv")).read_data()
    rows = data.rows["test"]
    assert data.test.labels.tolist() == y[rows].tolist()
    assert np.allclose(data.test.x.numpy(), ROWS[:, [1, 0]][rows])
    new.drop(columns="y").to_csv(tmp_path / "c.csv", index=False)
    other = source.given(str(tmp_path / "c.csv"))
    data = other.read_data()
    assert data.test.labels is None
    assert np.allclose(data.test.x.numpy(), ROWS[:, [1, 0]][data.rows["test"]])
    with pytest.raises(ValueError, match="has no column 'y'"):
        Source(other.name, reading={"labels": "y"}).read_data()


def test_arrays_without_labels_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=ROWS, y=np.arange(100) % 2)
    source = Source(str(tmp_path / "a.npz"), reading={"labels": "y", "key": "x"})
    source = source.of(source.read_data())
    np.savez(tmp_path / "b.npz", x=-ROWS)
    data = source.given(str(tmp_path / "b.npz")).read_data()
    assert data.test.labels is None
    assert np.array_equal(data.test.x.numpy(), -ROWS[data.rows["test"]])
    np.savez(tmp_path / "c.npz", x=-ROWS, y=np.arange(50))
    with pytest.raises(ValueError, match="100 rows of x and 50 of labels"):
        source.given(str(tmp_path / "c.npz")).read_data()


def test_columns_that_are_lacking_or_unknown_are_named(named, tmp_path):
    path = written(tmp_path / "b.csv", a=ROWS[:, 0], c=ROWS[:, 2], d=ROWS[:, 1])
    with pytest.raises(ValueError, match="b.csv has no column 'b', which the run was trained on"):
        named.given(path).read_data()
    more = {name: ROWS[:, 0] for name in "dcab"}
    with pytest.raises(ValueError, match="has a column 'd', which the run does not know: drop it"):
        named.given(written(path, **more)).read_data()


def test_columns_of_one_name_are_not_ordered(named, tmp_path):
    twice = dataclasses.replace(named, columns=("a", "b", "b"))
    path = written(tmp_path / "b.csv", b=ROWS[:, 0], a=ROWS[:, 1])
    with pytest.raises(ValueError, match="and several have one name"):
        twice.given(path).read_data()


def test_a_run_that_records_no_columns_is_read_by_place(named, tmp_path):
    path = written(tmp_path / "b.csv", c=ROWS[:, 0], a=ROWS[:, 1], b=ROWS[:, 2])
    record = {key: value for key, value in named.record.items() if key != "columns"}
    data = Source.read(record).given(path).read_data()
    assert np.array_equal(data.test.x.numpy(), ROWS[data.rows["test"]])


def test_a_split_with_its_context_goes_into_fit_and_evaluate(tmp_path):
    np.savez(tmp_path / "a.npz", x=ROWS, c=RNG.normal(size=(100, 2)))
    data = pv.data.load(tmp_path / "a.npz", key="x", covariates=["c"])
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2 + 2, 8, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3 + 2, 8, 4)),
    )
    pv.fit(vae, data.train, validation=data.validation, epochs=2, callbacks=[])
    report = pv.evaluate(vae, data.test, particles=20)
    again = pv.evaluate(vae, (data.test.x, *data.test.context), particles=20)
    assert len(report.elbo.value) == 10
    assert torch.equal(report.elbo.value, again.elbo.value)


def of_csv(path, text):
    """Return the source of a run that was trained on a CSV file, and the file."""
    path.write_text(text)
    source = Source().given(str(path))
    source = dataclasses.replace(source, reading={"covariates": ["site"]}, binarization="none")
    return Source.read(json.loads(json.dumps(source.of(source.read_data()).record)))


def test_words_of_another_csv_file_stay_words_if_they_look_like_numbers(tmp_path):
    rows = [
        f"{i}.5,{'12x'[i % 3]},{['true', 'no'][i % 2]},{['01', 'b'][i % 2]}" for i in range(40)
    ]
    source = of_csv(tmp_path / "a.csv", "\n".join(["a,code,flag,site", *rows]))
    other = tmp_path / "b.csv"
    other.write_text("site,code,flag,a\n01,1,true,0.5\n01,2,true,1.5\n01,,,\n")
    data = source.given(str(other)).read_data()
    codes = [["1", "2", "x"].index(each) for each in "12"]
    assert data.test.x[:, 1].tolist() == [*codes, 0]
    assert data.test.context[0].tolist() == [[1.0, 0.0]] * 3
    assert data.test.context[1].tolist() == [[True] * 3, [True] * 3, [False] * 3]


def test_another_file_with_gaps_is_not_read_by_a_table_of_its_own(tmp_path):
    rows = [f"{i}.5,{2 * i}.5,{'uv'[i % 2]}" for i in range(40)]
    source = of_csv(tmp_path / "a.csv", "\n".join(["a,b,site", *rows]))
    other = tmp_path / "b.csv"
    other.write_text("a,b,site\n0.5,,u\n1.5,2.5,v\n")
    with pytest.raises(ValueError, match="column 'b' of .*b.csv has 1 missing values of 2: drop"):
        source.given(str(other)).read_data()
