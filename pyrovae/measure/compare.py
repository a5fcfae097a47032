r"""Compare two models by paired differences on the same data.

    d_n = a_n - b_n,        error over data:  std(d) / sqrt(N)

The log-likelihood varies far more between data than between two models on one datum. Pairing
removes the variation between data, so the error of the difference is often much smaller than that
of either mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from torch import Tensor

from pyrovae.measure.findings import (
    PARETO,
    Finding,
    Number,
    Quantity,
    error_of_share,
    estimates_of,
)
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.weights.bounds import Z95, Estimate, difference
from pyrovae.weights.psis import FEWEST, beyond

__all__ = ["APART", "FEW", "Comparison", "compare", "reservations"]

APART: Final = Z95
"""The number of standard errors that counts as a difference: a two-sided test at level 5%."""

FEW: Final = 0.01
"""The share of data with a large k-hat up to which bounds decide between models.

The threshold is ours.
"""


@final
@dataclass(frozen=True, repr=False)
class Comparison(Finding):
    """The result of `compare`: differences a - b, in nats.

    Attributes:
        names: the names of the two models.
        differences: the difference of each quantity that both reports have. Its error over
            particles is the root of the sum of squared errors, or the sum of errors if both
            reports used the same seed.
        one_seed: whether both reports used the same seed.
        same_data: whether the data are the same; None if a report has no fingerprint.
        same_context: whether the context is the same; None if a report has no fingerprint.
        untrusted: the number of data of each report whose Pareto k-hat is above its limit.
        point_masses: the names of the models whose guide has no density, and so no bounds.
        bounds: the number of particles k of each bound among the differences, by name.
        unchecked: the names of the models of which a datum has no Pareto k-hat.
    """

    names: tuple[str, str]
    differences: dict[str, Estimate]
    one_seed: bool
    same_data: bool | None
    same_context: bool | None
    untrusted: tuple[int, int] = (0, 0)
    point_masses: tuple[str, ...] = ()
    bounds: Mapping[str, int] = field(default_factory=lambda: {"ELBO": 1})
    unchecked: tuple[str, ...] = ()

    @property
    def bound(self) -> str:
        """The bound that the verdict uses: the tightest that both reports have."""
        return max(self.bounds, key=lambda name: self.bounds[name])

    @property
    def title(self) -> str:
        """The names in the order of subtraction, the number of data, and the unit."""
        a, b = self.names
        return f"{a} - {b}, paired, {len(self.differences['ELBO'].value):,} data, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether the comparison is incomplete: always False."""
        return False

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The differences, and the share of data on which the bound of a is higher."""
        shares = {
            f"{name}, share of data": _share(self.differences[name].value) for name in self.bounds
        }
        return {**self.differences, **shares}

    @property
    def verdict(self) -> Sequence[str]:
        """Which model is better and by how much, and reservations about the result."""
        sentences = [self._ahead(), self._otherwise_by_the_elbo(), *reservations([self])]
        return [sentence for sentence in sentences if sentence]

    def _ahead(self) -> str:
        a, b = self.names
        if self.point_masses:
            which = " and ".join(self.point_masses)
            return (
                f"The models cannot be compared: the guide of {which} is a point mass (Delta), so "
                "its bounds are log p(x, z) at that point. Use a guide with a density."
            )
        estimate = self.differences[self.bound]
        undefined = int((~estimate.value.isfinite()).sum())
        if undefined:
            return (
                f"The models cannot be compared by {self.bound}: {undefined:,} data have no "
                f"finite difference, because they are impossible under {a}, {b} or both."
            )
        mean, error = estimate.mean, _error(estimate)
        if (estimate.value == 0).all():
            return f"By {self.bound}, {a} and {b} are equal on every datum."
        if math.isnan(error):
            return f"One datum and one particle give no error, so {a} and {b} cannot be compared."
        if abs(mean) < APART * error:
            return (
                f"By {self.bound}, {a} and {b} do not differ significantly: the difference is "
                f"{_said(mean, error)} nats, and {APART} errors are {_said(APART * error)}. More "
                "data or particles may separate them."
            )
        ahead = a if mean > 0 else b
        errors = f"{abs(mean) / error:.1f} errors" if error > 0 else "no error"
        share = self.quantities[f"{self.bound}, share of data"].mean
        return (
            f"By {self.bound}, {ahead} is ahead by {_said(abs(mean), error)} nats ({errors}); "
            f"the bound of {a} is higher on {share:.0%} of the data."
        )

    def _otherwise_by_the_elbo(self) -> str:
        elbo, tight = self.differences["ELBO"], self.differences[self.bound]
        many = max(self.untrusted) > FEW * len(elbo.value)
        told = not self.point_masses and all(
            abs(d.mean) >= APART * _error(d) for d in (elbo, tight)
        )
        if not told or elbo.mean * tight.mean >= 0 or many:
            return ""
        ahead = self.names[0] if elbo.mean > 0 else self.names[1]
        return (
            f"By the ELBO, {ahead} is ahead by {_said(abs(elbo.mean), _error(elbo))} nats, "
            f"because its guide is closer to its posterior; by {self.bound} its model is worse."
        )


def reservations(pairs: Sequence[Comparison]) -> list[str]:
    """Return sentences on what limits the comparison of two models, or of several in pairs."""
    sentences = []
    untrusted = {
        name: count
        for pair in pairs
        for name, count in zip(pair.names, pair.untrusted, strict=True)
    }
    if any(untrusted.values()):
        sentences.append(
            "Pareto k-hat is above its limit at "
            + " and ".join(f"{count:,} data of {name}" for name, count in untrusted.items())
            + ". There the bounds may be far below log p(x), so the order of the models may "
            "be wrong. Compare them by annealed importance sampling (pyrovae.AIS)."
        )
    unchecked = dict.fromkeys(name for pair in pairs for name in pair.unchecked)
    if unchecked:
        sentences.append(
            f"Pareto k-hat is not known of {' and '.join(unchecked)}; it takes {FEWEST} "
            "particles. Bounds far below log p(x) would go unnoticed, and so would a wrong order."
        )
    if any(pair.one_seed for pair in pairs):
        sentences.append(
            "Both reports used the same seed, so their errors over particles may be "
            "correlated: the error given is their sum, an upper bound. Use different seeds "
            "for a smaller one."
        )
    if any(pair.same_data is None for pair in pairs):
        sentences.append(
            "A report has no fingerprint of its data, so it was not checked that both are "
            "of the same data in the same order."
        )
    if any(pair.same_context is False for pair in pairs):
        sentences.append(
            "The context differs between the reports, such as labels or masks: check that "
            "this is intended."
        )
    return sentences


def compare(
    a: Report | SavedFinding, b: Report | SavedFinding, *, names: tuple[str, str] = ("a", "b")
) -> Comparison:
    r"""Compare two reports on the same data by paired differences, in nats.

    The error over data of the mean difference is $s(a_n - b_n) / \sqrt N$, multiplied by Student's
    factor for few data (see `bounds.students_factor`). It includes the noise of the particles.
    The error over particles is the variation between seeds on the same data.

    Args:
        a: a report, from `evaluate` or `read_report`.
        b: another report on the same data in the same order.
        names: the names of the two models in the table and the verdict.

    Raises:
        ValueError: if the reports are of different data, if one is of probabilities and the other
            of densities, or if the names are equal.

    References:
        Agresti, Coull, 1998. Approximate Is Better than "Exact" for Interval Estimation of
            Binomial Proportions.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.rand(50, 64).round()
        >>> vaes = [pv.mlp_vae(64, latents=2, hidden=width) for width in (32, 4)]
        >>> wide, narrow = (pv.evaluate(vae, x, particles=20) for vae in vaes)
        >>> found = pv.compare(wide, narrow, names=("wide", "narrow"))
        >>> found.bound, list(found.differences)[:3]
        ('IWAE-20', ['ELBO', 'IWAE-10', 'IWAE-20'])
    """
    if names[0] == names[1]:
        raise ValueError(f"names must differ; got {names[0]!r} twice")
    estimates = tuple(estimates_of(report) for report in (a, b))
    sizes = [len(found["ELBO"].value) for found in estimates]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"compare needs two reports on the same data; {names[0]} has {sizes[0]:,} data, "
            f"{names[1]} has {sizes[1]:,}: evaluate both on the same data"
        )
    kinds = [_of_probabilities(report) for report in (a, b)]
    if set(kinds) == {True, False}:
        of = dict(zip(kinds, names, strict=True))
        raise ValueError(
            f"{of[True]} has probabilities p(x) and {of[False]} has densities, which cannot be "
            "compared: use two discrete or two continuous likelihoods"
        )
    same_data, same_context = _same(a.fingerprint, b.fingerprint, names)
    one_seed = a.seed is not None and a.seed == b.seed
    differences = {
        name: difference(estimate, estimates[1][name], independent=not one_seed)
        for name, estimate in estimates[0].items()
        if name in estimates[1]
    }
    return Comparison(
        names=names,
        differences=differences,
        bounds={name: k for name, k in a.bounds.items() if name in differences},
        one_seed=one_seed,
        same_data=same_data,
        same_context=same_context,
        untrusted=(_untrusted(a), _untrusted(b)),
        unchecked=tuple(
            name for name, report in zip(names, (a, b), strict=True) if not _checked(report)
        ),
        point_masses=tuple(
            name for name, report in zip(names, (a, b), strict=True) if report.point_masses
        ),
    )


def _of_probabilities(report: Report | SavedFinding) -> bool | None:
    """Return whether p(x) is a probability rather than a density; None if not known."""
    if isinstance(report, SavedFinding):
        return report.said.get("of_whole_numbers")
    return None if report.domain is None else report.of_whole_numbers


def _untrusted(report: Report | SavedFinding) -> int:
    shapes = report.per_datum.get(PARETO)
    return 0 if shapes is None else int(beyond(shapes, report.particles).sum())


def _checked(report: Report | SavedFinding) -> bool:
    shapes = report.per_datum.get(PARETO)
    return shapes is not None and not bool(shapes.isnan().any())


def _same(
    a: Tensor | None, b: Tensor | None, names: tuple[str, str]
) -> tuple[bool | None, bool | None]:
    """Return whether data and context have the same fingerprints; None if not known."""
    if a is None or b is None:
        return None, None
    same = a.cpu() == b.cpu()
    other = (~same[:, 0]).nonzero().flatten()
    if len(other):
        raise ValueError(
            f"compare needs two reports on the same data; {len(other):,} of the {len(same):,} "
            f"data of {names[0]} and {names[1]} differ, the first at row {int(other[0])}: "
            "evaluate both on the same data in the same order"
        )
    return True, bool(same[:, 1].all())


def _share(difference: Tensor) -> Number:
    """Return the share of data above zero with its error, counting ties as one half.

    It is NaN if a difference is, as that of a datum that is impossible under both models.
    """
    if difference.isnan().any():
        return Number(math.nan)
    above = ((difference > 0).double() + 0.5 * (difference == 0).double()).sum().item()
    return Number(above / len(difference), error_of_share(above, len(difference)))


def _error(estimate: Estimate) -> float:
    """Return the error over data; for a single datum, the error over particles."""
    over_data = estimate.error_over_data
    return estimate.error_over_particles if math.isnan(over_data) else over_data


def _said(value: float, error: float | None = None) -> str:
    """Format a number, and its error if given, to two significant digits of the error."""
    scale = value if error is None else error
    digits = max(0, 1 - math.floor(math.log10(scale))) if scale > 0 else 3
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
