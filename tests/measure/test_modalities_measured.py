"""log p of modalities given others and reconstructions, held against a linear world."""

import math

import pytest
import scipy.stats
import torch
from modal_world import LATENTS, NOISES, ModalWorld

import pyrovae as pv
from pyrovae.guides import MixtureOfExperts, MixtureOfProducts, ProductOfExperts
from pyrovae.measure.cross_modal import CrossModalFinding, ModalityBound
from pyrovae.measure.findings import NotMeasurable


def measured(world, vae, x, *context, of="a", given="b", particles=200):
    with pv.seeded(0):
        return pv.CrossModal(world.modalities, of, given, particles=particles)(vae, x, *context)


@pytest.mark.parametrize(("of", "given"), [("a", "b"), ("b", "a"), ("c", "ab"), ("ab", "c")])
def test_of_exact_experts_it_is_the_conditional_density(of, given):
    """The same number by another formula, that of a conditional normal."""
    world = ModalWorld("abc")
    x = world.sample(5)
    found = measured(world, world.vae(ProductOfExperts), x, of=list(of), given=list(given))
    truth = world.log_p_given(x, of, given)
    for estimate in (found.conditional, found.extrapolated):
        torch.testing.assert_close(estimate.value, truth, rtol=1e-9, atol=1e-9)
        assert estimate.error_over_particles < 1e-9
    torch.testing.assert_close(found.joint.iwae.value, world.log_p(x, of + given))
    torch.testing.assert_close(found.marginal.iwae.value, world.log_p(x, given))
    students = float(scipy.stats.t(4).ppf(0.975) / scipy.stats.norm.ppf(0.975))
    wanted = students * truth.std().item() / math.sqrt(5)
    assert found.conditional.error_over_data == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("guide", [MixtureOfExperts, MixtureOfProducts], ids=lambda g: g.__name__)
def test_of_mixtures_it_covers_the_truth(guide):
    """Also for each datum: the deviations over their errors have a spread near one."""
    world = ModalWorld("abc")
    x = world.sample(300, seed=6)
    vae = world.vae(guide, prior=guide is MixtureOfExperts)
    found = measured(world, vae, x, of="a", given=["b", "c"], particles=300)
    truth = world.log_p_given(x, "a", "bc")
    deviation = found.extrapolated.value - truth
    assert abs(deviation.mean()) < 4 * found.extrapolated.error_over_particles
    assert found.extrapolated.error_over_particles < 0.02
    scaled = deviation / found.extrapolated.standard_error
    # The standard deviation of 300 unit normals is 1 within 1 / sqrt(600); the estimates of the
    # errors, from 300 skewed weights each, add a tail.
    assert 1 - 4 / math.sqrt(600) < scaled.std() < 1.5
    # Both bounds are below the truth.
    for bound, names in ((found.joint.iwae, "abc"), (found.marginal.iwae, "bc")):
        assert bound.mean < world.log_p(x, names).mean() + 3 * bound.error_over_particles


def test_data_that_lack_a_modality_are_left_out():
    world = ModalWorld()
    x = world.sample(6)
    mask = torch.tensor([[True, True], [True, False], [False, True]]).repeat(2, 1)
    x = torch.where(mask[:, [0, 0, 0, 1, 1]], x, 7.0)
    found = measured(world, world.vae(MixtureOfProducts), x, mask)
    alone = measured(world, world.vae(MixtureOfProducts), x[[0, 3]])
    assert torch.equal(found.conditional.value, alone.conditional.value)
    assert "2 data with all of them" in found.title
    with pytest.raises(NotMeasurable, match=r"no datum has all of the modalities \['a', 'b'\]"):
        measured(world, world.vae(ProductOfExperts), x[1:3], mask[1:3])


def test_one_mask_may_stand_for_all_data():
    world = ModalWorld("abc")
    vae, x, mask = (
        world.vae(ProductOfExperts),
        world.sample(6),
        torch.tensor([[True, True, False]]),
    )
    found = measured(world, vae, x, mask)
    torch.testing.assert_close(found.conditional.value, world.log_p_given(x, "a", "b"))
    assert "6 data with all of them" in found.title
    parts = pv.Reconstructions(world.modalities, particles=50)(vae, x, mask)
    assert "6 have a, 6 have b, 0 have c" in parts.verdict[0]


def test_it_is_a_diagnostic_of_a_report(tmp_path):
    world = ModalWorld()
    vae, x = world.vae(ProductOfExperts), world.sample(4)
    wanted = [
        pv.CrossModal(world.modalities, "a", given="b", particles=30),
        pv.CrossModal(world.modalities, "b", given="a", particles=30),
        pv.Reconstructions(world.modalities, particles=30),
    ]
    report = pv.evaluate(vae, x, particles=30, diagnostics=wanted)
    assert list(report.findings) == ["a_given_b", "b_given_a", "reconstructions"]
    printed = str(report)
    for line in ("the same, extrapolated", "log p(b | a)", "log p(a | z)", "no bound"):
        assert line in printed
    report.save(tmp_path / "report.json")
    assert str(pv.read_report(tmp_path / "report.json")) == printed
    assert report.findings["a_given_b"].to_json()["quantities"]["log p(a | b)"]["mean"] < 0


