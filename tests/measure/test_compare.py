"""Differences between models are the truth's, with honest errors, and of the same data alone."""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.files import tensors_as_bytes
from pyrovae.measure.compare import Comparison, _share, compare
from pyrovae.measure.fingerprints import fingerprints
from pyrovae.measure.saved_findings import read_report
from pyrovae.plots import comparison as draw
from pyrovae.weights.bounds import Estimate

REPETITIONS = 200
Z95 = 1.96


def nearby(shift=0.3):
    """Return the linear-Gaussian world with its mean moved: another model of the same data."""
    other = LinearGaussian()
    other.mean = other.mean + shift
    return other


def report(world, x, *, particles=20, seed=0, posterior=None, ks=None):
    return pv.evaluate(world.vae(posterior), x, particles=particles, seed=seed, ks=ks)


def told(a, b, *, error=0.0, one_seed=False):
    """Return a comparison of given ELBOs."""
    difference = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    estimate = Estimate(difference, torch.full_like(difference, error))
    return Comparison(("a", "b"), {"ELBO": estimate}, one_seed, same_data=True, same_context=True)


def share_above(a, b):
    """Return P(log p_a(x) > log p_b(x)) of x from a: the difference is linear in x, so normal."""
    move = b.mean - a.mean
    distance = (move @ a.marginal.precision_matrix @ move).sqrt()
    return torch.distributions.Normal(0.0, 1.0).cdf(0.5 * distance).item()


def repetitions(whole):
    """Cut a report of many data into 200, as if each part had been measured by itself."""

    def cut(estimate):
        parts = zip(*(v.chunk(REPETITIONS) for v in vars(estimate).values()), strict=True)
        return [Estimate(*part) for part in parts]

    for elbo, marks in zip(cut(whole.elbo), whole.fingerprint.chunk(REPETITIONS), strict=True):
        yield Told({"ELBO": elbo}, whole.seed, marks)


@dataclass(frozen=True)
class Told:
    """What a comparison asks of a report."""

    quantities: dict[str, Estimate]
    seed: int | None
    fingerprint: torch.Tensor
    domain: None = None
    per_datum: dict = field(default_factory=dict)
    point_masses: tuple[str, ...] = ()
    bounds: dict[str, int] = field(default_factory=lambda: {"ELBO": 1})


def coverage(found, error, truth):
    """Return how often the 95% interval by one of the errors holds the truth."""
    return sum(abs(q.mean - truth) <= Z95 * getattr(q, error) for q in found) / len(found)


@pytest.mark.parametrize(("particles", "known"), [(20, False), (21, True)])
def test_bounds_whose_weights_were_not_checked_are_said_to_be(particles, known):
    world = LinearGaussian()
    x = world.sample(4)
    reports = [report(world, x, particles=particles, seed=seed) for seed in (1, 2)]
    found = (compare(*reports), pv.rank({"a": reports[0], "b": reports[1]}))
    for each in found:
        (said,) = [said for said in each.verdict if "k-hat is not known" in said] or [""]
        assert said.startswith("Pareto k-hat is not known of ") != known
        assert ("a" in said and "b" in said) != known


def test_intervals_over_data_cover_the_truth_95_times_in_100():
    """100 fresh data 200 times: the mean difference is a KL divergence, the share a normal's."""
    a, b = LinearGaussian(), nearby()
    x = a.sample(100 * REPETITIONS)
    pair = (repetitions(report(w, x, particles=1, posterior=w.exact_posterior)) for w in (a, b))
    found = [compare(*both).quantities for both in zip(*pair, strict=True)]
    truth = {
        "ELBO": torch.distributions.kl_divergence(a.marginal, b.marginal).item(),
        "ELBO, share of data": share_above(a, b),
    }
    for name, value in truth.items():
        met = coverage([quantities[name] for quantities in found], "error_over_data", value)
        assert 0.92 <= met <= 0.98, name


def test_the_interval_over_particles_covers_the_truth_for_independent_seeds():
    """The same data 600 times: both guides lose the same, so the evidence alone differs.

    The share of 600 has a standard error of 0.009.
    """
    a, b = LinearGaussian(), nearby()
    x = a.sample(50)
    many = x.repeat(REPETITIONS, 1)
    found = []
    for seed in (0, 2, 4):
        pair = (repetitions(report(w, many, seed=seed + i)) for i, w in enumerate((a, b)))
        found += [compare(*both).differences["ELBO"] for both in zip(*pair, strict=True)]
    truth = (a.log_evidence(x) - b.log_evidence(x)).mean().item()
    assert 0.92 <= coverage(found, "error_over_particles", truth) <= 0.98


