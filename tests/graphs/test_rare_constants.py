"""The constant of log1p for -0.0 is read before anything is computed by it."""

import os
import subprocess
import sys

import pytest
import torch

from pyrovae.graphs.rare_constants import load_rare_constants

PROGRAM = """
import torch
read, log1p = [], torch.log1p
torch.log1p = lambda x: (read.append(x), log1p(x))[1]
import {module}
print([bool((x == 0).all() and x.signbit().all() and len(x) >= 16) for x in read])
"""

FORKED = """
import os, torch
from pyrovae.graphs.rare_constants import load_rare_constants
load_rare_constants()
read, log1p = [], torch.log1p
torch.log1p = lambda x: (read.append(x), log1p(x))[1]
if os.fork():
    os.wait()
else:
    print([bool((x == 0).all() and x.signbit().all()) for x in read], flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("module", ["pyrovae.train.svi", "pyrovae.weights.run"])
def test_trainings_and_evaluations_read_it(module):
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    assert subprocess.check_output(command, text=True).strip() == "[True]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_reads_it_anew():
    """Its parent's pages of a library are not mapped in it."""
    command = [sys.executable, "-c", FORKED]
    assert subprocess.check_output(command, text=True).strip() == "[True]"


def test_it_draws_nothing_and_is_read_once(monkeypatch):
    load_rare_constants.cache_clear()
    before = torch.get_rng_state()
    load_rare_constants()
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(torch, "log1p", None)
    load_rare_constants()
