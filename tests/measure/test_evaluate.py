"""`evaluate` reports the truth with honest errors, in worlds where the truth is known."""

import json
import math
import sys
import weakref

import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from pyro import poutine
from worlds import LinearGaussian, Mixture

import pyrovae as pv
from pyrovae.measure import evaluate as evaluation

REPETITIONS = 200
Z95 = 1.96


def covered(estimate, error, truth):
    return abs(estimate.mean - truth) <= Z95 * error


def rate_and_distortion(world, x):
    """Return KL(q || p) and -E_q log p(x | z) of the off guide in closed form, means over x."""
    loc = world.posterior_mean(x) + world.shift
    variance = world.off_scale.square()
    rate = 0.5 * (variance + loc.square() - 1 - variance.log()).sum(-1).mean().item()
    return rate, -world.off_elbo(x).mean().item() - rate


def expected_rate(world):
    """Return KL(q || p) of the off guide as a mean over all x that the world makes."""
    gain = world.covariance @ world.weight.T / world.noise**2
    spread = (gain @ world.marginal.covariance_matrix @ gain.T).diagonal()
    variance = world.off_scale.square()
    square = spread + world.shift**2
    return 0.5 * (variance + square - 1 - variance.log()).sum().item()


def test_interval_over_particles_covers_the_truth_95_times_in_100():
    """Same data, 200 seeds: each 95% interval covers 92 to 98% of the time."""
    world = LinearGaussian()
    with pv.seeded(1):
        x = world.sample(100)
        gaps = {k: world.off_gap(k, 400_000) for k in (5, 20)}
    log_evidence = world.log_evidence(x).mean().item()
    rate, distortion = rate_and_distortion(world, x)
    truth = {"ELBO": world.off_elbo(x).mean().item(), "reconstruction": -distortion}
    truth |= {"KL, Monte Carlo": rate, "extrapolated": log_evidence}
    truth |= {f"IWAE-{k}": log_evidence - gap for k, (gap, _) in gaps.items()}
    hits = dict.fromkeys(truth, 0)
    for seed in range(REPETITIONS):
        report = pv.evaluate(world.vae(), x, particles=20, ks=[5, 20], seed=seed)
        for name, value in truth.items():
            estimate = report.estimates[name]
            hits[name] += covered(estimate, estimate.error_over_particles, value)
        # The reference for IWAE-k is itself an estimate: its error must not matter.
        assert all(gaps[k][1] < 0.1 * report.iwae[k].error_over_particles for k in gaps)
    assert all(0.92 <= count / REPETITIONS <= 0.98 for count in hits.values()), hits


def test_interval_over_data_covers_the_truth_95_times_in_100():
    """Fresh data and particles each time: the interval over data covers the population's mean."""
    world = LinearGaussian()
    with pv.seeded(2):
        gap, error = world.off_gap(5, 400_000)
    log_evidence = -world.marginal.entropy().item()
    rate = expected_rate(world)
    truth = {"ELBO": log_evidence - world.off_kl, "IWAE-5": log_evidence - gap}
    truth |= {"extrapolated": log_evidence, "KL, closed form": rate, "KL, Monte Carlo": rate}
    truth |= {"reconstruction": truth["ELBO"] + rate}
    hits = dict.fromkeys(truth, 0)
    for seed in range(REPETITIONS):
        with pv.seeded(1000 + seed):
            x = world.sample(100)
        report = pv.evaluate(world.vae(), x, particles=20, ks=[5], seed=seed)
        assert error < 0.1 * report.iwae[5].error_over_data
        for name, value in truth.items():
            estimate = report.estimates[name]
            hits[name] += covered(estimate, estimate.error_over_data, value)
    assert all(0.92 <= count / REPETITIONS <= 0.98 for count in hits.values()), hits


