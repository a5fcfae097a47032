r"""Traces of model and guide with one sample per datum, paired by latent site.

Objectives on the aggregate posterior use the values, moments and densities of the two traces.
Every latent must be continuous, reparameterized and unmasked.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrovae.types import Program
from pyrovae.weights.sites import (
    check_shape,
    enumeration_dim,
    innermost,
    is_masked,
    is_training_factor,
    log_prob,
    objective_sites,
    univariate_factors,
)
from pyrovae.weights.traces import trace_pair

__all__ = ["Latent", "Minibatch", "Term", "draw_minibatch"]


@dataclass(frozen=True)
class Term:
    """The log-probability of one site of one program.

    Attributes:
        name: the name of the site.
        fn: its distribution, with batch shape [1, N].
        value: its sample or observation, [1, N, ...].
        log_prob: the unscaled log-probability, [1, N], in nats.
        scale: the scale of plates and handlers, a number or a tensor that broadcasts to [1, N].
    """

    name: str
    fn: Any
    value: Tensor
    log_prob: Tensor
    scale: Any


@dataclass(frozen=True)
class Latent:
    """A latent site of both programs.

    Attributes:
        model: its term under the prior.
        guide: its term under the posterior.
    """

    model: Term
    guide: Term

    def values(self) -> Tensor:
        """Return the samples of q(z | x_n), flattened to [N, D]."""
        return _flat(self.guide.value, self.guide)

    def prior_values(self) -> Tensor:
        """Return N samples of p(z), [N, D], reparameterized if the prior is."""
        fn = self.model.fn
        return _flat(fn.rsample() if fn.has_rsample else fn.sample(), self.guide)

    def pairwise_log_q(self) -> Tensor:
        """Return log q(z_mj | x_n), [N samples, N data, D].

        Raises:
            ValueError: if the posterior is not a product of univariate distributions.
        """
        fn = univariate_factors(self.guide.fn)
        if fn is None:
            family = type(innermost(self.guide.fn)).__name__
            raise ValueError(
                f"site '{self.guide.name}' has a posterior {family} that is not "
                "factorized over dimensions, so q(z_j | x) is not available: use a univariate "
                "family, such as dist.Normal(loc, scale).to_event(1)"
            )
        pairs: Tensor = fn.log_prob(self.guide.value.transpose(0, 1))
        return pairs.reshape(*pairs.shape[:2], -1)

    def means(self) -> Tensor:
        """Return E[z | x_n] under the posterior, [N, D]."""
        return _flat(self._moment("mean"), self.guide)

    def covariances(self) -> Tensor:
        """Return Cov[z | x_n] under the posterior, [N, D, D]."""
        if univariate_factors(self.guide.fn) is not None:
            variances = _flat(self._moment("variance"), self.guide)
            eye = torch.eye(variances.shape[-1], dtype=variances.dtype, device=variances.device)
            return variances.unsqueeze(-1) * eye
        return self._moment("covariance_matrix")[0]

    def _moment(self, moment: str) -> Tensor:
        try:
            found: Tensor = getattr(self.guide.fn, moment)
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"site '{self.guide.name}' has a posterior {type(self.guide.fn).__name__} without "
                f"a known {moment}: use a normal posterior"
            ) from error
        return found


@dataclass(frozen=True)
class Minibatch:
    """The terms of both programs on a minibatch of N data.

    Attributes:
        latents: the latent sites of both programs.
        auxiliary: the sites that only the guide samples.
        observed: the observed sites of the model.
        factors: the factors of handlers such as `handlers.free_bits`.
    """

    latents: list[Latent]
    auxiliary: list[Term]
    observed: list[Term]
    factors: list[Term]

    @property
    def size(self) -> int:
        """The number of data N."""
        return self.observed[0].log_prob.shape[-1]

    @property
    def negative_elbo(self) -> Tensor:
        """The loss of Pyro's `Trace_ELBO` at these samples: the scaled sum over data, in nats."""
        gained = [*self.observed, *self.factors, *(z.model for z in self.latents)]
        spent = [*self.auxiliary, *(z.guide for z in self.latents)]
        return _total(spent) - _total(gained)

    @property
    def data_scale(self) -> Tensor:
        """The scale of the first observed site, for each datum, [N]."""
        first = self.observed[0]
        scale: Tensor = first.scale * torch.ones_like(first.log_prob[0])
        return scale.reshape(self.size)

    @property
    def latent(self) -> Latent:
        """The latent site. It raises a ValueError if there are several."""
        if len(self.latents) != 1:
            raise ValueError(
                "this objective needs exactly one latent site; the programs share "
                f"{[z.guide.name for z in self.latents]}: concatenate them in one site"
            )
        return self.latents[0]

    def values(self) -> Tensor:
        """Return the concatenated samples of all latent sites, [N, D]."""
        return torch.cat([z.values() for z in self.latents], dim=-1)


