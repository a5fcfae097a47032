"""Log-weights against worlds whose evidence is known, and the shapes and chunks they come in."""

import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from worlds import ENUMERATE, EXACT, OFF, LinearGaussian, Mixture, data_plate, random

import pyrovae as pv
from pyrovae.weights import bounds, given
from pyrovae.weights.log_weights import iterate_log_weights, log_weight_terms, log_weights
from pyrovae.weights.pair import Terms
from pyrovae.weights.run import run

ALL = {f"exact: {name}": make for name, make in EXACT.items()}
ALL |= {f"off: {name}": make for name, make in OFF.items()}


@pytest.fixture(params=EXACT.values(), ids=EXACT.keys())
def exact(request):
    return request.param()


@pytest.fixture(params=OFF.values(), ids=OFF.keys())
def off(request):
    return request.param()


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def pair(request):
    return request.param()


@pytest.mark.parametrize("particles", [1, 3, 6])
def test_an_exact_posterior_leaves_nothing_to_chance(exact, particles):
    log_w = log_weights(exact, exact.x, particles=particles)
    wanted = exact.log_evidence.expand(particles, -1)
    torch.testing.assert_close(log_w, wanted, rtol=0, atol=1e-9)


def test_the_elbo_of_another_guide_is_the_evidence_less_its_kl(off):
    assert (off.elbo < off.log_evidence - 1e-3).all(), "the guide is not off"
    estimate = bounds.elbo_estimate(log_weights(off, off.x, particles=4000))
    assert ((estimate.value - off.elbo).abs() < 4 * estimate.standard_error).all()


def test_the_mean_weight_is_the_evidence(off):
    log_w = log_weights(off, off.x, particles=4000)
    ratio = bounds.mean_estimate((log_w - off.log_evidence).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()


@pytest.mark.parametrize("particles", [1, 4])
def test_terms_add_up_and_each_has_a_row_per_particle_and_a_column_per_datum(pair, particles):
    torch.manual_seed(1)
    terms = log_weight_terms(pair, pair.x, particles=particles)
    torch.manual_seed(1)
    log_w = log_weights(pair, pair.x, particles=particles)
    sites = [*terms.prior.values(), *terms.likelihood.values(), *terms.guide.values()]
    assert {site.shape for site in sites} == {(particles, len(pair.x))}
    total = sum(terms.prior.values()) + sum(terms.likelihood.values()) - sum(terms.guide.values())
    torch.testing.assert_close(total, log_w, rtol=0, atol=1e-9)
    torch.testing.assert_close(terms.log_likelihood - terms.rate, log_w, rtol=0, atol=1e-9)


def test_a_class_summed_in_the_model_leaves_the_weight_of_z_alone():
    world = Mixture(continuous=True)
    x, seen = world.sample(5), {}

    def guide(x):
        with data_plate(x):
            seen["z"] = pyro.sample("z", world.broad(x).to_event(1))

    log_w = log_weights((world.model_enumerated, guide), x, particles=7)
    log_q = world.broad(x).log_prob(seen["z"]).sum(-1)
    wanted = world.log_joint_with(x, seen["z"]) - log_q
    torch.testing.assert_close(log_w, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("side", ["model", "guide"])
def test_the_entry_of_a_summed_site_is_its_exact_posterior(side):
    world = Mixture()
    x = world.sample(5)
    programs = {
        "model": (world.model_enumerated, world.guide_without_class),
        "guide": (world.model, world.guide_enumerated),
    }[side]
    terms = log_weight_terms(programs, x, particles=2)
    log_posterior = world.log_joint(x).log_softmax(-1)
    entropy = -(log_posterior.exp() * log_posterior).sum(-1)
    torch.testing.assert_close(terms.guide["c"], -entropy.expand(2, -1), rtol=0, atol=1e-9)
    log_prior = (log_posterior.exp() * world.weights.log()).sum(-1).expand(2, -1)
    torch.testing.assert_close(terms.prior["c"], log_prior, rtol=0, atol=1e-9)


def test_gradients_through_a_summed_site_are_those_of_the_exact_sum():
    world = Mixture()
    x = world.sample(5)
    world.centers.requires_grad_()
    (wanted,) = torch.autograd.grad(world.log_evidence(x).sum(), world.centers)
    log_w = log_weights((world.model_enumerated, world.guide_without_class), x, particles=1)
    (found,) = torch.autograd.grad(log_w.sum(), world.centers)
    torch.testing.assert_close(found, wanted)


def test_gradients_reach_every_parameter_of_model_and_guide():
    vae = small_vae()
    x = random(0, 4, 3)
    bounds.iwae(log_weights(vae, x, particles=5)).sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def small_vae():
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Normal(pv.nets.MLP(2, 5, 3), scale="learned"),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 5, 4)),
    ).double()


