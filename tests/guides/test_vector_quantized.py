"""Codes in a VAE: the bound against the evidence, priors over codes, training, what is refused."""

import copy
import itertools
import math

import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.distributions.codes import TokenChain
from pyrovae.nets import MLP, CausalTransformer, Codebook
from pyrovae.objectives import CUBO, IWAE, ReweightedWakeSleep

POSITIONS, WIDTH, CODES, PIXELS = 2, 2, 3, 4
X = torch.tensor(list(itertools.product([0.0, 1.0], repeat=PIXELS)), dtype=torch.float64)


def chain(book, positions=POSITIONS):
    net = CausalTransformer(positions * book.depth, book.codes, channels=8, heads=2, blocks=1)
    return pv.priors.AutoregressiveCodes(book, net)


def learned(book):
    prior = pv.priors.Codes(book, POSITIONS, learned=True)
    torch.nn.init.normal_(prior.logits)
    return prior


def uniform(book):
    return pv.priors.Codes(book, POSITIONS)


PRIORS = {"uniform": uniform, "categorical": learned, "autoregressive": chain}


def world(prior=learned, guide=None, **options):
    """Return a VAE of two positions with three codes each, whose nine codes can be summed over."""
    torch.manual_seed(0)
    net = MLP(PIXELS, 6, POSITIONS * WIDTH)
    if guide is None:
        guide = pv.guides.VectorQuantized(net, Codebook(CODES, WIDTH, **options))
    likelihood = pv.likelihoods.Bernoulli(MLP(POSITIONS * WIDTH, 6, PIXELS))
    return pv.VAE(prior(guide.quantizer), likelihood, guide).double()


def all_codes(vae):
    book = vae.posterior.quantizer
    ranges = [range(book.codes)] * (POSITIONS * book.depth)
    return torch.tensor(list(itertools.product(*ranges)))


def log_joint(vae, x):
    """Return log p(x, k) of every k, [codes, N], by the definition of each part."""
    book, codes = vae.posterior.quantizer, all_codes(vae)
    vectors = book.lookup(codes.unflatten(-1, (POSITIONS, book.depth))).sum(-2)  # [.., M, D]
    z = vectors.transpose(-1, -2).flatten(-2)
    log_prior = vae.prior.tokens().log_prob(codes)
    p_x = vae.decode(z[:, None]).log_prob(x)
    return p_x + log_prior[:, None]


@torch.no_grad()
def evidence(vae, x):
    return log_joint(vae, x).logsumexp(0)


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_the_bound_misses_the_evidence_by_the_log_posterior_of_the_codes(prior, depth):
    vae = world(prior, depth=depth)
    joint = log_joint(vae, X)
    book = vae.posterior.quantizer
    own = vae.posterior.codes(X).flatten(1)
    index = (own[None] == all_codes(vae)[:, None]).all(-1).double().argmax(0)
    log_posterior = joint.log_softmax(0)[index, torch.arange(len(X))]
    bound = pv.log_weights(vae, X, particles=1)[0]
    assert (bound < evidence(vae, X)).all()
    torch.testing.assert_close(bound, evidence(vae, X) + log_posterior)
    assert own.shape == (len(X), POSITIONS * book.depth)


@torch.no_grad()
def test_the_bound_is_the_evidence_if_the_codes_are_certain():
    """Each code writes its own two bits, so that x leaves no doubt which codes wrote it."""
    book = Codebook(4, 2)
    book.table.copy_(torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])[None])
    vae = world(learned, pv.guides.VectorQuantized(torch.nn.Linear(4, 4), book))
    with torch.no_grad():
        vae.posterior.net.weight.copy_(2 * torch.eye(4))
        vae.posterior.net.bias.fill_(-1.0)
    vae.likelihood = pv.likelihoods.Bernoulli(Scaled())
    bound = pv.log_weights(vae, X, particles=1)[0]
    # The other codes of x have a probability of e^-60 or less.
    torch.testing.assert_close(bound, evidence(vae, X), rtol=0, atol=1e-12)


class Scaled(torch.nn.Module):
    def forward(self, z):
        return 60.0 * z


