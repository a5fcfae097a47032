"""`assign` finds which unit holds which factor in worlds made so that the answer is known."""

import math

import numpy as np
import pandas
import polars
import pytest
import torch

import pyrovae as pv
from pyrovae.measure.disentanglement import Assignment, mutual_information

ROWS = 1000


def world(seed):
    """Return a representation, factors and the truth of a random assignment.

    Each factor is in one unit, in two that hold half of it each (its quotient and its remainder),
    in all of several only together (as two summands), or in none. Units are noisy, permuted,
    scaled and signed.
    """
    generator = np.random.default_rng(seed)
    kinds = [
        "one",
        "shared",
        "spread",
        "lost",
        *generator.choice(["one", "lost", "shared"], 2).tolist(),
    ]
    factors, units, truth = [], [], []
    for kind in kinds:
        root = int(generator.integers(2, 5))
        most = {"shared": root**2, "spread": 3}.get(kind, 11)
        size = most if kind == "shared" else int(generator.integers(2, most + 1))
        v = generator.integers(size, size=ROWS)
        other = generator.integers(size, size=ROWS)
        own = {
            "one": [v],
            "shared": [v // root, v % root],
            "spread": [(v + other) % size, other],
            "lost": [],
        }[kind]
        truth.append((kind, range(len(units), len(units) + len(own))))
        units += own
        factors.append(v)
    units += list(generator.standard_normal((2, ROWS)))
    z = np.stack(units, 1).astype(float) + 0.02 * generator.standard_normal((ROWS, len(units)))
    order = generator.permutation(len(units))
    place = {int(old): new for new, old in enumerate(order)}
    scale = generator.choice([-1.0, 1.0], len(units)) * generator.uniform(0.1, 10, len(units))
    named = [(kind, {f"z[{place[j]}]" for j in own}) for kind, own in truth]
    return z[:, order] * scale, np.stack(factors, 1), named


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_is_found(seed):
    z, factors, truth = world(seed)
    found = pv.assign(z, factors)
    for k, (name, (kind, units)) in enumerate(zip(found.factors, truth, strict=True)):
        held = units if kind in ("one", "shared") else set()
        assert {*found.holders[name]} == held, (name, kind)
        assert (name in found.spread) == (kind == "spread")
        entropy = found.entropy[k]
        for unit in held:
            assert found.held[unit] == name
            wanted = entropy / len(units)  # halves of equal size
            nats = found.information[found.units.index(unit), k]
            assert nats.item() == pytest.approx(wanted.item(), abs=0.02), (name, kind)
    silent = [unit for unit in found.units if unit not in found.held]
    told = torch.stack([found.share[found.units.index(unit)] for unit in silent])
    assert told.max() < 0.02
    alone = sum(kind == "one" for kind, _ in truth)
    assert found.verdict[0].startswith(f"{alone} of 6 factors {'is' if alone == 1 else 'are'} in")


def test_information_is_that_of_a_noisy_channel():
    """A bit that is flipped in a tenth of the data tells log 2 - H(0.1)."""
    generator = np.random.default_rng(0)
    v = generator.integers(2, size=20_000)
    z = np.where(generator.random(20_000) < 0.1, 1 - v, v)
    exact = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    found = pv.assign(z, v, limit=None)
    error = found.error.item()
    # The derivative of the entropy, log 9, times the standard error of the flipped share.
    assert error == pytest.approx(math.log(9) * 0.3 / math.sqrt(20_000), rel=0.5)
    assert found.information.item() == pytest.approx(exact, abs=4 * error)


def test_information_of_few_data_is_closer_to_that_of_many():
    """One of 8 values is kept in half of 300 data: the plug-in bias is 7 * 7 / 600 nats."""
    right, wrong = 0.5 + 0.5 / 8, 0.5 / 8
    exact = math.log(8) + right * math.log(right) + 7 * wrong * math.log(wrong)
    adjusted, plain = [], []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        v = generator.integers(8, size=300)
        z = np.where(generator.random(300) < 0.5, v, generator.integers(8, size=300))
        adjusted.append(pv.assign(z, v).information.item())
        plain.append(mutual_information(z, v).item())
    assert np.mean(plain) - exact > 0.06
    assert np.mean(adjusted) == pytest.approx(exact, abs=0.03)
    found = pv.assign(z, v)
    assert found.error.item() == pytest.approx(np.std(adjusted, ddof=1), rel=0.6)


@pytest.mark.parametrize("rows", [60, 400])
def test_noise_is_no_information(rows):
    """The plug-in value is far from 0 here: about 19 * 19 / 2N, 3 nats of 3 for 60 rows."""
    told = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        factors = generator.integers(20, size=(rows, 2))
        found = pv.assign(generator.standard_normal((rows, 5)), factors)
        assert not found.held
        told.append(found.share.max().item())
    assert max(told) < 0.1
    assert sum(share > 0 for share in told) <= 3  # two factors at 1 % each, over ten seeds


def test_few_data_are_not_called_lost_where_a_unit_tells_all():
    """Adjusted for chance, a unit that determines a factor has its whole entropy."""
    v = np.random.default_rng(0).integers(20, size=200)
    assert pv.assign(v.astype(float), v).share.item() == pytest.approx(1.0, abs=1e-9)


def test_a_unit_of_several_factors_is_said_to_hold_them():
    generator = np.random.default_rng(0)
    factors = generator.integers(4, size=(2000, 2))
    z = np.stack([factors @ [4, 1], generator.standard_normal(2000)], 1)
    found = pv.assign(z, factors, names=["x", "y"], units=["a", "b"])
    assert found.holders == {"x": ("a",), "y": ("a",)}
    assert found.held == {"a": "x"} or found.held == {"a": "y"}
    assert {*found.contents["a"]} == {"x", "y"}
    assert found.labels == {"a": " and ".join(found.contents["a"])}
    assert found.contents["a"][0] == found.held["a"]
    assert "a holds x and y." in found.verdict[0]


def test_what_counts_as_held_and_as_shared():
    """Half of the best unit's information shares a factor; a tenth of the entropy holds it."""
    nats = torch.tensor([[0.8, 0.8, 0.11, 0.09], [0.42, 0.38, 0.0, 0.0]]).double()
    found = Assignment(
        units=("a", "b"),
        factors=("x", "y", "hue", "size"),
        information=nats,
        error=0.01 * nats,
        entropy=torch.ones(4).double(),
        spread=("size",),
        data=100,
        bins=20,
    )
    assert found.holders == {"x": ("a", "b"), "y": ("a",), "hue": ("a",), "size": ()}
    assert found.held == {"a": "x", "b": "x"}
    assert found.verdict == [
        "2 of 4 factors are in one unit each. x is shared by a and b. a holds x, y and hue. size "
        "is spread: no unit has 10% of its entropy, but all units together tell it."
    ]


def test_the_table_shows_the_two_best_units():
    z, factors, _ = world(1)
    found = pv.assign(z, factors)
    said = str(found).splitlines()
    for k, name in enumerate(found.factors):
        line = said[4 + k]
        assert line.startswith(f" {name} ")
        share = found.share[:, k]
        first, second = share.topk(2).indices.tolist()
        if share[first] > 0:
            assert f"{found.units[first]} " in line
            assert f"{found.information[first, k]:.2f}" in line
        if share[second] > 0:
            assert f"{found.units[second]} " in line
    assert all(len(line) <= 72 for line in said)


def test_frames_and_tensors_give_the_same():
    z, factors, _ = world(3)
    names = [f"f{k}" for k in range(factors.shape[1])]
    wanted = pv.assign(z, factors, names=names)
    words = {
        n: [f"value {v:02d}" for v in column] for n, column in zip(names, factors.T, strict=True)
    }
    units = {u: column for u, column in zip(wanted.units, z.T, strict=True)}
    for frame in (pandas.DataFrame, polars.DataFrame):
        found = pv.assign(frame(units), frame(words))
        assert (found.units, found.factors) == (wanted.units, wanted.factors)
        assert torch.equal(found.information, wanted.information)
    again = pv.assign(torch.tensor(z, requires_grad=True), torch.tensor(factors) * 3 - 7)
    assert torch.equal(again.information, wanted.information)


GOOD_Z = np.random.default_rng(0).standard_normal((30, 3))
GOOD_V = np.arange(60).reshape(30, 2) % 4


def spoiled(array, value):
    found = array.astype(float)
    found[3, 1] = value
    return found


@pytest.mark.parametrize(
    ("z", "v", "said"),
    [
        (GOOD_Z, GOOD_V[:20], "30 rows and the factors have 20"),
        (GOOD_Z.T, GOOD_V[:3], "more units than data, 30 and 3"),
        (spoiled(GOOD_Z, np.nan), GOOD_V, "1 missing or infinite numbers, the first in row 3, z"),
        (spoiled(GOOD_Z, np.inf), GOOD_V, r"row 3, z\[1\]"),
        (GOOD_Z, spoiled(GOOD_V, np.nan), "'factor 1' has missing values"),
        (GOOD_Z, GOOD_V + 0.25, "numbers that are not whole, such as 0.25"),
        (GOOD_Z, GOOD_V * [1, 0], "'factor 1' has a single value"),
        (GOOD_Z, np.array([[1, "a"], [2, None]] * 15), "'factor 1' has missing values"),
        (GOOD_Z, pandas.DataFrame({"a": [pandas.NA] * 30}), "'a' has missing values"),
        (GOOD_Z, GOOD_V.astype("datetime64[D]"), "must hold whole numbers or words"),
        (GOOD_Z.astype(str), GOOD_V, "must be numeric"),
        (GOOD_Z.reshape(30, 1, 3), GOOD_V, "one row for each datum"),
        (GOOD_Z[:, :0], GOOD_V, "must have rows and columns"),
        (GOOD_Z[:1], GOOD_V[:1], "compared over data; got 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(z, v, said):
    with pytest.raises(ValueError, match=said) as refused:
        pv.assign(z, v)
    assert "\n" not in str(refused.value)


def test_names_that_do_not_fit_are_refused():
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="2 factors, each with a name of its own"):
            pv.assign(GOOD_Z, GOOD_V, names=names)
    with pytest.raises(ValueError, match="3 units, each"):
        pv.assign(GOOD_Z, GOOD_V, units=["a"])
    with pytest.raises(ValueError, match="two bins or more; got bins=1"):
        pv.assign(GOOD_Z, GOOD_V, bins=1)


def test_a_constant_unit_tells_nothing():
    z = np.column_stack([np.zeros(30), GOOD_V[:, 0]])
    found = pv.assign(z, GOOD_V[:, 0])
    assert found.information[:, 0].tolist() == pytest.approx([0.0, math.log(2)], abs=0.01)


def angles(seed):
    """Return units that hold an angle up to a half turn, in two of their directions."""
    generator = np.random.default_rng(seed)
    v = generator.integers(40, size=1000)
    turn = 4 * np.pi * v / 40
    held = np.column_stack([np.cos(turn), np.sin(turn), generator.normal(size=(1000, 3))])
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    return held @ rotation + 0.3 * generator.normal(size=(1000, 5)), v


@pytest.mark.parametrize("seed", range(3))
def test_a_circular_factor_of_many_values_is_spread(seed):
    """No single class can be told, as two angles are alike and neighbors are close."""
    found = pv.assign(*angles(seed), names=["orientation"])
    assert found.spread == ("orientation",) or found.holders["orientation"], "lost"
    assert "Lost" not in found.verdict[0]


@pytest.mark.parametrize("size", [2, 10, 40])
def test_noise_is_not_spread(size):
    for seed in range(20):
        generator = np.random.default_rng(seed)
        v = generator.integers(size, size=500)
        found = pv.assign(generator.normal(size=(500, 5)), v)
        assert not found.spread, seed


@pytest.mark.parametrize("rows", [100, 400, 5000])
@pytest.mark.parametrize("outlier", [1000.0, -1e6])
def test_an_outlier_hides_no_code(rows, outlier):
    generator = np.random.default_rng(0)
    v = generator.integers(5, size=rows)
    z = v + 0.1 * generator.normal(size=rows)
    wanted = pv.assign(z, v).share.item()
    z[0] = outlier
    assert pv.assign(z, v).share.item() == pytest.approx(wanted, abs=0.05)


def test_rare_data_of_a_constant_unit_are_no_outliers():
    v = np.isin(np.arange(1000), [3, 8]).astype(int)
    assert pv.assign(np.column_stack([v, v]).astype(float), v).share[0].item() > 0.9


@pytest.mark.parametrize("scale", [1e-200, 1e-7, 1e200])
def test_the_scale_of_units_is_ignored(scale):
    z, factors, _ = world(2)
    wanted, found = pv.assign(z, factors), pv.assign(z * scale, factors)
    torch.testing.assert_close(found.information, wanted.information)
    assert found.spread == wanted.spread


def test_factors_that_are_alike_are_said_to_be():
    generator = np.random.default_rng(0)
    x = generator.integers(4, size=4000)
    y = np.where(generator.random(4000) < 0.8, x, generator.integers(4, size=4000))
    right, wrong = 0.85, 0.05
    exact = math.log(4) + right * math.log(right) + 3 * wrong * math.log(wrong)
    found = pv.assign(np.column_stack([x, y]), np.column_stack([x, y]), names=["x", "y"])
    ((one, other, nats),) = found.together
    assert (one, other) == ("x", "y")
    assert nats == pytest.approx(
        exact, abs=0.06
    )  # four errors: the spread of log p, 0.96, in 4,000
    assert f"x and y themselves share {nats:.2f} nats" in found.verdict[0]
    assert not pv.assign(*world(0)[:2]).together


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 1}, "limit must be a whole number of 2 or more, or None; got 1"),
        ({"limit": 2.5}, "limit must be a whole number of 2 or more, or None; got 2.5"),
        ({"bins": 2.5}, "two bins or more; got bins=2.5: give a whole number"),
        ({"limit": 5}, "'factor 0' has a single value in the 5 data that were drawn"),
    ],
)
def test_limits_and_bins_are_whole(options, said):
    rare = (np.arange(1000) < 2).astype(int)
    with pytest.raises(ValueError, match=said):
        pv.assign(np.random.default_rng(0).normal(size=(1000, 2)), rare, **options)


def test_an_identifier_is_refused():
    z = np.random.default_rng(0).normal(size=(5000, 2))
    with pytest.raises(ValueError, match="'factor 0' has 5,000 values in 5,000 data"):
        pv.assign(z, np.arange(5000))


def test_of_many_names_five_are_said():
    nats = torch.ones(9, 8).double()
    found = Assignment(
        units=tuple("abcdefghi"),
        factors=tuple(f"f{k}" for k in range(8)),
        information=nats,
        error=0.01 * nats,
        entropy=torch.ones(8).double(),
        spread=(),
        data=100,
        bins=20,
    )
    (said,) = found.verdict
    assert "f0 is shared by a, b, c, d, e and 4 more." in said
    assert "f5 is shared" not in said
    assert "3 more factors are shared." in said
    assert "4 more units hold several factors." in said
