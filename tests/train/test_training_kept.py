"""What a training leaves, however it ends: parameters of a whole epoch, and noise that goes on."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.data.batches import Batches
from pyrovae.train.callbacks import Training
from pyrovae.train.monitor import BATCH, Monitor

SIZE = 6


def small_vae(likelihood=None):
    with pv.seeded(0):
        own = pv.likelihoods.Normal(pv.nets.MLP(2, 8, SIZE))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 8, 4))
        return pv.VAE(pv.priors.StandardNormal(2), likelihood or own, guide)


def data(n=60):
    with pv.seeded(1):
        return torch.randn(n, SIZE)


def state(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


class Keep(pv.Callback):
    """Keep the state before the first step, and at each epoch's end."""

    def started(self, training):
        self.states = [state(training.target)]

    def finished_epoch(self, training):
        self.states.append(state(training.target))


def interrupted_optimizer(at):
    """An optimizer that an interrupt stops after the first of the parameters of a step."""

    class Half(torch.optim.SGD):
        def step(self, closure=None):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == at:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(1.0)
                raise KeyboardInterrupt
            return super().step(closure)

    return pv.OneOptimizer(lambda parameters: Half(parameters, lr=1e-2))


@pytest.mark.parametrize(("at", "epoch"), [(2, 0), (4, 1), (5, 1), (9, 2)])
def test_an_interrupt_within_a_step_leaves_the_epoch_that_the_history_ends_with(
    tmp_path, at, epoch
):
    vae, x, keep = small_vae(Normalized()), data(), Keep()
    history = pv.fit(
        vae, x, epochs=5, batch_size=20, step=pv.Step(interrupted_optimizer(at)),
        callbacks=[keep, pv.Checkpoint(tmp_path)],
    )  # fmt: skip
    assert (history.ended, history.kept, len(history.epochs)) == ("interrupted", epoch, epoch)
    assert_same(state(vae), keep.states[epoch])
    again = pv.load(tmp_path, likelihood=Normalized())
    assert_same(state(again), keep.states[epoch])
    lines = pv.runs.Run(tmp_path).metrics
    assert len(lines) == epoch
    if lines:
        measured = Monitor(Batches(x, BATCH), None, seed=0).measure(again)
        assert lines[-1]["elbo"] == pytest.approx(measured["elbo"], abs=1e-6)


def test_a_broken_loss_names_the_epoch_whose_parameters_are_left():
    """Early stopping puts back the first epoch's, not those before the step that broke."""
    keep = Keep()

    class Worsen(pv.Callback):
        def stepped(self, training):
            epoch = (training.step - 1) // 3 + 1
            with torch.no_grad():
                for parameter in training.parameters.values():
                    parameter.add_(math.nan if epoch == 4 else 1.0 if epoch > 1 else 0.0)

    vae, x = small_vae(), data()
    with pytest.raises(pv.NonFiniteLoss, match=r"\(epoch 4\).*the end of epoch 1\. Try a smaller"):
        pv.fit(
            vae, x, validation=x, epochs=9, batch_size=20,
            callbacks=[Worsen(), pv.EarlyStopping(5), keep],
        )  # fmt: skip
    assert len(keep.states) == 4
    assert_same(state(vae), keep.states[1])


def test_the_history_tells_which_epoch_early_stopping_kept():
    class Worsen(pv.Callback):
        def stepped(self, training):
            if training.step > 6:
                with torch.no_grad():
                    for parameter in training.parameters.values():
                        parameter.add_(1.0)

    vae, x, keep = small_vae(), data(), Keep()
    history = pv.fit(
        vae, x, validation=x, epochs=9, batch_size=20,
        callbacks=[Worsen(), keep, pv.EarlyStopping(2)],
    )  # fmt: skip
    assert (len(history.epochs), history.kept) == (4, 2)
    assert_same(state(vae), keep.states[2])