@torch.no_grad()
def test_particles_agree_and_rate_and_distortion_are_the_bound():
    vae = world(chain)
    one, several = (pv.log_weights(vae, X, particles=k) for k in (1, 3))
    torch.testing.assert_close(several, one.expand(3, -1))
    terms = pv.log_weight_terms(vae, X, particles=1)
    codes = vae.posterior.codes(X).flatten(1)
    torch.testing.assert_close(terms.rate[0], -vae.prior.tokens().log_prob(codes))
    torch.testing.assert_close(-(terms.rate - terms.log_likelihood)[0], one[0])


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
@torch.no_grad()
def test_a_prior_over_codes_sums_to_one_and_draws_as_it_scores(prior):
    vae = world(prior)
    tokens = vae.prior.tokens()
    p = tokens.log_prob(all_codes(vae)).exp()
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))
    draws = 20_000
    drawn = tokens.sample((draws,))
    shares = (drawn[:, None] == all_codes(vae)).all(-1).double().mean(0)
    errors = (p * (1 - p) / draws).sqrt()
    assert ((shares - p).abs() < 4.5 * errors).all()  # nine cells: below one in 10,000 by chance


@torch.no_grad()
def test_the_transformer_sees_all_earlier_codes_and_no_others():
    torch.manual_seed(0)
    net = CausalTransformer(5, 7, channels=8, heads=2)
    codes = torch.randint(7, (1, 5))
    for t in range(5):
        changed = codes.clone()
        changed[0, t] = (codes[0, t] + 1) % 7
        differs = (net(changed) != net(codes)).any(-1)[0]
        assert not differs[: t + 1].any()
        assert differs[t + 1 :].all()


def test_the_objective_has_the_value_of_the_bound_and_the_gradient_of_the_penalty():
    """By hand: dL/dh = -d log p(x | z) / dz + 2 beta (h - e), for a linear encoder."""
    book = Codebook(CODES, WIDTH, commitment=0.4)
    vae = world(uniform, pv.guides.VectorQuantized(torch.nn.Linear(4, 4), book)).eval()
    loss = pyro.infer.Trace_ELBO()
    value = loss.loss_and_grads(vae.model, vae.guide, X)
    h = vae.posterior.net(X).detach().unflatten(-1, (WIDTH, POSITIONS)).transpose(1, 2)
    e = book.lookup(book.nearest(h.unsqueeze(-2)))[..., 0, :]
    z = e.transpose(1, 2).flatten(1).requires_grad_()
    log_p = vae.decode(z).log_prob(X)
    (slope,) = torch.autograd.grad(-log_p.sum(), z)
    by_h = slope + 2 * 0.4 * (h - e).transpose(1, 2).flatten(1)
    torch.testing.assert_close(vae.posterior.net.weight.grad, by_h.T @ X)
    rate = POSITIONS * math.log(CODES)
    assert value == pytest.approx(-(log_p - rate).sum().item())


