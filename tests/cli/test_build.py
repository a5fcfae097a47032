"""Every part of the library is built by its name, and gives a finite loss."""

import inspect
import math
from dataclasses import replace

import pytest
import torch

import pyrovae as pv
from pyrovae.cli import build, names
from pyrovae.cli.experiment import layered

DIGITS = pv.data.load("digits")
BITS = DIGITS.train.draw()[:30]
GRAY = DIGITS.train.x[:30]
SMALL = {"prior": {"latents": 3}, "net": {"hidden": [5]}}

LADDER = {
    "name": "Hierarchical",
    "levels": [
        {"name": "StandardNormal", "latents": 2},
        {"name": "ConditionalNormal", "latents": 3},
    ],
}
JOINT = {
    "name": "Joint",
    "parts": {
        "digit": {"name": "Categorical", "classes": 4},
        "style": {"name": "StandardNormal", "latents": 2},
    },
}
PRIORS = {
    "ConditionalNormal": LADDER,
    "Hierarchical": LADDER,
    "Joint": JOINT,
    "MixtureOfNormals": {"components": 4},
    "RelaxedOneHot": {"temperature": 0.5},
    "StudentT": {"df": 7.5},
    "VampPrior": {"components": 4},
}
LIKELIHOODS = {
    "AutoregressiveBernoulli": ({"pixels": {"features": 2, "channels": 2}}, BITS),
    "Beta": ({}, GRAY.clamp(0.1, 0.9)),
    "Categorical": ({"classes": 17}, 16 * GRAY),
    "Columns": (
        {
            "groups": [
                {"name": "Bernoulli", "columns": list(range(40))},
                {"name": "Normal", "scale": "network", "columns": list(range(40, 64))},
            ]
        },
        BITS,
    ),
    "ContinuousBernoulli": ({}, GRAY),
    "DiscretizedLogisticMixture": ({"components": 2, "levels": 17}, 16 * GRAY),
    "Masked": ({"likelihood": {"name": "Normal", "scale": 0.5}}, GRAY),
    "Multinomial": ({}, 16 * GRAY),
    "NegativeBinomial": ({}, 16 * GRAY),
    "Poisson": ({}, 16 * GRAY),
    "ZeroInflatedNegativeBinomial": ({}, 16 * GRAY),
}
GUIDES = {
    "Bernoulli": ({}, {"name": "Bernoulli"}),
    "Categorical": ({}, {"name": "Categorical"}),
    "Hierarchical": ({}, LADDER),
    "Joint": ({}, JOINT),
    "Ladder": ({}, LADDER),
    "LowRankNormal": ({"rank": 2}, {}),
    "MixtureOfNormals": ({"components": 2}, {}),
    "OneHot": ({}, {"name": "OneHot"}),
    "PowerSpherical": ({}, {"name": "UniformSphere"}),
    "RelaxedOneHot": ({"temperature": 1.0}, {"name": "RelaxedOneHot", "temperature": 0.5}),
}
OBJECTIVES = {
    "ELBO": {"particles": 4},
    "CIWAE": {"beta": 0.5, "particles": 4},
    "CUBO": {"n": 2, "particles": 4},
    "DIP": {"off_diagonal": 10.0, "diagonal": 5.0},
    "FactorVAE": {"gamma": 6.0},
    "IWAE": {"particles": 4},
    "MIWAE": {"particles": 4, "k": 2},
    "MMD": {"weight": 2.0},
    "PIWAE": {"particles": 4, "k": 2},
    "Renyi": {"alpha": 0.25, "particles": 4},
    "ReweightedWakeSleep": {"particles": 4},
    "TotalCorrelation": {"beta": 4.0},
}


def vae(x=BITS, **tables):
    data = replace(DIGITS, train=pv.data.Split(x, DIGITS.train.labels[:30]))
    return build.vae(layered([SMALL, tables]), data)


def measured(made, x=BITS, *context):
    """Train for a step and measure."""
    history = pv.fit(made, (x, *context), epochs=1, batch_size=len(x), callbacks=[])
    assert math.isfinite(history.epochs[0].loss)
    found = pv.log_weights(made, x, *context, particles=3)
    assert torch.isfinite(found).all()
    assert found.shape[-1] == len(x)


