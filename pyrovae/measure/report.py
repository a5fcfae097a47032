"""The result of `evaluate`: bounds on log p(x), their parts, and whether they can be trusted."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from torch import Tensor
from torch.distributions import constraints

from pyrovae import files
from pyrovae.measure import undefined
from pyrovae.measure import unused_latents as unused
from pyrovae.measure.findings import (
    PARETO,
    Finding,
    Number,
    Quantity,
    counted,
    known,
    without_error_over_data,
)
from pyrovae.measure.saved_findings import SavedFinding, of_dimensions, read_report
from pyrovae.measure.to_arviz import to_arviz
from pyrovae.weights import psis as pareto
from pyrovae.weights.bounds import Estimate

__all__ = ["NAMED", "USED", "Report"]

NAMED: Final = 10
"""The number of data that a sentence lists before it counts the rest."""

USED: Final = 0.01
"""Nats of KL above which a latent dimension counts as used. The threshold is ours."""


@final
@dataclass(frozen=True, repr=False)
class Report(Finding):
    """The result of `evaluate`. Tensors have one entry per datum; estimates are in nats.

    Attributes:
        particles: K, the number of particles for each datum.
        seed: the seed of the particles; None if it was not set.
        seconds: the elapsed time.
        wanted: the number of data to measure; None if an interrupt left it unknown.
        dimensions: D, the number of entries of x.
        domain: the constraint on x by the likelihood; None if it has none.
        elbo: the evidence lower bound.
        iwae: the importance-weighted bound of each k.
        psis: the Pareto-smoothed estimate of log p(x) from K weights, not a bound; None if K is
            too small to fit a tail.
        extrapolated: the bounds extrapolated to infinitely many particles, not a bound; None if
            K = 1.
        reconstruction: the mean of log p(x | z) over the guide, which is minus the distortion.
        monte_carlo_kl: the rate KL(q || p), estimated from the particles.
        closed_form_kl: the rate in closed form; None if a site has none. Its error over particles
            is zero unless a latent site depends on another.
        site_rates: the mean of log q - log p at each latent site; they sum to the rate.
        kl_per_dimension: the closed-form KL of each dimension, [N, D], of sites at which q and p
            factorize over dimensions.
        effective_sample_size: [N], from 1 to K.
        pareto_k: the Pareto shape of the tail of the weights, [N]; see `weights.psis`.
        entries: the number of entries of each datum that are scored (not masked), [N].
        cost_of_another: the loss in log p(x | z) if z is that of the previous datum, [N]; NaN if
            it was not measured.
        fingerprint: a hash of each datum and of its context, [N, 2]; see `fingerprints`.
        findings: the findings of the diagnostics, by name.
        unfinished: the names of the diagnostics that an interrupt left out.
        point_masses: the sites at which the guide is a Delta, so that the log-weights give no
            bounds.
        refused: why a diagnostic or a quantity was not measured, by name.
        notes: further warnings that are printed above the table.
    """

    particles: int
    seed: int | None
    seconds: float
    wanted: int | None
    dimensions: int
    domain: constraints.Constraint | None
    elbo: Estimate
    iwae: dict[int, Estimate]
    psis: Estimate | None
    extrapolated: Estimate | None
    reconstruction: Estimate
    monte_carlo_kl: Estimate
    closed_form_kl: Estimate | None
    site_rates: dict[str, Estimate]
    kl_per_dimension: dict[str, Tensor]
    effective_sample_size: Tensor
    pareto_k: Tensor
    entries: Tensor
    cost_of_another: Tensor
    fingerprint: Tensor
    findings: Mapping[str, Finding] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    point_masses: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The number of data, the number of particles, and the unit."""
        return f"{self.subject}, nats per datum"

    @property
    def subject(self) -> str:
        """The number of data and the number of particles."""
        return f"{counted(len(self.elbo.value), self.wanted)}, {self.particles:,} particles"

    @property
    def remarks(self) -> Sequence[str]:
        """The notes, and a warning if log-weights are NaN or the latents are unused."""
        without = undefined.remark(self.elbo.value)
        if self.point_masses or without:
            return (*self.notes, *without)
        rate = self.monte_carlo_kl if self.closed_form_kl is None else self.closed_form_kl
        return (*self.notes, *unused.remarks(rate, self.cost_of_another))

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The estimates, and bits per dimension if x are integers."""
        bits = {"bits per dimension": self.bits_per_dimension()} if self.of_whole_numbers else {}
        return {**self.estimates, **bits}

    @property
    def bounds(self) -> dict[str, int]:
        """The number of particles k in each bound, by its name in the table."""
        return {"ELBO": 1, **{f"IWAE-{k}": k for k in self.iwae}}

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The bounds, the estimates of log p(x), the reconstruction and the rates, by name."""
        named = dict(zip(self.bounds, [self.elbo, *self.iwae.values()], strict=True))
        if self.psis is not None:
            named[f"PSIS-{self.particles}"] = self.psis
        if self.extrapolated is not None:
            named["extrapolated"] = self.extrapolated
        named["reconstruction"] = self.reconstruction
        if self.closed_form_kl is not None:
            named["KL, closed form"] = self.closed_form_kl
        named["KL, Monte Carlo"] = self.monte_carlo_kl
        if len(self.site_rates) > 1:
            named |= {f"rate, {site}": rate for site, rate in self.site_rates.items()}
        return named

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """Effective sample size, Pareto k-hat, fingerprint [N, 2], KL per dimension [N, D]."""
        found = {
            "effective sample size": self.effective_sample_size,
            PARETO: self.pareto_k,
            "fingerprint": self.fingerprint,
        }
        return found | {of_dimensions(site): kl for site, kl in self.kl_per_dimension.items()}

    @property
    def verdict(self) -> list[str]:
        """Whether the weights can be trusted, and what the numbers of the table mean."""
        said = [*self._effective(), self._trust()]
        said += without_error_over_data(len(self.elbo.value))
        said += self._annealed()
        said += self._dimensions_used()
        said += self._dequantization()
        if self.unfinished:
            said.append(f"Not measured because of an interrupt: {', '.join(self.unfinished)}.")
        said += [f"Not measured: {name}: {reason}." for name, reason in self.refused.items()]
        return said

    @property
    def untrusted(self) -> Tensor:
        """The indices of the data whose Pareto k-hat exceeds its limit for K particles."""
        return pareto.beyond(self.pareto_k, self.particles).nonzero().flatten()

    @property
    def trusted(self) -> bool:
        """Whether k-hat is known and within its limit for all data, and q has a density."""
        known = not self.pareto_k.isnan().any()
        return known and not len(self.untrusted) and not self.point_masses

    @property
    def partial(self) -> bool:
        """Whether an interrupt left out data or diagnostics."""
        cut = len(self.elbo.value) != self.wanted or bool(self.unfinished)
        return cut or any(finding.partial for finding in self.findings.values())

    @property
    def of_whole_numbers(self) -> bool:
        """Whether the likelihood is of integers, so that p(x) is a probability."""
        if isinstance(self.domain, constraints.stack):
            return all(column.is_discrete for column in self.domain.cseq)
        return self.domain is not None and self.domain.is_discrete

    def bits_per_dimension(self, levels: int = 1) -> Number:
        r"""Return $-L_k / (D \log 2) + \log_2(levels)$, with the bound $L_k$ of the largest k.

        It is an upper bound on the code length per entry of x, in bits. Missing entries do not
        count: D is the mean number of observed entries. It is NaN if no entry is observed.

        Args:
            levels: 1 for integer data, including binary data. For a density of pixels to which
                uniform noise was added (dequantization) and which were divided by 256, use 256;
                the result is then comparable with models of integers.

        References:
            Theis, van den Oord, Bethge, 2016. A Note on the Evaluation of Generative Models.

        Example:
            >>> import torch, pyrovae as pv
            >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
            >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=100)
            >>> 0.9 < report.bits_per_dimension().mean < 1.2  # untrained: a coin for each pixel
            True
        """
        bound = self.iwae[max(self.iwae)] if self.iwae else self.elbo
        entries = self.entries.cpu().double()
        width = entries.mean().item()
        if width == 0:
            return Number(math.nan)
        per_nat = 1 / (width * math.log(2))
        # The error of a ratio of two means (Cochran, 1977, chapter 6).
        apart = bound.value.cpu().double() - bound.mean / width * entries
        return Number(
            -per_nat * bound.mean + math.log2(levels),
            per_nat * Estimate(apart, bound.standard_error).error_over_data,
            per_nat * bound.error_over_particles,
        )

    def save(self, path: str | Path, **details: Any) -> None:
        """Save the report as a .json file, with the per-datum tensors as .safetensors beside it.

        Args:
            path: the path of the .json file.
            **details: further entries of the .json file, such as the name of the data.

        Raises:
            OSError: if a file cannot be written; existing files are then kept.
        """
        path = Path(path)
        tensors = files.tensors_as_bytes(self.tensors())
        digest = hashlib.sha256(tensors).hexdigest()
        said = {**details, **self._settings(), **self.to_json(), "tensors": digest}
        files.write_together(
            {path.with_suffix(".safetensors"): tensors, path: files.json_as_bytes(said)}
        )

    to_arviz = to_arviz

    @staticmethod
    def load(path: str | Path) -> SavedFinding:
        """Load a report that was saved by `save`, as `pyrovae.read_report` does.

        The result prints as the original did, and can be compared and plotted. It holds numbers
        and sentences only, not the objects of the original: `loaded.quantities["IWAE-20"]` is
        what `report.iwae[20]` was.

        Args:
            path: the path of the .json file, or the folder with its evaluation.json.

        Raises:
            ValueError: if one of the two files is missing or damaged, or if they belong to
                different reports.

        Example:
            >>> import tempfile, torch, pyrovae as pv
            >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
            >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=20)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     report.save(f"{folder}/evaluation.json")
            ...     loaded = pv.Report.load(folder)
            >>> str(loaded) == str(report)
            True
            >>> loaded.quantities["IWAE-20"].mean == report.iwae[20].mean
            True
        """
        path = Path(path)
        return read_report(path / "evaluation.json" if path.is_dir() else path)

    def _settings(self) -> dict[str, Any]:
        return {
            "data": len(self.elbo.value),
            "particles": self.particles,
            "seed": self.seed,
            "seconds": self.seconds,
            "unit": "nats",
            "partial": self.partial,
            "effective_sample_size": known(
                self.effective_sample_size.cpu().double().mean().item()
            ),
            "of_whole_numbers": None if self.domain is None else self.of_whole_numbers,
            "largest_pareto_k": known(self.pareto_k.max().item()),
            "untrusted": len(self.untrusted),
            "point_masses": list(self.point_masses),
            "bounds": self.bounds,
            "kl_per_dimension": {
                site: [known(value) for value in divergence.cpu().double().mean(0).tolist()]
                for site, divergence in self.kl_per_dimension.items()
            },
        }

    def _effective(self) -> Iterator[str]:
        size = self.effective_sample_size.cpu().double()
        size = size[~size.isnan()]
        if len(size):
            average = f"{size.mean():,.1f} on average, {size.min():,.1f} at worst"
            yield f"Effective sample size: {average}, of {self.particles:,}."

    def _trust(self) -> str:
        if self.point_masses:
            return (
                f"The guide is a point mass (Delta) at {', '.join(self.point_masses)} and has no "
                "density. The lines ELBO and IWAE are log p(x, z) at that point, not bounds on "
                "log p(x)."
            )
        if self.particles < pareto.FEWEST:
            return (
                "The weights cannot be checked: Pareto k-hat needs at least "
                f"{pareto.FEWEST} particles."
            )
        data, bad = len(self.pareto_k), self.untrusted.tolist()
        unknown = int(self.pareto_k.isnan().sum())
        if unknown and not bad:
            return (
                f"The weights cannot be checked: Pareto k-hat is not known at {unknown:,} of "
                f"{data:,} data."
            )
        if not bad:
            largest = self.pareto_k.max().item()
            seen = f"Pareto k-hat is at most {largest:.2f}, within its limit of {self._limit}"
            if largest == -math.inf:
                seen = "they hardly vary"
            whose = f"all {data:,} data" if data > 1 else "the one datum"
            said = f"The weights of {whose} are well-behaved: {seen}."
            if largest > -math.inf and self.particles < pareto.ENOUGH:
                said += f" Fewer than {pareto.ENOUGH:,} particles can miss a heavier tail."
            return said
        which = ", ".join(str(i) for i in bad[:NAMED])
        if len(bad) > NAMED:
            which += f" and {len(bad) - NAMED:,} more"
        return (
            f"Pareto k-hat is above {self._limit} at {len(bad):,} of {data:,} data: {which} "
            "(all in report.untrusted). There the bound may be far too low, and its error, PSIS "
            f"and the extrapolation are unreliable. {self._remedy()}"
            + (f" It is not known at {unknown:,}." if unknown else "")
        )

    @property
    def _limit(self) -> str:
        return f"{pareto.limit(self.particles):.2g}"

    def _remedy(self) -> str:
        """Return what to do for the data with a large k-hat."""
        shapes = self.pareto_k[self.untrusted]
        mild = shapes[shapes <= pareto.TRUSTED]
        said = []
        if len(mild):
            whose = "all" if len(mild) == len(shapes) else f"{len(mild):,} of them"
            needed = pareto.particles_for(mild.max().item())
            said.append(f"{needed:,} particles may suffice for {whose}.")
        if len(mild) < len(shapes):
            said.append(
                f"Above {pareto.TRUSTED} more particles will hardly help: refine the guide, or "
                "use annealed importance sampling (pyrovae.AIS)."
            )
        return " ".join(said)

    def _annealed(self) -> Iterator[str]:
        """Compare the tightest bound with the findings of the diagnostics on the same data."""
        if not self.iwae:
            return
        k = max(self.iwae)
        for found in self.findings.values():
            # Each measurement sets the seed again, so both may use the same random numbers.
            yield from found.beside(self.iwae[k], k, independent=self.seed is None)

    def _dimensions_used(self) -> Iterator[str]:
        for site, divergence in self.kl_per_dimension.items():
            used = int((divergence.mean(0) > USED).sum())
            of = f"{used} of the {divergence.shape[1]} dimensions of {site}"
            yield f"KL above {USED} nats (our threshold): {of}."

    def _dequantization(self) -> Iterator[str]:
        if self.of_whole_numbers:
            kind = "binary data" if self.domain is constraints.boolean else "integers"
            bound = f"IWAE-{max(self.iwae)}" if self.iwae else "the ELBO"
            yield (
                f"Bits per dimension: {bound} of {kind}, divided by {self._counted()}; no "
                "dequantization."
            )
        elif self.domain is not None and not isinstance(self.domain, constraints.stack):
            yield (
                "p(x) is a density. If x are 8-bit pixels, dequantized and divided by 256, "
                "report.bits_per_dimension(256) returns bits per dimension."
            )

    def _counted(self) -> str:
        """Return the number of entries of a datum, or the mean number that are observed."""
        if (self.entries == self.dimensions).all():
            return f"{self.dimensions:,} entries"
        mean = self.entries.double().mean().item()
        return f"the {mean:,.1f} of {self.dimensions:,} entries observed on average"
