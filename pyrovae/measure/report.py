"""What `evaluate` found of a VAE: bounds on log p(x), their parts, and whether to believe them."""

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
from pyrovae.measure import unused_latents as unused
from pyrovae.measure.findings import (
    Finding,
    Number,
    Quantity,
    counted,
    known,
    without_error_over_data,
)
from pyrovae.weights import psis as pareto
from pyrovae.weights.bounds import Estimate

NAMED: Final = 10
"""How many data a sentence names before it counts the rest."""

USED: Final = 0.01
"""Nats of KL above which a latent dimension is said to carry something."""


@final
@dataclass(frozen=True, repr=False)
class Report(Finding):
    """What `evaluate` found; tensors have one entry per datum, in nats.

    Attributes:
        particles: K, the particles drawn for each datum.
        seed: the seed of the particles.
        seconds: the time it took.
        wanted: how many data there were to measure; None where an interrupt left that open.
        dimensions: D, the width of x.
        cost_of_another: what log p(x | z) of each datum loses by the z of another, [N], NaN
            where it was not measured (see `unused.cost_of_another`).
        entries: how many entries of each datum are scored, [N]: those that no mask takes out.
        domain: where the likelihood has x lie; None where it does not say.
        elbo: the evidence lower bound.
        iwae: the importance-weighted bound at each k.
        psis: the estimate of log p(x) from K smoothed weights, which is no bound; None where K
            is too small for a tail.
        extrapolated: the bounds extrapolated to infinitely many particles, no bound; None at
            K = 1.
        reconstruction: log p(x | z) under the guide, the negative distortion.
        monte_carlo_kl: the rate, KL(q || p), from the particles.
        closed_form_kl: the rate in closed form, or None where a site has none. Its error is zero
            unless a latent site depends on another.
        site_rates: the mean of log q - log p of each latent site, which add up to the rate.
        kl_per_dimension: the closed-form KL of each dimension of a site, [N, D], where both of
            its densities factorize.
        effective_sample_size: from 1 to K.
        pareto_k: the shape of the weights' tail, see `pareto.pareto_k`.
        fingerprint: a hash of each datum and of its context, [N, 2], see `fingerprints`.
        findings: what the diagnostics found, by their names.
        unfinished: the names of the diagnostics that an interrupt left out.
        point_masses: the guide's sites that are Deltas, with which log-weights are no bounds.
        refused: the names of the diagnostics that could not measure this, and why.
        notes: what else is to be known before the numbers are read.
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
        """How many data and particles."""
        data = counted(len(self.elbo.value), self.wanted)
        return f"{data}, {self.particles:,} particles, nats per datum"

    @property
    def remarks(self) -> Sequence[str]:
        """Whether the latents hold next to nothing, as where nothing was trained."""
        if self.point_masses:
            return self.notes
        rate = self.monte_carlo_kl if self.closed_form_kl is None else self.closed_form_kl
        return (*self.notes, *unused.remarks(rate, self.cost_of_another))

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The estimates, and bits per dimension where x are whole numbers."""
        bits = {"bits per dimension": self.bits_per_dimension()} if self.of_whole_numbers else {}
        return {**self.estimates, **bits}

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The bounds, the estimates beyond them, the reconstruction and the rates."""
        named = {"ELBO": self.elbo}
        named |= {f"IWAE-{k}": estimate for k, estimate in self.iwae.items()}
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
            "Pareto k-hat": self.pareto_k,
            "fingerprint": self.fingerprint,
        }
        each = self.kl_per_dimension.items()
        return found | {f"KL per dimension, {site}": divergence for site, divergence in each}

    @property
    def verdict(self) -> list[str]:
        """Whether the weights are to be believed, and what the numbers of the table mean."""
        size = self.effective_sample_size.cpu().double()
        average = f"{size.mean():,.1f} on average, {size.min():,.1f} at worst"
        said = [f"Effective sample size: {average}, of {self.particles:,}.", self._trust()]
        said += without_error_over_data(len(self.elbo.value))
        said += self._annealed()
        said += self._dimensions_used()
        said += self._dequantization()
        if self.unfinished:
            said.append(f"An interrupt left out: {', '.join(self.unfinished)}.")
        said += [f"Not measured: {name}: {reason}." for name, reason in self.refused.items()]
        return said

    @property
    def untrusted(self) -> Tensor:
        """The indices of the data whose k-hat is above `pareto.limit` at these particles."""
        return pareto.beyond(self.pareto_k, self.particles).nonzero().flatten()

    @property
    def trusted(self) -> bool:
        """Whether k-hat is known of all data and within its limit, and q has a density."""
        known = not self.pareto_k.isnan().any()
        return known and not len(self.untrusted) and not self.point_masses

    @property
    def partial(self) -> bool:
        """Whether an interrupt left out data or diagnostics."""
        cut = len(self.elbo.value) != self.wanted or bool(self.unfinished)
        return cut or any(finding.partial for finding in self.findings.values())

    @property
    def of_whole_numbers(self) -> bool:
        """Whether the likelihood says that x are whole numbers, so that p(x) is a probability."""
        if isinstance(self.domain, constraints.stack):
            return all(column.is_discrete for column in self.domain.cseq)
        return self.domain is not None and self.domain.is_discrete

    def bits_per_dimension(self, levels: int = 1) -> Number:
        r"""Return $-\log_2 p(x) / D + \log_2(levels)$ from the bound at the most particles.

        It is the length of a code, and from a lower bound on log p an upper bound on it. Missing
        entries are not counted: D is then the mean number of entries that are observed. NaN where
        there is none.

        Args:
            levels: 1 where x are whole numbers, 0 and 1 among them. Where p is a density of
                pixels that had uniform noise added (dequantized) and were divided by 256, give
                256: the 8 bits make it comparable with models of whole numbers.

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
        """Write a .json file, and the numbers per datum beside it as safetensors.

        Args:
            path: of the .json file.
            **details: what else should stand there, such as the name of the data.

        Raises:
            OSError: if it cannot be written; files that were there stay.
        """
        path = Path(path)
        tensors = files.tensors_as_bytes(self.tensors())
        digest = hashlib.sha256(tensors).hexdigest()
        said = {**details, **self._settings(), **self.to_json(), "tensors": digest}
        files.write_together(
            {path.with_suffix(".safetensors"): tensors, path: files.json_as_bytes(said)}
        )

    def _settings(self) -> dict[str, Any]:
        divergences = self.kl_per_dimension.items()
        return {
            "data": len(self.elbo.value),
            "particles": self.particles,
            "seed": self.seed,
            "seconds": self.seconds,
            "unit": "nats",
            "partial": self.partial,
            "effective_sample_size": self.effective_sample_size.cpu().double().mean().item(),
            "of_whole_numbers": None if self.domain is None else self.of_whole_numbers,
            "largest_pareto_k": known(self.pareto_k.max().item()),
            "untrusted": len(self.untrusted),
            "point_masses": list(self.point_masses),
            "kl_per_dimension": {
                site: [known(value) for value in divergence.cpu().double().mean(0).tolist()]
                for site, divergence in divergences
            },
        }

    def _trust(self) -> str:
        if self.point_masses:
            return (
                f"The guide puts all mass on a point at {', '.join(self.point_masses)} (Delta), "
                "where q has no density: what stands here as ELBO and IWAE are no bounds on log "
                "p(x), but log p(x, z) at that point."
            )
        if self.particles < pareto.FEWEST:
            return (
                f"Fewer than {pareto.FEWEST} particles cannot tell whether the weights are to be "
                "believed: no Pareto k-hat."
            )
        data, bad = len(self.pareto_k), self.untrusted.tolist()
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
            "(all in report.untrusted). The bound there may be far off, mostly too low, and "
            "neither its error nor PSIS nor the extrapolation is to be believed. "
            f"{self._remedy()}"
        )

    @property
    def _limit(self) -> str:
        return f"{pareto.limit(self.particles):.2g}"

    def _remedy(self) -> str:
        """Say what would do for the data that are not to be believed."""
        shapes = self.pareto_k[self.untrusted]
        mild = shapes[shapes <= pareto.TRUSTED]
        said = []
        if len(mild):
            whose = "all" if len(mild) == len(shapes) else f"{len(mild):,} of them"
            needed = pareto.particles_for(mild.max().item())
            said.append(f"{needed:,} particles may do for {whose}.")
        if len(mild) < len(shapes):
            said.append(
                f"Above {pareto.TRUSTED} more particles will hardly help: refine the guide, or "
                "take annealed importance sampling."
            )
        return " ".join(said)

    def _annealed(self) -> Iterator[str]:
        """Compare the tightest bound with what the diagnostics found on the same data."""
        if not self.iwae:
            return
        k = max(self.iwae)
        for found in self.findings.values():
            # A seed is set anew for each measurement: both may have drawn the same numbers.
            yield from found.beside(self.iwae[k], k, independent=self.seed is None)

    def _dimensions_used(self) -> Iterator[str]:
        for site, divergence in self.kl_per_dimension.items():
            used = int((divergence.mean(0) > USED).sum())
            of = f"{used} of the {divergence.shape[1]} dimensions of {site}"
            yield f"KL above {USED} nats: {of}."

    def _dequantization(self) -> Iterator[str]:
        if self.of_whole_numbers:
            binary = "binary data" if self.domain is constraints.boolean else "whole numbers"
            bound = f"IWAE-{max(self.iwae)}" if self.iwae else "the ELBO"
            yield (
                f"Bits per dimension: {bound} of {binary}, {self._counted()} a datum; nothing is "
                "dequantized."
            )
        elif self.domain is not None and not isinstance(self.domain, constraints.stack):
            yield (
                "p(x) is a density: where x are 8-bit pixels, dequantized and divided by 256, "
                "report.bits_per_dimension(256) adds the 8 bits."
            )

    def _counted(self) -> str:
        """Say how many entries a datum has, or how many of them are observed on average."""
        if (self.entries == self.dimensions).all():
            return f"{self.dimensions:,}"
        mean = self.entries.double().mean().item()
        return f"of whose {self.dimensions:,} entries {mean:,.1f} are scored on average in"
