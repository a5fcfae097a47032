"""Each metric of disentanglement has its known values, and is what its paper says."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import Lasso
from sklearn.metrics import mutual_info_score

import pyrovae as pv
from pyrovae.measure.disentanglement import (
    DCI,
    METRICS,
    MIG,
    SAP,
    UDR,
    BetaVAEScore,
    FactorVAEScore,
    InterventionalRobustness,
    Modularity,
    dci,
    mutual_information,
)
from pyrovae.measure.disentanglement.fixed_factor import Sharing
from pyrovae.measure.disentanglement.pairs import Pairs

SIZE, COUNT = 6, 3
GRID = np.array(list(itertools.product(range(SIZE), repeat=COUNT)) * 3)
"""Three factors of six values in all combinations: they are independent in the sample, too."""

FEW = {"resamples": 0, "train": 400, "test": 300, "batch": 32}


@dataclass(frozen=True)
class Case:
    """What is promised of a metric.

    Attributes:
        metric: the metric.
        best: its maximum, that of `GRID` as its own code.
        chance: its value for noise, and how far it may be from it; None if in `TestChance`.
        draws: how far it may vary with what it draws.
    """

    metric: object
    best: float
    chance: tuple[float, float] | None
    draws: float = 1e-9
    score: str = ""


CASES = {
    "MIG": Case(MIG(resamples=0), 1.0, (0.0, 0.03)),
    "MIG of neighbors": Case(MIG(bins=None, resamples=0), 1.0, (0.0, 0.05), draws=0.02),
    "SAP": Case(SAP(resamples=0), 1 - 1 / SIZE, (0.0, 0.08), draws=0.06),
    "SAP, ordered": Case(SAP(ordered=True, resamples=0), 1.0, (0.0, 0.01)),
    "disentanglement": Case(DCI(resamples=0), 1.0, (0.0, 0.05), draws=0.02),
    "completeness": Case(DCI(resamples=0), 1.0, (0.0, 0.05), draws=0.02, score="completeness"),
    "lasso": Case(DCI(predictor="lasso", resamples=0), 1.0, (0.0, 1.0), draws=0.02),
    # Three errors of a share of 300 batches, and of the votes.
    "FactorVAE": Case(FactorVAEScore(**FEW), 1.0, (1 / COUNT, 0.1), draws=0.02),
    "BetaVAE": Case(BetaVAEScore(**FEW), 1.0, (1 / COUNT, 0.1), draws=0.02),
    "modularity": Case(Modularity(resamples=0), 1.0, None),
    "robustness": Case(InterventionalRobustness(resamples=0), 1.0, None),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def scored(case, z, factors=GRID):
    found = case.metric(z, factors)
    return found[case.score].mean if case.score else found.mean


def turned(z):
    """Rotate the first two units by 45 degrees, then the last two."""
    turn = np.array([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2)
    z = z.astype(float).copy()
    z[:, :2] = z[:, :2] @ turn
    z[:, 1:] = z[:, 1:] @ turn
    return z


@every_metric
def test_a_perfect_code_has_the_maximum(case):
    assert scored(case, GRID.astype(float)) == pytest.approx(case.best, abs=case.draws)


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.chance])
def test_noise_has_the_value_of_chance(case):
    wanted, around = case.chance
    noise = np.random.default_rng(0).uniform(size=(len(GRID), COUNT))
    assert scored(case, noise) == pytest.approx(wanted, abs=around)


@every_metric
def test_order_and_sign_of_units_do_not_matter(case):
    generator = np.random.default_rng(1)
    z = GRID + generator.normal(0, 0.4, size=GRID.shape)
    other = z[:, [2, 0, 1]] * [-1.0, 1.0, -1.0]
    assert scored(case, other) == pytest.approx(scored(case, z), abs=case.draws)


@every_metric
def test_a_rotation_is_worse(case):
    assert scored(case, turned(GRID)) < 0.8 * scored(case, GRID.astype(float))


@every_metric
def test_a_constant_unit_changes_nothing(case):
    z = GRID + np.random.default_rng(1).normal(0, 0.4, size=GRID.shape)
    beside = np.column_stack([z[:, :1], np.full(len(z), 7.0), z[:, 1:]])
    if case.score == "completeness":
        # The entropy is to the base of the number of units.
        less = 1 - scored(case, z)
        wanted = 1 - less * math.log(3) / math.log(4)
        assert scored(case, beside) == pytest.approx(wanted, abs=case.draws)
    else:
        assert scored(case, beside) == pytest.approx(scored(case, z), abs=case.draws)


@every_metric
def test_a_representation_of_constants_tells_nothing(case):
    found = scored(case, np.zeros(GRID.shape))
    assert math.isnan(found) or found <= 1e-9


@every_metric
def test_it_is_the_same_twice(case):
    z = GRID + np.random.default_rng(1).normal(0, 0.4, size=GRID.shape)
    before = np.random.get_state()[1].copy()
    assert scored(case, z) == scored(case, torch.from_numpy(z))
    assert (np.random.get_state()[1] == before).all()


@every_metric
def test_bad_input_is_refused(case):
    z = GRID.astype(float)
    with pytest.raises(ValueError, match="648 rows and the factors have 100"):
        case.metric(z, GRID[:100])
    with pytest.raises(ValueError, match="more units than data"):
        case.metric(z.T, GRID[[0, 43, 86]])
    with pytest.raises(ValueError, match="single value"):
        case.metric(z, GRID * [1, 1, 0])
    with pytest.raises(ValueError, match="not whole"):
        case.metric(z, GRID / 2)
    with pytest.raises(ValueError, match="1 missing or infinite"):
        case.metric(np.where(np.arange(len(z))[:, None] == 7, [0, np.nan, 0], z), GRID)


class TestPapers:
    """A second implementation of each deterministic metric, from its paper, in plain loops."""

    v = GRID // [1, 1, 2]
    z = GRID @ np.array([[1.0, 0.4, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]])
    z = z + np.random.default_rng(2).normal(0, 0.5, size=z.shape)

    def binned(self):
        """Return mutual information by scikit-learn, of bins by NumPy's histogram."""
        found = np.empty((COUNT, COUNT))
        for j, k in itertools.product(range(COUNT), repeat=2):
            unit = self.z[:, j]
            edges = np.histogram_bin_edges(unit, 20)
            found[j, k] = mutual_info_score(self.v[:, k], np.digitize(unit, edges[1:-1]))
        return found

    def test_information(self):
        found = mutual_information(self.z, self.v)
        np.testing.assert_allclose(found, self.binned(), atol=1e-9)

    def test_mig(self):
        gaps = []
        for k in range(COUNT):
            second, first = sorted(self.binned()[:, k])[-2:]
            gaps.append((first - second) / math.log((6, 6, 3)[k]))
        assert MIG(resamples=0)(self.z, self.v).mean == pytest.approx(np.mean(gaps), abs=1e-9)

    def test_modularity(self):
        scores = []
        for row in self.binned():
            template = [value if value == max(row) else 0.0 for value in row]
            deviation = sum((m - t) ** 2 for m, t in zip(row, template, strict=True))
            scores.append(1 - deviation / (max(row) ** 2 * (COUNT - 1)))
        found = Modularity(resamples=0)(self.z, self.v).mean
        assert found == pytest.approx(np.mean(scores), abs=1e-9)

    def test_sap_of_ordered_factors(self):
        gaps = []
        for k in range(COUNT):
            fits = [scipy.stats.linregress(self.z[:, j], self.v[:, k]) for j in range(COUNT)]
            second, first = sorted(fit.rvalue**2 for fit in fits)[-2:]
            gaps.append(first - second)
        found = SAP(ordered=True, resamples=0)(self.z, self.v).mean
        assert found == pytest.approx(np.mean(gaps), abs=1e-9)

    def test_sap_of_classes(self):
        """A bit, told by thresholds: all of them tried, on fresh data of the same world."""
        generator = np.random.default_rng(0)

        def world():
            v = generator.integers(2, size=4000)
            return v, np.column_stack([v, 0.5 * v]) + generator.normal(size=(4000, 2))

        (v, z), (fresh, unseen) = world(), world()
        score = []
        for j in range(2):
            cuts = np.quantile(z[:, j], np.linspace(0, 1, 400))
            right = [((z[v == 1, j] > c).mean() + (z[v == 0, j] <= c).mean()) / 2 for c in cuts]
            told = unseen[:, j] > cuts[np.argmax(right)]
            score.append((told[fresh == 1].mean() + (~told[fresh == 0]).mean()) / 2)
        exact = [scipy.stats.norm.cdf(0.5), scipy.stats.norm.cdf(0.25)]
        error = math.sqrt(0.25 / 1333)  # of a share of the held-out data
        assert score == pytest.approx(exact, abs=4 * error)
        found = SAP(resamples=0)(z, v)
        assert found.mean == pytest.approx(score[0] - score[1], abs=4 * math.sqrt(2) * error)

    def test_dci_from_importances(self):
        matrix = np.random.default_rng(3).exponential(size=(5, 3))
        units, factors = 0.0, 0.0
        for j in range(5):
            p = matrix[j] / matrix[j].sum()
            entropy = -sum(x * math.log(x, 3) for x in p)
            units += matrix[j].sum() / matrix.sum() * (1 - entropy)
        for k in range(3):
            p = matrix[:, k] / matrix[:, k].sum()
            factors += (1 + sum(x * math.log(x, 5) for x in p)) / 3
        assert dci.disentanglement(matrix) == pytest.approx(units, abs=1e-9)
        assert dci.completeness(matrix) == pytest.approx(factors, abs=1e-9)

    def test_dci_of_the_lasso(self):
        """Of independent units, a coefficient is the covariance less the penalty of 0.02."""
        z = GRID.astype(float)
        factors = np.column_stack([GRID[:, 0], 2 * GRID[:, 1] + GRID[:, 2]])
        found = DCI(predictor="lasso", resamples=0)(z, factors)
        spread = GRID[:, 0].std()
        both = np.array([2 * spread - 0.02, spread - 0.02])
        shares = both / both.sum()
        second = 1 + (shares * np.log(shares)).sum() / math.log(3)
        lost = (0.02 / spread + 0.02 * math.sqrt(2) / (math.sqrt(5) * spread)) / 2
        # Two thirds of the data are not quite independent.
        assert found["disentanglement"].mean == pytest.approx(1.0, abs=0.05)
        assert found["completeness"].mean == pytest.approx((1 + second) / 2, abs=0.05)
        assert found["informativeness"].mean == pytest.approx(1 - lost, abs=0.01)

    def test_informativeness_of_noise_is_guessing(self):
        noise = np.random.default_rng(0).normal(size=GRID.shape)
        found = DCI(resamples=0)(noise, GRID)["informativeness"].mean
        guessing = 1 / SIZE
        error = math.sqrt(guessing * (1 - guessing) / len(GRID))  # three factors, a third each
        assert found == pytest.approx(guessing, abs=4 * error)

    def test_robustness(self):
        """Combinations of factors are met several times; the paper averages their codes."""
        z, v, own = self.z, self.v, {}
        for row in {tuple(row) for row in v.tolist()}:
            own[row] = z[(row == v).all(1)].mean(0)
        middle = z.mean(0)
        widest = [max(abs(mean[j] - middle[j]) for mean in own.values()) for j in range(COUNT)]
        score = np.empty((COUNT, COUNT))
        for j, k in itertools.product(range(COUNT), repeat=2):
            moved = 0.0
            for value in set(v[:, k]):
                here = z[v[:, k] == value, j].mean()
                means = [mean[j] for row, mean in own.items() if row[k] == value]
                moved += max(abs(mean - here) for mean in means) / len(set(v[:, k]))
            score[j, k] = 1 - moved / widest[j]
        wanted = np.average(score.max(1), weights=widest)
        found = InterventionalRobustness(resamples=0)(z, v).mean
        assert found == pytest.approx(wanted, abs=1e-9)

    def test_factor_vae_score(self):
        """With a loop over batches, within four errors of a share of 1,500 votes."""
        generator, z = (
            np.random.default_rng(5),
            self.z + np.random.default_rng(6).normal(size=(648, 3)),
        )
        z = z / z.std(0)
        votes = []
        for _ in range(3000):
            k = generator.integers(COUNT)
            rows = np.flatnonzero(GRID[:, k] == generator.integers(SIZE))
            votes.append((k, z[generator.choice(rows, 8)].var(0).argmin()))
        learned, tested = votes[:1500], votes[1500:]
        table = {d: [k for k, unit in learned if unit == d] for d in range(COUNT)}
        chosen = {d: max(range(COUNT), key=ks.count) for d, ks in table.items()}
        wanted = np.mean([chosen[d] == k for k, d in tested])
        found = FactorVAEScore(batch=8, train=1500, test=1500, resamples=0)(z, GRID).mean
        assert 0.4 < wanted < 0.95
        assert found == pytest.approx(wanted, abs=4 * math.sqrt(0.5 / 1500))

    def test_pairs_of_a_batch_share_their_factor(self):
        pairs = Pairs.of(GRID.astype(float), GRID)
        generator = np.random.default_rng(0)
        factors = generator.integers(COUNT, size=3000)
        rows = Sharing.of(pairs).rows(factors, 4, generator)
        for k in range(COUNT):
            values = GRID[rows[factors == k]]
            same = (values == values[:, :1]).all((0, 1))
            assert same.tolist() == [k == other for other in range(COUNT)]
        # Each value and each row is drawn as often as any other: chi-square tests.
        drawn = np.bincount(rows.ravel(), minlength=len(GRID))
        assert scipy.stats.chisquare(drawn).pvalue > 1e-4

    @pytest.mark.parametrize("similarity", ["spearman", "lasso"])
    def test_udr(self, similarity):
        generator = np.random.default_rng(0)
        base = generator.normal(size=(300, 4))
        models = [base @ generator.normal(size=(4, 4)) for _ in range(3)]
        pairwise = np.zeros((3, 3))
        for a, b in itertools.permutations(range(3), 2):
            one, other = ((z - z.mean(0)) / z.std(0) for z in (models[a], models[b]))
            r = np.zeros((4, 4))
            for j in range(4):
                if similarity == "lasso":
                    r[:, j] = np.abs(Lasso(0.1).fit(one, other[:, j]).coef_)
                else:
                    r[:, j] = [abs(scipy.stats.spearmanr(u, other[:, j])[0]) for u in one.T]
            total = 0.0
            for j in range(4):
                total += max(r[:, j]) ** 2 / sum(r[:, j]) if r[:, j].any() else 0.0
                total += max(r[j]) ** 2 / sum(r[j]) if r[j].any() else 0.0
            pairwise[a, b] = total / 8
        wanted = [np.median([pairwise[a, b] for a in range(3) if a != b]) for b in range(3)]
        found = UDR(similarity=similarity, resamples=0)(models)
        means = [number.mean for number in found.numbers.values()]
        assert means == pytest.approx(wanted, abs=1e-6)