def affine(x, world, scale):
    """Draw the off guide's z by an affine map, which a negative scale mirrors."""
    base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0)
    loc = world.posterior_mean(x)
    bend = dist.transforms.AffineTransform(loc, scale * world.off_scale)
    return pyro.sample("z", dist.TransformedDistribution(base, bend).to_event(1))


def test_at_one_seed_the_sum_of_errors_holds_where_the_root_of_squares_does_not():
    """A mirrored guide turns the linear part of the noise over.

    The prior is so sharp about its mean, 5, that the log-weights are all but linear in z: the
    noise of the two is opposite. The sum covers as it should, the root of squares falls short.
    """
    world = LinearGaussian()
    x = world.sample(20)

    def steep(z, x=None):
        loc = 5.0 * z @ torch.ones(2, 3, dtype=torch.float64)
        return pyro.sample("x", dist.Normal(loc, 30.0).to_event(1), obs=x)

    def measured(sign):
        vae = pv.VAE(world.prior, steep, lambda x: affine(x + 90.0, world, sign))
        return pv.evaluate(vae, x.repeat(REPETITIONS, 1), particles=20, seed=0, ks=[])

    plain, mirrored = measured(1.0), measured(-1.0)
    # Both guides have one distribution, so the ELBOs are the same.
    for other, low, high in ((mirrored, 0.92, 0.98), (replace(mirrored, seed=1), 0.5, 0.9)):
        pairs = zip(repetitions(plain), repetitions(other), strict=True)
        found = [compare(*both).differences["ELBO"] for both in pairs]
        assert low <= coverage(found, "error_over_particles", 0.0) <= high


def test_a_pair_takes_out_what_the_data_have_in_common():
    a, b = LinearGaussian(), nearby(0.02)
    x = a.sample(200)
    one, other = (report(w, x, particles=1, posterior=w.exact_posterior) for w in (a, b))
    difference = compare(one, other).differences["ELBO"]
    exact = a.log_evidence(x) - b.log_evidence(x)
    torch.testing.assert_close(difference.value, exact, rtol=0, atol=1e-9)
    assert difference.error_over_data < 0.1 * one.elbo.error_over_data


def test_the_tightest_common_bound_decides_and_the_elbo_may_say_otherwise():
    """A worse model with the exact posterior beats a better one with a poor guide by ELBO alone.

    It loses a KL of 0.07 nats by its model; the other loses 0.21 by its guide.
    """
    a, b = LinearGaussian(), nearby(0.15)
    x = a.sample(2000)
    poor = report(a, x, particles=500, ks=[500, 10], seed=1)
    exact = report(b, x, particles=500, ks=[10, 50, 500], seed=2, posterior=b.exact_posterior)
    found = compare(poor, exact, names=("poor guide", "exact guide"))
    assert found.bound == "IWAE-500"
    assert "IWAE-50" not in found.differences
    assert found.verdict[0].startswith("By IWAE-500, poor guide is ahead by 0.")
    assert found.verdict[1].startswith("By the ELBO, exact guide is ahead by 0.")


