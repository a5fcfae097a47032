"""Scores of novelty have their closed forms, and the area under the curve its truth and error."""

import math
from functools import partial

import pyro
import pytest
import scipy.integrate
import scipy.stats
import sklearn.metrics
import torch
from torch import nn
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.data.images import rotated
from pyrovae.guides import FullRankNormal, MeanFieldNormal
from pyrovae.measure.novelty import (
    Novelty,
    NoveltyFinding,
    likelihood_regret,
    surprise,
    typicality,
    waic,
)
from pyrovae.measure.roc import auroc
from pyrovae.plots import novelty as draw
from pyrovae.weights.kl import closed_form_kl

REPETITIONS = 200
Z95 = 1.96
WORLD = LinearGaussian()


class TestArea:
    @pytest.mark.parametrize("levels", [2, 7, 10_000])
    def test_is_that_of_scikit_learn_ties_and_all(self, levels):
        a, b = torch.randint(0, levels, (83,)), torch.randint(levels // 3, levels + 1, (41,))
        labels = torch.cat([torch.zeros(83), torch.ones(41)])
        wanted = sklearn.metrics.roc_auc_score(labels, torch.cat([a, b]))
        assert auroc(a, b).mean == pytest.approx(wanted, abs=1e-12)
        assert auroc(b, a).mean == pytest.approx(1 - wanted, abs=1e-12)

    @pytest.mark.parametrize(
        ("distance", "sizes"), [(0.0, (50, 80)), (1.0, (100, 40)), (2.0, (100, 100))]
    )
    def test_interval_covers_the_truth_95_times_in_100(self, distance, sizes):
        """Two normals of distance d: the area is Phi(d / sqrt 2)."""
        truth = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(distance / 2**0.5)).item()
        hits = 0
        for _ in range(REPETITIONS):
            area = auroc(torch.randn(sizes[0]), distance + torch.randn(sizes[1]))
            hits += abs(area.mean - truth) <= Z95 * area.error_over_data
        assert 0.92 <= hits / REPETITIONS <= 0.98

    def test_the_error_is_the_spread_of_the_area(self):
        """2,000 repetitions tell the spread to 1 / sqrt(4,000), and DeLong's mean to less."""
        areas = [auroc(torch.randn(60), 1 + 2 * torch.randn(30)) for _ in range(2000)]
        spread = torch.tensor([area.mean for area in areas]).std().item()
        told = torch.tensor([area.error_over_data for area in areas]).square().mean().sqrt().item()
        assert abs(told / spread - 1) < 4 / math.sqrt(2 * 2000) + 1 / 60

    def test_the_error_is_not_known_where_all_are_told_apart_or_one_is_given(self):
        apart = auroc(torch.zeros(5), torch.ones(5))
        assert apart.mean == 1
        assert math.isnan(apart.error_over_data)
        assert math.isnan(auroc(torch.randn(1), torch.randn(9)).error_over_data)

    def test_infinite_scores_rank_and_others_are_refused(self):
        assert auroc(torch.tensor([0.0, 1.0]), torch.tensor([math.inf])).mean == 1
        with pytest.raises(ValueError, match="2 outside, 1 NaN"):
            auroc(torch.zeros(3), torch.tensor([0.0, math.nan]))
        with pytest.raises(ValueError, match="0 inside"):
            auroc(torch.zeros(0), torch.zeros(3))