def test_exact_posterior_leaves_nothing_to_estimate():
    world = LinearGaussian()
    x = world.sample(7)
    report = pv.evaluate(world.vae(world.exact_posterior), x, particles=30, ks=[1, 10, 30])
    for estimate in (report.elbo, *report.iwae.values()):
        torch.testing.assert_close(estimate.value, world.log_evidence(x), rtol=0, atol=1e-9)
        assert estimate.error_over_particles < 1e-9
    torch.testing.assert_close(
        report.effective_sample_size, torch.full((7,), 30.0, dtype=torch.float64)
    )


def test_closed_form_and_monte_carlo_kl_agree():
    world = LinearGaussian()
    x = world.sample(50)
    report = pv.evaluate(world.vae(), x, particles=500)
    rate, _ = rate_and_distortion(world, x)
    assert report.closed_form_kl.mean == pytest.approx(rate, abs=1e-9)
    assert report.closed_form_kl.error_over_particles < 1e-12
    distance = (report.monte_carlo_kl.value - report.closed_form_kl.value).abs()
    assert (distance < 5 * report.monte_carlo_kl.standard_error).all()


def test_bounds_rise_and_the_parts_add_up():
    world = LinearGaussian()
    report = pv.evaluate(world.vae(), world.sample(50), particles=1000)
    assert list(report.iwae) == [10, 100, 1000]
    means = [report.elbo.mean, *(estimate.mean for estimate in report.iwae.values())]
    assert means == sorted(means)
    parts = report.reconstruction.value - report.monte_carlo_kl.value
    torch.testing.assert_close(parts, report.elbo.value)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_with_a_ragged_end_are_averaged_per_datum(batch_size):
    """With the exact posterior every batch size gives the same numbers, datum by datum."""
    world = LinearGaussian()
    x = world.sample(7)
    report = pv.evaluate(world.vae(world.exact_posterior), x, particles=2, batch_size=batch_size)
    torch.testing.assert_close(report.elbo.value, world.log_evidence(x), rtol=0, atol=1e-9)
    assert report.elbo.mean == pytest.approx(world.log_evidence(x).mean().item(), abs=1e-9)


def test_a_seed_repeats_a_report_and_leaves_torchs_generator_alone():
    world = LinearGaussian()
    x = world.sample(5)
    before = torch.random.get_rng_state()
    first, again, other = (pv.evaluate(world.vae(), x, particles=9, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.elbo.value, again.elbo.value)
    assert not torch.equal(first.elbo.value, other.elbo.value)


def test_any_pair_of_programs_is_measured():
    world = Mixture()
    x = world.sample(30)
    report = pv.evaluate((world.model, world.guide), x, particles=200)
    truth = world.sampled_elbo(x).mean().item()
    assert abs(report.elbo.mean - truth) < 4 * report.elbo.error_over_particles
    summed = pv.evaluate((world.model, world.guide_enumerated), x, particles=1)
    torch.testing.assert_close(summed.elbo.value, world.log_evidence(x), rtol=0, atol=1e-9)
    assert summed.closed_form_kl is None


def test_one_particle_and_one_datum_have_errors_that_are_not_known():
    world = LinearGaussian()
    report = pv.evaluate(world.vae(), world.sample(1), particles=1)
    assert report.iwae == {}
    assert math.isnan(report.elbo.error_over_particles)
    assert math.isnan(report.elbo.error_over_data)
    assert report.to_json()["quantities"]["ELBO"]["error_over_data"] is None


def test_dynamic_data_are_binarized_once_whatever_the_particles():
    split = pv.data.Split(torch.full((6, 4), 0.5), torch.zeros(6), dynamic=True)
    seen = []

    def likelihood(z, x=None):
        seen.append(x)
        pyro.sample("x", dist.Bernoulli(logits=torch.zeros(4)).to_event(1), obs=x)

    vae = pv.VAE(pv.priors.StandardNormal(1), likelihood, lambda x: StandardNormalGuide()(x))
    for particles, seed in ((1, 5), (50, 5), (50, 6)):
        pv.evaluate(vae, split, particles=particles, seed=seed)
    assert all(torch.equal(x, split.draw()) for x in seen)


class StandardNormalGuide:
    def __call__(self, x):
        return pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def test_dropout_is_off_while_measuring_and_on_again_after():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    frozen = torch.nn.Dropout(0.5).eval()
    vae = pv.VAE(
        pv.priors.StandardNormal(1),
        pv.likelihoods.Bernoulli(torch.nn.Sequential(torch.nn.Linear(1, 4), frozen)),
        pv.guides.MeanFieldNormal(net),
    )
    x = torch.ones(50, 4)
    report = pv.evaluate(vae, x, particles=2)
    # The same x everywhere: without dropout the same KL, up to the rounding of a mean of ten.
    assert report.closed_form_kl.value.std() < 1e-6
    assert net[0].training
    assert not frozen.training


def test_error_over_particles_is_honest_for_dynamic_data():
    """Another seed moves the particles and not the pixels: the reported error is the spread.

    The spread of 40 means estimates their standard deviation to 1 / sqrt(2 * 39), 11% of it.
    """
    split = pv.data.Split(torch.rand(60, 8), torch.zeros(60), dynamic=True)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(8, 4)),
    )
    reports = [pv.evaluate(vae, split, particles=10, ks=[], seed=seed) for seed in range(40)]
    spread = torch.tensor([report.elbo.mean for report in reports]).std().item()
    told = sum(report.elbo.error_over_particles for report in reports) / len(reports)
    assert abs(spread / told - 1) < 4 / math.sqrt(2 * 39)


