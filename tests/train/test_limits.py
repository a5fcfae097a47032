"""A training ends between two steps, and keeps what it has reached."""

import math
import time

import pytest
import torch
from trainings import numbers, small_vae

import pyrovae as pv

SIZE = 6
X = numbers(60, SIZE)


class Keep(pv.Callback):
    def __init__(self):
        self.states, self.ends = [], []

    def stepped(self, training):
        self.states.append({n: t.clone() for n, t in training.target.state_dict().items()})

    def finished_epoch(self, training):
        self.ends.append(training.step)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (4, 2), (6, 2)])
def test_a_number_of_steps_ends_within_an_epoch_and_keeps_the_parameters(
    tmp_path, steps, epochs, order
):
    vae, x, keep = small_vae(SIZE), X, Keep()
    callbacks = [pv.Limit(steps=steps), keep, pv.Checkpoint(tmp_path)][::order]
    history = pv.fit(vae, x, validation=x, epochs=9, batch_size=20, callbacks=callbacks)
    assert history.ended == f"stopped early: {steps} steps were asked for"
    assert (len(history.epochs), history.kept, len(keep.states)) == (epochs, epochs, steps)
    assert all(math.isfinite(value) for value in vars(history.epochs[-1]).values())
    for found in (vae.state_dict(), pv.load(tmp_path).state_dict()):
        for name, tensor in keep.states[-1].items():
            assert torch.equal(found[name], tensor)
    assert keep.ends[-1] == steps


def test_the_loss_of_the_last_epoch_is_the_mean_of_its_steps():
    losses = []

    class Note(pv.Callback):
        def stepped(self, training):
            losses.append(training.loss)

    history = pv.fit(
        small_vae(SIZE),
        X,
        epochs=9,
        batch_size=20,
        callbacks=[pv.Limit(steps=5), Note()],
    )
    assert history.epochs[-1].loss == pytest.approx(sum(losses[3:]) / 2)


def test_a_time_ends_a_training(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Pass(pv.Callback):
        def stepped(self, training):
            now[0] += 1.0

    history = pv.fit(
        small_vae(SIZE),
        X,
        epochs=9,
        batch_size=20,
        callbacks=[Pass(), pv.Limit(seconds=4.5)],
    )
    assert history.ended == "stopped early: 4.5 seconds were asked for"
    assert len(history.epochs) == 2  # after 5 steps of a second


def test_a_time_that_passed_while_measuring_begins_no_epoch(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Pass(pv.Callback):
        def finished_epoch(self, training):
            now[0] += 5.0

    keep = Keep()
    vae = small_vae(SIZE)
    history = pv.fit(
        vae,
        X,
        epochs=9,
        batch_size=20,
        callbacks=[Pass(), pv.Limit(seconds=7), keep],
    )
    assert history.ended == "stopped early: 7 seconds were asked for"
    assert (len(history.epochs), len(keep.states)) == (2, 6)
    for name, tensor in keep.states[-1].items():
        assert torch.equal(vae.state_dict()[name], tensor)


def test_the_time_of_an_earlier_part_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first, second = pv.Limit(seconds=10), pv.Limit(seconds=10)
    now[0] = 107.0
    state = first.state_dict()
    assert state == {"seconds": 7.0}
    now[0] = 500.0
    second.load_state_dict(state)
    now[0] = 502.0
    assert second.state_dict() == {"seconds": 9.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a number of steps or of seconds"),
        ({"steps": 0}, "at least one step; got steps=0"),
        ({"seconds": 0}, "above 0, and finite; got 0"),
        ({"seconds": math.nan}, "above 0, and finite; got nan"),
    ],
)
def test_a_limit_is_positive(given, message):
    with pytest.raises(ValueError, match=message):
        pv.Limit(**given)
