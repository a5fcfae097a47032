r"""Two models over the same data: what differs, datum by datum, and whether it can be told.

    d_n = a_n - b_n,        error over data:  std(d) / sqrt(N)

Data differ from each other far more than two models do on one of them. The pairs take that out:
the error of the difference is often a tenth of that of either mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from torch import Tensor

from pyrovae.measure.findings import Finding, Number, Quantity
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding, estimates_of
from pyrovae.weights.bounds import Z95, Estimate, difference
from pyrovae.weights.psis import beyond

APART: Final = Z95
"""How many errors tell two models apart: 5% of equal ones are told apart wrongly."""

FEW: Final = 0.01
"""The share of data with a k-hat too large up to which a bound tells the better model."""


@final
@dataclass(frozen=True, repr=False)
class Comparison(Finding):
    """What `compare` found: differences a - b, in nats.

    Attributes:
        names: what the two are called.
        differences: of each quantity that both have. The error over particles is the root of the
            sum of squares, or the plain sum where both were drawn at one seed.
        one_seed: whether the particles of both were drawn at the same seed.
        same_data: whether the data are known to be the same; None where they are not known.
        same_context: likewise what the programs took beside the data.
        untrusted: how many data of each have a Pareto k-hat above its limit.
        point_masses: the names of those whose guide has no density, and so no bounds.
    """

    names: tuple[str, str]
    differences: dict[str, Estimate]
    one_seed: bool
    same_data: bool | None
    same_context: bool | None
    untrusted: tuple[int, int] = (0, 0)
    point_masses: tuple[str, ...] = ()

    @property
    def bound(self) -> str:
        """The bound that the verdict goes by: the tightest that both have."""
        return max(filter(_is_bound, self.differences), key=_particles)

    @property
    def title(self) -> str:
        """Which is taken from which, on how many data."""
        a, b = self.names
        return f"{a} - {b}, paired, {len(self.differences['ELBO'].value):,} data, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether something was left out: never, since only whole data are compared."""
        return False

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The differences, then the share of data on which a's bound is the higher."""
        shares = {
            f"{name}, share of data": _share(estimate.value)
            for name, estimate in self.differences.items()
            if _is_bound(name)
        }
        return {**self.differences, **shares}

    @property
    def verdict(self) -> Sequence[str]:
        """Which is ahead, by how much, and what the numbers do not tell."""
        sentences = [self._ahead(), self._otherwise_by_the_elbo(), *self._reservations()]
        return [sentence for sentence in sentences if sentence]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Nothing beside the differences."""
        return {}

    def _ahead(self) -> str:
        a, b = self.names
        if self.point_masses:
            which = " and ".join(self.point_masses)
            return (
                f"Nothing can be said: the guide of {which} puts all mass on a point (Delta), and "
                "what stands as its bounds is log p(x, z) there."
            )
        estimate = self.differences[self.bound]
        undefined = int((~estimate.value.isfinite()).sum())
        if undefined:
            return (
                f"By {self.bound} nothing can be said: {undefined:,} data have no finite "
                f"difference, being impossible under {a}, {b} or both."
            )
        mean, error = estimate.mean, _error(estimate)
        if (estimate.value == 0).all():
            return f"By {self.bound}, {a} and {b} are the same on every datum."
        if math.isnan(error):
            return f"One datum of one particle does not tell {a} and {b} apart."
        if abs(mean) < APART * error:
            return (
                f"By {self.bound}, {a} and {b} cannot be told apart with these data: the "
                f"difference is {_said(mean, error)} nats, and {APART} errors are "
                f"{_said(APART * error)}."
            )
        ahead = a if mean > 0 else b
        errors = f"{abs(mean) / error:.1f}" if error > 0 else "infinitely many"
        share = self.quantities[f"{self.bound}, share of data"].mean
        return (
            f"By {self.bound}, {ahead} is ahead by {_said(abs(mean), error)} nats ({errors} "
            f"errors); {a}'s bound is the higher on {share:.0%} of the data."
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
            f"By the ELBO {ahead} is ahead, by {_said(abs(elbo.mean), _error(elbo))} nats: its "
            "guide is the closer to its posterior, not its model the better."
        )

    def _reservations(self) -> list[str]:
        sentences = []
        if any(self.untrusted):
            counts = zip(self.names, self.untrusted, strict=True)
            sentences.append(
                "Pareto k-hat is above its limit at "
                + " and ".join(f"{count:,} data of {name}" for name, count in counts)
                + ": there the bounds are lower than log p(x) by what is not known, and the model "
                "that is behind may be the better. Compare by annealed importance sampling."
            )
        if self.one_seed:
            sentences.append(
                "Both drew their particles at one seed, so their errors over particles may go "
                "together: the sum of the two, which the true one cannot exceed, is given."
            )
        if self.same_data is None:
            sentences.append(
                "A report keeps no fingerprint of its data: that both are over the same data, in "
                "the same order, is taken on trust."
            )
        if self.same_context is False:
            sentences.append("The programs were given other things beside x: labels, or masks.")
        return sentences


def compare(
    a: Report | SavedFinding, b: Report | SavedFinding, *, names: tuple[str, str] = ("a", "b")
) -> Comparison:
    r"""Compare two reports over the same data, pairing them datum by datum.

    The error over data of the difference, $s(a_n - b_n) / \sqrt N$ (wider for few data, see
    `bounds.students_factor`), says how another test set would differ, particles included; that
    over particles how other seeds on these data would.

    Args:
        a: what `evaluate` returned, or `read_report`.
        b: the other, over the same data.
        names: what to call them.

    Raises:
        ValueError: if the reports are over different data, one is of probabilities and the other
            of densities, or their names are one.

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
        raise ValueError(f"the two compared have two names; got {names[0]!r} twice")
    estimates = tuple(estimates_of(report) for report in (a, b))
    sizes = [len(found["ELBO"].value) for found in estimates]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"a comparison is paired over the same data; {names[0]} was measured on {sizes[0]:,} "
            f"of them, {names[1]} on {sizes[1]:,}: evaluate both on the same"
        )
    kinds = [_of_probabilities(report) for report in (a, b)]
    if set(kinds) == {True, False}:
        of = dict(zip(kinds, names, strict=True))
        raise ValueError(
            f"{of[True]} gives data probabilities and {of[False]} densities, whose logarithms "
            "have no common unit: compare likelihoods of one kind"
        )
    same_data, same_context = _same(a.fingerprint, b.fingerprint, names)
    one_seed = a.seed is not None and a.seed == b.seed
    return Comparison(
        names=names,
        differences={
            name: difference(estimate, estimates[1][name], independent=not one_seed)
            for name, estimate in estimates[0].items()
            if name in estimates[1]
        },
        one_seed=one_seed,
        same_data=same_data,
        same_context=same_context,
        untrusted=(_untrusted(a), _untrusted(b)),
        point_masses=tuple(
            name for name, report in zip(names, (a, b), strict=True) if report.point_masses
        ),
    )


