"""Small files in the form of dSprites, 3D Shapes, MPI3D and Cars3D are read with their factors."""

import os

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from pyrovae.data import factor_files, load

RNG = np.random.default_rng(0)
ROWS = 72


def numbered(number: int, *shape: int) -> np.ndarray:
    """Return images of uint8 whose first three bytes are the number of their row."""
    found = np.full((number, *shape), 255, "uint8").reshape(number, -1)
    found[:, :3] = np.arange(number, dtype="<u4").view("uint8").reshape(number, 4)[:, :3]
    return found.reshape(number, *shape)


def rows_of(data) -> dict[str, np.ndarray]:
    """Return the numbers of the rows of each split, from their pixels."""
    found = {}
    for name, split in data.splits.items():
        x = split.x.reshape(len(split), *data.shape).movedim(1, -1).flatten(1) * 255
        found[name] = (x[:, :3].round().long() @ torch.tensor([1, 256, 65536])).numpy()
    return found


class Evil:
    """An object whose unpickling would make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def dsprites(path, **changed):
    classes = RNG.integers(0, 3, (ROWS, 6))
    arrays = {
        "metadata": np.array(Evil(path.parent / "unpickled"), dtype=object),
        "imgs": RNG.integers(0, 2, (ROWS, 8, 8), dtype="uint8"),
        "latents_classes": classes,
        "latents_values": classes / 3,
    }
    arrays |= changed
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return arrays


def test_dsprites_are_read_without_their_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(factor_files, "PIECE", 64 * 7)
    path = tmp_path / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    arrays = dsprites(path)
    data = load(path)
    assert not (tmp_path / "unpickled").exists()
    assert data.factors == ("color", "shape", "scale", "orientation", "x", "y")
    assert data.shape == (1, 8, 8)
    assert data.domain.is_discrete
    wanted = {
        tuple(image.flatten()): row.tolist()
        for image, row in zip(arrays["imgs"], arrays["latents_classes"], strict=True)
    }
    found = [
        (tuple(x.int().tolist()), row.tolist())
        for split in data.splits.values()
        for x, row in zip(split.x, split.factors, strict=True)
    ]
    assert len(found) == len(wanted) == ROWS
    assert dict(found) == wanted


def test_dsprites_in_the_order_of_fortran_are_the_same(tmp_path):
    arrays = dsprites(tmp_path / "c.npz")
    arrays["imgs"] = np.asfortranarray(arrays["imgs"])
    np.savez_compressed(tmp_path / "f.npz", **arrays)
    wanted, found = load(tmp_path / "c.npz", limit=40), load(tmp_path / "f.npz", limit=40)
    for split in wanted.splits:
        assert torch.equal(found.splits[split].x, wanted.splits[split].x)
        assert torch.equal(found.splits[split].factors, wanted.splits[split].factors)


def test_3d_shapes_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(factor_files, "PIECE", 48 * 7)
    labels = RNG.choice([-30.0, 0.5, 30.0], (ROWS, 6))
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = numbered(ROWS, 4, 4, 3), labels
    data = load(tmp_path / "3dshapes.h5", limit=40, labels="shape")
    assert data.factors[:2] == ("floor_hue", "wall_hue")
    assert data.shape == (3, 4, 4)
    rows = rows_of(data)
    assert len(set(np.concatenate(list(rows.values())).tolist())) == 40
    for name, split in data.splits.items():
        wanted = torch.tensor([-30.0, 0.5, 30.0])[split.factors]
        assert torch.equal(wanted.double(), torch.from_numpy(labels)[rows[name]])
        assert torch.equal(split.labels, split.factors[:, 4])


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(1_036_800, (6, 6, 2, 3, 3, 40, 40)), (460_800, (4, 4, 2, 3, 3, 40, 40))],
)
def test_mpi3d_is_known_by_its_number_of_images(number, sizes, tmp_path):
    np.savez(tmp_path / "mpi3d.npz", images=numbered(number, 2, 2, 3))
    data = load(tmp_path / "mpi3d.npz", limit=50, channels="last")
    assert data.factors[::6] == ("object_color", "vertical_axis")
    for rows, split in zip(rows_of(data).values(), data.splits.values(), strict=True):
        wanted = np.stack(np.unravel_index(rows, sizes), 1)
        assert split.factors.tolist() == wanted.tolist()


def cars(folder, views=(5, 2)):
    """Three cars whose pixels tell the azimuth, the elevation and the car."""
    for car in range(3):
        im = np.zeros((8, 8, 3, *views), "uint8")
        im[:, :, 0] = np.arange(views[0])[:, None]
        im[:, :, 1] = np.arange(views[1])
        im[:, :, 2] = car
        scipy.io.savemat(folder / f"car_{car:02}_mesh.mat", {"im": im})


@pytest.mark.parametrize("size", [None, 8])
def test_cars3d_is_a_folder_of_views(size, tmp_path):
    cars(tmp_path)
    data = load(tmp_path, size=size)
    assert data.shape == ((3, 64, 64) if size is None else (3, 8, 8))
    assert data.factors == ("elevation", "azimuth", "object")
    numbers = []
    for split in data.splits.values():
        pixels = (split.x.reshape(len(split), *data.shape)[:, :, 3, 3] * 255).round().long()
        assert torch.equal(pixels, split.factors[:, [1, 0, 2]])
        numbers += map(tuple, split.factors.tolist())
    assert len(set(numbers)) == 30


def test_other_archives_are_read_as_before(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((30, 8, 8), "uint8"))
    data = load(tmp_path / "x.npz")
    assert data.factors == ()
    assert data.shape == (1, 8, 8)


class TestRefused:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (
                {"latents_classes": np.zeros((ROWS - 1, 6), int)},
                "72 images and 71 rows of factors",
            ),
            ({"latents_classes": np.zeros((ROWS, 5), int)}, r"latents_classes is not \[N, 6\]"),
            ({"imgs": np.array([{}] * ROWS)}, "Python objects|images are numbers"),
            ({"imgs": np.array(7)}, "images are numbers"),
            ({"latents_classes": np.array([{}] * ROWS)}, "which are not unpickled"),
            ({"latents_classes": np.full((ROWS, 6), -1)}, "are indices from 0; got -1"),
        ],
    )
    def test_dsprites_that_do_not_fit(self, changed, message, tmp_path):
        dsprites(tmp_path / "d.npz", **changed)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "d.npz")

    def test_a_damaged_archive(self, tmp_path):
        dsprites(tmp_path / "d.npz")
        whole = (tmp_path / "d.npz").read_bytes()
        (tmp_path / "d.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="is damaged"):
            load(tmp_path / "d.npz")
        middle = whole.index(b"imgs.npy") + 60
        (tmp_path / "d.npz").write_bytes(whole[:middle] + bytes(40) + whole[middle + 40 :])
        with pytest.raises(ValueError, match="is damaged"):
            load(tmp_path / "d.npz")

    def test_what_is_no_file_of_3d_shapes(self, tmp_path):
        path = tmp_path / "x.h5"
        path.write_bytes(b"text")
        with pytest.raises(ValueError, match="no HDF5 file, or is damaged"):
            load(path)
        with h5py.File(path, "w") as file:
            file["images"] = np.zeros((4, 4, 4, 3), "uint8")
            file["labels"] = np.zeros((4, 5))
        with pytest.raises(
            ValueError, match=r"does not hold 3D Shapes.* has images, labels; save"
        ):
            load(path)

    def test_3d_shapes_with_a_label_that_is_no_number(self, tmp_path):
        labels = np.zeros((4, 6))
        labels[2, 1] = np.nan
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["images"], file["labels"] = numbered(4, 4, 4, 3), labels
        with pytest.raises(ValueError, match="labels that are not finite, first in row 2"):
            load(tmp_path / "x.h5")

    def test_what_are_no_cars(self, tmp_path):
        cars(tmp_path)
        cars_path = tmp_path / "car_01_mesh.mat"
        for im, message in (
            (np.zeros((8, 8, 3, 5, 1), "uint8"), r"has \(5, 1\) views, other files \(5, 2\)"),
            (np.zeros((8, 8, 3)), r"must hold images im.* got float64 \[8, 8, 3\]"),
        ):
            scipy.io.savemat(cars_path, {"im": im})
            with pytest.raises(ValueError, match=message):
                load(tmp_path)
        scipy.io.savemat(cars_path, {"other": np.zeros(3)})
        with pytest.raises(ValueError, match="got none"):
            load(tmp_path)
        cars_path.write_bytes(b"no file of MATLAB" * 20)
        with pytest.raises(ValueError, match="is no file of MATLAB 5, or is damaged"):
            load(tmp_path)
        cars_path.write_bytes(b"hi")
        with pytest.raises(ValueError, match="is no file of MATLAB 5, or is damaged"):
            load(tmp_path)
