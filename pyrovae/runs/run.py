"""A run is a folder that rebuilds its VAE, written so that nothing is ever half there.

    config.json          what rebuilds the VAE; the run's name, versions, seed, command
    model.safetensors    parameters and buffers; as "param store/NAME" those of Pyro's store,
                         as "held/NAME" buffers of modules that plain functions refer to
    metrics.jsonl        one line per epoch
    evaluation.json      the report, with evaluation.safetensors for its numbers per datum; one
                         that an interrupt ended is evaluation.partial.json, if there is another
    figures/*.png

Every file is written beside its place and moved into it, so a crash, an interrupt or a full disk
leaves the last good one. Loading reads JSON and safetensors: nothing is unpickled.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

import pyrovae
from pyrovae import guides, likelihoods, nets, priors
from pyrovae.data.datasets import Split
from pyrovae.files import (
    json_as_bytes,
    schemas,
    tensors_as_bytes,
    write_atomically,
    write_together,
)
from pyrovae.measure.saved_findings import SavedFinding, read_report
from pyrovae.parts import build
from pyrovae.randomness import Steps
from pyrovae.runs.sources import Source
from pyrovae.vae import VAE
from pyrovae.weights.target import keep_steps, steps_of

FORMAT: Final = 1

PARTS: Final = (guides, likelihoods, nets, priors)
"""Where the library's parts are defined: a process that has only loaded a run knows them too."""

NEVER_TRAINED: Final = (
    "No training is recorded in this run's folder: its parameters may be those that it was made "
    "with."
)

STORED: Final = "param store/"
"""What stands before the name of a parameter that lives in Pyro's store, unconstrained."""

STEPS: Final = "fit/seed and steps"
"""The name of what the next training draws from, where there was one with a seed."""

EVALUATION: Final = "evaluation.json"
"""The file of a run's evaluation, which is complete if one ever was."""

