r"""Do data drawn from the model look like the real ones? Discrepancies with their p-values.

    p = P(T(x_rep) >= T(x)),        x_rep ~ p(x)                        prior replication
                                    x_rep ~ p(x | z),  z ~ p(z | x)     posterior replication

Prior replication draws whole new data sets, new latents and all. Where the model is right, and
was not fitted to these data, real and replicated are exchangeable and p is exactly uniform.
(With the parameters at their estimates it is also what Gelman, Meng and Stern call mixed.)
Posterior replication keeps to each datum its own latents: it tests p(x | z), and is conservative,
since z was told by the very x that it is held against. A discrepancy may there look at z too.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, final

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.measure.discrepancies import DISCREPANCIES, Discrepancy
from pyrovae.measure.findings import Finding, Number, Quantity, collect, counted
from pyrovae.measure.simulate import simulate
from pyrovae.randomness import generators_kept
from pyrovae.types import ContextValue, Target
from pyrovae.weights.bounds import effective_sample_size
from pyrovae.weights.given import Given
from pyrovae.weights.observed import observed_at
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import advice_on_shapes, log_prob, sample_sites
from pyrovae.weights.target import Resolved

Latents = dict[str, Tensor]
Realized = Callable[[Tensor, Latents], Tensor]

FALSE_ALARMS: Final = 0.05
"""How often a right model is said to differ in any discrepancy at all."""

LIKELIHOOD: Final = "log p(x | z)"


@final
@dataclass(frozen=True, repr=False)
class PredictiveCheckFinding(Finding):
    """What `PredictiveCheck` found; a discrepancy has one value for each draw.

    Attributes:
        replication: "prior" or "posterior".
        real: T of the real data, [draws]; all the same where T takes x alone.
        replicated: T of the data drawn, [draws].
        data: N, the size of each data set.
        wanted: the draws asked for.
        observed: the share of entries that no mask takes out.
        tail: of posterior replication, each datum's P(log p(x_rep | z) <= log p(x | z)), [N].
        effective_sample_size: likewise, of the particles that the latents were drawn from, [N].
    """

    replication: str
    real: dict[str, Tensor]
    replicated: dict[str, Tensor]
    data: int
    wanted: int
    observed: float = 1.0
    tail: Tensor | None = None
    effective_sample_size: Tensor | None = None

    @property
    def title(self) -> str:
        """How much was replicated."""
        draws = counted(len(next(iter(self.real.values()))), self.wanted, "draws")
        return f"{draws} of {self.data:,} data, {self.replication} predictive"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return len(next(iter(self.real.values()))) < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """Of each discrepancy: the real value, the one drawn with its spread, the p-value."""
        found: dict[str, Quantity] = {}
        for name, values in self.replicated.items():
            real, root = self.real[name], math.sqrt(len(values))
            moves = bool((real != real[0]).any())
            error = real.std().item() / root if moves else math.nan
            found[f"{name}: real"] = Number(real.mean().item(), error_over_particles=error)
            spread = values.std().item()
            found[f"{name}: drawn"] = Number(values.mean().item(), spread, spread / root)
            found[f"{name}: p"] = self.p_value(name)
        return found

    @property
    def verdict(self) -> Sequence[str]:
        """What is outside, and what the p-values mean."""
        said = [self._found(), self._meaning()]
        if self.observed < 1:
            said.append(
                f"{1 - self.observed:.1%} of the entries are missing. What stands there in the "
                "data stands in those drawn too: the p-values are of what is observed, the other "
                "numbers of both."
            )
        if self.silent:
            said.append(
                f"The same number for every data set, and so silent: {', '.join(self.silent)}."
            )
        return said

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Of posterior replication, how unlikely each datum is at its own latents."""
        if self.tail is None or self.effective_sample_size is None:
            return {}
        return {
            f"{LIKELIHOOD}: p-value": self.tail,
            "effective sample size": self.effective_sample_size,
        }

    @property
    def outside(self) -> list[str]:
        """The discrepancies whose two-sided p-value is at most 5%, divided by their number."""
        level = FALSE_ALARMS / len(self.real)
        return [name for name in self.real if self._two_sided(name) <= level + 1e-12]

    def p_value(self, name: str) -> Number:
        r"""Return $P(T_{rep} \ge T)$ with the error that the draws leave on it.

        The estimate counts the real data among the draws, $(1 + b) / (1 + R)$, so that it is
        never 0 and a test by it is exact; its error is Agresti and Coull's, which is never 0.
        """
        above, draws = int((self.replicated[name] >= self.real[name]).sum()), self._draws
        middle = (above + 2) / (draws + 4)
        error = math.sqrt(middle * (1 - middle) / (draws + 4))
        return Number((1 + above) / (1 + draws), error_over_particles=error)

    @property
    def _draws(self) -> int:
        return len(next(iter(self.real.values())))

    def _two_sided(self, name: str) -> float:
        below = int((self.replicated[name] <= self.real[name]).sum())
        return 2 * min(self.p_value(name).mean, (1 + below) / (1 + self._draws))

    @property
    def silent(self) -> list[str]:
        """The discrepancies that are one number of the real data and of all that were drawn."""
        return [name for name, real in self.real.items() if (self.replicated[name] == real).all()]

    def _found(self) -> str:
        tested = f"two-sided p-value at most {FALSE_ALARMS:.0%} / {len(self.real)}"
        number = len(self.real) - len(self.silent)
        if not self.outside and not number:
            return "No discrepancy can tell the model from the data here."
        if not self.outside:
            return f"The model agrees with the data in all {number} discrepancies ({tested})."
        said = (
            f"{name} (real {self.real[name].mean():.3g}, drawn "
            f"{self.replicated[name].mean():.3g} ± {self.replicated[name].std():.2g})"
            for name in self.outside
        )
        return f"The model does not agree with the data in: {', '.join(said)} ({tested})."

    def _meaning(self) -> str:
        if self.effective_sample_size is None:
            return (
                "Whole data sets were drawn from the model: where it is right, and was not fitted "
                "to these data, each p-value is uniform."
            )
        size = self.effective_sample_size.double()
        return (
            "Each datum kept latents drawn from its posterior, which is q(z | x) resampled by "
            f"importance weights (effective sample size {size.mean():.1f} on average, "
            f"{size.min():.1f} at worst). Such p-values gather about 1/2 where the model is "
            "right: one near 0 or 1 is the stronger evidence, one near 1/2 is hardly any."
        )


