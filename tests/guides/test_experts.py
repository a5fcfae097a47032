"""Guides of experts and missing modalities, held against a linear world with known densities."""

import itertools
import math

import pytest
import torch
from modal_world import LATENTS, ModalWorld
from pyro.infer import Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.guides import MixtureOfExperts, MixtureOfProducts, ProductOfExperts

MIXTURES = [MixtureOfExperts, MixtureOfProducts]
GUIDES = [ProductOfExperts, *MIXTURES]
every_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.__name__)


def patterns(world, n=2):
    """Return x, a mask with each subset of the modalities n times, and the subsets."""
    names = world.modalities.names
    subsets = list(itertools.product([True, False], repeat=len(names)))
    mask = torch.tensor(subsets).repeat_interleave(n, 0)
    x = world.sample(len(mask))
    have = ["".join(itertools.compress(names, subset)) for subset in subsets for _ in range(n)]
    return x, mask, have


def evidence(world, x, have):
    rows = [world.log_p(x[i : i + 1], names) for i, names in enumerate(have)]
    return torch.cat(rows)


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_the_product_of_exact_experts_is_the_posterior_given_any_modalities(names):
    """Weights are constant, and equal to log p of the modalities that are present."""
    world = ModalWorld(names)
    x, mask, have = patterns(world)
    log_w = pv.log_weights(world.vae(ProductOfExperts), x, mask, particles=4)
    truth = evidence(world, x, have)
    torch.testing.assert_close(log_w, truth.expand(4, -1), rtol=1e-9, atol=1e-9)
    assert (truth[-2:] == 0).all(), "no modality"


def test_without_a_mask_every_datum_has_all_modalities():
    world = ModalWorld()
    x, vae = world.sample(3), world.vae(MixtureOfProducts)
    with pv.seeded(0):
        without = pv.log_weights(vae, x, particles=3)
    with pv.seeded(0):
        whole = pv.log_weights(vae, x, torch.ones(3, 2, dtype=torch.bool), particles=3)
    assert torch.equal(without, whole)


@pytest.mark.parametrize("guide", MIXTURES, ids=lambda guide: guide.__name__)
def test_mixtures_are_bounds_from_below_that_converge_to_the_truth(guide):
    world = ModalWorld("abc")
    x, mask, have = patterns(world, n=4)
    vae = world.vae(guide, prior=guide is MixtureOfExperts)
    with pv.seeded(0), torch.no_grad():
        log_w = pv.log_weights(vae, x, mask, particles=4_000)
    truth = evidence(world, x, have)
    ratio, gaps = (log_w - truth).exp(), {}
    variance = ratio.var(0).mean().item()
    for k in (1, 10, 100, 1_000):
        bound = pv.bounds.iwae_estimate(log_w, k)
        gaps[k] = pv.bounds.Estimate(truth - bound.value, bound.standard_error)
        assert gaps[k].mean > -4 * gaps[k].error_over_particles
        # To first order IWAE-k is below log p by the variance of w / p(x), over 2 k.
        if k >= 100:
            assert gaps[k].mean < 2 * variance / (2 * k) + 4 * gaps[k].error_over_particles
    assert gaps[1].mean - gaps[10].mean > 4 * gaps[1].error_over_particles
    assert gaps[10].mean > 4 * gaps[10].error_over_particles
    # Weights are unbiased: every single mean weight is p(x) within its error.
    error = ratio.std(0) / math.sqrt(len(ratio))
    exact = error < 1e-9
    assert ((ratio.mean(0) - 1).abs() <= 4.5 * error + 1e-9).all()
    # With one modality or none, q has one component, which is exact.
    assert exact.tolist() == [len(names) < 2 for names in have]


@pytest.mark.parametrize("guide", MIXTURES, ids=lambda guide: guide.__name__)
def test_the_density_of_a_mixture_is_the_sum_over_its_components(guide):
    world = ModalWorld("abc")
    x, mask, have = patterns(world, n=1)
    exact = world.vae(guide, prior=guide is MixtureOfExperts).posterior
    q, z = exact.distribution(exact.net(x, mask)), torch.linspace(-1.5, 2.0, 2).double()
    posterior = world.vae(ProductOfExperts).posterior
    for row, names in enumerate(have):
        largest = 1 if guide is MixtureOfExperts else len(names)
        sizes = range(1, largest + 1) if names else [0]
        parts = [s for size in sizes for s in itertools.combinations(names, size)]
        scores = []
        for part in parts:
            own = torch.tensor([[name in part for name in world.modalities.names]])
            each = posterior.distribution(posterior.net(x[row : row + 1], own))
            scores.append(each.log_prob(z))
        wanted = torch.cat(scores).logsumexp(0) - math.log(len(parts))
        torch.testing.assert_close(q.log_prob(z)[row], wanted, rtol=1e-9, atol=1e-9)


