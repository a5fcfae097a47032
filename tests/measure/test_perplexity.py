"""The perplexity is that of a known distribution, and is missing where there is none."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases_tokens import MASK, tokens
from torch import nn

import pyrovae as pv
from pyrovae.measure.findings import NotMeasurable


def biased():
    """Return a VAE whose tokens are independent of all, with known probabilities."""
    case = tokens()
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for parameter in case.vae.likelihood.parameters():
        nn.init.zeros_(parameter)
    case.vae.likelihood.head.net.layers[-1].bias.data = probabilities.log()
    for parameter in case.vae.posterior.parameters():
        nn.init.zeros_(parameter)  # close to the prior: its scale is softplus(0)
    case.vae.posterior.net.net.layers[-1].bias.data[2:] = math.log(math.e - 1)
    return case, probabilities


def test_it_is_that_of_the_tokens_which_the_mask_counts():
    case, probabilities = biased()
    report = pv.evaluate(case.vae, (case.x, MASK), particles=4)
    seen = probabilities[case.x.squeeze(-1)[MASK].long()]
    wanted = math.exp(-seen.log().mean())
    assert pv.perplexity(report).mean == pytest.approx(wanted, rel=1e-4)


def test_its_errors_are_those_of_a_ratio():
    """Over data against the jackknife, of many sequences of several lengths."""
    case, probabilities = biased()
    generator = torch.Generator().manual_seed(0)
    x = torch.multinomial(probabilities, 900, replacement=True, generator=generator)
    x = x.clamp_min(1).reshape(300, 3, 1).float()
    mask = torch.arange(3) < torch.randint(1, 4, (300, 1), generator=generator)
    report = pv.evaluate(case.vae, (x, mask), particles=4)
    found = pv.perplexity(report)
    bound, steps = report.iwae[4].value.double(), report.entries
    left = (-(bound.sum() - bound) / (steps.sum() - steps)).exp()
    jackknife = (299 / 300 * (left - left.mean()).square().sum()).sqrt().item()
    assert found.error_over_data == pytest.approx(jackknife, rel=0.02)
    assert found.error_over_particles < 1e-3


def test_where_there_is_none_it_is_said():
    case, _ = biased()
    report = pv.evaluate(case.vae, (case.x, MASK), particles=4)
    with pytest.raises(NotMeasurable, match="the mask counts no token"):
        pv.perplexity(replace(report, entries=torch.zeros(3)))
    with pytest.raises(NotMeasurable, match="p.x. is a density"):
        pv.perplexity(replace(report, domain=dist.constraints.real))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x))))

    point = replace(pv.evaluate((model, guide), torch.ones(4), particles=1), domain=report.domain)
    with pytest.raises(NotMeasurable, match="a point mass"):
        pv.perplexity(point)
