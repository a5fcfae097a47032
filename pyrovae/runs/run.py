"""Save a VAE and its training in a folder, the run, and load them back.

    config.json          the record of the VAE's parts; the run's name, versions, seed, command
    model.safetensors    parameters, buffers and other tensors (see `pyrovae.runs.state`)
    metrics.jsonl        one line per epoch
    evaluation.json      the report; evaluation.safetensors holds its values per datum. If an
                         evaluation is interrupted while a complete one exists, its report is
                         evaluation.partial.json
    factors.json         which latent unit holds which factor
    checkpoints/         states of the training (see `pyrovae.runs.checkpoints`)
    figures/*.png

Each file is written under a temporary name and renamed. After a crash, an interrupt or a full
disk, the last complete file remains. Loading reads JSON and safetensors; it unpickles nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Final

import safetensors
import safetensors.torch
from torch import Tensor

from pyrovae.data.datasets import Split
from pyrovae.data.table import Table
from pyrovae.data.text import Vocabulary
from pyrovae.files import (
    json_as_bytes,
    schemas,
    tensors_as_bytes,
    write_atomically,
    write_together,
)
from pyrovae.measure.disentanglement.assignment import Assignment
from pyrovae.measure.disentanglement.saved import FACTORS, read_assignment, read_factors
from pyrovae.measure.saved_findings import SavedFinding, read_report
from pyrovae.runs.record import FORMAT, check_details, provenance, read_config, rebuild
from pyrovae.runs.sources import Source
from pyrovae.runs.state import collected, parameters_hash, restore
from pyrovae.vae import VAE

__all__ = ["EVALUATION", "NEVER_TRAINED", "Run", "load", "read_tensors", "save"]

NEVER_TRAINED: Final = (
    "No training is recorded in this run's folder: its parameters may be the initial ones."
)

EVALUATION: Final = "evaluation.json"
"""The file of a run's evaluation. A partial evaluation never replaces a complete one."""