def concrete(role):
    module = getattr(pv, names.MODULES[role])
    shown = (getattr(module, name) for name in module.__all__)
    return {
        part.__name__ for part in shown if inspect.isclass(part) and not inspect.isabstract(part)
    }


@pytest.mark.parametrize("role", names.MODULES)
def test_the_names_are_those_of_the_library(role):
    assert set(names.parts(role)) - {names.ELBO} == concrete(role) - names.FROM_PYTHON


@pytest.mark.parametrize("name", names.parts("prior"))
def test_every_prior_makes_a_vae_that_can_be_measured(name):
    guide = {"temperature": 1.0} if name == "RelaxedOneHot" else {}
    made = vae(prior={"name": name, **PRIORS.get(name, {})}, guide=guide)
    measured(made)
    built = {type(part).__name__ for part in made.prior.modules()}
    assert name in built
    assert made.sample(2).shape == (2, 64)


@pytest.mark.parametrize("name", names.parts("likelihood"))
def test_every_likelihood_makes_a_vae_that_can_be_measured(name):
    entries, x = LIKELIHOODS.get(name, ({}, BITS))
    guide = {"net": {"name": "HideMissing"}} if name == "Masked" else {}
    made = vae(x, likelihood={"name": name, **entries}, guide=guide)
    assert type(made.likelihood).__name__ == name
    measured(made, x, *((x > 0,) if name == "Masked" else ()))


@pytest.mark.parametrize("name", names.parts("likelihood"))
def test_every_likelihood_starts_at_the_mean_of_the_data(name):
    entries, x = LIKELIHOODS.get(name, ({}, BITS))
    made = vae(x, likelihood={"name": name, **entries})
    biases = [module.bias for module in made.likelihood.modules() if hasattr(module, "bias")]
    start = biases[-1] if name != "AutoregressiveBernoulli" else made.likelihood.pixels.offset.bias
    assert start.std() > 0
    if name in ("Bernoulli", "Poisson"):
        assert torch.equal(start.argsort(stable=True), x.mean(0).argsort(stable=True))


@pytest.mark.parametrize("name", names.parts("guide"))
def test_every_guide_makes_a_vae_that_can_be_measured(name):
    entries, prior = GUIDES.get(name, ({}, {}))
    made = vae(guide={"name": name, **entries}, prior=prior)
    assert type(made.posterior).__name__ == name
    measured(made)


@pytest.mark.parametrize("name", names.parts("net"))
def test_every_network_makes_a_vae_that_can_be_measured(name):
    context, x = (), BITS
    if name == "PixelCNN":
        made = vae(likelihood={"name": "AutoregressiveBernoulli", "pixels": {"features": 2}})
        assert type(made.likelihood.pixels).__name__ == name
    elif name in ("EncodeColumns", "HideMissing", "LogCounts", "Rescaled"):
        columns = name == "EncodeColumns"
        made = vae(guide={"net": {"name": name, **({"classes": [2] * 64} if columns else {})}})
        context = (x > 0,) if name in ("EncodeColumns", "HideMissing") else ()
        assert type(made.posterior.net).__name__ == name
        assert made.posterior.net.net.sizes == (64 + 128 * columns, 5, 6)
    else:
        made = vae(net={"name": name})
        other = name.replace("Encoder", "Decoder")
        assert type(made.posterior.net).__name__ == name.replace("Decoder", "Encoder")
        assert type(made.likelihood.net).__name__ == other
    if name in ("EncodeColumns", "HideMissing"):
        made = pv.VAE(made.prior, pv.likelihoods.Masked(made.likelihood), made.posterior)
    measured(made, x, *context)