def draw_minibatch(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Minibatch:
    """Run the guide and the model replayed on it, with one sample per datum.

    Raises:
        ValueError: if a latent site is discrete, not reparameterized or masked, a site does not
            have batch shape [N], or there are fewer than two data; and as `log_weights`.
    """
    programs = [functools.partial(program, **kwargs) for program in (model, guide)]
    model_trace, guide_trace = trace_pair(*programs, *args, particles=1)
    drawn, scored = dict(objective_sites(guide_trace)), dict(objective_sites(model_trace))
    for name, site in (scored | drawn).items():
        if not site["is_observed"]:
            _check_latent(name, site, drawn=name in drawn)
    prior, posterior = _terms(scored), _terms(drawn)
    data = [term for name, term in prior.items() if scored[name]["is_observed"]]
    found = Minibatch(
        latents=[Latent(prior[name], q) for name, q in posterior.items() if name in prior],
        auxiliary=[q for name, q in posterior.items() if name not in prior],
        observed=[term for term in data if not is_training_factor(scored[term.name])],
        factors=[term for term in data if is_training_factor(scored[term.name])],
    )
    _check_comparable(found)
    return found


def _terms(sites: dict[str, Any]) -> dict[str, Term]:
    found = {}
    for name, site in sites.items():
        score = log_prob(site)
        check_shape(name, score.shape, (1, score.shape[-1] if score.ndim else 1), set())
        found[name] = Term(name, site["fn"], site["value"], score, site["scale"])
    return found


def _check_comparable(found: Minibatch) -> None:
    if not found.latents or not found.observed:
        missing = "no observed site" if found.latents else "no latent site"
        raise ValueError(
            f"an aggregate posterior needs a latent and an observed site; the model has {missing}"
        )
    if found.size < 2:
        raise ValueError(
            "an objective on the aggregate posterior compares the data of a minibatch; got one "
            "row: choose a batch size that leaves no batch of one row"
        )


def _check_latent(name: str, site: Any, *, drawn: bool) -> None:
    family = type(site["fn"]).__name__
    if enumeration_dim(site) is not None or (drawn and not site["fn"].has_rsample):
        raise ValueError(
            f"site '{name}' has the distribution {family}, which is not reparameterized, but the "
            "gradient flows through samples: use a continuous latent, or pyro.infer.Trace_ELBO"
        )
    if is_masked(site):
        raise ValueError(
            f"site '{name}' is masked, so the aggregate posterior is not defined: remove the rows "
            "from the minibatch, or mask the observed site only"
        )


def _total(terms: list[Term]) -> Tensor:
    """Return the sum of scaled log-probabilities over terms and data."""
    return torch.stack([(term.scale * term.log_prob).sum() for term in terms]).sum()


def _flat(value: Tensor, like: Term) -> Tensor:
    """Reshape a tensor [1, N, ...] to [N, D]."""
    return value.reshape(like.log_prob.shape[-1], -1)
