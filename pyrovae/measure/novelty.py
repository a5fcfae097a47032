r"""Tell data of another kind from those a model knows: scores, and how well they do.

A score is a function of a target and data that returns one number for each datum, higher where it
is more novel. The area under the ROC curve of two sets of scores is the share of pairs in which
the novel datum scores higher.

log p(x) alone is a poor score: a model may find data that are simpler than its own more likely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from pyrovae.measure.findings import Finding, Quantity, collect, counted
from pyrovae.measure.refinement.refine import refine
from pyrovae.measure.roc import auroc
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import elbo, iwae
from pyrovae.weights.given import Given
from pyrovae.weights.log_weights import log_weights
from pyrovae.weights.target import Resolved, evaluation_mode, programs

Score = Callable[..., Tensor]
"""A function of (target, x, *context) that returns [N], higher where x is more novel."""

Scored = dict[str, Tensor]

BATCH: Final = 200
"""The data of either kind that are scored at once."""


@torch.no_grad()
def surprise(target: Target, x: Tensor, *context: ContextValue, particles: int = 100) -> Tensor:
    r"""Return $-\log p(x)$ by the importance-weighted bound of K particles, [N].

    Args:
        target: a VAE, or a pair (model, guide).
        x: data [N, ...].
        *context: what the programs take beside x.
        particles: K.

    References:
        Bishop, 1994. Novelty Detection and Neural Network Validation.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.measure.novelty.surprise(vae, torch.zeros(5, 64)).shape
        torch.Size([5])
    """
    with evaluation_mode(target):
        return -iwae(log_weights(target, x, *context, particles=particles))


@torch.no_grad()
def likelihood_regret(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int = 100,
    steps: int = 100,
    lr: float = 0.05,
) -> Tensor:
    r"""Return how much the ELBO of each datum rises as its own posterior is refined, [N].

    $$ \max_{\lambda} L(x, q_\lambda) - L(x, q_{net(x)}) $$

    An encoder serves the data that it was trained on; others leave room to improve. The paper
    refines a copy of the network for each datum; here the datum's own parameters of q are
    refined, as in `refinement.refine`, which reaches the same optimum wherever the network could.

    Args:
        target: as for `refinement.refine`.
        x: data [N, ...].
        *context: what the programs take beside x.
        particles: K, that measure each of the two bounds; its noise is that of the score.
        steps: of the refinement.
        lr: the size of its first step.

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
    model, guide = programs(target)
    refined = refine(target, x, *context, steps=steps, lr=lr)
    with evaluation_mode(target):
        after, before = (
            elbo(log_weights((model, program), x, *context, particles=particles))
            for program in (refined, guide)
        )
    return after - before


