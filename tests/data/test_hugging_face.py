"""Data sets of Hugging Face, saved to disk."""

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from pyrovae.data import load

datasets.disable_progress_bars()
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 4, 5), dtype=np.uint8)


def images(rows):
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"])
    )
    columns = {"image": [Image.fromarray(PIXELS[i]) for i in rows], "label": [i % 2 for i in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_images_with_their_splits(tmp_path):
    parts = {"train": images(range(20)), "test": images(range(20, 30))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d")
    assert (data.shape, len(data.train), len(data.validation)) == ((1, 4, 5), 18, 2)
    assert torch.equal(data.test.x, torch.tensor(PIXELS[20:]).flatten(1) / 255)
    assert data.test.labels.tolist() == [0, 1] * 5
    assert data.test.named_labels == ["cat", "dog"] * 5
    assert load(tmp_path / "d", labels="label").test.classes == ("cat", "dog")


def test_columns_of_numbers(tmp_path):
    columns = {"a": RNG.random(40).tolist(), "b": RNG.random(40).tolist(), "y": ["u", "v"] * 20}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d", covariates=["y"])
    assert data.columns == ("a", "b")
    assert data.train.x.shape == (32, 2)
    assert data.train.context[0].shape == (32, 2)
    with pytest.raises(ValueError, match="has no column 'c': there are a, b, y"):
        load(tmp_path / "d", key="c")


def test_the_index_of_pandas_is_no_column(tmp_path):
    frame = pandas.DataFrame({"a": RNG.random(40), "b": RNG.random(40)})[::2].dropna()
    frame = frame[frame.a != frame.a.iloc[3]]
    written = datasets.Dataset.from_pandas(frame)
    assert written.column_names == ["a", "b", "__index_level_0__"]
    written.save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d", fractions=(1, 0, 0))
    assert data.columns == ("a", "b")
    wanted = torch.tensor(frame.to_numpy(), dtype=torch.float32)[data.rows["train"]]
    assert torch.equal(data.train.x, wanted)


def test_columns_of_mixed_kinds_are_a_table(tmp_path):
    frame = pandas.DataFrame({"a": [0.5, None, 2.0, 4.0] * 5, "city": ["Rome", "Bern"] * 10})
    parts = {"train": frame[:12], "validation": frame[12:15], "test": frame[15:]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_pandas(part) for name, part in parts.items()}
    ).save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d")
    assert [column.kind for column in data.table.columns] == ["numeric", "binary"]
    assert (data.table.columns[0].loc, data.table.rows) == (pytest.approx(6.5 / 3), 12)
    assert {name: len(split) for name, split in data.splits.items()} == dict(
        train=12, validation=3, test=5
    )
    decoded = data.table.decode(data.test.x, data.test.context[-1]).to_pandas()
    assert decoded.a.tolist() == pytest.approx(frame.a[15:].tolist(), nan_ok=True)
    assert decoded.city.tolist() == frame.city[15:].tolist()
    kinds = load(tmp_path / "d", columns={"city": "categorical"}).table.columns
    assert [column.kind for column in kinds] == ["numeric", "categorical"]


def test_classes_beside_a_table_are_labels(tmp_path):
    features = datasets.Features(
        a=datasets.Value("float64"), b=datasets.Value("float64"), label=datasets.ClassLabel(2)
    )
    rows = {"a": [0.5, None, 2.0, 4.0] * 5, "b": [1.5] * 20, "label": [0, 1] * 10}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d")
    assert data.columns == ("a", "b")
    assert data.train.labels.tolist() == (data.rows["train"] % 2).tolist()


def test_a_column_of_vectors(tmp_path):
    columns = {"v": RNG.normal(size=(20, 3)).tolist(), "n": list(range(20))}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "d")
    data = load(tmp_path / "d", key="v", labels="n")
    assert torch.equal(data.train.x, torch.tensor(columns["v"])[data.train.labels])


def test_a_name_that_cannot_be_had_is_one_line(monkeypatch):
    def fail(name, *, download_config):
        assert download_config.local_files_only
        raise ConnectionError(f"no connection\nfor {name}")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(OSError, match="cannot load the Hugging Face data set 'a/b': no c"):
        load("hf:a/b", download=False)


def test_lists_of_several_lengths_are_refused(tmp_path):
    columns = {"v": [[1.0, 2.0], [3.0]] * 10}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "d")
    with pytest.raises(ValueError, match=r"'v' of .* has values of the shapes \(1,\) and \(2,\)"):
        load(tmp_path / "d", key="v")
