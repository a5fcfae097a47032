r"""Effect handlers that change what a pair of programs is trained on, never what is reported.

`kl_weight` multiplies the log-probabilities of the latent sites. `free_bits` and `capacity`
replace their KL: beside each latent site the model observes a factor,

    log-factor = KL - (what is to stand in its place),

in the same plates and at the same scale, which any objective counts as it counts an observed
site. `log_weights`, and with it every reported number, reads unscaled log-probabilities and
skips those factors.

Each handler has `wrap(model, guide)`, which returns the pair to train, so that they compose.
"""

from __future__ import annotations

import abc
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

from pyrovae.weights.kl import Program, closed_form_kl
from pyrovae.weights.sites import TRAINING_FACTOR, enumeration_dim, is_training_factor

__all__ = ["Handler", "capacity", "free_bits", "kl_weight"]

_POSTERIOR: Final = "_posterior"
"""The key of `infer` under which a guide's site carries its distribution to the model."""


class _Setting:
    """A number of 0 or more, and beside it a tensor that changes in place with it.

    A step that was compiled with the tensor sees the new value.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, handler: Any, owner: type | None = None) -> Any:
        return self if handler is None else handler.__dict__[self.name]

    def __set__(self, handler: Any, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.what} is 0 or more, and finite; got {value}")
        handler.__dict__[self.name] = value
        handler.__dict__.setdefault(f"_{self.name}", torch.tensor(0.0)).fill_(value)


class kl_weight(Messenger):  # noqa: N801  (handlers are lower-case, as Pyro's own are)
    r"""Weigh the Kullback-Leibler term, $E_q \log p(x | z) - \beta\, KL(q(z | x) \| p(z))$.

    Wrap both programs: the log-probability of every latent site is multiplied by beta in the
    model and in the guide alike, and so is what another handler puts in the place of its KL.

    Args:
        beta: 0 or more; 1 is the ELBO. It may be set anew between steps.

    Raises:
        ValueError: if beta is negative or not finite.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space (annealing).
        Higgins et al., 2017. beta-VAE.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
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
        """Return the pair with its KL term weighed."""
        return self(model), self(guide)

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg) or is_training_factor(msg):
            msg["scale"] = msg["scale"] * self._beta


@dataclass(frozen=True)
class _Latent:
    """A latent site as the model meets it, beside the posterior that its value was drawn from."""

    site: Any
    posterior: Any

    @cached_property
    def kl(self) -> Tensor:
        """KL(q || p) of the site, [..., N], at the values of the sites before it."""
        return self._divergence(self.posterior, self.site["fn"]).expand(self.batch)

    @cached_property
    def kl_by_dimension(self) -> Tensor:
        """The same by coordinate, of the shape of the site's value."""
        pair = [_univariate(fn, self.site["name"]) for fn in (self.posterior, self.site["fn"])]
        return self._divergence(*pair).expand(self.batch + self.site["fn"].event_shape)

    def mean(self, values: Tensor) -> Tensor:
        """Average over the data and particles that the site's mask keeps, not over the event."""
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
        """Return KL(q || p), by the log-ratio at the value where no closed form is known."""
        try:
            return torch.as_tensor(closed_form_kl(q, p))
        except NotImplementedError:
            value = self.site["value"]
            return torch.as_tensor(q.log_prob(value) - p.log_prob(value))


class _KLTerm(abc.ABC):
    """Put something else in the place of the KL of a pair's latent sites."""

    def wrap(self, model: Program, guide: Program) -> tuple[Program, Program]:
        """Return the pair to train: the model must be replayed on this guide's draws."""

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
        """Return what is added at the last of the latents met so far, [..., N]."""


class free_bits(_KLTerm):  # noqa: N801
    r"""Leave the first nats of each latent's KL free.

    $$ E_q \log p(x | z) - \sum_i \max(\lambda, \overline{KL_i}),\qquad
       \overline{KL_i} = \frac1N \sum_n KL(q(z_i | x_n) \| p(z_i)) $$

    A latent whose KL, averaged over the minibatch (and over particles that run at once), lies
    under lambda is not pulled to the prior any further. KLs are in closed form where one is
    known, else the log-ratio of the draw. Which latents lie under lambda is decided by the
    minibatch; the gradient takes that as given.

    Args:
        nats: lambda, 0 or more, for each i. It may be set anew between steps.
        per: whether i counts the coordinates of every latent site, or the sites.

    Raises:
        ValueError: for lambda below 0; and as the programs run, naming the site, for one that is
            summed out or auxiliary, for one that does not factorize where `per` is "dimension",
            and for a model that does not run on the draws of the guide it was wrapped with.

    References:
        Kingma et al., 2016. Improved Variational Inference with Inverse Autoregressive Flow.

    Example:
        >>> import pyro, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> x, objective = torch.zeros(5, 64), pyro.infer.TraceMeanField_ELBO()
        >>> losses = []
        >>> for nats in (10.0, 11.0):  # far above the KL of a network that is not trained
        ...     _ = torch.manual_seed(0)
        ...     losses.append(objective.loss(*free_bits(nats).wrap(vae.model, vae.guide), x))
        >>> round(losses[1] - losses[0], 3)  # 5 data, 2 dimensions, 1 nat
        10.0
    """

    nats = _Setting("the KL that is free, in nats,")
    _nats: Tensor

    def __init__(self, nats: float, *, per: Literal["dimension", "site"] = "dimension") -> None:
        if per not in ("dimension", "site"):
            raise ValueError(f"free bits are per 'dimension' or per 'site'; got per={per!r}")
        self.nats, self.per = nats, per

    def log_factor(self, latents: list[_Latent]) -> Tensor:
        r"""Return $-\sum_i \max(0, \lambda - KL_i)$, each datum its own part of the mean."""
        last = latents[-1]
        kl = last.kl_by_dimension if self.per == "dimension" else last.kl
        free = self._nats.to(kl)
        added = torch.where(last.mean(kl.detach()) < free, kl - free, 0.0)
        return added.reshape(*last.batch, -1).sum(-1)


