"""Predictive checks are exact where they say so, find what is wrong, and know their posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from worlds import LinearGaussian, Mixture, data_plate

import pyrovae as pv
from pyrovae.measure.discrepancies import (
    DISCREPANCIES,
    effective_rank,
    kurtosis,
    nearest_neighbor,
    standard_deviation,
)
from pyrovae.measure.findings import NotMeasurable
from pyrovae.measure.predictive_checks import FALSE_ALARMS, LIKELIHOOD, PredictiveCheck
from pyrovae.plots import predictive_checks as draw

REPETITIONS = 200
Z95 = 1.96
TWO = {"standard deviation": standard_deviation, "kurtosis": kurtosis}


class TestPriorReplication:
    def test_p_values_are_uniform_where_the_model_is_right(self):
        """200 data sets of the model: ranks among 79 draws are uniform on 80 places.

        In tenths, a chi-squared of 9 degrees of freedom: a right check fails once in 10,000. Each
        of two discrepancies is outside at the lowest and the highest rank, so false alarms come
        5% of the time at most: 10 on average, and four binomial errors more.
        """
        world = LinearGaussian()
        p, alarms = {name: [] for name in TWO}, 0
        for x in world.sample(200 * 20).split(20):
            found = PredictiveCheck(TWO, draws=79)(world.vae(), x)
            alarms += bool(found.outside)
            for name in TWO:
                p[name].append(found.p_value(name).mean)
        for values in p.values():
            tenths = torch.histc(torch.tensor(values) - 1 / 160, 10, 0.0, 1.0)
            chi = ((tenths - 20).square() / 20).sum().item()
            assert scipy.stats.chi2.sf(chi, 9) > 1e-4, tenths
        assert 0 < alarms <= 200 * FALSE_ALARMS + 4 * math.sqrt(200 * FALSE_ALARMS)

    def test_the_interval_of_a_p_value_covers_it_95_times_in_100(self):
        """The mean of normal data is normal: its p-value is known; 200 seeds on the same data.

        With fewer draws the steps of 1 / 201 in the estimate would show in the coverage.
        """
        world = LinearGaussian()
        x = world.sample(20)
        variance = world.marginal.covariance_matrix.sum() / 9 / 20
        above = (world.mean.mean() - x.mean()) / variance.sqrt()
        truth = torch.distributions.Normal(0.0, 1.0).cdf(above).item()
        assert 0.05 < truth < 0.95
        check = PredictiveCheck({"mean": torch.mean}, draws=200)
        hits = 0
        for _ in range(REPETITIONS):
            p = check(world.vae(), x).p_value("mean")
            hits += abs(p.mean - truth) <= Z95 * p.error_over_particles
        assert 0.92 <= hits / REPETITIONS <= 0.98

    def test_the_table_tells_what_the_model_draws(self):
        """The mean of 50 data drawn is normal, of known mean and spread: four errors each."""
        world = LinearGaussian()
        found = PredictiveCheck({"mean": torch.mean}, draws=1000)(world.vae(), world.sample(50))
        drawn = found.quantities["mean: drawn"]
        spread = (world.marginal.covariance_matrix.sum() / 9 / 50).sqrt().item()
        assert abs(drawn.mean - world.mean.mean()) < 4 * spread / math.sqrt(1000)
        assert abs(drawn.error_over_data / spread - 1) < 4 / math.sqrt(2 * 999)
        assert drawn.error_over_particles == pytest.approx(drawn.error_over_data / math.sqrt(1000))

    def test_heavy_tails_are_found_by_the_kurtosis(self):
        world = LinearGaussian()
        tails = dist.StudentT(3.0, 0.0, world.noise).sample((300, 3)).double()
        x = torch.randn(300, 2, dtype=torch.float64) @ world.weight.T + world.mean + tails
        found = PredictiveCheck()(world.vae(), x)
        assert "kurtosis" in found.outside
        assert "kurtosis (real" in found.verdict[0]
        assert found.verdict[0].startswith("Model and data differ in:")

    @pytest.mark.parametrize("overdispersed", [True, False])
    def test_overdispersed_counts_are_found_under_poisson_and_poisson_ones_are_not(
        self, overdispersed
    ):
        rates = torch.tensor([1.0, 4.0, 9.0])

        def poisson(z, x=None):
            rate = rates * (0.3 * z).exp()
            return pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

        vae = pv.VAE(pv.priors.StandardNormal(1), poisson, lambda x: None)
        x = vae.sample(200)
        if overdispersed:
            x = torch.poisson(x * torch.distributions.Gamma(3.0, 3.0).sample(x.shape))
        found = PredictiveCheck()(vae, x)
        assert {"standard deviation", "share of zeros"} <= set(found.outside) or not overdispersed
        assert not found.outside or overdispersed
        assert (
            "No difference between model and data was found in 6" in found.verdict[0]
        ) is not overdispersed

    def test_clumps_are_found_by_the_neighbors(self):
        """Four narrow clumps against a normal of the same mean and variance."""
        vae = pv.VAE(
            pv.priors.StandardNormal(2),
            lambda z, x=None: pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x),
            lambda x: None,
        )
        clumps = torch.randint(0, 2, (200, 2)) * 2.0 - 1
        found = PredictiveCheck()(vae, clumps + 0.1 * torch.randn(200, 2))
        assert "nearest neighbor" in found.outside


class TestPosteriorReplication:
    def squares(self, world, x, draws=2000):
        """Return |x - E[x | z]|^2 / s^2 of each datum at draws z of the exact posterior."""
        z = torch.distributions.MultivariateNormal(
            world.posterior_mean(x), scale_tril=world.scale_tril
        ).sample((draws,))
        return ((x - world.mean - z @ world.weight.T) / world.noise).square().sum(-1)

    @pytest.mark.parametrize("posterior", ["exact_posterior", "off_posterior"])
    def test_the_realised_p_value_is_that_of_the_exact_posterior(self, posterior):
        """Given z, the squares of x_rep about its mean are chi-squared, of 3 for each datum.

        The off guide's draws are put right by their weights, but for a bias of 1 / K.
        """
        world = LinearGaussian()
        x = world.sample(30)
        check = PredictiveCheck({}, replication="posterior", draws=4000, particles=1000)
        found = check(world.vae(getattr(world, posterior)), x)
        squares = self.squares(world, x)
        p = found.p_value(LIKELIHOOD)
        exact = torch.tensor(scipy.stats.chi2.cdf(squares.sum(1), 90))
        over_z = exact.std().item() * math.sqrt(1 / 2000 + 1 / 4000)
        noise = math.hypot(p.error_over_particles, over_z, 1e-3)
        assert abs(p.mean - exact.mean().item()) < 4 * noise
        each = torch.tensor(scipy.stats.chi2.sf(squares, 3)).mean(0)
        # Resampling from 1,000 particles adds the error of that many to each datum's.
        error = (each * (1 - each) * (1 / 4000 + 1 / 1000 + 1 / 2000)).sqrt()
        assert ((found.tail - each).abs() < 4.5 * error + 1e-3).all()

    def test_a_wrong_noise_is_found_and_a_right_one_is_not(self):
        world = LinearGaussian()
        vae, x = world.vae(world.exact_posterior), world.sample(200)
        check = PredictiveCheck(replication="posterior", limit=None)
        assert LIKELIHOOD not in check(vae, x).outside
        noisy = x + 1.2 * torch.randn_like(x)
        found = check(vae, noisy)
        assert LIKELIHOOD in found.outside
        assert found.tail.mean() < 0.3
        assert "concentrate around 1/2" in found.verdict[1]

    def test_a_discrepancy_may_look_at_the_latents(self):
        world = LinearGaussian()
        seen = []

        def square(x, z):
            seen.append((x.shape, z["z"].shape))
            return (x - z["z"] @ world.weight.T - world.mean).square().mean()

        found = PredictiveCheck({}, {"square": square}, replication="posterior", draws=79)(
            world.vae(world.exact_posterior), world.sample(20)
        )
        assert set(seen) == {((20, 3), (20, 2))}
        # log p(x | z) falls as the square rises: the two p-values add up to 1, ties apart.
        total = found.p_value("square").mean + found.p_value(LIKELIHOOD).mean
        assert total == pytest.approx(1 + 1 / 80)

    def test_a_latent_that_the_guide_leaves_out_is_refused(self):
        world = Mixture()
        check = PredictiveCheck(replication="posterior")
        with pytest.raises(ValueError, match=r"the guide does not sample \['c'\]"):
            check((world.model_enumerated, world.guide_without_class), world.sample(9))

    def test_data_that_no_particle_fits_are_refused(self):
        world = LinearGaussian()

        def impossible(z, x=None):
            world.likelihood(z, x)
            pyro.factor("impossible", torch.full(z.shape[:-1], -torch.inf, dtype=z.dtype))

        vae = pv.VAE(world.prior, impossible, world.off_posterior)
        with pytest.raises(ValueError, match="all weights of 3 data are zero"):
            PredictiveCheck(replication="posterior")(vae, world.sample(3))


class TestDiscrepancies:
    def test_against_numpy_and_scipy(self):
        x = torch.randn(60, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
        table = x.numpy()
        centered = table - table.mean(0)
        assert standard_deviation(x).item() == pytest.approx(math.sqrt(table.var(0).mean()))
        assert kurtosis(x[:, :1]).item() == pytest.approx(
            scipy.stats.kurtosis(table[:, 0], fisher=False)
        )
        spectrum = torch.linalg.svdvals(torch.from_numpy(centered)).square()
        rank = spectrum.sum().square() / spectrum.square().sum()
        assert effective_rank(x).item() == pytest.approx(rank.item())
        assert effective_rank(x[:4]).item() < 3 + 1e-9, "as many data as leave three directions"
        tree = scipy.spatial.cKDTree(table)
        assert nearest_neighbor(x).item() == pytest.approx(tree.query(table, k=2)[0][:, 1].mean())

    @pytest.mark.parametrize("name", DISCREPANCIES)
    def test_constant_data_have_a_number(self, name):
        assert DISCREPANCIES[name](torch.zeros(7, 2, dtype=torch.float64)).isfinite()


class TestUse:
    def test_context_reaches_the_programs_and_the_data_are_cut_with_it(self):
        def likelihood(z, x, labels):
            assert labels.shape == (5, 1)
            return pyro.sample("x", dist.Normal(labels.expand(5, 2), 1e-3).to_event(1), obs=x)

        vae = pv.VAE(
            lambda labels: pv.priors.StandardNormal(2)(),
            likelihood,
            lambda x, labels: pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)),
        )
        labels = torch.arange(9.0)[:, None]
        for replication in ("prior", "posterior"):
            check = PredictiveCheck({"mean": torch.mean}, replication=replication, limit=5)
            found = check(vae, labels.expand(9, 2), labels)
            assert found.data == 5
            torch.testing.assert_close(
                found.replicated["mean"], torch.full((500,), 2.0).double(), rtol=0, atol=1e-2
            )

    def test_what_all_data_share_is_never_cut(self, monkeypatch):
        """It has five rows, as many as the data that are kept, whose latents hang on all of them.

        With all of it every z is near 2.5 - 2, and data drawn again are as alike as their noise of
        0.1 and 200 particles leave them; cut along with x, z would be 2, 0 and -1.5.
        """
        monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 2 * 256 * 200)

        def likelihood(z, x, shared):
            return pyro.sample("x", dist.Normal(z + shared.mean(), 0.1).to_event(1), obs=x)

        vae = pv.VAE(
            lambda shared: pv.priors.StandardNormal(1)(),
            likelihood,
            lambda x, shared: pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)),
        )
        check = PredictiveCheck(
            {"spread": torch.std}, replication="posterior", limit=5, particles=200, draws=80
        )
        found = check(vae, torch.full((9, 1), 2.5), torch.arange(5.0)[:, None])
        assert found.replicated["spread"].mean() < 0.3

    def test_evaluate_keeps_what_it_finds(self):
        world = LinearGaussian()
        x = world.sample(30)
        check = PredictiveCheck(draws=300)
        report = pv.evaluate(world.vae(), x, particles=5, diagnostics=(check,), seed=3)
        again = pv.evaluate(world.vae(), x, particles=5, diagnostics=(check,), seed=3)
        assert str(report.findings["predictive_check"]) == str(again.findings["predictive_check"])
        assert "kurtosis: p" in str(report)

    def test_an_interrupt_keeps_the_draws_that_are_done(self, monkeypatch):
        monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 20 * 256 * 30)
        calls = []

        def tiring(x):
            calls.append(x)
            if len(calls) == 100:
                raise KeyboardInterrupt
            return x.mean()

        world = LinearGaussian()
        found = PredictiveCheck({"mean": tiring}, draws=300)(world.vae(), world.sample(20))
        assert found.title.startswith("partial: 90 of 300 draws")
        assert len(found.replicated["mean"]) == 90

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"replication": "mixed"}, "'prior' or 'posterior'; got 'mixed'"),
            ({"draws": 238}, "6 discrepancies need at least 239 draws.*got draws=238"),
            ({"discrepancies": {}}, "different names"),
            ({"realized": {"mean": torch.mean}}, "replication='posterior'"),
            (
                {"realized": {"mean": torch.mean}, "replication": "posterior"},
                "different names",
            ),
            ({"particles": 0}, "at least one particle"),
            ({"limit": 1}, "two data"),
        ],
    )
    def test_settings_that_cannot_work_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            PredictiveCheck(**settings)

    def test_programs_that_cannot_work_are_refused(self):
        world = LinearGaussian()
        x = world.sample(9)
        rows = PredictiveCheck({"rows": lambda x: x.mean(1)}, draws=50)
        with pytest.raises(ValueError, match=r"'rows' returned a tensor of shape \(9,\)"):
            rows(world.vae(), x)
        undefined = PredictiveCheck({"log": lambda x: x.log().mean()}, draws=50)
        with pytest.raises(ValueError, match="'log' returned NaN"):
            undefined(world.vae(), x)
        other = pv.VAE(
            world.prior,
            lambda z, x=None: pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=x),
            world.off_posterior,
        )
        with pytest.raises(NotMeasurable, match="needs a site named 'x'"):
            PredictiveCheck()(other, x)


def test_the_figure_shows_real_and_drawn():
    world = LinearGaussian()
    found = PredictiveCheck(replication="posterior")(world.vae(), world.sample(40))
    figure = draw(found)
    assert len(figure.axes) == 9
    for axes, name in zip(figure.axes, found.real, strict=False):
        assert sum(bar.get_height() for bar in axes.containers[0]) == 500
        (line,) = axes.lines
        assert line.get_xdata()[0] == (0 if name == LIKELIHOOD else found.real[name][0].item())
        assert axes.get_title(loc="left") == f"{name}: p = {found.p_value(name).mean:.3f}"


def test_ties_count_on_both_sides():
    """A share of zeros in continuous data always ties, and a right model must not be flagged."""
    world, tied = LinearGaussian(), {"zero": lambda x: 0 * x.mean()}
    found = PredictiveCheck(tied, draws=60)(world.vae(), world.sample(5))
    assert found.p_value("zero").mean == 1.0
    assert found.outside == []


def test_the_error_of_a_real_value_is_that_of_its_mean():
    world = LinearGaussian()
    check = PredictiveCheck({}, replication="posterior", draws=100, particles=20)
    found = check(world.vae(), world.sample(5))
    error = found.quantities[f"{LIKELIHOOD}: real"].error_over_particles
    assert error == pytest.approx(found.real[LIKELIHOOD].std().item() / 10)


def test_no_p_value_of_a_datum_is_zero():
    world = LinearGaussian()
    x = world.sample(5)
    x[0] += 100.0 * torch.tensor([1.0, -1.0, 1.0])
    check = PredictiveCheck({}, replication="posterior", draws=49, particles=20)
    assert check(world.vae(), x).tail[0].item() == pytest.approx(1 / 50)


def test_each_draw_has_latents_of_its_own_however_few_go_in_a_pass(monkeypatch):
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 5 * 256)
    world, realized = LinearGaussian(), {"z": lambda x, z: z["z"].mean()}
    check = PredictiveCheck({}, realized, "posterior", draws=80, particles=50)
    assert len(check(world.vae(), world.sample(5)).real["z"].unique()) == 80


def test_the_verdict_names_the_worst_sample_size():
    world = LinearGaussian()
    check = PredictiveCheck({}, replication="posterior", draws=80, particles=50)
    found = check(world.vae(), world.sample(9))
    size = found.effective_sample_size
    assert f"{size.mean():.1f} on average, {size.min():.1f} at worst" in found.verdict[1]


def test_neighbors_are_sought_among_the_first_200():
    x = torch.randn(300, 2)
    assert nearest_neighbor(x) == nearest_neighbor(x[:200])


def test_a_pair_of_programs_is_checked_as_its_vae_is():
    world, x = LinearGaussian(), LinearGaussian().sample(20)
    found = []
    for target in (world.vae(), (world.model, world.off_guide)):
        torch.manual_seed(0)
        check = PredictiveCheck(draws=400, replication="posterior", particles=20)
        found.append(check(target, x))
    for name, values in found[0].replicated.items():
        torch.testing.assert_close(found[1].replicated[name], values)


def test_a_program_that_takes_a_size_draws_by_itself():
    """As one does that scores the second number given the first, and draws one after the other."""

    def model(x, size=None):
        with data_plate(x, size):
            before = dist.Normal(5.0, 1.0).sample((size, 1)) if x is None else x[:, :1]
            loc = torch.cat([torch.full_like(before, 5.0), before], -1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    real = torch.zeros(50, 2)
    found = PredictiveCheck({"mean": torch.mean}, draws=40)((model, lambda x: None), real)
    # The mean of 40 means of 100 numbers has an error of some 0.02; given the real ones it is 2.5.
    assert found.replicated["mean"].mean().item() == pytest.approx(5.0, abs=0.1)


def test_a_pair_that_draws_otherwise_than_it_scores_is_refused():
    def model(x):
        with data_plate(x):
            pyro.sample("x", dist.Normal(x.flip(0), 1.0).to_event(1), obs=x)

    with pytest.raises(NotMeasurable, match="another density than the one it scores x with"):
        PredictiveCheck(draws=300)((model, lambda x: None), torch.randn(6, 2))


def test_discrepancies_that_cannot_differ_are_called_silent():
    found = PredictiveCheck(draws=300)(LinearGaussian().vae(), LinearGaussian().sample(1))
    assert "standard deviation" in found.silent
    agreed = len(found.real) - len(found.silent)
    assert f"was found in {agreed} discrepancies" in found.verdict[0]
    assert found.verdict[-1].startswith("These discrepancies have the same value")
    alone = PredictiveCheck({"zero": lambda x: 0 * x.mean()}, draws=60)
    said = alone(LinearGaussian().vae(), LinearGaussian().sample(5)).verdict
    assert said[0].startswith("Nothing was tested: every discrepancy has the same value")


def test_a_poor_guide_of_a_correct_model_is_no_evidence_against_the_model():
    """Latents are three widths off and too narrow, so that real data fit them badly."""
    world = LinearGaussian()

    def off(x):
        loc = world.posterior_mean(x) + 3 * world.off_scale
        return pyro.sample("z", dist.Normal(loc, 0.3 * world.off_scale).to_event(1))

    check = PredictiveCheck({}, replication="posterior", draws=80)
    found = check(world.vae(off), world.sample(50))
    assert found.outside == ["log p(x | z)"]
    assert found.effective_sample_size.max() < 20
    assert found.verdict[0].startswith("Drawn and real data differ in: log p(x | z)")
    assert "for 50 data, whose latents may be no draws from the posterior" in found.verdict[1]
    sure = check(world.vae(world.exact_posterior), world.sample(50))
    assert "The test is conservative" in sure.verdict[1]
