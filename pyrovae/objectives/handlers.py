r"""Effect handlers that change the training objective of a pair of programs.

`kl_weight` scales the log-probabilities of the latent sites. `free_bits` and `capacity` replace
the KL term of each latent site: the model observes an additional factor,

    log-factor = KL - replacement,

in the same plates and with the same scale, which objectives treat like any observed site.
Evaluation is not affected: `log_weights` uses unscaled log-probabilities and skips these factors.

Each handler has a method `wrap(model, guide)` that returns the pair to train, so that handlers
compose.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from pyrovae.weights.kl import closed_form_kl
from pyrovae.weights.particles import in_test_run
from pyrovae.weights.sites import (
    TRAINING_FACTOR,
    enumeration_dim,
    innermost,
    is_training_factor,
    same_mask,
    same_scale,
    univariate_factors,
)
from pyrovae.weights.traces import Program

__all__ = ["Handler", "capacity", "free_bits", "kl_weight"]

_POSTERIOR: Final = "_posterior"
"""The key of `infer` under which a guide's site passes its distribution to the model."""


class _Setting:
    """A nonnegative number, mirrored in a tensor that is updated in place.

    Compiled steps read the tensor, and so see a new value.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, handler: Any, owner: type | None = None) -> Any:
        return self if handler is None else handler.__dict__[self.name]

    def __set__(self, handler: Any, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.what} must be 0 or more and finite; got {value}")
        handler.__dict__[self.name] = value
        handler.__dict__.setdefault(f"_{self.name}", torch.tensor(0.0)).fill_(value)


class kl_weight(Messenger):  # noqa: N801  (handlers are lower-case, as Pyro's own are)
    r"""Scale the KL term by beta, $E_q \log p(x | z) - \beta\, KL(q(z | x) \| p(z))$.

    It scales the log-probability of every latent site in the model and in the guide, and the
    replacement of a KL term by another handler. Wrap both programs.

    Args:
        beta: 0 or more; 1 is the ELBO. The attribute may be set between steps.

    Raises:
        ValueError: if beta is negative or not finite.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space (annealing).
        Higgins et al., 2017. beta-VAE.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> from pyrovae.objectives.handlers import kl_weight
        >>> with pyro.poutine.trace() as tape, kl_weight(0.5):
        ...     _ = pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> tape.trace.nodes["z"]["scale"]
        tensor(0.5000)
    """

    beta = _Setting("a KL weight")
    _beta: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def wrap(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """Return the pair with the KL term scaled."""
        return self(model), self(guide)

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg) or is_training_factor(msg):
            msg["scale"] = msg["scale"] * self._beta


@dataclass
class _Posterior:
    """The distribution of a guide's site, and what the guide did until then.

    Attributes:
        term: the handler that the guide was wrapped with.
        fn: the distribution.
        earlier: the names of the latent sites that the guide sampled before.
        site: the message of the site, when all handlers have seen it.
    """

    term: Any
    fn: Any
    earlier: frozenset[str]
    site: Any = None


@dataclass(frozen=True)
class _Latent:
    """A latent site of the model, with the posterior that its value was sampled from.

    Attributes:
        site: the message of the model's site.
        posterior: the distribution of the guide's site.
        same_order: whether both programs sampled the same sites before this one. Otherwise the
            two distributions are conditional on different sites, and a closed form of their KL is
            not a term of the KL of all sites.
    """

    site: Any
    posterior: Any
    same_order: bool = True

    @cached_property
    def kl(self) -> Tensor:
        """KL(q || p) of the site, [..., N], given the values of the earlier sites, in nats."""
        return self._divergence(self.posterior, self.site["fn"]).expand(self.batch)

    @cached_property
    def kl_by_dimension(self) -> Tensor:
        """KL(q || p) of each coordinate, of the shape of the site's value, in nats."""
        pair = [_univariate(fn, self.site["name"]) for fn in (self.posterior, self.site["fn"])]
        return self._divergence(*pair).expand(self.batch + self.site["fn"].event_shape)

    def mean(self, values: Tensor) -> Tensor:
        """Average over the unmasked data and particles, not over event dimensions."""
        rows = values.reshape(-1, *values.shape[len(self.batch) :])
        if self.site["mask"] is None:
            return rows.mean(0)
        mask = torch.as_tensor(self.site["mask"], device=values.device)
        kept = mask.expand(self.batch).reshape(-1, *[1] * (rows.ndim - 1))
        return torch.where(kept, rows, 0.0).sum(0) / kept.sum().clamp(min=1)

    @property
    def batch(self) -> torch.Size:
        """The shape [..., N] of the site's log-probabilities."""
        found: torch.Size = self.site["fn"].batch_shape
        return found

    def _divergence(self, q: Any, p: Any) -> Tensor:
        """Return KL(q || p) in closed form if it is one, else the log-ratio at the value."""
        if self.same_order:
            with contextlib.suppress(NotImplementedError):
                return torch.as_tensor(closed_form_kl(q, p))
        value = self.site["value"]
        return torch.as_tensor(q.log_prob(value) - p.log_prob(value))


