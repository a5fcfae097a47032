"""A process for each program, as `python -W error` gives one, without seconds of imports.

Each is forked from a process that has imported the library, and has done nothing else.
"""

import contextlib
import io
import multiprocessing
import os
import runpy
import sys
import warnings

SECONDS = 300


def context():
    """Return the context of processes that are forked from one that has imported the library.

    All tests of a process share it: the names given first are the ones that are imported. Those of
    `tests/support` cannot be: the process has not the paths of pytest.
    """
    forkserver = multiprocessing.get_context("forkserver")
    # PyTorch imports its compiler when it makes an optimizer, the library scikit-learn for digits.
    late = ["torch._dynamo", "sklearn.datasets", "ipykernel.kernelapp"]
    forkserver.set_forkserver_preload(["pyrovae.cli.train", *late])
    return forkserver


def printed_by(script, *arguments, folder):
    """Return what a script prints that is run in a folder; what it raises is raised."""
    with context().Pool(1) as pool:
        return pool.apply_async(_run, (str(script), arguments, str(folder))).get(SECONDS)


def started(function, *arguments):
    """Start a function that prints nowhere, in a process that the caller ends."""
    process = context().Process(target=_silently, args=(function, *arguments))
    process.start()
    return process


def _silently(function, *arguments):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    function(*arguments)


def _run(script, arguments, folder):
    printed = io.StringIO()
    warnings.simplefilter("error")
    sys.argv = [script, *arguments]
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as left:
            if left.code:
                raise RuntimeError(f"{script} exits with {left.code}") from left
    return printed.getvalue()
