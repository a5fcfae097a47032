r"""The codes of a guide that quantizes: which are used, what they cost, and the bound they give.

The guide gives one sequence of codes k = k(x) probability one, so

    log p(x) >= log p(x | k) + log p(k),

whose two terms are minus the distortion and minus the rate. The bound has no error over
particles, and falls short of log p(x) by -log p(k | x), which is not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from pyrovae.measure.findings import (
    Finding,
    NotMeasurable,
    Number,
    Quantity,
    counted,
    without_error_over_data,
)
from pyrovae.measure.progress import collect
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import Estimate
from pyrovae.weights.given import Given
from pyrovae.weights.pair import TracePair
from pyrovae.weights.sites import innermost, is_deterministic, sample_sites
from pyrovae.weights.target import Resolved

__all__ = ["Codes", "CodesFinding"]

BOUND: Final = "log p(x | k) + log p(k)"
DISTORTION: Final = "distortion"
RATE: Final = "rate"

UNSEEN: Final = 0.01
"""The share of new codes in further data from which the verdict says so. The threshold is ours."""

SHOWN: Final = 16
"""The number of dead codes that the verdict names."""


@dataclass(frozen=True)
class Codes:
    r"""Measure the bound, the rate, the perplexity and the usage of a guide's codes.

    The table has

        log p(x | k) + log p(k)   the lower bound on log p(x), in nats per datum
        distortion                -log p(x | k)
        rate                      -log p(k)
        bits per code             the rate over the number of codes of a datum, in bits
        perplexity                $e^H$ of a level, H the entropy of its codes over data and
                                  positions; at most K
        usage                     the share of a level's K codes that some datum has

    Dead codes, which no datum has, are named in the verdict and in `CodesFinding.dead`. Perplexity
    and usage are those of these data, and lower than those of more data. The verdict says so if
    codes of further data are likely to be new, by the share of the codes that one datum alone has.

    Args:
        limit: the number of data to measure, taken from the start; None for all.

    Raises:
        ValueError: for a limit below 1. When called: `NotMeasurable`, if no site of the guide
            holds codes.

    References:
        Good, 1953. The Population Frequencies of Species and the Estimation of Population
            Parameters.
        van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> book = pv.nets.Codebook(8, 4)
        >>> vae = pv.VAE(
        ...     prior=pv.priors.Codes(book, positions=5),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(5 * 4, 16, 64)),
        ...     guide=pv.guides.VectorQuantized(pv.nets.MLP(64, 16, 5 * 4), book),
        ... )
        >>> finding = pv.Codes()(vae, torch.rand(20, 64).round())
        >>> round(finding.quantities["bits per code"].mean, 3)  # log2 of 8
        3.0
    """

    name: ClassVar[str] = "codes"

    limit: int | None = None

    def __post_init__(self) -> None:  # noqa: D105
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected a limit of at least one datum; got limit={self.limit}")

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> CodesFinding:
        """Measure a VAE, or a pair (model, guide), on data [N, ...].

        Raises:
            NotMeasurable: if no site of the guide holds codes, or another site holds none.
        """
        resolved = Resolved.of(target)
        given = resolved.given(x, *context).first(self.limit)
        with resolved.evaluating():
            done = collect(_measured, list(given.passes(1)), "reading codes")
        log_p_x = torch.cat([piece[0] for piece in done.pieces])
        rate = torch.cat([piece[1] for piece in done.pieces])
        levels = {
            name: Level(torch.cat([piece[2][name][0] for piece in done.pieces]), size)
            for name, (_, size) in done.pieces[0][2].items()
        }
        return CodesFinding(log_p_x, rate, levels, wanted=len(given))


@dataclass(frozen=True)
class Level:
    """The codes of one level of a site.

    Attributes:
        codes: the code of each datum at each position, [N, M].
        size: K, the number of codes.
    """

    codes: Tensor
    size: int

    @property
    def counts(self) -> Tensor:
        """How often each code occurs, [K]."""
        return torch.bincount(self.codes.flatten(), minlength=self.size)

    @property
    def dead(self) -> list[int]:
        """The codes that no datum has."""
        found: list[int] = (self.counts == 0).nonzero().flatten().tolist()
        return found

    @property
    def unseen(self) -> float:
        """The share of the codes of further data that are new; NaN for a single datum.

        It is the share of all codes here that no other datum has. For one position this is the
        estimate of Good and Turing. Its expectation is exact for the last of N data.
        """
        if len(self.codes) < 2:
            return math.nan
        rows = torch.arange(len(self.codes)).unsqueeze(1)
        owned = (rows * self.size + self.codes).unique() % self.size
        owners = torch.bincount(owned, minlength=self.size)
        return (owners[self.codes] == 1).double().mean().item()

    @property
    def usage(self) -> Number:
        """The share of the codes that some datum has."""
        return Number(1 - len(self.dead) / self.size)

    @property
    def perplexity(self) -> Number:
        """The perplexity of these codes; its error is of first order, over data sets of N data."""
        counts = self.counts.double()
        costs = -(counts / counts.sum()).log()[self.codes].mean(-1)
        perplexity = costs.mean().exp().item()
        return Number(perplexity, perplexity * _error(costs))


@dataclass(frozen=True, repr=False)
class CodesFinding(Finding):
    """The result of `Codes`.

    Attributes:
        log_likelihood: log p(x | k) of each datum, [N].
        rate: -log p(k) of each datum, [N].
        levels: the codes by site, and by level if it has several, such as "z, level 2".
        wanted: the number of data requested, more than N after an interrupt.
    """

    log_likelihood: Tensor
    rate: Tensor
    levels: dict[str, Level]
    wanted: int

    @property
    def title(self) -> str:
        """The number of data, and the unit."""
        return f"codes: {counted(len(self.rate), self.wanted)}, nats per datum"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left data out."""
        return len(self.rate) < self.wanted

    @property
    def dead(self) -> dict[str, list[int]]:
        """The codes that no datum has, by level."""
        return {name: level.dead for name, level in self.levels.items()}

    @property
    def bound(self) -> Estimate:
        """The lower bound log p(x | k) + log p(k) on log p(x), [N]."""
        return _exact(self.log_likelihood - self.rate)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The bound, its parts, and the usage of each level."""
        several = len(self.levels) > 1
        length = sum(level.codes.shape[1] for level in self.levels.values()) * math.log(2)
        found: dict[str, Quantity] = {
            BOUND: self.bound,
            DISTORTION: _exact(-self.log_likelihood),
            RATE: _exact(self.rate),
            "bits per code": Number(
                self.rate.double().mean().item() / length, _error(self.rate.double()) / length, 0.0
            ),
        }
        for name, level in self.levels.items():
            of = f", {name}" if several else ""
            found |= {f"perplexity{of}": level.perplexity, f"usage{of}": level.usage}
        return found

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The codes of each level, [N, M]."""
        return {f"codes, {name}": level.codes for name, level in self.levels.items()}

    @property
    def verdict(self) -> list[str]:
        """Which codes are dead, what a code costs, and what the bound leaves out."""
        said = [_usage(name, level) for name, level in self.levels.items()]
        said += [_new(name, level) for name, level in self.levels.items() if level.unseen > UNSEEN]
        bits = self.quantities["bits per code"].mean
        free = sum(
            level.codes.shape[1] * math.log2(level.size) for level in self.levels.values()
        ) / sum(level.codes.shape[1] for level in self.levels.values())
        said.append(
            f"The prior spends {bits:.2f} bits on a code; codes chosen uniformly would take "
            f"{free:.2f}."
        )
        said.append(
            "The bound counts one code sequence for each datum, and has no error over particles. "
            "It falls short of log p(x) by -log p(k | x), which is not measured."
        )
        return said + without_error_over_data(len(self.rate))


