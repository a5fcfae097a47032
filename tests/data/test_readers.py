"""Names, paths and options: what is unknown is said in one line, and extras are lazy."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

from pyrovae.data import Reading, load, readers
from pyrovae.data.reading import extra


def test_a_name_is_no_path():
    for name in ("mnist", "digits", "hf:some/thing"):
        assert readers.is_name(name)
        assert readers.absolute(name) == name
    assert not readers.is_name("./mnist")


def test_a_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((10, 2)))
    assert load("x.npy").name == str(tmp_path / "x.npy")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert readers.absolute("~/x.npy") == str(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kmnis", "unknown data set 'kmnis': did you mean kmnist.* paths of files .*.npy"),
        ("none.npy", "no data at none.npy: it does not exist"),
        ("no/folder", "no data at no/folder: it does not exist"),
        (__file__, "is no file of data that can be read: .npy"),
    ],
)
def test_what_is_not_there_is_one_line(what, message):
    with pytest.raises(ValueError, match=message):
        load(what)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "x"}, "no option 'keys': there are key, labels, covariates, split, fractions"),
        ({"shape": (1, 2)}, "how the data are read: .*shape"),
        ({"channels": "middle"}, "invalid enum value 'middle'.*channels"),
        ({"fractions": (0.5, 0.1, 0.1)}, "the shares of train, validation and test, which sum"),
        ({"levels": 1}, "at least two levels; got levels=1"),
        ({"levels": 9, "covariates": ["a"]}, "digits has no column 'a' beside x"),
    ],
)
def test_options_that_are_wrong_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_a_record_reads_back():
    given = {"key": ["a"], "covariates": {"b": "number", "c": ["u", "v"]}, "size": (3, 4)}
    reading = Reading.of(given)
    assert Reading.of(reading.record) == reading
    assert Reading.of({}).record == {}
    assert Reading.of({"covariates": "b"}).kinds == {"b": None}


def test_levels_of_pixels():
    data = load("digits", binarization=None, levels=17)
    assert data.train.x.unique().tolist() == list(range(17))
    with pytest.raises(ValueError, match="binarization is of intensities"):
        load("digits", binarization="dynamic", levels=17)


def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "c.h5ad").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ValueError, match=r"anndata is not installed: .* 'pyrovae\[cells\]'"):
        load(tmp_path / "c.h5ad")
    assert extra("json", "none") is sys.modules["json"]


def test_extras_are_imported_when_they_are_needed():
    heavy = {"pandas", "pyarrow", "narwhals", "anndata", "datasets", "mlxtend"}
    for path in Path(readers.__file__).parent.glob("*.py"):
        body = ast.parse(path.read_text()).body
        names = {
            alias.name for node in body if isinstance(node, ast.Import) for alias in node.names
        }
        names |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
        assert not {str(name).split(".")[0] for name in names} & heavy, path
