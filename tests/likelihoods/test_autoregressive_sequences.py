"""Sequences step by step: a score is a product of conditionals, and draws have its frequencies."""

import itertools
import math

import pytest
import torch
from cases_tokens import MASK, TOKENS, tokens
from pyro.infer import Trace_ELBO
from scipy import stats
from torch import nn
from worlds import random

import pyrovae as pv
from pyrovae.likelihoods import Autoregressive, Bernoulli, Categorical, Normal
from pyrovae.nets import MLP, CausalAttention, CausalGRU, EmbedTokens, WordDropout
from pyrovae.train.svi import SVI

WORDS, LENGTH, WIDTH = 3, 3, 4
ALL = torch.tensor([*itertools.product(range(WORDS), repeat=LENGTH)]).double().unsqueeze(-1)
FALSE_ALARM = 1e-4


def loud(module):
    """Return a module whose weights are large enough for the steps to matter to one another."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.double()


def gru(embed=None):
    return CausalGRU(embed or EmbedTokens(WORDS, 3), 3, 2, WIDTH)


def attention(embed=None):
    embed = embed or EmbedTokens(WORDS, WIDTH)
    return CausalAttention(embed, LENGTH + 1, 2, channels=WIDTH, heads=2, blocks=2)


NETS = {"GRU": gru, "attention": attention}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())


def words(net, **settings):
    head = Categorical(MLP(WIDTH, WORDS), classes=WORDS)
    likelihood = loud(Autoregressive(net, head, **settings))
    with torch.no_grad():
        head.net.layers[-1].weight.mul_(0.5)
    return likelihood


def whole(number):
    return torch.ones(number, LENGTH, dtype=torch.bool)


def scores(likelihood, x, z, mask=None):
    """Return log p(x | z), [N], of one z for all sequences."""
    mask = whole(len(x)) if mask is None else mask
    with torch.no_grad():
        return likelihood.observation(z.expand(len(x), -1), mask).log_prob(x)


def weights(vae, x, *context, particles=5):
    with pv.seeded(3), torch.no_grad():
        return pv.log_weights(vae, x, *context, particles=particles)


def test_the_score_is_the_sum_of_the_conditionals():
    """By the equations of a GRU, one step after the other, for two particles."""
    likelihood = words(gru())
    net, head = likelihood.net, likelihood.head.net
    x, z = ALL[[3, 14, 22]], random(1, 2, 3, 2)
    mask = torch.tensor([[True] * 3, [True, True, False], [True, False, False]])
    cell = nn.GRUCell(3 + 2, WIDTH).double()
    cell.load_state_dict({n.removesuffix("_l0"): v for n, v in net.gru.state_dict().items()})
    wanted = torch.zeros(2, 3, dtype=torch.float64)
    for k, n in itertools.product(range(2), range(3)):
        h, before = torch.tanh(net.start(z[k, n])), torch.zeros(3, dtype=torch.float64)
        for t in range(int(mask[n].sum())):
            h = cell(torch.cat([before, z[k, n]]), h)
            wanted[k, n] += head(h).log_softmax(-1)[int(x[n, t])]
            before = net.embed.embedding.weight[int(x[n, t])]
    found = likelihood.observation(z, mask).log_prob(x)
    torch.testing.assert_close(found, wanted)


@every_net
@pytest.mark.parametrize("end", [None, 0], ids=["any", "ended"])
def test_probabilities_sum_to_one(make, end):
    found = scores(words(make(), end=end), ALL, random(2, 2))
    assert found.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    # After the end, there is only the end: words that differ there have no probability.
    ended = sum(WORDS ** max(0, LENGTH - 1 - t) * 2**t for t in range(LENGTH)) - (1 + 2 + 4)
    assert (found == -math.inf).sum().item() == (0 if end is None else ended)


@every_net
@pytest.mark.parametrize("end", [None, 0], ids=["any", "ended"])
def test_draws_have_the_frequencies_of_the_score(make, end):
    likelihood, z, number = words(make(), end=end), random(3, 2), 20_000
    torch.manual_seed(0)
    drawn = likelihood.observation(z.expand(number, 2), whole(number)).sample()
    code = (drawn.squeeze(-1) @ torch.tensor([9.0, 3.0, 1.0]).double()).long()
    counts = code.bincount(minlength=WORDS**LENGTH)
    wanted = scores(likelihood, ALL, z).exp()
    assert counts[wanted == 0].sum() == 0
    kept = number * wanted >= 5  # as a chi-square test asks for
    rest = [number - counts[kept].sum().item()], [number * (1 - wanted[kept].sum()).item()]
    found = torch.cat([counts[kept].double(), torch.tensor(rest[0]).double()])
    expected = torch.cat([number * wanted[kept], torch.tensor(rest[1]).double()])
    some = expected > 1e-6
    assert len(expected[some]) > 4
    assert stats.chisquare(found[some], expected[some]).pvalue > FALSE_ALARM


def test_draws_are_the_same_at_the_same_seed():
    chain = words(gru()).observation(random(3, 5, 2), whole(5))
    with pv.seeded(7):
        first = chain.sample((4,))
    with pv.seeded(7):
        assert torch.equal(chain.sample((4,)), first)
    assert first.shape == (4, 5, LENGTH, 1)
    assert chain.expand((2, 5)).sample().shape == (2, 5, LENGTH, 1)


@every_net
@pytest.mark.parametrize("t", range(LENGTH))
def test_a_step_moves_no_earlier_term_and_each_later_one(make, t):
    likelihood = words(make())
    x, z = ALL[[5]], random(4, 1, 2)
    other = x.clone()
    other[0, t] = (x[0, t] + 1) % WORDS
    moved = likelihood.net(other, z) - likelihood.net(x, z)
    assert moved.shape == (1, LENGTH + 1, WIDTH)
    assert not moved[:, : t + 1].any()
    assert (moved[:, t + 1 :] != 0).any(-1).all()


@every_net
def test_padding_moves_no_number(make):
    likelihood = words(make())
    x, mask = (
        ALL[[5, 11, 26]],
        torch.tensor([[True] * 3, [True, True, False], [True] + [False] * 2]),
    )
    z = random(5, 3, 2)
    plain = likelihood.observation(z, mask).log_prob(x)
    others = [x.where(mask.unsqueeze(-1), torch.full_like(x, value)) for value in range(WORDS)]
    for other in others:
        torch.testing.assert_close(
            likelihood.observation(z, mask).log_prob(other), plain, rtol=1e-14, atol=0
        )
    order = [2, 0, 1]
    found = likelihood.observation(z[order], mask[order]).log_prob(x[order])
    torch.testing.assert_close(found, plain[order], rtol=1e-14, atol=0)
    narrow = likelihood.observation(z[1:], mask[1:, :2]).log_prob(x[1:, :2])
    torch.testing.assert_close(narrow, plain[1:], rtol=1e-14, atol=0)


def test_padding_moves_no_weight_of_a_vae():
    """The reader of the guide sees no padding either."""
    case = tokens()
    wide = torch.cat([TOKENS, torch.full((3, 2, 1), 3.0)], 1)
    mask = torch.nn.functional.pad(MASK, (0, 2))
    plain, found = (weights(case.vae, x, m) for x, m in ((TOKENS, MASK), (wide, mask)))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)


def test_the_evidence_of_a_vae_of_one_latent_is_its_integral():
    net = CausalGRU(EmbedTokens(WORDS, 3), 3, 1, WIDTH)
    likelihood = Autoregressive(net, Categorical(MLP(WIDTH, WORDS), classes=WORDS), end=0)
    reader = pv.nets.EncodeSequence(MLP(1, 3), pv.nets.BackwardGRU(3, 4), MLP(4, 2))
    with torch.no_grad():
        reader.net.layers[-1].bias.copy_(torch.tensor([0.0, 1.0]))  # wider than the prior
    guide = pv.guides.MeanFieldNormal(reader)
    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, guide).double()
    x, mask = ALL[[14, 9]], torch.tensor([[True] * 3, [True, True, False]])
    z = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    with torch.no_grad():
        log_joint = likelihood.observation(z[:, None, None].expand(-1, 2, 1), mask).log_prob(x)
        log_joint += torch.distributions.Normal(0.0, 1.0).log_prob(z)[:, None]
        log_p = log_joint.logsumexp(0) + math.log(z[1] - z[0])
        found = pv.bounds.iwae_estimate(weights(vae, x, mask, particles=2000))
    # Two data at 1e-4 in all: 4.1 standard errors.
    assert ((found.value - log_p).abs() < 4.1 * found.standard_error).all()


def test_the_mean_is_right_on_average():
    """Against the sum over all sequences of one key, of which the first step is exact."""
    likelihood = loud(Autoregressive(gru(MLP(1, 3)), Bernoulli(MLP(WIDTH, 1))))
    z, number = random(6, 2), 4_000
    every = torch.tensor([*itertools.product([0.0, 1.0], repeat=LENGTH)]).double().unsqueeze(-1)
    wanted = (scores(likelihood, every, z).exp()[:, None, None] * every).sum(0)
    torch.manual_seed(0)
    found = likelihood.observation(z.expand(number, 2), whole(number)).mean
    error = found.std(0) / number**0.5
    assert ((found.mean(0) - wanted).abs() <= 4.5 * error + 1e-12).all()
    assert error[0] < 1e-12 < error[1:].min()


def test_the_mean_of_a_sequence_that_is_over_is_the_end():
    """With a head that draws the end at once."""
    likelihood = words(gru(), end=0)
    with torch.no_grad():
        likelihood.head.net.layers[-1].bias.copy_(torch.tensor([1e3, 0.0, 0.0]))
    chain = likelihood.observation(random(6, 2, 2), whole(2))
    assert torch.equal(chain.mean, torch.zeros(2, LENGTH, 1, dtype=torch.float64))


def test_numbers_are_scored_by_the_density_of_each_step():
    likelihood = loud(Autoregressive(gru(MLP(2, 3)), Normal(MLP(WIDTH, 2), scale=0.5)))
    x, z = random(8, 2, LENGTH, 2), random(9, 2, 2)
    loc = torch.stack(
        [likelihood.head.net(likelihood.net(x[:, :t] if t else None, z)[:, -1]) for t in range(3)],
        dim=1,
    )
    wanted = torch.distributions.Normal(loc, 0.5).log_prob(x).sum((-2, -1))
    torch.testing.assert_close(likelihood.observation(z, whole(2)).log_prob(x), wanted)


class TestWordDropout:
    def test_it_hides_as_many_steps_as_it_says(self):
        embed = WordDropout(loud(EmbedTokens(WORDS, 3)), 0.3)
        torch.manual_seed(0)
        hidden = (embed(torch.zeros(10_000, 1)) == 0).all(-1).double()
        assert abs(hidden.mean() - 0.3) < 4 * (0.3 * 0.7 / 10_000) ** 0.5
        shown = embed.net(torch.zeros(1, 1))
        assert torch.equal(embed(torch.zeros(10_000, 1))[hidden.argmin()], shown[0])

    @every_net
    def test_without_its_words_a_decoder_knows_their_places_alone(self, make):
        likelihood = words(make(WordDropout(EmbedTokens(WORDS, 3 if make is gru else WIDTH), 1.0)))
        z = random(10, 2)
        h = likelihood.net(ALL, z.expand(len(ALL), 2))
        torch.testing.assert_close(h, h[:1].expand_as(h), rtol=0, atol=1e-12)
        h = likelihood.eval().net(ALL, z.expand(len(ALL), 2))
        assert (h - h[:1])[1:, 1:].abs().amax((1, 2)).min() > 1e-3

    def test_no_measurement_sees_it(self):
        case = tokens()
        likelihood = case.vae.likelihood
        data = (case.x, *case.context)
        wanted = pv.evaluate(case.vae, data, particles=5, seed=0).elbo
        likelihood.net.embed = WordDropout(likelihood.net.embed, 0.9)
        assert case.vae.training
        found = pv.evaluate(case.vae, data, particles=5, seed=0).elbo
        assert torch.equal(found.value, wanted.value)

    def test_no_draw_is_made_with_it(self):
        likelihood = words(gru())
        z, mask = random(11, 50, 2), whole(50)
        drawn = []
        for probability in (0.0, 0.9):
            likelihood.net.embed = WordDropout(EmbedTokens(WORDS, 3), probability)
            chain = loud(likelihood).train().observation(z, mask)
            with pv.seeded(3):
                drawn.append(chain.sample())
        assert torch.equal(*drawn)
        assert (drawn[0] != drawn[0][:1]).any()

    @pytest.mark.usefixtures("interpreted")
    def test_a_compiled_step_hides_what_an_eager_one_does(self):
        losses = []
        for compile in (False, True):
            torch.manual_seed(0)
            case = tokens()
            case.vae.likelihood.net.embed = WordDropout(case.vae.likelihood.net.embed, 0.5)
            optim = torch.optim.SGD(case.vae.parameters(), 0.1)
            svi = SVI(case.vae.model, case.vae.guide, optim, Trace_ELBO(), compile=compile)
            with pv.seeded(3):
                losses.append([svi.gradients(case.x, *case.context)[0] for _ in range(4)])
        assert svi.compiled
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        assert len(set(losses[0])) == 4


def test_bits_are_counted_by_the_mask():
    case = tokens()
    report = pv.evaluate(case.vae, (case.x, *case.context), particles=20)
    assert report.entries.tolist() == MASK.sum(1).tolist()
    bound = report.iwae[20].value.double().sum().item()
    bits = -bound / math.log(2) / MASK.sum().item()
    assert report.bits_per_dimension().mean == pytest.approx(bits)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EmbedTokens(1, 3), "at least two tokens and one channel; got classes=1"),
        (lambda: EmbedTokens(4, 0), "channels=0"),
        (lambda: WordDropout(EmbedTokens(4, 3), 1.5), "a probability, from 0 to 1; got 1.5"),
        (lambda: CausalAttention(MLP(1, 6), 3, 2, channels=6), "channels=6, heads=4"),
        (lambda: words(gru(), end=5), "the end token is a value of the Categorical.*got 5"),
    ],
    ids=["token", "channel", "probability", "heads", "end"],
)
def test_parts_that_cannot_be_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_inputs_of_another_shape_are_refused():
    z, x = random(0, 1, 2), ALL[:1]
    with pytest.raises(ValueError, match="Autoregressive takes the mask.*got no context"):
        words(gru()).observation(z)
    with pytest.raises(ValueError, match=r"CausalGRU expected inputs \[..., 2\]; got \(1, 3\)"):
        words(gru()).net(x, random(0, 1, 3))
    with pytest.raises(ValueError, match="vectors of 3 numbers; got 5 of EmbedTokens"):
        words(gru(EmbedTokens(WORDS, 5))).net(x, z)
    with pytest.raises(ValueError, match="places for 4 steps; got a sequence of 5"):
        words(attention()).net(torch.cat([x, x], dim=1)[:, :4], z)