HELD: Final = "held/"
"""What stands before the name of a buffer of a module that a plain function refers to."""


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    Attributes:
        folder: where the files are.
    """

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` holds.

        The model holds it too, and the metrics: one rename makes all three those of one state.
        Where a process was killed before it could bring the other files up to date, the model's
        are read.

        Raises:
            ValueError: if the folder is missing or half-written, or has another format.
        """
        kept = self._kept()
        if kept is not None and not (self.folder / "config.json").exists():
            return dict(kept["config"])
        config = _read_config(self.folder)
        if kept is not None and kept["config"].get("run") != config.get("run"):
            return dict(kept["config"])
        return config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The epochs of `metrics.jsonl`; none where the run was not trained here.

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
        """Return what the model's file holds beside its tensors, if it is there and whole."""
        try:
            with safetensors.safe_open(self._model, framework="pt") as file:
                return schemas.kept(json.loads((file.metadata() or {})["run"]))
        except (KeyError, OSError, ValueError, RecursionError, safetensors.SafetensorError):
            return None

    @property
    def source(self) -> Source:
        """The data that the run was trained on, as its configuration records them.

        Raises:
            ValueError: if there is no run, or it records its data otherwise.
        """
        recorded = self.config.get("data")
        try:
            return Source.read(recorded)
        except ValueError as error:
            raise ValueError(
                f"the run in {self.folder} records its data otherwise: {error}"
            ) from error

    def load_vae(self, **programs: Callable[..., Any]) -> VAE:
        """Rebuild the VAE, whose parameters are all numbers.

        Args:
            **programs: `prior`, `likelihood` or `guide` in place of a recorded one, where that
                was a program of your own (see `load`).

        Raises:
            ValueError: as `load`, and if a tensor of the model is NaN.
        """
        vae = load(self.folder, **programs)
        names = [name for name, tensor in vae.state_dict().items() if tensor.isnan().any()]
        if names:
            raise ValueError(
                f"the model in {self.folder} is NaN in {len(names)} tensors, the first "
                f"{names[0]!r}: its training diverged, or the file is damaged; train again, at a "
                "smaller rate"
            )
        return vae

    def data(self, split: str = "test", *, limit: int | None = None) -> Split:
        """Load a split of the data that the run was trained on, or the first rows of it.

        Raises:
            ValueError: if the run records no data set.
        """
        return self.source.split(split, limit=limit)

    def evaluation(self) -> SavedFinding:
        """Read the run's evaluation.

        Raises:
            ValueError: if there is no run, it was not evaluated, or not by this version.
        """
        path, again = self.folder / EVALUATION, f"run `pyrovae evaluate {self.folder}`"
        if not path.exists():
            _ = self.config  # which says so where there is no run either
            raise ValueError(f"the run in {self.folder} has no evaluation: {again}")
        saved = read_report(path)
        of_run = saved.said.get("run")
        known = (self.folder / "config.json").exists()
        if of_run is not None and known and of_run != self.config.get("run"):
            raise ValueError(f"{path} is of a run that was written over since: {again}")
        missing = {"title", "verdict", "partial", "data"} - saved.said.keys()
        if missing:
            lacks = " and no ".join(sorted(missing))
            raise ValueError(f"{path} has no {lacks}, as another version wrote it: {again}")
        return saved

    def check_writable(self) -> None:
        """Find out, before long work, whether its result can be written.

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
                f"cannot write to {self.folder} ({why}): copy the run to where you can, and "
                "measure it there",
            ) from error
        probe.unlink()

    def save(self, vae: VAE, **details: Any) -> dict[str, Any]:
        """Write a new run: the VAE, what rebuilds it, versions, the command, `details`.

        Returns:
            The configuration, to be given to `save_epochs`.
        """
        named = {"run": secrets.token_hex(8)}
        config = {"format": FORMAT, **named, **provenance(), "vae": vae.config, **details}
        self.save_epochs(vae, config, ())
        return config

    def save_epochs(
        self, vae: VAE, config: dict[str, Any], epochs: Iterable[dict[str, Any]]
    ) -> None:
        """Write the state of a run: tensors that parts share once, one line for each epoch."""
        lines = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
        state = {"run": json.dumps({"config": config, "metrics": lines})}
        contents = {
            self._model: tensors_as_bytes(_whole_state(vae), state),
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
        """Return where the figure of a name belongs, its folder made.

        Raises:
            ValueError: if its folder is a link that leads out of the run.
        """
        path = self.folder / "figures" / f"{name}.png"
        if path.parent.is_symlink():
            raise ValueError(
                f"{path.parent} is a link to {path.parent.resolve()}, and a run writes into its "
                "own folder alone: remove the link"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def save(vae: VAE, folder: str | Path, **details: Any) -> Run:
    """Write a VAE to a run's folder.

    Args:
        vae: the VAE. Parts of the library, and your own that derive from `pyrovae.parts.Part`,
            are rebuilt by `load`; other programs are recorded by name and passed to `load`.
        folder: made if it is not there.
        **details: whatever else JSON can hold that should stand in `config.json`: seed, data.

    Raises:
        ValueError: for what is no VAE.
        OSError: if the disk is full or the folder cannot be written; what was there stays.

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
            "compose one, pv.VAE(prior, likelihood, guide)"
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
        folder: as given to `save`.
        prior: in place of the recorded one, where that was a program of your own.
        likelihood: likewise.
        guide: likewise.

    Raises:
        ValueError: if the folder is missing, half-written or of another format, if a part is a
            program of your own that is not passed in, or if a tensor is missing, left over or of
            another shape.
    """
    folder = Path(folder)
    config = Run(folder).config
    given = {"prior": prior, "likelihood": likelihood, "guide": guide}
    shared = _shared(config["vae"], given)
    parts = {
        role: _rebuild(folder, role, config["vae"], shared) if part is None else part
        for role, part in given.items()
    }
    vae = VAE(**parts)
    _restore(vae, _read_tensors(folder / "model.safetensors"))
    return vae


def provenance() -> dict[str, Any]:
    """Return when, by which command and with which versions a file is written."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "pyro-ppl")}
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": {
            "pyrovae": pyrovae.__version__,
            "python": platform.python_version(),
            **packages,
        },
    }


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ValueError(
            f"no run's folder at {folder}: train one with `pyrovae train`, or pv.save"
        )
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no run, or half-written: it has no config.json") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is half-written or damaged: {error}") from error
    met = config.get("format") if isinstance(config, dict) else None
    if met != FORMAT:
        raise ValueError(
            f"{path} has format {met!r}, but pyrovae {pyrovae.__version__} reads format {FORMAT}: "
            "load it with the version that wrote it (see its 'versions')"
        )
    parts = config.get("vae")
    missing = {"prior", "likelihood", "guide"} - set(parts if isinstance(parts, dict) else {})
    if missing:
        raise ValueError(f"{path} is damaged: it records no {' and no '.join(sorted(missing))}")
    try:
        return schemas.config(config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _shared(recorded: dict[str, Any], given: dict[str, Any]) -> dict[int, Any]:
    """Return the given programs by their numbers: other parts share them in place of a new one."""
    shared = {}
    for role, part in given.items():
        record = recorded[role]
        number = record.get("shared") if isinstance(record, dict) else None
        if part is not None and number is not None:
            shared[number] = part
    return shared


def _rebuild(folder: Path, role: str, recorded: dict[str, Any], shared: dict[int, Any]) -> Any:
    try:
        schemas.check_sizes(recorded[role], _numbers_in(folder / "model.safetensors"))
        part = build(recorded[role], shared)
        if not callable(part):
            raise ValueError(f"it is recorded as {part!r}, which is no program")
        return part
    except Exception as error:  # of any part's constructor, given what a damaged file says
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot rebuild the {role} of {folder}: {said}: pyrovae.load(folder, {role}=...)"
        ) from error


