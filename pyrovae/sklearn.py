r"""A VAE as a scikit-learn estimator, beside PCA, FactorAnalysis and GaussianMixture.

    fit       max E_q[log p(x, z) - log q(z | x)]              transform   E_q[z | x]
    score     1/N sum_n log 1/K sum_k w_kn <= log p(x_n)       sample      z ~ p(z), x ~ p(x | z)

The score is a lower bound on the mean log-likelihood, in the units of those of PCA and
FactorAnalysis, so that `GridSearchCV` chooses among them by data that were held out.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import torch
from pyro import poutine
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn

from pyrovae.likelihoods.location_scale import Normal
from pyrovae.randomness import generators_kept, seeded
from pyrovae.runs.presets import mlp_vae
from pyrovae.train.callbacks import ProgressBar
from pyrovae.train.fit import Step, fit
from pyrovae.train.optim import Optim
from pyrovae.weights.bounds import log_mean_exp
from pyrovae.weights.given import Given
from pyrovae.weights.run import LOG_W, run
from pyrovae.weights.sites import mean_of
from pyrovae.weights.target import check_data
from pyrovae.weights.traces import held

__all__ = ["VAE"]

FLOATS = (np.float64, np.float32)


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A variational autoencoder of perceptrons with the methods of scikit-learn's estimators.

    The prior is standard normal, the guide mean-field normal, as of `pyrovae.mlp_vae`. The
    likelihood starts at the mean of the data, and a learned scale at their deviation from it.
    Give real data standardized, as to scikit-learn's perceptrons; float32 trains in float32.

    Args:
        n_components: the number of latent dimensions L.
        hidden: the widths of the guide's hidden layers; the likelihood's are in reverse order.
        likelihood: a class of `pyrovae.likelihoods` for D outputs and no context, `Normal`,
            `StudentT`, `Laplace`, `Bernoulli`, `ContinuousBernoulli` or `Poisson`; or a
            function of a network, such as `functools.partial(NegativeBinomial, width=D)`. `Beta`,
            `Categorical` and `DiscretizedLogisticMixture` take several outputs for each feature
            and are refused; train them as a `pyrovae.VAE`. `Multinomial` is of counts given their
            sum, so it has a score, but neither samples nor means.
        epochs: the number of passes over the data.
        batch_size: the number of data in a step.
        learning_rate: that of Adam.
        particles: K, the number of particles of the score.
        random_state: the seed, a RandomState or a Generator of NumPy, from which parameters,
            batches and noise follow; None for NumPy's global state.
        verbose: whether to show a progress bar.

    Attributes:
        vae_: the trained `pyrovae.VAE`, which all functions of the library take.
        history_: the `pyrovae.History`, in nats per datum.
        n_features_in_: the number of features D.
        feature_names_in_: their names, if X had any.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from pyrovae.sklearn import VAE
        >>> x = load_iris().data
        >>> model = make_pipeline(StandardScaler(), VAE(2, hidden=16, epochs=5, random_state=0))
        >>> model.fit(x).transform(x).shape
        (150, 2)
        >>> model.get_feature_names_out().tolist()
        ['vae0', 'vae1']
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        hidden: int | Sequence[int] = (200,),
        likelihood: Callable[[nn.Module], Any] = Normal,
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        particles: int = 100,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.hidden = hidden
        self.likelihood = likelihood
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.particles = particles
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Train a VAE on X [N, D]; y is ignored.

        Raises:
            ValueError: if there are fewer than two data, if X is not finite or outside the
                likelihood's domain, if the likelihood takes several outputs for each feature, or
                if a parameter is out of range.

        Warns:
            UserWarning: if the training is interrupted by Ctrl-C.
        """
        fresh = copy(self)  # a fit that fails leaves all attributes as they were
        fresh._train(X)
        self.__dict__ = fresh.__dict__
        return self

    def _train(self, X: Any) -> None:  # noqa: N803
        X = validate_data(self, X, dtype=FLOATS, ensure_min_samples=2)
        latents, particles, epochs, batch_size = (
            _whole(name, getattr(self, name))
            for name in ("n_components", "particles", "epochs", "batch_size")
        )
        if particles < 1:
            raise ValueError(f"the score takes particles; got particles={particles}")
        if not callable(self.likelihood):
            raise ValueError(
                "likelihood takes a class, such as pyrovae.likelihoods.Bernoulli; got "
                f"{self.likelihood!r}"
            )
        widths = self.hidden if isinstance(self.hidden, Sequence) else np.atleast_1d(self.hidden)
        hidden = [_whole("hidden", width) for width in widths]
        seed = _seed(self.random_state)
        x = _copied(X)
        with seeded(seed):
            vae = mlp_vae(x.shape[1], latents, hidden=hidden, likelihood=self.likelihood)
            made = getattr(self.likelihood, "func", self.likelihood)  # of functools.partial
            if isinstance(made, type):  # any other function may have made its own network
                _check_outputs(vae.likelihood, x.shape[1])
            vae = vae.to(x.dtype)
            check_data(vae, x)
            _start(vae, x)
            self._noise = torch.randn(particles, latents, dtype=x.dtype)
        self.history_ = fit(
            *(vae, x),
            epochs=epochs,
            batch_size=batch_size,
            step=Step(optim=Optim(torch.optim.Adam, lr=self.learning_rate)),
            seed=seed,
            callbacks=[ProgressBar()] if self.verbose else [],
        )
        if self.history_.ended == "interrupted":
            # As scikit-learn's perceptrons do; a search would rank the estimator as trained.
            warnings.warn(
                f"the training was interrupted after {len(self.history_.epochs)} of {epochs} "
                "epochs: the estimator has the parameters so far",
                stacklevel=3,
            )
        self.vae_ = vae

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the posterior means [N, L] of X (`pyrovae.VAE.embed`)."""
        x = self._checked(X)
        return self.vae_.embed(x).numpy()

    @torch.no_grad()
    def inverse_transform(self, X: Any) -> Any:  # noqa: N803
        """Return the means [N, D] of p(x | z) at latents X [N, L].

        Raises:
            ValueError: if X does not have L columns.
            UndefinedMean: if p(x | z) has no mean, as a distribution over classes has none.
        """
        check_is_fitted(self)
        z = _copied(check_array(X, dtype=FLOATS))
        if z.shape[1] != self._n_features_out:
            raise ValueError(
                f"latents have {self._n_features_out} columns; got X of shape {tuple(z.shape)}"
            )
        with generators_kept():
            return mean_of(self.vae_.decode(z.to(self._noise))).numpy()

    @torch.no_grad()
    def score_samples(self, X: Any) -> Any:  # noqa: N803
        r"""Return the importance-weighted bound on log p(x) for each datum, [N], in nats.

        $$ \log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k | x)}, \qquad z_k = m(x) + s(x) \epsilon_k $$

        The noise of the K particles is drawn in `fit` and is the same for all data, so that the
        score of a datum does not depend on the others.
        """
        x = self._checked(X)
        check_data(self.vae_, x)
        with generators_kept():
            found = [self._log_weights(*part) for part in Given(x).passes(len(self._noise))]
        return log_mean_exp(torch.cat(found, 1)).numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Return the mean of `score_samples`; y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Sample data [n, D] from p(x).

        Raises:
            ValueError: if n_samples is less than 1.
        """
        check_is_fitted(self)
        with seeded(_seed(random_state)):
            return self.vae_.sample(n_samples).numpy()

    @property
    def _n_features_out(self) -> int:
        return self._noise.shape[1]

    def _checked(self, X: Any) -> Tensor:  # noqa: N803
        check_is_fitted(self)
        return _copied(validate_data(self, X, dtype=FLOATS, reset=False)).to(self._noise)

    def _log_weights(self, x: Tensor) -> Tensor:
        q = self.vae_.encode(x)
        draws = held({"z": q.mean + q.stddev * self._noise[:, None]})
        guide = poutine.replay(self.vae_.guide, trace=draws)
        found: Tensor = run(self.vae_.model, guide, x, particles=len(self._noise), read=LOG_W)
        return found

    def __sklearn_tags__(self) -> Any:
        """Return the tags, by which scikit-learn knows that float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _copied(values: Any) -> Tensor:
    """Return an array as a tensor of its own; torch takes none with steps below 0, as x[::-1]."""
    return torch.from_numpy(np.array(values, order="C"))


def _whole(name: str, value: Any) -> int:
    """Return a whole number of Python or NumPy."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} takes whole numbers; got {value!r}") from None


def _check_outputs(likelihood: Any, width: int) -> None:
    """Check that a likelihood takes one output of its network for each feature.

    Raises:
        ValueError: if it takes several.
    """
    outputs = getattr(likelihood, "outputs", 1)
    if outputs != 1:
        raise ValueError(
            f"{type(likelihood).__name__} takes {outputs} outputs of the network for each of the "
            f"{width} features, and the estimator's network has one: choose another likelihood, "
            "or train a pyrovae.VAE, whose networks are your own"
        )


def _seed(random_state: Any) -> int:
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))


@torch.no_grad()
def _start(vae: Any, x: Tensor) -> None:
    """Start the likelihood at the mean of the data, and a learned scale at their deviation."""
    likelihood = vae.likelihood
    if hasattr(likelihood, "start_at_mean"):
        likelihood.start_at_mean(x)
    if hasattr(likelihood, "fit_scale") and likelihood.scale == "learned":
        likelihood.fit_scale(vae.encode(x).mean, x)
