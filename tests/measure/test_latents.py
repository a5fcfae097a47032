"""The latent space's numbers against exact values, and the verdict on its health."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from aggregates import Aggregate, CorrelatedData
from coded import Coded, assert_within
from scipy import stats
from torch import distributions as td
from worlds import Hierarchy, LinearGaussian, Mixture, data_plate, random

import pyrovae as pv
from pyrovae.measure.findings import Number
from pyrovae.measure.latents import aggregate_posterior, latents
from pyrovae.measure.latents.active_units import Activity
from pyrovae.measure.latents.aggregate_posterior import Posterior
from pyrovae.measure.latents.draws import LatentDraws, draw_latents
from pyrovae.measure.latents.latents import Latents, LatentsFinding
from pyrovae.measure.latents.sites import latent_sites
from pyrovae.weights.given import Given

REPETITIONS = 200
Z95 = 1.96
DATA = 400

PARTS = (latents.INFORMATION, latents.CORRELATION, latents.DIMENSION_WISE)


def holds(number, truth, error):
    return abs(number.mean - truth) <= Z95 * error


def mean_spread(world, n):
    """Draw how far log p(x | z) is apart at two draws of the prior; with standard error."""
    x, linear = world.sample(n), world.world
    loc = torch.randn(2, n, linear.latents, dtype=torch.float64) @ linear.weight.T + linear.mean
    log_p = td.Normal(loc, linear.noise).log_prob(x).sum(-1)
    apart = (log_p[0] - log_p[1]).abs()
    return apart.mean().item(), apart.std().item() / math.sqrt(n)


class TestPartsOfTheRate:
    def test_are_those_of_the_mixture_over_these_data(self):
        """Numeric integrals over a grid give the exact parts for five data in two dimensions."""
        world, x = Coded(0.4), random(9, 5, 2)
        steps = torch.linspace(-6, 6, 601, dtype=torch.float64)
        z = torch.cartesian_prod(steps, steps)
        cell = (steps[1] - steps[0]).square()
        log_q = world.log_density(x, z)
        marginals = [
            (td.Normal(x[:, j], world.scale).log_prob(z[:, j : j + 1])).logsumexp(-1) - math.log(5)
            for j in range(2)
        ]
        log_p = td.Normal(0.0, 1.0).log_prob(z).sum(-1)
        q = log_q.exp() * cell
        assert q.sum().item() == pytest.approx(1, abs=1e-9)
        negative_entropy = (q * log_q).sum().item()
        own = -2 * (0.5 + 0.5 * math.log(2 * math.pi) + math.log(world.scale))
        product = (q * sum(marginals)).sum().item()
        cross = (q * log_p).sum().item()
        found = Latents(draws=20_000)((world.model, world.guide), x).numbers
        assert_within(found[latents.INFORMATION], own - negative_entropy)
        assert_within(found[latents.MARGINAL], negative_entropy - cross)
        assert_within(found[latents.CORRELATION], negative_entropy - product)
        assert_within(found[latents.DIMENSION_WISE], product - cross)
        missed = ((log_q < math.log(0.05) + log_p) * log_p.exp() * cell).sum().item()
        outside = ((log_p < math.log(0.05) + log_q) * q).sum().item()
        assert missed > 0.05
        assert_within(found[latents.HOLES], missed)
        assert_within(found[latents.OUTSIDE], outside)

    def test_add_up_to_the_rate(self):
        world = CorrelatedData()
        found = Latents(draws=600)(world.vae, world.sample(100)).numbers
        assert sum(found[name].mean for name in PARTS) == pytest.approx(found[latents.RATE].mean)
        for low, high in (
            (latents.INFORMATION, latents.MARGINAL),
            (latents.AT_MOST, latents.AT_LEAST),
        ):
            total = found[low].mean + found[high].mean
            assert total == pytest.approx(found[latents.RATE].mean)

    def test_approach_the_populations_from_either_side(self):
        """To order 1/N, I is off by half the mean of Var_x q(z|x) / q(z)^2 over N: down and up."""
        world = CorrelatedData()
        aggregate, size, repetitions = Aggregate(world), 60, 150
        whole, each = (v / 2 / size for v in aggregate.relative_variance())
        information, correlation, dimension_wise = aggregate.parts.tolist()
        expected = {
            latents.INFORMATION: information - whole,
            latents.AT_MOST: information + whole,
            latents.MARGINAL: correlation + dimension_wise + whole,
            latents.AT_LEAST: correlation + dimension_wise - whole,
            latents.CORRELATION: correlation + whole - each,
            latents.DIMENSION_WISE: dimension_wise + each,
        }
        runs = [
            Latents(draws=600)(world.vae, world.sample(size)).numbers for _ in range(repetitions)
        ]
        for name, truth in expected.items():
            means = torch.tensor([run[name].mean for run in runs])
            error = means.std().item() / math.sqrt(repetitions)
            # The next order, of 1/N^2, is below a tenth of what this one corrects.
            assert abs(means.mean().item() - truth) < 4 * error + 0.1 * whole, name

    def test_information_of_the_exact_posterior_is_the_log_determinant(self):
        world = LinearGaussian()
        truth = -0.5 * world.covariance.logdet().item()
        x = world.sample(2000)
        found = Latents(draws=4000)((world.model, world.exact_guide), x).numbers
        low, high = found[latents.INFORMATION], found[latents.AT_MOST]
        assert low.mean < high.mean < low.mean + 0.02
        assert low.mean - 4 * low.error_over_data < truth < high.mean + 4 * low.error_over_data
        assert found[latents.AT_LEAST].mean < 0.005 > abs(found[latents.MARGINAL].mean) - 0.005
        assert found[latents.CORRELATION].mean < 0.01

    def test_information_meets_its_ceiling_and_the_finding_says_so(self):
        """Codes that never overlap tell each datum: I = log N of these data, no bound above."""
        world, x = Coded(0.01, width=20), random(3, 50, 20)
        finding = Latents(draws=200)((world.model, world.guide), x)
        assert finding.numbers[latents.INFORMATION].mean == pytest.approx(math.log(50), abs=1e-9)
        assert finding.numbers[latents.AT_MOST].mean > 1000
        assert any("at most log N = 3.91" in sentence for sentence in finding.verdict)
        healthy = Latents(draws=200)((Coded(0.5).model, Coded(0.5).guide), random(3, 500, 2))
        assert not any("log N" in sentence for sentence in healthy.verdict)

    def test_intervals_over_data_cover_the_expectation_95_times_in_100(self):
        """Fresh data and draws each time; the parts of the rate, and active units."""
        world = CorrelatedData()
        aggregate = Aggregate(world)
        whole, each = (v / 2 / DATA for v in aggregate.relative_variance())
        information, correlation, dimension_wise = aggregate.parts.tolist()
        truth = {
            latents.RATE: information + correlation + dimension_wise,
            latents.INFORMATION: information - whole,
            latents.AT_MOST: information + whole,
            latents.MARGINAL: correlation + dimension_wise + whole,
            latents.AT_LEAST: correlation + dimension_wise - whole,
            latents.CORRELATION: correlation + whole - each,
            latents.DIMENSION_WISE: dimension_wise + each,
        }
        hits = dict.fromkeys([*truth, "variance"], 0)
        for _ in range(REPETITIONS):
            finding = Latents(draws=2 * DATA)(world.vae, world.sample(DATA))
            for name, value in truth.items():
                number = finding.numbers[name]
                hits[name] += holds(number, value, number.error_over_data)
            activity = finding.activity
            number = Number(activity.variance[0].item(), activity.error_over_data[0].item())
            hits["variance"] += holds(
                number, aggregate.of_means[0, 0].item(), number.error_over_data
            )
        assert all(0.92 <= count / REPETITIONS <= 0.98 for count in hits.values()), hits

    def test_intervals_of_the_decoders_use_of_z_cover_it_95_times_in_100(self):
        """Fresh data each time; log p(x | z) is quadratic in z, and heavy-tailed over the data."""
        world, size = CorrelatedData(), 2000
        weight, noise = world.world.weight, world.world.noise
        gain = world.guide.gain.detach()
        # Its own code gains the covariance of x and W z.
        cost = (weight @ gain @ world.covariance).trace().item() / noise**2
        spread, error = mean_spread(world, 2_000_000)
        posterior = Posterior(world.vae.guide, latent_sites(world.vae.guide, world.sample(8)))
        hits = {"cost": 0, "spread": 0}
        for _ in range(REPETITIONS):
            draws = draw_latents(world.vae.model, posterior, 2, Given(world.sample(size)))
            found = draws.cost_of_swapping()
            hits["cost"] += holds(found, cost, found.error_over_data)
            found = draws.spread(size)
            # The reference is itself an estimate: its error must not matter.
            assert error < 0.1 * found.error_over_data
            hits["spread"] += holds(found, spread, found.error_over_data)
        assert all(0.92 <= count / REPETITIONS <= 0.98 for count in hits.values()), hits

    def test_intervals_over_draws_cover_the_truth_of_these_data_95_times_in_100(self):
        """The same data, 200 seeds, half of the data drawn from; numeric integrals are exact."""
        world, x = Coded(0.5, width=1), 1.0 + 1.2 * random(5, 300, 1)
        z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)
        cell = 24 / 4000
        log_q, log_p = world.log_density(x, z), td.Normal(0.0, 1.0).log_prob(z).squeeze(-1)
        q, p = log_q.exp() * cell, log_p.exp() * cell
        own = -(0.5 + 0.5 * math.log(2 * math.pi) + math.log(world.scale))
        marginal = (q * (log_q - log_p)).sum().item()
        information = own - (q * log_q).sum().item()
        truth = {
            latents.RATE: information + marginal,
            latents.INFORMATION: information,
            latents.MARGINAL: marginal,
            latents.DIMENSION_WISE: marginal,
            latents.HOLES: (p * (log_q < math.log(0.5) + log_p)).sum().item(),
            latents.OUTSIDE: (q * (log_p < math.log(0.5) + log_q)).sum().item(),
        }
        assert 0.2 < truth[latents.OUTSIDE] < 0.8
        assert 0.05 < truth[latents.HOLES] < 0.8
        hits = dict.fromkeys(truth, 0)
        for _ in range(REPETITIONS):
            numbers = Latents(draws=300, hole=0.5)((world.model, world.guide), x).numbers
            for name, value in truth.items():
                hits[name] += holds(numbers[name], value, numbers[name].error_over_particles)
        assert all(0.92 <= count / REPETITIONS <= 0.98 for count in hits.values()), hits


class TestAnyProgram:
    @pytest.mark.parametrize("guide", ["exact_guide", "exact_guide_upwards"])
    def test_a_hierarchy_is_measured_as_one_latent(self, guide):
        world = Hierarchy()
        x = world.sample(300)
        found = Latents()((world.model, getattr(world, guide)), x)
        assert_within(found.numbers[latents.RATE], world.posterior_kl(x).mean().item())
        posterior = world.given([0, 1, 2], [3, 4, 5], x[0])
        log_ratio = world.covariance[:3, :3].logdet() - posterior.covariance_matrix.logdet()
        truth = 0.5 * log_ratio.item()
        low, high = (found.numbers[name] for name in (latents.INFORMATION, latents.AT_MOST))
        assert low.mean - 4 * low.error_over_data < truth < high.mean + 4 * high.error_over_data
        assert latents.CORRELATION not in found.numbers
        assert any(s.startswith("No total correlation") for s in found.verdict)

    @pytest.mark.parametrize("model", ["model", "model_enumerated"])
    @pytest.mark.parametrize("guide", ["guide", "guide_enumerated"])
    def test_a_class_is_counted_exactly(self, model, guide):
        world = Mixture()
        x = world.sample(100)
        classes = world.off_classes(x)
        mean = classes.mean(0)
        information = (classes * (classes.log() - mean.log())).sum(-1).mean().item()
        marginal = (mean * (mean.log() - world.weights.log())).sum().item()
        found = Latents(draws=10_000)((getattr(world, model), getattr(world, guide)), x)
        assert_within(found.numbers[latents.INFORMATION], information)
        assert_within(found.numbers[latents.MARGINAL], marginal)
        assert "active units" not in found.quantities
        assert any(sentence.startswith("Discrete sites: c.") for sentence in found.verdict)

    def test_a_class_that_the_model_alone_sums_out_leaves_the_prior_a_mixture(self):
        world = Mixture(continuous=True)
        x = world.sample(50)
        found = Latents(draws=10_000)((world.model_enumerated, world.guide_without_class), x)
        q = td.Normal(0.8 * x, 1.1)
        z = q.sample((20_000,))
        within = td.Normal(world.centers, world.spread).log_prob(z.unsqueeze(-2)).sum(-1)
        rates = q.log_prob(z).sum(-1) - (world.weights.log() + within).logsumexp(-1)
        assert_within(found.numbers[latents.RATE], rates.mean().item())
        assert latents.DIMENSION_WISE not in found.numbers

    def test_a_mixture_guide_is_the_same_summed_out_or_not(self):
        net = pv.nets.MLP(3, 5, pv.guides.MixtureOfNormals.width(2, 3)).double()
        world = LinearGaussian()
        x = world.sample(40)
        found = [
            Latents(draws=8000)(
                world.vae(pv.guides.MixtureOfNormals(net, 3, component=component)), x
            ).numbers
            for component in ("marginal", "enumerated")
        ]
        for name in (latents.RATE, latents.INFORMATION, latents.MARGINAL, latents.HOLES):
            first, second = found[0][name], found[1][name]
            error = math.hypot(first.error_over_particles, second.error_over_particles)
            assert abs(first.mean - second.mean) < 5 * error, name

    @pytest.mark.parametrize("kind", ["affine", "spline"])
    def test_a_flow_guide_is_scored_at_the_draws_of_others(self, kind):
        world = LinearGaussian()
        guide = pv.guides.Flow(pv.nets.MLP(3, 4), 2, features=4, kind=kind, transforms=1)
        x = world.sample(12)
        found = Latents(draws=48)(world.vae(guide.double()), x).numbers
        total = found[latents.INFORMATION].mean + found[latents.MARGINAL].mean
        assert total == pytest.approx(found[latents.RATE].mean)
        assert found[latents.INFORMATION].mean < math.log(12)

    def test_context_goes_along_and_a_prior_that_depends_on_it_is_refused(self):
        label = torch.tensor([0.0, 1.0] * 20, dtype=torch.float64).unsqueeze(-1)
        x = LinearGaussian().sample(40)

        def vae(shift):
            def prior(label):
                return pyro.sample(
                    "z", dist.Normal(shift * label.expand(*label.shape[:-1], 2), 1.0).to_event(1)
                )

            def likelihood(z, x, label):
                return pyro.sample("x", dist.Normal(z @ random(1, 2, 3), 0.5).to_event(1), obs=x)

            def guide(x, label):
                pyro.sample("z", dist.Normal(x[..., :2] + label, 0.5).to_event(1))

            return pv.VAE(prior, likelihood, guide)

        found = Latents(draws=400)(vae(0.0), x, label)
        means = x[:, :2] + label
        torch.testing.assert_close(found.activity.variance, means.var(0))
        with pytest.raises(ValueError, match="one context at a time"):
            Latents(draws=400)(vae(1.0), x, label)
        assert Latents(draws=400)(vae(1.0), x[::2], label[::2]).data == 20


class TestErrors:
    def test_a_delta_has_no_density_and_the_site_is_named(self):
        world = LinearGaussian()
        with pytest.raises(ValueError, match="site 'z' is a Delta.*mmd"):
            Latents()((world.model, world.mode_guide), world.sample(5))

    @pytest.mark.parametrize("by", ["handler", "distribution", "entries"])
    def test_a_mask_is_refused(self, by):
        """Where all of z is masked, its density would be one everywhere, and I(x; z) negative."""
        world, here = LinearGaussian(), torch.tensor([True, False])

        def moved(fn):
            normal = dist.Normal(fn.mean, fn.stddev)
            if by == "distribution":
                return normal.to_event(1).mask(here)
            return normal.mask(here.unsqueeze(-1)).to_event(1) if by == "entries" else fn

        class Masked(pyro.poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                if msg["name"] == "z":
                    msg["fn"] = moved(msg["fn"])

        def masked(program):
            mask = pyro.poutine.mask(mask=here) if by == "handler" else Masked()
            return lambda x: mask(program)(x)

        pair = masked(world.model) if by != "handler" else world.model, masked(world.off_guide)
        with pytest.raises(ValueError, match="site 'z' is masked"):
            Latents()(pair, world.sample(2))

    def test_an_auxiliary_site_that_matters_is_refused(self):
        world = LinearGaussian()

        def auxiliary(x):
            with data_plate(x):
                zero = torch.zeros(2, dtype=torch.float64)
                infer = {"is_auxiliary": True}
                a = pyro.sample("a", dist.Normal(zero, 1.0).to_event(1), infer=infer)
                pyro.sample("z", dist.Normal(a, 1.0).to_event(1))

        with pytest.raises(ValueError, match="depends on the auxiliary sites \\['a'\\]"):
            Latents()((world.model, auxiliary), world.sample(5))

    @pytest.mark.parametrize(
        "settings", [{"draws": 3}, {"limit": 1}, {"hole": 0.0}, {"hole": 1.0}]
    )
    def test_settings_out_of_range_are_refused(self, settings):
        with pytest.raises(ValueError, match="got"):
            Latents(**settings)

    def test_one_datum_has_none_to_compare_with(self):
        world = LinearGaussian()
        with pytest.raises(ValueError, match="two or more"):
            Latents()(world.vae(), world.sample(1))

    def test_a_guide_without_latents_says_so(self):
        world = Mixture()
        with pytest.raises(ValueError, match="no latent site"):
            Latents()((world.model_enumerated, world.guide_without_class), world.sample(4))


class TestLongWork:
    def test_passes_do_not_change_the_result(self, monkeypatch):
        world = CorrelatedData()
        x = world.sample(50)
        found = []
        for numbers in (2**20, 1, 700):
            monkeypatch.setattr("pyrovae.measure.latents.aggregate_posterior.NUMBERS", numbers)
            with pv.seeded(1):
                found.append(Latents(draws=100)(world.vae, x).to_json())
        for other in found[1:]:
            for name, quantity in found[0]["quantities"].items():
                assert other["quantities"][name]["mean"] == pytest.approx(
                    quantity["mean"], abs=1e-9
                )

    @pytest.mark.parametrize("between", [0, 1], ids=["between data", "between the sums"])
    def test_an_interrupt_keeps_the_data_that_were_met_and_their_draws(self, monkeypatch, between):
        world, x = Coded(0.4), random(9, 60, 2)
        monkeypatch.setattr("pyrovae.measure.latents.aggregate_posterior.NUMBERS", 1)
        met = []
        plain = aggregate_posterior.Posterior.log_sums

        def interrupted(self, values, owners, *data):
            met.append(data[0])
            if len(met) > 2 * 20 + between:  # at the codes and at the prior's draws, for 20 data
                raise KeyboardInterrupt
            return plain(self, values, owners, *data)

        monkeypatch.setattr(aggregate_posterior.Posterior, "log_sums", interrupted)
        finding = Latents(draws=6000)((world.model, world.guide), x)
        assert finding.title.startswith("latent space: partial: 20 of 60 data")
        rows = torch.cat(met[:40:2])
        z = torch.cartesian_prod(*[torch.linspace(-6, 6, 401, dtype=torch.float64)] * 2)
        log_q = world.log_density(rows, z)
        own = -2 * (0.5 + 0.5 * math.log(2 * math.pi) + math.log(world.scale))
        truth = own - (log_q.exp() * log_q).sum().item() * (12 / 400) ** 2
        assert_within(finding.numbers[latents.INFORMATION], truth)

    def test_the_first_so_many_data_are_taken(self):
        world = LinearGaussian()
        finding = Latents(limit=7, draws=20)(world.vae(), world.sample(30))
        assert finding.data == 7
        assert finding.tensors()["squared deviations of the posterior means"].shape == (7, 2)

    def test_a_finding_prints_in_72_columns_and_is_plain_json(self):
        world = CorrelatedData()
        finding = Latents(draws=100)(world.vae, world.sample(50))
        assert max(map(len, str(finding).splitlines())) <= 72
        assert finding.to_json()["quantities"]["active units"]["mean"] == 2


def test_the_odd_datum_has_no_partner_and_does_not_count():
    one = torch.zeros(2, 3)
    swapped = torch.tensor([[-1.0, -3.0, 0.0]] * 2)
    draws = LatentDraws({}, one, one, one, swapped, {}, one, one)
    assert draws.cost_of_swapping().mean == 2.0


@pytest.mark.parametrize("pairs", [2, 3, 200])
def test_the_cost_of_another_s_z_has_student_s_interval_over_its_pairs(pairs):
    zero, lost = torch.zeros(1, 2 * pairs), random(3, pairs)
    draws = LatentDraws({}, zero, zero, zero, -lost.repeat_interleave(2)[None], {}, zero, zero)
    width = stats.t(pairs - 1).isf(0.025) * lost.std().item() / math.sqrt(pairs)
    assert 1.96 * draws.cost_of_swapping().error_over_data == pytest.approx(width)


def test_every_code_meets_another_datum_however_few_go_in_a_pass(monkeypatch):
    kept = []

    def draw(*arguments):
        kept.append(draw_latents(*arguments))
        return kept[0]

    monkeypatch.setattr(Given, "per_pass", lambda given, particles: 3)
    monkeypatch.setattr("pyrovae.measure.latents.latents.draw_latents", draw)
    world = LinearGaussian()
    Latents(draws=20)(world.vae(), world.sample(6))
    assert (kept[0].swapped != kept[0].log_likelihood).all()


def test_one_datum_that_was_met_is_no_aggregate(monkeypatch):
    world, x = Coded(0.4), random(9, 6, 2)
    monkeypatch.setattr("pyrovae.measure.latents.aggregate_posterior.NUMBERS", 1)
    met, plain = [], aggregate_posterior.Posterior.log_sums

    def interrupted(self, values, owners, *data):
        met.append(data)
        if len(met) > 2:  # at the codes and at the prior's draws, for one datum
            raise KeyboardInterrupt
        return plain(self, values, owners, *data)

    monkeypatch.setattr(aggregate_posterior.Posterior, "log_sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Latents(draws=20)((world.model, world.guide), x)


@pytest.mark.parametrize(("cost", "mismatched"), [(1.1, False), (0.7, False), (0.5, True)])
def test_a_cost_within_two_errors_of_the_information_is_no_mismatch(cost, mismatched):
    numbers = {latents.INFORMATION: Number(1.0), latents.SWAPPED: Number(cost, 0.2)}
    found = LatentsFinding(9, 9, 9, Activity((), torch.zeros(9, 0)), numbers, [], 0.05)
    assert found.mismatched == mismatched


@pytest.mark.parametrize(("nats", "said"), [(1.0, "Not known. "), (0.0, "Collapsed: the guide")])
def test_what_the_decoder_does_with_impossible_data_is_missing(nats, said):
    numbers = dict.fromkeys([latents.HOLES, latents.OUTSIDE, latents.AT_MOST], Number(0.0))
    numbers |= dict.fromkeys([latents.SWAPPED, latents.SPREAD], Number(math.nan))
    numbers[latents.INFORMATION] = Number(nats)
    found = LatentsFinding(9, 9, 9, Activity((), torch.zeros(9, 0)), numbers, [], 0.05)
    assert found.verdict[0].startswith(said)
    assert "some data are impossible" in found.verdict[0]
    assert "nan" not in " ".join(found.verdict)


def test_a_dependence_through_a_write_in_place_is_found():
    """Pyro's `get_dependencies` does not see it, since it follows tensors through functions."""

    def guide(x):
        with data_plate(x):
            a = pyro.sample("a", dist.Normal(x[:, 0], 1.0))
            loc = torch.zeros_like(a.expand(*a.shape[:-1], len(x)))
            loc[...] = a
            pyro.sample("b", dist.Normal(loc, 1.0))

    sites = latent_sites(guide, random(3, 5, 2))
    assert [site.dependent for site in sites] == [False, True]
