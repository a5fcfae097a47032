r"""Probe representations: predict labels from them by simple models, with cross-validation.

A representation is good for a task if a linear model, or the nearest neighbors, solve it. Every
datum is predicted once, by a probe that was fitted to the other folds:

    accuracy = 1/N sum_n [prediction_n = y_n]         R^2 = 1 - sum_n e_n^2 / sum_n d_n^2

with the errors e of the probe and those d of the mean of the other folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import rich.box
import torch
from rich.table import Table
from scipy.special import stdtrit
from torch import Tensor
from torch.distributions import constraints

from pyrovae.data.arrays import Intake, tensors
from pyrovae.data.columns import labeled
from pyrovae.data.datasets import Split
from pyrovae.data.domains import named
from pyrovae.measure.findings import Finding, Quantity, error_of_share, estimates_of
from pyrovae.types import ContextValue, Data, Target
from pyrovae.weights.bounds import Z95, Estimate, difference, students_factor
from pyrovae.weights.posterior_means import embedded

__all__ = ["ProbeFinding", "probe"]

NUMBERS: Final = Intake(torch.float64, constraints.nonnegative_integer)

NEIGHBORS: Final = 5
"""The number of nearest neighbors, scikit-learn's default."""


@final
@dataclass(frozen=True, repr=False)
class ProbeFinding(Finding):
    """The result of `probe`: accuracies, or shares of the variance (R^2) for real numbers.

    Attributes:
        scores: the score of each datum by the name of the representation, then of the probe.
            Their means are the accuracy or R^2 (of which they are the linear terms).
        chance: the score of predicting the most frequent class, or the mean of y.
        dimensions: L by the name of the representation.
        fold: the fold in which each datum was predicted, [N].
        classes: the number of classes; None for real numbers.
    """

    scores: dict[str, dict[str, Estimate]]
    chance: Estimate
    dimensions: dict[str, int]
    fold: Tensor
    classes: int | None

    @property
    def score(self) -> str:
        """What is measured: "accuracy" or "R^2"."""
        return "R^2" if self.classes is None else "accuracy"

    @property
    def title(self) -> str:
        """The score, the number of data, of classes and of folds."""
        of = "" if self.classes is None else f", {self.classes} classes"
        return f"{self.score}, {len(self.fold):,} data{of}, {self._folds} folds"

    @property
    def partial(self) -> bool:
        """Whether the probes are incomplete: always False."""
        return False

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The scores by representation and probe, and chance."""
        named: dict[str, Quantity] = {}
        for name, of in self.scores.items():
            for probed, estimate in of.items():
                named[f"{name} [{self.dimensions[name]}], {probed}"] = estimate
        return {**named, self._naive: self.chance}

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The fold of each datum."""
        return {"fold": self.fold}

    @property
    def verdict(self) -> list[str]:
        """Which scores are above chance, and how others differ from the first representation."""
        above = []
        for name, of in self.scores.items():
            gains = [self._gain(each, self.chance) for each in of.values()]
            beyond = [probed for probed, (d, e) in zip(of, gains, strict=True) if d > Z95 * e]
            above.append(
                f"{name}: {' and '.join(beyond)} above chance."
                if beyond
                else f"{name}: no probe is above chance by {Z95} errors."
            )
        return [*above, *self._against_first()]

    def error_over_folds(self, estimate: Estimate) -> float:
        r"""Return the error over folds of a mean, for other training and test data.

        $$ t\, s \sqrt{\frac1J + \frac{n_{test}}{n_{train}}} $$

        with the standard deviation $s$ of the J folds' means. The second term stands for what
        the training data have in common; t is `students_factor(J)`.

        References:
            Nadeau, Bengio, 2003. Inference for the Generalization Error.
        """
        means = torch.stack(
            [estimate.value[self.fold == j].double().mean() for j in range(self._folds)]
        )
        share = 1 / self._folds + 1 / (self._folds - 1)
        return students_factor(self._folds) * means.std().item() * math.sqrt(share)

    def table(self) -> Table:
        """Return the table of the scores, with errors over data and over folds."""
        table = Table(box=rich.box.SIMPLE_HEAD, title=self.title, pad_edge=False)
        table.add_column("representation [dimensions], probe")
        for column in (self.score, "± over data", "± over folds"):
            table.add_column(column, justify="right")
        for name, estimate in estimates_of(self).items():
            numbers = estimate.mean, estimate.error_over_data, self.error_over_folds(estimate)
            table.add_row(name, *(f"{number:.3f}" for number in numbers))
        return table

    @property
    def _folds(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def _naive(self) -> str:
        return "chance (mean of y)" if self.classes is None else "chance (majority class)"

    def _differs(self, d: Estimate, tests: int) -> bool:
        """Return whether a difference is significant, at level 5% over so many tests (Bonferroni).

        Both errors are widened for few data or folds at the level of a single test (see
        `students_factor`).
        """
        errors = (len(self.fold), d.error_over_data), (self._folds, self.error_over_folds(d))
        return all(
            abs(d.mean) > stdtrit(n - 1, 1 - 0.025 / tests) / students_factor(n) * error
            for n, error in errors
        )

    def _gain(self, above: Estimate, below: Estimate) -> tuple[float, float]:
        """Return a paired difference and the larger of its two errors."""
        d = difference(above, below, independent=True)
        return d.mean, self._error(d)

    def _error(self, d: Estimate) -> float:
        return max(d.error_over_data, self.error_over_folds(d))

    def _against_first(self) -> list[str]:
        first, *others = self.scores
        said, tests = [], len(others) * len(self.scores[first])
        for name in others:
            for probed, estimate in self.scores[name].items():
                d = difference(self.scores[first][probed], estimate, independent=True)
                how = f"{abs(d.mean):.3f} ± {self._error(d):.3f}"
                if self._differs(d, tests):
                    ahead, behind = (first, name) if d.mean > 0 else (name, first)
                    said.append(f"By {probed}, {ahead} is ahead of {behind} by {how}.")
                else:
                    said.append(
                        f"By {probed}, {first} and {name} do not differ significantly: {how}."
                    )
        return said


def probe(
    representation: Target | Any | Mapping[str, Any],
    x: Data | None = None,
    y: Any = None,
    *context: ContextValue,
    folds: int = 5,
    probes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> ProbeFinding:
    r"""Predict labels from representations by cross-validated probes.

    Classes (integers, booleans or words) are predicted by logistic regression and by the vote of
    the 5 nearest neighbors, in stratified folds; real numbers (floats) by ridge regression and by
    the mean of the 5 nearest neighbors. Each dimension is standardized by the training folds.

    All representations are probed on the same folds, so that differences are paired. Those from
    the first are tested at level 5% over all of them together (Bonferroni). The error over data
    holds for other test data with the probes as fitted, that over folds also for other training
    data.

    Args:
        representation: a VAE, or a pair (model, guide), of which posterior means (`VAE.embed`)
            are probed; an array [N, ...] of any encoder; or several of these by name.
        x: the data that a VAE embeds, as of `VAE.embed`. None if all representations are arrays.
        y: one label for each datum, [N]; by default those of the split `x`.
        *context: further arguments of the guide.
        folds: J, the number of folds.
        probes: scikit-learn estimators by name, instead of the two.
        seed: the seed of the folds.

    Returns:
        The scores of each datum, which print as a table with chance level beside.

    Raises:
        ValueError: if labels are missing, constant or not one per datum, if a class has fewer
            data than folds, or if a representation is not finite or of another length; and as
            `VAE.embed`.

    References:
        Alain, Bengio, 2017. Understanding Intermediate Layers Using Linear Classifier Probes.

    Example:
        >>> import torch, pyrovae as pv
        >>> digits = pv.data.load("digits").test
        >>> vae = pv.mlp_vae(64, latents=5, hidden=16)
        >>> found = pv.probe({"VAE": vae, "pixels": digits.x}, digits)
        >>> list(found.scores["VAE"])
        ['linear', '5 neighbors']
        >>> found.scores["pixels"]["linear"].mean > found.chance.mean
        True
    """
    target = _labels(x.labels if y is None and isinstance(x, Split) else y)
    given = {"VAE" if _has_programs(representation) else "z": representation}
    if isinstance(representation, Mapping):
        given = dict(representation)
    arrays = {name: _array(name, each, x, context, len(target)) for name, each in given.items()}
    if not arrays:
        raise ValueError("there is no representation to probe: give a VAE or an array")
    if probes is not None and not (isinstance(probes, Mapping) and probes):
        raise ValueError(
            f"probes takes one scikit-learn estimator or more by name; got {probes!r}: give "
            'probes={"ridge": Ridge()}, or None for the two'
        )
    fold, splits = _folds(target, folds, seed)
    probes = _default_probes(target, folds) if probes is None else probes
    against = _predictions(_naive(target), np.zeros((len(target), 1)), target, splits)
    return ProbeFinding(
        scores={
            name: {
                probed: _scores(_predictions(model, z, target, splits), target, against)
                for probed, model in probes.items()
            }
            for name, z in arrays.items()
        },
        chance=_scores(against, target, against),
        dimensions={name: z.shape[1] for name, z in arrays.items()},
        fold=fold,
        classes=None if _is_real(target) else len(np.unique(target)),
    )


def _labels(y: Any) -> Any:
    """Return labels as an array [N], of integers for classes and of floats for real numbers."""
    if y is None:
        raise ValueError(
            "labels are missing: give y, one label for each datum, as the third argument or by "
            "name, probe(z, y=y), or a split that has labels"
        )
    if isinstance(y, Tensor):
        y = (y.double() if y.is_floating_point() else y).detach().cpu()
    target = np.asarray(y)
    if target.ndim != 1:
        raise ValueError(f"y has shape {target.shape}: give one label for each datum, [N]")
    if target.dtype.kind == "c":
        raise ValueError("y has complex numbers: give y.real, y.imag or abs(y)")
    if target.dtype.kind != "f":
        target = labeled(target, "y").numpy()
    bad = np.flatnonzero(~np.isfinite(target))
    if len(bad):
        raise ValueError(
            f"y has NaN or infinite values in {len(bad)} of {len(target)} rows, the first at row "
            f"{bad[0]}: drop these data"
        )
    if len(target) and (target == target[0]).all():
        what = "real numbers are all equal" if _is_real(target) else "labels are of one class"
        raise ValueError(f"the {what}, so there is nothing to predict: give two or more")
    if _is_real(target):
        target = target / np.abs(target).max()  # R^2 is the same, and no square overflows
    return target


def _array(name: str, each: Any, x: Any, context: tuple[Any, ...], size: int) -> Any:
    """Return a representation [N, L] in NumPy, the posterior means of a VAE."""
    programs = _has_programs(each)
    if programs and x is None:
        raise ValueError(f"{name} is a VAE, which embeds data: give x, as in probe(vae, x, y)")
    # The domain lets 8-bit pixels pass as the numbers that they are.
    z = embedded(each, x, *context) if programs else tensors(NUMBERS, each)[0]
    if isinstance(getattr(each, "vae_", None), torch.nn.Module):
        raise ValueError(f"{name} is an estimator of scikit-learn's kind: give its vae_")
    if not isinstance(z, Tensor) or z.ndim < 1:
        raise ValueError(f"{name} is neither a VAE nor an array [N, ...]; got {named(z)}")
    if len(z) != size:
        raise ValueError(
            f"{name} has {len(z)} rows and y has {size} labels: give one label for each datum"
        )
    bad = (~torch.isfinite(z)).reshape(size, -1).any(1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{name} has NaN or infinite values in {len(bad)} of {size} rows, the first at row "
            f"{int(bad[0])}: drop these data from all representations and y"
        )
    return z.detach().cpu().double().reshape(size, -1).numpy()


def _has_programs(each: Any) -> bool:
    return callable(getattr(each, "guide", None)) or isinstance(each, tuple)


def _folds(target: Any, folds: int, seed: int) -> tuple[Tensor, list[Any]]:
    """Return the fold of each datum, and the rows (training, test) of each fold."""
    from sklearn.model_selection import KFold, StratifiedKFold

    real = _is_real(target)
    names, counts = np.unique(target, return_counts=True)
    if folds < 2 or len(target) < 2 * folds:
        raise ValueError(
            f"cross-validation takes two folds or more of two data or more; got folds={folds} "
            f"and {len(target)} data: change the number of folds, or give more data"
        )
    if not real and counts.min() < folds:
        raise ValueError(
            f"class {names[counts.argmin()]} has {counts.min()} data, fewer than the {folds} "
            f"folds, of {len(names)} classes: drop it, take fewer folds, or give y as floats for "
            "a regression"
        )
    kind = KFold if real else StratifiedKFold
    splits = list(kind(folds, shuffle=True, random_state=seed).split(target, target))
    fold = torch.zeros(len(target), dtype=torch.long)
    for number, (_, test) in enumerate(splits):
        fold[torch.from_numpy(test)] = number
    return fold, splits


def _default_probes(target: Any, folds: int) -> dict[str, Any]:
    """Return a linear model and the nearest neighbors, for classes or for real numbers."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    k = min(NEIGHBORS, len(target) - math.ceil(len(target) / folds))
    neighbors = f"{k} neighbors"
    if _is_real(target):
        return {"linear": Ridge(), neighbors: KNeighborsRegressor(k)}
    return {
        "linear": LogisticRegression(max_iter=1000),
        neighbors: KNeighborsClassifier(k),
    }


def _naive(target: Any) -> Any:
    from sklearn.dummy import DummyClassifier, DummyRegressor

    return DummyRegressor() if _is_real(target) else DummyClassifier(strategy="most_frequent")


def _predictions(model: Any, z: Any, target: Any, splits: list[Any]) -> Any:
    """Return the prediction of each datum by a probe that was fitted to the other folds."""
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), clone(model))
    return cross_val_predict(pipeline, z, target, cv=splits)


def _scores(predicted: Any, target: Any, against: Any) -> Estimate:
    """Return whether each class is right; for real numbers, the linear terms of R^2.

    R^2 = 1 - S / D is a ratio of means. Its terms R^2 - (e_n^2 - (1 - R^2) d_n^2) / D have R^2 as
    their mean, and the standard error of the delta method.
    """
    unknown = torch.full((len(target),), torch.nan)
    if not _is_real(target):
        return _Share(torch.from_numpy((predicted == target).astype(np.float64)), unknown)
    lost, whole = (predicted - target) ** 2, (against - target) ** 2
    left = lost.mean() / whole.mean()
    return Estimate(torch.from_numpy(1 - left - (lost - left * whole) / whole.mean()), unknown)


class _Share(Estimate):
    """The share of data that are right; the variance of few data may be 0 by chance."""

    @property
    def error_over_data(self) -> float:
        return error_of_share(float(self.value.sum()), len(self.value))


def _is_real(target: Any) -> bool:
    return bool(target.dtype.kind == "f")
