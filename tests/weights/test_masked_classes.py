"""Classes of which some are known: a mask on a site that is summed out adds nothing."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from worlds import ENUMERATE, data_plate, random

import pyrovae as pv
from pyrovae.measure.annealing.path import LatentDensity
from pyrovae.measure.latents.sites import score_model
from pyrovae.objectives import IWAE

MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
KNOWN = torch.tensor([True, False, True, False, True])
LABELS = torch.tensor([0, 1, 2, 2, 0])
X = MEANS[LABELS] + random(0, 5)
# Of z given x: exact for a known class, broad for the others.
SCALES = torch.tensor([0.5**0.5, 2.0], dtype=torch.float64)[(~KNOWN).long()]


def by_obs_mask(y, known):
    return pyro.sample("c", dist.Categorical(SHARES), obs=y, obs_mask=known)


def by_handler(y, known):
    with poutine.mask(mask=known):
        pyro.sample("c_observed", dist.Categorical(SHARES), obs=y)
    with poutine.mask(mask=~known):
        c = pyro.sample("c_unobserved", dist.Categorical(SHARES))
    return torch.where(known, y, c)


def by_distribution(y, known):
    pyro.sample("c_observed", dist.Categorical(SHARES).mask(known), obs=y)
    c = pyro.sample("c_unobserved", dist.Categorical(SHARES).mask(~known))
    return torch.where(known, y, c)


WAYS = {"obs_mask": by_obs_mask, "handler": by_handler, "distribution": by_distribution}


@config_enumerate
def model(x, y, known, *, way):
    """A class, a normal about its mean, and x about that: x | c is normal of variance 2."""
    with data_plate(x):
        c = WAYS[way](y, known)
        z = pyro.sample("z", dist.Normal(MEANS[c], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x, y, known, *, masked, classes):
    """The exact posterior given the class if that is known, and a broad normal if not."""
    with data_plate(x):
        if classes:
            mask = ~known if masked else torch.ones_like(known)
            with poutine.mask(mask=mask):
                pyro.sample("c_unobserved", dist.Categorical(SHARES.flip(0)), infer=ENUMERATE)
        pyro.sample("z", dist.Normal((x + MEANS[y]) / 2, SCALES))


def log_evidence():
    joint = dist.Normal(MEANS, 2**0.5).log_prob(X[:, None]) + SHARES.log()
    return torch.where(KNOWN, joint.gather(1, LABELS[:, None])[:, 0], joint.logsumexp(1))


def log_joint(z):
    """Return log p(x, y where known, z) at draws [K, N]."""
    joint = dist.Normal(MEANS, 1.0).log_prob(z[..., None]) + SHARES.log()
    here = joint.gather(-1, LABELS.expand(len(z), -1)[..., None])[..., 0]
    return torch.where(KNOWN, here, joint.logsumexp(-1)) + dist.Normal(z, 1.0).log_prob(X)


SUMMED = "summed by the model"
GUIDES = {
    SUMMED: {"masked": False, "classes": False},
    "masked in the guide": {"masked": True, "classes": True},
    "not masked in the guide": {"masked": False, "classes": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampled", GUIDES)
def test_log_weights_are_those_of_the_joint(way, sampled):
    programs = functools.partial(model, way=way), functools.partial(guide, **GUIDES[sampled])
    terms = pv.log_weight_terms(programs, X, LABELS, KNOWN, particles=2000)
    # Known: the exact posterior, whose weights are constant. Not known: their mean is p(x).
    torch.testing.assert_close(terms.log_w[:, KNOWN], log_evidence()[KNOWN].expand(2000, -1))
    ratio = (terms.log_w - log_evidence()).exp()
    assert ((ratio.mean(0) - 1).abs() <= 5 * ratio.std(0) / 2000**0.5 + 1e-9).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_masked_class_costs_nothing_in_its_own_terms(way):
    programs = functools.partial(model, way=way), functools.partial(guide, **GUIDES[SUMMED])
    terms = pv.log_weight_terms(programs, X, LABELS, KNOWN, particles=3)
    spent = terms.guide["c_unobserved"] - terms.prior["c_unobserved"]
    assert spent[:, KNOWN].abs().max() < 1e-12
    assert (spent[:, ~KNOWN].abs() > 1e-3).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("objective", [IWAE(3), IWAE(1)], ids=str)
def test_objectives_are_of_the_same_weights(way, objective):
    programs = functools.partial(model, way=way), functools.partial(guide, **GUIDES[SUMMED])
    torch.manual_seed(1)
    found = objective.loss(*programs, X, LABELS, KNOWN)
    torch.manual_seed(1)
    log_w = pv.log_weights(programs, X, LABELS, KNOWN, particles=objective.num_particles)
    assert found == pytest.approx(-float(pv.bounds.log_mean_exp(log_w).sum()), rel=1e-12)


@pytest.mark.parametrize("way", ["obs_mask", "handler"])
def test_one_particle_is_the_loss_of_pyro(way):
    """Pyro sums with the mask of the site itself left out; not so for `.mask(mask)`."""
    programs = functools.partial(model, way=way), functools.partial(guide, **GUIDES[SUMMED])
    torch.manual_seed(2)
    wanted = TraceEnum_ELBO(max_plate_nesting=1).loss(*programs, X, LABELS, KNOWN)
    torch.manual_seed(2)
    met = pv.log_weights(programs, X, LABELS, KNOWN, particles=1)
    assert float(met.sum()) == pytest.approx(-wanted, rel=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_scores_and_paths_sum_the_same(way):
    program = functools.partial(model, way=way)
    z = random(3, 4, len(X))
    wanted = log_joint(z)
    log_prior, log_likelihood = score_model(program, {"z": z}, X, LABELS, KNOWN)
    torch.testing.assert_close(log_prior + log_likelihood, wanted)
    path = LatentDensity((program, None), 4, "prior", X, LABELS, KNOWN)
    torch.testing.assert_close(path.point(z[..., None]).log_joint, wanted)


def test_a_class_that_is_drawn_needs_the_mask_in_both_programs():
    """Unmasked in the guide alone, its weights would average 3, the number of classes."""

    def drawn(x, y, known):
        with data_plate(x):
            pyro.sample("c_unobserved", dist.Categorical(SHARES))
            pyro.sample("z", dist.Normal(x / 2, 2.0))

    program = functools.partial(model, way="handler")
    with pytest.raises(ValueError, match="'c_unobserved' is masked differently in the model"):
        pv.log_weights((program, drawn), X, LABELS, KNOWN, particles=3)