class TestVerdict:
    def test_ahead_in_standard_errors(self):
        """Differences 1, 2, 1 and 2: mean 1.5, error s / sqrt(4) = 0.29, by Student 0.47."""
        (said,) = told([1.0, 2.0] * 2, [0.0] * 4).verdict
        assert said == (
            "By ELBO, a is ahead by 1.50 ± 0.47 nats (3.2 errors); the bound of a is higher on "
            "100% of the data."
        )
        (said,) = told([0.0] * 4, [1.0, 2.0] * 2).verdict
        assert "b is ahead by 1.50 ± 0.47" in said
        assert "on 0% of the data" in said

    def test_not_told_apart(self):
        (said,) = told([1.0, -0.5], [0.0, 0.0]).verdict
        assert "do not differ significantly: the difference is 0.2 ± 4.9" in said
        assert "and 1.96 errors are 9.5" in said

    @pytest.mark.parametrize("elbo", [-1.0, -0.1])
    @pytest.mark.parametrize("bound", [1.0, 0.1])
    def test_the_elbo_says_otherwise_where_both_tell_the_models_apart(self, elbo, bound):
        """Four differences about their mean, whose standard error is 1 / (2 sqrt 3) = 0.29."""
        about = torch.tensor([-0.5, 0.5, -0.5, 0.5]).double()
        none = torch.zeros(4).double()
        differences = {
            "ELBO": Estimate(elbo + about, none),
            "IWAE-9": Estimate(bound + about, none),
        }
        bounds = {"ELBO": 1, "IWAE-9": 9}
        found = replace(told([0.0], [0.0]), differences=differences, bounds=bounds)
        said = any(sentence.startswith("By the ELBO, b is ahead") for sentence in found.verdict)
        assert said == (elbo == -1.0 and bound == 1.0)

    @pytest.mark.parametrize("data", [2, 5, 50])
    def test_equal_models_are_called_apart_one_time_in_twenty(self, data):
        """2,000 sets of normal differences, however few: within 4 binomial errors of 5%."""
        differences = torch.randn(2000, data, dtype=torch.float64)
        apart = sum(
            "is ahead" in told(row, [0.0] * data).verdict[0] for row in differences.tolist()
        )
        assert abs(apart / 2000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)

    def test_the_same_on_every_datum(self):
        assert told([1.0, 2.0], [1.0, 2.0]).verdict == [
            "By ELBO, a and b are equal on every datum."
        ]
        assert told([1.0, 2.0], [1.0, 2.0]).quantities["ELBO, share of data"].mean == 0.5

    def test_a_difference_that_is_the_same_everywhere(self):
        assert "(no error)" in told([1.0, 2.0], [0.0, 1.0]).verdict[0]

    def test_one_datum_goes_by_its_particles(self):
        assert "(4.0 errors)" in told([2.0], [0.0], error=0.5).verdict[0]
        assert "cannot be compared" in told([2.0], [0.0], error=math.nan).verdict[0]

    def test_impossible_data(self):
        found = told([-math.inf, 1.0], [0.0, 0.0])
        assert "1 data have no finite difference" in found.verdict[0]
        with pytest.raises(ValueError, match="1 data have no finite difference to plot"):
            draw(found)

    def test_data_that_are_impossible_under_both_have_no_share(self):
        found = told([-math.inf, 1.0], [-math.inf, 0.0])
        assert "1 data have no finite difference" in found.verdict[0]
        assert math.isnan(found.quantities["ELBO, share of data"].mean)

    def test_one_seed_is_said(self):
        assert "Both reports used the same seed" in told([1.0], [0.0], one_seed=True).verdict[1]


class TestData:
    def test_other_data_are_refused_and_the_first_is_named(self):
        world = LinearGaussian()
        x = world.sample(10)
        other = x.clone()
        other[[3, 7]] += 1e-9
        one = report(world, x)
        with pytest.raises(
            ValueError, match="2 of the 10 data of a and b differ, the first at row 3"
        ):
            compare(one, report(world, other))
        with pytest.raises(ValueError, match="a has 10 data, b has 9"):
            compare(one, report(world, x[:9]))
        with pytest.raises(ValueError, match="'a' twice"):
            compare(one, one, names=("a", "a"))

    def test_seed_precision_and_batches_leave_the_fingerprint(self):
        world = LinearGaussian()
        x = world.sample(10).float().double()
        one = pv.evaluate(world.vae(), x, particles=2, batch_size=3, seed=1)
        assert torch.equal(one.fingerprint, fingerprints(x.float()))
        assert len(one.fingerprint.unique()) == 11, "each row has its own, the context one"

    def test_signed_zeros_and_context(self):
        x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        assert torch.equal(fingerprints(x), fingerprints(x * torch.tensor([[-1.0, 1.0], [1, 1]])))
        labels, masks = torch.tensor([0, 1]), torch.tensor([[True, False], [False, True]])
        given = fingerprints(x, labels, masks)
        assert torch.equal(given, fingerprints(x, labels, masks, None, torch.zeros(3)))
        assert (given[:, 1] != fingerprints(x, labels, ~masks)[:, 1]).all()
        assert (given[:, 0] == fingerprints(x)[:, 0]).all()

    def test_other_context_is_said(self):
        x = torch.rand(5, 8).round()
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(pv.nets.MLP(2 + 1, 8)),
            pv.guides.MeanFieldNormal(pv.nets.MLP(8 + 1, 4)),
        )
        pair = (
            pv.evaluate(vae, (x, c), particles=2) for c in (torch.zeros(5, 1), torch.ones(5, 1))
        )
        assert "The context differs" in compare(*pair).verdict[-1]


