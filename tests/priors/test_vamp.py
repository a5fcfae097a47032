"""The VampPrior: the mixture by hand, one encoder for prior and posterior, and where it starts."""

import copy
import pickle

import pyro
import pytest
import torch
from torch import distributions as td
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae import guides, parts, priors
from pyrovae.nets import MLP
from pyrovae.priors.vamp import MARGIN, STEEPNESS

GUIDES = {
    "MeanFieldNormal": lambda: guides.MeanFieldNormal(MLP(3, 4, 2 * 2)),
    "FullRankNormal": lambda: guides.FullRankNormal(MLP(3, 4, guides.FullRankNormal.width(2))),
    "LowRankNormal": lambda: guides.LowRankNormal(MLP(3, 4, guides.LowRankNormal.width(2, 1)), 1),
    "MixtureOfNormals": lambda: guides.MixtureOfNormals(
        MLP(3, 4, guides.MixtureOfNormals.width(2, 2)), 2
    ),
}
every_guide = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES.keys())


def vamp_vae(make=GUIDES["MeanFieldNormal"], components=4):
    guide = make()
    prior = priors.VampPrior(guide, components).start_at_data(random(0, 9, 3).float())
    likelihood = pv.likelihoods.Normal(MLP(2, 4, 3), scale=0.5)
    return pv.VAE(prior, likelihood, guide)


@every_guide
def test_it_is_the_mixture_of_posteriors_written_out(make):
    vae = vamp_vae(make).double()
    prior, z = vae.prior, random(1, 6, 5, 2)
    inputs = prior.pseudo_inputs
    posterior, net = vae.posterior.distribution, vae.posterior.net
    each = [posterior(net(inputs[k : k + 1])).log_prob(z).exp() for k in range(4)]
    wanted = (sum(each) / 4).log()
    torch.testing.assert_close(prior.distribution().log_prob(z), wanted)


def test_its_posteriors_are_those_of_the_networks_numbers():
    """Write network, posterior and mixture out: nothing is the library's but the weights."""
    vae = vamp_vae().double()
    first, _, last = vae.posterior.net.layers
    prior, z = vae.prior, random(1, 6, 2)
    inputs = prior.low + (prior.high - prior.low) / (1 + (-16 * prior.unconstrained).exp())
    hidden = (inputs @ first.weight.T + first.bias).clamp(min=0)
    loc, raw = (hidden @ last.weight.T + last.bias).chunk(2, -1)
    scale = (1 + raw.exp()).log() + 1e-5
    densities = td.Normal(loc, scale).log_prob(z.unsqueeze(1)).sum(-1).exp()
    torch.testing.assert_close(prior.distribution().log_prob(z), densities.mean(1).log())


def test_pseudo_inputs_start_at_distinct_rows_of_the_data():
    x = random(0, 20, 3)
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 20).double().start_at_data(x)
    middle = (x.amax(0) + x.amin(0)) / 2
    rows = middle + (prior.pseudo_inputs - middle) / (1 - 2 * MARGIN)
    nearest = ((rows.unsqueeze(1) - x).abs().amax(-1) < 1e-9).double()
    assert torch.equal(nearest.sum(0), torch.ones(20).double())
    assert torch.equal(nearest.sum(1), torch.ones(20).double())


def test_they_are_not_the_first_rows():
    x = torch.arange(100.0).reshape(100, 1).expand(-1, 3)
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 10).start_at_data(x)
    assert prior.pseudo_inputs.max() > 20


def test_binary_pixels_have_a_slope_at_the_start():
    x = torch.bernoulli(torch.full((9, 3), 0.5))
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 4).start_at_data(x)
    away = (prior.pseudo_inputs - prior.pseudo_inputs.round()).abs()
    torch.testing.assert_close(away, torch.full_like(away, MARGIN))
    (slope,) = torch.autograd.grad(prior.pseudo_inputs.sum(), prior.unconstrained)
    torch.testing.assert_close(slope, torch.full_like(slope, STEEPNESS * MARGIN * (1 - MARGIN)))


