"""A learned observation noise: its closed form, where gradients take it, and what is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from worlds import LinearGaussian, random

import pyrovae as pv
from pyrovae.likelihoods import Laplace, Normal, StudentT
from pyrovae.nets import positive

# The closed forms, written out: what the scale should be, given x - m.
CLOSED_FORMS = {
    Normal: lambda gap: (gap**2).mean() ** 0.5,
    Laplace: lambda gap: gap.abs().mean(),
}
families = pytest.mark.parametrize("family", CLOSED_FORMS)


def scale_of(likelihood):
    return float(positive(likelihood.raw_scale.detach()))


@families
def test_the_fitted_scale_is_the_closed_form_and_no_gradient_is_left(family):
    z, x = random(0, 7, 50, 2), 3 * random(1, 50, 4)
    likelihood = family(nn.Linear(2, 4)).double().fit_scale(z, x)
    gap = (x - likelihood.net(z)).detach()
    assert scale_of(likelihood) == pytest.approx(float(CLOSED_FORMS[family](gap)))
    log_p = likelihood.observation(z).log_prob(x).mean()
    (slope,) = torch.autograd.grad(log_p, likelihood.raw_scale)
    assert abs(float(slope)) < 1e-12


@families
def test_gradients_take_the_learned_scale_to_its_closed_form(family):
    """The guide has no noise and all else is fixed, so that SVI descends one smooth function."""
    x = 0.3 * random(1, 50, 4)
    likelihood = family(nn.Linear(2, 4).requires_grad_(requires_grad=False)).double()

    def mode(x):
        return pyro.sample("z", dist.Delta(x[..., :2], event_dim=1))

    vae = pv.VAE(pv.priors.StandardNormal(2).double(), likelihood, mode)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
    for _ in range(200):
        svi.step(x)
    gap = x - likelihood.net(x[:, :2])
    expected = CLOSED_FORMS[family](gap)
    assert scale_of(likelihood) == pytest.approx(float(expected), rel=1e-9)


def test_a_linear_vae_learns_the_noise_of_probabilistic_pca():
    """At the maximum of the likelihood s^2 is the mean of the eigenvalues that W leaves out.

    References: Tipping, Bishop, 1999; Lucas, Tucker, Grosse, Norouzi, 2019.
    """
    pyro.set_rng_seed(0)
    x = LinearGaussian(latents=2, width=5).sample(400)
    discarded = torch.linalg.eigvalsh(x.T.cov(correction=0))[:3]
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        Normal(pv.nets.MLP(2, 5)).start_at_mean(x),
        pv.guides.FullRankNormal(pv.nets.MLP(5, pv.guides.FullRankNormal.width(2))),
    ).double()
    schedule = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.03}, "gamma": 0.992}
    )
    svi = pyro.infer.SVI(vae.model, vae.guide, schedule, Trace_ELBO())
    for _ in range(600):
        svi.step(x)
        schedule.step()
    # The draws move the fitted scale by s / sqrt(2 * 200,000), and the training by less than 1%.
    expected = pytest.approx(float(discarded.mean().sqrt()), rel=0.01)
    assert scale_of(vae.likelihood) == expected
    assert scale_of(vae.likelihood.fit_scale(vae.encode(x).sample((100,)), x)) == expected


def small_vae(likelihood):
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, guide)


@families
def test_no_other_scale_has_a_higher_elbo(family):
    """At the same draws the ELBO falls by about 3 * 0.1^2 nats, 10% from an optimum of three x_i.

    The scale is fitted at other draws, 6,000 numbers: it is off by 1 / sqrt(6,000) = 1.3%.
    """
    x = 0.3 * torch.randn(200, 3)
    vae = small_vae(family(pv.nets.MLP(2, 3)))
    vae.likelihood.fit_scale(vae.encode(x).sample((10,)), x)
    best = pv.evaluate(vae, x, particles=20).elbo.mean
    for factor in (0.9, 1.1):
        other = small_vae(family(vae.likelihood.net, scale=factor * scale_of(vae.likelihood)))
        other.posterior = vae.posterior
        assert pv.evaluate(other, x, particles=20).elbo.mean < best - 0.01


@pytest.mark.usefixtures("interpreted")
def test_a_compiled_step_sees_the_fitted_scale():
    """Two steps at a learning rate of 0, with one scale and then the other."""
    x = torch.randn(50, 3)
    vae = small_vae(Normal(pv.nets.MLP(2, 3)))
    losses = {}
    for compiled in (False, True):
        with torch.no_grad():
            vae.likelihood.raw_scale.fill_(0.5)
        still = pyro.optim.SGD({"lr": 0.0})
        svi = pv.SVI(
            vae.model, vae.guide, still, Trace_ELBO(max_plate_nesting=1), compile=compiled
        )
        losses[compiled] = []
        for fitted in (False, True):
            pyro.set_rng_seed(1)
            if fitted:
                vae.likelihood.fit_scale(torch.zeros(50, 2), 3 * x)
            losses[compiled].append(svi.step(x))
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert abs(losses[True][0] - losses[True][1]) > 1


@families
@pytest.mark.parametrize("scale", [0.3, "network"])
def test_a_scale_that_is_not_learned_is_not_fitted(family, scale):
    with pytest.raises(ValueError, match=f"scale={scale!r}: construct it with scale='learned'"):
        family(nn.Linear(2, 6), scale=scale).fit_scale(torch.zeros(5, 2), torch.zeros(5, 6))


@pytest.mark.parametrize("x", [0.0, 1e-6, float("inf"), float("nan")])
def test_a_scale_without_a_finite_optimum_above_the_smallest_is_refused(x):
    net = nn.Linear(2, 3)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    likelihood = Normal(net)
    with pytest.raises(ValueError, match="finite scale above 1e-05; the optimum is"):
        likelihood.fit_scale(torch.zeros(5, 2), torch.full((5, 3), x))
    assert scale_of(likelihood) == pytest.approx(1)


def test_data_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"of shape \(5, 3\) for data of shape \(5, 1\)"):
        Normal(nn.Linear(2, 3)).fit_scale(torch.zeros(5, 2), torch.zeros(5, 1))


def test_student_t_has_no_closed_form():
    assert not hasattr(StudentT(nn.Linear(2, 3)), "fit_scale")
