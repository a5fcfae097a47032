r"""Predictive checks: compare data drawn from the model with the real data by p-values.

    p = P(T(x_rep) >= T(x)),        x_rep ~ p(x)                        prior replication
                                    x_rep ~ p(x | z),  z ~ p(z | x)     posterior replication

Prior replication draws new latents and new data. If the model is correct and was not fitted to
these data, real and replicated data are exchangeable and p is uniform. Posterior replication draws
new data from latents of the real data. It tests p(x | z), and a discrepancy may depend on z. It is
conservative, because z is inferred from the same x. Gelman, Meng and Stern call replication with
new latents and estimated parameters mixed.
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
from pyrovae.measure.findings import Finding, Number, Quantity, counted, error_of_share
from pyrovae.measure.progress import collect, concatenated
from pyrovae.measure.replicas import Drawn, Latents, draw, resample
from pyrovae.measure.simulate import simulate
from pyrovae.randomness import generators_kept
from pyrovae.types import ContextValue, Target
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = [
    "FALSE_ALARMS",
    "LIKELIHOOD",
    "PredictiveCheck",
    "PredictiveCheckFinding",
    "Realized",
]

Realized = Callable[[Tensor, Latents], Tensor]
"""A discrepancy T(x, z) of data [N, ...] and their latents by site."""

FALSE_ALARMS: Final = 0.05
"""The level of all tests together, divided among the discrepancies (Bonferroni)."""

FEW: Final = 20
"""The effective particles below which latents are no posterior draws. The threshold is ours."""

LIKELIHOOD: Final = "log p(x | z)"
"""The name of the discrepancy that posterior replication adds."""


@final
@dataclass(frozen=True, repr=False)
class PredictiveCheckFinding(Finding):
    """The result of `PredictiveCheck`: the values of each discrepancy, one for each draw.

    Attributes:
        replication: "prior" or "posterior".
        real: T of the real data, [draws], by name; constant if T depends on x alone.
        replicated: T of the drawn data, [draws], by name.
        data: N, the size of each data set.
        wanted: the number of draws requested.
        observed: the share of entries that are not masked.
        tail: P(log p(x_rep | z) <= log p(x | z)) of each datum, [N]; None for prior replication.
        effective_sample_size: of the particles from which the latents of each datum were
            resampled, [N]; None for prior replication.
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
        """The number of draws, the size of each data set, and the kind of replication."""
        draws = counted(self._draws, self.wanted, "draws")
        return f"{draws} of {self.data:,} data, {self.replication} predictive"

    @property
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete."""
        return self._draws < self.wanted

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The real value, the drawn value with its standard deviation, and p, by discrepancy."""
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
        """The discrepancies in which model and data differ, and what the p-values mean."""
        said = [self._found(), self._meaning()]
        if self.observed < 1:
            said.append(
                f"{1 - self.observed:.1%} of the entries are missing. Real and drawn data have "
                "the same values there, so the p-values measure the observed entries only."
            )
        if self.silent:
            said.append(
                "These discrepancies have the same value for all data sets and test nothing: "
                f"{', '.join(self.silent)}."
            )
        return said

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The p-value of log p(x | z) and the effective sample size, if posterior replication."""
        if self.tail is None or self.effective_sample_size is None:
            return {}
        return {
            f"{LIKELIHOOD}: p-value": self.tail,
            "effective sample size": self.effective_sample_size,
        }

    @property
    def outside(self) -> list[str]:
        """The discrepancies whose two-sided p-value is at most 5% divided by their number."""
        level = FALSE_ALARMS / len(self.real)
        return [name for name in self.real if self._two_sided(name) <= level + 1e-12]

    def p_value(self, name: str) -> Number:
        r"""Return the p-value $P(T_{rep} \ge T)$ with its standard error over draws.

        The estimate is $(1 + b) / (1 + R)$, where b of R draws have $T_{rep} \ge T$. It is never
        0, and a test by it is exact. The standard error is Agresti and Coull's, never 0.

        Args:
            name: the name of the discrepancy.
        """
        above, draws = int((self.replicated[name] >= self.real[name]).sum()), self._draws
        return Number((1 + above) / (1 + draws), math.nan, error_of_share(above, draws))

    @property
    def _draws(self) -> int:
        return len(next(iter(self.real.values())))

    def _two_sided(self, name: str) -> float:
        below = int((self.replicated[name] <= self.real[name]).sum())
        return 2 * min(self.p_value(name).mean, (1 + below) / (1 + self._draws))

    @property
    def silent(self) -> list[str]:
        """The discrepancies that have the same value on the real data and on every draw."""
        return [name for name, real in self.real.items() if (self.replicated[name] == real).all()]

    def _found(self) -> str:
        tested = f"two-sided p-value at most {FALSE_ALARMS:.0%} / {len(self.real)}"
        number = len(self.real) - len(self.silent)
        if not self.outside and not number:
            return (
                "Nothing was tested: every discrepancy has the same value for all data sets. Use "
                "other discrepancies, or more data."
            )
        if not self.outside:
            return (
                f"No difference between model and data was found in {number} discrepancies "
                f"({tested} counts as one)."
            )
        said = (
            f"{name} (real {self.real[name].mean():.3g}, drawn "
            f"{self.replicated[name].mean():.3g} ± {self.replicated[name].std():.2g})"
            for name in self.outside
        )
        whose = "Drawn and real data" if self._unsettled else "Model and data"
        return f"{whose} differ in: {', '.join(said)} ({tested})."

    @property
    def _unsettled(self) -> int:
        """The number of data whose latents are resampled from few effective particles."""
        size = self.effective_sample_size
        return 0 if size is None else int((size < FEW).sum())

    def _meaning(self) -> str:
        if self.effective_sample_size is None:
            return (
                "Data sets were drawn with new latents. Each p-value is uniform if the model is "
                "correct and was not fitted to these data."
            )
        size = self.effective_sample_size.double()
        said = (
            "Data sets were drawn with latents from the posterior: q(z | x) resampled by "
            f"importance weights (effective sample size {size.mean():.1f} on average, "
            f"{size.min():.1f} at worst). "
        )
        if self._unsettled:
            return (
                f"{said}It is below {FEW} (a threshold of ours) for {self._unsettled:,} data, "
                "whose latents may be no draws from the posterior: a difference may be that of "
                "the guide. Use more particles, a better guide, or prior replication."
            )
        return (
            f"{said}The test is conservative: if the model is correct, p-values concentrate "
            "around 1/2. One near 0 or 1 is strong evidence against the model; one near 1/2 is no "
            "evidence for it."
        )


@dataclass(frozen=True)
class PredictiveCheck:
    r"""Compare data drawn from the model with the real data by discrepancies T.

    $$ p = P(T(x_{rep}) \ge T(x)) $$

    Prior replication draws $x_{rep} \sim p(x)$. Posterior replication draws
    $x_{rep} \sim p(x | z)$ with $z \sim p(z | x)$: K particles of the guide, resampled with
    probability proportional to their weights. It adds the discrepancy log p(x | z), in nats.

    A model that takes a `size` is called as `model(None, *context, size=n)` and must draw a site
    "x". Any other program is called as `model(x, *context)` with its observations removed; it is
    refused if it draws x from another density than the one it scores x with. Masked entries have
    the same values in drawn and real data.

    Args:
        discrepancies: functions T(x) that return one number for a data set [N, ...] in double
            precision, by name; by default `discrepancies.DISCREPANCIES`.
        realized: functions T(x, z) by name, with the latents z [N, ...] by site; for posterior
            replication only.
        replication: "prior" or "posterior".
        draws: R, the number of data sets drawn; at least 40 for each discrepancy, so that its
            p-value can fall below the level of the test.
        particles: K, the number of particles for posterior replication.
        limit: the number of data to compare, the first ones; None for all.

    Raises:
        ValueError: for an unknown replication, discrepancies of z with prior replication, a name
            given twice, no discrepancy, or too few draws, particles or data.

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
        """Check the settings.

        Raises:
            ValueError: as the class.
        """
        if self.replication not in ("prior", "posterior"):
            raise ValueError(
                f"replication must be 'prior' or 'posterior'; got {self.replication!r}"
            )
        if self.realized and self.replication == "prior":
            raise ValueError(
                f"the discrepancies {list(self.realized)} depend on latents, of which prior "
                "replication has none for the real data: use replication='posterior'"
            )
        names = [*self.discrepancies, *self.realized]
        if self.replication == "posterior":
            names.append(LIKELIHOOD)
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"a predictive check needs discrepancies with different names; got {names}"
            )
        least = math.ceil(2 * len(names) / FALSE_ALARMS) - 1
        if self.draws < least:
            raise ValueError(
                f"{len(names)} discrepancies need at least {least} draws, since with fewer no "
                f"p-value can be significant; got draws={self.draws}"
            )
        if self.particles < 1 or (self.limit is not None and self.limit < 2):
            raise ValueError(
                "a predictive check needs at least one particle and two data; got "
                f"particles={self.particles} and limit={self.limit}"
            )

    @torch.no_grad()
    def __call__(
        self, target: Target, x: Tensor, *context: ContextValue
    ) -> PredictiveCheckFinding:
        """Compare replicated data with x.

        Args:
            target: a `VAE`, or a pair (model, guide).
            x: data [N, ...].
            *context: the other arguments of the programs.

        Raises:
            ValueError: if the model has no site "x", if a discrepancy does not return a number,
                or, for posterior replication, if a latent is summed out.
            KeyboardInterrupt: if the interrupt comes before the first draws finish.
        """
        resolved = Resolved.of(target)
        whole = resolved.given(x, *context)
        model, guide = (whole.bound(program) for program in resolved.pair)
        given = whole.first(self.limit).unshared((model, guide))
        x = given.x
        own = {name: _number(name, T(x.double())) for name, T in self.discrepancies.items()}
        drawing = _drawing(resolved, (model, guide), given)
        shares: list[float] = []

        def compare(rows: range) -> tuple[list[Compared], Tensor]:
            here = {name: z[rows.start : rows.stop] for name, z in latents.items()}
            drawn = draw(drawing, here, len(rows), given)
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
        """Return each discrepancy of the real data and of one drawn data set."""
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
        """Draw posterior latents, [draws, N, ...]; return them and the effective sample sizes.

        Prior replication has none.
        """
        if self.replication == "prior":
            return {}, None
        parts = given.passes(self.particles)
        latents, sizes = zip(
            *(resample(part, self.particles, self.draws) for part in parts), strict=True
        )
        return concatenated(latents, 1), torch.cat(sizes)


Compared = tuple[dict[str, float], dict[str, float]]
"""The discrepancies of the real data and of one drawn data set, by name."""


def _drawing(resolved: Resolved, pair: tuple[Any, Any], given: Given) -> functools.partial[Any]:
    """Return the model as a function that draws data of the shape of x."""
    if "size" in inspect.signature(resolved.model).parameters:
        return functools.partial(pair[0], None, size=len(given))
    with resolved.evaluating(), generators_kept():
        simulate(pair, *given)
    return functools.partial(poutine.uncondition(pair[0]), given.x)


def _number(name: str, value: Any) -> float:
    value = torch.as_tensor(value)
    if value.numel() != 1 or value.isnan():
        met = "NaN" if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)}"
        raise ValueError(
            f"the discrepancy '{name}' returned {met}; it must return one number for a data set: "
            "reduce it over the data, for example by its mean"
        )
    return float(value)


def _columns(rows: list[dict[str, float]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]
    }