def test_they_stay_in_the_range_of_each_column():
    x = torch.stack([random(0, 9), 100 * random(1, 9), torch.full((9,), 7.0).double()], 1)
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 4).double().start_at_data(x)
    with torch.no_grad():
        prior.unconstrained += 50 * random(2, 4, 3)
    inputs = prior.pseudo_inputs
    assert (inputs >= x.amin(0)).all()
    assert (inputs <= x.amax(0)).all()
    assert torch.equal(inputs[:, 2], torch.full((4,), 7.0).double())


def test_five_hundred_pseudo_inputs_train():
    x = torch.bernoulli(torch.full((500, 3), 0.4))
    guide = guides.MeanFieldNormal(MLP(3, 4, 2 * 2, activation=nn.Tanh))
    prior = priors.VampPrior(guide, 500).start_at_data(x)
    vae = pv.VAE(prior, pv.likelihoods.Bernoulli(MLP(2, 4, 3)), guide)
    before = prior.unconstrained.detach().clone()
    pv.fit(vae, x, epochs=1, callbacks=[])
    assert ((prior.unconstrained - before) != 0).all()


def together(vae):
    """Tell whether prior and posterior are one guide, in the record too."""
    return (
        vae.prior.guide is vae.posterior and vae.config["guide"] == vae.config["prior"]["args"][0]
    )


def names(vae):
    return [name for name, _ in vae.named_parameters()]


class Parameters(pv.Callback):
    def started(self, training):
        self.names = sorted(training.parameters)
        self.kept = sorted(training.snapshot())


def test_a_training_has_each_parameter_once():
    vae, seen = vamp_vae(), Parameters()
    pv.fit(vae, random(0, 9, 3).float(), epochs=1, callbacks=[seen])
    assert seen.names == sorted(names(vae))
    assert seen.kept == sorted([*names(vae), *(name for name, _ in vae.named_buffers())])
    assert len(set(seen.names)) == len(seen.names) == 9


@pytest.mark.parametrize("family", [pyro.infer.SVI, pv.SVI])
def test_a_step_moves_a_shared_parameter_once(family):
    vae, x = vamp_vae(), random(0, 9, 3).float()
    loss = pyro.infer.Trace_ELBO()
    pyro.set_rng_seed(1)
    loss.loss_and_grads(vae.model, vae.guide, x)
    wanted = {name: p.detach() - 0.01 * p.grad for name, p in vae.named_parameters()}
    vae.zero_grad(set_to_none=True)
    options = {} if family is pyro.infer.SVI else {"compile": False}
    svi = family(vae.model, vae.guide, pyro.optim.SGD({"lr": 0.01}), loss, **options)
    pyro.set_rng_seed(1)
    svi.step(x)
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(parameter.detach(), wanted[name])


def saved(vae, folder):
    pv.save(vae, folder)
    return pv.load(folder)


def pickled(vae, folder):
    return pickle.loads(pickle.dumps(vae))


def deepcopied(vae, folder):
    return copy.deepcopy(vae)


