"""Bad programs and bad data: each error names the site or the shape, and a way to mend it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from worlds import LinearGaussian, data_plate

import pyrovae as pv
from pyrovae.weights.log_weights import iterate_log_weights, log_weight_terms, log_weights

WORLD = LinearGaussian()


def vae(width=3, latents=2):
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.likelihoods.Normal(pv.nets.MLP(latents, width)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(width, 2 * latents)),
    )


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            torch.zeros(4, 7),
            r"MLP expected inputs \[\.\.\., 3\]; got \(4, 7\)\. Give inputs of total width 3",
        ),
        (
            torch.zeros(4, 3, 1),
            r"inputs \[\.\.\., 3\]; got \(4, 3, 1\)\. Flatten.*x\.flatten\(1\)",
        ),
        (torch.zeros(4, 3).double(), r"weights of torch.float32; got.*float64.*x\.to\("),
        (torch.zeros(4, 3).long(), r"weights of torch.float32; got.*int64.*x\.to\("),
        (torch.zeros(0, 3), r"at least one row, \[N, \.\.\.\]; got shape \(0, 3\)"),
        (torch.zeros(4, 0), r"at least one row, \[N, \.\.\.\]; got shape \(4, 0\)"),
        (torch.tensor(1.0), r"at least one row, \[N, \.\.\.\]; got shape \(\)"),
        ([[0.0, 0.0, 0.0]], r"x must be a tensor.*got list"),
        (torch.tensor([[0.0] * 3, [0, torch.nan, 0]]), r"NaN.* 1 of 2 data.*row 1: drop"),
        (torch.tensor([[torch.inf] * 3] * 2), r"infinite.* 2 of 2 data.*row 0: drop"),
    ],
    ids=[
        "width",
        "image",
        "float64",
        "whole",
        "empty",
        "no columns",
        "scalar",
        "list",
        "nan",
        "inf",
    ],
)
@pytest.mark.parametrize("measure", [log_weights, log_weight_terms])
def test_bad_data_are_refused(measure, x, message):
    programs = vae()
    with pytest.raises(ValueError, match=message):
        measure(programs, x, particles=2)


@pytest.mark.parametrize("particles", [0, -3])
def test_fewer_than_one_particle_is_refused(particles):
    with pytest.raises(ValueError, match=f"at least one particle; got particles={particles}"):
        log_weights((WORLD.model, WORLD.off_guide), WORLD.sample(2), particles=particles)


@pytest.mark.parametrize("chunk", [0, -3])
def test_a_chunk_below_one_is_refused(chunk):
    x = WORLD.sample(2)
    with pytest.raises(
        ValueError, match=f"at least one .particle, datum. pair; got chunk={chunk}"
    ):
        log_weights((WORLD.model, WORLD.off_guide), x, particles=2, chunk=chunk)
    with pytest.raises(ValueError, match=f"got chunk={chunk}"):
        next(iterate_log_weights((WORLD.model, WORLD.off_guide), x, particles=2, chunk=chunk))


def test_grey_pixels_are_refused_by_a_bernoulli():
    programs = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, 3)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(3, 4)),
    )
    with pytest.raises(ValueError, match="site 'x' cannot score its value"):
        log_weights(programs, torch.full((4, 3), 0.5), particles=2)


def test_a_latent_that_the_guide_does_not_sample_is_named():
    def guide(x):
        with data_plate(x):
            pyro.sample("y", dist.Delta(x, event_dim=1))

    message = r"model samples the sites \['z'\] but the guide does not sample \['z'\]: add pyro"
    with pytest.raises(ValueError, match=message):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


def test_a_latent_that_the_model_does_not_sample_is_named():
    def guide(x):
        with data_plate(x):
            WORLD.off_posterior(x)
            pyro.sample("y", dist.Delta(x, event_dim=1))

    message = r"guide samples \['y'\], which the model does not: .*\['z'\]\. Rename"
    with pytest.raises(ValueError, match=message):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


def test_a_guide_that_samples_the_observed_site_is_named():
    def guide(x):
        with data_plate(x):
            WORLD.off_posterior(x)
            pyro.sample("x", dist.Delta(x, event_dim=1))

    with pytest.raises(ValueError, match=r"guide samples \['x'\], which the model does not"):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


def test_a_model_that_samples_outside_the_plate_over_data_is_named():
    def model(x):
        WORLD.model(x)
        pyro.sample("w", dist.Normal(0.0, 1.0))

    def guide(x):
        with data_plate(x):
            WORLD.off_posterior(x)
            pyro.sample("w", dist.Normal(0.0, 1.0))

    message = r"site 'w' is sampled outside the plate over data: put it inside pyro\.plate"
    with pytest.raises(ValueError, match=message):
        log_weights((model, guide), WORLD.sample(4), particles=2)


def test_a_guide_that_samples_outside_the_plate_over_data_is_named():
    def guide(x):
        WORLD.off_posterior(x[:1])

    message = r"site 'z' is sampled outside the plate over data: put it inside pyro\.plate"
    with pytest.raises(ValueError, match=message):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


@pytest.mark.parametrize("used_by", ["neither", "the model", "the guide"])
def test_a_number_drawn_for_all_data_is_named(used_by):
    """K numbers s are added to [K, N, D] by one particle alone, which has no axis to take them."""

    def shifted(loc, s, program):
        return loc + s if used_by == program else loc

    def model(x):
        s = pyro.sample("s", dist.Normal(torch.tensor(0.0), 1.0))
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(shifted(z, s, "the model"), 1.0).to_event(1), obs=x)

    def guide(x):
        s = pyro.sample("s", dist.Normal(torch.tensor(0.0), 1.0))
        with data_plate(x):
            loc = shifted(x.expand(*s.shape[:1], *x.shape), s, "the guide")
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    message = r"site 's' is sampled outside the plate over data: put it inside pyro\.plate"
    with pytest.raises(ValueError, match=message):
        log_weights((model, guide), torch.zeros(4, 2), particles=3)


def test_a_plate_of_another_size_is_named():
    def guide(x):
        with pyro.plate("data", 7, dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    with pytest.raises(
        ValueError, match=r"site 'z' is in plate 'data' of size 7.* 4 data: create"
    ):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


def test_a_third_plate_is_named():
    def guide(x):
        with data_plate(x), pyro.plate("pixels", 3, dim=-3):
            WORLD.off_posterior(x)

    with pytest.raises(
        ValueError, match=r"site 'z' is in the plates \['pixels'\] beside.*to_event"
    ):
        log_weights((WORLD.model, guide), WORLD.sample(4), particles=2)


def check_refused(programs, site, x, particles):
    with pytest.raises(ValueError, match=rf"site '?{site}'? .*\d") as caught:
        log_weights(programs, x, particles=particles)
    advice = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "to_event" in advice, f"the error tells no way to mend it: {advice}"


SHAPES = [(1, 1), (4, 2), (2, 1), (2, 4), (2, 2), (3, 1), (3, 2), (3, 3)]
"""Numbers of data and particles around the dimensions D = 2 of z and 3 of x, N == D included."""


@pytest.mark.parametrize(("size", "particles"), SHAPES)
def test_a_guide_without_to_event_is_refused(size, particles):
    def posterior(x):
        return pyro.sample("z", dist.Normal(WORLD.posterior_mean(x), WORLD.off_scale))

    check_refused(WORLD.vae(posterior), "z", WORLD.sample(size), particles)


@pytest.mark.parametrize(("size", "particles"), SHAPES)
def test_a_prior_without_to_event_is_refused(size, particles):
    def prior():
        return pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0))

    programs = pv.VAE(prior, WORLD.likelihood, WORLD.off_posterior)
    check_refused(programs, "z", WORLD.sample(size), particles)


@pytest.mark.parametrize(("size", "particles"), SHAPES)
def test_a_likelihood_without_to_event_is_refused(size, particles):
    def likelihood(z, x=None):
        loc = (WORLD.weight * z.unsqueeze(-2)).sum(-1) + WORLD.mean
        return pyro.sample("x", dist.Normal(loc, WORLD.noise), obs=x)

    programs = pv.VAE(WORLD.prior, likelihood, WORLD.off_posterior)
    check_refused(programs, "x", WORLD.sample(size), particles)


def test_a_value_of_another_event_shape_is_named():
    def likelihood(z, x=None):
        return pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    programs = pv.VAE(WORLD.prior, likelihood, WORLD.off_posterior)
    message = r"site 'x' has event shape \(1,\); got a value of shape \(4, 3\): reshape"
    with pytest.raises(ValueError, match=message):
        log_weights(programs, WORLD.sample(4), particles=2)


def test_sites_that_differ_from_pass_to_pass_are_named():
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            name = "bright" if x.mean() > 0 else "dark"
            pyro.sample(name, dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    x = torch.tensor([[1.0], [-1.0]])
    with pytest.raises(
        ValueError, match=r"differ from pass to pass: \['bright'\], then \['dark'\]"
    ):
        log_weight_terms((model, guide), x, particles=2, chunk=2)


def test_a_plate_that_draws_its_own_rows_is_named():
    def plate(x):
        return pyro.plate("data", len(x), subsample_size=2)

    def model(x):
        with plate(x) as rows:
            WORLD.likelihood(WORLD.prior(), x[rows])

    def guide(x):
        with plate(x) as rows:
            WORLD.off_posterior(x[rows])

    for measure in (pv.log_weights, pv.evaluate):
        with pytest.raises(ValueError, match=r"draws 2 of the 4 data .*leave out its subsample_s"):
            measure((model, guide), WORLD.sample(4), particles=2)


def test_a_hidden_markov_model_needs_its_duration():
    """Pyro scores any length without one, but its event then has length 1."""

    def model(x, duration=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            states = dist.Categorical(logits=torch.eye(2))
            start, steps = torch.zeros(2), z[..., None, None, None] * torch.eye(2)
            hmm = dist.DiscreteHMM(start, steps, states, duration=duration)
            pyro.sample("x", hmm, obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.tensor([[0, 1, 1], [0, 0, 1]])
    with pytest.raises(
        ValueError, match="'x' has event shape .1,.*give the DiscreteHMM a duratio"
    ):
        log_weights((model, guide), x, particles=2)
    pair = (lambda x: model(x, 3)), guide
    assert log_weights(pair, x, particles=2).isfinite().all()