HANDLERS = {
    "scaled": lambda program: poutine.scale(program, 0.3),
    "under a KL weight": lambda program: pv.handlers.kl_weight(0.1)(program),
    "subsampled": lambda program: lambda x: program(x, size=1000),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
def test_what_a_program_is_trained_on_does_not_move_the_weights(handler):
    vae, x = small_vae(), random(0, 4, 3)
    torch.manual_seed(1)
    plain = log_weights(vae, x, particles=5)
    torch.manual_seed(1)
    handled = log_weights((handler(vae.model), handler(vae.guide)), x, particles=5)
    torch.testing.assert_close(handled, plain, rtol=0, atol=0)
    # The handler is not idle: Pyro's own objective does see it.
    trace = poutine.trace(handler(vae.guide)).get_trace(x)
    assert float(trace.nodes["z"]["scale"]) != 1.0


def test_a_mask_on_the_likelihood_leaves_the_prior_and_the_guide():
    world = LinearGaussian()
    x, kept = world.sample(4), torch.tensor([True, False, True, False])
    likelihood = poutine.mask(world.likelihood, mask=kept)
    vae = pv.VAE(world.prior, likelihood, world.off_posterior)
    torch.manual_seed(1)
    terms = log_weight_terms(vae, x, particles=3)
    torch.manual_seed(1)
    whole = log_weight_terms((world.model, world.off_guide), x, particles=3)
    assert (terms.likelihood["x"][:, ~kept] == 0).all()
    torch.testing.assert_close(terms.likelihood["x"][:, kept], whole.likelihood["x"][:, kept])
    torch.testing.assert_close(terms.rate, whole.rate)


def test_a_pixel_that_is_masked_counts_for_nothing():
    world = LinearGaussian()
    x, seen = world.sample(4), torch.tensor([True, False, True])

    def likelihood(z, x=None):
        loc = (world.weight * z.unsqueeze(-2)).sum(-1) + world.mean
        pixels = dist.Normal(loc, world.noise).mask(seen).to_event(1)
        return pyro.sample("x", pixels, obs=x)

    vae = pv.VAE(world.prior, likelihood, world.off_posterior)
    terms = log_weight_terms(vae, x, particles=1000)
    assert (terms.likelihood["x"] != 0).all()
    evidence = torch.distributions.MultivariateNormal(
        world.mean[seen], world.marginal.covariance_matrix[seen][:, seen]
    ).log_prob(x[:, seen])
    ratio = bounds.mean_estimate((terms.log_w - evidence).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("particles", [1, 4])
def test_latents_come_as_particles_by_data_by_dimensions(particles, size):
    world, shapes = LinearGaussian(), []

    def likelihood(z, x=None):
        shapes.append(tuple(z.shape))
        return world.likelihood(z, x)

    vae = pv.VAE(world.prior, likelihood, world.off_posterior)
    vae.broadcasts = True
    log_w = log_weights(vae, world.sample(size), particles=particles)
    assert shapes == [(particles, size, 2)]
    assert log_w.shape == (particles, size)


def test_permuting_the_data_permutes_the_columns_exactly():
    world = LinearGaussian()
    x, order = world.sample(6), torch.tensor([3, 0, 5, 1, 4, 2])
    log_w = log_weights((world.model, world.mode_guide), x, particles=2)
    permuted = log_weights((world.model, world.mode_guide), x[order], particles=2)
    assert log_w[0].unique().numel() == 6
    torch.testing.assert_close(permuted, log_w[:, order], rtol=0, atol=0)


def test_a_last_batch_of_one_gives_the_column_it_would_have_had():
    world = LinearGaussian()
    x = world.sample(5)
    batches = list(pv.data.Batches(x, 2))
    assert [len(batch) for (batch,) in batches] == [2, 2, 1]
    pieces = [log_weights((world.model, world.mode_guide), b, particles=3) for (b,) in batches]
    whole = log_weights((world.model, world.mode_guide), x, particles=3)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=0)


def test_chunks_over_data_are_the_columns_put_together():
    world = LinearGaussian()
    x = world.sample(5)
    torch.manual_seed(1)
    found = log_weights((world.model, world.off_guide), x, particles=3, chunk=7)
    torch.manual_seed(1)
    columns = [log_weights((world.model, world.off_guide), p, particles=3) for p in x.split(2)]
    torch.testing.assert_close(found, torch.cat(columns, 1), rtol=0, atol=0)


def test_chunks_over_particles_are_the_rows_put_together():
    world = LinearGaussian()
    x = world.sample(2)
    torch.manual_seed(1)
    found = log_weights((world.model, world.off_guide), x, particles=7, chunk=3)
    torch.manual_seed(1)
    columns = [
        torch.cat([log_weights((world.model, world.off_guide), p, particles=k) for k in (3, 3, 1)])
        for p in x.split(1)
    ]
    torch.testing.assert_close(found, torch.cat(columns, 1), rtol=0, atol=0)


def test_rows_for_a_stream_are_the_rows_put_together():
    world = LinearGaussian()
    x = world.sample(2)
    torch.manual_seed(1)
    rows = list(iterate_log_weights((world.model, world.off_guide), x, particles=7, chunk=7))
    torch.manual_seed(1)
    again = [log_weights((world.model, world.off_guide), x, particles=k) for k in (3, 3, 1)]
    assert [len(row) for row in rows] == [3, 3, 1]
    torch.testing.assert_close(torch.cat(rows), torch.cat(again), rtol=0, atol=0)


class Recorder:
    """The linear-Gaussian VAE, which notes how much each pass holds."""

    def __init__(self):
        self.world, self.pairs, self.encoded = LinearGaussian(), [], 0

    def likelihood(self, z, x=None):
        self.pairs.append(z.shape[:-1].numel())
        return self.world.likelihood(z, x)

    def posterior(self, x):
        self.encoded += len(x)
        return self.world.off_posterior(x)

    def vae(self):
        vae = pv.VAE(self.world.prior, self.likelihood, self.posterior)
        vae.broadcasts = True
        return vae


@pytest.mark.parametrize(
    ("particles", "size", "chunk", "encoded"),
    [
        (3, 10, 100, 10),  # one pass
        (3, 10, 9, 10),  # the data are cut, and each datum is encoded once
        (3, 10, 3, 10),
        (50, 4, 50, 4),
        (50, 4, 20, 4 * 3),  # the particles are cut too
        (1, 1, 1, 1),
        (5, 3, 1, 15),
    ],
)
def test_no_pass_holds_more_pairs_than_the_chunk(particles, size, chunk, encoded):
    recorder = Recorder()
    vae, x = recorder.vae(), recorder.world.sample(size)
    log_w = log_weights(vae, x, particles=particles, chunk=chunk)
    assert log_w.shape == (particles, size)
    assert max(recorder.pairs) <= chunk
    assert sum(recorder.pairs) == particles * size
    assert recorder.encoded == encoded


@pytest.mark.parametrize(("width", "limit"), [(3, 40), (512, 20)])
def test_the_default_chunk_adapts_to_the_width_of_the_data(monkeypatch, width, limit):
    monkeypatch.setattr(given, "NUMBERS_PER_PASS", 40 * 256)
    recorder = Recorder()
    recorder.world = LinearGaussian(width=width)
    vae, x = recorder.vae(), recorder.world.sample(9)
    log_weights(vae, x, particles=10)
    assert max(recorder.pairs) == limit


def test_context_with_a_row_per_datum_is_cut_with_the_data_and_the_rest_is_not():
    world, shapes = LinearGaussian(), []

    def guide(x, label, shared):
        shapes.append((len(x), len(label), len(shared)))
        with data_plate(x):
            loc = world.posterior_mean(x) + label.unsqueeze(-1)
            pyro.sample("z", dist.Delta(loc, event_dim=1))

    def model(x, label, shared):
        return world.model(x)

    guide.broadcasts = model.broadcasts = True
    x, label, shared = world.sample(5), random(0, 5), random(1, 2)
    whole = log_weights((model, guide), x, label, shared, particles=2)
    found = log_weights((model, guide), x, label, shared, particles=2, chunk=4)
    # Before the first cut, two data tell whether the label fits whole or cut.
    assert shapes[:3] == [(5, 5, 2), (2, 2, 2), (2, 5, 2)]
    assert shapes[-3:] == [(2, 2, 2), (2, 2, 2), (1, 1, 2)]
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


def test_pyros_renyi_bound_of_order_zero_is_minus_the_sum_of_iwae():
    vae, x = small_vae(), random(0, 4, 3)
    renyi = pyro.infer.RenyiELBO(
        alpha=0, num_particles=6, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(1)
    loss = renyi.loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    log_w = log_weights(vae, x, particles=6)
    # The same terms added in another order: rounding of float64 alone.
    assert loss == pytest.approx(-bounds.iwae(log_w).sum().item(), rel=1e-12)


@pytest.mark.parametrize("measure", [log_weights, log_weight_terms])
@pytest.mark.parametrize("chunk", [4, 12], ids=["over particles", "over data"])
def test_no_pass_outlives_the_next(measure, chunk):
    """Small tensors that stayed between the large ones would make the memory grow with passes."""
    world = LinearGaussian()
    x = random(3, 6, 3)
    alive, most = [], 0

    def watched(*args, **named):
        nonlocal most
        most = max(most, sum(reference() is not None for reference in alive))
        found = run(*args, **named)
        tensors = found.likelihood.values() if isinstance(found, Terms) else [found]
        alive.extend(map(weakref.ref, tensors))
        return found

    measure((world.model, world.off_guide), x, particles=8, chunk=chunk, runner=watched)
    assert len(alive) >= 4
    assert most <= 1
    assert not any(reference() is not None for reference in alive)


def test_a_class_of_no_probability_counts_for_nothing():
    """Its term is 0 * -inf where its likelihood is zero too."""

    def model(x):
        with data_plate(x):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5, 0.0])), infer=ENUMERATE)
            low = torch.tensor([0.0, 1.0, 2.0])[c]
            pyro.sample("x", dist.Uniform(low, low + 1.0, validate_args=False), obs=x)

    terms = log_weight_terms((model, lambda x: None), torch.tensor([0.5, 1.5]), particles=2)
    torch.testing.assert_close(terms.log_w, torch.full((2, 2), math.log(0.5)))