def waic(
    targets: Sequence[Target], x: Tensor, *context: ContextValue, particles: int = 100
) -> Tensor:
    r"""Return Watanabe and Akaike's criterion of an ensemble, turned into a score, [N].

    $$ Var_m \log p_m(x) - E_m \log p_m(x) $$

    The members agree on the data that they were trained on. Variances are divided by M - 1.

    Args:
        targets: M models of the same data, such as VAEs trained from different seeds.
        x: data [N, ...].
        *context: what the programs take beside x.
        particles: K, of the importance-weighted bound that stands for log p.

    Raises:
        ValueError: for fewer than two targets.

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
        raise ValueError(f"the ensemble has at least two models; got {len(targets)}")
    log_p = -torch.stack([surprise(t, x, *context, particles=particles) for t in targets])
    return log_p.var(0) - log_p.mean(0)


def typicality(
    target: Target, x: Tensor, *context: ContextValue, entropy: float, particles: int = 100
) -> Tensor:
    r"""Return how far $-\log p(x)$ is from what it is on average, $|-\log p(x) - H|$, [N].

    In many dimensions a distribution's mass lies where -log p is near its entropy, not where it
    is least: a datum that is too likely is as novel as one that is too unlikely.

    Args:
        target: a VAE, or a pair (model, guide).
        x: data [N, ...].
        *context: what the programs take beside x.
        entropy: H, the mean of -log p over data of the model's own kind, at the same K:
            `surprise(vae, held_out).mean()`.
        particles: K, of the importance-weighted bound that stands for log p.

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
    """What `Novelty` found.

    Attributes:
        inside: the scores of the data given, by name, [M] each.
        outside: the scores of the novel data, [N] each.
        wanted: the data to be scored, of both kinds.
    """

    inside: dict[str, Tensor]
    outside: dict[str, Tensor]
    wanted: int

    @property
    def title(self) -> str:
        """How many data of either kind."""
        inside, outside = self._scored
        scored = counted(inside + outside, self.wanted)
        return f"{scored}, {outside:,} of them novel: area under the ROC curve"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return sum(self._scored) < self.wanted

    @property
    def _scored(self) -> tuple[int, int]:
        inside, outside = (len(next(iter(s.values()))) for s in (self.inside, self.outside))
        return inside, outside

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The area of each score."""
        return {name: auroc(self.inside[name], self.outside[name]) for name in self.inside}

    @property
    def verdict(self) -> Sequence[str]:
        """Which score tells them apart best, and which ones find the novel data familiar."""
        areas = self.quantities
        best = max(areas, key=lambda name: areas[name].mean)
        said = [
            f"By {best}, a novel datum scores above a familiar one in {areas[best].mean:.1%} of "
            "pairs."
        ]
        if min(self._scored) < 2:
            return [
                *said,
                "Of one datum of a kind no error is known: another may score otherwise.",
            ]
        low = [n for n, a in areas.items() if a.mean < 0.5 - 2 * _or_zero(a.error_over_data)]
        if low:
            said.append(
                f"By {', '.join(low)} the novel data look more familiar than the model's own, as "
                "simpler data often do: it is no score of novelty here."
            )
        sure = [name for name, area in areas.items() if area.mean in (0.0, 1.0)]
        if sure:
            said.append(
                f"By {', '.join(sure)} every pair of these {self._scored[0]:,} and "
                f"{self._scored[1]:,} data is told apart, so no error is known: more data may "
                "still be confused."
            )
        return said

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The scores of both kinds."""
        found = {f"{name}, given": scores for name, scores in self.inside.items()}
        return found | {f"{name}, novel": scores for name, scores in self.outside.items()}


@dataclass(frozen=True)
class Novelty:
    """Score the data given and novel ones, and find how well the scores tell them apart.

    Args:
        novel: data of another kind, [N, ...], or a tuple (x, *context) of them.
        scores: functions of (target, x, *context) by their names; by default `surprise` and
            `likelihood_regret`. Settings go in by `functools.partial(surprise, particles=500)`,
            an ensemble by `lambda vae, *data: waic([vae, *others], *data)`.
        limit: how many data of either kind to score, the first ones; None for all.

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

        Raises:
            ValueError: if there is no score or no datum, a score does not return a number for
                each datum, or the data are outside the likelihood's domain; and as the scores.
            KeyboardInterrupt: if the interrupt comes before the first data are done.
        """
        if not self.scores:
            raise ValueError("novelty takes at least one score, such as novelty.surprise")
        if self.limit is not None and self.limit < 1:
            raise ValueError(
                f"novelty is of one datum of either kind at least; got limit={self.limit}"
            )
        novel = self.novel if isinstance(self.novel, tuple) else (self.novel,)
        resolved = Resolved.of(target)
        kinds = [resolved.given(*data).first(self.limit) for data in ((x, *context), novel)]
        pieces = math.ceil(max(map(len, kinds)) / BATCH)
        batches = list(zip(*(_pieces(given, pieces) for given in kinds), strict=True))

        def score(pair: tuple[Given, Given]) -> list[Scored]:
            return [self._score(target, *given) for given in pair]

        done = collect(score, batches, "scoring novelty")
        inside, outside = (
            {name: torch.cat([piece[kind][name] for piece in done.pieces]) for name in self.scores}
            for kind in (0, 1)
        )
        return NoveltyFinding(inside, outside, wanted=sum(map(len, kinds)))

    def _score(self, target: Target, x: Tensor, *context: ContextValue) -> Scored:
        found = {}
        for name, score in self.scores.items():
            found[name] = score(target, x, *context).detach().cpu() if len(x) else torch.empty(0)
            if found[name].shape != (len(x),):
                raise ValueError(
                    f"the score '{name}' returned shape {tuple(found[name].shape)}; it is one "
                    f"number for each datum, ({len(x)},)"
                )
        return found


def _pieces(given: Given, number: int) -> list[Given]:
    """Cut data into so many pieces, of which some may be empty."""
    return [given.rows(rows) for rows in torch.arange(len(given)).tensor_split(number)]


def _or_zero(error: float) -> float:
    return 0.0 if math.isnan(error) else error
