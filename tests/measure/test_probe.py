"""Probes against worlds whose best accuracy is known, and against scikit-learn by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae.measure.probe import ProbeFinding, _scores
from pyrovae.weights.bounds import Estimate

LINEAR, NEAREST = "linear", "5 neighbors"


def two_normals(seed, n, apart=2.0):
    """Return x ~ N(y apart, 1), one number, and labels y of 0 and 1, half each."""
    y = torch.arange(n) % 2
    return random(seed, n, 1) + apart * y[:, None], y


def neighbors_accuracy(k, apart):
    """Return the accuracy of k nearest neighbors in infinite data, by quadrature.

    Each neighbor at x is of class 1 with probability p(y = 1 | x), and the majority decides.
    """
    x = np.linspace(-8, 8 + apart, 20_001)
    density = [0.5 * stats.norm.pdf(x, mean) for mean in (0.0, apart)]
    of_one = density[1] / sum(density)
    votes = stats.binom.sf(k // 2, k, of_one)
    right = of_one * votes + (1 - of_one) * (1 - votes)
    return np.trapezoid(right * sum(density), x)


class TestClasses:
    def test_of_two_normals_are_told_as_well_as_bayes_rule_does(self):
        """The standard error of a share of 4,000 is below 0.006; the probe's own loss is less."""
        z, y = two_normals(1, 4000)
        found = pv.probe(z, y=y).scores["z"]
        for name, truth in (
            (LINEAR, stats.norm.cdf(1.0)),
            (NEAREST, neighbors_accuracy(5, 2.0)),
        ):
            error = math.sqrt(truth * (1 - truth) / 4000)
            assert abs(found[name].mean - truth) < 4 * error
            assert found[name].error_over_data == pytest.approx(error, rel=0.05)
        assert stats.norm.cdf(1.0) - neighbors_accuracy(5, 2.0) > 3 * error  # they are told apart

    def test_of_noise_are_told_by_chance(self):
        y = (torch.rand(3000) < 0.3).long()
        found = pv.probe(random(2, 3000, 4), y=y)
        assert found.chance.mean == pytest.approx(1 - y.double().mean())
        share = found.chance.mean
        error = math.sqrt(share * (1 - share) / 3000)
        assert abs(found.scores["z"][LINEAR].mean - share) < 4 * error
        votes = stats.binom.sf(2, 5, 1 - share)
        by_votes = share * (1 - votes) + (1 - share) * votes
        error = math.sqrt(by_votes * (1 - by_votes) / 3000)
        assert abs(found.scores["z"][NEAREST].mean - by_votes) < 4 * error
        assert found.verdict == ["z: no probe is above chance by 1.96 errors."]

    def test_intervals_over_folds_cover_the_truth(self):
        """Bayes' rule is the limit of the linear probe, whose loss at 300 data is 0.001."""
        truth, covered = stats.norm.cdf(1.0), 0
        for seed in range(25):
            z, y = two_normals(100 + seed, 300)
            found = pv.probe(z, y=y, probes={LINEAR: LogisticRegression()})
            estimate = found.scores["z"][LINEAR]
            error = max(estimate.error_over_data, found.error_over_folds(estimate))
            covered += abs(estimate.mean - truth) < 1.96 * error
        assert covered >= stats.binom.ppf(0.001, 25, 0.95)

    def test_are_predicted_as_by_hand(self):
        """Standardized by the training folds alone, of which each datum is in all but one."""
        z, y = two_normals(3, 90, apart=1.0)
        z = torch.cat([z, 1e4 * random(4, 90, 1) + 1e3], 1)
        found = pv.probe(z, y=y, folds=3)
        z, y = z.numpy(), y.numpy()
        assert sorted(found.fold.bincount().tolist()) == [30, 30, 30]
        for name, model in (
            (LINEAR, LogisticRegression()),
            (NEAREST, KNeighborsClassifier(5)),
        ):
            wanted = np.zeros(90)
            for j in range(3):
                test = found.fold.numpy() == j
                assert y[test].mean() == 0.5  # stratified
                mean, scale = z[~test].mean(0), z[~test].std(0)
                model.fit((z[~test] - mean) / scale, y[~test])
                wanted[test] = model.predict((z[test] - mean) / scale) == y[test]
            assert np.array_equal(found.scores["z"][name].value, wanted)

    @pytest.mark.parametrize("right", [True, False])
    def test_all_right_or_none_have_the_error_of_few_data(self, right):
        """After 20 cases without a failure, the share of failures is below 0.109 at 90%."""
        z, y = two_normals(4, 20, apart=100.0)
        probes = {"sure": LogisticRegression() if right else Opposite()}
        found = pv.probe(z, y=y, probes=probes)
        (score,) = found.scores["z"].values()
        assert score.mean == right
        missed = 1.96 * score.error_over_data
        assert stats.beta.ppf(0.9, 1, 20) < missed < 0.2
        assert found.to_json()["quantities"]["z [1], sure"]["error_over_data"] > 0

    def test_the_error_of_few_data_covers_the_share(self):
        """The variance of 20 cases is 0 in 12 of 100 samples at a share of 0.9."""
        hits = np.arange(21)
        scores = [_scores(np.arange(20) < h, np.ones(20, bool), None) for h in hits]
        errors = np.array([score.error_over_data for score in scores])
        inside = abs(hits / 20 - 0.9) <= 1.96 * errors
        assert stats.binom.pmf(hits, 20, 0.9)[inside].sum() > 0.93

    def test_may_be_words(self):
        z, y = two_normals(5, 100)
        words = np.array(["cat", "dog"])[y]
        by_words, by_numbers = pv.probe(z, y=words), pv.probe(z, y=y)
        assert torch.equal(
            by_words.scores["z"][LINEAR].value, by_numbers.scores["z"][LINEAR].value
        )