@pytest.mark.parametrize(
    "loss", [pyro.infer.TraceMeanField_ELBO(), IWAE(3)], ids=["mean field", "IWAE"]
)
def test_other_objectives_have_the_same_gradient(loss):
    found = []
    for objective in (pyro.infer.Trace_ELBO(), loss):
        vae = world(update="loss").eval()
        objective.loss_and_grads(vae.model, vae.guide, X)
        found.append({name: p.grad for name, p in vae.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


KINDS = {
    "moving averages": lambda: world(),
    "a loss": lambda: world(update="loss"),
    "two levels": lambda: world(depth=2),
    "FSQ": lambda: world(guide=pv.guides.FSQ(MLP(PIXELS, 6, POSITIONS * 2), [3, 2])),
    "autoregressive": lambda: world(chain),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_the_compiled_steps_are_the_eager_ones(make):
    """Twelve steps at one seed, in which codes die, are revived, and move."""
    states, graphs = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        vae = make()
        optim = torch.optim.Adam(vae.parameters(), 0.02)
        svi = pv.SVI(vae.model, vae.guide, optim, pyro.infer.Trace_ELBO(), compile=compiled)
        with pv.seeded(3):
            for _ in range(12):
                svi.step(X)
        states.append(vae.state_dict())
        graphs.append(len(svi.graphs))
    assert graphs == [0, 1]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_a_prior_is_fitted_after_the_codes(update):
    """With the guide frozen, the learned prior becomes the frequencies of the codes."""
    vae = world(learned, update=update)
    pv.fit(vae, X, epochs=2, batch_size=8, callbacks=[], step=pv.Step(compile=False))
    book = vae.posterior.quantizer
    before = {name: tensor.clone() for name, tensor in book.state_dict().items()}
    vae.posterior.requires_grad_(requires_grad=False)
    vae.likelihood.requires_grad_(requires_grad=False)
    pv.fit(vae, X, epochs=1, callbacks=[], step=pv.Step(compile=False))
    optim, loss = torch.optim.Adam([vae.prior.logits], 0.3), pyro.infer.Trace_ELBO()
    svi = pv.SVI(vae.model, vae.guide, optim, loss, compile=False)
    for _ in range(100):
        svi.step(X)
    for name, tensor in book.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    codes = vae.posterior.codes(X)[..., 0]
    shares = torch.stack([(codes == k).double().mean(0) for k in range(CODES)], -1)
    torch.testing.assert_close(vae.prior.logits.softmax(-1), shares, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("codes", "batch", "offset"), [(200, 3, 0.0), (512, 100, 0.0), (64, 50, 30.0)]
)
def test_codes_that_share_a_vector_are_scored_as_one(codes, batch, offset):
    """More codes than rows are revived on the same rows."""
    torch.manual_seed(0)
    book, net = Codebook(codes, 4), torch.nn.Linear(PIXELS, 8)
    torch.nn.init.constant_(net.bias, offset)
    guide = pv.guides.VectorQuantized(net, book)
    vae = pv.VAE(pv.priors.Codes(book, 2), pv.likelihoods.Bernoulli(MLP(8, 6, PIXELS)), guide)
    x = X.float().repeat(20, 1)
    pv.fit(vae, x, epochs=4, batch_size=batch, callbacks=[], step=pv.Step(compile=False))
    with torch.no_grad():
        terms = pv.log_weight_terms(vae, x, particles=1)
    torch.testing.assert_close(terms.rate[0], torch.full((len(x),), 2 * math.log(codes)))


def test_a_diverging_encoder_is_refused_by_the_loss():
    vae = world()
    step = pv.Step(compile=False, optim=pv.Optim(torch.optim.SGD, lr=1e200))
    with pytest.raises(pv.NonFiniteLoss, match="step"):
        pv.fit(vae, X, epochs=20, batch_size=4, callbacks=[], step=step)


@torch.no_grad()
def test_measuring_moves_no_code():
    vae = world().train()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    pv.log_weights(vae, X, particles=2)
    pv.evaluate(vae, X, particles=2)
    pyro.infer.Trace_ELBO().loss(vae.model, vae.guide, X)
    vae.reconstruct(X)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_report_names_the_bound_for_what_it_is():
    report = pv.evaluate(world(), X, particles=30)
    assert report.psis is None
    assert report.extrapolated is None
    assert report.elbo.mean == pytest.approx(report.iwae[30].mean)
    assert "one value of z probability one" in str(report).replace("\n", " ")
    wanted = evidence(world(), X).mean().item()
    assert report.elbo.mean < wanted


def test_the_information_in_codes_is_the_entropy_of_their_sequences():
    vae = world()
    codes = vae.posterior.codes(X).flatten(1)
    _, counts = codes.unique(dim=0, return_counts=True)
    shares = counts.double() / len(X)
    wanted = -(shares * shares.log()).sum().item()
    found = pv.Latents(draws=2 * len(X))(vae, X)
    assert found.numbers["I(x; z)"].mean == pytest.approx(wanted)


def test_what_is_infinite_of_codes_is_said_to_be_missing():
    """A code that one datum alone has is impossible under all others: log 0 is no bound."""
    vae = world()
    for parameter in vae.posterior.net.parameters():
        torch.nn.init.normal_(parameter, std=3.0)
    _, places = vae.posterior.codes(X).flatten(1).unique(dim=0, return_inverse=True)
    shared = (places == places.mode().values).nonzero().flatten()
    alone = (places != places.mode().values).nonzero().flatten()[:1]
    assert (len(shared) > 1, len(alone)) == (True, 1)
    for rows, missing in ((shared, False), (torch.cat([shared, alone]), True)):
        found = pv.Latents(draws=4 * len(rows))(vae, X[rows])
        assert all(math.isfinite(number.mean) for number in found.quantities.values())
        assert ("I(x; z), at most" not in found.numbers) == missing
        assert ("marginal KL, at least" not in found.numbers) == missing
        assert ("Missing: I(x; z), at most and marginal KL, at least" in str(found)) == missing


REFUSED = {
    "stl": lambda vae: IWAE(2, gradient="stl").loss(vae.model, vae.guide, X),
    "dreg": lambda vae: IWAE(2, gradient="dreg").loss(vae.model, vae.guide, X),
    "CUBO": lambda vae: CUBO(2, 2).loss(vae.model, vae.guide, X),
    "wake-sleep": lambda vae: ReweightedWakeSleep(2).loss(vae.model, vae.guide, X),
    "refine": lambda vae: pv.refine(vae, X),
    "Gaps": lambda vae: pv.Gaps(limit=2, steps=2)(vae, X),
    "AIS": lambda vae: pv.AIS(5)(vae, X),
}


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_a_density_of_codes_is_refused(ask):
    with pytest.raises(ValueError, match="probability one|KnownCodes|discrete") as refusal:
        ask(world())
    assert "\n" not in str(refusal.value)


def test_a_copy_of_the_codebook_that_has_moved_is_called_another_quantizer():
    vae = world(uniform)
    vae.prior.quantizer = copy.deepcopy(vae.prior.quantizer)
    vae.posterior.quantizer.table.add_(0.1)
    with pytest.raises(ValueError, match="different quantizers, also if one is a copy"):
        pv.fit(vae, X, epochs=1, callbacks=())


def test_a_prior_with_another_codebook_is_refused():
    vae = world()
    stranger = pv.priors.Codes(Codebook(CODES, WIDTH), POSITIONS).double()
    with pytest.raises(ValueError, match="site 'z' cannot score its value"):
        pv.log_weights(pv.VAE(stranger, vae.likelihood, vae.posterior), X, particles=1)


def test_other_widths_and_numbers_of_positions_are_refused():
    book = Codebook(CODES, WIDTH)
    guide = pv.guides.VectorQuantized(MLP(PIXELS, 5), book)
    with pytest.raises(ValueError, match="2 outputs for each position.*got 5"):
        guide.codes(X.float())
    vae = world()
    longer = pv.priors.Codes(vae.posterior.quantizer, POSITIONS + 1).double()
    with pytest.raises(ValueError, match="event shape"):
        pv.log_weights(pv.VAE(longer, vae.likelihood, vae.posterior), X, particles=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pv.guides.VectorQuantized(MLP(4, 4), 256), "takes a quantizer.*got int"),
        (lambda: pv.guides.FSQ(MLP(4, 4), []), "at least one coordinate"),
        (lambda: pv.priors.Codes(MLP(4, 4), 2), "takes the quantizer of the guide.*got MLP"),
        (lambda: pv.priors.Codes(Codebook(3, 2), 0), "at least one position; got 0"),
        (lambda: chain_of(Codebook(3, 2), 4, 5), "3 codes in 1 levels.*4 tokens of 5 codes"),
        (lambda: chain_of(Codebook(3, 2, depth=2), 3, 3), "in 2 levels.*3 tokens"),
        (lambda: CausalTransformer(0, 3), "size=0"),
        (lambda: CausalTransformer(4, 1), "codes=1"),
        (lambda: CausalTransformer(4, 3, channels=6), "channels=6, heads=4"),
    ],
)
def test_bad_parts_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def chain_of(book, size, codes):
    return pv.priors.AutoregressiveCodes(book, CausalTransformer(size, codes))


def test_a_chain_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"takes 4 codes; got shape \(2, 3\)"):
        TokenChain(CausalTransformer(4, 3)).log_prob(torch.zeros(2, 3, dtype=torch.long))