class TestChance:
    """What is known of noise: G = 2 N I is chi-square of (B - 1)(K - 1) degrees of freedom."""

    ROWS, UNITS, VALUES, WORLDS = 4000, 5, 6, 24

    def noise(self, metric, sizes):
        found = []
        for seed in range(self.WORLDS):
            generator = np.random.default_rng(seed)
            z = generator.uniform(size=(self.ROWS, self.UNITS))
            v = np.column_stack([generator.integers(size, size=self.ROWS) for size in sizes])
            found.append(metric(z, v).mean)
        return np.mean(found), np.std(found, ddof=1) / math.sqrt(self.WORLDS)

    def chi_square(self, sizes):
        generator = np.random.default_rng(100)
        degrees = 19 * (np.array(sizes) - 1)
        drawn = generator.chisquare(degrees, size=(20_000, self.UNITS, len(sizes)))
        return drawn / (2 * self.ROWS)

    def test_of_mig(self):
        sizes = (self.VALUES, 3)
        ranked = np.sort(self.chi_square(sizes), axis=1)
        wanted = ((ranked[:, -1] - ranked[:, -2]) / np.log(sizes)).mean()
        found, error = self.noise(MIG(resamples=0), sizes)
        assert found == pytest.approx(wanted, abs=4 * error)
        assert error < 0.2 * wanted

    def test_of_modularity(self):
        sizes = (self.VALUES, 3, 3)
        squares = self.chi_square(sizes) ** 2
        most = squares.max(2)
        wanted = (1 - (squares.sum(2) - most) / (2 * most)).mean()
        found, error = self.noise(Modularity(resamples=0), sizes)
        assert found == pytest.approx(wanted, abs=4 * error)
        assert error < 0.1 * wanted

    def test_of_robustness(self):
        """The greatest deviation of n and of N uniform numbers."""
        generator = np.random.default_rng(100)
        u = generator.uniform(-1, 1, size=(100, 6, self.VALUES, self.ROWS // self.VALUES))
        moved = np.abs(u - u.mean(3, keepdims=True)).max(3).mean(2).min(1)
        wanted = (1 - moved).mean()  # of all 4,000, the greatest is 1 to 0.01
        found, error = self.noise(InterventionalRobustness(resamples=0), (self.VALUES,) * 6)
        assert found == pytest.approx(wanted, abs=0.01 + 4 * error)


class TestInformation:
    def test_mig_converges_to_that_of_a_discrete_world(self):
        """Unit 0 is factor 0 in 4 of 5 cases and else any value; unit 1 so in 1 of 2.

        The bias is at most (B - 1)(K - 1) / 2N, less than 4 * 4 / 2N with five bins filled.
        """
        size, kept = 5, (0.8, 0.5)

        def exact(keep):
            right, wrong = keep + (1 - keep) / size, (1 - keep) / size
            return math.log(size) + right * math.log(right) + 4 * wrong * math.log(wrong)

        wanted = (exact(kept[0]) - exact(kept[1])) / math.log(size)
        generator, off = np.random.default_rng(0), []
        for count in (1000, 10_000, 100_000):
            v = generator.integers(size, size=count)
            keep = generator.random((count, 2)) < kept
            z = np.where(keep, v[:, None], generator.integers(size, size=(count, 2)))
            found = MIG(limit=None, resamples=20)(z, v)["MIG"]
            bias = 8 / count / math.log(size)
            assert abs(found.mean - wanted) < bias + 4 * found.error_over_data
            off.append(bias + 4 * found.error_over_data)
        assert 10 * off[-1] < 1.2 * off[0]  # as the root of N

    def test_of_neighbors_is_that_of_a_mixture_of_normals(self):
        generator = np.random.default_rng(0)
        v = generator.integers(2, size=4000)
        z = 2.0 * v + generator.normal(size=4000)
        grid = np.linspace(-8, 10, 4001)
        parts = [scipy.stats.norm.pdf(grid, loc) for loc in (0.0, 2.0)]
        density = sum(parts) / 2
        entropy = -(density * np.log(density)).sum() * (grid[1] - grid[0])
        exact = entropy - 0.5 * math.log(2 * math.pi * math.e)
        found = mutual_information(z, v, bins=None).item()
        assert found == pytest.approx(exact, abs=0.04)  # 0.34 nats; sd of log-ratios over 63

    @pytest.mark.parametrize(("bins", "around"), [(None, 0.05), (20, 0.08)])
    def test_of_continuous_factors_is_that_of_normals(self, bins, around):
        generator = np.random.default_rng(0)
        z = generator.normal(size=4000)
        v = 0.8 * z + 0.6 * generator.normal(size=4000)
        exact = -0.5 * math.log(1 - 0.64)
        found = mutual_information(z, v, bins=bins, continuous=True).item()
        assert found == pytest.approx(exact, abs=around)
        with pytest.raises(ValueError, match="not whole"):
            mutual_information(z, v)

    def test_of_neighbors_is_the_same_on_any_scale_and_none_of_constants(self):
        """Information does not change by an affine map; float64 holds 6 digits of z + 1e10."""
        generator = np.random.default_rng(0)
        v = generator.normal(size=1000)
        z = v + 0.5 * generator.normal(size=1000)

        def told(z, v):
            return mutual_information(z, v, bins=None, continuous=True)

        wanted = told(z, v).item()
        pairs = [(z + 1e10, v), (z, v + 1e10), (1e-200 * z, v), (z, 1e-200 * v)]
        assert [told(*pair).item() for pair in pairs] == pytest.approx([wanted] * 4, abs=1e-3)
        found = told(np.stack([0 * z + 3, z], 1), np.stack([v, 0 * v], 1))
        assert found.tolist() == [[0, 0], [pytest.approx(wanted), 0]]


@pytest.mark.parametrize(
    "metric", [MIG(resamples=30), SAP(ordered=True, resamples=30), Modularity(resamples=30)]
)
def test_errors_are_the_spread_over_data_sets(metric):
    values, errors = [], []
    for seed in range(24):
        generator = np.random.default_rng(seed)
        v = generator.integers(4, size=(2000, 2))
        z = v @ [[1.0, 0.5], [0.2, 1.0]] + generator.normal(0, 0.7, size=(2000, 2))
        (number,) = metric(z, v).numbers.values()
        values.append(number.mean)
        errors.append(number.error_over_data)
    # The spread of 24 values is known to 15 %, that of 30 halves to 13 %.
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.4)


class TestUDR:
    def models(self, turns):
        generator = np.random.default_rng(0)
        z = generator.uniform(-1, 1, size=(1000, 4))
        return {str(i): z @ turn for i, turn in enumerate(turns)}

    def test_is_the_maximum_for_permuted_units(self):
        generator = np.random.default_rng(1)
        turns = [np.eye(4)[generator.permutation(4)] * [1, -1, 2, 1] for _ in range(3)]
        found = UDR(similarity="spearman", resamples=10)(self.models(turns))
        for number in found.numbers.values():
            assert number.mean > 0.85  # the other three rank correlations are about 0.03 each
            assert 0 < number.error_over_data < 0.03
        lasso = UDR(resamples=0)(self.models(turns))
        for number in lasso.numbers.values():
            assert number.mean == pytest.approx(0.9, abs=1e-6)  # 1 less the penalty of 0.1

    def test_is_worse_for_rotations_that_differ(self):
        generator = np.random.default_rng(1)
        turns = [np.linalg.qr(generator.normal(size=(4, 4)))[0] for _ in range(3)]
        found = UDR(similarity="spearman", resamples=0)(self.models([*turns, np.eye(4)]))
        assert max(number.mean for number in found.numbers.values()) < 0.6

    def test_leaves_out_units_that_tell_nothing(self):
        models = self.models([np.eye(4), np.eye(4)[::-1]])
        quiet = 1e-3 * np.random.default_rng(2).normal(size=(1000, 3))
        wanted = UDR(resamples=0)(models)
        beside = {name: np.hstack([z, quiet]) for name, z in models.items()}
        assert UDR(resamples=0)(beside).numbers == wanted.numbers
        told = dict.fromkeys(beside, [True] * 4 + [False] * 3)
        assert UDR(resamples=0)(beside, informative=told).numbers == wanted.numbers

    def test_of_models_that_collapsed_is_not_known(self):
        found = UDR(resamples=2)(
            [np.zeros((50, 2)), np.random.default_rng(0).normal(size=(50, 2))]
        )
        assert all(math.isnan(number.mean) for number in found.numbers.values())
        assert "Not defined" in str(found)

    def test_a_model_that_collapsed_counts_for_none_of_the_others(self):
        models = self.models([np.eye(4), np.eye(4)[::-1], np.eye(4)[[1, 0, 3, 2]]])
        wanted = UDR(resamples=2)(models).numbers
        found = dict(UDR(resamples=2)(models | {"none": np.zeros((1000, 4))}).numbers)
        assert math.isnan(found.pop("none").mean)
        assert found == wanted

    def test_bad_input_is_refused(self):
        with pytest.raises(ValueError, match="two models or more on the same data; got .* 5 data"):
            UDR()([np.zeros((5, 2))])
        with pytest.raises(ValueError, match="got representations of 5, 6 data"):
            UDR()([np.zeros((5, 2)), np.zeros((6, 2))])
        with pytest.raises(ValueError, match="'lasso' or 'spearman'; got 'pearson'"):
            UDR(similarity="pearson")


class TestTable:
    def test_has_every_metric_with_its_error(self):
        short = [type(m)(resamples=2, **_short(m)) for m in METRICS]
        z = GRID + np.random.default_rng(1).normal(0, 0.4, size=GRID.shape)
        found = pv.disentanglement(z, GRID, metrics=short, names=["x", "y", "scale"])
        names = "MIG SAP disentanglement completeness informativeness".split()
        names += ["FactorVAE score", "BetaVAE score", "modularity", "interventional robustness"]
        assert list(found.numbers) == names
        for metric in short:
            alone = metric(z, GRID)
            assert alone.numbers == {name: found[name] for name in alone.numbers}
        said = str(found)
        for name, number in found.numbers.items():
            assert f"{name} " in said
            assert f"{number.mean:.3f}" in said
            assert number.error_over_data >= 0
        assert "648 data, 3 units, 3 factors" in said

    def test_says_what_is_not_defined_for_one_factor(self):
        short = [type(m)(resamples=0, **_short(m)) for m in METRICS]
        found = pv.disentanglement(GRID.astype(float), GRID[:, 0], metrics=short)
        missing = [name for name, number in found.numbers.items() if math.isnan(number.mean)]
        scores = ["disentanglement", "FactorVAE score", "BetaVAE score", "modularity"]
        assert missing == [*scores, "interventional robustness"]
        (sentence,) = found.verdict
        assert sentence == f"Not defined for a single factor: {', '.join(missing)}."
        assert found.to_json()["quantities"]["modularity"]["mean"] is None

    def test_a_limit_takes_rows_at_random(self):
        found = MIG(limit=100, resamples=0)(GRID.astype(float), GRID)
        assert found.title.startswith("100 data")
        assert found.mean < 1  # of a hundred rows, factors are not quite independent

    def test_settings_out_of_range_are_refused(self):
        with pytest.raises(ValueError, match="'forest', 'boosting' or 'lasso'; got 'svm'"):
            DCI(predictor="svm")
        with pytest.raises(ValueError, match="got batch=1"):
            FactorVAEScore(batch=1)
        with pytest.raises(ValueError, match="two bins or more; got bins=1"):
            MIG(bins=1)(GRID, GRID)


def _short(metric):
    return {"train": 200, "test": 100} if isinstance(metric, FactorVAEScore | BetaVAEScore) else {}


@pytest.mark.parametrize("power", [-200, -7, 200])
@every_metric
def test_the_scale_and_the_offset_of_units_do_not_matter(case, power):
    z = GRID + np.random.default_rng(1).normal(0, 0.4, size=GRID.shape)
    moved = (z + 3.0) * 10.0**power
    wanted, found = scored(case, z), scored(case, moved)
    assert found == pytest.approx(wanted, abs=1e-6)
    if case.metric.__class__ is not InterventionalRobustness:  # which weights units by scale
        each = (z + [0.0, 5.0, -100.0]) * [1.0, 10.0**power, -1.0]
        # A tree's threshold, halfway between two data, may round to the other side of a datum.
        assert scored(case, each) == pytest.approx(wanted, abs=0.01 if case.draws > 1e-6 else 1e-6)


@pytest.mark.parametrize("metric", [*METRICS, DCI(predictor="boosting"), DCI(predictor="lasso")])
def test_a_value_of_one_datum_leaves_the_scores_defined(metric):
    generator = np.random.default_rng(0)
    v = generator.integers(3, size=(300, 3))
    v[:, 2] = 0
    v[7, 2] = 1
    short = {**_short(metric), **({"predictor": metric.predictor} if type(metric) is DCI else {})}
    found = type(metric)(resamples=4, **short)(v + generator.normal(0, 0.1, size=v.shape), v)
    for name, number in found.numbers.items():
        lasso = name == "informativeness" and metric == DCI(predictor="lasso")
        assert lasso or math.isfinite(number.mean), name
        assert lasso or math.isfinite(number.error_over_data), name


def test_units_in_bfloat16_are_read():
    z = torch.from_numpy(GRID).bfloat16()
    assert MIG(resamples=0)(z, GRID).mean == pytest.approx(1.0)
