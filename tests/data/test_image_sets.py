"""Data sets with a name, from folders in torchvision's layout with few and small files."""

import pickle

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.distributions import constraints
from torchvision import datasets as sets

from pyrovae.data import image_sets, load

RNG = np.random.default_rng(0)


def idx(path, array):
    """Write an array in the format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def idx_folder(folder, stem=""):
    """Write the four files of a data set like MNIST, and return its images."""
    images = {}
    for split, other, number in (("train", "train", 30), ("test", "t10k", 10)):
        part = f"{stem}{split}" if stem else other
        images[split] = RNG.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        idx(folder / f"{part}-images-idx3-ubyte", images[split])
        idx(folder / f"{part}-labels-idx1-ubyte", np.arange(number) % 10)
    return images


CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.mark.parametrize(
    ("name", "kind", "first"),
    [
        ("mnist", "MNIST", 0),
        ("fashion-mnist", "FashionMNIST", "T-shirt/top"),
        ("kmnist", "KMNIST", "o"),
    ],
)
def test_idx_files_are_used_where_they_lie(name, kind, first, tmp_path, monkeypatch):
    images = idx_folder(tmp_path / kind / "raw")
    monkeypatch.setattr(image_sets, "MNIST_VALIDATION", 5)
    data = load(name, root=tmp_path)
    assert [len(split) for split in data.splits.values()] == [27, 3, 10]
    assert data.shape == (1, 28, 28)
    assert data.test.dynamic
    assert torch.equal(data.test.x, torch.tensor(images["test"]).flatten(1) / 255)
    assert data.test.labels.tolist() == list(range(10))
    assert data.test.named_labels[0] == first
    assert load(name, tmp_path, binarization=None).domain is constraints.unit_interval


def test_the_last_images_of_mnist_are_for_validation(tmp_path):
    images = idx_folder(tmp_path / "MNIST" / "raw")
    read = image_sets._idx("MNIST", held_out=5)
    found = read(image_sets.Place("mnist", tmp_path, download=False), image_sets.Reading())
    assert found.splits.tolist() == ["train"] * 25 + ["validation"] * 5 + ["test"] * 10
    assert np.array_equal(found.x[:30, 0], images["train"])


def test_emnist_is_upright_and_asks_for_its_part(tmp_path):
    images = idx_folder(tmp_path / "EMNIST" / "raw", "emnist-letters-")
    with pytest.raises(ValueError, match="'emnist' has the parts byclass, .* key='balanced'"):
        load("emnist", root=tmp_path)
    data = load("emnist", root=tmp_path, key="letters", binarization=None)
    wanted = images["test"].transpose(0, 2, 1)
    assert torch.equal(data.test.x, torch.tensor(wanted.copy()).flatten(1) / 255)


def test_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(sets.CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(sets.CIFAR10, "_load_meta", lambda each: setattr(each, "classes", CIFAR10))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = {"data": batch, "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(content))
    data = load("cifar10", root=tmp_path)
    assert (data.shape, data.domain) == ((3, 32, 32), constraints.unit_interval)
    assert torch.equal(data.test.x, torch.tensor(batch) / 255)
    assert [len(split) for split in data.splits.values()] == [89, 11, 20]
    assert data.test.take([3, 0]).named_labels == ["cat", "airplane"]


def test_svhn(tmp_path, monkeypatch):
    monkeypatch.setattr(sets.SVHN, "_check_integrity", lambda _: True)
    x = RNG.integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    for split in ("train", "test"):
        content = {"X": x, "y": np.arange(20)[:, None] % 10}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", content)
    data = load("svhn", root=tmp_path)
    wanted = torch.tensor(x.transpose(3, 2, 0, 1).copy()).flatten(1) / 255
    assert torch.equal(data.test.x, wanted)
    assert data.test.labels.tolist() == [i % 10 for i in range(20)]


def test_omniglot_has_strokes_of_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sets.Omniglot, "_check_integrity", lambda _: True)
    for part in ("images_background", "images_evaluation"):
        for character in range(2):
            folder = tmp_path / "omniglot-py" / part / "Alphabet" / f"character{character:02}"
            folder.mkdir(parents=True)
            for i in range(10):
                paper = Image.new("1", (105, 105), 1)
                paper.paste(0, (0, 0, 105, 53))
                paper.save(folder / f"{i:02}.png")
    data = load("omniglot", root=tmp_path, binarization=None)
    assert data.shape == (1, 28, 28)
    first = data.train.x[0].reshape(28, 28)
    assert (first[0].min().item(), first[-1].max().item()) == (1.0, 0.0)
    assert data.test.labels.tolist() == [0] * 10 + [1] * 10
    assert load("omniglot", root=tmp_path, size=105).domain is constraints.boolean


def test_celeba_is_cropped_and_scaled(tmp_path, monkeypatch):
    monkeypatch.setattr(sets.CelebA, "_check_integrity", lambda _: True)
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(1, 13)]
    for name in names:
        face = Image.new("RGB", (178, 218), (255, 0, 0))
        face.paste((0, 0, 255), (15, 35, 163, 183))  # the 148 x 148 pixels around the center
        face.save(folder / "img_align_celeba" / name, quality=100, subsampling=0)

    def table(file, rows, head=""):
        lines = [f"{name} {row}" for name, row in zip(names, rows, strict=True)]
        (folder / file).write_text(head + "\n".join(lines) + "\n")

    table("list_eval_partition.txt", [0] * 6 + [1] * 3 + [2] * 3)
    table("identity_CelebA.txt", range(12))
    table("list_attr_celeba.txt", ["1 -1"] * 6 + ["-1 1"] * 6, "12\nSmiling Hat\n")
    table("list_bbox_celeba.txt", ["0 0 9 9"] * 12, "12\nid x y w h\n")
    table("list_landmarks_align_celeba.txt", ["1 2"] * 12, "12\nx y\n")
    data = load("celeba", root=tmp_path, labels="Smiling")
    assert data.shape == (3, 64, 64)
    assert [len(split) for split in data.splits.values()] == [6, 3, 3]
    red, _, blue = data.test.x[0].reshape(3, 64, 64)
    assert red.max() < 0.1
    assert blue.min() > 0.9
    assert (data.train.labels.unique().tolist(), data.test.labels.unique().tolist()) == ([1], [0])
    with pytest.raises(ValueError, match="'celeba' has no attribute 'Hair'"):
        load("celeba", root=tmp_path, labels="Hair")


def test_mnist_5k_is_real_and_needs_no_download():
    data = load("mnist-5k")
    assert [len(split) for split in data.splits.values()] == [4000, 500, 500]
    assert data.shape == (1, 28, 28)
    labels = torch.cat([split.labels for split in data.splits.values()])
    assert labels.bincount().tolist() == [500] * 10
    assert torch.equal(data.train.x * 255, (data.train.x * 255).round())


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "celeba"])
def test_a_root_is_asked_for_and_nothing_is_made_unasked(name, tmp_path):
    with pytest.raises(ValueError, match=f"'{name}' needs a root.*load.'{name}', root='data'"):
        load(name)
    with pytest.raises(OSError, match="cannot load .* give the folder that contains or receives"):
        load(name, root=tmp_path / "none", download=False)
    assert not (tmp_path / "none").exists()


def test_a_download_is_tried_only_where_the_files_are_missing(tmp_path, monkeypatch):
    tried = []

    class Fake:
        def __init__(self, root, *, download, **_):
            tried.append(download)
            raise RuntimeError("no connection")

    monkeypatch.setattr("torchvision.datasets.KMNIST", Fake)
    with pytest.raises(OSError, match="cannot load KMNIST from .*, nor download it there: no con"):
        load("kmnist", root=tmp_path)
    assert tried == [False, True]


def test_named_sets_have_no_columns():
    with pytest.raises(ValueError, match="digits has no column 'kind' beside x"):
        load("digits", covariates=["kind"])
