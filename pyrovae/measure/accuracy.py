"""Measure how well a VAE classifies, and whether all data helped it beyond the labels alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, final

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from pyrovae.measure.findings import (
    Finding,
    NotMeasurable,
    Number,
    Quantity,
    counted,
    error_of_share,
)
from pyrovae.measure.progress import collect, concatenated
from pyrovae.types import ContextValue, Target
from pyrovae.weights.given import Given
from pyrovae.weights.sites import enumeration_dim, sample_sites
from pyrovae.weights.target import Resolved, evaluation_mode
from pyrovae.weights.traces import trace_guide

__all__ = ["Accuracy", "AccuracyFinding", "class_probabilities"]

LEVEL: Final = 0.05
"""The p-value below which the verdict calls two classifiers different, as is usual."""


@torch.no_grad()
def class_probabilities(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int = 100,
    site: str | None = None,
) -> Tensor:
    r"""Return the probability of each class of each datum, [N, C], in evaluation mode.

    If the guide enumerates a class y, as that of M2 does, these are $q(y | x)$. If x itself is a
    label, as for `likelihoods.Label`, they are the mean of $p(x = c | z)$ over `particles` draws
    of the posterior. A guide of the context alone does not see x, which may then be any label.

    Args:
        target: a `VAE`, or a pair (model, guide).
        x: data [N, ...].
        *context: further arguments of the programs.
        particles: the number of draws of the posterior.
        site: the name of the class's site, if the guide enumerates several.

    Raises:
        NotMeasurable: if the guide enumerates no class, or several while none is named, or its
            class depends on another, and x is no label.
        ValueError: as `log_weights`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.VAE(
        ...     pv.priors.StandardNormal(2),
        ...     pv.likelihoods.Label(pv.nets.MLP(2, 3), classes=3),
        ...     pv.guides.OfContext(pv.guides.MeanFieldNormal(pv.nets.MLP(64, 2 * 2))),
        ... )
        >>> found = pv.class_probabilities(vae, torch.zeros(5), torch.rand(5, 64))
        >>> found.shape, found.sum(-1)
        (torch.Size([5, 3]), tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000]))
    """
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    with resolved.evaluating():
        return torch.cat(
            [_probabilities(part, particles, site) for part in given.passes(particles)]
        )


def _probabilities(given: Given, particles: int, site: str | None) -> Tensor:
    guide = dict(sample_sites(trace_guide(given.pair[1], *given, particles=1)))
    classes = [
        name
        for name, found in guide.items()
        if enumeration_dim(found) is not None and not found["infer"].get("is_auxiliary")
    ]
    wanted = [name for name in classes if site in (None, name)]
    if len(wanted) == 1:
        found = _of_values(guide[wanted[0]]["fn"])
        if found.ndim == 3 and found.shape[1:] == (1, len(given)):
            return found[:, 0].T
        raise NotMeasurable(
            f"the guide's class '{wanted[0]}' depends on another class or draw, so it has no "
            "probabilities of its own: sample it first"
        )
    if site is None and not classes:
        observed = given.trace(particles).observed.get("x")
        if observed is not None and observed["fn"].has_enumerate_support:
            found = _of_values(observed["fn"])
            if found.ndim == 3 and not observed["fn"].event_dim:
                return found.mean(1).T.expand(len(given), -1)
    raise NotMeasurable(
        f"the guide enumerates the sites {classes}, and x is no label: name one by site=..., or "
        "sample the class in the guide by guides.Categorical"
    )


def _of_values(fn: Any) -> Tensor:
    """Return the probabilities of all values of a distribution, [C, ..., K, N]."""
    found: Tensor = fn.log_prob(fn.enumerate_support(expand=False)).exp()
    return found


@final
@dataclass(frozen=True, repr=False)
class AccuracyFinding(Finding):
    """The result of `Accuracy`: which data are classified rightly.

    Attributes:
        right: whether the most probable class is the label, [N].
        alone: the same of the classifier that is compared with, [N]; None without one.
        wanted: the number of data with a label, more than N after an interrupt.
    """

    right: Tensor
    alone: Tensor | None
    wanted: int

    @property
    def title(self) -> str:
        """The number of data with a label."""
        return f"classification: {counted(len(self.right), self.wanted)}, shares"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return len(self.right) < self.wanted

    @property
    def accuracy(self) -> Number:
        """The share of data that are classified rightly, with its binomial error."""
        return _share(self.right)

    @property
    def gain(self) -> Number | None:
        """The accuracy minus that of the other classifier, with the error of paired shares.

        References:
            Agresti, Min, 2005. Simple Improved Confidence Intervals for Comparing Matched
                Proportions.
        """
        if self.alone is None:
            return None
        count, won, lost = len(self.right) + 2, self.won + 0.5, self.lost + 0.5
        error = math.sqrt(won + lost - (won - lost) ** 2 / count) / count
        return Number((self.won - self.lost) / len(self.right), error)

    @property
    def won(self) -> int:
        """The number of data that the other classifier alone gets wrong."""
        return 0 if self.alone is None else int((self.right & ~self.alone).sum())

    @property
    def lost(self) -> int:
        """The number of data that the other classifier alone gets right."""
        return 0 if self.alone is None else int((~self.right & self.alone).sum())

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's exact test that both classifiers are equally accurate.

        References:
            McNemar, 1947. Note on the Sampling Error of the Difference between Correlated
                Proportions or Percentages.
        """
        differing = self.won + self.lost
        return float(binomtest(self.won, differing).pvalue) if differing else 1.0

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The accuracy, and that by labels alone with the difference of both."""
        found: dict[str, Quantity] = {"accuracy": self.accuracy}
        if self.alone is not None and self.gain is not None:
            found |= {"accuracy, labels alone": _share(self.alone), "gain": self.gain}
        return found

    @property
    def verdict(self) -> Sequence[str]:
        """The accuracy; and whether the data without labels helped."""
        own = f"{self.accuracy.mean:.1%} of the data are classified rightly"
        if self.alone is None:
            return [f"{own}."]
        own += f", by the labels alone {_share(self.alone).mean:.1%}."
        paired = (
            f"{self.won:,} data are right only with them and {self.lost:,} only without "
            f"(McNemar's p = {self.p_value:.2g})"
        )
        if self.p_value >= LEVEL:
            return [f"{own} The data without labels did not help: {paired}, as chance explains."]
        if self.won > self.lost:
            return [f"{own} The data without labels helped: {paired}."]
        return [
            f"{own} The data without labels did harm: {paired}. Raise alpha, start from the "
            "classifier that is trained on the labels alone, or give the class more to explain "
            "with fewer other latents."
        ]

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Which data are right, for either classifier."""
        alone = {} if self.alone is None else {"right, labels alone": self.alone}
        return {"right": self.right} | alone


