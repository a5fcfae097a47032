"""The averaged parameters are measured and saved, and training goes on from its own."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pyrovae as pv
from pyrovae.train.callbacks import Training

SIZE, DECAY = 6, 0.9


class Normalized(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.norm = pv.nets.MLP(2, 8, SIZE), torch.nn.BatchNorm1d(SIZE)

    def forward(self, z):
        return self.norm(self.net(z).reshape(-1, SIZE)).reshape(*z.shape[:-1], SIZE)


def small_vae(net=None):
    with pv.seeded(0):
        own = pv.likelihoods.Normal(net or pv.nets.MLP(2, 8, SIZE))
        guide = pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 8, 4))
        return pv.VAE(pv.priors.StandardNormal(2), own, guide)


def data(n=60):
    with pv.seeded(1):
        return torch.randn(n, SIZE)


def copied(vae):
    return {name: p.detach().clone() for name, p in vae.named_parameters()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


class Follow(pv.Callback):
    """Average by hand and by torch's AveragedModel, and keep what each moment sees."""

    def __init__(self, vae):
        self.torchs = AveragedModel(vae, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.by_hand, self.raw, self.at_ends = None, [], []

    def stepped(self, training):
        self.raw.append(copied(training.target))
        self.torchs.update_parameters(training.target)
        present = self.raw[-1]
        if self.by_hand is None:
            self.by_hand = present
        else:
            self.by_hand = {
                n: DECAY * a + (1 - DECAY) * present[n] for n, a in self.by_hand.items()
            }

    def finished_epoch(self, training):
        self.at_ends.append((copied(training.target), self.by_hand))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("compile", [True, False])
def test_the_average_is_that_of_torch_and_of_a_loop_by_hand(first, compile, interpreted):
    vae, x = small_vae(), data()
    follow = Follow(vae)
    callbacks = [pv.EMA(DECAY), follow] if first else [follow, pv.EMA(DECAY)]
    step = pv.Step(compile=compile)
    history = pv.fit(vae, x, epochs=3, batch_size=20, step=step, callbacks=callbacks)
    torchs = dict(follow.torchs.module.named_parameters())
    assert_same(copied(vae), {name: p.detach() for name, p in torchs.items()})
    for found, wanted in follow.at_ends:
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert history.averaged == "over steps with decay 0.9"


def test_training_goes_on_from_its_own_parameters():
    x, follows = data(), []
    for callbacks in ([], [pv.EMA(DECAY)]):
        vae = small_vae()
        follows.append(Follow(vae))
        pv.fit(vae, x, epochs=3, batch_size=20, callbacks=[*callbacks, follows[-1]], seed=3)
    for found, wanted in zip(follows[1].raw, follows[0].raw, strict=True):
        assert_same(found, wanted)


def test_the_averaged_parameters_are_measured_and_saved(tmp_path):
    vae, x = small_vae(), data()
    history = pv.fit(
        vae, x, validation=x, epochs=2, batch_size=20,
        callbacks=[pv.Checkpoint(tmp_path), pv.EMA(DECAY), pv.EarlyStopping()],
    )  # fmt: skip
    assert_same(copied(pv.load(tmp_path)), copied(vae))
    still = pv.Step(pv.Optim(torch.optim.SGD, lr=0.0))
    again = pv.fit(vae, x, validation=x, epochs=1, step=still, callbacks=[], seed=0)
    assert again.epochs[0].validation_elbo == history.epochs[-1].validation_elbo


def test_an_epoch_that_is_broken_off_leaves_the_average_of_the_epoch_before():
    class Interrupt(pv.Callback):
        def finished_epoch(self, training):
            self.kept = copied(training.target)

        def stepped(self, training):
            if training.step == 5:
                raise KeyboardInterrupt

    vae, interrupt = small_vae(), Interrupt()
    pv.fit(vae, data(), epochs=3, batch_size=20, callbacks=[pv.EMA(DECAY), interrupt])
    assert_same(copied(vae), interrupt.kept)


def test_buffers_stay_those_of_training():
    x, found = data(), []
    for callbacks in ([], [pv.EMA(DECAY)]):
        torch.manual_seed(0)
        vae = small_vae(Normalized())
        pv.fit(vae, x, epochs=2, batch_size=20, callbacks=callbacks, seed=3)
        found.append(vae.state_dict())
    names = [name for name in found[0] if "running" in name]
    assert len(names) == 2
    assert_same({n: found[1][n] for n in names}, {n: found[0][n] for n in names})


@pytest.mark.parametrize("at", ["within an epoch", "at its end"])
def test_an_average_goes_on_from_its_state(at):
    """The parameters of the moment are what a checkpoint holds beside the state."""
    vae = small_vae()
    training = Training(vae, dict(vae.named_parameters()), 2, 3)

    def steps(ema, number):
        ema.started_epoch(training)
        for _ in range(number):
            with torch.no_grad():
                for parameter in vae.parameters():
                    parameter.add_(parameter.cos())
            ema.stepped(training)

    def end(ema):
        steps(ema, 3)
        ema.measuring(training)
        return copied(vae)

    whole = pv.EMA(DECAY)
    whole.started(training)
    steps(whole, 3)
    if at == "at its end":
        whole.measuring(training)
    saved, present = copy.deepcopy(whole.state_dict()), copied(vae)
    wanted = end(whole)
    resumed = pv.EMA(DECAY)
    resumed.started(training)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            parameter.copy_(present[name])
    resumed.load_state_dict(saved)
    assert_same(end(resumed), wanted)


def test_a_state_of_another_decay_is_refused():
    with pytest.raises(
        ValueError, match="begun with decay 0.9, and not 0.5: resume with the same"
    ):
        pv.EMA(0.5).load_state_dict(pv.EMA(0.9).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_is_below_1(decay):
    with pytest.raises(ValueError, match=f"at least 0 and below 1; got {decay}"):
        pv.EMA(decay)
