"""Arrays of any type and layout: what the numbers mean, and what has to be asked."""

import numpy as np
import pandas
import pytest
import torch
from torch.distributions import constraints

from pyrovae.data import Batches, Intake, load
from pyrovae.data.layouts import EXACT, flat, valued
from pyrovae.data.reading import Contents, Reading

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (7, 9, 8, 3), dtype=np.uint8)


def laid_out(x, **options):
    return flat(Contents(x), Reading(**options), "x")


def meant(x, *, counts=False, **options):
    rows, shape = laid_out(x, **options)
    return valued(rows, shape, counts=counts, where="x")


@pytest.mark.parametrize("contiguous", [True, False])
def test_images_with_the_channels_last_are_moved(contiguous):
    x = BYTES if contiguous else np.asfortranarray(BYTES)
    rows, shape = laid_out(x)
    assert shape == (3, 9, 8)
    assert torch.equal(rows, torch.tensor(BYTES.transpose(0, 3, 1, 2).reshape(7, -1)))
    first, same = laid_out(BYTES.transpose(0, 3, 1, 2))
    assert same == shape
    assert torch.equal(first, rows)
    assert laid_out(BYTES[..., :1])[1] == laid_out(BYTES[..., 0])[1] == (1, 9, 8)


@pytest.mark.parametrize("shape", [(7, 3, 9, 3), (7, 3, 3, 3), (7, 9, 8, 5), (7, 1, 28, 1)])
def test_the_axis_of_channels_is_asked_for_in_doubt(shape):
    x = np.zeros(shape)
    with pytest.raises(ValueError, match="give the option channels, 'first'"):
        laid_out(x)
    assert laid_out(x, channels="first")[1] == shape[1:]
    assert laid_out(x, channels="last")[1] == (shape[3], *shape[1:3])


def test_a_shape_tells_rows_and_planes_of_images():
    x = RNG.random((7, 6))
    assert laid_out(x)[1] == (6,)
    assert laid_out(x, shape=(1, 2, 3))[1] == (1, 2, 3)
    with pytest.raises(ValueError, match=r"shape \(6,\); the option shape says \(1, 2, 2\)"):
        laid_out(x, shape=(1, 2, 2))
    planes = RNG.random((7, 2, 3))
    with pytest.raises(ValueError, match=r"may be gray images: .* shape, \(1, 2, 3\)"):
        laid_out(planes)
    assert laid_out(planes, shape=(1, 2, 3))[1] == (1, 2, 3)
    with pytest.raises(ValueError, match=r"images or counts: .* such as \(1, 4, 4\)"):
        laid_out(np.full((7, 16), 9, np.uint8))


