"""A training that is killed at whatever moment resumes to the parameters it would have had."""

import os
import random
import signal
import time

import pytest
import safetensors.torch
import torch
from killed import begun, killed

from pyrovae.runs.checkpoints import Checkpoints

MOMENTS = int(os.environ.get("MOMENTS", "2"))
"""How many moments a training is killed at: 30 tell more."""

ARGUMENTS = ["--data", "digits", "--latents", 3, "--hidden", 8, "--epochs", 8, "--patience", 50]

pytestmark = pytest.mark.slow


def done(*arguments):
    process = begun("train", *arguments)
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the tensors of a training that nothing disturbed, and its seconds."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    assert done(*ARGUMENTS, "--out", folder) == 0
    return safetensors.torch.load_file(folder / "model.safetensors"), time.monotonic() - began


def assert_resumes(folder, wanted):
    assert done("--resume", folder) == 0
    found = safetensors.torch.load_file(folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert len(Checkpoints(folder).files()) in (2, 3)  # the last two, and the best


def test_killed_at_random_moments(tmp_path, whole):
    wanted, seconds = whole
    draw = random.Random(0)
    for i in range(MOMENTS):
        folder = tmp_path / str(i)
        after = draw.uniform(0, 0.8 * seconds)
        process = begun("train", *ARGUMENTS, "--out", folder)
        killed(process, once=lambda folder=folder: _written(folder), after=after)
        assert_resumes(folder, wanted)


def test_killed_within_the_writing_of_a_checkpoint(tmp_path, whole):
    """The first rename of an epoch is the checkpoint's: before it stands its other name."""
    for i in range((MOMENTS + 2) // 3):
        folder = tmp_path / str(i)
        beside = folder / "checkpoints"
        process = begun("train", *ARGUMENTS, "--out", folder)
        killed(
            process,
            once=lambda f=folder, b=beside: _written(f) and any(b.glob(".*.part")),
            after=0,
        )
        assert_resumes(folder, whole[0])


def test_killed_again_and_again(tmp_path, whole):
    """Also while it resumes."""
    folder = tmp_path / "run"
    killed(begun("train", *ARGUMENTS, "--out", folder), once=lambda: _written(folder), after=0.3)
    for after in (0.1, 0.6):
        process = begun("train", "--resume", folder)
        killed(process, once=lambda p=process: p.is_alive(), after=after)
    assert_resumes(folder, whole[0])


def test_terminated_between_two_steps(tmp_path, whole):
    folder = tmp_path / "run"
    process = begun("train", *ARGUMENTS, "--out", folder)
    while not _written(folder, least=2):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode in (143, 0)  # 0: it had come to its end
    assert_resumes(folder, whole[0])


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path, whole, monkeypatch):
    """The training ends with the error; once there is room, it goes on."""
    from pyrovae.cli import main
    from pyrovae.runs import checkpoints

    folder, write, written = tmp_path / "run", checkpoints.write_atomically, []

    def fill(path, content):
        written.append(path)
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoints, "write_atomically", fill)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main(["train", *map(str, ARGUMENTS), "--out", str(folder)]) == 2
    torch.set_num_threads(threads)
    monkeypatch.undo()
    assert [step % 13 for step, _ in Checkpoints(folder).files()] == [0, 0]
    assert_resumes(folder, whole[0])


def _written(folder, *, least=1):
    return len(Checkpoints(folder).files()) >= least