class Opposite(LogisticRegression):
    """Predict the other class."""

    def predict(self, z):
        return 1 - super().predict(z)


class TestRealNumbers:
    def test_share_of_variance_is_the_worlds(self):
        """y = z1 + e with Var e = 1/3, so R^2 = 3/4; the error is that of correlated pairs."""
        z = random(6, 4000, 2)
        y = z[:, 0] + random(7, 4000) / math.sqrt(3)
        found = pv.probe(z, y=y)
        estimate = found.scores["z"][LINEAR]
        # R^2 = r^2, and the standard error of r is (1 - r^2) / sqrt(N) for normals.
        error = 2 * math.sqrt(0.75) * 0.25 / math.sqrt(4000)
        assert abs(estimate.mean - 0.75) < 4 * error
        assert estimate.error_over_data == pytest.approx(error, rel=0.1)
        assert found.score == "R^2"
        assert found.chance.mean == 0

    def test_are_predicted_as_by_hand(self):
        z = random(8, 60, 3)
        y = z.sum(1) + random(9, 60)
        found = pv.probe(z, y=y, folds=4)
        lost, whole = torch.zeros(60).double(), torch.zeros(60).double()
        for j in range(4):
            test = found.fold == j
            mean, scale = z[~test].mean(0), z[~test].std(0, correction=0)
            design = (z[~test] - mean) / scale
            center = y[~test].mean()
            weight = torch.linalg.solve(
                design.T @ design + torch.eye(3).double(), design.T @ (y[~test] - center)
            )
            predicted = center + (z[test] - mean) / scale @ weight
            lost[test] = (predicted - y[test]).square()
            whole[test] = (center - y[test]).square()
        wanted = 1 - lost.sum() / whole.sum()
        assert found.scores["z"][LINEAR].mean == pytest.approx(wanted.item(), rel=1e-9)

    @pytest.mark.parametrize("scale", [1e-200, 1e200])
    def test_have_a_share_of_variance_at_any_scale(self, scale):
        z = random(6, 200, 2)
        y = z[:, 0] + random(7, 200)
        wanted, found = pv.probe(z, y=y), pv.probe(z, y=scale * y)
        for name, estimate in wanted.scores["z"].items():
            assert found.scores["z"][name].mean == pytest.approx(estimate.mean, rel=1e-9)

    def test_may_be_bfloat16(self):
        z = random(6, 100, 2)
        y = z[:, 0].bfloat16()
        found, wanted = pv.probe(z, y=y), pv.probe(z, y=y.double())
        assert torch.equal(found.scores["z"][LINEAR].value, wanted.scores["z"][LINEAR].value)


