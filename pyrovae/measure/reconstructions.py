r"""Measure the terms of the ELBO by modality.

$$ ELBO = \sum_m E_{q(z | x)} \log p(x_m | z) - KL(q(z | x) \| p(z)) $$

The term of a modality is what the model scores if all others are missing, at draws of the guide
that is given all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pyrovae.measure.cross_modal import check_least, masked
from pyrovae.measure.findings import Finding, Quantity, counted
from pyrovae.measure.progress import concatenated
from pyrovae.measure.turns import collect_in_turns
from pyrovae.nets.modalities import Modalities
from pyrovae.randomness import random_state, restore_random_state
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.bounds import Estimate, mean_estimate
from pyrovae.weights.given import Given
from pyrovae.weights.passes import over_passes
from pyrovae.weights.run import TERMS, run
from pyrovae.weights.target import Resolved

__all__ = ["Reconstructions", "ReconstructionsFinding"]


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
        check_least(particles=(self.particles, 1), limit=(self.limit, 1))

    @torch.no_grad()
    def __call__(
        self, target: Target, x: Tensor, *context: ContextValue
    ) -> ReconstructionsFinding:
        """Measure a VAE, or a pair (model, guide), on data x [N, D]."""
        resolved = Resolved.of(target)
        given = masked(self.modalities, resolved, x, context).first(self.limit)

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


def _scoring(model: Program, modalities: Modalities, name: str) -> Program:
    """Return the model in which all modalities but one are missing."""

    @functools.wraps(model)
    def scored(x: Tensor, *context: Any, **options: Any) -> Any:
        *rest, mask = context
        return model(x, *rest, modalities.only(mask, name), **options)

    return scored