def test_a_kl_weight_scales_the_rate_and_the_penalty_alike():
    """At weight 0, only the straight-through gradient is left."""
    found = []
    for weight, commitment in ((0.0, 5.0), (1.0, 0.0)):
        vae = world(uniform, commitment=commitment).eval()
        pair = pv.handlers.kl_weight(weight).wrap(vae.model, vae.guide)
        value = pyro.infer.Trace_ELBO().loss_and_grads(*pair, X)
        found.append((value + weight * -len(X) * POSITIONS * math.log(CODES), vae))
    assert found[0][0] == pytest.approx(found[1][0])
    for one, other in zip(*(vae.posterior.parameters() for _, vae in found), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_maps_of_a_convolution_are_positions():
    """The vector at a position is that of a pixel of the maps [D, H, W]."""
    torch.manual_seed(0)
    maps = torch.nn.Conv2d(1, 3, 2, stride=2)
    net = pv.nets.Folded(torch.nn.Sequential(maps, torch.nn.Flatten()), event_dim=3)
    book = Codebook(8, 3)
    decoder = torch.nn.Sequential(
        torch.nn.Unflatten(1, (3, 2, 3)), torch.nn.ConvTranspose2d(3, 1, 2, stride=2)
    )
    likelihood = pv.likelihoods.Bernoulli(pv.nets.Folded(decoder))
    vae = pv.VAE(pv.priors.Codes(book, 6), likelihood, pv.guides.VectorQuantized(net, book))
    x = torch.rand(5, 1, 4, 6).round()
    with torch.no_grad():
        h = maps(x).flatten(2).transpose(1, 2)
        codes = vae.eval().posterior.codes(x)
        assert torch.equal(codes, book.nearest(h.unsqueeze(-2)))
        log_w = pv.log_weights(vae, x, particles=3)
    torch.testing.assert_close(log_w, log_w[:1].expand(3, -1))
    assert pv.Codes()(vae, x).levels["z"].codes.shape == (5, 6)
