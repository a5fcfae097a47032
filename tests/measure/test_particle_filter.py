"""Particle filters and filtering bounds, held against Kalman's evidence."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from state_space import (
    ZERO,
    exact_chain,
    exact_guide,
    log_evidence,
    masked,
    model,
    observed,
    poor_guide,
    sequences,
    transition,
)

import pyrovae as pv
from pyrovae.distributions import EachStep, MarkovChain
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


def with_more(model_of_z):
    """Return a model whose x is made of the latents by a program."""

    def changed(x, mask, *, size=None):
        with pyro.plate("data", size or len(mask), subsample=torch.arange(len(mask)), dim=-1):
            z = pyro.sample("z", MarkovChain(transition, ZERO, mask))
            return model_of_z(z, x, mask)

    return changed


def shifted(z, x, mask):
    c = pyro.sample("c", dist.Normal(torch.zeros(len(mask)).double(), 1.0))
    return pyro.sample("x", EachStep(observed, z, mask), obs=x + 0 * c[:, None, None])


def summed(z, x, mask):
    return pyro.sample("x", EachStep(observed, z.cumsum(-2), mask), obs=x)


def with_an_observation(z, x, mask):
    pyro.sample("y", dist.Normal(z.sum((-1, -2)), 1.0), obs=torch.zeros(len(mask)).double())
    return pyro.sample("x", EachStep(observed, z, mask), obs=x)


def masked_out(z, x, mask):
    with poutine.mask(mask=torch.arange(len(mask)) > 0):
        return pyro.sample("x", EachStep(observed, z, mask), obs=x)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (masked_out, r"the site 'x' with a mask of poutine.mask besides"),
        (shifted, r"knows no others; got \['c'\]"),
        (with_an_observation, r"knows no others; got \['y'\]"),
        (summed, "made of the value of the site 'z' itself"),
    ],
)
def test_what_a_filter_would_leave_out_is_refused(program, message):
    x = sequences(MASK)
    changed = with_more(program)
    with pytest.raises(ValueError, match=message):
        pv.ParticleFilter(5, repeats=2)((changed, poor_guide), x, MASK)
    with pytest.raises(ValueError, match=message):
        pv.objectives.FIVO(2).loss(changed, poor_guide, x, MASK)


def test_latents_that_are_masked_out_are_refused():
    hidden = poutine.mask(poor_guide, mask=torch.arange(len(MASK)) > 0)
    with pytest.raises(ValueError, match="the site 'z' with a mask of poutine.mask besides"):
        pv.objectives.FIVO(2).loss(model, hidden, sequences(MASK), MASK)


def test_latents_with_values_are_refused():
    z = torch.zeros(*MASK.shape, 2).double()
    given = poutine.condition(model, data={"z": z})
    with pytest.raises(ValueError, match="draws the site 'z', but a program observes it"):
        pv.ParticleFilter(5, repeats=2)((given, poor_guide), sequences(MASK), MASK)


def test_both_programs_have_the_subsample_that_their_plate_draws():
    """With the exact smoother, the loss is that of one sequence for all."""
    x = sequences(MASK)
    truth = -len(x) * log_evidence(x, MASK)

    def rows(program):
        def of_one(x, mask):
            with pyro.plate("data", len(x), subsample_size=1, dim=-1) as row:
                return program(x[row], mask[row])

        return of_one

    def joint(x, mask):
        z = pyro.sample("z", MarkovChain(transition, ZERO, mask))
        return pyro.sample("x", EachStep(observed, z, mask), obs=x)

    def smoother(x, mask):
        return pyro.sample("z", exact_chain(x, mask))

    with pv.seeded(0):
        pair = rows(joint), rows(smoother)
        losses = torch.tensor([pv.objectives.FIVO(2).loss(*pair, x, MASK) for _ in range(20)])
    apart = (losses[:, None] - truth).abs().min(1)
    assert apart.values.max() < 1e-4
    assert len(apart.indices.unique()) > 1


@pytest.mark.parametrize("mask", [MASK[:, :4], MASK[:2]], ids=["short", "few"])
def test_the_mask_is_that_of_x(mask):
    def apart(x, mask):
        return poor_guide(x[: len(mask), : mask.shape[1]], mask)

    with pytest.raises(ValueError, match=r"has the shape \(4, 6\), a boolean for each step; got"):
        pv.objectives.FIVO(2).loss(model, apart, sequences(MASK), mask)


def test_one_mask_may_stand_for_all():
    x = sequences(masked(6, 6, 6))

    def joint(x, mask):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", MarkovChain(transition, ZERO, mask))
            return pyro.sample("x", EachStep(observed, z, mask), obs=x)

    with pv.seeded(0):
        one = filter_particles(StateSpace.of(joint, poor_guide, x, masked(6)), 3).log_z
    with pv.seeded(0):
        each = filter_particles(StateSpace.of(joint, poor_guide, x, masked(6, 6, 6)), 3).log_z
    assert torch.equal(one, each)


def test_the_kl_weight_is_the_exponent_of_the_ratio():
    """One particle's log-weight is linear in it, and at 0 it is log p(x | z)."""
    x, mask = sequences(MASK)[:1].expand(2_000, -1, -1), MASK[:1].expand(2_000, -1)

    def loss(objective, weight):
        pair = pv.handlers.kl_weight(weight).wrap(model, poor_guide)
        with pv.seeded(0):
            return objective.loss(*pair, x, mask) / 2_000

    at_0, at_a_third, at_1 = (loss(pv.objectives.FIVO(1), weight) for weight in (0.0, 0.3, 1.0))
    assert at_a_third == pytest.approx(at_0 + 0.3 * (at_1 - at_0))
    with pv.seeded(1):
        z = poutine.trace(poor_guide).get_trace(x, mask)
    traced = poutine.trace(poutine.replay(model, trace=z)).get_trace(x, mask)
    distortion = -traced.nodes["x"]["fn"].log_prob(x)
    error = distortion.std().item() / 2_000**0.5
    assert abs(at_0 - distortion.mean().item()) < 4 * 2**0.5 * error
    assert abs(loss(Trace_ELBO(), 0.0) - at_0) < 4 * 2**0.5 * error
    assert abs(at_1 - at_0) > 1