class TestFiles:
    def test_a_report_read_again_compares_and_prints_as_it_did(self, tmp_path):
        world = LinearGaussian()
        x = world.sample(30)
        one, other = report(world, x), report(nearby(), x, seed=1)
        for name, found in (("one", one), ("other", other)):
            found.save(tmp_path / name / "evaluation.json", data_name="here")
        again = [read_report(tmp_path / n / "evaluation.json") for n in ("one", "other")]
        assert str(again[0]) == str(one)
        for path in (tmp_path / "one" / "evaluation.json", tmp_path / "one"):
            assert str(pv.Report.load(path)) == str(one)
        assert again[0].tensors().keys() == one.tensors().keys()
        assert again[0].per_datum.keys() == one.per_datum.keys()
        direct, read = compare(one, other), compare(*again)
        assert str(read) == str(direct)
        for name, difference in direct.differences.items():
            assert torch.equal(read.differences[name].value, difference.value)

    def test_what_was_found_within_is_read_too(self, tmp_path):
        class Again:
            name = "again"

            def __call__(self, target, x, *context):
                return pv.evaluate(target, (x[:3], *context), particles=30)

        world = LinearGaussian()
        whole = pv.evaluate(world.vae(), world.sample(9), particles=20, diagnostics=(Again(),))
        whole.save(tmp_path / "evaluation.json")
        read = read_report(tmp_path / "evaluation.json")
        assert str(read) == str(whole)
        assert read.tensors().keys() == whole.tensors().keys()
        assert len(read.findings["again"].quantities["ELBO"].value) == 3

    def test_without_a_fingerprint_it_is_said(self, tmp_path):
        world = LinearGaussian()
        report(world, world.sample(6)).save(tmp_path / "evaluation.json")
        tensors = safetensors.torch.load_file(tmp_path / "evaluation.safetensors")
        del tensors["fingerprint"]
        path = tmp_path / "evaluation.json"
        content = tensors_as_bytes(tensors)
        path.with_suffix(".safetensors").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tensors": digest}))
        read = read_report(tmp_path / "evaluation.json")
        assert "has no fingerprint" in compare(read, read).verdict[-1]

    def test_a_guide_of_points_has_no_bound_to_compare(self, tmp_path):
        world = LinearGaussian()
        x = world.sample(6)
        point = pv.evaluate((world.model, world.mode_guide), x, particles=30)
        point.save(tmp_path / "evaluation.json")
        for mode in (point, read_report(tmp_path / "evaluation.json")):
            verdict = compare(mode, report(world, x), names=("mode", "other")).verdict
            assert verdict[0].startswith(
                "The models cannot be compared: the guide of mode is a point mass"
            )
            assert not any("ahead" in sentence for sentence in verdict)

    def test_files_of_two_reports_are_not_taken_for_one(self, tmp_path):
        """As where a measurement of the same data at another seed is killed between its files."""
        world, path = LinearGaussian(), tmp_path / "evaluation.json"
        x = world.sample(6)
        report(world, x, seed=1).save(path)
        before = path.read_text()
        report(world, x, seed=2).save(path)
        assert read_report(path).seed == 2
        path.write_text(before)
        with pytest.raises(ValueError, match="not the file that .* they are not of one report"):
            read_report(path)
        said = json.loads(before)
        del said["tensors"]  # as another version wrote it
        path.write_text(json.dumps(said))
        assert read_report(path).seed == 1

    def test_damage_is_a_clear_error(self, tmp_path):
        world, path = LinearGaussian(), tmp_path / "evaluation.json"
        for load in (read_report, pv.Report.load):
            with pytest.raises(ValueError, match="one is missing"):
                load(path)
        report(world, world.sample(6)).save(path)
        good, beside = path.read_text(), path.with_suffix(".safetensors")
        for text, message in (
            ("{", "half-written or damaged"),
            ("[]", "damaged: Expected `object`, got `array`"),
            ("{}", "damaged: Object missing required field `title`"),
            (json.dumps(json.loads(good) | {"data": 7}), r"has 7 data, .* has \[6\]"),
        ):
            path.write_text(text)
            with pytest.raises(ValueError, match=message):
                read_report(path)
        path.write_text(good)
        beside.write_bytes(b"\x00" * 5)
        with pytest.raises(ValueError, match="half-written or damaged"):
            read_report(path)