class Masking(poutine.messenger.Messenger):
    """Mask the site "z" by `.mask` of its distribution."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg):
        if msg["name"] == "z":
            msg["fn"] = msg["fn"].mask(self.mask)


def test_a_mask_of_a_distribution_in_one_program_alone_leaves_no_weights():
    world = LinearGaussian()
    x, mask = world.sample(6), torch.arange(6) > 2
    masked = Masking(mask)(world.model), Masking(mask)(world.off_guide)
    for pair in ((masked[0], world.off_guide), (world.model, masked[1])):
        with pytest.raises(ValueError, match="site 'z' is masked differently in the model"):
            pv.evaluate(pair, x, particles=5)
    by_handler = (poutine.mask(each, mask=mask) for each in (world.model, world.off_guide))
    wanted = pv.evaluate(tuple(by_handler), x, particles=5).elbo.value
    kept = pv.evaluate(masked, x, particles=5).elbo.value
    torch.testing.assert_close(kept[mask], wanted[mask])


def test_a_mask_in_one_program_alone_leaves_no_weights():
    world = LinearGaussian()
    x = world.sample(6)
    model = pyro.poutine.mask(world.model, mask=torch.arange(6) > 2)
    with pytest.raises(ValueError, match="site 'z' is masked differently in the model"):
        pv.evaluate((model, world.off_guide), x, particles=5)
    with pytest.raises(ValueError, match="site 'z' is masked differently in the model"):
        pv.analytic_kl((model, world.off_guide), x)
    guide = pyro.poutine.mask(world.off_guide, mask=torch.arange(6) > 2)
    both = pv.evaluate((model, guide), x, particles=5).closed_form_kl
    assert (both.value[:3] == 0).all()
    assert (both.value[3:] > 0).all()


def test_weights_that_are_all_zero_are_reported_as_such(tmp_path):
    world = LinearGaussian()

    def impossible(z, x=None):
        world.likelihood(z, x)
        pyro.factor("impossible", torch.full(z.shape[:-1], -math.inf, dtype=z.dtype))

    vae = pv.VAE(world.prior, impossible, world.off_posterior)
    report = pv.evaluate(vae, world.sample(3), particles=4)
    assert (report.effective_sample_size == 0).all()
    assert report.elbo.mean == -math.inf
    report.save(tmp_path / "evaluation.json")
    saved = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert saved["quantities"]["ELBO"]["mean"] is None


def test_a_datum_without_its_row_is_refused():
    world = LinearGaussian()
    with pytest.raises(ValueError, match=r"no axis over data: pass a batch of one, x\[None\]"):
        pv.evaluate(world.vae(), world.sample(1)[0], particles=2)


def test_a_split_with_context_is_measured():
    split = pv.data.Split(torch.rand(9, 8), torch.zeros(9), dynamic=True)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2 + 3, 8)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(8 + 3, 4)),
    )
    report = pv.evaluate(vae, (split, torch.rand(9, 3)), particles=5)
    assert len(report.elbo.value) == 9


def test_report_prints_a_table_and_writes_every_number(tmp_path):
    world = LinearGaussian()
    report = pv.evaluate(world.vae(), world.sample(20), particles=100)
    text = str(report)
    for name in ("ELBO", "IWAE-10", "IWAE-100", "KL, closed form", "KL, Monte Carlo"):
        assert name in text
    assert f"{report.elbo.mean:.3f}" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    report.save(tmp_path / "evaluation.json")
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["quantities"]["IWAE-100"]["mean"] == report.iwae[100].mean
    tensors = safetensors.torch.load_file(tmp_path / "evaluation.safetensors")
    assert torch.equal(tensors["IWAE-100"], report.iwae[100].value)
    assert torch.equal(tensors["ELBO, standard error"], report.elbo.standard_error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"particles": 0}, "particles must be at least 1"),
        ({"ks": [10, 30], "particles": 20}, r"\[30\] with K = 20"),
        ({"ks": [0]}, "1 <= k <= K"),
        ({"data": torch.zeros(0, 3)}, "empty"),
        ({"data": []}, "empty"),
        ({"data": torch.full((4, 3), math.inf)}, "first at row 0"),
        ({"target": 3}, "a VAE or a pair"),
    ],
)
def test_bad_input_is_a_clear_error(arguments, message):
    world = LinearGaussian()
    asked = {"target": world.vae(), "data": world.sample(4), **arguments}
    target, data = asked.pop("target"), asked.pop("data")
    with pytest.raises(ValueError, match=message):
        pv.evaluate(target, data, **asked)


def test_what_is_kept_of_a_batch_is_copied_out_of_it(monkeypatch):
    """What stayed where a batch made it would lie in the heap between its large tensors."""
    measure, alive = evaluation._measure, []

    def watched(*args, **named):
        assert not any(reference() is not None for reference in alive)
        found = measure(*args, **named)
        alive.extend(weakref.ref(found[name]) for name in ("effective_sample_size", "pareto_k"))
        alive.append(weakref.ref(found["elbo"].value))
        return found

    monkeypatch.setattr(evaluation, "_measure", watched)
    world = LinearGaussian()
    pv.evaluate((world.model, world.off_guide), world.sample(9), particles=30, batch_size=3)
    assert len(alive) == 9


BESIDE = {
    "KL, closed form": "reading.pair_kl",
    "KL per dimension": "reading.pair_kl_by_dimension",
    "extrapolated": "evaluate.extrapolated_estimate",
    "Pareto smoothing": "evaluate.psis.psis",
}


@pytest.mark.parametrize("error", [torch.linalg.LinAlgError("no factor"), TypeError("no number")])
@pytest.mark.parametrize(("name", "function"), BESIDE.items())
def test_what_fails_beside_the_bounds_is_left_out_with_a_sentence(
    name, function, error, monkeypatch
):
    def failing(*_, **__):
        raise error

    world = LinearGaussian()
    x = world.sample(5)
    whole = pv.evaluate(world.vae(), x, particles=200)
    monkeypatch.setattr(f"pyrovae.measure.{function}", failing)
    report = pv.evaluate(world.vae(), x, particles=200)
    torch.testing.assert_close(report.elbo.value, whole.elbo.value)
    torch.testing.assert_close(report.iwae[200].value, whole.iwae[200].value)
    assert set(report.refused) == {name}
    assert f"Not measured: {name}: it failed" in " ".join(report.verdict)
    gone = {"Pareto smoothing": report.psis, "extrapolated": report.extrapolated}
    gone |= {"KL, closed form": report.closed_form_kl}
    assert gone.get(name) is None
    assert bool(report.kl_per_dimension) == (name != "KL per dimension")
    assert report.pareto_k.isnan().all() == (name == "Pareto smoothing")
    unchecked = "The weights cannot be checked: Pareto k-hat is not known at 5 of 5 data."
    assert (unchecked in report.verdict) == (name == "Pareto smoothing")


def test_the_default_batch_of_tensors_is_what_a_pass_holds(monkeypatch):
    """The ELBO of an exact posterior is log p(x) at every draw, however the data are cut."""
    world, sizes = LinearGaussian(), []
    x = world.sample(700)
    pair = world.model, world.exact_guide

    def spy(given, *rest, **options):
        sizes.append(len(given))
        return measure(given, *rest, **options)

    measure = sys.modules["pyrovae.measure.evaluate"]._measure
    monkeypatch.setattr("pyrovae.measure.evaluate._measure", spy)
    monkeypatch.setattr("pyrovae.weights.given.NUMBERS_PER_PASS", 256 * 10 * 300)
    found = pv.evaluate(pair, x, particles=10).elbo.value
    torch.testing.assert_close(found, world.log_evidence(x), rtol=0, atol=1e-9)
    pv.evaluate(pair, x, particles=100, ks=[])
    pv.evaluate(pair, list(x.split(350)), particles=10)
    assert sizes == [300, 300, 100, *[100] * 7, 350, 350]


def undefined_below(limit):
    """Return a model whose log-likelihood is NaN at z below a limit, and a guide of z near x."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = (z - limit).log().unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 1.0, validate_args=False).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 0.01))

    return model, guide


