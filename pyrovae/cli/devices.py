"""Train on a GPU, or on several: start torchrun's processes, or join those that it has started.

`pyrovae train` trains on the GPU of its process, or on the CPU where there is none. `pyrovae train
--devices 4` runs the same command in four processes, each on a GPU of its own, or all on the CPU.
That of rank 0 alone prints and writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pyrovae.cli.complaints import complain
from pyrovae.data.ranks import Ranks
from pyrovae.vae import VAE

__all__ = ["is_started", "joined", "launch", "place", "silent"]

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

TIMEOUT: Final = timedelta(minutes=5)
"""The longest wait for a process that lives and does not answer. An end is seen at once."""


def is_started() -> bool:
    """Tell whether torchrun has started this process."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()


def launch(number: int, command: Sequence[str]) -> int:
    """Run a command of pyrovae in so many processes, and return its exit code.

    Raises:
        ValueError: if there are GPUs, and fewer than processes.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < number:
        raise ValueError(
            f"--devices {number}, and the number of GPUs is {gpus}: give as many or fewer"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=number,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    _, *arguments = command
    before = {each: signal.getsignal(each) for each in SIGNALS}  # torchrun sets its own
    try:
        elastic_launch(settings, sys.executable)("-m", "pyrovae", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode >= 0:  # it has said why
            return failure.exitcode
        ended = f"process {rank} of {number} was ended by signal {-failure.exitcode}"
        return complain(f"{ended}, and the others with it: go on with --resume RUN", 1)
    except SignalException as error:
        return 128 + error.sigval  # 130 after Ctrl-C, as without --devices
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return 0


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Discard what a block prints."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the group of processes that torchrun has started, if it has.

    The output of all but the process of rank 0 is discarded, except for errors.
    """
    if not is_started():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if gpu else "gloo", timeout=TIMEOUT)
    try:
        with silent() if Ranks.present().rank else contextlib.nullcontext():
            yield
    finally:
        distributed.destroy_process_group()


def place(vae: VAE) -> None:
    """Move a VAE to the GPU of this process, and print which one it is; do nothing without one."""
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
        print(f"Device: {torch.cuda.get_device_name(device)}, {device}")
        vae.to(device)
