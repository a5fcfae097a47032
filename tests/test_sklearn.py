"""`pyrovae.sklearn.VAE` keeps scikit-learn's contract, and scores what it says it scores."""

import functools

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted
from worlds import LinearGaussian

import pyrovae as pv
from pyrovae.sklearn import VAE
from pyrovae.train.callbacks import Callback

WORLD = LinearGaussian(latents=2, width=6)
LINEAR = functools.partial(VAE, hidden=(), learning_rate=0.03, batch_size=100, random_state=0)
"""A VAE of linear maps: its best model is probabilistic PCA."""


@parametrize_with_checks([VAE(hidden=4, epochs=1, particles=2)])
def test_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def x():
    with pv.seeded(0):
        return WORLD.sample(1200).numpy()


@pytest.fixture(scope="module")
def fitted(x):
    return LINEAR(2, epochs=40).fit(x[:600])


class TestScore:
    def test_is_the_held_out_evidence_of_the_linear_world(self, x, fitted):
        """No model is above the truth, but by chance; the distance is paired over the data."""
        test = x[600:]
        lost = WORLD.log_evidence(torch.from_numpy(test)).numpy() - fitted.score_samples(test)
        error = lost.std() / np.sqrt(600)
        assert -4 * error < lost.mean() < 0.1
        assert fitted.score(test) == pytest.approx(fitted.score_samples(test).mean())

    def test_is_that_of_evaluate(self, x, fitted):
        """In units of the error of one group of 100 particles and of the mean of ten."""
        test = x[600:900]
        bound = pv.evaluate(fitted.vae_, test, particles=1000, ks=[100]).iwae[100]
        error = bound.standard_error * np.sqrt(10 + 1)
        off = (torch.from_numpy(fitted.score_samples(test)) - bound.value) / error
        assert 0.2 < off.square().mean().sqrt() < 2  # the particles are common to all data

    def test_of_a_datum_does_not_depend_on_the_others(self, x, fitted):
        whole = fitted.score_samples(x)
        np.testing.assert_allclose(fitted.score_samples(x[7:9]), whole[7:9], rtol=1e-9)


class TestMethods:
    def test_transform_is_the_posterior_mean(self, x, fitted):
        wanted = fitted.vae_.encode(torch.from_numpy(x)).mean.detach().numpy()
        np.testing.assert_allclose(fitted.transform(x), wanted)

    def test_inverse_transform_is_the_decoders_mean(self, x, fitted):
        z = fitted.transform(x[:50])
        rebuilt = fitted.inverse_transform(z)
        np.testing.assert_allclose(rebuilt, fitted.vae_.decode(torch.from_numpy(z)).mean.detach())
        by_pca = PCA(2).fit(x[:600])
        lost = [
            np.square(each - x[:50]).mean()
            for each in (rebuilt, by_pca.inverse_transform(by_pca.transform(x[:50])))
        ]
        assert lost[0] < 1.5 * lost[1]  # PCA is the best linear reconstruction

    def test_samples_have_the_moments_of_the_world(self, fitted):
        drawn = fitted.sample(4000, random_state=1)
        covariance = WORLD.marginal.covariance_matrix.numpy()
        variance = covariance.diagonal()
        assert (np.abs(drawn.mean(0) - WORLD.mean.numpy()) < 0.2 * np.sqrt(variance)).all()
        assert (np.abs(drawn.var(0) / variance - 1) < 0.25).all()
        assert np.array_equal(drawn, fitted.sample(4000, random_state=1))
        assert not np.array_equal(drawn, fitted.sample(4000, random_state=2))

    def test_float32_stays_float32(self, x):
        model = LINEAR(2, epochs=1).fit(x.astype("float32"))
        assert next(model.vae_.parameters()).dtype == torch.float32
        assert model.transform(x).dtype == model.sample(3).dtype == np.float32

    def test_torchs_generator_is_left_alone(self, x, fitted):
        before = torch.get_rng_state()
        clone(fitted).set_params(epochs=1).fit(x).sample(2)
        fitted.score(x[:10])
        fitted.inverse_transform(fitted.transform(x[:10]))
        assert torch.equal(before, torch.get_rng_state())

    def test_any_likelihood_is_taken(self):
        bits = (np.random.default_rng(0).random((40, 6)) > 0.5).astype(float)
        model = VAE(hidden=4, epochs=1, likelihood=pv.likelihoods.Bernoulli, random_state=0)
        assert set(np.unique(model.fit(bits).sample(50))) <= {0.0, 1.0}
        assert (model.score_samples(bits) < 0).all()
        with pytest.raises(ValueError, match="Bernoulli takes values that are 0 or 1"):
            model.fit(0.5 * bits)


