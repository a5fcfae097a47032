r"""One draw of every latent for each datum of a minibatch, to hold against each other.

Objectives on the aggregate posterior read values, moments and densities off the two traces. Every
latent is continuous, reparameterized and unmasked here; errors name the site.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from pyrovae.weights.log_weights import trace_pair
from pyrovae.weights.sites import (
    check_shape,
    enumeration_dim,
    is_training_factor,
    log_prob,
    objective_sites,
)

__all__ = ["Latent", "Minibatch", "Term", "draw_minibatch"]


@dataclass(frozen=True)
class Term:
    """The density of one site of one program.

    Attributes:
        name: of the site.
        fn: its distribution, of batch shape [1, N].
        value: its draw or observation, [1, N, ...].
        log_prob: unscaled, [1, N], in nats.
        scale: of plates and handlers, a number or a tensor that broadcasts to [1, N].
    """

    name: str
    fn: Any
    value: Tensor
    log_prob: Tensor
    scale: Any


@dataclass(frozen=True)
class Latent:
    """A latent site in both programs.

    Attributes:
        model: its density under the prior.
        guide: its density under the posterior.
    """

    model: Term
    guide: Term

    def values(self) -> Tensor:
        """Return the draws of q(z | x_n), [N, D], flattened."""
        return _flat(self.guide.value, self.guide)

    def prior_values(self) -> Tensor:
        """Draw as often from p(z), [N, D], with gradients where the prior gives them."""
        fn = self.model.fn
        return _flat(fn.rsample() if fn.has_rsample else fn.sample(), self.guide)

    def pairwise_log_q(self) -> Tensor:
        """Return log q(z_mj | x_n), [N draws, N data, D].

        Raises:
            ValueError: if the posterior does not say that its dimensions are independent.
        """
        fn = self.guide.fn
        if not _is_factorized(fn):
            raise ValueError(
                f"site '{self.guide.name}' has a posterior {type(fn).__name__} that is not "
                "factorized over dimensions, so that q(z_j | x) is not at hand: draw it from a "
                "univariate family, as dist.Normal(loc, scale).to_event(1)"
            )
        pairs: Tensor = fn.base_dist.log_prob(self.guide.value.transpose(0, 1))
        return pairs.flatten(2)

    def means(self) -> Tensor:
        """Return E[z | x_n] under the posterior, [N, D]."""
        return _flat(self._moment("mean"), self.guide)

    def covariances(self) -> Tensor:
        """Return Cov[z | x_n] under the posterior, [N, D, D]."""
        if _is_factorized(self.guide.fn):
            variances = _flat(self._moment("variance"), self.guide)
            eye = torch.eye(variances.shape[-1], dtype=variances.dtype, device=variances.device)
            return variances.unsqueeze(-1) * eye
        return self._moment("covariance_matrix")[0]

    def _moment(self, moment: str) -> Tensor:
        try:
            found: Tensor = getattr(self.guide.fn, moment)
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"site '{self.guide.name}' has a posterior {type(self.guide.fn).__name__} whose "
                f"{moment} is not known: draw it from a normal"
            ) from error
        return found


@dataclass(frozen=True)
class Minibatch:
    """What one run of the two programs on N data gave.

    Attributes:
        latents: the sites of the model that the guide drew.
        auxiliary: the sites that the guide alone drew.
        observed: the sites that the model scored.
        factors: what handlers added to the model, such as `handlers.free_bits`.
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
        """The loss of Pyro's `Trace_ELBO` on these draws: a sum over data, scales applied."""
        gained = [*self.observed, *self.factors, *(z.model for z in self.latents)]
        spent = [*self.auxiliary, *(z.guide for z in self.latents)]
        return _total(spent) - _total(gained)

    @property
    def data_scale(self) -> Tensor:
        """The scale of each datum, [N]: that of the first observed site."""
        first = self.observed[0]
        scale: Tensor = first.scale * torch.ones_like(first.log_prob[0])
        return scale.reshape(self.size)

    @property
    def latent(self) -> Latent:
        """The only latent site.

        Raises:
            ValueError: if there are several.
        """
        if len(self.latents) != 1:
            raise ValueError(
                "this objective is on one latent site; the programs share "
                f"{[z.guide.name for z in self.latents]}: concatenate them in one site"
            )
        return self.latents[0]

    def values(self) -> Tensor:
        """Return the draws of all latent sites side by side, [N, D]."""
        return torch.cat([z.values() for z in self.latents], dim=-1)


def draw_minibatch(model: Any, guide: Any, *args: Any, **kwargs: Any) -> Minibatch:
    """Run the guide, then the model on its draws, with one draw for each datum.

    Raises:
        ValueError: naming the site, for one that is discrete, not reparameterized, masked while
            latent, or not of batch shape [N]; for fewer than two data; and as `log_weights`.
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
            f"an aggregate posterior is that of latents given data; the model has {missing}"
        )
    if found.size < 2:
        raise ValueError(
            "an objective on the aggregate posterior compares the data of a minibatch; got one "
            "row: choose a batch size that leaves no single row"
        )


def _check_latent(name: str, site: Any, *, drawn: bool) -> None:
    family = type(site["fn"]).__name__
    if enumeration_dim(site) is not None or (drawn and not site["fn"].has_rsample):
        raise ValueError(
            f"site '{name}' is drawn from a {family} without reparameterization, and the gradient "
            "goes through the draws: use a continuous latent, or pyro.infer.Trace_ELBO"
        )
    if site["mask"] is not None and site["mask"] is not True:
        raise ValueError(
            f"site '{name}' is masked, so that it is not of the aggregate posterior: leave the "
            "rows out of the minibatch, or mask the observed site alone"
        )


def _is_factorized(fn: Any) -> bool:
    independent = isinstance(fn, Independent)
    return independent and fn.reinterpreted_batch_ndims == len(fn.event_shape)


def _total(terms: list[Term]) -> Tensor:
    """Sum over terms and data, scales applied."""
    return torch.stack([(term.scale * term.log_prob).sum() for term in terms]).sum()


def _flat(value: Tensor, like: Term) -> Tensor:
    """Return a tensor [1, N, ...] as [N, D]."""
    return value.reshape(like.log_prob.shape[-1], -1)