@pytest.mark.parametrize("shape", [(7,), (), (0, 3), (7, 0), (2, 2, 2, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"x has shape \("):
        laid_out(np.zeros(shape))


COUNTS, BOOLEAN, UNIT = (
    constraints.nonnegative_integer,
    constraints.boolean,
    constraints.unit_interval,
)


@pytest.mark.parametrize(
    ("x", "domain"),
    [
        (BYTES, UNIT),
        (RNG.random((7, 9, 8, 3)), UNIT),
        (RNG.normal(size=(7, 9, 8, 3)), constraints.real),
        ((BYTES > 100).astype(np.uint8), BOOLEAN),
        ((BYTES > 100).astype(np.uint8) * 255, BOOLEAN),
        (BYTES > 100, BOOLEAN),
        (RNG.integers(0, 2, (7, 5)), BOOLEAN),
        (RNG.integers(0, 9, (7, 5)), COUNTS),
        (RNG.integers(0, 9, (7, 5), dtype=np.uint16), COUNTS),
        (RNG.integers(-9, 9, (7, 5)), constraints.real),
        (RNG.integers(0, 9, (7, 5)).astype(float), constraints.real),
        (RNG.random((7, 5)).astype(">f4"), constraints.real),
        (RNG.random((7, 5)).astype(np.float16), constraints.real),
    ],
)
def test_the_type_says_what_numbers_mean(x, domain):
    found, met = meant(x)
    assert found.dtype == torch.float32
    assert met is domain
    assert bool(domain.check(found).all())
    if x.dtype != np.uint8 and x.ndim == 2:
        assert torch.equal(found, torch.tensor(x.astype(np.float32)))


def test_intensities_are_bytes_over_255():
    assert torch.equal(meant(BYTES)[0] * 255, laid_out(BYTES)[0].float())


def test_counts_are_whole_numbers():
    x = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert meant(x, counts=True)[1] is COUNTS
    for value in (0.5, -1.0):
        x[1, 1] = value
        with pytest.raises(ValueError, match=f"x holds no counts: {value:g} at row 1"):
            meant(x, counts=True)
    with pytest.raises(ValueError, match="float32 does not hold exactly"):
        meant(np.array([[0, EXACT + 1]]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (BYTES.astype(int), "whole numbers up to 255 stored as int64: save pixels .* as uint8"),
        (BYTES.astype(float), "whole numbers up to 255 stored as float64"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN or infinite values in 1 of 2 rows, the f"),
        (np.array([[1.0, 1e300]]), r"values up to 1e\+300, beyond float32"),
        (np.array([["a", "b"]]), "x must be numeric; got an array of <U1: give numeric columns"),
        (np.array([[1j, 2.0]]), "x must be numeric; got an array of complex128: give its real"),
    ],
)
def test_values_that_mean_nothing_are_one_line(x, message):
    with pytest.raises(ValueError, match=message):
        meant(x)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
@pytest.mark.parametrize("at", [1.6e9, -1e9])
def test_a_column_that_float32_would_round_is_refused(at, dtype, tmp_path):
    """Float32 has steps of 128 at 1.6e9, and of 64 at 1e9."""
    x = np.stack([np.arange(-40, 0), at + np.arange(40) * 10], 1).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    refused = "column 2 of .* deviates .* subtract a number near the mean"
    with pytest.raises(ValueError, match=refused):
        load(tmp_path / "x.npy")
    # Other data are measured however little they vary.
    assert len(load(tmp_path / "x.npy", fractions=(0, 0, 1)).test) == 40
    np.savez(tmp_path / "x.npz", x=x[:, :1], c=x[:, 1])
    with pytest.raises(ValueError, match="column 1 of the covariate 'c' of .* deviates"):
        load(tmp_path / "x.npz", covariates={"c": "number"})
    np.savez(tmp_path / "x.npz", x=x[:, None], mask=np.ones((40, 1)))
    with pytest.raises(ValueError, match=refused):
        load(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", x - np.array([0, at], dtype))
    assert load(tmp_path / "x.npy").train.x[:, 1].unique().numel() == 32


def test_arrays_that_float32_would_round_are_not_trained_on():
    """As `fit` is given them; what is measured is not checked, however little it varies."""
    x = 1.6e9 + np.arange(80.0).reshape(40, 2)
    refused = "column 1 of {} deviates from its mean 1.6e[+]09 by 23.1, and float32 rounds it"
    for given in (x, pandas.DataFrame(x), (x, np.zeros((40, 1)))):
        with pytest.raises(ValueError, match=refused.format("x")):
            Batches(given, 10, shuffle=True)
        assert len(Batches(given, 10)) == 4
    with pytest.raises(ValueError, match=refused.format("number 1 of the context")):
        Batches((np.zeros((40, 1)), x), 10, shuffle=True)
    doubles = Intake(torch.float64)
    assert torch.equal(Batches(x, 40, intake=doubles, shuffle=True).tensors[0], torch.tensor(x))
    assert len(Batches(x - 1.6e9, 10, shuffle=True)) == 4


def test_a_column_that_float32_keeps_is_kept(tmp_path):
    spread, constant = RNG.normal(1e9, 1e7, 100), np.full(100, 0.1)
    constant[0] += 2e-17
    np.save(tmp_path / "x.npy", np.stack([spread, constant, np.full(100, 1 / 3)], 1))
    assert load(tmp_path / "x.npy").train.x.shape == (80, 3)