def test_log_weights_that_are_nan_are_missing_and_the_report_says_where_and_why(tmp_path):
    """At x = -1 the log of z is NaN; at x = 1 all of the report is as without that datum."""
    x = torch.tensor([[1.0], [-1.0], [1.0]])
    report = pv.evaluate(undefined_below(0.0), x, particles=30)
    assert report.elbo.value.isnan().tolist() == [False, True, False]
    for per_datum in (report.pareto_k, report.effective_sample_size):
        assert per_datum.isnan().tolist() == [False, True, False]
    assert not report.trusted
    assert report.refused == {"log-weights": "the log-probability of 'x' is NaN"}
    said = " ".join(str(report).split())
    assert "log-weights of 1 of 3 data are NaN for some particles, the first in row 1" in said
    assert "collapsed" not in said
    report.save(tmp_path / "evaluation.json")
    assert str(pv.Report.load(tmp_path)) == str(report)


def test_a_report_without_any_defined_log_weight_blames_no_latent():
    report = pv.evaluate(undefined_below(0.0), -torch.ones(3, 1), particles=30)
    said = " ".join(str(report).split())
    assert "log-weights of 3 of 3 data are NaN" in said
    assert "collapsed" not in said
    assert "The weights cannot be checked: Pareto k-hat is not known at 3 of 3 data" in said
    assert "nan" not in str(report).replace("NaN", "")


@pytest.mark.parametrize("flow", [dist.transforms.Planar, dist.transforms.Radial])
def test_a_flow_without_an_inverse_loses_a_diagnostic_and_no_bound(flow):
    """Pyro's planar flows score only what they have drawn, and raise a KeyError elsewhere."""
    step = flow(2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x / 2, 0.7).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [step]))

    x = torch.randn(6, 2)
    with pytest.warns(UserWarning, match="'latents' was not measured: it failed .KeyError"):
        report = pv.evaluate((model, guide), x, particles=30, diagnostics=[pv.Latents(draws=20)])
    alone = pv.evaluate((model, guide), x, particles=30)
    torch.testing.assert_close(report.iwae[30].value, alone.iwae[30].value, rtol=0, atol=0)
    assert set(report.refused) == {"latents"}
