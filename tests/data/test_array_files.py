"""Files of NumPy and torch: the arrays that they hold, and what is refused."""

import numpy as np
import pytest
import torch

from pyrovae.data import load

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4))
PIXELS = RNG.integers(0, 256, (50, 6, 5), dtype=np.uint8)


def rows(data):
    """Return all rows of a data set."""
    return torch.cat([split.x for split in data.splits.values()])


def test_an_array_is_split_by_the_seed_and_every_row_is_there_once(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data, other = (load(tmp_path / "x.npy", seed=seed) for seed in (0, 1))
    assert [len(split) for split in data.splits.values()] == [40, 5, 5]
    assert sorted(rows(data).tolist()) == sorted(torch.tensor(X).float().tolist())
    assert torch.equal(data.test.x, load(tmp_path / "x.npy").test.x)
    assert not torch.equal(data.test.x, other.test.x)
    assert (data.shape, data.name) == ((4,), str(tmp_path / "x.npy"))
    assert data.train.labels is None


def test_named_arrays_are_x_labels_covariates_and_splits(tmp_path):
    names = np.array(["train"] * 30 + ["valid"] * 10 + ["test"] * 10)
    kinds = np.array(["a", "b"] * 25)
    np.savez(tmp_path / "d.npz", counts=np.arange(100).reshape(50, 2), size=X[:, 0], kind=kinds)
    with np.load(tmp_path / "d.npz") as kept:
        np.savez(tmp_path / "d.npz", **kept, set=names)
    options = {"labels": "kind", "covariates": ["size", "kind"], "split": "set"}
    data = load(tmp_path / "d.npz", **options)
    assert torch.equal(rows(data), torch.arange(100.0).reshape(50, 2))
    assert [len(split) for split in data.splits.values()] == [30, 10, 10]
    size, kind = data.test.context
    assert torch.equal(size[:, 0], torch.tensor(X[40:, 0]).float())
    assert kind.tolist() == [[1.0, 0.0], [0.0, 1.0]] * 5
    assert data.test.labels.tolist() == [0, 1] * 5
    assert data.reading.kinds == {"size": "number", "kind": ["a", "b"]}


def test_arrays_named_for_splits_are_the_splits(tmp_path):
    parts = {"x_train": PIXELS[:40], "x_test": PIXELS[40:]}
    labels = {"y_train": np.arange(40) % 3, "y_test": np.arange(10) % 3}
    np.savez(tmp_path / "d.npz", **parts, **labels)
    data = load(tmp_path / "d.npz")
    assert data.shape == (1, 6, 5)
    assert torch.equal(data.test.x, torch.tensor(PIXELS[40:]).flatten(1) / 255)
    assert data.test.labels.tolist() == (np.arange(10) % 3).tolist()
    assert [len(split) for split in data.splits.values()] == [36, 4, 10]


def test_splits_of_pixels_and_of_other_numbers_are_refused(tmp_path):
    """Else the training pixels would be up to 255, and those for tests up to 1."""
    np.savez(tmp_path / "d.npz", train=PIXELS[:40], test=PIXELS[40:] / 255)
    met = (
        "uint8 in train, float64 in test: 8-bit numbers are pixels .* Save all splits in one type"
    )
    with pytest.raises(ValueError, match=met):
        load(tmp_path / "d.npz")
    np.savez(tmp_path / "d.npz", train=X[:40].astype(np.float32), test=X[40:])
    assert load(tmp_path / "d.npz").train.x.dtype == torch.float32


def test_tensors_are_loaded_without_unpickling(tmp_path):
    kept = {"x": torch.tensor(X), "y": torch.arange(50), "h": torch.ones(50, 3).bfloat16()}
    torch.save(kept, tmp_path / "d.pt")
    data = load(tmp_path / "d.pt", key="x", labels="y")
    assert torch.equal(data.train.x, torch.tensor(X).float()[data.train.labels])
    assert load(tmp_path / "d.pt", key="h").train.x.unique().item() == 1.0
    torch.save((torch.tensor(X), torch.arange(50)), tmp_path / "pair.pt")
    assert load(tmp_path / "pair.pt", key="0", labels="1").test.x.shape == (5, 4)
    torch.save(torch.nn.Linear(2, 3), tmp_path / "module.pt")
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged"):
        load(tmp_path / "module.pt")
    torch.save({"x": torch.zeros(3), "n": 3}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match="holds int at 'n'"):
        load(tmp_path / "n.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "holds the arrays x, kind: say which is x with the option key"),
        ({"key": "z"}, "has no array 'z': there are x, kind"),
        ({"labels": "y"}, "has no array 'y': there are x, kind"),
        ({"key": ["x"]}, "the option key names one array here"),
        ({"key": "x", "covariates": ["kind"]}, "whole numbers, which may be categories"),
    ],
)
def test_what_cannot_be_told_is_asked_for(options, message, tmp_path):
    np.savez(tmp_path / "d.npz", x=X, kind=np.arange(50))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "d.npz", **options)


@pytest.mark.parametrize("name", ["d.npy", "d.npz", "d.pt"])
@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY\x01\x00v"])
def test_a_damaged_file_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "d.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects, which are not unpickled"):
        load(tmp_path / "d.npy")
    np.savez(tmp_path / "d.npz", x=X, names=np.array(["a", None], dtype=object))
    with pytest.raises(ValueError, match="holds Python objects, which are not unpickled"):
        load(tmp_path / "d.npz")
