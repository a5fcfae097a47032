r"""Detect novel (out-of-distribution) data by scores, and measure how well the scores do it.

A score is a function of a target and data that returns one number for each datum, higher for more
novel data. The area under the ROC curve of two sets of scores is the share of pairs (familiar,
novel) in which the novel datum has the higher score.

-log p(x) alone is often a poor score, since a model may assign a higher likelihood to data that
are simpler than its training data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from pyrovae.measure.findings import Finding, Number, Quantity, counted
from pyrovae.measure.progress import collect, concatenated
from pyrovae.measure.refinement.refine import refine
from pyrovae.measure.roc import auroc
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import elbo, iwae
from pyrovae.weights.given import Given
from pyrovae.weights.log_weights import log_weights
from pyrovae.weights.target import Resolved

__all__ = [
    "Novelty",
    "NoveltyFinding",
    "Score",
    "likelihood_regret",
    "surprise",
    "typicality",
    "waic",
]

Score = Callable[..., Tensor]
"""A function of (target, x, *context) that returns [N], higher for more novel data."""

Scored = dict[str, Tensor]
"""The scores of some data by the name of the score, [N] each."""

BATCH: Final = 200
"""The number of data of each kind that are scored at once."""


@torch.no_grad()
def surprise(target: Target, x: Tensor, *context: ContextValue, particles: int = 100) -> Tensor:
    r"""Return $-\log p(x)$ in nats, estimated by the bound IWAE-K, [N].

    Args:
        target: a VAE, or a pair (model, guide).
        x: data [N, ...].
        *context: the other arguments of the programs.
        particles: K, the number of particles.

    Raises:
        ValueError: as `log_weights`, and for data outside the likelihood's domain.

    References:
        Bishop, 1994. Novelty Detection and Neural Network Validation.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.measure.novelty.surprise(vae, torch.zeros(5, 64)).shape
        torch.Size([5])
    """
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    with resolved.evaluating():
        return -iwae(log_weights(resolved.pair, *given, particles=particles))


@torch.no_grad()
def likelihood_regret(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int = 100,
    steps: int = 100,
    lr: float = 0.05,
) -> Tensor:
    r"""Return the gain in ELBO from refining q for each datum separately, in nats, [N].

    $$ \max_{\lambda} L(x, q_\lambda) - L(x, q_{net(x)}) $$

    The gain is small for data like the encoder's training data, and larger for other data. The
    paper optimizes a copy of the encoder for each datum. Here the parameters of q for each datum
    are optimized directly by `refinement.refine`.

    Args:
        target: a VAE, or a pair (model, guide), as for `refinement.refine`.
        x: data [N, ...].
        *context: the other arguments of the programs.
        particles: K, the number of particles that estimate each of the two ELBOs.
        steps: the number of steps of the refinement.
        lr: the learning rate of the first step.

    Raises:
        ValueError: as `refinement.refine`.

    References:
        Xiao, Yan, Amit, 2020. Likelihood Regret: An Out-of-Distribution Detection Score for
            Variational Auto-Encoder.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.measure.novelty.likelihood_regret(vae, torch.zeros(5, 64), steps=10).shape
        torch.Size([5])
    """
    resolved = Resolved.of(target)
    given = resolved.given(x, *context)
    refined = refine(target, *given, steps=steps, lr=lr)
    with resolved.evaluating():
        after, before = (
            elbo(log_weights((resolved.model, guide), *given, particles=particles))
            for guide in (refined, resolved.guide)
        )
    return after - before


def waic(
    targets: Sequence[Target], x: Tensor, *context: ContextValue, particles: int = 100
) -> Tensor:
    r"""Return the negative Watanabe-Akaike information criterion of an ensemble, [N].

    $$ Var_m \log p_m(x) - E_m \log p_m(x) $$

    The members agree on data like their training data, and vary more on other data. The variance
    is divided by M - 1. A datum that is impossible under a member has the score infinity.

    Args:
        targets: M models of the same data, such as VAEs trained from different seeds.
        x: data [N, ...].
        *context: the other arguments of the programs.
        particles: K, the number of particles of the bound IWAE-K that estimates log p(x).

    Raises:
        ValueError: for fewer than two targets, and as `surprise`.

    References:
        Choi, Jang, Alemi, 2018. WAIC, but Why? Generative Ensembles for Robust Anomaly Detection.
        Watanabe, 2010. Asymptotic Equivalence of Bayes Cross Validation and WAIC.

    Example:
        >>> import torch, pyrovae as pv
        >>> ensemble = [pv.mlp_vae(64, latents=2, hidden=16) for _ in range(3)]
        >>> pv.measure.novelty.waic(ensemble, torch.zeros(5, 64)).shape
        torch.Size([5])
    """
    if len(targets) < 2:
        raise ValueError(f"waic needs an ensemble of at least two models; got {len(targets)}")
    log_p = -torch.stack([surprise(t, x, *context, particles=particles) for t in targets])
    mean = log_p.mean(0)
    return torch.where(mean == -math.inf, math.inf, log_p.var(0) - mean)


def typicality(
    target: Target, x: Tensor, *context: ContextValue, entropy: float, particles: int = 100
) -> Tensor:
    r"""Return the distance of $-\log p(x)$ from the entropy, $|-\log p(x) - H|$, in nats, [N].

    In many dimensions most of the probability mass lies where -log p(x) is close to the entropy,
    so a datum that is too likely is as novel as one that is too unlikely.

    Args:
        target: a VAE, or a pair (model, guide).
        x: data [N, ...].
        *context: the other arguments of the programs.
        entropy: H, the mean of -log p(x) over held-out data with the same K:
            `surprise(vae, held_out).mean()`.
        particles: K, the number of particles of the bound IWAE-K that estimates log p(x).

    Raises:
        ValueError: as `surprise`.

    References:
        Nalisnick, Matsukawa, Teh, Lakshminarayanan, 2019. Detecting Out-of-Distribution Inputs to
            Deep Generative Models Using Typicality.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.measure.novelty.typicality(vae, torch.zeros(5, 64), entropy=45.0).shape
        torch.Size([5])
    """
    return (surprise(target, x, *context, particles=particles) - entropy).abs()


@final
@dataclass(frozen=True, repr=False)
class NoveltyFinding(Finding):
    """The result of `Novelty`: the scores of familiar and of novel data.

    Attributes:
        inside: the scores of the familiar data, by name, [M] each.
        outside: the scores of the novel data, by name, [N] each.
        wanted: the number of data to score, of both kinds together.
    """

    inside: dict[str, Tensor]
    outside: dict[str, Tensor]
    wanted: int

    @property
    def title(self) -> str:
        """The number of data of both kinds, and the quantity measured."""
        inside, outside = self._scored
        scored = counted(inside + outside, self.wanted)
        return f"{scored}, {outside:,} of them novel: area under the ROC curve"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete."""
        return sum(self._scored) < self.wanted

    @property
    def _scored(self) -> tuple[int, int]:
        inside, outside = (len(next(iter(s.values()))) for s in (self.inside, self.outside))
        return inside, outside

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The area under the ROC curve, by score; NaN if a score is NaN on a datum."""
        return dict(self._areas)

    @property
    def _areas(self) -> dict[str, Number]:
        return {
            name: Number(math.nan) if self._unknown(name) else auroc(scores, self.outside[name])
            for name, scores in self.inside.items()
        }

    def _unknown(self, name: str) -> int:
        """Return the number of data on which a score is NaN."""
        return sum(int(each[name].isnan().sum()) for each in (self.inside, self.outside))

    def _apart(self, area: Number) -> bool:
        """Return whether an area differs from 1/2 by two errors.

        The error of complete separation is not known, but its probability by chance, at level 5%.
        """
        if math.isnan(area.error_over_data):
            inside, outside = self._scored
            return area.mean in (0.0, 1.0) and 2 / math.comb(inside + outside, inside) <= 0.05
        return abs(area.mean - 0.5) > 2 * area.error_over_data

    @property
    def verdict(self) -> Sequence[str]:
        """The best score, and the scores that rate the novel data as more familiar."""
        unknown = [name for name in self.inside if self._unknown(name)]
        missing = [
            f"{name} has no area: it is not a number on {self._unknown(name):,} data."
            for name in unknown
        ]
        areas = {name: area for name, area in self._areas.items() if name not in unknown}
        return [*self._compared(areas), *missing] if areas else missing

    def _compared(self, areas: dict[str, Number]) -> list[str]:
        best = max(areas, key=lambda name: areas[name].mean)
        share = f"a novel datum scores higher than a familiar one in {areas[best].mean:.1%} of"
        alone = min(self._scored) < 2
        chance = "" if alone or self._apart(areas[best]) else ", as chance explains"
        said = [f"The best score is {best}: {share} pairs{chance}."]
        if alone:
            return [
                *said,
                "One datum of a kind has no error over data. Score several.",
            ]
        low = [name for name, area in areas.items() if area.mean < 0.5 and self._apart(area)]
        if low:
            said.append(
                f"By {', '.join(low)}, the novel data rate as more familiar than the model's own, "
                "as simpler data often do. Do not use it to detect novelty here."
            )
        sure = [name for name, area in areas.items() if area.mean in (0.0, 1.0)]
        if sure:
            said.append(
                f"By {', '.join(sure)}, all pairs of these {self._scored[0]:,} and "
                f"{self._scored[1]:,} data are separated, so there is no error. Score more data "
                "to find one."
            )
        return said

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The scores of both kinds of data, by name."""
        found = {f"{name}, given": scores for name, scores in self.inside.items()}
        return found | {f"{name}, novel": scores for name, scores in self.outside.items()}