def test_a_grid_search_finds_the_number_of_latents(x):
    """A latent gains what it gains PCA: of two in the world, the second is worth 0.26 nats.

    Standardized noise is not isotropic, so a third still gains 0.02. The tolerance is for what
    250 steps leave, up to 0.02 for each model over several settings.
    """
    scores, best = {}, {}
    for name, model in (("vae", LINEAR(epochs=25, learning_rate=0.06)), ("pca", PCA())):
        grid = {f"{name}__n_components": [1, 2, 3]}
        search = GridSearchCV(make_pipeline(StandardScaler(), model), grid, cv=2).fit(x[:600])
        scores[name], best[name] = search.cv_results_["mean_test_score"], search.best_estimator_
    np.testing.assert_allclose(np.diff(scores["vae"]), np.diff(scores["pca"]), rtol=0, atol=0.06)
    names = best["vae"].get_feature_names_out().tolist()
    assert names == ["vae0", "vae1", "vae2"][: len(names)]
    assert len(names) >= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 0}, "at least 1|less than 1|latent"),
        ({"epochs": 0}, "at least one epoch"),
        ({"particles": 0}, "got particles=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"n_components": 2.0}, "n_components takes whole numbers; got 2.0"),
        ({"particles": 1.5}, "particles takes whole numbers; got 1.5"),
        ({"hidden": (4, 2.5)}, "hidden takes whole numbers; got 2.5"),
        ({"likelihood": "bernoulli"}, "likelihood takes a class, .*; got 'bernoulli'"),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        VAE(**{"hidden": 4, "epochs": 1} | settings).fit(np.eye(8))


class TestAFitThatFails:
    def test_leaves_the_fit_before_it(self):
        x = np.random.default_rng(0).normal(size=(20, 3))
        model = VAE(2, hidden=4, epochs=1, random_state=0).fit(x)
        score, before = model.score(x), dict(vars(model))
        with pytest.raises(ValueError, match="at least one epoch"):
            model.set_params(n_components=1, particles=5, epochs=0).fit(x[:, :2])
        kept = {name: value for name, value in vars(model).items() if name.endswith("_")}
        assert {name: before[name] for name in kept} == kept
        assert model.score(x) == score
        assert model.get_feature_names_out().tolist() == ["vae0", "vae1"]

    def test_is_no_fit(self):
        model = VAE(hidden=4, epochs=0)
        with pytest.raises(ValueError, match="at least one epoch"):
            model.fit(np.eye(4))
        with pytest.raises(NotFittedError):
            check_is_fitted(model)


def test_whole_numbers_may_be_numpys():
    x = np.random.default_rng(0).normal(size=(20, 3))
    given = {"n_components": 2, "hidden": 4, "epochs": 1, "batch_size": 10, "particles": 5}
    wanted = VAE(**given, random_state=0).fit(x).score(x)
    settings = {name: np.int64(value) for name, value in given.items()}
    assert VAE(**settings, random_state=0).fit(x).score(x) == wanted
    settings["hidden"] = np.array([4])
    assert VAE(**settings, random_state=0).fit(x).score(x) == wanted


def test_a_generator_of_numpy_is_a_random_state():
    x = np.random.default_rng(0).normal(size=(20, 3))
    first, again, other = (
        VAE(hidden=4, epochs=1, random_state=np.random.default_rng(seed)).fit(x).score(x)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_data_outside_the_domain_are_refused_alike_by_all_methods():
    x = np.random.default_rng(0).normal(size=(20, 3))
    model = VAE(hidden=4, epochs=1, likelihood=pv.likelihoods.Bernoulli).fit(x > 0)
    for method in (model.fit, model.transform, model.score):
        with pytest.raises(ValueError, match=r"takes values that are 0 or 1; .*: x > 0.5, torch"):
            method(x)


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [(pv.likelihoods.Beta, 2), (functools.partial(pv.likelihoods.Categorical, classes=3), 3)],
    ids=["Beta", "Categorical"],
)
def test_a_likelihood_of_several_outputs_is_refused_by_name(likelihood, outputs):
    name = getattr(likelihood, "func", likelihood).__name__
    with pytest.raises(ValueError, match=f"{name} takes {outputs} outputs.*of the 4 features"):
        VAE(likelihood=likelihood).fit(np.full((9, 4), 0.5))


def test_counts_have_a_likelihood_by_partial():
    x = np.random.default_rng(0).poisson(3.0, (40, 3))
    likelihood = functools.partial(pv.likelihoods.NegativeBinomial, width=3)
    model = VAE(hidden=4, epochs=1, likelihood=likelihood, random_state=0).fit(x)
    assert -20 < model.score(x) < 0
    assert (model.sample(5) >= 0).all()


@pytest.mark.parametrize("name", ["transform", "inverse_transform", "score", "score_samples"])
def test_methods_ask_for_a_fit(name):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(VAE(), name)(np.eye(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.inverse_transform(np.zeros((3, 5))), "latents have 2 columns"),
        (lambda model: model.transform(np.full((2, 6), np.nan)), "contains NaN"),
        (lambda model: model.score(np.zeros((2, 5))), "5 features"),
        (lambda model: model.sample(0), "at least one row"),
    ],
)
def test_bad_input_is_refused(call, message, fitted):
    with pytest.raises(ValueError, match=message):
        call(fitted)


def test_a_training_that_is_interrupted_is_said(x, monkeypatch):
    """A grid search goes on after Ctrl-C, and would rank the estimator as trained."""

    class Interrupt(Callback):
        def finished_epoch(self, training):
            raise KeyboardInterrupt

    def interrupted(*data, **given):
        return pv.fit(*data, **given | {"callbacks": [Interrupt()]})

    monkeypatch.setattr("pyrovae.sklearn.fit", interrupted)
    with pytest.warns(UserWarning, match="interrupted after 1 of 3 epochs: the estimator has"):
        VAE(2, hidden=8, epochs=3, random_state=0).fit(x)


@pytest.mark.parametrize("turned", [lambda x: x[::-1], lambda x: x[:, ::-1], np.asfortranarray])
def test_arrays_are_taken_however_they_lie_in_memory(turned, x):
    model = VAE(2, hidden=8, epochs=1, random_state=0)
    few = x[:100]
    plain = np.array(turned(few), order="C")
    assert np.array_equal(
        model.fit(turned(few)).score_samples(turned(few)),
        model.fit(plain).score_samples(plain),
    )
    z = model.transform(plain)
    assert np.array_equal(
        model.inverse_transform(z[::-1]), model.inverse_transform(z[::-1].copy())
    )