class TestScores:
    def test_surprise_is_the_exact_negative_log_evidence(self):
        x = WORLD.sample(9)
        found = surprise(WORLD.vae(WORLD.exact_posterior), x, particles=3)
        torch.testing.assert_close(found, -WORLD.log_evidence(x), rtol=0, atol=1e-9)

    def test_waic_and_typicality_of_exact_log_evidences(self):
        worlds = [LinearGaussian() for _ in range(3)]
        for world, move in zip(worlds, (0.0, 0.3, -0.5), strict=True):
            world.mean = world.mean + move
        x = WORLD.sample(9)
        log_p = torch.stack([world.log_evidence(x) for world in worlds])
        found = waic([world.vae(world.exact_posterior) for world in worlds], x, particles=2)
        wanted = (log_p - log_p.mean(0)).square().sum(0) / 2 - log_p.mean(0)
        torch.testing.assert_close(found, wanted)
        found = typicality(WORLD.vae(WORLD.exact_posterior), x, entropy=3.0, particles=2)
        torch.testing.assert_close(found, (WORLD.log_evidence(x) + 3.0).abs())
        with pytest.raises(ValueError, match="at least two models; got 1"):
            waic([WORLD.vae()], x)

    def test_waic_of_a_datum_that_is_impossible_is_infinite(self):
        x = WORLD.sample(4)

        def bounded(z, x=None):
            WORLD.likelihood(z, x)
            fits = torch.zeros(4).double().masked_fill(torch.arange(4) == 1, -math.inf)
            pyro.factor("bounded", fits)

        ensemble = [pv.VAE(WORLD.prior, bounded, WORLD.exact_posterior)] * 2
        found = waic(ensemble, x, particles=2)
        wanted = (-WORLD.log_evidence(x)).masked_fill(torch.arange(4) == 1, math.inf)
        torch.testing.assert_close(found, wanted)

    @pytest.mark.parametrize(("family", "width"), [(FullRankNormal, 5), (MeanFieldNormal, 4)])
    def test_regret_is_the_amortization_gap(self, family, width):
        """KL to the exact posterior of the network's q, less that of the best of its family.

        A full-rank normal holds the exact posterior; the best mean-field one has its means and
        the inverse roots of its precisions. The noise is that of two ELBOs of 4,000 particles,
        and what 300 steps leave, under 0.01 nats (`test_refinement` has the like).
        """
        x = WORLD.sample(12)
        vae = WORLD.vae(family(nn.Linear(3, width).double()))
        exact = torch.distributions.MultivariateNormal(
            WORLD.posterior_mean(x), scale_tril=WORLD.scale_tril
        )
        q = vae.posterior.distribution(vae.posterior.net(x))
        floor = 0.0
        if family is MeanFieldNormal:
            scale = WORLD.covariance.inverse().diagonal().rsqrt()
            best = torch.distributions.Normal(WORLD.posterior_mean(x), scale)
            floor = closed_form_kl(torch.distributions.Independent(best, 1), exact)
        wanted = closed_form_kl(q, exact) - floor
        found = likelihood_regret(vae, x, particles=4000, steps=300, lr=0.1)
        spread = (q.sample((4000,)), exact)
        noise = (exact.log_prob(spread[0]) - q.log_prob(spread[0])).std(0) / math.sqrt(4000)
        assert ((found - wanted).abs() < 5 * noise + 0.03).all()
        assert wanted.max() > 1


def area_of_mahalanobis(shift):
    """Return P(ncx2 > chi2): -log p is half a squared distance, moved off by the shift."""
    away = (shift @ WORLD.marginal.precision_matrix @ shift).item()
    return scipy.integrate.quad(
        lambda s: scipy.stats.ncx2.sf(s, 3, away) * scipy.stats.chi2.pdf(s, 3), 0, 80
    )[0]