class _KLTerm(abc.ABC):
    """Replace the KL term of each latent site."""

    def wrap(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """Return the pair to train; the model must be replayed on this guide."""

        @functools.wraps(model)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            with _AddFactors(self):
                return model(*args, **kwargs)

        @functools.wraps(guide)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with _SendPosteriors(self):
                return guide(*args, **kwargs)

        return replaced, watched

    @abc.abstractmethod
    def log_factor(self, latents: list[_Latent]) -> Tensor:
        """Return the log-factor at the last of the latents sampled so far, [..., N]."""


class free_bits(_KLTerm):  # noqa: N801
    r"""Exempt the first nats of each latent's KL, its free bits, from the objective.

    $$ E_q \log p(x | z) - \sum_i \max(\lambda, \overline{KL_i}),\qquad
       \overline{KL_i} = \frac1N \sum_n KL(q(z_i | x_n) \| p(z_i)) $$

    A latent whose KL, averaged over the minibatch (and over vectorized particles), is below
    lambda is not pulled toward the prior. The KL is the closed form if it is known and both
    programs sampled the same sites before, else the log-ratio at the sample. The set of latents
    below lambda is determined on each minibatch and treated as constant by the gradient.

    Args:
        nats: lambda, 0 or more, for each i. The attribute may be set between steps.
        per: "dimension" if i ranges over the coordinates of every latent site, "site" if it
            ranges over the sites.

    Raises:
        ValueError: if lambda is negative or not finite. When the programs run: if a site is
            enumerated or auxiliary, does not factorize while `per` is "dimension", is masked or
            scaled in only one of the programs, or the model is not replayed on the guide that it
            was wrapped with.

    References:
        Kingma et al., 2016. Improved Variational Inference with Inverse Autoregressive Flow.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x, objective = torch.zeros(5, 64), pyro.infer.TraceMeanField_ELBO()
        >>> losses = []
        >>> for nats in (10.0, 11.0):  # far above the KL of a network that is not trained
        ...     _ = torch.manual_seed(0)
        ...     wrapped = pv.handlers.free_bits(nats).wrap(vae.model, vae.guide)
        ...     losses.append(objective.loss(*wrapped, x))
        >>> round(losses[1] - losses[0], 3)  # 5 data, 2 dimensions, 1 nat
        10.0
    """

    nats = _Setting("the free KL, in nats,")
    _nats: Tensor

    def __init__(self, nats: float, *, per: Literal["dimension", "site"] = "dimension") -> None:
        if per not in ("dimension", "site"):
            raise ValueError(f"free_bits takes per='dimension' or per='site'; got per={per!r}")
        self.nats, self.per = nats, per

    def log_factor(self, latents: list[_Latent]) -> Tensor:
        r"""Return $-\sum_i \max(0, \lambda - KL_i)$, split among the data, [..., N]."""
        last = latents[-1]
        kl = last.kl_by_dimension if self.per == "dimension" else last.kl
        free = self._nats.to(kl)
        added = torch.where(last.mean(kl.detach()) < free, kl - free, 0.0)
        return added.reshape(*last.batch, -1).sum(-1)


class capacity(_KLTerm):  # noqa: N801
    r"""Constrain the KL to a capacity c, $E_q \log p(x | z) - \gamma\, |\overline{KL} - c|$.

    The KL is the sum over the latent sites, averaged over the minibatch (and over vectorized
    particles). It is computed as by `free_bits`. The factor of each site has the masks and scales
    of that site.

    Args:
        c: the capacity in nats per datum, 0 or more. The attribute may be set between steps, for
            example by a callback of `fit` that increases it during training.
        strength: gamma, 0 or more.

    Raises:
        ValueError: if c or gamma is negative or not finite. When the programs run: as
            `free_bits`, or if the latent sites are not in the same plates.

    References:
        Burgess et al., 2018. Understanding Disentangling in beta-VAE.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> held, x = pv.handlers.capacity(0.5, strength=100.0), torch.zeros(5, 64)
        >>> pyro.infer.TraceMeanField_ELBO().loss(*held.wrap(vae.model, vae.guide), x) > 0
        True
    """

    c = _Setting("a capacity, in nats,")
    strength = _Setting("the strength of a capacity")
    _c: Tensor
    _strength: Tensor

    def __init__(self, c: float, *, strength: float) -> None:
        self.c, self.strength = c, strength

    def log_factor(self, latents: list[_Latent]) -> Tensor:
        """Return the site's KL minus the increase of the penalty, which telescopes over sites."""
        *earlier, last = latents
        added = last.kl - self._penalty(latents)
        return added + self._penalty(earlier) if earlier else added

    def _penalty(self, latents: list[_Latent]) -> Tensor:
        shapes = {latent.site["name"]: tuple(latent.batch) for latent in latents}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"capacity needs all latent sites in the same plates; got batch shapes {shapes}: "
                "put every latent site in the plate over data"
            )
        excess = sum(latent.kl for latent in latents) - self._c.to(latents[-1].kl)
        return self._strength.to(excess) * latents[-1].mean(excess.detach()).sign() * excess


