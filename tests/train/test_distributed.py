"""Two processes train and measure as one does, and end together."""

import math
import time

import processes
import pytest
import torch

from pyrovae.measure.annealing import ais


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    found, codes = processes.in_group(processes.everything, tmp_path_factory.mktemp("two") / "run")
    assert codes == [0, 0]
    return found


@pytest.mark.parametrize("case", processes.CASES)
def test_two_processes_train_as_one_with_twice_the_batch(two, case, interpreted):
    one = processes.points(**processes.CASES[case])
    for found in two:
        torch.testing.assert_close(found[case]["flat"], one["flat"], rtol=0, atol=1e-12)
        for mine, its in zip(found[case]["history"], one["history"], strict=True):
            for name in mine.keys() - {"seconds"}:
                assert mine[name] == pytest.approx(its[name], abs=1e-10), name
        assert found[case]["compiled"] == one["compiled"] == (case == "compiled")
    assert torch.equal(two[0][case]["flat"], two[1][case]["flat"])


def test_a_step_sends_the_gradients_and_four_numbers_once(two):
    parameters = sum(p.numel() for p in processes.Points().parameters())
    # One for each step, and one where rank 0 ends an epoch or the training.
    epochs = [math.ceil(20 / steps) for steps in (5, 6, 6, 6, 5, 3, 3, 5)]
    assert set(two[0]["sent"]) == {parameters + 4}
    assert two[0]["sent"] == two[1]["sent"]
    assert len(two[0]["sent"]) == 8 * 20 + sum(epochs)


@pytest.mark.parametrize("kind", ["tensors", "a data set", "a loader", "batches"])
def test_each_datum_is_taken_once(two, kind):
    for epoch in range(2):
        rows = torch.cat([found["dealt"][kind][epoch] for found in two])
        assert rows.sort().values.tolist() == list(range(23))


def test_a_loader_with_a_sampler_for_each_process_keeps_its_batches(two):
    several = [found["dealt"]["a sharded loader"][0] for found in two]
    assert [len(rows) for rows in several] == [12, 12]  # the sampler repeats one of 23
    assert len(torch.cat(several).unique()) == 23


def test_measurements_are_those_of_one_process(two, monkeypatch):
    monkeypatch.setattr(ais, "NUMBERS", 64 * 16 * 2)
    one = processes.measured()
    for found in two:
        assert found["measured"]["elbo"] == one["elbo"]
        assert found["measured"]["said"] == one["said"]
        assert found["measured"]["tensors"].keys() == one["tensors"].keys()
        for name, tensor in one["tensors"].items():
            torch.testing.assert_close(
                found["measured"]["tensors"][name], tensor, rtol=0, atol=0, equal_nan=True
            )


def test_a_callback_that_writes_is_called_by_one_process_and_measures_alone(two):
    assert [f["measured"]["reported"] for f in two] == [processes.measured()["reported"], []]


def test_a_callback_ends_the_training_in_both_processes(two):
    assert [f["part, eager"]["ended"] for f in two] == ["stopped early: after step 7"] * 2
    assert torch.equal(two[0]["part, eager"]["flat"], two[1]["part, eager"]["flat"])


@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_both_resume_bit_for_bit(two, kind):
    for found in two:
        assert torch.equal(found[f"resumed, {kind}"]["flat"], found[f"whole, {kind}"]["flat"])
        assert not torch.equal(found[f"resumed, {kind}"]["flat"], found[f"part, {kind}"]["flat"])


def test_processes_that_cannot_train_together_are_refused(two):
    assert two[0]["refused"] == two[1]["refused"]
    other, few, wrapped = two[0]["refused"]
    assert other.startswith("process 1 has other data than process 0: give all processes the same")
    assert few == "1 data are fewer than 2 processes: start fewer"
    assert "a module or parameter of DistributedDataParallel" in wrapped
    assert "give the plain module" in wrapped


def test_a_failure_in_one_process_ends_the_other(two):
    assert two[0]["failing"] == "ProcessLost: another process failed in this step, and says why"
    assert two[1]["failing"].startswith("ValueError: the programs fail at step 4 (epoch 1)")


def test_a_killed_process_ends_the_other_and_one_resumes(tmp_path):
    started = time.monotonic()
    found, codes = processes.in_group(processes.killed, tmp_path)
    assert time.monotonic() - started < 60
    assert codes == [0, -9]
    assert found[0].startswith("process 0 of 2 lost another one, which has ended, failed or")
    assert "resume from the last checkpoint" in found[0]
    with pytest.warns(UserWarning, match="had 2 processes and goes on with 1: it is equal"):
        resumed = processes.noisy(tmp_path / "run", resume=tmp_path / "run", batch_size=10)
    assert resumed["steps"] == 3