class TestNovelty:
    def test_the_area_of_shifted_data_is_that_of_two_chi_squareds(self):
        shift = torch.tensor([0.8, -0.5, 0.3], dtype=torch.float64)
        truth = area_of_mahalanobis(shift)
        vae, hits = WORLD.vae(WORLD.exact_posterior), 0
        scores = {"-log p": partial(surprise, particles=1)}
        inside = surprise(vae, WORLD.sample(REPETITIONS * 60), particles=1).split(60)
        outside = surprise(vae, WORLD.sample(REPETITIONS * 50) + shift, particles=1).split(50)
        for pair in zip(inside, outside, strict=True):
            area = auroc(*pair)
            hits += abs(area.mean - truth) <= Z95 * area.error_over_data
        assert 0.92 <= hits / REPETITIONS <= 0.98
        found = Novelty(WORLD.sample(2000) + shift, scores, limit=None)(vae, WORLD.sample(3000))
        area = found.quantities["-log p"]
        assert abs(area.mean - truth) < 4 * area.error_over_data
        assert found.title == "5,000 data, 2,000 of them novel: area under the ROC curve"
        assert found.verdict[0].startswith("The best score is -log p: a novel datum scores higher")

    def test_scores_keep_the_order_of_the_data_whatever_the_batches(self):
        vae = WORLD.vae(WORLD.exact_posterior)
        x, novel = WORLD.sample(450), WORLD.sample(7) + 1
        found = Novelty(novel, {"s": surprise})(vae, x)
        torch.testing.assert_close(found.inside["s"], -WORLD.log_evidence(x))
        torch.testing.assert_close(found.outside["s"], -WORLD.log_evidence(novel))
        assert set(found.tensors()) == {"s, given", "s, novel"}

    def test_data_that_the_model_likes_better_are_no_novelty_by_log_p(self):
        """At the mean itself p(x) is highest; typicality is not taken in."""
        vae = WORLD.vae(WORLD.exact_posterior)
        simple = WORLD.mean + 0.01 * torch.randn(200, 3, dtype=torch.float64)
        entropy = WORLD.marginal.entropy().item()
        scores = {"-log p": surprise, "typicality": partial(typicality, entropy=entropy)}
        found = Novelty(simple, scores)(vae, WORLD.sample(200))
        assert found.quantities["-log p"].mean < 0.1
        assert found.quantities["typicality"].mean > 0.7
        assert "By -log p, the novel data rate as more familiar" in found.verdict[1]

    @pytest.mark.slow
    def test_digits_on_their_side_are_novel_to_a_vae_of_digits(self):
        digits = pv.data.load("digits")
        torch.manual_seed(0)
        vae = pv.VAE(
            prior=pv.priors.StandardNormal(8),
            likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(8, 64, 64)),
            guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 64, 2 * 8)),
        )
        pv.fit(vae, digits.train, epochs=40, batch_size=100, callbacks=[])
        x = digits.test.draw()
        found = pv.evaluate(
            vae, x, particles=10, diagnostics=(Novelty(rotated(x, digits.shape)),)
        ).findings["novelty"]
        for area in found.quantities.values():
            assert area.mean - 0.5 > 4 * area.error_over_data

    def test_context_goes_with_its_data(self):
        seen = []

        def score(target, x, labels):
            seen.append((x - labels).abs().max())
            return x[:, 0]

        x, novel = torch.rand(500, 2), torch.rand(30, 2)
        Novelty((novel, novel), {"first": score}, limit=400)(WORLD.vae(), x, x)
        assert max(seen) == 0

    def test_a_context_of_as_many_rows_as_are_scored_is_not_cut(self):
        shared, label = torch.arange(300.0), torch.arange(700.0)

        def score(target, x, label, shared):
            assert len(shared) == 300
            return label + shared.sum()

        x = torch.rand(700, 3)
        novelty = Novelty((x, label, shared), {"score": score}, limit=300)
        found = novelty(WORLD.vae(), x, label, shared)
        for scores in (found.inside, found.outside):
            assert torch.equal(scores["score"], label[:300] + shared.sum())

    def test_an_interrupt_keeps_both_kinds(self):
        calls = []

        def tiring(target, x):
            calls.append(len(x))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return x[:, 0]

        found = Novelty(torch.rand(300, 3), {"first": tiring})(WORLD.vae(), torch.rand(500, 3))
        assert found.title.startswith("partial: 267 of 800 data, 100 of them novel")
        assert len(found.inside["first"]) == 167

    def test_what_cannot_work_is_refused(self):
        x = WORLD.sample(5)
        with pytest.raises(ValueError, match="at least one score"):
            Novelty(x, {})(WORLD.vae(), x)
        with pytest.raises(ValueError, match="at least one datum of each kind; got limit=0"):
            Novelty(x, limit=0)(WORLD.vae(), x)
        with pytest.raises(ValueError, match=r"'bad' returned shape \(5, 3\)"):
            Novelty(x, {"bad": lambda target, x: x})(WORLD.vae(), x)
        with pytest.raises(ValueError, match="refinement needs a guide with a network"):
            Novelty(x)(WORLD.vae(), x)
        with pytest.raises(ValueError, match="NaN"):
            Novelty(x * math.nan, {"s": surprise})(WORLD.vae(), x)


class TestRotated:
    def test_turns_each_channel_of_each_image(self):
        x = torch.randn(4, 3 * 5 * 5)
        turned = rotated(x, (3, 5, 5))
        image, before = turned.reshape(4, 3, 5, 5), x.reshape(4, 3, 5, 5)
        assert torch.equal(image[:, :, 0, 0], before[:, :, 0, 4]), "the right edge comes on top"
        assert torch.equal(rotated(turned, (3, 5, 5), turns=3), x)
        assert rotated(x, (3, 25, 1), turns=2).shape == x.shape

    def test_shapes_that_turning_changes_are_refused(self):
        with pytest.raises(ValueError, match="rotated by 180"):
            rotated(torch.zeros(2, 6), (1, 2, 3))
        with pytest.raises(ValueError, match="flat vectors"):
            rotated(torch.zeros(2, 6), (1, 2, 2))


def test_the_figure_shows_every_score():
    inside, outside = torch.randn(300), torch.randn(200) + 1
    inside[0] = 1e6
    found = NoveltyFinding(
        {"a": inside, "b": -inside, "c": torch.ones(3)},
        {"a": outside, "b": -outside, "c": torch.ones(2)},
        500,
    )
    axes = draw(found).axes
    assert (
        axes[0].get_title(loc="left").startswith(f"AUROC {found.quantities['a'].mean:.3f} ± 0.0")
    )
    for panel in axes[:3]:
        for bars in panel.containers:
            area = sum(bar.get_height() * bar.get_width() for bar in bars)
            assert area == pytest.approx(1), "none is left out"


