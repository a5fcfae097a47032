"""What a finding of gaps says in words, and draws."""

import math

import pytest
import torch
from gap_worlds import WORLD, full_rank, mean_field, small

from pyrovae import plots
from pyrovae.measure.refinement import gaps as g
from pyrovae.measure.refinement.flow import PerDatumFlow
from pyrovae.measure.refinement.gaps import Gaps, GapsFinding
from pyrovae.weights.bounds import Estimate


def finding(amortization, approximation, *, error=0.01, size=500.0, **others):
    def estimate(value):
        return Estimate(torch.full((4,), value), torch.full((4,), error * 2))

    named = {
        g.ELBO: -10.0,
        g.AMORTIZATION: amortization,
        g.APPROXIMATION: approximation,
        g.TOTAL: amortization + approximation,
    }
    estimates = {name: estimate(value) for name, value in (named | others).items()}
    return GapsFinding(estimates, torch.full((4,), size), wanted=4, source="the bound")


class TestVerdict:
    """The mean of four data, each with an error of 0.02, has one of 0.01."""

    @pytest.mark.parametrize(
        ("gaps", "begins"),
        [
            (
                (1.0, 0.3),
                "Amortization limits the bound: the amortization gap is 1.000 ± 0.010",
            ),
            (
                (0.3, 1.0),
                "The family of q limits the bound: the approximation gap is 1.000 ±",
            ),
            ((0.50, 0.53), "The two gaps are equal within errors"),
            (
                (0.015, 0.019),
                "Neither gap is above two errors and 0.01 nats (a threshold",
            ),
        ],
    )
    def test_it_names_what_limits_the_bound(self, gaps, begins):
        assert finding(*gaps).verdict[0].startswith(begins)

    def test_a_gap_below_a_hundredth_of_a_nat_limits_nothing_however_sure(self):
        sure = finding(0.009, 0.001, error=1e-6).verdict
        assert sure[0].startswith("Neither")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", [0, 1])
    def test_gaps_that_are_not_finite_are_said_to_be_unknown(self, which, value):
        gaps = [0.3, 0.3]
        gaps[which] = value
        found = finding(*gaps, error=math.nan)
        assert found.verdict[0].startswith("The gaps of 4 data are missing or infinite")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_nothing_is_said_of_the_convergence_to_a_gap_that_is_not_finite(self, value):
        found = finding(0.3, value, **{g.RISE: 0.5})
        assert not any("not converged" in said for said in found.verdict)

    def test_one_datum_without_an_error_over_particles_has_no_verdict(self):
        alone = finding(1.0, 0.3, error=math.nan)
        one = {
            name: Estimate(e.value[:1], e.standard_error[:1])
            for name, e in alone.estimates.items()
        }
        said = GapsFinding(one, None, wanted=1, source="the given log_evidence").verdict
        assert said[0].startswith("A gap of one datum has no error")

    def test_unfinished_refinement_is_told(self):
        slow = {g.RISE: 0.09, g.OF_FLOW: 0.5, g.RISE_OF_FLOW: 0.04}
        assert not any("not converged" in s for s in finding(1.0, 1.0, **slow).verdict)
        slow = {g.RISE: 0.11, g.OF_FLOW: 0.5, g.RISE_OF_FLOW: 0.06}
        said = [s for s in finding(1.0, 1.0, **slow).verdict if "not converged" in s]
        assert "gained 0.110 ± 0.010 nats. The approximation gap is smaller" in said[0]
        assert "gained 0.060 ± 0.010 nats. The approximation gap of the flow is" in said[1]
        none = {g.RISE: 0.009}
        assert not any("converged" in s for s in finding(1.0, 0.01, **none).verdict)

    def test_a_slow_refinement_is_called_unfinished(self):
        settings = Gaps(steps=10, particles=200, lr=0.1, flow=None)
        said = str(settings(full_rank(shift=2.0), WORLD.sample(10)))
        assert "has not converged" in " ".join(said.split())

    def test_few_effective_particles_are_told(self):
        few = finding(1.0, 0.1, size=3.0).verdict
        assert any(line.startswith("For 4 data, log p(x) rests on fewer than 20") for line in few)
        assert not any("rests on" in line for line in finding(1.0, 0.1).verdict)

    def test_what_a_flow_gains_is_told(self):
        assert any(
            line.startswith("A flow per datum gains 0.500 ± 0.010 nats")
            for line in finding(1.0, 0.8, **{g.GAINED: 0.5}).verdict
        )

    def test_one_datum_is_judged_by_its_particles(self):
        settings, vae, x = small(limit=1, particles=100)
        assert settings(vae, x).verdict


class TestAttributes:
    def test_are_the_levels_and_gaps_of_the_table(self):
        found = Gaps(limit=3, steps=4, particles=20, flow=PerDatumFlow())(
            mean_field(shift=0.3), WORLD.sample(3)
        )
        named = {
            g.ELBO: found.elbo,
            g.REFINED: found.refined_elbo,
            g.FLOW: found.flow_elbo,
            g.LOG_EVIDENCE: found.log_evidence,
            g.AMORTIZATION: found.amortization_gap,
            g.APPROXIMATION: found.approximation_gap,
            g.OF_FLOW: found.flow_approximation_gap,
            g.TOTAL: found.total_gap,
        }
        for name, estimate in named.items():
            assert estimate is found.quantities[name]
        total = found.amortization_gap.value + found.approximation_gap.value
        torch.testing.assert_close(total, found.total_gap.value)

    def test_of_a_flow_are_none_without_one(self):
        settings, vae, x = small()
        found = settings(vae, x)
        assert found.flow_elbo is None
        assert found.flow_approximation_gap is None


class TestFigure:
    def test_its_bars_reach_from_level_to_level(self):
        found = Gaps(limit=5, steps=5, particles=50, flow=PerDatumFlow())(
            mean_field(shift=0.3), WORLD.sample(5)
        )
        axes = plots.gaps(found).axes[0]
        names = [(g.ELBO, g.REFINED), (g.REFINED, g.FLOW), (g.FLOW, g.LOG_EVIDENCE)]
        for bar, (low, high) in zip(axes.patches, names, strict=True):
            below, above = (found.estimates[name].mean for name in (low, high))
            assert bar.get_y() == pytest.approx(below)
            assert bar.get_height() == pytest.approx(above - below)
        error = found.estimates[g.AMORTIZATION].error_over_particles
        (segment,) = axes.containers[1].lines[2][0].get_segments()
        assert segment[1][1] - segment[0][1] == pytest.approx(4 * error)

    @pytest.mark.parametrize("data", [1, 2])
    def test_it_tells_of_errors_over_data_where_there_are_any(self, data):
        settings, vae, x = small(limit=data)
        axes = plots.gaps(settings(vae, x)).axes[0]
        assert ("± 1 over data" in axes.texts[-1].get_text()) == (data > 1)

    def test_without_a_flow_it_has_three_levels(self):
        settings, vae, x = small()
        axes = plots.gaps(settings(vae, x)).axes[0]
        assert [label.get_text() for label in axes.get_xticklabels()] == [
            "ELBO",
            "refined",
            "log p(x)",
        ]