class TestFigure:
    def test_every_value_can_be_read_back(self):
        world = LinearGaussian()
        x = world.sample(60)
        found = compare(report(world, x), report(nearby(), x, seed=1), names=("A", "B"))
        per_datum, means = draw(found).axes
        values = found.differences["IWAE-20"].value
        counts = [sum(bar.get_height() for bar in bars) for bars in per_datum.containers]
        assert counts == [(values > 0).sum().item(), (values < 0).sum().item()]
        edges = [bar.get_x() for bars in per_datum.containers for bar in bars if bar.get_height()]
        assert min(edges) <= values.min().item()
        assert any(abs(bar.get_x()) < 1e-12 for bar in per_datum.containers[0]), "one begins at 0"
        for bars, name in zip(means.containers, found.differences, strict=True):
            line, _, (interval,) = bars
            estimate = found.differences[name]
            assert line.get_xdata()[0] == estimate.mean
            half = Z95 * estimate.error_over_data
            low, high = interval.get_segments()[0][:, 0]
            assert (low, high) == pytest.approx((estimate.mean - half, estimate.mean + half))
        assert [t.get_text() for t in means.get_yticklabels()] == list(found.differences)

    @pytest.mark.parametrize(
        "values", [[1.0, 2.0, 100.0], [-5.0, -1.0], [-1.0, 1e-6], [-1e-6, 1.0], [0.0, 0.0]]
    )
    def test_every_datum_that_differs_is_in_a_bar(self, values):
        axes = draw(told(values, [0.0] * len(values))).axes[0]
        drawn = sum(bar.get_height() for bars in axes.containers for bar in bars)
        assert drawn == sum(value != 0 for value in values)


class TestWhatCannotBeCompared:
    def test_a_probability_and_a_density_are_refused(self, tmp_path):
        x = torch.bernoulli(torch.full((6, 4), 0.5))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(4, 4))
        kinds = (pv.likelihoods.Bernoulli, pv.likelihoods.ContinuousBernoulli)
        reports = [
            pv.evaluate(
                pv.VAE(pv.priors.StandardNormal(2), kind(pv.nets.MLP(2, 4)), guide),
                x,
                particles=5,
            )
            for kind in kinds
        ]
        with pytest.raises(ValueError, match="bits has probabilities .* and units has densities"):
            compare(*reports, names=("bits", "units"))
        reports[1].save(tmp_path / "evaluation.json")
        with pytest.raises(ValueError, match="(a|b) has probabilities .* (b|a) has densities"):
            compare(reports[0], read_report(tmp_path / "evaluation.json"))

    def test_bounds_that_are_not_to_be_trusted_decide_nothing_unsaid(self):
        world = LinearGaussian()
        x = world.sample(40)
        narrow = pv.evaluate((world.model, lambda x: too_narrow(world, x)), x, particles=100)
        good = pv.evaluate((world.model, world.exact_guide), x, particles=100, seed=1)
        found = compare(narrow, good, names=("narrow", "good"))
        assert found.untrusted == (len(narrow.untrusted), 0)
        assert found.untrusted[0] > 10
        said = f"above its limit at {found.untrusted[0]} data of narrow and 0 data of good"
        assert said in " ".join(found.verdict)


def too_narrow(world, x):
    with pyro.plate("data", len(x), dim=-1):
        scale = 0.3 * world.off_scale
        return pyro.sample("z", dist.Normal(world.posterior_mean(x), scale).to_event(1))


def known(differences, **given):
    particles = {"ELBO": 1, "IWAE-9": 9, "IWAE-10": 10}
    bounds = {name: particles[name] for name in differences}
    given = {"one_seed": False, "same_data": True, "same_context": True, **given}
    return Comparison(("a", "b"), differences, bounds=bounds, **given)


def flat(value, data=3):
    return Estimate(torch.full((data,), value), torch.zeros(data))


def test_the_error_of_a_share_is_agrestis_and_coulls():
    error = _share(torch.tensor([1.0, 1.0, -1.0, 2.0])).error_over_data
    assert error == pytest.approx(math.sqrt(5 / 8 * 3 / 8 / 8))


def test_ten_particles_are_more_than_nine():
    names = ("ELBO", "IWAE-9", "IWAE-10")
    assert known({name: flat(0.0) for name in names}).bound == "IWAE-10"


def test_one_other_label_is_another_context():
    same, other = torch.zeros(2, 3, 2, dtype=torch.int64)
    other[1, 1] = 7
    told = [Told({"ELBO": flat(0.0)}, seed, hashes) for seed, hashes in enumerate((same, other))]
    assert compare(*told).same_context is False


def test_reports_without_a_seed_share_none():
    told = Told({"ELBO": flat(0.0)}, None, torch.zeros(3, 2, dtype=torch.int64))
    assert not compare(told, told).one_seed


def test_bounds_that_one_of_the_two_cannot_trust_do_not_speak_against_the_elbo():
    differences = {"ELBO": flat(-1.0, 100), "IWAE-9": flat(1.0, 100)}
    said = "By the ELBO, b is ahead"
    assert any(said in s for s in known(differences).verdict)
    assert not any(said in s for s in known(differences, untrusted=(50, 0)).verdict)