@every_guide
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_the_value_of_a_missing_modality_moves_no_number_and_no_gradient(guide, value):
    both = pv.nets.Modalities(real=2, unit=1)
    net = pv.nets.MLP

    def loss_and_gradients(fill):
        torch.manual_seed(0)
        vae = pv.VAE(
            pv.priors.StandardNormal(LATENTS),
            pv.likelihoods.EachModality(
                both,
                real=pv.likelihoods.Normal(net(LATENTS, 4, 2)),
                unit=pv.likelihoods.Beta(net(LATENTS, 4, 2)),
            ),
            guide(both, real=net(2, 4, 2 * LATENTS), unit=net(1, 4, 2 * LATENTS)),
        )
        x = torch.tensor([[0.5, -1.0, 0.25], [2.0, 1.0, 0.75], [0.5, 0.1, 0.9]])
        mask = torch.tensor([[True, False], [False, True], [False, False]])
        x = torch.where(mask[:, [0, 0, 1]], x, fill)
        loss = Trace_ELBO().differentiable_loss(vae.model, vae.guide, x, mask)
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in vae.parameters()]

    wanted, gradients = loss_and_gradients(0.5)
    found, others = loss_and_gradients(value)
    assert torch.equal(found, wanted)
    assert wanted.isfinite()
    assert all(map(torch.equal, gradients, others))
    assert all((gradient != 0).any() for gradient in gradients)


@every_guide
def test_fit_trains_on_data_of_which_some_miss_a_modality(guide):
    world = ModalWorld()
    x = world.sample(200, seed=4).float()
    x[:60, :3], x[60:90, 3:] = math.nan, math.nan
    packed, mask = world.modalities.pack(world.modalities.split(x))
    assert not packed.isnan().any()
    assert mask.sum(0).tolist() == [140, 170]
    torch.manual_seed(0)
    net = pv.nets.MLP
    vae = pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.EachModality(
            world.modalities,
            a=pv.likelihoods.Normal(net(LATENTS, 3)),
            b=pv.likelihoods.Normal(net(LATENTS, 2)),
        ),
        guide(world.modalities, a=net(3, 2 * LATENTS), b=net(2, 2 * LATENTS)),
    )
    before = pv.log_weights(vae, packed, mask, particles=20).mean(0)
    step = pv.Step(optim=pv.Optim(torch.optim.Adam, lr=0.02), compile=False)
    pv.fit(vae, (packed, mask), epochs=8, batch_size=50, step=step, callbacks=[])
    gain = pv.log_weights(vae, packed, mask, particles=20).mean(0) - before
    assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain))


def test_a_vae_reconstructs_what_is_missing():
    """From exact experts: the mean over draws is that of p(a | b)."""
    world = ModalWorld()
    x = world.sample(1, seed=5).expand(20_000, -1)
    mask = world.modalities.only(torch.ones(20_000, 2, dtype=torch.bool), "b")
    with pv.seeded(0):
        found = world.modalities.split(world.vae(ProductOfExperts).reconstruct(x, mask))["a"]
    own, known = world.places("a"), world.places("b")
    cross = world.covariance[own][:, known]
    wanted = cross @ torch.linalg.solve(world.covariance[known][:, known], x[0, known])
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - wanted).abs() < 4 * error).all()
    assert error.max() < 0.02


def test_networks_that_do_not_fit_are_refused():
    both = pv.nets.Modalities(a=2, b=1)
    with pytest.raises(ValueError, match=r"ProductOfExperts takes one for each .*\['a', 'b'\]"):
        ProductOfExperts(both, a=nn.Linear(2, 4))
    with pytest.raises(ValueError, match=r"that of \['b'\] is none"):
        ProductOfExperts(both, a=nn.Linear(2, 4), b=torch.relu)
    uneven = MixtureOfExperts(both, a=nn.Linear(2, 4), b=nn.Linear(1, 6))
    with pytest.raises(ValueError, match=r"2 D outputs for D latents; .*'a': 4, 'b': 6"):
        uneven.net(torch.zeros(1, 3))
    odd = MixtureOfExperts(both, a=nn.Linear(2, 3), b=nn.Linear(1, 3))
    with pytest.raises(ValueError, match="2 D outputs"):
        odd.net(torch.zeros(1, 3))