@dataclass(frozen=True)
class Novelty:
    """Score familiar and novel data, and measure how well each score separates them.

    The measure is the area under the ROC curve, with DeLong's standard error.

    Args:
        novel: novel data, [N, ...], or a tuple (x, *context).
        scores: functions of (target, x, *context) by name; by default `surprise` and
            `likelihood_regret`. To change their settings, use
            `functools.partial(surprise, particles=500)`; for an ensemble, use
            `lambda vae, *data: waic([vae, *others], *data)`.
        limit: the number of data of each kind to score, the first ones; None for all.

    References:
        DeLong, DeLong, Clarke-Pearson, 1988. Comparing the Areas under Two or More Correlated
            Receiver Operating Characteristic Curves.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> digits = pv.data.load("digits").test.draw()
        >>> turned = pv.data.rotated(digits, (1, 8, 8))
        >>> novelty = pv.Novelty(turned, {"-log p": pv.measure.novelty.surprise}, limit=50)
        >>> 0 < novelty(vae, digits).quantities["-log p"].mean < 1
        True
    """

    novel: Tensor | tuple[Any, ...]
    scores: Mapping[str, Score] = field(
        default_factory=lambda: MappingProxyType(
            {"-log p(x)": surprise, "likelihood regret": likelihood_regret}
        )
    )
    limit: int | None = 1000

    name: ClassVar[str] = "novelty"

    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> NoveltyFinding:
        """Score x and the novel data.

        Args:
            target: a `VAE`, or a pair (model, guide).
            x: familiar data [M, ...].
            *context: the other arguments of the programs.

        Raises:
            ValueError: if there is no score or no datum, if a score does not return one number
                for each datum, if the data are outside the likelihood's domain, and as the
                scores.
            KeyboardInterrupt: if the interrupt comes before the first batch finishes.
        """
        if not self.scores:
            raise ValueError(
                "Novelty needs at least one score, such as novelty.surprise; got none"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"Novelty needs at least one datum of each kind; got limit={self.limit}"
            )
        novel = self.novel if isinstance(self.novel, tuple) else (self.novel,)
        resolved = Resolved.of(target)
        kinds = [resolved.given(*data).first(self.limit) for data in ((x, *context), novel)]
        # Equally many pieces of both kinds, some of which may be empty.
        number = math.ceil(max(map(len, kinds)) / BATCH)
        rows = (torch.arange(len(given)).tensor_split(number) for given in kinds)
        pieces = (map(given.rows, split) for given, split in zip(kinds, rows, strict=True))
        batches = list(zip(*pieces, strict=True))

        def score(pair: tuple[Given, Given]) -> list[Scored]:
            return [self._score(target, *given) for given in pair]

        done = collect(score, batches, "scoring novelty")
        inside, outside = map(concatenated, zip(*done.pieces, strict=True))
        return NoveltyFinding(inside, outside, wanted=sum(map(len, kinds)))

    def _score(self, target: Target, x: Tensor, *context: ContextValue) -> Scored:
        found = {}
        for name, score in self.scores.items():
            found[name] = score(target, x, *context).detach().cpu() if len(x) else torch.empty(0)
            if found[name].shape != (len(x),):
                raise ValueError(
                    f"the score '{name}' returned shape {tuple(found[name].shape)}; it must "
                    f"return one number for each datum, shape ({len(x)},)"
                )
        return found