class TestTargets:
    world = LinearGaussian()

    def test_a_vae_is_probed_by_its_posterior_means(self):
        x = self.world.sample(100)
        vae, y = self.world.vae(self.world.exact_posterior), (x[:, 0] > self.world.mean[0]).long()
        z = self.world.posterior_mean(x)
        pair = (self.world.model, self.world.exact_guide)
        found = pv.probe({"VAE": vae, "pair": pair, "means": z, "array": z.numpy()}, x, y, folds=2)
        for of in found.scores.values():
            for name, estimate in of.items():
                assert torch.equal(estimate.value, found.scores["means"][name].value)
        assert (
            "By linear, VAE and pair do not differ significantly: 0.000 ± 0.000." in found.verdict
        )

    def test_a_split_brings_its_labels(self):
        digits = pv.data.load("digits").test
        vae = pv.mlp_vae(64, latents=3, hidden=16)
        found = pv.probe(vae, digits)
        assert found.classes == 10
        again = pv.probe(vae.embed(digits), y=digits.labels.numpy())
        assert torch.equal(found.scores["VAE"][LINEAR].value, again.scores["z"][LINEAR].value)

    def test_which_is_ahead_is_told_by_pairs(self):
        z, y = two_normals(10, 500)
        noisy = z + 2 * random(11, 500, 1)
        found = pv.probe({"clear": z, "noisy": noisy}, y=y)
        assert any(
            line.startswith("By linear, clear is ahead of noisy by ") for line in found.verdict
        )
        table = str(found)
        assert "chance (majority class)" in table
        assert "± over folds" in table

    def test_8_bit_pixels_pass_as_numbers(self):
        pixels = np.arange(40, dtype="uint8").reshape(20, 2)
        assert pv.probe(pixels, y=[0, 1] * 10, folds=2).dimensions == {"z": 2}


@pytest.mark.parametrize("probes", [{}, [LogisticRegression()]])
def test_probes_without_names_are_refused(probes):
    with pytest.raises(ValueError, match="probes takes one scikit-learn estimator or more by nam"):
        pv.probe(torch.zeros(10, 2), y=TEN, probes=probes)


def vae():
    return pv.mlp_vae(64, latents=2, hidden=16)


TEN = torch.arange(10) % 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(9, 2), None, TEN), "z has 9 rows and y has 10 labels: give one"),
        ((vae(), torch.zeros(9, 64), TEN), "VAE has 9 rows and y has 10 labels"),
        ((torch.full((10, 2), math.nan), None, TEN), "z has NaN or infinite values in 10 of 10"),
        ((torch.zeros(10, 2), None, torch.zeros(10).long()), "labels are of one class"),
        ((torch.zeros(10, 2), None, torch.zeros(10)), "real numbers are all equal"),
        ((torch.zeros(10, 2), None, torch.full((10,), math.nan)), "NaN .* in 10 of 10 rows"),
        ((torch.zeros(10, 2), None, ["a", None] * 5), "y has 5 missing values"),
        ((torch.zeros(10, 2), None, torch.zeros(10, 2)), r"y has shape \(10, 2\): give one label"),
        ((torch.zeros(10, 2),), "labels are missing"),
        ((vae(), pv.data.Split(torch.zeros(10, 64))), "labels are missing"),
        ((torch.zeros(10, 2), None, torch.arange(10)), "class 0 has 1 data, fewer than the 5"),
        ((torch.zeros(4, 2), None, TEN[:4]), "got folds=5 and 4 data"),
        ((vae(), None, TEN), "VAE is a VAE, which embeds data: give x"),
        (({}, None, TEN), "no representation"),
        (({"mine": torch.full((10, 2), math.nan)}, None, TEN), "mine has NaN or infinite values"),
        ((torch.zeros(10, 2), TEN), r"as the third argument or by name, probe\(z, y=y\)"),
        ((torch.zeros(10, 2), None, TEN * 1j), "y has complex numbers"),
        ((SimpleNamespace(vae_=vae()), None, TEN), "z is an estimator .*: give its vae_"),
        (("digits", None, TEN), "neither a VAE nor an array .* got str"),
    ],
)
def test_bad_input_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        pv.probe(*given)


def test_of_many_representations_that_are_as_good_few_are_said_to_differ():
    """Of 60 with scores from one distribution, each verdict is wrong with a probability of 5%."""
    wrong, unknown = 0, torch.full((60,), torch.nan)
    for seed in range(60):
        rows = {f"r{i}": score for i, score in enumerate(random(seed, 60, 60))}
        scores = {name: {LINEAR: Estimate(row, unknown)} for name, row in rows.items()}
        chance = Estimate(torch.zeros(60), unknown)
        folds = torch.arange(60) % 30
        found = ProbeFinding(scores, chance, dict.fromkeys(scores, 1), folds, classes=None)
        wrong += any("is ahead" in said for said in found.verdict)
    assert wrong <= stats.binom.ppf(0.999, 60, 0.05)