@dataclass(frozen=True, init=False)
class Run:
    """The folder of one run.

    Attributes:
        folder: the path of the folder.

    Example:
        >>> import tempfile, pyrovae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pv.save(pv.mlp_vae(64, latents=2, hidden=16), folder, seed=0)
        ...     run.config["seed"], run.load_vae().sample(3).shape
        (0, torch.Size([3, 64]))
    """

    folder: Path

    def __init__(self, folder: str | Path) -> None:
        object.__setattr__(self, "folder", Path(folder))

    @property
    def config(self) -> dict[str, Any]:
        """The content of `config.json`.

        `model.safetensors` holds a copy of the configuration and of the metrics, so that a single
        rename updates all three together. If a process was killed before it updated the other
        files, the copies are returned.

        Raises:
            ValueError: if the folder is missing or incomplete, or has another format.
        """
        kept = self._kept()
        if kept is not None and not (self.folder / "config.json").exists():
            return dict(kept["config"])
        config = read_config(self.folder)
        if kept is not None and kept["config"].get("run") != config.get("run"):
            return dict(kept["config"])
        return config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The epochs in `metrics.jsonl`; an empty list if no training is recorded.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / "metrics.jsonl"
        text = path.read_text(errors="replace") if path.is_file() else ""
        kept = self._kept()
        if kept is not None and kept["metrics"].count("\n") != text.count("\n"):
            text = kept["metrics"]
        try:
            return [schemas.epoch(json.loads(line)) for line in text.splitlines()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is half-written or damaged: {error}") from error

    def _kept(self) -> dict[str, Any] | None:
        """Return the metadata of the model's file; None if the file is missing or damaged."""
        try:
            with safetensors.safe_open(self._model, framework="pt") as file:
                return schemas.kept(json.loads((file.metadata() or {})["run"]))
        except (KeyError, OSError, ValueError, RecursionError, safetensors.SafetensorError):
            return None

    @property
    def source(self) -> Source:
        """The data set that the run was trained on, read by the vocabulary that was saved.

        Raises:
            ValueError: if there is no run, or if its record of the data is invalid.
        """
        config = self.config
        words = config.get("vocabulary")
        coded = {} if words is None else {"vocabulary": words}
        try:
            source = Source.read(config.get("data"))
            return replace(source, reading={**coded, **source.reading})
        except ValueError as error:
            raise ValueError(
                f"the run in {self.folder} has an invalid record of its data: {error}"
            ) from error

    @property
    def table(self) -> Table | None:
        """The schema of the frame that the run was trained on; None if it was no frame.

        Raises:
            ValueError: if there is no run, or if its record of the table is damaged.
        """
        recorded = self.config.get("table")
        if recorded is None and isinstance(self.source.reading.get("table"), dict):
            recorded = self.source.reading["table"]
        try:
            return None if recorded is None else Table.from_record(recorded)
        except ValueError as error:
            raise ValueError(f"the run in {self.folder} cannot decode: {error}") from error

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary of the texts that the run was trained on; None if they were no texts.

        Raises:
            ValueError: if there is no run, or if its record of the vocabulary is damaged.
        """
        recorded = self.source.reading.get("vocabulary")
        try:
            return None if recorded is None else Vocabulary.from_record(recorded)
        except ValueError as error:
            raise ValueError(f"the run in {self.folder} cannot decode: {error}") from error

    def load_vae(self, **programs: Callable[..., Any]) -> VAE:
        """Rebuild the VAE, and check that no parameter is NaN.

        Args:
            **programs: `prior`, `likelihood` or `guide`, to replace the recorded one (see
                `load`). Required if it is a program of your own.

        Raises:
            ValueError: as `load`, and if a tensor of the model contains NaN.
        """
        vae = load(self.folder, **programs)
        names = [name for name, tensor in vae.state_dict().items() if tensor.isnan().any()]
        if names:
            raise ValueError(
                f"the model in {self.folder} is NaN in {len(names)} tensors, the first "
                f"{names[0]!r}: its training diverged, or the file is damaged; train again with a "
                "smaller learning rate"
            )
        return vae

    def data(self, split: str = "test", *, limit: int | None = None) -> Split:
        """Load a split of the data set that the run was trained on, or its first `limit` rows.

        Raises:
            ValueError: if the run records no data set.
        """
        return self.source.split(split, limit=limit)

    def evaluation(self) -> SavedFinding:
        """Read the run's evaluation.

        Raises:
            ValueError: if there is no run or no evaluation, or if another version wrote it.
        """
        path = self.folder / EVALUATION
        again = f"run `pyrovae evaluate {quote(str(self.folder))}`"
        if not path.exists():
            _ = self.config  # raises if there is no run either
            raise ValueError(f"the run in {self.folder} has no evaluation: {again}")
        saved = read_report(path)
        of_run = saved.said.get("run")
        known = (self.folder / "config.json").exists()
        if of_run is not None and known and of_run != self.config.get("run"):
            raise ValueError(f"{path} belongs to a run that was overwritten since: {again}")
        if not self._has_parameters_of(saved.said):
            raise ValueError(f"{path} is of earlier parameters, and the run has others: {again}")
        missing = {"title", "verdict", "partial", "data"} - saved.said.keys()
        if missing:
            lacks = " and no ".join(sorted(missing))
            raise ValueError(f"{path} has no {lacks}: another version wrote it; {again}")
        return saved

    def assignment(self) -> Assignment | None:
        """Read which latent unit holds which factor, as `pyrovae factors` found.

        Returns:
            The assignment; None if there is none, or only one of a run that was overwritten
            since, or of earlier parameters.

        Raises:
            ValueError: if the file is damaged.
        """
        path = self.folder / FACTORS
        if not path.is_file():
            return None
        said = read_factors(path)
        if said.get("run") != self.config.get("run") or not self._has_parameters_of(said):
            return None
        return read_assignment(path)

    @property
    def parameters_hash(self) -> str | None:
        """A hash of the model's tensors, which results of them record.

        None if the model's file is missing or damaged.
        """
        return parameters_hash(self._model)

    def _has_parameters_of(self, said: Mapping[str, Any]) -> bool:
        """Tell whether results are of the present parameters, as far as they say."""
        of = said.get("parameters")
        return of is None or self.parameters_hash in (None, of)

    def check_writable(self) -> None:
        """Check that the folder can be written to, before a long computation.

        Raises:
            OSError: if it cannot.
        """
        probe = self.folder / ".writable"
        try:
            write_atomically(probe, b"")
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise OSError(
                error.errno,
                f"cannot write to {self.folder} ({why}): copy the run to a folder that you can "
                "write to, and evaluate it there",
            ) from error
        probe.unlink()

    def save(self, saved: Saved, **details: Any) -> dict[str, Any]:
        """Write a new run: the tensors, the configuration and `details`.

        Args:
            saved: a VAE, or the tensors of a pair of programs by name.
            **details: further entries of `config.json`.

        Returns:
            The configuration, which `save_epochs` takes.

        Raises:
            ValueError: if a module has extra state that is not a tensor, or a run with these
                entries could not be read (see `check_details`).
            OSError: if a file cannot be written.
        """
        check_details(details)
        named = {"run": secrets.token_hex(8)}
        parts = saved.config if isinstance(saved, VAE) else None
        config = {"format": FORMAT, **named, **provenance(), "vae": parts, **details}
        self.save_epochs(saved, config, ())
        return config

    def save_epochs(
        self, saved: Saved, config: dict[str, Any], epochs: Iterable[dict[str, Any]]
    ) -> None:
        """Write the tensors, the configuration and one line of metrics per epoch.

        Raises:
            ValueError: if a module has extra state that is not a tensor.
            OSError: if a file cannot be written.
        """
        lines = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
        state = {"run": json.dumps({"config": config, "metrics": lines})}
        contents = {
            self._model: tensors_as_bytes(
                collected(saved) if isinstance(saved, VAE) else saved, state
            ),
            self.folder / "config.json": json_as_bytes(config),
        }
        metrics = self.folder / "metrics.jsonl"
        if lines:
            contents[metrics] = lines.encode()
        write_together(contents)
        if not lines:
            metrics.unlink(missing_ok=True)

    @property
    def _model(self) -> Path:
        return self.folder / "model.safetensors"

    def figure(self, name: str) -> Path:
        """Return the path of a figure, and create its folder.

        Raises:
            ValueError: if the folder is a symbolic link.
        """
        path = self.folder / "figures" / f"{name}.png"
        if path.parent.is_symlink():
            raise ValueError(
                f"{path.parent} is a link to {path.parent.resolve()}, but a run writes only to "
                "its own folder: remove the link"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


Saved = VAE | Mapping[str, Tensor]


def save(vae: VAE, folder: str | Path, **details: Any) -> Run:
    """Write a VAE to a run's folder.

    Args:
        vae: the VAE. `load` rebuilds parts of the library, and your own parts that derive from
            `pyrovae.parts.Part`. Other programs are recorded by name and must be passed to
            `load`.
        folder: the folder, which is created if it does not exist.
        **details: further entries of `config.json`, such as the seed, as JSON values.

    Returns:
        The run.

    Raises:
        ValueError: if `vae` is not a VAE, if a module has extra state that is not a tensor, or if
            a detail has the name of an entry that the library writes, but another type.
        OSError: if a file cannot be written; existing files are left unchanged.

    Example:
        >>> import tempfile, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pv.save(vae, folder, seed=0)
        ...     again = pv.load(folder)
        >>> all((a == b).all() for a, b in zip(vae.parameters(), again.parameters()))
        True
    """
    if not isinstance(vae, VAE):
        raise ValueError(
            f"a run holds a VAE, which is rebuilt from its parts; got {type(vae).__name__}: "
            "compose one with pyrovae.VAE(prior, likelihood, guide)"
        )
    run = Run(Path(folder))
    run.save(vae, **details)
    return run


def load(
    folder: str | Path,
    *,
    prior: Callable[..., Any] | None = None,
    likelihood: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
) -> VAE:
    """Rebuild the VAE of a run's folder.

    Args:
        folder: the folder that was passed to `save`.
        prior: a program that replaces the recorded prior. Required if the prior is a program of
            your own that is not a `pyrovae.parts.Part`.
        likelihood: likewise.
        guide: likewise.

    Returns:
        The VAE, on the CPU.

    Raises:
        ValueError: if the folder is missing or incomplete or has another format, if a program of
            your own is not passed in, or if a tensor is missing, left over or of another shape.

    Example:
        >>> import tempfile, pyrovae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pv.save(pv.mlp_vae(64, latents=2, hidden=16), folder)
        ...     pv.load(folder).sample(5).shape
        torch.Size([5, 64])
    """
    folder = Path(folder)
    config = Run(folder).config
    if config["vae"] is None:
        raise ValueError(
            f"{folder} holds the parameters of a pair (model, guide), which cannot be rebuilt: "
            "give the pair, pyrovae.load_parameters((model, guide), folder)"
        )
    given = {"prior": prior, "likelihood": likelihood, "guide": guide}
    path = folder / "model.safetensors"
    size = path.stat().st_size if path.exists() else 0
    vae = VAE(**rebuild(folder, config["vae"], given, size))
    restore(vae, read_tensors(path))
    return vae


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a run's model.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is half-written: it has no {path.name}") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is half-written or damaged: {error}") from error
