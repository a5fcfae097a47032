"""Run commands as child processes, which end with their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["Children", "terminated_as_interrupted"]

GRACE: Final = 20.0
"""The seconds that a child has to save its epoch and end, before it is killed."""


class Children:
    """Child processes of several threads, which `end` ends together."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.ended = False

    def run(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> int:
        """Run a command with its output in a file, and return its exit code."""
        with log.open("ab") as file:
            with self._lock:
                if self.ended:
                    return -signal.SIGINT
                # A session of its own: Ctrl-C reaches a child once, through `end`.
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
                self._running.add(child)
            code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def end(self) -> None:
        """Interrupt every child as Ctrl-C does; kill those that do not end. None starts anew."""
        with self._lock:
            self.ended = True
            running = list(self._running)
        for child in running:
            child.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        for child in running:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Raise KeyboardInterrupt where the process is told to end (SIGTERM)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