def _of_probabilities(report: Report | SavedFinding) -> bool | None:
    """Tell whether p(x) is a probability, of whole numbers, or a density; None if not known."""
    if isinstance(report, SavedFinding):
        return report.said.get("of_whole_numbers")
    return None if report.domain is None else report.of_whole_numbers


def _untrusted(report: Report | SavedFinding) -> int:
    shapes = report.per_datum.get("Pareto k-hat")
    return 0 if shapes is None else int(beyond(shapes, report.particles).sum())


def _same(
    a: Tensor | None, b: Tensor | None, names: tuple[str, str]
) -> tuple[bool | None, bool | None]:
    """Return whether data and context are the same by their fingerprints, as far as is known."""
    if a is None or b is None:
        return None, None
    same = a.cpu() == b.cpu()
    other = (~same[:, 0]).nonzero().flatten()
    if len(other):
        raise ValueError(
            f"a comparison is paired over the same data; {len(other):,} of the {len(same):,} data "
            f"of {names[0]} and {names[1]} differ, the first at row {int(other[0])}: evaluate "
            "both on the same, in the same order"
        )
    return True, bool(same[:, 1].all())


def _share(difference: Tensor) -> Number:
    r"""Return the share of data above zero, equal ones by half, with Agresti and Coull's error.

    The error is that of two more data on either side, $\tilde n = N + 4$, and so is none for no
    share, where the plain one would be zero at 0 and at 1.
    """
    above = ((difference > 0).double() + 0.5 * (difference == 0).double()).sum().item()
    count = len(difference)
    middle = (above + 2) / (count + 4)
    return Number(above / count, math.sqrt(middle * (1 - middle) / (count + 4)))


def _is_bound(name: str) -> bool:
    return name == "ELBO" or name.startswith("IWAE-")


def _particles(bound: str) -> int:
    return 1 if bound == "ELBO" else int(bound.removeprefix("IWAE-"))


def _error(estimate: Estimate) -> float:
    """Return the error over data; of a single datum, that over particles."""
    over_data = estimate.error_over_data
    return estimate.error_over_particles if math.isnan(over_data) else over_data


def _said(value: float, error: float | None = None) -> str:
    """Write a number, with its error if there is one, to two digits of the error."""
    scale = value if error is None else error
    digits = max(0, 1 - math.floor(math.log10(scale))) if scale > 0 else 3
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
