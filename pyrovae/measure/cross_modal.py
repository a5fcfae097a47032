r"""Measure one modality given others.

$$ \log p(x_A | x_B) = \log p(x_A, x_B) - \log p(x_B) $$

Each of the two terms is an importance-weighted bound, with the guide given what the term is of.
The programs are those of any data of which some modalities are missing: all that changes is their
mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

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
from pyrovae.types import ContextValue, Target
from pyrovae.weights import psis
from pyrovae.weights.bounds import (
    Estimate,
    difference,
    extrapolated_estimate,
    iwae_estimate,
)
from pyrovae.weights.given import Given
from pyrovae.weights.passes import over_passes
from pyrovae.weights.run import LOG_W, run
from pyrovae.weights.target import Resolved, modules_of

__all__ = [
    "CrossModal",
    "CrossModalFinding",
    "ModalityBound",
    "check_least",
    "masked",
]


NOTHING: Final = 5e-4
"""The nats that print as 0.000; of an exact posterior even the error is but rounding."""


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
        check_least(particles=(self.particles, psis.FEWEST), limit=(self.limit, 1))

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
        given = masked(self.modalities, resolved, x, context).first(self.limit)
        whole = given.context[-1][:, [name in both for name in self.modalities.names]].all(1)
        if not whole.any():
            raise NotMeasurable(f"no datum has all of the modalities {list(both)}")
        given = given.rows(whole.nonzero().flatten())

        def measured(batch: Given) -> dict[str, Any]:
            joint, marginal = (
                over_passes(self._shown(batch, names), self.particles, runner=run, read=LOG_W)
                for names in (both, known)
            )
            return {"joint": ModalityBound.of(joint), "marginal": ModalityBound.of(marginal)}

        with resolved.evaluating():
            batches = list(given.passes(self.particles))
            done = collect_in_turns(measured, batches, f"log p of {both}")
        found = {
            name: ModalityBound(**concatenated([vars(piece[name]) for piece in done.pieces]))
            for name in ("joint", "marginal")
        }
        return CrossModalFinding(settings=self, wanted=len(given), **found)

    def _shown(self, batch: Given, names: Sequence[str]) -> Given:
        *rest, mask = batch.context
        shown = self.modalities.only(mask, *names)
        return Given(batch.x, (*rest, shown), batch.programs, batch.per_datum)


@final
@dataclass(frozen=True)
class ModalityBound:
    """What K log-weights say of log p of some modalities, in nats per datum.

    Attributes:
        iwae: the importance-weighted bound at K.
        extrapolated: the same, extrapolated to infinitely many particles.
        pareto_k: the Pareto k-hat of the weights of each datum, [N].
    """

    iwae: Estimate
    extrapolated: Estimate
    pareto_k: Tensor

    @classmethod
    def of(cls, log_w: Tensor) -> ModalityBound:
        """Reduce log-weights [K, N]."""
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
    joint: ModalityBound
    marginal: ModalityBound
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
            "a part of the posterior, and the errors may be too small. Use more particles, or "
            "train the guide with modalities left out."
        ]

    def _of_convergence(self) -> str:
        moved = self.extrapolated.mean - self.conditional.mean
        error = self.extrapolated.error_over_particles
        if not math.isfinite(moved):
            bad = int((~self.extrapolated.value.isfinite()).sum())
            return (
                f"For {bad:,} data, the difference is missing or has no extrapolation, because at "
                "most one particle fits them. Use more particles, or train the guide with "
                "modalities left out."
            )
        said = (
            "The difference of two lower bounds is no bound. Extrapolating both to infinitely "
            f"many particles moves it by {moved:+.3f} nats"
        )
        if abs(moved) > max(2 * error, NOTHING):
            return f"{said}, above two errors over particles: use more particles."
        return f"{said}, within two errors over particles."

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The Pareto k-hats of the two bounds, [N]."""
        return {"k-hat, both": self.joint.pareto_k, "k-hat, given": self.marginal.pareto_k}


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def check_least(**numbers: tuple[int | None, int]) -> None:
    """Check that numbers are at least as large as they must be; None counts as large.

    Raises:
        ValueError: naming those that are not.
    """
    low = [
        f"{name}={value} (at least {least})"
        for name, (value, least) in numbers.items()
        if value is not None and value < least
    ]
    if low:
        raise ValueError(f"expected more; got {', '.join(low)}")


def masked(
    modalities: Modalities, resolved: Resolved, x: Any, context: tuple[ContextValue, ...]
) -> Given:
    """Return data whose context ends in the mask of their modalities, a row for each datum.

    Raises:
        ValueError: if the target is of other modalities.
    """
    for module in modules_of(resolved.target):
        if isinstance(module, Modalities) and module.columns != modalities.columns:
            raise ValueError(
                f"the target is of the modalities {module.widths}, in this order; got "
                f"{modalities.widths}"
            )
    given = resolved.given(x, *context)
    rest, mask = modalities.present(given.context)
    modalities.split(given.x[:1])  # raises if the data have other columns
    if mask is None:
        shape = (1, len(modalities.names))
        mask = torch.ones(shape, dtype=torch.bool, device=given.x.device)
    mask = mask.expand(len(given), -1) if len(mask) == 1 else mask
    return Given(given.x, (*rest, mask), resolved.pair)
