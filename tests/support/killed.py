"""Commands in processes that are killed at a chosen moment, forked from one that has imported."""

import contextlib
import os
import signal
import time

import torch
from fresh import context

from pyrovae.cli import main


def begun(*arguments):
    """Begin a command of the command line."""
    process = context().Process(target=_run, args=([*map(str, arguments)],))
    process.start()
    return process


def _run(arguments):
    torch.set_num_threads(1)
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        code = main(arguments)
    os._exit(code)


def killed(process, *, once, after):
    """Kill a process some seconds after something is there to be seen."""
    began = time.monotonic()
    while not once() and process.is_alive() and time.monotonic() - began < 60:
        time.sleep(0.001)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()