@pytest.mark.parametrize("name", names.parts("objective"))
def test_every_objective_has_a_loss(name):
    weighted = "particles" in OBJECTIVES[name]
    entries = {"name": name, **OBJECTIVES[name]} | ({"gradient": "dreg"} if weighted else {})
    found = build.objective(entries, {"latents": 3}, size=len(BITS))
    assert type(found).__name__ == {"ELBO": "MIWAE"}.get(name, name)
    if weighted:
        assert (found.num_particles, found.gradient) == (4, "dreg")
    made = vae()
    assert torch.isfinite(torch.tensor(found.loss(made.model, made.guide, BITS)))


def test_the_plain_elbo_of_one_particle_is_left_to_fit():
    assert build.objective({"name": "ELBO"}) is None
    assert build.objective({"name": "ELBO", "particles": 1, "gradient": "plain"}) is None


def test_arguments_reach_the_part():
    made = vae(
        prior={"name": "StudentT", "df": 7.5},
        guide={"name": "Flow", "features": 6, "kind": "affine", "transforms": 1},
        likelihood={"name": "Normal", "scale": "network", "net": {"name": "GatedMLP"}},
    )
    assert float(made.prior.df) == 7.5
    assert made.posterior.features == 6
    assert made.likelihood.scale == "network"
    assert made.likelihood.net.sizes == (3, 5, 128)
    assert build.objective({"name": "Renyi", "alpha": 0.25, "particles": 4}).alpha == 0.25


def test_parts_are_shared_where_the_model_says_so():
    vamp = vae(prior={"name": "VampPrior", "components": 4})
    assert vamp.prior.guide is vamp.posterior
    ladder = vae(prior=LADDER, guide={"name": "Ladder"})
    assert ladder.posterior.prior is ladder.prior


def test_a_table_of_columns_may_have_a_trunk():
    groups = [{"name": "Bernoulli", "columns": list(range(64))}]
    made = vae(likelihood={"name": "Columns", "groups": groups, "trunk": {}})
    assert made.likelihood.trunk.sizes == (3, 5, 5)
    measured(made)