@final
@dataclass(frozen=True)
class Accuracy:
    """Measure the accuracy of the most probable class, and compare it with another classifier's.

    The comparison says whether semi-supervised training helped: `alone` is a classifier that was
    trained on the labels alone, such as `copy.deepcopy` of the network of q(y | x) before the
    training on all data. Both classify the same data, so the test of their difference is paired.

    Args:
        labels: the class of each datum, integers [N], -1 if it is not known; None if x is the
            label.
        alone: a function of (x, *context) that returns one number for each class, [N, C]; the
            largest is its prediction. A module is called in evaluation mode.
        site: the name of the class's site, if the guide enumerates several.
        particles: the number of draws of the posterior, if x is the label.

    Raises:
        ValueError: when called, if there is not one label for each datum, no label is known, or a
            label is no class; and as `class_probabilities`.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP
        >>> vae = pv.VAE(
        ...     pv.priors.Joint(y=pv.priors.Categorical(3), z=pv.priors.StandardNormal(2)),
        ...     pv.likelihoods.Bernoulli(MLP(3 + 2, 64)),
        ...     pv.guides.Joint(
        ...         y=pv.guides.Categorical(MLP(64, 3)),
        ...         z=pv.guides.MeanFieldNormal(MLP(64 + 3, 2 * 2)),
        ...     ),
        ... )
        >>> x, labels = torch.rand(50, 64).round(), torch.randint(3, (50,))
        >>> report = pv.evaluate(
        ...     vae, x, particles=10, diagnostics=[pv.Accuracy(labels, MLP(64, 3))]
        ... )
        >>> list(report.findings["accuracy"].quantities)
        ['accuracy', 'accuracy, labels alone', 'gain']
    """

    labels: Tensor | None = None
    alone: Callable[..., Tensor] | None = None
    site: str | None = None
    particles: int = 100

    name: ClassVar[str] = "accuracy"

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> AccuracyFinding:
        """Classify the data that have a label.

        Args:
            target: a `VAE`, or a pair (model, guide).
            x: data [N, ...].
            *context: the other arguments of the programs.

        Raises:
            ValueError: see the class.
            KeyboardInterrupt: if the interrupt comes before the first batch finishes.
        """
        labels = torch.as_tensor(x if self.labels is None else self.labels)
        if labels.shape != x.shape[:1]:
            raise ValueError(
                f"labels are one class per datum, {tuple(x.shape[:1])}; got {tuple(labels.shape)}"
                + (": give Accuracy(labels)" if self.labels is None else "")
            )
        known = (labels >= 0).nonzero().flatten()
        if not len(known):
            raise NotMeasurable("no datum has a label: accuracy needs some, from 0 on")
        given = Resolved.of(target).given(x, *context)

        def classify(rows: Tensor) -> dict[str, Tensor]:
            part, wanted = given.rows(rows.to(given.x.device)), labels[rows].long()
            own = class_probabilities(target, *part, particles=self.particles, site=self.site)
            found = {"right": _right(own, wanted, "the VAE")}
            alone: Any = self.alone
            if alone is not None:
                module = isinstance(alone, nn.Module)
                with evaluation_mode(alone) if module else contextlib.nullcontext():
                    scores = alone(*part)
                found["alone"] = _right(scores, wanted, "the other classifier")
            return found

        batches = known.split(given.per_pass(self.particles))
        found = concatenated(collect(classify, batches, "classifying").pieces)
        return AccuracyFinding(found["right"], found.get("alone"), wanted=len(known))


def _right(scores: Tensor, labels: Tensor, whose: str) -> Tensor:
    """Return whether the largest of the scores [N, C] is that of the label, [N]."""
    if scores.ndim != 2 or len(scores) != len(labels):
        raise ValueError(
            f"{whose} returned shape {tuple(scores.shape)}; wanted one number for each class, "
            f"({len(labels)}, C)"
        )
    if labels.max() >= scores.shape[1]:
        raise ValueError(
            f"a label is {int(labels.max())}, but {whose} has the classes 0 to "
            f"{scores.shape[1] - 1}: give labels of the same classes"
        )
    if scores.isnan().any():
        raise ValueError(
            f"{whose} returned NaN for {int(scores.isnan().any(-1).sum())} of {len(labels)} data, "
            "which is no class: leave these data out, or train again"
        )
    return scores.argmax(-1).cpu() == labels.cpu()


def _share(right: Tensor) -> Number:
    hits = int(right.sum())
    return Number(hits / len(right), error_of_share(hits, len(right)))
