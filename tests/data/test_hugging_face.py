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
