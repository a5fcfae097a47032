"""A point guide makes an auto-encoder: its loss and its gradients are those of plain torch."""

import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.train.step import default_loss
from pyrovae.train.svi import SVI

X = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]])


def auto_encoder(prior=pv.priors.Laplace):
    return pv.VAE(
        prior=prior(2),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 4)),
        guide=pv.guides.Delta(pv.nets.MLP(4, 2)),
    )


def by_hand(vae, weight):
    """Return sum_n [ -log p(x_n | f(x_n)) + weight |f(x_n)|_1 + weight D log 2 ]."""
    code = vae.posterior.net(X)
    logits = vae.likelihood.net(code)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, X, reduction="sum")
    return entropy + weight * (code.abs() + torch.tensor(2.0).log()).sum()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.usefixtures("interpreted")
def test_the_step_is_that_of_a_penalized_auto_encoder(weight, compiled):
    vae = auto_encoder()
    parameters = list(vae.parameters())
    wanted = by_hand(vae, weight)
    gradients = torch.autograd.grad(wanted, parameters)
    model, guide = vae.model, vae.guide
    if weight != 1:
        model, guide = map(pv.handlers.kl_weight(weight), (model, guide))
    loss = default_loss(model, guide, X)
    svi = SVI(model, guide, torch.optim.SGD(parameters, 0.0), loss, compile=compiled)
    for _ in range(3):  # the last of a compiled step is replayed
        assert svi.step(X) == pytest.approx(wanted.item(), rel=1e-5)
        svi.gradients(X)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
        vae.zero_grad()
    assert svi.compiled is compiled


def test_every_draw_is_the_code():
    vae = auto_encoder()
    code = vae.posterior.net(X)
    assert torch.equal(vae.encode(X).mean, code)
    assert torch.equal(vae.guide(X), code)
    torch.testing.assert_close(vae.reconstruct(X), vae.likelihood.net(code).sigmoid().detach())


def test_a_report_says_that_there_is_no_bound():
    vae = auto_encoder(pv.priors.StandardNormal)
    report = pv.evaluate(vae, X, particles=5)
    assert report.point_masses == ("z",)
    joint = -by_hand(vae, 0.0) + torch.distributions.Normal(0, 1).log_prob(vae.guide(X)).sum()
    assert report.elbo.mean == pytest.approx(joint.item() / len(X), rel=1e-5)
    with pytest.raises(ValueError, match="site 'z' is a Delta.*no density"):
        pv.Latents()(vae, X)


def test_it_comes_back_from_a_folder(tmp_path):
    vae = auto_encoder()
    pv.save(vae, tmp_path)
    assert torch.equal(pv.load(tmp_path).guide(X), vae.guide(X))