def test_levels_and_parts_of_a_guide_may_be_given():
    levels = ["LowRankNormal", "FullRankNormal"]
    made = vae(prior=LADDER, guide={"levels": [{"name": levels[0], "rank": 1}, levels[1]]})
    assert [type(level).__name__ for level in made.posterior.levels] == levels
    measured(made)
    made = vae(prior=JOINT, guide={"parts": {"digit": {}, "style": "FullRankNormal"}})
    assert type(made.posterior.parts[1]).__name__ == "FullRankNormal"
    measured(made)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"prior": "Cauchy"}, "no prior 'Cauchy': There are Bernoulli, Categorical"),
        ({"prior": "vamp-prior"}, "did you mean VampPrior?"),
        ({"prior": "os.system"}, "no prior 'os.system'"),
        ({"likelihood": "fill_missing"}, "no likelihood 'fill_missing'"),
        ({"likelihood": "Likelihood"}, "no likelihood 'Likelihood'"),
        ({"prior": {"name": "MixtureOfNormals"}}, "needs components: --prior.components"),
        ({"prior": {"name": "StudentT", "dof": 3}}, "no argument 'dof': did you mean df?"),
        ({"prior": {"name": "Normal", "df": 3}}, "no argument 'df': There are latents"),
        (
            {"prior": {"name": "MixtureOfNormals", "components": 2.5}},
            "--prior.components: expected `int`, got `float`; got 2.5",
        ),
        ({"prior": {"name": "StudentT", "df": "x"}}, "--prior.df: expected `float`, got `str`"),
        ({"prior": {"name": "MixtureOfNormals", "components": 0}}, "at least one component"),
        ({"prior": {"name": "VampPrior", "components": 5000}}, "5000"),
        ({"prior": {"name": "ConditionalNormal"}}, "is conditioned on nothing here"),
        ({"prior": {"name": "Joint"}}, "prior Joint needs parts"),
        ({"prior": {"name": "Hierarchical"}}, "prior Hierarchical needs levels"),
        ({"prior": {"name": "Hierarchical", "levels": ["Normal"]}}, "Normal needs latents"),
        ({"guide": "Ladder"}, "guide Ladder goes with the prior Hierarchical; got StandardNormal"),
        ({"guide": "Joint"}, "guide Joint goes with the prior Joint; got StandardNormal"),
        ({"guide": "PowerSpherical"}, "guide PowerSpherical goes with the prior UniformSphere"),
        (
            {"prior": "UniformSphere", "guide": "Flow"},
            "goes with the guide PowerSpherical; got Flow",
        ),
        ({"prior": {"name": "VampPrior", "guide": 3}}, "no argument 'guide'"),
        ({"prior": {"name": "Joint", "parts": [1]}}, "a part is a name or a table; got [1]"),
        ({"prior": {"name": "Hierarchical", "levels": 3}}, "a list of tables; got 3: a list"),
        ({"prior": "Hierarchical"}, "needs levels, a list of tables, a prior's from the top"),
        ({"prior": "Hierarchical"}, "[[prior.levels]] in a file, or --prior.levels '[{name"),
        ({"prior": "Joint"}, "[prior.parts.SITE] in a file, or --prior.parts.SITE NAME"),
        (
            {"prior": {"name": "StandardNormal", "levels": [{}]}},
            'takes no levels, which are of Hierarchical: give the name too, name = "Hierarchical"',
        ),
        ({"guide": {"name": "LowRankNormal"}}, "--guide.rank"),
        ({"likelihood": "Masked"}, "likelihood Masked needs likelihood"),
        ({"likelihood": "Columns"}, "likelihood Columns needs groups"),
        ({"likelihood": "Poisson", "x": GRAY}, "Poisson"),
        (
            {"likelihood": {"name": "AutoregressiveBernoulli", "pixels": {}}},
            "needs features: --likelihood.pixels.features",
        ),
        ({"likelihood": {"name": "Normal", "scale": "wide"}}, "--likelihood.scale"),
        ({"net": {"hidden": [8, 1.5]}}, "--net.hidden: expected `int`, got `float`"),
        ({"net": {"hidden": [8, -3]}}, "--net.hidden: expected `int` >= 1"),
        ({"net": {"activation": "System"}}, "no activation 'System': "),
        ({"net": {"widths": [3]}}, "no argument 'widths': There are hidden, activation"),
        ({"net": {"name": "GatedMLP", "channels": 3}}, "no argument 'channels'"),
        ({"net": "Rescaled"}, "wraps one network: give it as --guide.net Rescaled"),
        ({"net": "PixelCNN"}, "in a likelihood AutoregressiveBernoulli only"),
    ],
    ids=str,
)
def test_what_no_part_can_be_made_of_is_said(tables, words):
    tables = {key: {"name": v} if isinstance(v, str) else v for key, v in tables.items()}
    with pytest.raises(ValueError, match=".") as error:
        vae(tables.pop("x", BITS), **tables)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"name": "IWAE"}, "IWAE needs particles: --objective.particles"),
        ({"name": "IWAE", "k": 5}, "no argument 'k': There are particles, gradient"),
        (
            {"name": "MIWAE", "particles": 4, "m": 2},
            "no argument 'm': There are particles, k, gradient",
        ),
        ({"name": "ELBO", "alpha": 5}, "no argument 'alpha': There are particles, gradient"),
        ({"name": "IWEA", "particles": 5}, "did you mean IWAE?"),
        ({"name": "ReweightedWakeSleep", "particles": 1}, "at least two particles"),
        ({"name": "ReweightedWakeSleep", "particles": 5, "gradient": "stl"}, "'plain' or 'dreg'"),
        ({"name": "Renyi", "particles": 5, "alpha": 1}, "other than 1"),
        ({"name": "IWAE", "particles": 5, "gradient": "steep"}, "--objective.gradient"),
    ],
)
def test_what_no_objective_can_be_made_of_is_said(entries, words):
    with pytest.raises(ValueError, match=".") as error:
        build.objective(entries)
    assert words in str(error.value)


def test_a_size_that_no_machine_has_is_one_line():
    with pytest.raises(ValueError, match="the parts of the VAE cannot be built: "):
        vae(prior={"name": "VampPrior", "components": 2**62})