@dataclass(frozen=True)
class PredictiveCheck:
    r"""Compare data drawn from the model with the real ones, discrepancy by discrepancy.

    Entries that a mask takes out hold the same values in the data drawn as in the real ones, so
    that both are compared by what is observed, given which entries are.

    The model draws at a site "x" where x is None, as `model(None, *context, size=n)`. One that
    takes no size, a plain program, is run as `model(x, *context)` with its observations taken
    away, and refused if it draws x otherwise than it scores x.
    With `replication="posterior"` latents are drawn by sampling importance resampling: `draws`
    from K particles of the guide with probability proportional to their weights; and the
    realised discrepancy log p(x | z) is compared beside those asked for.

    Args:
        discrepancies: functions T(x) of a data set [N, ...], in double precision, that return a
            number, by their names; by default `discrepancies.DISCREPANCIES`.
        realized: functions T(x, z), z the latents [N, ...] by site; posterior replication only.
        replication: "prior" or "posterior".
        draws: R, at least 40 for each discrepancy, so that each can be found outside.
        particles: K, of posterior replication.
        limit: how many of the data to compare, the first ones; None for all.

    References:
        Gelman, Meng, Stern, 1996. Posterior Predictive Assessment of Model Fitness via Realized
            Discrepancies.
        Meng, 1994. Posterior Predictive p-Values.
        Rubin, 1988. Using the SIR Algorithm to Simulate Posterior Distributions.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> black = torch.zeros(50, 64)
        >>> found = pv.PredictiveCheck({"share of ones": torch.mean}, draws=99)(vae, black)
        >>> found.outside, round(found.p_value("share of ones").mean, 2)
        (['share of ones'], 1.0)
    """

    discrepancies: Mapping[str, Discrepancy] = field(default_factory=lambda: DISCREPANCIES)
    realized: Mapping[str, Realized] = field(default_factory=dict)
    replication: Literal["prior", "posterior"] = "prior"
    draws: int = 500
    particles: int = 100
    limit: int | None = 1000

    name: ClassVar[str] = "predictive_check"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: for an unknown replication, discrepancies of z under prior replication,
                a name given twice, nothing to compare, or too few draws, particles or data.
        """
        if self.replication not in ("prior", "posterior"):
            raise ValueError(f"replication is 'prior' or 'posterior'; got {self.replication!r}")
        if self.realized and self.replication == "prior":
            raise ValueError(
                f"the discrepancies {list(self.realized)} look at latents, which prior "
                "replication has none of for the real data: replication='posterior'"
            )
        names = [*self.discrepancies, *self.realized]
        if self.replication == "posterior":
            names.append(LIKELIHOOD)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"each discrepancy has a name of its own; got the names {names}")
        least = math.ceil(2 * len(names) / FALSE_ALARMS) - 1
        if self.draws < least:
            raise ValueError(
                f"{len(names)} discrepancies take at least {least} draws, fewer of which cannot "
                f"find one outside; got draws={self.draws}"
            )
        if self.particles < 1 or (self.limit is not None and self.limit < 2):
            raise ValueError(
                "a predictive check takes at least one particle and two data; got "
                f"particles={self.particles} and limit={self.limit}"
            )

    @torch.no_grad()
    def __call__(
        self, target: Target, x: Tensor, *context: ContextValue
    ) -> PredictiveCheckFinding:
        """Compare replicated data with x.

        Raises:
            ValueError: if the model has no site "x", a discrepancy returns no number, or, with
                posterior replication, the guide leaves a latent to be summed out.
            KeyboardInterrupt: if the interrupt comes before the first draws are done.
        """
        resolved = Resolved.of(target)
        whole = resolved.given(x, *context)
        model, guide = (whole.bound(program) for program in resolved.pair)
        given = whole.first(self.limit).unshared((model, guide))
        x = given.x
        own = {name: _number(name, T(x.double())) for name, T in self.discrepancies.items()}

        if "size" in inspect.signature(resolved.model).parameters:
            drawing = functools.partial(model, None, size=len(x))
        else:
            drawing = functools.partial(poutine.uncondition(model), x)
            with resolved.evaluating(), generators_kept():
                simulate((model, guide), *given)

        shares: list[float] = []

        def compare(rows: range) -> tuple[list[Compared], Tensor]:
            here = {name: z[rows.start : rows.stop] for name, z in latents.items()}
            drawn = _draw(drawing, here, len(rows), given)
            shares.append(drawn.observed)
            compared = [self._compare(drawn, row, x, own) for row in range(len(rows))]
            return compared, (drawn.log_likelihood <= drawn.log_likelihood_of_real).sum(0)

        with resolved.evaluating():
            latents, sizes = self._posterior(given)
            size = given.per_pass(len(x))
            batches = [range(i, min(i + size, self.draws)) for i in range(0, self.draws, size)]
            done = collect(compare, batches, f"drawing {self.draws:,} data sets")
        pairs = [pair for compared, _ in done.pieces for pair in compared]
        below = torch.stack([tail for _, tail in done.pieces]).sum(0)
        return PredictiveCheckFinding(
            self.replication,
            observed=shares[0],
            real=_columns([real for real, _ in pairs]),
            replicated=_columns([replicated for _, replicated in pairs]),
            data=len(x),
            wanted=self.draws,
            tail=None if sizes is None else (1 + below.double()) / (1 + len(pairs)),
            effective_sample_size=sizes,
        )

    def _compare(self, drawn: Drawn, row: int, x: Tensor, own: dict[str, float]) -> Compared:
        """Return each discrepancy of the real data and of one data set drawn."""
        replica, z = drawn.x[row].double(), {n: v[row] for n, v in drawn.latents.items()}
        real, replicated = dict(own), {}
        for name, of_x in self.discrepancies.items():
            replicated[name] = _number(name, of_x(replica))
        for name, of_both in self.realized.items():
            real[name] = _number(name, of_both(x.double(), z))
            replicated[name] = _number(name, of_both(replica, z))
        if self.replication == "posterior":
            real[LIKELIHOOD] = drawn.log_likelihood_of_real[row].double().mean().item()
            replicated[LIKELIHOOD] = drawn.log_likelihood[row].double().mean().item()
        return real, replicated

    def _posterior(self, given: Given) -> tuple[Latents, Tensor | None]:
        """Draw latents [draws, N, ...] by their weights; with the effective sample sizes, [N].

        Prior replication has none of its own.
        """
        if self.replication == "prior":
            return {}, None
        pieces = [
            _resampled(part, self.particles, self.draws) for part in given.passes(self.particles)
        ]
        latents = {
            name: torch.cat([found[name] for found, _ in pieces], 1) for name in pieces[0][0]
        }
        return latents, torch.cat([sizes for _, sizes in pieces])


@dataclass(frozen=True)
class Drawn:
    """Data sets drawn from a model.

    Attributes:
        x: [draws, N, ...].
        latents: what they were drawn from, where that was given.
        log_likelihood: log p(x_rep | z), [draws, N].
        log_likelihood_of_real: log p(x | z) at the same latents, [draws, N].
        observed: the share of entries that no mask takes out.
    """

    x: Tensor
    latents: Latents
    log_likelihood: Tensor
    log_likelihood_of_real: Tensor
    observed: float


Compared = tuple[dict[str, float], dict[str, float]]


def _draw(
    drawing: functools.partial[Any],
    latents: Latents,
    draws: int,
    given: Given,
) -> Drawn:
    """Draw data sets of the size of x, at given latents or at new ones."""
    x, context = given.x, given.context
    held = poutine.condition(over_particles(drawing.func, draws), data=latents)
    with advice_on_shapes():
        trace = poutine.trace(held).get_trace(*drawing.args, *context, **drawing.keywords)
    # A site with an obs_mask is split in two; the one observed is masked as any other.
    site = trace.nodes.get("x_observed", trace.nodes.get("x"))
    if site is None:
        raise ValueError(
            f"the model has the sites {[name for name, _ in sample_sites(trace)]} but none named "
            "'x', which is what a predictive check draws"
        )
    wanted = (draws, *x.shape)
    if site["value"].shape != wanted:
        raise ValueError(
            f"site 'x' was drawn with shape {tuple(site['value'].shape)}, but {draws} data sets "
            f"like x are {wanted}: sample it in the plate over data, the rest .to_event"
        )
    real = log_prob({**site, "value": x})
    seen = observed_at(site)
    if seen is None:
        return Drawn(site["value"], latents, log_prob(site), real, 1.0)
    # Where an entry is missing, the data drawn hold what the real ones do: like with like.
    filled = torch.where(seen, site["value"], x)
    return Drawn(filled, latents, log_prob(site), real, seen.double().mean().item())


def _resampled(given: Given, particles: int, draws: int) -> tuple[Latents, Tensor]:
    """Draw latents of some data: K from the guide, of which `draws` by their weights."""
    pair = given.trace(particles, enumerate=False)
    log_w = pair.log_w
    chosen = torch.multinomial(log_w.softmax(0).T, draws, replacement=True).T
    columns = torch.arange(log_w.shape[1], device=log_w.device)
    latents = {
        name: site["value"].expand(*log_w.shape, *site["fn"].event_shape)[chosen, columns]
        for name, site in sample_sites(pair.guide)
        if name in pair.model.nodes
    }
    return latents, effective_sample_size(log_w)


def _number(name: str, value: Any) -> float:
    value = torch.as_tensor(value)
    if value.numel() != 1 or value.isnan():
        met = "NaN" if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
        raise ValueError(
            f"the discrepancy '{name}' returned {met}; it is one number for a data set: take its "
            "mean over the data"
        )
    return float(value)


def _columns(rows: list[dict[str, float]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]
    }
