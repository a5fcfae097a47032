r"""Measure one modality given others, and what the bound says of each.

$$ \log p(x_A | x_B) = \log p(x_A, x_B) - \log p(x_B) $$

Each of the two terms is an importance-weighted bound, with the guide given what the term is of.
The programs are those of any data of which some modalities are missing: all that changes is their
mask.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pyrovae.measure.findings import (
    Finding,
    NotMeasurable,
    Quantity,
    counted,
    without_error_over_data,
)
from pyrovae.measure.progress import concatenated
from pyrovae.measure.turns import collect_in_turns
from pyrovae.nets.modalities import Modalities
from pyrovae.randomness import random_state, restore_random_state
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights import psis
from pyrovae.weights.bounds import (
    Estimate,
    difference,
    extrapolated_estimate,
    iwae_estimate,
    mean_estimate,
)
from pyrovae.weights.given import Given
from pyrovae.weights.passes import over_passes
from pyrovae.weights.run import LOG_W, TERMS, run
from pyrovae.weights.target import Resolved

__all__ = ["CrossModal", "CrossModalFinding", "Reconstructions", "ReconstructionsFinding"]


@final
@dataclass(frozen=True)
class CrossModal:
    r"""Estimate log p(x_A | x_B), some modalities given others, by importance weighting.

    $$ \log p(x_A | x_B) \approx \mathrm{IWAE}_K(x_A, x_B) - \mathrm{IWAE}_K(x_B) $$

    The guide is given both for the first term and x_B alone for the second, and the draws are
    independent. Each term is a lower bound. Their difference is none, but converges to the truth
    with K: it is too low by what the first bound lacks, and too high by what the second lacks. The
    extrapolated difference removes the first order of both (see `bounds.extrapolated_estimate`).
    Data that lack one of these modalities are left out.

    Args:
        modalities: the names and widths of the modalities of x. The programs take the mask of the
            modalities as their last context (see `likelihoods.EachModality`).
        of: the name of A, or several names.
        given: the name of B, or several names.
        particles: K, 21 or more.
        limit: the number of data to measure, taken from the start; None for all.

    Raises:
        ValueError: if a name is unknown or in both, or there are fewer than 21 particles, or fewer
            than one datum.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.
        Wu, Goodman, 2018. Multimodal Generative Models for Scalable Weakly-Supervised Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, Modalities
        >>> pair = Modalities(upper=2, lower=3)
        >>> parts = dict(upper=MLP(2, 2 * 2), lower=MLP(3, 2 * 2))
        >>> likes = dict(upper=MLP(2, 2), lower=MLP(2, 3))
        >>> likes = {name: pv.likelihoods.Normal(net) for name, net in likes.items()}
        >>> vae = pv.VAE(
        ...     pv.priors.StandardNormal(2),
        ...     pv.likelihoods.EachModality(pair, **likes),
        ...     pv.guides.ProductOfExperts(pair, **parts),
        ... )
        >>> measure = pv.CrossModal(pair, "lower", given="upper", particles=50)
        >>> found = measure(vae, torch.zeros(4, 5))
        >>> list(found.quantities)[:3]
        ['log p(lower, upper)', 'log p(upper)', 'log p(lower | upper)']
    """

    modalities: Modalities
    of: str | Sequence[str]
    given: str | Sequence[str]
    particles: int = 1000
    limit: int | None = None

    def __post_init__(self) -> None:  # noqa: D105
        of, given = _names(self.of), _names(self.given)
        both = [*of, *given]
        known = self.modalities.names
        if not of or not given or len(set(both)) < len(both) or not set(both) <= set(known):
            raise ValueError(
                f"CrossModal takes different modalities of {list(known)}; got of={list(of)} and "
                f"given={list(given)}"
            )
        _check_least(particles=(self.particles, psis.FEWEST), limit=(self.limit, 1))

    @property
    def name(self) -> str:
        """The key of the finding, such as "image_given_label"."""
        return "_".join((*_names(self.of), "given", *_names(self.given)))

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> CrossModalFinding:
        """Measure a VAE, or a pair (model, guide), on data x [N, D].

        Raises:
            NotMeasurable: if no datum has all of the modalities.
        """
        known, both = _names(self.given), (*_names(self.of), *_names(self.given))
        resolved = Resolved.of(target)
        given = _masked(self.modalities, resolved, x, context).first(self.limit)
        whole = given.context[-1][:, [name in both for name in self.modalities.names]].all(1)
        if not whole.any():
            raise NotMeasurable(f"no datum has all of the modalities {list(both)}")
        given = given.rows(whole.nonzero().flatten())

        def measured(batch: Given) -> dict[str, Any]:
            joint, marginal = (
                over_passes(self._shown(batch, names), self.particles, runner=run, read=LOG_W)
                for names in (both, known)
            )
            return {"joint": _Bound.of(joint), "marginal": _Bound.of(marginal)}

        with resolved.evaluating():
            batches = list(given.passes(self.particles))
            done = collect_in_turns(measured, batches, f"log p of {both}")
        found = {
            name: _Bound(**concatenated([vars(piece[name]) for piece in done.pieces]))
            for name in ("joint", "marginal")
        }
        return CrossModalFinding(settings=self, wanted=len(given), **found)

    def _shown(self, batch: Given, names: Sequence[str]) -> Given:
        *rest, mask = batch.context
        shown = self.modalities.only(mask, *names)
        return Given(batch.x, (*rest, shown), batch.programs, batch.per_datum)


@dataclass(frozen=True)
class _Bound:
    """The bound at K of some modalities, its extrapolation, and the Pareto k-hats, [N]."""

    iwae: Estimate
    extrapolated: Estimate
    pareto_k: Tensor

    @classmethod
    def of(cls, log_w: Tensor) -> _Bound:
        return cls(iwae_estimate(log_w), extrapolated_estimate(log_w), psis.pareto_k(log_w))


@final
@dataclass(frozen=True, repr=False)
class CrossModalFinding(Finding):
    """The result of `CrossModal`, in nats per datum.

    Attributes:
        settings: the `CrossModal` that was run.
        joint: the bounds of log p(x_A, x_B).
        marginal: the bounds of log p(x_B).
        wanted: the number of data requested, more than N after an interrupt.
    """

    settings: CrossModal
    joint: _Bound
    marginal: _Bound
    wanted: int

    @property
    def title(self) -> str:
        """The number of data that have the modalities, and of particles."""
        data = counted(len(self.joint.pareto_k), self.wanted)
        return f"{data} with all of them, {self.settings.particles:,} particles, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return len(self.joint.pareto_k) < self.wanted

    @property
    def conditional(self) -> Estimate:
        """Log p(x_A | x_B), the difference of the bounds at K."""
        return difference(self.joint.iwae, self.marginal.iwae, independent=True)

    @property
    def extrapolated(self) -> Estimate:
        """Log p(x_A | x_B), the difference of the extrapolated bounds."""
        return difference(self.joint.extrapolated, self.marginal.extrapolated, independent=True)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The two bounds and their difference, plain and extrapolated."""
        of, given = (", ".join(_names(each)) for each in (self.settings.of, self.settings.given))
        return {
            f"log p({of}, {given})": self.joint.iwae,
            f"log p({given})": self.marginal.iwae,
            f"log p({of} | {given})": self.conditional,
            "the same, extrapolated": self.extrapolated,
        }

    @property
    def verdict(self) -> Sequence[str]:
        """Whether the weights can be trusted, and the difference has converged."""
        data = len(self.joint.pareto_k)
        return [*without_error_over_data(data), *self._of_weights(), self._of_convergence()]

    def _of_weights(self) -> list[str]:
        most = psis.limit(self.settings.particles)
        parts = {"both": self.joint.pareto_k, "what is given": self.marginal.pareto_k}
        bad = {name: int((k > most).sum()) for name, k in parts.items()}
        if not any(bad.values()):
            return []
        data = len(self.joint.pareto_k)
        met = " and ".join(f"{count} of {data:,} data for {name}" for name, count in bad.items())
        return [
            f"The Pareto k-hat of the weights is above {most:.2f} at {met}: the guide misses "
            "a part of the posterior, and the errors are too small. Use more particles, or "
            "train the guide with modalities left out."
        ]

    def _of_convergence(self) -> str:
        moved = self.extrapolated.mean - self.conditional.mean
        error = self.extrapolated.error_over_particles
        said = (
            "The difference of two lower bounds is no bound. Extrapolating both to infinitely "
            f"many particles moves it by {moved:+.3f} nats"
        )
        if abs(moved) > 2 * error:
            return f"{said}, above two errors over particles: use more particles."
        return f"{said}, within two errors over particles."

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The Pareto k-hats of the two bounds, [N]."""
        return {"k-hat, both": self.joint.pareto_k, "k-hat, given": self.marginal.pareto_k}


@final
@dataclass(frozen=True)
class Reconstructions:
    r"""Estimate $E_{q(z | x)} \log p(x_m | z)$ of each modality m, where the datum has it.

    They are the terms of the ELBO beside the KL, which `evaluate` reports as a sum. The guide is
    given all modalities that the datum has, and the terms share their draws of z.

    Args:
        modalities: as of `CrossModal`.
        particles: K.
        limit: the number of data to measure, taken from the start; None for all.

    Raises:
        ValueError: if there is less than one particle or datum.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, Modalities
        >>> one = Modalities(only=3)
        >>> vae = pv.VAE(
        ...     pv.priors.StandardNormal(2),
        ...     pv.likelihoods.EachModality(one, only=pv.likelihoods.Normal(MLP(2, 3))),
        ...     pv.guides.ProductOfExperts(one, only=MLP(3, 2 * 2)),
        ... )
        >>> list(pv.Reconstructions(one)(vae, torch.zeros(4, 3)).quantities)
        ['log p(only | z)']
    """

    modalities: Modalities
    particles: int = 100
    limit: int | None = None

    name: ClassVar[str] = "reconstructions"

    def __post_init__(self) -> None:  # noqa: D105
        _check_least(particles=(self.particles, 1), limit=(self.limit, 1))

    @torch.no_grad()
    def __call__(
        self, target: Target, x: Tensor, *context: ContextValue
    ) -> ReconstructionsFinding:
        """Measure a VAE, or a pair (model, guide), on data x [N, D]."""
        resolved = Resolved.of(target)
        given = _masked(self.modalities, resolved, x, context).first(self.limit)

        def measured(batch: Given) -> dict[str, Any]:
            found, before = {}, random_state()
            for name in self.modalities.names:
                programs = _scoring(batch.pair[0], self.modalities, name), batch.pair[1]
                own = Given(batch.x, batch.context, programs, batch.per_datum)
                restore_random_state(before)
                terms = over_passes(own, self.particles, runner=run, read=TERMS)
                found[name] = mean_estimate(terms.log_likelihood)
            return {"terms": found, "mask": batch.context[-1]}

        with resolved.evaluating():
            batches = list(given.passes(self.particles))
            done = collect_in_turns(measured, batches, "reconstructing each modality")
        return ReconstructionsFinding(
            settings=self, wanted=len(given), **concatenated(done.pieces)
        )


@final
@dataclass(frozen=True, repr=False)
class ReconstructionsFinding(Finding):
    """The result of `Reconstructions`, in nats per datum that has the modality.

    Attributes:
        settings: the `Reconstructions` that was run.
        terms: the term of each modality by name, [N] each, 0 where it is missing.
        mask: which modalities each datum has, [N, M].
        wanted: the number of data requested, more than N after an interrupt.
    """

    settings: Reconstructions
    terms: dict[str, Estimate]
    mask: Tensor
    wanted: int

    @property
    def title(self) -> str:
        """The number of data and of particles."""
        data = counted(len(self.mask), self.wanted)
        return f"{data}, {self.settings.particles:,} particles, nats per datum with the modality"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return len(self.mask) < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The term of each modality that any datum has, over the data that have it."""
        found: dict[str, Quantity] = {}
        for (name, term), mask in zip(self.terms.items(), self.mask.unbind(1), strict=True):
            if mask.any():
                found[f"log p({name} | z)"] = Estimate(term.value[mask], term.standard_error[mask])
        return found

    @property
    def verdict(self) -> Sequence[str]:
        """How many data have each modality."""
        counts = zip(self.terms, self.mask.sum(0).tolist(), strict=True)
        have = ", ".join(f"{count:,} have {name}" for name, count in counts)
        return [f"Of {len(self.mask):,} data, {have}."]


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _check_least(**numbers: tuple[int | None, int]) -> None:
    low = [
        f"{name}={value} (at least {least})"
        for name, (value, least) in numbers.items()
        if value is not None and value < least
    ]
    if low:
        raise ValueError(f"expected more; got {', '.join(low)}")


def _masked(
    modalities: Modalities, resolved: Resolved, x: Any, context: tuple[ContextValue, ...]
) -> Given:
    """Return data whose context ends in the mask of their modalities."""
    given = resolved.given(x, *context)
    rest, mask = modalities.present(given.context)
    modalities.split(given.x[:1])  # raises if the data have other columns
    if mask is None:
        shape = (len(given), len(modalities.names))
        mask = torch.ones(shape, dtype=torch.bool, device=given.x.device)
    return Given(given.x, (*rest, mask), resolved.pair)


def _scoring(model: Program, modalities: Modalities, name: str) -> Program:
    """Return the model in which all modalities but one are missing."""

    @functools.wraps(model)
    def scored(x: Tensor, *context: Any, **options: Any) -> Any:
        *rest, mask = context
        return model(x, *rest, modalities.only(mask, name), **options)

    return scored