def test_a_score_at_chance_is_not_said_to_be_turned_over():
    scores = torch.arange(20.0)
    found = NoveltyFinding({"s": scores + 0.5}, {"s": scores}, wanted=40)
    assert 0.4 < found.quantities["s"].mean < 0.5
    assert len(found.verdict) == 1


def test_the_verdict_goes_by_the_best_score():
    low = torch.arange(10.0)
    found = NoveltyFinding({"good": low, "poor": low}, {"good": low + 5, "poor": low}, wanted=20)
    # Of 100 pairs 85 are in order and 5 are ties.
    said = "The best score is good: a novel datum scores higher than a familiar one in 87.5%"
    assert found.verdict[0].startswith(said)


def small(likelihood):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        likelihood(pv.nets.MLP(2, 5, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 5, 4)),
    )


def test_regret_takes_its_step_size():
    target, x, found = small(pv.likelihoods.Normal), torch.randn(6, 3), []
    for lr in (1e-9, 0.2):
        torch.manual_seed(0)
        regret = likelihood_regret(target, x, lr=lr, steps=20, particles=500)
        found.append(regret.mean().item())
    assert abs(found[0]) < 0.1 < found[1]


@pytest.mark.parametrize("novel", [True, False])
def test_data_that_the_likelihood_does_not_take_are_refused(novel):
    grey, black = torch.full((4, 3), 0.5), torch.zeros(4, 3)
    novelty = Novelty(grey if novel else black, {"size": lambda target, x: x.sum(1)})
    with pytest.raises(ValueError, match="Bernoulli takes values that are 0 or 1"):
        novelty(small(pv.likelihoods.Bernoulli), black if novel else grey)


@pytest.mark.parametrize(("data", "told"), [(3, False), (4, True)])
def test_data_that_chance_may_separate_are_not_said_to_be_turned_over(data, told):
    """Of 6 data, 3 of them novel, 1 of 20 orders has them below: a two-sided p-value of 0.1."""
    scores = torch.arange(float(data))
    found = NoveltyFinding({"s": scores}, {"s": scores - 9}, wanted=2 * data).verdict
    assert any("rate as more familiar" in said for said in found) == told
    assert found[0].endswith("as chance explains.") != told


def test_the_verdict_names_no_more_wrong_scores_than_chance_allows():
    """Two errors of DeLong's are a test at about 5%, and separation one at 5% at most."""
    found = []
    for size in (2, 3, 5, 10):
        pairs = (
            NoveltyFinding(*({"s": torch.randn(size)} for _ in "ab"), 2 * size) for _ in range(500)
        )
        found += [any("more familiar" in said for said in pair.verdict) for pair in pairs]
    assert sum(found) / len(found) < 0.06


def test_a_score_that_is_no_number_is_missing_and_the_others_are_kept():
    scores = torch.arange(9.0)
    broken = scores.masked_fill(scores == 4, math.nan)
    given = {"good": scores, "bad": broken, "endless": scores / 0}
    found = NoveltyFinding(given, {**given, "good": scores + 5}, wanted=18)
    assert math.isnan(found.quantities["bad"].mean)
    assert found.verdict[-2] == "bad has no area: it is not a number on 2 data."
    assert found.verdict[0].startswith("The best score is good")
    assert str(found)
    assert [axes.get_title(loc="left")[:5] for axes in draw(found).axes[:3]] == ["AUROC", "", ""]


def test_infinite_scores_are_drawn_in_the_outermost_bins():
    scores = torch.arange(9.0)
    found = NoveltyFinding({"s": scores}, {"s": scores / (scores < 5)}, wanted=18)
    outside = draw(found).axes[0].containers[1]
    heights = [bar.get_height() * bar.get_width() for bar in outside]
    assert sum(heights) == pytest.approx(1)
    assert heights[-1] == pytest.approx(4 / 9)


def test_an_area_without_an_error_is_told():
    scores = torch.arange(5.0)
    sure = NoveltyFinding({"s": scores}, {"s": scores + 9}, wanted=10).verdict
    assert sure[1].startswith("By s, all pairs of these 5 and 5 data are separated, so there is")
    alone = NoveltyFinding({"s": scores}, {"s": scores[:1] + 0.5}, wanted=6).verdict
    assert alone[1].startswith("One datum of a kind has no error over data")
    assert len(NoveltyFinding({"s": scores}, {"s": scores + 1}, wanted=10).verdict) == 1
