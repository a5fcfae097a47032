"""A ranking of several models has the truth's order, and calls equal models equal."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from scipy import stats
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.measure.compare import compare
from pyrovae.weights.bounds import Estimate

REPETITIONS = 400


@dataclass(frozen=True)
class Told:
    """What a ranking asks of a report."""

    quantities: dict[str, Estimate]
    bounds: dict[str, int]
    seed: int | None = None
    fingerprint: torch.Tensor | None = None
    domain: None = None
    per_datum: dict = field(default_factory=dict)
    point_masses: tuple[str, ...] = ()


def told(values, *, k=1, **more):
    values = torch.as_tensor(values, dtype=torch.float64)
    elbo = Estimate(values, torch.zeros_like(values))
    bounds = {"ELBO": 1} | ({f"IWAE-{k}": k} if k > 1 else {})
    return Told(dict.fromkeys(bounds, elbo), bounds, **more)


def test_the_differences_are_those_of_the_evidence():
    """With exact posteriors, a bound is log p(x), and so is the difference of two."""
    worlds = {"true": LinearGaussian()}
    for shift in (0.3, 0.6):
        worlds[f"moved by {shift}"] = other = LinearGaussian()
        other.mean = other.mean + shift
    x = worlds["true"].sample(400)
    reports = {
        name: pv.evaluate(world.vae(world.exact_posterior), x, particles=4)
        for name, world in worlds.items()
    }
    found = pv.rank(dict(reversed(reports.items())))
    assert found.names == ("true", "moved by 0.3", "moved by 0.6")
    truth = worlds["true"].log_evidence(x)
    for name, difference in found.differences.items():
        wanted = worlds[name].log_evidence(x) - truth
        torch.testing.assert_close(difference.value, wanted, rtol=1e-6, atol=1e-6)
        assert difference.mean < 0
    assert found.apart == found.names[1:]
    assert "true is the best, ahead of moved by 0.3 by" in found.verdict[0]
    assert list(found.quantities)[:4] == [*found.names, "moved by 0.3 - true"]


def test_two_models_are_ranked_as_compare_compares_them():
    torch.manual_seed(0)
    a, b = torch.randn(2, 50, dtype=torch.float64)
    found = pv.rank({"a": told(a), "b": told(a - 0.1 * b.abs())})
    wanted = compare(told(a - 0.1 * b.abs()), told(a), names=("b", "a"))
    assert found.names == ("a", "b")
    assert found.errors == pytest.approx(1.96)
    assert torch.equal(found.differences["b"].value, wanted.differences["ELBO"].value)


@pytest.mark.parametrize("data", [4, 200])
def test_equal_models_are_told_apart_in_5_of_100_rankings_at_most(data):
    """The best is the luckiest of six: without the correction, a quarter would be wrong."""
    torch.manual_seed(0)
    wrong, uncorrected = 0, 0
    for _ in range(REPETITIONS):
        shared, noise = torch.randn(data), torch.randn(6, data)
        found = pv.rank({str(i): told(shared + each) for i, each in enumerate(noise)})
        wrong += bool(found.apart)
        pairs = found.differences.values()
        uncorrected += any(1.96 * d.error_over_data < -d.mean for d in pairs)
    allowed = 0.05 + 3 * (0.05 * 0.95 / REPETITIONS) ** 0.5
    assert wrong / REPETITIONS <= allowed
    assert uncorrected / REPETITIONS > 0.2


@pytest.mark.parametrize("data", [3, 10, 1000])
def test_an_interval_of_a_pair_has_student_s_quantile_at_the_level_of_the_pairs(data):
    """Ten models have 45 pairs, each two-sided at 5% / 45, from scipy."""
    values = torch.randn(10, data, dtype=torch.float64)
    found = pv.rank({str(i): told(each) for i, each in enumerate(values)})
    difference = found.behind[found.names[-1]].differences["ELBO"]
    spread = difference.value.std().item() / data**0.5
    wanted = stats.t(data - 1).isf(0.05 / 90) * spread
    assert found.errors * difference.error_over_data == pytest.approx(wanted, rel=1e-6)


def test_the_bound_is_the_tightest_that_all_have():
    reports = {
        "a": told([1.0, 2.0], k=100),
        "b": told([1.5, 2.5], k=10),
        "c": told([0.0, 0.5]),
    }
    assert pv.rank(reports).bound == "ELBO"
    both = {name: told([1.0, float(i)], k=9) for i, name in enumerate("ab")}
    assert pv.rank(both).bound == "IWAE-9"


def test_what_is_no_number_comes_last():
    found = pv.rank({"a": told([torch.nan, 1.0]), "b": told([0.0, 1.0]), "c": told([1.0, 1.0])})
    assert found.names == ("c", "b", "a")
    assert "the difference from a is not finite" in found.verdict[0]


def test_models_that_do_not_differ_are_named():
    torch.manual_seed(0)
    shared, noise = torch.randn(50), torch.randn(3, 50)
    found = pv.rank({name: told(shared + n) for name, n in zip("abc", noise, strict=True)})
    best, *others = found.names
    assert f"{best} has the highest mean, and {others[0]} and {others[1]} do not" in str(found)
    assert "was not checked that both are of the same data" in " ".join(str(found).split())


def test_a_point_mass_is_not_ranked():
    reports = {"a": told([1.0, 2.0]), "b": replace(told([0.0, 0.5]), point_masses=("z",))}
    (sentence,) = pv.rank(reports).verdict
    assert "cannot be ranked: the guide of b is a point mass" in sentence


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="two reports or more; got 1"):
        pv.rank({"a": told([1.0])})
    with pytest.raises(ValueError, match="evaluate both on the same data"):
        pv.rank({"a": told([1.0]), "b": told([1.0, 2.0])})
