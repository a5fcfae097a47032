"""Particle filters and filtering bounds, held against Kalman's evidence."""

import math

import pytest
import torch
from pyro.infer import Trace_ELBO
from state_space import exact_guide, log_evidence, masked, model, poor_guide, sequences

import pyrovae as pv
from pyrovae.weights.filtering import StateSpace, filter_particles

MASK = masked(6, 3, 1, 6)


def filtered(x, mask, particles, *, guide=poor_guide, seed=0):
    with pv.seeded(seed), torch.no_grad():
        return filter_particles(StateSpace.of(model, guide, x, mask), particles)


def copies(number, particles):
    """Return the estimates of p(x) over p(x), of as many filters as there are copies of x."""
    x, mask = sequences(MASK)[:1].expand(number, -1, -1), MASK[:1].expand(number, -1)
    return filtered(x, mask, particles).log_z - log_evidence(x[:1], mask[:1])


def test_the_exact_smoother_has_constant_weights():
    x = sequences(MASK)
    truth = log_evidence(x, MASK)
    log_w = pv.log_weights((model, exact_guide), x, MASK, particles=5)
    torch.testing.assert_close(log_w, truth.expand(5, -1), rtol=1e-9, atol=1e-9)
    order = [2, 0, 3, 1]
    other = pv.log_weights((model, exact_guide), x[order], MASK[order], particles=2)
    torch.testing.assert_close(other, log_w[:2, order], rtol=1e-9, atol=1e-9)


def test_a_filter_that_never_resamples_has_the_weights_of_the_whole_sequence():
    """One particle never does, so that the exact smoother gives the evidence."""
    x = sequences(MASK)
    found = filtered(x, MASK, 1, guide=exact_guide)
    torch.testing.assert_close(found.log_z, log_evidence(x, MASK), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.size[~found.size.isnan()], torch.ones(16).double())
    assert (found.size.isnan() == ~MASK.T).all()


def test_the_estimate_is_unbiased_whatever_the_guide():
    ratio = copies(20_000, 20).exp()
    error = ratio.std().item() / len(ratio) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean().item() - 1) < 4 * error


def test_the_variance_falls_as_one_over_the_particles():
    few, many = (copies(1_500, k).exp().var().item() for k in (50, 400))
    # The variance of 1,500 draws of kurtosis c has the relative error ((c - 1) / 1500) ** 0.5. Of
    # 20,000 draws at 50 particles c is 9.5, of 4,000 at 400 it is 3.4: so 0.075 and 0.04.
    assert 8 * 0.65 < few / many < 8 / 0.65


def test_a_filter_has_the_smaller_variance_than_one_weight_for_all_steps():
    x, mask = sequences(MASK)[:1].expand(2_000, -1, -1), MASK[:1].expand(2_000, -1)
    with pv.seeded(1):
        log_w = pv.log_weights((model, poor_guide), x, mask, particles=50)
    whole = log_w.logsumexp(0) - math.log(50)
    assert filtered(x, mask, 50).log_z.var() < 0.1 * whole.var()


@pytest.mark.parametrize("value", [0.0, 1e6])
def test_padding_never_moves_a_number(value):
    x = sequences(MASK)
    longer = torch.nn.functional.pad(MASK, (0, 3))
    padded = torch.full((4, 9, 3), value, dtype=x.dtype)
    padded[:, :6] = torch.where(MASK.unsqueeze(-1), x, value)
    for guide in (poor_guide, exact_guide):
        own, other = (filtered(a, m, 7, guide=guide) for a, m in ((x, MASK), (padded, longer)))
        torch.testing.assert_close(own.log_z, other.log_z, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(own.size, other.size[:6], equal_nan=True)
        with pv.seeded(2):
            alone = pv.log_weights((model, guide), x, MASK, particles=3)
        with pv.seeded(2):
            beside = pv.log_weights((model, guide), padded, longer, particles=3)
        torch.testing.assert_close(alone, beside, rtol=1e-9, atol=1e-9)


def test_the_measurement_covers_the_evidence():
    mask = masked(*([6] * 100))
    x = sequences(mask, seed=3)
    with pv.seeded(0):
        found = pv.ParticleFilter(200, repeats=10)((model, poor_guide), x, mask)
    truth = log_evidence(x, mask)
    z = (found.lower.mean - truth.mean()) / found.lower.error_over_particles
    assert found.lower.error_over_particles < 0.05
    assert -4 < z < 3
    assert found.single.mean < found.lower.mean
    per_step = found.quantities["log p(x), per step"]
    assert per_step.mean == pytest.approx(found.lower.mean / 6)
    assert per_step.error_over_data == pytest.approx(found.lower.error_over_data / 6)


def test_the_verdict_asks_for_more_particles_where_one_filter_is_far_below():
    x = sequences(MASK)
    with pv.seeded(0):
        few = pv.ParticleFilter(4, repeats=20)((model, poor_guide), x, MASK)
        many = pv.ParticleFilter(2_000, repeats=5)((model, poor_guide), x, MASK)
    assert any("use more particles" in each for each in few.verdict)
    assert not any("use more particles" in each for each in many.verdict)


def test_fivo_with_one_particle_is_the_elbo():
    x, mask = sequences(MASK)[:1].expand(4_000, -1, -1), MASK[:1].expand(4_000, -1)
    with pv.seeded(0):
        one = pv.objectives.FIVO(1).loss(model, poor_guide, x, mask) / 4_000
        elbo = Trace_ELBO().loss(model, poor_guide, x, mask) / 4_000
        spread = pv.log_weights((model, poor_guide), x, mask, particles=1).std().item()
    assert abs(one - elbo) < 4 * spread * (2 / 4_000) ** 0.5


def test_fivo_of_the_exact_smoother_is_the_evidence_with_the_scale_of_the_plate():
    x = sequences(MASK)
    truth = log_evidence(x, MASK).sum().item()
    assert pv.objectives.FIVO(1).loss(model, exact_guide, x, MASK) == pytest.approx(-truth)
    with pv.seeded(0):
        own = pv.objectives.FIVO(3).loss(model, poor_guide, x, MASK)
    with pv.seeded(0):
        scaled = pv.objectives.FIVO(3).loss(model, poor_guide, x, MASK, size=8)
    assert scaled == pytest.approx(2 * own)


def test_programs_that_are_no_state_space_are_refused():
    vae, x = pv.mlp_vae(4, latents=2, hidden=3), torch.zeros(5, 4)
    with pytest.raises(ValueError, match=r"the site 'z' of the guide must be .*MarkovChain"):
        pv.objectives.FIVO(2).loss(vae.model, vae.guide, x)
    report = pv.evaluate(vae, x, particles=5, diagnostics=[])
    assert report.elbo.mean < 0
    with pytest.raises(ValueError, match="two repeats"):
        pv.ParticleFilter(10, repeats=1)
    with pytest.raises(ValueError, match="at least one particle"):
        pv.objectives.FIVO(0)