def _numbers_in(path: Path) -> int:
    """Return how many numbers a model's file holds; each takes a byte at least."""
    return path.stat().st_size if path.exists() else 0


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} is half-written: it has no {path.name}") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is half-written or damaged: {error}") from error


def _whole_state(vae: VAE) -> dict[str, Tensor]:
    """Return every tensor that makes the VAE what it is, by the names in the file.

    Raises:
        ValueError: if a module keeps something else beside its tensors.
    """
    tensors = vae.state_dict().items()
    further = [name for name, value in tensors if not isinstance(value, Tensor)]
    if further:
        raise ValueError(
            f"a run's folder holds tensors, and {further} are what modules keep beside theirs "
            "(get_extra_state): hold it in a buffer, self.register_buffer(name, tensor)"
        )
    stored = {f"{STORED}{name}": value for name, value in vae.stored.values().items()}
    return _distinct_state(vae) | stored | _held_buffers(vae) | _steps(vae)


def _steps(vae: VAE) -> dict[str, Tensor]:
    steps = steps_of(vae)
    if not steps.taken or steps.seed is None or not -(2**63) <= steps.seed < 2**63:
        return {}
    return {STEPS: torch.tensor([steps.seed, steps.taken])}


def _held_buffers(vae: VAE) -> dict[str, Tensor]:
    """Return the persistent buffers of modules that functions refer to, each once."""
    met, found = {id(buffer) for buffer in vae.buffers()}, {}
    for held, module in vae.held.items():
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept and id(buffer) not in met:
                met.add(id(buffer))
                found[f"{HELD}{held}.{name}"] = buffer
    return found


def _distinct_state(vae: VAE) -> dict[str, Tensor]:
    distinct = {name for name, _ in (*vae.named_parameters(), *vae.named_buffers())}
    return {name: value for name, value in vae.state_dict().items() if name in distinct}


def _fits(wanted: Tensor, saved: Tensor) -> bool:
    """Tell whether the sizes agree; one that a part has yet to take from data, 0, is any size."""
    same_axes = wanted.ndim == saved.ndim
    return same_axes and all(w in (0, s) for w, s in zip(wanted.shape, saved.shape, strict=True))


def _make_deferred(vae: VAE) -> None:
    """Make the parameters that Pyro modules declare by methods, and make when first asked."""
    for module in [module for module in vae.modules() if isinstance(module, PyroModule)]:
        for kind in type(module).__mro__:
            for name in [name for name, v in vars(kind).items() if isinstance(v, PyroParam)]:
                getattr(module, name)


def _restore(vae: VAE, saved: dict[str, Tensor]) -> None:
    stored = {name for name in saved if name.startswith(STORED)}
    vae.stored.load({name.removeprefix(STORED): saved.pop(name) for name in stored})
    steps = saved.pop(STEPS, None)
    if steps is not None and steps.shape == (2,) and steps.dtype == torch.int64:
        keep_steps(vae, Steps(*steps.tolist()))
    _make_deferred(vae)
    held = _held_buffers(vae)
    wanted = _distinct_state(vae) | held
    for problem, names in (
        ("lacks", sorted(wanted.keys() - saved.keys())),
        ("has besides", sorted(saved.keys() - wanted.keys())),
    ):
        if names:
            raise ValueError(
                f"the saved model {problem} the tensors {names}: are the parts others?"
            )
    for name, tensor in wanted.items():
        if not _fits(tensor, saved[name]):
            raise ValueError(
                f"the saved tensor '{name}' has shape {tuple(saved[name].shape)}; the VAE wants "
                f"{tuple(tensor.shape)}: the run was made with parts of another size"
            )
        if tensor.is_floating_point() != saved[name].is_floating_point():
            raise ValueError(
                f"the saved tensor '{name}' has {saved[name].dtype}; the VAE wants {tensor.dtype}"
            )
    with torch.no_grad():
        for name, tensor in (*vae.named_parameters(), *vae.named_buffers(), *held.items()):
            if name in saved:
                tensor.data = saved[name].to(tensor.device)