@pytest.mark.parametrize(
    "handler",
    [pv.handlers.free_bits(9.0, per="site"), pv.handlers.capacity(9.0, strength=5.0)],
    ids=lambda handler: type(handler).__name__,
)
def test_the_factor_of_a_handler_is_refused_in_training_and_left_out_of_measurements(handler):
    x, kind = sequences(MASK), type(handler).__name__
    pair = handler.wrap(model, poor_guide)
    with pytest.raises(ValueError, match=rf"\['z_{kind}'\].*remove the handler"):
        pv.objectives.FIVO(2).loss(*pair, x, MASK)
    found = []
    for programs in ((model, poor_guide), pair):
        with pv.seeded(0):
            found.append(pv.ParticleFilter(20)(programs, x, MASK).lower.mean)
    assert found[0] == found[1]


def test_a_guide_whose_steps_are_not_reparameterized_is_not_trained():
    def coins(x, mask):
        with pyro.plate("data", len(x)):
            step = dist.Bernoulli(probs=torch.full((2,), 0.5).double()).to_event(1)
            chain = MarkovChain(lambda before, _: step.expand(before.shape[:-1]), ZERO, mask)
            return pyro.sample("z", chain)

    with pytest.raises(ValueError, match="has_rsample"):
        pv.objectives.FIVO(2).loss(model, coins, sequences(MASK), MASK)


def test_data_that_no_particle_fits_have_the_estimate_zero():
    def impossible(z, x, mask):
        def nowhere(z):
            return dist.Uniform(z.new_zeros((*z.shape[:-1], 3)), 1e-9).to_event(1)

        return pyro.sample("x", EachStep(nowhere, z, mask), obs=x)

    programs = with_more(impossible), poor_guide
    with pyro.validation_enabled(is_validate=False):
        found = filter_particles(StateSpace.of(*programs, sequences(MASK) + 9, MASK), 4)
        measured = pv.ParticleFilter(4, repeats=2)(programs, sequences(MASK) + 9, MASK)
    assert (found.log_z == -math.inf).all()
    assert (measured.per_datum["effective particles"] == 0).all()
    assert "No particle of any filter fits 4 sequences" in measured.verdict[0]
    assert "nan" not in str(measured)