Handler = kl_weight | free_bits | capacity
"""A handler of the training objective."""


class _SendPosteriors(Messenger):
    """Attach the distribution of each latent site of a guide to its message.

    A replay passes it to the model together with the sample, so it cannot be from another run.
    """

    def __init__(self, term: _KLTerm) -> None:
        super().__init__()
        self.term, self.sent = term, dict[str, _Posterior]()

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        name, infer = msg["name"], msg["infer"]
        if infer.get("is_auxiliary"):
            raise ValueError(
                f"site '{name}' of the guide is auxiliary, so it has no KL with a site of the "
                f"model: remove {type(self.term).__name__}"
            )
        if _POSTERIOR in infer and infer[_POSTERIOR].term is not self.term:
            raise ValueError(
                f"two handlers replace the KL of site '{name}': use one of free_bits and capacity"
            )
        sent = _Posterior(self.term, msg["fn"], frozenset(self.sent))
        self.sent[name] = sent
        msg["infer"] = {**infer, _POSTERIOR: sent}

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.sent:
            self.sent[msg["name"]].site = msg


class _AddFactors(Messenger):
    """Observe a factor after each latent site in one run of a model."""

    def __init__(self, term: _KLTerm) -> None:
        super().__init__()
        self.term, self.latents = term, list[_Latent]()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        kind = type(self.term).__name__
        if enumeration_dim(msg) is not None:
            raise ValueError(
                f"site '{msg['name']}' is enumerated, but {kind} needs a sampled site: remove "
                f"{kind}, or sample the site"
            )
        self.latents.append(self._latent(msg, kind))
        # The plates, scales and masks of the latent site still apply, so the factor gets them too.
        factor = dist.Unit(self.term.log_factor(self.latents))
        mark = {TRAINING_FACTOR: True}
        pyro.sample(f"{msg['name']}_{kind}", factor, obs=factor.sample(), infer=mark)

    def _latent(self, msg: Any, kind: str) -> _Latent:
        """Return a site of the model with the posterior that the guide sent for it."""
        sent = msg["infer"].get(_POSTERIOR)
        if sent is None and in_test_run():  # No guide has run. The prior stands for the posterior.
            return _Latent(msg, msg["fn"])
        if sent is None or sent.term is not self.term:
            raise ValueError(
                f"site '{msg['name']}' of the model was not sampled by the guide that {kind} "
                "wrapped: train the pair that one call of wrap(model, guide) returned, with the "
                "model replayed on the guide's trace, as objectives do"
            )
        masks = msg["mask"], sent.site["mask"]
        masked_alike = any(map(is_fake, masks)) or same_mask(*masks)
        if not (masked_alike and same_scale(msg["scale"], sent.site["scale"])):
            raise ValueError(
                f"site '{msg['name']}' is masked or scaled in only one of the two programs, so "
                f"that {kind} has no KL to replace: wrap both programs with the same handler, or "
                f"remove {kind}"
            )
        earlier = {latent.site["name"] for latent in self.latents}
        return _Latent(msg, sent.fn, same_order=earlier == sent.earlier)


def _is_latent(msg: Any) -> bool:
    return not msg["is_observed"] and not site_is_subsample(msg)


def _univariate(fn: Any, name: str) -> Any:
    """Return the univariate distributions whose product a distribution is."""
    factors = univariate_factors(fn)
    if factors is None:
        raise ValueError(
            f"site '{name}' is a {type(innermost(fn)).__name__}, which does not factorize over "
            "its dimensions, so a KL per dimension is not defined: use free_bits(..., per='site')"
        )
    return factors
