"""Read a saved report from its two files.

The .json file holds title, means, errors and verdict; the .safetensors file beside it holds the
per-datum tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import safetensors
import safetensors.torch
from torch import Tensor

from pyrovae.files import schemas
from pyrovae.measure.findings import COLUMNS, Finding, Number, Quantity, estimates_of
from pyrovae.measure.to_arviz import to_arviz
from pyrovae.weights.bounds import Estimate

__all__ = ["SavedFinding", "of_dimensions", "read_report"]


def of_dimensions(site: str) -> str:
    """Return the name of a site's KL per dimension among the per-datum tensors."""
    return f"KL per dimension, {site}"


@final
@dataclass(frozen=True, repr=False)
class SavedFinding(Finding):
    """A saved report, or one of its nested findings; it prints as the original did.

    Attributes:
        said: the content of the .json file.
        saved: the per-datum tensors by name.
        findings: the nested findings by name.
    """

    said: dict[str, Any]
    saved: dict[str, Tensor]
    findings: Mapping[str, Finding] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title of the saved finding."""
        return str(self.said["title"])

    @property
    def subject(self) -> str:
        """The title without the unit."""
        return str(self.said.get("subject") or self.title)

    @property
    def partial(self) -> bool:
        """Whether an interrupt left the measurement incomplete."""
        return bool(self.said["partial"])

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The lines of the table, by name."""
        return {
            name: Estimate(self.saved[name], self.saved[f"{name}, standard error"])
            if name in self.saved
            else _number(numbers)
            for name, numbers in self.said["quantities"].items()
        }

    @property
    def remarks(self) -> Sequence[str]:
        """The warnings printed above the table."""
        return list(self.said.get("remarks", ()))

    @property
    def verdict(self) -> Sequence[str]:
        """The sentences of the saved verdict."""
        return list(self.said["verdict"])

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The per-datum tensors, without those of the estimates, by name."""
        own = {name + end for name in self.quantities for end in ("", ", standard error")}
        return {name: tensor for name, tensor in self.saved.items() if name not in own}

    @property
    def particles(self) -> int:
        """K, the number of particles for each datum."""
        return int(self.said["particles"])

    @property
    def seed(self) -> int | None:
        """The seed of the particles; None if it was not set."""
        return self.said.get("seed")

    @property
    def point_masses(self) -> tuple[str, ...]:
        """The sites at which the guide is a Delta, so that the log-weights give no bounds."""
        return tuple(self.said.get("point_masses", ()))

    @property
    def bounds(self) -> dict[str, int]:
        """The number of particles k in each bound, by its name in the table."""
        return dict(self.said.get("bounds", {}))

    @property
    def kl_per_dimension(self) -> dict[str, Tensor]:
        """The closed-form KL of each dimension, [N, D], by site."""
        sites = self.said.get("kl_per_dimension", {})
        return {site: self.saved[of_dimensions(site)] for site in sites}

    to_arviz = to_arviz

    @property
    def fingerprint(self) -> Tensor | None:
        """A hash of each datum and of its context, [N, 2]; None if the file has none."""
        return self.saved.get("fingerprint")


def _number(numbers: Mapping[str, Any]) -> Number:
    """Return the number that a finding wrote as JSON; NaN for what it does not know."""
    infinite = numbers.get("infinite", {})
    values = (numbers[name] for name in COLUMNS)
    return Number(
        *(
            float(infinite.get(name, math.nan)) if value is None else value
            for name, value in zip(COLUMNS, values, strict=True)
        )
    )


def read_report(path: str | Path) -> SavedFinding:
    """Read a report that was saved by `report.save(path)`.

    Args:
        path: the path of the .json file; the .safetensors file is read from beside it.

    Raises:
        ValueError: if one of the two files is missing or damaged, or if they belong to different
            reports.

    Example:
        >>> import tempfile, torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=20)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report.save(f"{folder}/evaluation.json")
        ...     again = pv.read_report(f"{folder}/evaluation.json")
        >>> again.quantities["ELBO"].mean == report.elbo.mean
        True
    """
    path = Path(path)
    beside = path.with_suffix(".safetensors")
    try:
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        said = schemas.report(json.loads(path.read_text()))
        report = _saved(said, safetensors.torch.load_file(beside))
        lengths = {len(estimate.value) for estimate in estimates_of(report).values()}
    except FileNotFoundError as error:
        raise ValueError(
            f"a saved report consists of {path.name} and {beside.name} in {path.parent}; one is "
            "missing: write both with report.save(path)"
        ) from error
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} or {beside.name} is half-written or damaged: {error}: measure again"
        ) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} and {beside.name} are not of one report: {error}: measure again"
        ) from error
    if report.said.get("tensors", digest) != digest:
        raise ValueError(
            f"{beside} is not the file that was saved with {path.name}, perhaps because the "
            "process was killed while saving: they are not of one report; measure again"
        )
    if lengths != {report.said.get("data")}:
        raise ValueError(
            f"{path} has {report.said.get('data')} data, {beside.name} has {sorted(lengths)}: "
            "they are not of one report; measure again"
        )
    return report


def _saved(said: dict[str, Any], tensors: dict[str, Tensor]) -> SavedFinding:
    """Rebuild a finding and its nested findings, whose tensors are named "finding/tensor"."""
    within = {}
    for name, inner in said.get("findings", {}).items():
        start = f"{name}/"
        theirs = {key for key in tensors if key.startswith(start)}
        within[name] = _saved(inner, {key.removeprefix(start): tensors[key] for key in theirs})
        tensors = {key: tensor for key, tensor in tensors.items() if key not in theirs}
    return SavedFinding(said, tensors, within)