def _measured(given: Given) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, int]]]:
    """Return log p(x | k) [N], the rate [N], and the codes [N, M] and sizes of levels by name."""
    pair = given.trace(1)
    terms = pair.terms
    return terms.log_likelihood[0].cpu(), terms.rate[0].cpu(), _levels(pair)


def _levels(pair: TracePair) -> dict[str, tuple[Tensor, int]]:
    found: dict[str, tuple[Tensor, int]] = {}
    others = []
    for name, site in sample_sites(pair.guide):
        if not is_deterministic(site["fn"]):
            others.append(name)
            continue
        fn: Any = innermost(site["fn"])
        codes = fn.codes.reshape(-1, *fn.codes.shape[-2:]).cpu()  # one particle, N data
        for level, of_level in enumerate(codes.unbind(-1), 1):
            of = name if codes.shape[-1] == 1 else f"{name}, level {level}"
            found[of] = (of_level, fn.quantizer.codes)
    if not found:
        raise NotMeasurable(
            f"the guide samples {[name for name, _ in sample_sites(pair.guide)]}, none of which "
            "holds codes: measure one with guides.VectorQuantized or guides.FSQ"
        )
    if others:
        raise NotMeasurable(
            f"the guide samples {others} beside the codes of {list(found)}, so that one draw of "
            "them gives no bound: pyrovae.evaluate gives the bounds of such programs"
        )
    return found


def _usage(name: str, level: Level) -> str:
    dead = level.dead
    used = f"{level.size - len(dead)} of {level.size} codes of {name} are used"
    if not dead:
        return f"{used}."
    more = f" and {len(dead) - SHOWN} more" if len(dead) > SHOWN else ""
    return f"{used}; dead: {', '.join(map(str, dead[:SHOWN]))}{more}."


def _new(name: str, level: Level) -> str:
    return (
        f"Of the codes of {name}, {level.unseen:.0%} are such that one datum alone has: so many "
        "codes of further data would be new. Perplexity and usage rise with more data, and codes "
        "called dead may be rare."
    )


def _exact(values: Tensor) -> Estimate:
    return Estimate(values, torch.zeros_like(values))


def _error(values: Tensor) -> float:
    return Estimate(values, torch.zeros_like(values)).error_over_data