class capacity(_KLTerm):  # noqa: N801
    r"""Hold the KL at a capacity, $E_q \log p(x | z) - \gamma\, |\overline{KL} - c|$.

    The KL is the sum over the latent sites, averaged over the minibatch (and over particles that
    run at once); it is in closed form where one is known, else the log-ratio of the draw. Sites
    that lie under masks or scales of their own are each held in the measure of their own.

    Args:
        c: the capacity in nats per datum, 0 or more. It may be set anew between steps: a
            callback of `fit` may raise it as the training goes on.
        strength: gamma, 0 or more.

    Raises:
        ValueError: for c or gamma below 0; and as the programs run, as `free_bits`, and for
            latent sites that do not lie in the same plates.

    References:
        Burgess et al., 2018. Understanding Disentangling in beta-VAE.

    Example:
        >>> import pyro, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> held, x = capacity(0.5, strength=100.0), torch.zeros(5, 64)
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
        """Return the KL of the site less what it adds to the penalty: the sum telescopes."""
        *earlier, last = latents
        added = last.kl - self._penalty(latents)
        return added + self._penalty(earlier) if earlier else added

    def _penalty(self, latents: list[_Latent]) -> Tensor:
        shapes = {latent.site["name"]: tuple(latent.batch) for latent in latents}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"a capacity adds up the KL of sites in the same plates; got shapes {shapes}: "
                "put every latent site in the plate over data"
            )
        excess = sum(latent.kl for latent in latents) - self._c.to(latents[-1].kl)
        return self._strength.to(excess) * latents[-1].mean(excess.detach()).sign() * excess


Handler = kl_weight | free_bits | capacity


class _SendPosteriors(Messenger):
    """Let each latent site of a guide carry its distribution, which a replay hands to the model.

    What travels with the draw itself cannot be that of another run of the guide.
    """

    def __init__(self, term: _KLTerm) -> None:
        super().__init__()
        self.term = term

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        name, infer = msg["name"], msg["infer"]
        if infer.get("is_auxiliary"):
            raise ValueError(
                f"site '{name}' of the guide is auxiliary, so no site of the model has its KL: "
                f"leave {type(self.term).__name__} out"
            )
        if _POSTERIOR in infer and infer[_POSTERIOR][0] is not self.term:
            raise ValueError(
                f"two handlers replace the KL of site '{name}': give one of free_bits and capacity"
            )
        msg["infer"] = {**infer, _POSTERIOR: (self.term, msg["fn"])}


class _AddFactors(Messenger):
    """Observe a factor beside each latent site of one run of a model."""

    def __init__(self, term: _KLTerm) -> None:
        super().__init__()
        self.term, self.latents = term, list[_Latent]()

    def _pyro_post_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        kind = type(self.term).__name__
        if enumeration_dim(msg) is not None:
            raise ValueError(
                f"site '{msg['name']}' is summed out, and {kind} takes the KL of draws: leave "
                f"{kind} out, or draw the site"
            )
        term, posterior = msg["infer"].get(_POSTERIOR, (None, None))
        if term is not self.term:
            raise ValueError(
                f"site '{msg['name']}' of the model was not drawn by the guide that {kind} "
                "wrapped: train both programs that one wrap(model, guide) returned, the model "
                "replayed on the guide's trace, as objectives do"
            )
        self.latents.append(_Latent(msg, posterior))
        # The plates, scales and masks of the latent are still in force, and hold for the factor.
        factor = dist.Unit(self.term.log_factor(self.latents))
        mark = {TRAINING_FACTOR: True}
        pyro.sample(f"{msg['name']}_{kind}", factor, obs=factor.sample(), infer=mark)


def _is_latent(msg: Any) -> bool:
    return not msg["is_observed"] and not site_is_subsample(msg)


def _univariate(fn: Any, name: str) -> Any:
    """Return the independent univariate distributions that a distribution is made of."""
    base = fn
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    if base.event_shape:
        raise ValueError(
            f"site '{name}' is a {type(base).__name__}, which does not factorize over its "
            "dimensions, so they have no KL of their own: use free_bits(..., per='site')"
        )
    return base