class Normalized(nn.Module):
    """A likelihood with a batch normalization, and a count that moves in every mode."""

    def __init__(self):
        super().__init__()
        self.net, self.norm = nn.Linear(2, SIZE), nn.BatchNorm1d(SIZE)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z, x=None):
        self.calls += 1
        mean = self.norm(self.net(z).reshape(-1, SIZE)).reshape(*z.shape[:-1], SIZE)
        return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("way", ["a part", "a function", "a pair"])
def test_no_buffer_moves_before_the_first_step_nor_between_epochs(way):
    """Three steps an epoch: the statistics move by three, and from where they stood."""
    part, x = Normalized(), data()
    target = small_vae(part)
    if way == "a function":
        target = small_vae(lambda z, x=None: (pyro.module("part", part), part(z, x))[1])
    if way == "a pair":
        whole = target

        def model(x):
            return whole.model(x)

        def guide(x):
            return whole.guide(x)

        target = model, guide
    before, met = state(part), []

    class Watch(pv.Callback):
        def started(self, training):
            assert_same(state(part), before)

        def stepped(self, training):
            met.append((int(part.norm.num_batches_tracked), int(part.calls)))

    pv.fit(target, x, validation=x, epochs=2, batch_size=20, callbacks=[Watch()])
    pyro.clear_param_store()
    assert met == [(i, i) for i in range(1, 7)]


def noise_of(target, x, **seed):
    """Train at a rate of 0: the losses of the steps tell their order and noise."""
    losses = []

    class Watch(pv.Callback):
        def stepped(self, training):
            losses.append(training.loss)

    still = pv.Step(pyro.optim.Adam({"lr": 0.0}))
    history = pv.fit(target, x, epochs=1, batch_size=20, step=still, callbacks=[Watch()], **seed)
    return (*losses, history.epochs[0].elbo)


def as_pair():
    vae = small_vae()
    return lambda x: vae.model(x), lambda x: vae.guide(x)


@pytest.mark.parametrize("make", [small_vae, as_pair], ids=["a VAE", "a pair"])
def test_training_on_draws_fresh_noise_that_follows_from_the_first(make):
    x, one, other = data(), make(), make()
    first, *losses = [noise_of(one, x) for _ in range(3)]
    assert len({found[:-1] for found in (first, *losses)}) == 3
    assert [noise_of(other, x) for _ in range(3)] == [first, *losses]
    assert noise_of(make(), x, seed=0) == first
    assert noise_of(one, x, seed=0) == first
    assert noise_of(one, x) == losses[0]
    assert {found[-1] for found in (first, *losses)} == {first[-1]}  # what is shown stays


def test_a_seed_of_ones_own_is_the_one_that_training_goes_on_from():
    x, one, other = data(), small_vae(), small_vae()
    found = [noise_of(one, x, seed=5), noise_of(one, x)]
    assert found == [noise_of(other, x, seed=5), noise_of(other, x)]
    assert found[1][:-1] != noise_of(small_vae(), x)[:-1]
    torch.manual_seed(3)
    drawn = noise_of(one, x, seed=None), noise_of(one, x)
    torch.manual_seed(3)
    assert drawn == (noise_of(one, x, seed=None), noise_of(one, x))


def test_copies_and_loaded_runs_go_on_where_the_training_stood(tmp_path):
    x, vae = data(), small_vae()
    noise_of(vae, x, seed=4)
    pv.save(vae, tmp_path)
    again, copied = pv.load(tmp_path), copy.deepcopy(vae)
    wanted = noise_of(vae, x)
    assert wanted == noise_of(copied, x) == noise_of(again, x)


def test_a_snapshot_knows_its_epoch():
    vae = small_vae()
    training = Training(vae, dict(vae.named_parameters()), 3, 2)
    before = training.snapshot()
    training.epoch = 2
    later = training.snapshot()
    assert (before.epoch, later.epoch) == (0, 2)
    training.restore(before)
    assert training.epoch == 0