@pytest.mark.parametrize("copied", [saved, pickled, deepcopied])
@every_guide
def test_copies_share_their_encoder_and_train_as_the_original(copied, make, tmp_path):
    vae, x = vamp_vae(make), random(0, 9, 3).float()
    pv.fit(vae, x, epochs=1, callbacks=[])
    again = copied(vae, tmp_path)
    assert together(vae)
    assert together(again)
    assert again.prior.guide is not vae.prior.guide
    assert names(again) == names(vae)
    for each in (vae, again):
        pv.fit(each, x, epochs=2, callbacks=[])
    for one, other in zip(vae.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert again.posterior.net.layers[0].weight is again.prior.guide.net.layers[0].weight


def test_a_shared_encoder_is_saved_once(tmp_path):
    from safetensors.torch import load_file

    vae = vamp_vae()
    pv.save(vae, tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(
        [*names(vae), *(name for name, _ in vae.named_buffers())]
    )


def test_a_prior_with_an_encoder_of_its_own_keeps_it(tmp_path):
    vae = vamp_vae()
    apart = pv.VAE(vae.prior, vae.likelihood, copy.deepcopy(vae.posterior))
    again = saved(apart, tmp_path)
    assert len(names(again)) == len(names(apart)) == len(names(vae)) + 4
    assert again.prior.guide is not again.posterior


class Shifted(guides.Guide):
    """A guide of a user's own around a network that is no part."""

    def distribution(self, parameters):
        return pyro.distributions.Normal(parameters, 1.0).to_event(1)


def test_a_guide_that_is_passed_to_load_is_the_prior_s_too(tmp_path):
    vae = vamp_vae(lambda: Shifted(nn.Linear(3, 2)))
    pv.save(vae, tmp_path)
    with pytest.raises(
        ValueError, match="cannot rebuild the prior.*'Linear' is not a pyrovae.parts.Part"
    ):
        pv.load(tmp_path)
    own = Shifted(nn.Linear(3, 2))
    again = pv.load(tmp_path, guide=own)
    assert again.posterior is own
    assert again.prior.guide is own
    torch.testing.assert_close(own.net.weight, vae.posterior.net.weight, rtol=0, atol=0)


def test_its_state_is_loaded_where_there_are_no_pseudo_inputs_yet():
    vae = vamp_vae()
    fresh = parts.build(vae.prior.config)
    fresh.load_state_dict(vae.prior.state_dict(), strict=True)
    assert torch.equal(fresh.pseudo_inputs, vae.prior.pseudo_inputs)


def test_a_run_of_another_number_of_pseudo_inputs_is_refused(tmp_path):
    vae = vamp_vae()
    pv.save(vae, tmp_path)
    with pytest.raises(ValueError, match=r"'prior\..*' has shape.*the run was saved with"):
        pv.load(tmp_path, prior=priors.VampPrior(vae.posterior, 5), guide=vae.posterior)


def test_running_before_it_has_pseudo_inputs_says_what_to_do():
    guide = GUIDES["MeanFieldNormal"]()
    prior = priors.VampPrior(guide, 4)
    vae = pv.VAE(prior, pv.likelihoods.Normal(MLP(2, 4, 3)), guide)
    with pytest.raises(ValueError, match=r"no pseudo-inputs yet.*prior\.start_at_data\(x\)"):
        vae.sample(3)


@pytest.mark.parametrize(
    "own", [lambda x: None, nn.Linear(3, 4), MLP(3, 4)], ids=["function", "module", "network"]
)
def test_what_is_no_guide_is_refused(own):
    with pytest.raises(ValueError, match=f"pyrovae.guides.Guide.*got {type(own).__name__}"):
        priors.VampPrior(own, 4)


@pytest.mark.parametrize("components", [0, -1])
def test_no_component_is_refused(components):
    with pytest.raises(ValueError, match=f"VampPrior.*at least one component; got {components}"):
        priors.VampPrior(GUIDES["MeanFieldNormal"](), components)


def test_more_pseudo_inputs_than_data_are_refused():
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 4)
    with pytest.raises(ValueError, match=r"initializes 4 pseudo-inputs.*N >= 4; got \(3, 3\)"):
        prior.start_at_data(torch.zeros(3, 3))


BAD = {
    "of another width": (torch.zeros(9, 5), r"expected inputs \[\.\.\., 3\]; got \(1, 5\)"),
    "as images": (torch.zeros(9, 1, 3), r"x \[N, D\].*got \(9, 1, 3\)"),
    "not finite": (torch.full((9, 3), torch.nan), "NaN or infinite values in 9 of 9"),
}


@pytest.mark.parametrize(("x", "message"), BAD.values(), ids=BAD.keys())
def test_data_that_it_cannot_start_at_are_refused(x, message):
    prior = priors.VampPrior(GUIDES["MeanFieldNormal"](), 4)
    with pytest.raises(ValueError, match=message):
        prior.start_at_data(x)
    assert prior.unconstrained.numel() == 0
