r"""Particle filters: unbiased estimates of p(x) whose variance grows with T as little as it can.

One weight for a whole sequence has a variance that grows exponentially with its length. A filter
weighs particles step by step and resamples them,

$$ \hat p(x) = \prod_t \frac{1}{K} \sum_k
   \frac{p(z_t^k | z_{t-1}^k)\, p(x_t | z_{1:t}^k, x_{<t})}{q(z_t^k | z_{t-1}^k, x)} $$

Where x depends on the latents of its own step alone, as in `distributions.EachStep`, the second
factor is p(x_t | z_t). Otherwise each particle carries what it believes of the past, such as the
mean and covariance of a linear state that is integrated out (`distributions.LinearStates`), and
the belief is resampled with its particle: a Rao-Blackwellized filter (Doucet et al., 2000). The
estimate is unbiased whichever steps resample, so that its logarithm is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.types import Program
from pyrovae.weights.bounds import effective_sample_size
from pyrovae.weights.sites import is_training_factor, objective_sites, sample_sites

__all__ = ["Belief", "Filtered", "StateSpace", "filter_particles"]


@runtime_checkable
class Chain(Protocol):
    """A distribution of z_1:T whose steps are known, such as `distributions.MarkovChain`.

    Attributes:
        first: z_0, [..., D].
        has_rsample: whether the steps are reparameterized.
    """

    first: Tensor
    batch_shape: Any
    event_shape: Any
    has_rsample: Any

    def step(self, t: Any, before: Tensor) -> Any:
        """Return the distribution of z_t given z_{t-1} [..., D]; t is one number, or [N]."""


Belief = tuple[Tensor, ...]
"""What a particle knows of the steps before, besides its latents: tensors [K, N, *event]."""


@runtime_checkable
class Observations(Protocol):
    """A distribution of x_1:T that is known step by step, such as `distributions.EachStep`.

    Attributes:
        mask: the steps, booleans [N, T].
        z: the latents that the distribution was made of, [..., T, D].
        start: what is believed before the first step, tensors [*event]; none if steps of x are
            independent given the latents.
    """

    mask: Tensor
    z: Tensor
    start: Belief

    def score_step(self, t: int, z: Tensor, x: Tensor, belief: Belief) -> tuple[Tensor, Belief]:
        """Return log p(x_t | z_1:t, x_<t) and the belief after x_t.

        The belief [..., *event] holds what there is to know of the past; z_t is [..., D].
        """

    def draw_step(self, t: Any, z: Tensor, belief: Belief) -> tuple[Tensor, Belief]:
        """Draw x_t given z_t [..., D] and the belief, and return it with the belief after it."""


@dataclass(frozen=True)
class Filtered:
    """What a particle filter found.

    Attributes:
        log_z: the logarithm of the estimate of p(x), [N], in nats.
        size: the effective sample size before each resampling, [T, N]; 0 where all weights are
            zero, NaN at padding.
        last: the particles at the last step of each sequence, [K, N, D].
        belief: what they believe there, tensors [K, N, *event].
        log_w: the logarithms of their weights, [K, N], up to a constant for each sequence.
    """

    log_z: Tensor
    size: Tensor
    last: Tensor
    belief: Belief
    log_w: Tensor

    def resampled(self, number: int) -> tuple[Tensor, Belief]:
        """Draw so many of the last particles of each sequence by their weights.

        Returns:
            The particles [S, N, D], and their beliefs [S, N, *event].
        """
        last, *belief = _resampled((self.last, *self.belief), self.log_w, number)
        return last, tuple(belief)


@dataclass(frozen=True)
class StateSpace:
    """A chain of latents, its proposals and its observations, as two programs have them.

    Attributes:
        prior: p(z_1:T).
        guide: q(z_1:T | x), with batch shape [N].
        observed: p(x_1:T | z_1:T).
        x: the sequences, [N, T, ...].
        mask: the steps of x, booleans [N, T].
        scale: the factor by which the plate scales each datum.
        kl_weight: the factor of log p(z) - log q(z) beside it, which a handler sets in training.
        factors: the names of the factors that handlers add in training, which a filter leaves out.
    """

    prior: Chain
    guide: Chain
    observed: Observations
    x: Tensor
    mask: Tensor
    scale: Any
    kl_weight: Any
    factors: Sequence[str] = ()

    @classmethod
    def of(cls, model: Program, guide: Program, *args: Any) -> StateSpace:
        """Run the two programs once, and return what they say of each step.

        Raises:
            ValueError: if the site "z" is no `Chain` in both, "x" has no `Observations` of it,
                there are further sites, "z" is observed, a site has a mask besides that of its
                distribution, or the mask is not that of x.
        """
        with _Undrawn():
            proposed = poutine.trace(guide).get_trace(*args)
            # Replayed, so that both programs have the same subsample of a plate.
            modeled = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(*args)
        q, p, x = _sites(proposed, modeled)
        if p["scale"] is not q["scale"] and not torch.equal(*_tensors(p["scale"], q["scale"])):
            raise ValueError(
                "the site 'z' is scaled differently in the model and in the guide: wrap both "
                "programs with the same handler"
            )
        whole, latent = _tensors(x["scale"], p["scale"])
        mask = _mask_of(x["value"], x["fn"].mask)
        factors = [name for name, site in objective_sites(modeled) if is_training_factor(site)]
        weights = x["scale"], latent / whole
        return cls(p["fn"], q["fn"], x["fn"], x["value"], mask, *weights, factors)


def _tensors(*numbers: Any) -> tuple[Tensor, ...]:
    return tuple(torch.as_tensor(number).detach() for number in numbers)


def _sites(proposed: Any, modeled: Any) -> tuple[Any, Any, Any]:
    """Return the sites "z" of guide and model and "x", if they are all there is."""
    found = [proposed.nodes.get("z"), modeled.nodes.get("z"), modeled.nodes.get("x")]
    kinds = (Chain, Chain, Observations)
    for node, kind, where in zip(found, kinds, ("guide", "model", "model"), strict=True):
        if node is None or not isinstance(node["fn"], kind):
            site, wanted = (
                ("z", "MarkovChain") if kind is Chain else ("x", "EachStep or LinearStates")
            )
            met = "no such site" if node is None else type(node["fn"]).__name__
            raise ValueError(
                f"a filter needs the distribution of each step: the site {site!r} of the "
                f"{where} must be a pyrovae.distributions.{wanted}, or have its methods; got "
                f"{met}. Use priors.Markov, guides.Combiner and likelihoods.EachStep, or "
                "these distributions in programs of your own"
            )
    names = {name for trace in (proposed, modeled) for name, _ in sample_sites(trace)}
    if further := sorted(names - {"z", "x"}):
        raise ValueError(
            f"a filter weighs the sites 'z' and 'x' step by step, and knows no others; got "
            f"{further}. Make them part of z or x"
        )
    _check_as_drawn(found)
    q, p, x = found
    z = x["fn"].z
    if z is not p["value"] and (z.shape, z.data_ptr()) != (
        p["value"].shape,
        p["value"].data_ptr(),
    ):
        raise ValueError(
            "a filter scores x at the latents of each step: the distribution of 'x' must be made "
            "of the value of the site 'z' itself. Move what changes z into the emission"
        )
    return q, p, x


def _check_as_drawn(sites: list[Any]) -> None:
    """Check that no handler gives "z" a value or masks a site, which a filter would not see."""
    for site in sites:
        if site["name"] == "z" and site["is_observed"]:
            raise ValueError(
                "a filter draws the site 'z', but a program observes it: leave out what gives it "
                "a value, such as poutine.condition"
            )
        if site["mask"] is not None and site["mask"] is not True:
            raise ValueError(
                "a filter weighs steps by the masks of the distributions; got the site "
                f"{site['name']!r} with a mask of poutine.mask besides. Leave out the data that "
                "do not count, and put steps that do not into the mask of the distribution"
            )


def _mask_of(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mask [N, T] of x, given one for each sequence or one for all."""
    if x.ndim < 2 or mask.shape not in (x.shape[:2], (1, x.shape[1])):
        raise ValueError(
            f"the mask of sequences x {tuple(x.shape)} has the shape {tuple(x.shape[:2])}, a "
            f"boolean for each step; got {tuple(mask.shape)}"
        )
    return mask.expand(x.shape[:2])


