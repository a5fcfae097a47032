"""Build the optimizer of an experiment, from the tables [optimizer] and [training]."""

from __future__ import annotations

from typing import Any

import torch

from pyrovae.cli import names
from pyrovae.cli.experiment import Training, named
from pyrovae.train import learning_rates
from pyrovae.train.learning_rates import LearningRate
from pyrovae.train.muon import Muon
from pyrovae.train.optim import Optim, by_adam

__all__ = ["KNOWN", "check", "optimizer"]

KNOWN = tuple(
    name
    for name in sorted(vars(torch.optim))
    if name[0].isupper() and name not in ("LBFGS", "Optimizer", "SparseAdam")
)
"""The classes of `torch.optim` that take steps by themselves, of gradients that are not sparse."""


def optimizer(table: Any, settings: Training, steps: int) -> Optim:
    """Build an optimizer.

    Args:
        table: the table [optimizer]: a class of `torch.optim` as `name`, its arguments, and
            `groups`, a table of such tables by patterns of names. Without groups, Muon takes the
            weight matrices and Adam the rest, as in `Optim.muon`.
        settings: the table [training], for the learning rate.
        steps: the number of steps of the training, for schedules that do not give it.

    Raises:
        ValueError: naming the entry that is unknown or has no place here.

    Example:
        >>> table = {"name": "AdamW", "groups": {"*.bias": {"weight_decay": 0.0}}}
        >>> optimizer(table, Training(lr="cosine:0.001:10"), 100).learning_rate
        0.0001
    """
    entries = dict(named(table))
    length = steps if settings.lr_per == "step" else settings.epochs
    if "lr" in entries:
        raise ValueError("optimizer.lr: the learning rate is an entry of [training]: --lr")
    groups: dict[Any, Any] = {
        pattern: _group(pattern, group, length)
        for pattern, group in named(entries.pop("groups", {})).items()
    }
    kind = _class(entries.pop("name", "Adam"))
    if kind is Muon and not groups:
        groups = dict(by_adam(length))
    rate = _rate(settings.lr, length)
    return Optim(kind, lr=rate, per=settings.lr_per, groups=groups, **entries)


def _group(pattern: str, table: Any, length: int) -> dict[str, Any]:
    entries = dict(named(table))
    if not entries:
        raise ValueError(f"the group {pattern!r} of [optimizer] has no entries")
    if "name" in entries:
        entries["optimizer"] = _class(entries.pop("name"))
    if "lr" in entries:
        entries["lr"] = _rate(entries["lr"], length)
    return entries


def _class(name: Any) -> type[torch.optim.Optimizer]:
    if name not in KNOWN:
        raise ValueError(names.unknown("optimizer", str(name), KNOWN))
    kind: type[torch.optim.Optimizer] = getattr(torch.optim, name)
    return Muon if kind is torch.optim.Muon else kind


def _rate(lr: Any, length: int) -> LearningRate:
    return learning_rates.parse(str(lr), steps=length)


def check(table: Any, settings: Training) -> None:
    """Check the tables before data are loaded, as for a long training.

    Raises:
        ValueError: as `optimizer`.
    """
    optimizer(table, settings, 10**9)
