"""Counts of cells: the matrix that holds them, and columns of obs as context."""

import anndata
import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from torch.distributions import constraints

from pyrovae.data import load

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(1.0, (40, 5)).astype(np.float32)
COUNTS[0] = [3, 0, 2, 7, 1]


def written(path, x, layers=None, raw=None):
    obs = pandas.DataFrame(
        {
            "batch": pandas.Categorical(["a", "b"] * 20),
            "total": COUNTS.sum(1),
            "type": np.repeat(["t", "b"], 20),
            "set": ["train"] * 30 + ["test"] * 10,
        },
        index=[f"cell{i}" for i in range(40)],
    )
    cells = anndata.AnnData(x, obs=obs)
    if raw is not None:
        cells.raw = anndata.AnnData(raw, obs=obs)
    for name, values in (layers or {}).items():
        cells.layers[name] = values
    cells.write_h5ad(path)
    return path


LOGS = np.log1p(COUNTS)
SPARSE = scipy.sparse.csr_matrix(COUNTS)


@pytest.mark.parametrize(
    "places", [{"x": COUNTS}, {"x": LOGS, "layers": {"c": SPARSE}}, {"x": LOGS, "raw": SPARSE}]
)
def test_the_only_whole_numbers_are_the_counts(places, tmp_path):
    path = written(tmp_path / "c.h5ad", **places)
    data = load(path, labels="type", covariates=["batch", "total"], split="set")
    assert data.domain is constraints.nonnegative_integer
    assert torch.equal(data.test.x, torch.tensor(COUNTS[30:]))
    batch, total = data.test.context
    assert batch.tolist() == [[1.0, 0.0], [0.0, 1.0]] * 5
    assert torch.equal(total[:, 0], torch.tensor(COUNTS[30:].sum(1)))
    assert data.test.labels.tolist() == [0] * 10
    assert len(data.columns) == 5


def test_whole_numbers_in_several_places_are_asked_about(tmp_path):
    path = written(tmp_path / "c.h5ad", COUNTS, layers={"half": COUNTS * 2})
    with pytest.raises(ValueError, match="whole numbers in each of half, X: choose one with the"):
        load(path)
    assert torch.equal(load(path, key="half", split="set").test.x, torch.tensor(2 * COUNTS[30:]))
    with pytest.raises(ValueError, match="has no counts 'raw': there are half, X"):
        load(path, key="raw")
    with pytest.raises(ValueError, match="has no column 'donor' in obs: there are batch"):
        load(path, key="X", covariates=["donor"])


def test_what_is_no_count_is_refused(tmp_path):
    path = written(tmp_path / "c.h5ad", LOGS)
    with pytest.raises(ValueError, match="whole numbers in none of X: add a layer with the raw"):
        load(path)
    with pytest.raises(ValueError, match=r"holds no counts: 1\.38629 at row 0 is no whole number"):
        load(path, key="X")


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    path = tmp_path / "c.h5ad"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="c.h5ad is no file of AnnData, or is damaged: "):
        load(path)
