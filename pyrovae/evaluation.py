"""Report what a VAE is worth on data: bounds with two errors each, per datum and on average.

Every number comes from one set of log-weights [K, N]. A mean over data has an error over data
(how another test set would differ) and an error over particles (how another seed would differ).
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import rich.box
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from pyrovae import runs
from pyrovae.bounds import (
    Estimate,
    effective_sample_size,
    elbo_estimate,
    iwae_estimate,
    mean_estimate,
)
from pyrovae.data import Batches, Split, seeded
from pyrovae.kl import closed_form_rates
from pyrovae.vae import check_data, device_of, evaluation_mode, programs, safe_to_compile
from pyrovae.weights import (
    NUMBERS_PER_PASS,
    CompiledRun,
    Runner,
    cut_data,
    log_weight_terms,
    run,
)

KL_PARTICLES: Final = 10

COMPILED_FROM: Final = 2_000_000
"""The (particle, datum) pairs from which compiling, some seconds of it, pays by default."""


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; tensors have one entry per datum, in nats.

    Attributes:
        particles: K, the particles drawn for each datum.
        seed: the seed of the particles.
        seconds: the time it took.
        elbo: the evidence lower bound.
        iwae: the importance-weighted bound at each k.
        reconstruction: log p(x | z) under the guide, the negative distortion.
        monte_carlo_kl: the rate, KL(q || p), from the particles.
        closed_form_kl: the rate in closed form, or None where a site has none. Its error is zero
            unless a latent site depends on another.
        effective_sample_size: from 1 to K.
    """

    particles: int
    seed: int | None
    seconds: float
    elbo: Estimate
    iwae: dict[int, Estimate]
    reconstruction: Estimate
    monte_carlo_kl: Estimate
    closed_form_kl: Estimate | None
    effective_sample_size: Tensor

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The quantities by the names that the table prints."""
        named = {"ELBO": self.elbo}
        named |= {f"IWAE-{k}": estimate for k, estimate in self.iwae.items()}
        named |= {"reconstruction": self.reconstruction}
        if self.closed_form_kl is not None:
            named["KL, closed form"] = self.closed_form_kl
        return named | {"KL, Monte Carlo": self.monte_carlo_kl}

    def __str__(self) -> str:
        """Return the table."""
        out = io.StringIO()
        console = Console(
            file=out, width=72, force_terminal=False, force_jupyter=False, color_system=None
        )
        console.print(self._table())
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def to_json(self) -> dict[str, Any]:
        """Return means and errors as plain numbers; a number that is not known is None."""
        return {
            "data": len(self.elbo.value),
            "particles": self.particles,
            "seed": self.seed,
            "seconds": self.seconds,
            "unit": "nats",
            "effective_sample_size": self.effective_sample_size.cpu().double().mean().item(),
            "quantities": {
                name: {
                    "mean": _known(estimate.mean),
                    "error_over_data": _known(estimate.error_over_data),
                    "error_over_particles": _known(estimate.error_over_particles),
                }
                for name, estimate in self.estimates.items()
            },
        }

    def save(self, path: str | Path, **details: Any) -> None:
        """Write `to_json` to a .json file, and the numbers per datum beside it as safetensors.

        Args:
            path: of the .json file.
            **details: what else should stand there, such as the name of the data.

        Raises:
            OSError: if it cannot be written; files that were there stay.
        """
        path = Path(path)
        tensors = {"effective sample size": self.effective_sample_size}
        for name, estimate in self.estimates.items():
            tensors[name] = estimate.value
            tensors[f"{name}, standard error"] = estimate.standard_error
        runs.save_tensors(path.with_suffix(".safetensors"), tensors)
        runs.save_json(path, {**details, **self.to_json()})

    def _table(self) -> Table:
        ess = self.effective_sample_size.cpu().double()
        table = Table(
            box=rich.box.SIMPLE_HEAD,
            title=f"{len(ess):,} data, {self.particles:,} particles, nats per datum",
            caption=(
                f"effective sample size {ess.mean():.1f} on average, {ess.min():.1f} at worst"
            ),
        )
        table.add_column("")
        for column in ("mean", "± over data", "± over particles"):
            table.add_column(column, justify="right")
        for name, estimate in self.estimates.items():
            errors = (estimate.error_over_data, estimate.error_over_particles)
            table.add_row(name, f"{estimate.mean:.3f}", *(f"{error:.3f}" for error in errors))
        return table


@torch.no_grad()
def evaluate(
    target: Any,
    data: Any,
    *,
    particles: int = 1000,
    ks: Sequence[int] | None = None,
    batch_size: int = 100,
    seed: int | None = 0,
    compile: bool | None = None,
) -> Report:
    """Measure a VAE, or any pair of Pyro programs, on data.

    Args:
        target: a `VAE`, or a pair (model, guide) with a plate over data.
        data: whatever `fit` takes. A dynamic split is binarised once, whatever the seed, so that
            two reports are of the same pixels.
        particles: K, the particles for each datum.
        ks: the k of the importance-weighted bounds; by default 10, 100, 1,000, ... and K.
        batch_size: the data in memory at once; it does not change what is estimated.
        compile: whether the passes are compiled (see `weights.CompiledRun`); by default where
            there are 2,000,000 pairs of particle and datum or more, on the CPU, and the VAE is
            made of the library's parts.
        seed: of the particles alone; None draws from torch's generator as it stands.

    Raises:
        ValueError: for data that are empty, not finite or outside the likelihood's domain, a k
            above K, and as `log_weights`.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=100)
        >>> report.elbo.mean < report.iwae[10].mean < report.iwae[100].mean
        True
    """
    ks = _levels(particles) if ks is None else list(ks)
    _check_levels(ks, particles)
    started = time.perf_counter()
    data = _drawn(data)
    with evaluation_mode(target), seeded(seed):
        batches = Batches(data, batch_size, device=device_of(target))
        if compile is None:
            long = len(batches) * batch_size * particles >= COMPILED_FROM
            compile = long and safe_to_compile(target)
        runner = CompiledRun() if compile else run
        pieces = [
            _measure(target, batch, particles, ks, runner=runner)
            for batch in _progress(batches, f"evaluating with {particles:,} particles")
        ]
    elapsed = time.perf_counter() - started
    return Report(particles=particles, seed=seed, seconds=elapsed, **_concatenate(pieces))


def _drawn(data: Any) -> Any:
    """Fix the pixels of a dynamic split: they are the same whatever the seed of the particles."""
    if isinstance(data, tuple) and data and isinstance(data[0], Split):
        return (data[0].draw(), *data[1:])
    return data.draw() if isinstance(data, Split) else data


def _measure(
    target: Any, batch: tuple[Any, ...], particles: int, ks: Sequence[int], *, runner: Runner
) -> dict[str, Any]:
    x, *context = batch
    check_data(target, x)
    model, guide = programs(target)
    terms = log_weight_terms(model, guide, x, *context, particles=particles, runner=runner)
    log_w = terms.log_w
    return {
        "elbo": elbo_estimate(log_w),
        "iwae": {k: iwae_estimate(log_w, k) for k in ks},
        "reconstruction": mean_estimate(terms.log_likelihood),
        "monte_carlo_kl": mean_estimate(terms.rate),
        "closed_form_kl": _closed_form(model, guide, batch),
        "effective_sample_size": effective_sample_size(log_w),
    }


def _closed_form(model: Any, guide: Any, batch: tuple[Any, ...]) -> Estimate | None:
    x, *context = batch
    size = max(1, NUMBERS_PER_PASS // (KL_PARTICLES * max(256, x[0].numel())))
    try:
        rates = [
            closed_form_rates(model, guide, *part, particles=KL_PARTICLES)
            for part in cut_data(x, tuple(context), size)
        ]
    except ValueError:
        return None
    return mean_estimate(torch.cat(rates, dim=1))


def _concatenate(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    first = pieces[0]
    joined: dict[str, Any] = {
        name: _join([piece[name] for piece in pieces]) for name in first if name != "iwae"
    }
    joined["iwae"] = {k: _join([piece["iwae"][k] for piece in pieces]) for k in first["iwae"]}
    return joined


def _join(values: list[Any]) -> Any:
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Tensor):
        return torch.cat(values)
    return Estimate(
        torch.cat([value.value for value in values]),
        torch.cat([value.standard_error for value in values]),
    )


def _levels(particles: int) -> list[int]:
    powers = [10**i for i in range(1, 10) if 10**i < particles]
    return [*powers, particles] if particles > 1 else []


def _check_levels(ks: Sequence[int], particles: int) -> None:
    if particles < 1:
        raise ValueError(f"evaluate needs at least one particle; got particles={particles}")
    bad = [k for k in ks if not 1 <= k <= particles]
    if bad:
        raise ValueError(
            f"IWAE-k needs 1 <= k <= K; got k in {bad} with K = {particles}: draw more particles"
        )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _progress(batches: Batches, description: str) -> Iterable[Any]:
    return track(
        batches,
        description,
        total=len(batches),
        console=Console(stderr=True, force_jupyter=False),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