class _Undrawn(Messenger):
    """Give chains a value without drawing it: only their distributions are read."""

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], Chain) and not msg["is_observed"]:
            shape = (*msg["fn"].batch_shape, *msg["fn"].event_shape)
            msg["value"] = msg["fn"].first.unsqueeze(-2).expand(shape)
            msg["done"] = True


def filter_particles(space: StateSpace, particles: int, *, kl_weight: Any = 1.0) -> Filtered:
    """Run a filter of K particles, with the guide's steps as proposals.

    Particles are resampled where their effective sample size falls below K / 2. No gradient goes
    through the choice of ancestors, as in Maddison et al. (2017).

    References:
        Gordon, Salmond, Smith, 1993. Novel approach to nonlinear/non-Gaussian Bayesian state
            estimation.
        Doucet, de Freitas, Murphy, Russell, 2000. Rao-Blackwellised Particle Filtering for Dynamic
            Bayesian Networks.
        Maddison et al., 2017. Filtering Variational Objectives.
    """
    prior, guide, mask = space.prior, space.guide, space.mask
    n, length = mask.shape
    before_p, before_q = (chain.first.expand(particles, n, -1) for chain in (prior, guide))
    belief = tuple(each.expand(particles, n, *each.shape) for each in space.observed.start)
    log_w, log_z = before_q.new_zeros(particles, n), before_q.new_zeros(n)
    sizes, state = [], (before_q, *belief)
    for t in range(length):
        proposal = guide.step(t, before_q)
        z = proposal.rsample() if proposal.has_rsample else proposal.sample()
        score = kl_weight * (prior.step(t, before_p).log_prob(z) - proposal.log_prob(z))
        seen, belief = space.observed.score_step(t, z, space.x[:, t], belief)
        log_w = log_w + torch.where(mask[:, t], score + seen, 0.0)
        state = _where(mask[:, t], (z, *belief), state)
        size = effective_sample_size(log_w.detach())
        sizes.append(torch.where(mask[:, t], size, math.nan))
        if t + 1 < length:
            few = (size < particles / 2) & (size > 0) & mask[:, t + 1]
            log_z = log_z + torch.where(few, _log_mean(log_w), 0.0)
            state = _where(few, _resampled(state, log_w, particles), state)
            log_w = torch.where(few, 0.0, log_w)
        before_p = before_q = state[0]
        belief = state[1:]
    log_z = log_z + _log_mean(log_w)
    return Filtered(log_z, torch.stack(sizes), state[0], state[1:], log_w)


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _where(chosen: Tensor, new: Belief, old: Belief) -> Belief:
    """Return the new tensors [K, N, ...] for the chosen data [N], and the old ones for others."""
    pairs = zip(new, old, strict=True)
    return tuple(torch.where(_beside(chosen, a), a, b) for a, b in pairs)


def _resampled(state: Belief, log_w: Tensor, number: int) -> Belief:
    """Draw so many ancestors of each datum in proportion to the weights, with replacement."""
    log_w = log_w.detach()
    weights = (log_w - log_w.max(0).values).exp().nan_to_num(1.0)  # NaN where no particle fits x
    ancestors = torch.multinomial(weights.T, number, replacement=True).T
    return tuple(
        each.gather(0, _beside(ancestors, each).expand(-1, -1, *each.shape[2:])) for each in state
    )


def _beside(values: Tensor, each: Tensor) -> Tensor:
    """Return values [K, N] or [N] with as many axes as each [K, N, ...]."""
    return values.reshape(*values.shape, *[1] * (each.ndim - 2))