def test_the_verdict_warns_of_a_guide_that_misses_the_posterior():
    world = ModalWorld()
    vae, x = world.vae(ProductOfExperts), world.sample(20)
    with torch.no_grad():  # experts that are far too sure, as products of trained ones can be
        for net in vae.posterior.net.nets:
            net.bias[LATENTS:] -= 3.0
    bad = measured(world, vae, x)
    assert any("k-hat" in said and "train the guide" in said for said in bad.verdict)
    good = measured(world, world.vae(ProductOfExperts), x)
    assert not any("k-hat" in said for said in good.verdict)
    assert any("within two errors" in said for said in good.verdict)


@pytest.mark.parametrize("fits", [0, 1])
def test_data_that_one_particle_fits_at_most_have_not_converged(fits):
    log_w = torch.zeros(30, 2).double()
    log_w[fits:, 1] = -math.inf
    parts = ModalityBound.of(log_w), ModalityBound.of(torch.zeros(30, 2).double())
    settings = pv.CrossModal(pv.nets.Modalities(a=1, b=1), "a", given="b", particles=30)
    said = CrossModalFinding(settings, *parts, wanted=2).verdict[-1]
    assert said.startswith("For 1 data, the difference is missing or has no extrapolation")


def test_reconstructions_are_the_parts_of_the_sum_that_a_report_has():
    world = ModalWorld()
    vae, x = world.vae(MixtureOfProducts), world.sample(8)
    mask = torch.tensor([[True, True], [True, False], [False, True], [False, False]]).repeat(2, 1)
    with pv.seeded(3):
        found = pv.Reconstructions(world.modalities, particles=50)(vae, x, mask)
    with pv.seeded(3), torch.no_grad():
        terms = pv.log_weight_terms(vae, x, mask, particles=50)
    total = sum(term.value for term in found.terms.values())
    torch.testing.assert_close(total, terms.log_likelihood.mean(0))
    assert (found.terms["a"].value[~mask[:, 0]] == 0).all()
    only = found.quantities["log p(a | z)"]
    assert torch.equal(only.value, found.terms["a"].value[mask[:, 0]])
    assert "4 have a, 4 have b" in found.verdict[0]


def test_reconstructions_agree_with_the_expectation_under_the_posterior():
    """E log N(x; W z, s^2) is -|x - W m|^2 / 2 s^2 - tr(W S W') / 2 s^2 and the constant."""
    world = ModalWorld()
    x, vae = world.sample(50), world.vae(ProductOfExperts)
    with pv.seeded(0):
        found = pv.Reconstructions(world.modalities, particles=500)(vae, x)
    whole = torch.cat(list(world.weights.values()))
    gain = torch.linalg.solve(world.covariance, whole).T
    mean, left = x @ gain.T, torch.eye(LATENTS).double() - gain @ whole
    for name, term in found.terms.items():
        weight, noise = world.weights[name], NOISES[name] ** 2
        square = (world.modalities.split(x)[name] - mean @ weight.T).square().sum(1)
        spread = torch.trace(weight @ left @ weight.T)
        wanted = -0.5 * (square + spread) / noise - 0.5 * len(weight) * math.log(math.tau * noise)
        error = 4 * term.error_over_particles
        assert abs(term.mean - wanted.mean()) < error
        assert error < 0.05


def test_programs_of_one_s_own_are_measured():
    world = ModalWorld()
    vae, x = world.vae(ProductOfExperts), world.sample(3)

    def model(x, mask):
        return vae.model(x, mask)

    def guide(x, mask):
        return vae.guide(x, mask)

    found = measured(world, (model, guide), x)
    torch.testing.assert_close(found.conditional.value, world.log_p_given(x, "a", "b"))


def test_what_cannot_be_measured_is_refused():
    both = ModalWorld().modalities
    for of, given in (("a", "a"), ("a", "text"), ((), "b"), (["a", "b"], "b")):
        with pytest.raises(ValueError, match="different modalities of"):
            pv.CrossModal(both, of, given)
    with pytest.raises(ValueError, match=r"particles=20 \(at least 21\), limit=0"):
        pv.CrossModal(both, "a", "b", particles=20, limit=0)
    with pytest.raises(ValueError, match="particles=0"):
        pv.Reconstructions(both, particles=0)
    vae = pv.mlp_vae(7, latents=2, hidden=3)
    with pytest.raises(ValueError, match="take x of 5 columns"):
        pv.CrossModal(both, "a", "b")(vae, torch.zeros(2, 7))


def test_other_modalities_than_those_of_the_target_are_refused():
    """Of as many columns: what one says of "a" would be of "b"."""
    world = ModalWorld("ab")
    x, vae, names = world.sample(5), world.vae(ProductOfExperts), world.modalities.widths
    turned = pv.nets.Modalities(**dict(reversed(names.items())))
    for measure in (pv.CrossModal(turned, "a", "b"), pv.Reconstructions(turned)):
        with pytest.raises(ValueError, match=r"of the modalities .* in this order; got"):
            measure(vae, x)
