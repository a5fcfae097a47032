"""What `pv.Codes` reports, counted by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae as pv
from pyrovae.measure.codes import CodesFinding, Level
from pyrovae.measure.findings import NotMeasurable


@pytest.fixture
def coded():
    """Two positions whose codes are the signs of two bits: 0 or 1 of four codes."""
    book = pv.nets.Codebook(4, 1)
    book.table.copy_(torch.tensor([[[-1.0], [1.0], [30.0], [40.0]]]))
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(2 * torch.eye(2))
        net.bias.fill_(-1.0)
    prior = pv.priors.Codes(book, 2, learned=True)
    torch.nn.init.normal_(prior.logits)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 2))
    return pv.VAE(prior, likelihood, pv.guides.VectorQuantized(net, book))


X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0]])


def test_perplexity_usage_and_dead_codes_are_counts(coded):
    found = pv.Codes()(coded, X)
    # Bits: 5 zeros and 5 ones.
    assert found.quantities["perplexity"].mean == pytest.approx(2.0)
    assert found.quantities["usage"].mean == 0.5
    assert found.dead == {"z": [2, 3]}
    assert "2 of 4 codes of z are used; dead: 2, 3." in found.verdict[0]
    assert torch.equal(found.per_datum["codes, z"], X.long())


def test_codes_that_one_datum_alone_has_tell_of_new_ones():
    """The last of N data has new codes as often as any has codes that no other has."""
    level = Level(torch.tensor([[0, 0, 1], [1, 2, 2], [1, 3, 1]]), 6)
    assert level.unseen == pytest.approx(5 / 9)  # 0 twice, 2 twice, 3
    p = torch.tensor([0.6, 0.2, 0.1, 0.06, 0.03, 0.01], dtype=torch.float64)
    new = (p * (1 - p) ** 49).sum().item()
    found = [
        Level(torch.multinomial(p, 50, replacement=True)[:, None], 6).unseen for _ in range(2000)
    ]
    spread = torch.tensor(found).std().item()
    assert abs(sum(found) / 2000 - new) < 4 * spread / 2000**0.5
    assert math.isnan(Level(level.codes[:1], 6).unseen)


def test_few_data_do_not_say_that_codes_are_dead():
    """All of 64 codes are as likely; 30 data have about 24 of them."""
    values = torch.zeros(2000)
    few, many = (
        CodesFinding(values[:n], values[:n], {"z": Level(torch.randint(64, (n, 1)), 64)}, n)
        for n in (30, 2000)
    )
    assert "codes of further data would be new" in few.verdict[1]
    assert not any("would be new" in said for said in many.verdict)


def test_the_bound_is_the_log_weight_and_the_rate_is_in_bits_per_code(coded):
    found = pv.Codes()(coded, X)
    with torch.no_grad():
        wanted = pv.log_weights(coded, X, particles=1)[0]
        log_p = coded.prior.tokens().log_prob(X.long())
    torch.testing.assert_close(found.bound.value, wanted)
    assert found.bound.error_over_particles == 0
    bits = found.quantities["bits per code"]
    each = -log_p / (2 * math.log(2))
    assert bits.mean == pytest.approx(each.mean().item())
    assert found.quantities["rate"].mean == pytest.approx(-log_p.mean().item())
    assert found.quantities["distortion"].mean == pytest.approx((log_p - wanted).mean().item())
    error = found.quantities["rate"].error_over_data / (2 * math.log(2))
    assert bits.error_over_data == pytest.approx(error)


def test_levels_are_named_and_the_finding_is_saved_with_a_report(tmp_path):
    book = pv.nets.Codebook(8, 2, depth=2)
    vae = pv.VAE(
        pv.priors.Codes(book, 3),
        pv.likelihoods.Bernoulli(pv.nets.MLP(6, 4)),
        pv.guides.VectorQuantized(pv.nets.MLP(4, 6), book),
    )
    report = pv.evaluate(vae, torch.eye(4), particles=2, diagnostics=[pv.Codes(limit=3)])
    report.save(tmp_path / "evaluation.json")
    again = pv.Report.load(tmp_path).findings["codes"]
    assert {"usage, z, level 1", "usage, z, level 2"} <= again.quantities.keys()
    assert again.per_datum["codes, z, level 2"].shape == (3, 3)
    assert str(again) == str(report.findings["codes"])


def test_guides_without_codes_are_refused():
    vae = pv.mlp_vae(4, latents=2, hidden=3)
    with pytest.raises(NotMeasurable, match=r"samples \['z'\], none of which holds codes"):
        pv.Codes()(vae, torch.eye(4))
    with pytest.raises(ValueError, match="limit=0"):
        pv.Codes(limit=0)


class Beside(torch.nn.Module):
    """Sample a normal u after a program's own sites; a prior gives both to the likelihood."""

    def __init__(self, program, loc):
        super().__init__()
        self.program, self.loc = program, loc

    def forward(self, *x):
        z = self.program(*x)
        u = pyro.sample("u", dist.Normal(self.loc * torch.ones(2), 1.0).to_event(1))
        return z if x else z + u


def test_a_random_site_beside_the_codes_has_an_error_over_particles(coded):
    vae = pv.VAE(Beside(coded.prior, 0.0), coded.likelihood, Beside(coded.posterior, 2.0))
    with pytest.raises(NotMeasurable, match=r"samples \['u'\] beside the codes of \['z'\]"):
        pv.Codes()(vae, X)
    report = pv.evaluate(vae, X, particles=20)
    assert report.elbo.error_over_particles > 0.01
    assert "no error over particles" not in str(report)
    assert "no error over particles" in str(pv.evaluate(coded, X, particles=20))


def test_a_prior_without_probabilities_of_the_codes_is_refused(coded):
    density = pv.VAE(pv.priors.StandardNormal(2), coded.likelihood, coded.posterior)
    refused = "has a density there, so their ratio is no bound"
    with pytest.raises(ValueError, match=refused):
        pv.log_weights(density, X, particles=1)
    with pytest.raises(ValueError, match=refused):
        pv.evaluate(density, X, particles=2)
    with pytest.raises(ValueError, match=refused):
        pv.fit(density, X, epochs=1)
    other = pv.priors.Codes(pv.nets.Codebook(4, 1), 2)
    with pytest.raises(ValueError, match="different quantizers.*guide.quantizer"):
        pv.log_weights(pv.VAE(other, coded.likelihood, coded.posterior), X, particles=1)