def test_a_model_without_a_site_is_refused():
    with pytest.raises(ValueError, match="the model samples nothing"):
        log_weights((lambda x: None, lambda x: None), torch.zeros(3), particles=2)


def test_a_model_and_a_guide_may_stand_one_after_the_other():
    """In the order in which `pyro.infer.SVI` takes them."""
    world = LinearGaussian()
    x, pair = world.sample(4), (world.model, world.off_guide)
    for measure in (log_weights, pv.analytic_kl):
        with pv.seeded(1):
            wanted = measure(pair, x, particles=3)
        with pv.seeded(1):
            assert torch.equal(measure(*pair, x, particles=3), wanted)


DRAWS = {"enumerate": "parallel", "num_samples": 7}


@pytest.mark.parametrize("where", ["model", "guide"])
def test_local_draws_of_a_class_are_replaced_by_the_whole_sum(where):
    """Pyro's `num_samples` enumerates draws, whose sum is no sum over the classes."""
    weights, locs = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([-1.0, 0.5, 2.0])
    infer = {"model": {}, "guide": {}} | {where: DRAWS}

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(weights), infer=infer["model"])
            z = pyro.sample("z", dist.Normal(locs[c], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            if where == "guide":
                pyro.sample("c", dist.Categorical(torch.ones(3)), infer=infer["guide"])
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x = torch.linspace(-1.0, 2.0, 5)
    wanted = dist.MixtureSameFamily(
        dist.Categorical(weights), dist.Normal(locs, math.sqrt(2.0))
    ).log_prob(x)
    log_w = log_weights((model, guide), x, particles=4000)
    ratio = pv.bounds.mean_estimate((log_w - wanted).exp())
    assert ((ratio.value - 1).abs() < 4 * ratio.standard_error).all()


@pytest.mark.parametrize("which", ["model", "guide"])
def test_local_draws_of_a_continuous_site_are_sampled(which):
    """With the exact posterior as guide, every log-weight is log p(x)."""
    world = LinearGaussian()
    x = world.sample(4)
    pair = {"model": world.model, "guide": world.exact_guide}
    pair[which] = poutine.infer_config(
        pair[which], lambda site: DRAWS if site["name"] == "z" else {}
    )
    log_w = log_weights(tuple(pair.values()), x, particles=3)
    torch.testing.assert_close(log_w, world.log_evidence(x).expand(3, -1))
