"""A report read again from its two files: JSON for what it said, tensors for what is per datum."""

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
from pyrovae.measure.findings import Finding, Number, Quantity
from pyrovae.weights.bounds import Estimate


@final
@dataclass(frozen=True, repr=False)
class SavedFinding(Finding):
    """A report, or what is within it, read from its files: it prints as it did.

    Attributes:
        said: what the .json file holds.
        saved: the tensors per datum by their names.
        findings: what was found within it.
    """

    said: dict[str, Any]
    saved: dict[str, Tensor]
    findings: Mapping[str, Finding] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The title that the report had."""
        return str(self.said["title"])

    @property
    def partial(self) -> bool:
        """Whether an interrupt left something out."""
        return bool(self.said["partial"])

    @property
    def quantities(self) -> dict[str, Quantity]:
        """The lines of the table by their names."""
        return {
            name: Estimate(self.saved[name], self.saved[f"{name}, standard error"])
            if name in self.saved
            else Number(*(math.nan if value is None else value for value in numbers.values()))
            for name, numbers in self.said["quantities"].items()
        }

    @property
    def remarks(self) -> Sequence[str]:
        """What stood above the table."""
        return list(self.said.get("remarks", ()))

    @property
    def verdict(self) -> Sequence[str]:
        """The sentences that the report had."""
        return list(self.said["verdict"])

    @property
    def per_datum(self) -> dict[str, Tensor]:
        """The tensors that are no estimate's."""
        own = {name + end for name in self.quantities for end in ("", ", standard error")}
        return {name: tensor for name, tensor in self.saved.items() if name not in own}

    @property
    def particles(self) -> int:
        """K, the particles that were drawn for each datum."""
        return int(self.said["particles"])

    @property
    def seed(self) -> int | None:
        """The seed of the particles."""
        return self.said.get("seed")

    @property
    def point_masses(self) -> tuple[str, ...]:
        """The guide's sites that are Deltas, with which log-weights are no bounds."""
        return tuple(self.said.get("point_masses", ()))

    @property
    def fingerprint(self) -> Tensor | None:
        """A hash of each datum and of its context, [N, 2]; None where it was not kept."""
        return self.saved.get("fingerprint")


def read_report(path: str | Path) -> SavedFinding:
    """Read what `report.save(path)` wrote: a .json file and the .safetensors file beside it.

    Args:
        path: of the .json file.

    Raises:
        ValueError: if one of the two is missing, damaged, or not of the other.

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
            f"a saved report is the two files {path.name} and {beside.name} in {path.parent}, of "
            "which one is missing: write them with report.save(path)"
        ) from error
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} or {beside.name} is half-written or damaged: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} and {beside.name} are not of one report: {error}") from error
    if report.said.get("tensors", digest) != digest:
        raise ValueError(
            f"{beside} is not the file that {path.name} was written with, as when a measurement "
            "was killed while it wrote: they are not of one report; measure again"
        )
    if lengths != {report.said.get("data")}:
        raise ValueError(
            f"{path} tells of {report.said.get('data')} data, {beside.name} of {sorted(lengths)}: "
            "they are not of one report"
        )
    return report


def _saved(said: dict[str, Any], tensors: dict[str, Tensor]) -> SavedFinding:
    """Rebuild a finding and those within it, whose tensors have their names before a slash."""
    within = {}
    for name, inner in said.get("findings", {}).items():
        start = f"{name}/"
        theirs = {key: tensors[key] for key in tensors if key.startswith(start)}
        tensors = {key: tensor for key, tensor in tensors.items() if key not in theirs}
        theirs = {key.removeprefix(start): tensor for key, tensor in theirs.items()}
        within[name] = _saved(inner, theirs)
    return SavedFinding(said, tensors, within)


def estimates_of(report: Finding) -> dict[str, Estimate]:
    """Return the quantities that are means over data."""
    found = report.quantities.items()
    return {name: quantity for name, quantity in found if isinstance(quantity, Estimate)}
