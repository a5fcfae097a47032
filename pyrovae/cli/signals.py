"""End a training at SIGTERM, as schedulers of clusters send it, between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Final

from pyrovae.train.callbacks import Callback, StopTraining, Training

__all__ = ["TERMINATED", "stopping_at_sigterm"]

TERMINATED: Final = "terminated"


class _Terminable(Callback):
    """Stop after the present step, once a signal has come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, False

    def stepped(self, training: Training) -> None:
        if self.asked:
            again = f"pyrovae train --resume {quote(str(self.folder))}"
            raise StopTraining(f"{TERMINATED}; go on with `{again}`")


@contextlib.contextmanager
def stopping_at_sigterm(folder: Path) -> Iterator[Callback]:
    """Yield a callback that stops the training at SIGTERM, after which its state is written."""
    callback = _Terminable(folder)

    def ask(*_: object) -> None:
        callback.asked = True

    if threading.current_thread() is not threading.main_thread():  # they may set no handler
        yield callback
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield callback
    finally:
        signal.signal(signal.SIGTERM, before)
