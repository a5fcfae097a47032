"""Load the parameters that a training wrote for a pair of programs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pyrovae.runs.run import read_tensors
from pyrovae.runs.state import tensors_of
from pyrovae.types import ContextValue, Target

__all__ = ["load_parameters"]


def load_parameters(target: Target, folder: str | Path, x: Tensor, *context: ContextValue) -> None:
    """Load the parameters that `Checkpoint` wrote for a pair of programs.

    Args:
        target: the pair (model, guide), with the programs of the training.
        folder: the folder of the `Checkpoint`.
        x: a few data, on which the programs are run once, so that they make their parameters.
        *context: their context.

    Raises:
        ValueError: if the folder holds no parameters, or those of other programs.

    Example:
        >>> import tempfile, torch, pyrovae as pv
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.ones(20, 64)
        >>> pair = vae.model, vae.guide
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pv.fit(pair, x, epochs=1, callbacks=[pv.Checkpoint(folder)])
        ...     pv.load_parameters(pair, folder, x)
    """
    saved = read_tensors(Path(folder) / "model.safetensors")
    present = tensors_of(target, x, *context)
    if saved.keys() != present.keys():
        names = sorted(saved.keys() ^ present.keys())
        raise ValueError(
            f"{folder} and the programs do not have the same parameters; the first that only one "
            f"of them has is {names[0]!r}: give the programs of the training"
        )
    with torch.no_grad():
        for name, tensor in present.items():
            if tensor.shape != saved[name].shape:
                raise ValueError(
                    f"the saved {name!r} has shape {tuple(saved[name].shape)}; the programs' has "
                    f"{tuple(tensor.shape)}: give programs of the sizes of the training"
                )
            tensor.copy_(saved[name])
