"""Folders of images: classes are labels, train and test are splits, and sizes agree."""

import numpy as np
import pytest
import torch
from PIL import Image

from pyrovae.data import load

RNG = np.random.default_rng(0)


def draw(path, shape=(6, 5, 3), mode=None):
    """Write a random image, and return its bytes."""
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return array


def test_subfolders_are_classes(tmp_path):
    drawn = [draw(tmp_path / kind / f"{i:02}.png") for kind in "ba" for i in range(10)]
    data = load(tmp_path)
    assert data.shape == (3, 6, 5)
    labels = torch.cat([split.labels for split in data.splits.values()])
    assert labels.bincount().tolist() == [10, 10]
    assert data.train.context == ()
    wanted = {tuple((a.transpose(2, 0, 1).reshape(-1) / np.float32(255)).tolist()) for a in drawn}
    assert {tuple(row) for split in data.splits.values() for row in split.x.tolist()} == wanted


def test_folders_named_train_and_test_are_splits(tmp_path):
    for part, number in {"train": 8, "val": 2, "test": 3}.items():
        for i in range(number):
            draw(tmp_path / part / "a" / f"{i}.png", (4, 4))
            draw(tmp_path / part / "b" / f"{i}.png", (4, 4))
    data = load(tmp_path)
    assert data.shape == (1, 4, 4)
    assert [len(split) for split in data.splits.values()] == [16, 4, 6]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_images_without_classes_have_no_labels(tmp_path):
    for i in range(10):
        draw(tmp_path / f"{i}.png", (4, 4))
    assert load(tmp_path).train.labels is None


def test_sizes_that_differ_are_asked_for(tmp_path):
    for i in range(10):
        draw(tmp_path / f"{i}.png", (8 + i, 8))
    with pytest.raises(ValueError, match="1.png has 9 x 8 pixels, .*0.png 8 x 8: give the option"):
        load(tmp_path)
    assert load(tmp_path, size=4).shape == (1, 4, 4)
    assert load(tmp_path, size=(4, 6)).shape == (1, 4, 6)


def test_gray_and_colored_images_are_colored(tmp_path):
    for i in range(9):
        draw(tmp_path / f"{i}.png")
    gray = draw(tmp_path / "9.png", (6, 5))
    draw(tmp_path / "a.png", mode="P")
    opaque = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert("RGBA")
    opaque.save(tmp_path / "b.png")
    data = load(tmp_path, fractions=(1, 0, 0))
    assert data.shape == (3, 6, 5)
    wanted = torch.tensor(gray).flatten().repeat(3) / 255
    assert bool((data.train.x == wanted).all(1).any())


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "F"])
def test_other_modes_are_refused(mode, tmp_path):
    image = Image.new(mode, (4, 4))
    image.save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"a.tif has the mode {mode} of Pillow: save it with 8"):
        load(tmp_path)


def test_what_is_no_folder_of_images_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no images: .png"):
        load(tmp_path)
    draw(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a folder of images, which has no columns"):
        load(tmp_path, labels="kind")
    draw(tmp_path / "b" / "a.png")
    with pytest.raises(ValueError, match="holds images beside folders of images"):
        load(tmp_path)
    (tmp_path / "b" / "a.png").write_bytes(b"no image")
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="is no image that can be read"):
        load(tmp_path)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".DS_Store"])
def test_hidden_files_and_folders_beside_splits_change_nothing(hidden, tmp_path):
    """They made classes of the splits, whose rows were divided anew: test data were trained on."""
    for part, number in {"train": 8, "val": 2, "test": 3}.items():
        for i in range(number):
            draw(tmp_path / part / "a" / f"{i}.png", (4, 4))
    before = load(tmp_path)
    if hidden == ".DS_Store":
        (tmp_path / hidden).write_text("")
        (tmp_path / "train" / "a" / "._0.png").write_text("")
    else:
        draw(tmp_path / hidden / "a" / "0.png", (4, 4))
        draw(tmp_path / "test" / hidden / "0.png", (4, 4))
    after = load(tmp_path)
    for name, split in before.splits.items():
        assert torch.equal(after.splits[name].x, split.x)
        assert torch.equal(after.splits[name].labels, split.labels)


@pytest.mark.parametrize("beside", ["extra/0.png", "0.png"])
def test_images_beside_folders_named_train_and_test_are_asked_about(beside, tmp_path):
    for part in ("train", "test"):
        for i in range(9):
            draw(tmp_path / part / f"{i}.png", (4, 4))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "license.txt").write_text("")
    assert len(load(tmp_path).test) == 9
    draw(tmp_path / beside, (4, 4))
    with pytest.raises(ValueError, match=f"train and test, and images beside .*{beside[:5]}"):
        load(tmp_path)


def test_classes_may_have_the_name_of_a_split(tmp_path):
    for kind in ("test", "trial"):
        for i in range(10):
            draw(tmp_path / kind / f"{i}.png", (4, 4))
    assert len(load(tmp_path).train) == 16


def test_links_to_folders_are_followed(tmp_path):
    """A class whose folder is a link was left out."""
    for kind in "ab":
        for i in range(5):
            draw(tmp_path / kind / f"{i}.png")
    linked = tmp_path / "linked"
    for i in range(5):
        draw(linked / "a" / f"{i}.png")
    (linked / "b").symlink_to(tmp_path / "b")
    (linked / "b2").mkdir()
    (linked / "b2" / "all").symlink_to(linked)  # holds itself
    draw(linked / "b2" / "0.png")
    data = load(linked, fractions=(1, 0, 0))
    assert data.train.classes == ("a", "b", "b2")
    assert data.train.labels.bincount().tolist() == [5, 5, 1]


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_color_that_stands_for_transparency_is_refused(mode, tmp_path):
    """As transparent pixels are that have a channel of their own."""
    array = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(array).convert(mode)
    unused = {"P": 255, "RGB": (1, 2, 3), "L": 1}[mode]
    used = 0 if mode == "P" else image.getpixel((0, 0))
    if mode == "P":
        image = image.quantize(8)
    for i in range(10):
        image.save(tmp_path / f"{i}.png", transparency=used)
    with pytest.raises(ValueError, match="without transparency"):
        load(tmp_path)
    for i in range(10):
        image.save(tmp_path / f"{i}.png", **{} if mode == "P" else {"transparency": unused})
    assert load(tmp_path).shape == ((1 if mode == "L" else 3), 4, 4)


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_a_file_of_several_images_is_refused(suffix, tmp_path):
    """Only the first was read; a preview in another size is none of them."""
    pages = [Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(3)]
    for i in range(10):
        pages[0].save(tmp_path / f"{i}.{suffix}")
    if suffix == "tif":
        pages[0].save(tmp_path / "0.tif", save_all=True, append_images=[pages[1].resize((2, 2))])
    assert len(load(tmp_path, fractions=(1, 0, 0)).train) == 10
    pages[0].save(tmp_path / f"0.{suffix}", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="holds several images.*a file of its own"):
        load(tmp_path)


def test_photographs_are_upright(tmp_path):
    """As cameras say how they are turned, and as Hugging Face reads them."""
    array = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    turned = Image.fromarray(np.rot90(array).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for i in range(10):
        turned.save(tmp_path / f"{i}.png", exif=exif)
    data = load(tmp_path)
    assert data.shape == (3, 4, 6)
    wanted = torch.from_numpy(array).movedim(-1, 0).reshape(-1) / 255
    assert torch.equal(data.train.x[0], wanted)
