"""A training that was broken off and resumed ends as if it had never been, bit for bit."""

import contextlib
import random
import shutil
from dataclasses import fields

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset
from trainings import StopAt

import pyrovae as pv
from pyrovae.data.batches import Batches
from pyrovae.runs.checkpoints import Checkpoints
from pyrovae.train.resume import fingerprint

EPOCHS, BATCHES = 3, 3


@pytest.fixture(autouse=True)
def _store_emptied():
    yield
    pyro.clear_param_store()


class Noise(pv.Callback):
    """Draw from Python's and NumPy's generators, as augmentations do."""

    def started(self, training):
        self.drawn = []

    def stepped(self, training):
        self.drawn.append((random.random(), float(np.random.standard_normal())))

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


def vae(*, normed=False):
    torch.manual_seed(1)
    if not normed:
        return pv.mlp_vae(16, latents=2, hidden=8)
    layers = torch.nn.Linear(16, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4)
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8, 16)),
        pv.guides.MeanFieldNormal(torch.nn.Sequential(*layers)),
    )


class Centered(torch.nn.Module):
    """A guide that subtracts a running mean, which it keeps in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.net, self.mean = pv.nets.MLP(16, 8, 4), torch.zeros(16)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        loc, scale = self.net(x - self.mean).chunk(2, dim=-1)
        return pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def centered():
    torch.manual_seed(1)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8, 16))
    return pv.VAE(pv.priors.StandardNormal(2), likelihood, Centered())


def pair():
    """Return two plain functions, whose parameters are in Pyro's store."""
    pyro.get_param_store().clear()

    def model(x):
        weight = pyro.param("weight", torch.full((2, 16), 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)

    def guide(x):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        slope = pyro.param("slope", torch.zeros(16, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, scale).to_event(1))

    return model, guide


def bits(*, rows=20):
    return torch.bernoulli(torch.full((rows, 16), 0.3), generator=torch.Generator().manual_seed(0))


def dynamic():
    return pv.data.Split(torch.full((20, 16), 0.3), torch.zeros(20), dynamic=True)


OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 1e-2}),
    "momentum": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
    "clipped": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.99}),
    "scheduled": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "gamma": 0.5}
    ),
    "plateau": lambda: pyro.optim.ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "patience": 0}
    ),
    "warm-up and cosine": lambda: pv.Optim(
        torch.optim.AdamW,
        lr=pv.learning_rates.cosine(1e-2, steps=9, warmup=2),
        groups={"*bias": {"weight_decay": 0.0}},
    ),
    "one": lambda: pv.OneOptimizer(lambda ps: torch.optim.AdamW(ps, lr=1e-2)),
}

CASES = {
    **{name: {"optim": optim} for name, optim in OPTIMIZERS.items()},
    "annealed": {"kl_weight": pv.schedules.linear(0, 1, 2)},
    "early stopping": {"callbacks": lambda: [pv.EarlyStopping(1)]},
    "clipping": {"clip_norm": 1.0},
    "dynamic": {"data": dynamic},
    "loader": {
        "data": lambda: DataLoader(TensorDataset(bits()), batch_size=8, shuffle=True),
    },
    "batch norm": {"target": lambda: vae(normed=True)},
    "plain attribute": {"target": centered},
    "pair in the store": {"target": pair},
    "averaged": {"callbacks": lambda: [pv.EMA(0.8), pv.EarlyStopping(1)]},
    "accumulated": {"accumulate": 2},
    "other generators": {"callbacks": lambda: [Noise()]},
    "free bits": {"handlers": lambda: [pv.handlers.free_bits(0.5)]},
    "many particles": {"loss": lambda: pv.objectives.IWAE(5)},
}


def train(case, folder, *, compile=False, stop=None, resume=None, epochs=EPOCHS):
    settings = CASES[case]
    random.seed(3)
    np.random.seed(3)
    target = settings.get("target", vae)()
    step = pv.Step(
        optim=settings.get("optim", OPTIMIZERS["Adam"])(),
        loss=settings.get("loss", lambda: None)(),
        kl_weight=settings.get("kl_weight", 1.0),
        handlers=settings.get("handlers", list)(),
        clip_norm=settings.get("clip_norm"),
        accumulate=settings.get("accumulate", 1),
        compile=compile,
    )
    callbacks = [pv.Checkpoint(folder), *settings.get("callbacks", list)()]
    callbacks += [StopAt(stop)] if stop else []
    history = pv.fit(
        *(target, settings.get("data", bits)()),
        validation=bits(rows=9),
        epochs=epochs,
        batch_size=8,
        step=step,
        callbacks=callbacks,
        resume=resume,
    )
    return target, history, callbacks


def tensors(target, history):
    if isinstance(target, pv.VAE):
        found = dict(target.state_dict())
        if isinstance(target.posterior, Centered):
            found["mean"] = target.posterior.mean
    else:
        store = pyro.get_param_store()
        found = {name: store[name].detach().clone() for name in store}
    return found | {"losses": torch.tensor(history.column("loss")).double()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop", [1, BATCHES, BATCHES + 2])
def test_an_eager_training_resumes_bit_for_bit(case, stop, tmp_path):
    """After the first step, at an epoch's last step, and in the middle of an epoch."""
    target, history, callbacks = train(case, tmp_path / "whole")
    wanted = tensors(target, history)
    train(case, tmp_path / "broken", stop=stop)
    again, resumed, others = train(case, tmp_path / "broken", resume=tmp_path / "broken")
    assert_same(tensors(again, resumed), wanted)
    assert resumed.ended == history.ended
    for name in {each.name for each in fields(pv.train.callbacks.Epoch)} - {"seconds"}:
        assert resumed.column(name) == history.column(name), name
    for one, other in zip(callbacks, others, strict=True):
        if isinstance(one, Noise):
            assert one.drawn == other.drawn


@pytest.mark.slow
@pytest.mark.parametrize("case", ["annealed", "scheduled", "batch norm"])
def test_a_compiled_training_resumes_bit_for_bit(case, tmp_path, compiled_once):
    """The graphs are recorded and checked at the same steps, since they round in another way."""
    target, history, _ = train(case, tmp_path / "whole", compile=True, epochs=5)
    wanted = tensors(target, history)
    eager, history, _ = train(case, tmp_path / "eager", epochs=5)
    assert any(not torch.equal(wanted[n], t) for n, t in tensors(eager, history).items())
    for stop in (1, 2 * BATCHES + 1):
        train(case, tmp_path / "b", compile=True, stop=stop, epochs=5)
        again, resumed, _ = train(
            case, tmp_path / "b", compile=True, resume=tmp_path / "b", epochs=5
        )
        assert_same(tensors(again, resumed), wanted)


def test_a_training_is_continued_for_more_epochs(tmp_path):
    """As one of as many epochs from the start."""
    target, history, _ = train("Adam", tmp_path / "whole", epochs=4)
    train("Adam", tmp_path / "short", epochs=2)
    again, resumed, _ = train("Adam", tmp_path / "other", resume=tmp_path / "short", epochs=4)
    assert_same(tensors(again, resumed), tensors(target, history))
    assert len(pv.runs.Run(tmp_path / "short").metrics) == 2
    assert len(pv.runs.Run(tmp_path / "other").metrics) == 4


def test_a_training_that_ran_out_of_patience_stays_stopped(tmp_path):
    """And keeps its best parameters; with more patience it goes on from its last epoch."""

    def again(patience, **options):
        made = vae()
        step = pv.Step(optim=pyro.optim.SGD({"lr": 0.0}))
        return pv.fit(
            *(made, bits()),
            validation=bits(rows=9),
            epochs=6,
            step=step,
            callbacks=[pv.EarlyStopping(patience), pv.Checkpoint(tmp_path)],
            **options,
        )

    first = again(2)
    assert (len(first.epochs), first.kept) == (3, 1)
    stopped = again(2, resume=tmp_path)
    assert (len(stopped.epochs), stopped.kept, stopped.ended) == (3, 1, first.ended)
    assert len(again(4, resume=tmp_path).epochs) == 5


def test_the_best_epoch_is_kept_with_its_plain_attributes():
    """The mean of the data that the best parameters were trained with."""

    class Means(pv.Callback):
        def started(self, training):
            self.seen = []

        def finished_epoch(self, training):
            self.seen.append(target.posterior.mean)

    target, means = centered(), Means()
    step = pv.Step(optim=pyro.optim.Adam({"lr": 0.03}))
    history = pv.fit(
        *(target, bits()),
        validation=1 - bits(rows=9),
        epochs=4,
        step=step,
        callbacks=[means, pv.EarlyStopping(2)],
    )
    assert 0 < history.kept < len(history.epochs)
    assert torch.equal(target.posterior.mean, means.seen[history.kept - 1])
    assert not torch.equal(target.posterior.mean, means.seen[-1])


def test_the_last_two_states_and_the_best_are_kept(tmp_path):
    class Best(pv.Callback):
        def finished_epoch(self, training):
            self.elbos = training.history.column("validation_elbo")

    best = Best()
    made, data = vae(), bits()
    step = pv.Step(optim=pyro.optim.SGD({"lr": 0.05}))
    callbacks = [best, pv.Checkpoint(tmp_path)]
    pv.fit(made, data, validation=bits(rows=9), epochs=8, batch_size=20, step=step,
           callbacks=callbacks)  # fmt: skip
    at = 1 + best.elbos.index(max(best.elbos))
    assert {step for step, _ in Checkpoints(tmp_path).files()} == {at, 7, 8}


def test_a_state_within_an_epoch_is_written_by_the_clock(tmp_path):
    class Count(pv.Callback):
        def stepped(self, training):
            self.steps = [step for step, _ in Checkpoints(tmp_path).files()]

    count = Count()
    pv.fit(vae(), bits(), epochs=1, batch_size=4,
           callbacks=[count, pv.Checkpoint(tmp_path, minutes=1e-9)])  # fmt: skip
    assert count.steps == [3, 4]


def test_parameters_of_a_pair_are_loaded(tmp_path):
    (model, guide), history, _ = train("pair in the store", tmp_path)
    wanted = tensors((model, guide), history)
    with pytest.raises(ValueError, match=r"a pair \(model, guide\).*load_parameters"):
        pv.load(tmp_path)
    again = pair()
    pv.load_parameters(again, tmp_path, bits())
    assert_same(tensors(again, history), wanted)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Broken(pv.Callback):
    """Raise in one of the calls, as a logger that finds no server or a user that types Ctrl-C."""

    def __init__(self, event, error):
        def broken(training):
            raise error

        setattr(self, event, broken)


BEFORE_A_STEP = {
    "another batch size": ({"batch_size": 7}, None),
    "a callback that fails to start": ({}, Broken("started", RuntimeError("no server"))),
    "an interrupt at the start": ({}, Broken("started", KeyboardInterrupt())),
    "an interrupt once it is resumed": ({}, Broken("resumed", KeyboardInterrupt())),
    "an interrupt in the first epoch": ({}, Broken("started_epoch", KeyboardInterrupt())),
    "nothing left to train": ({"epochs": 2}, None),
}


@pytest.mark.parametrize("kind", BEFORE_A_STEP)
@pytest.mark.parametrize("reused", [True, False])
def test_a_folder_is_left_as_it_was_until_a_step_is_taken(kind, reused, tmp_path):
    """To the byte, and that of a training that would have begun in another folder is not made."""
    options, broken = BEFORE_A_STEP[kind]
    checkpoint = pv.Checkpoint(tmp_path / "run")
    log = pv.Log(pv.CSVLogger(tmp_path / "run" / "log.csv"), every=1)
    early = pv.EarlyStopping(9)
    common = {"validation": bits(rows=9), "batch_size": 8}
    pv.fit(vae(), bits(), epochs=2, **common, callbacks=[early, log, checkpoint])
    wanted = contents(tmp_path)
    other = pv.mlp_vae(16, latents=2, hidden=8)
    ends = [checkpoint if reused else pv.Checkpoint(tmp_path / "run", note="new")]
    if kind not in ("an interrupt in the first epoch", "nothing left to train"):
        ends.append(pv.Checkpoint(tmp_path / "other"))
    first = [] if broken is None else [broken]
    with contextlib.suppress(ValueError, RuntimeError):
        pv.fit(
            *(other, bits()),
            **{"epochs": 4, **common, **options},
            callbacks=[*first, log, pv.EarlyStopping(9), *ends],
            resume=tmp_path / "run",
        )
    assert contents(tmp_path) == wanted


def test_an_interrupt_while_graphs_are_recorded_leaves_the_trained_parameters(
    tmp_path, interpreted
):
    """In the folder, and in the target."""
    common = {"validation": bits(rows=9), "epochs": 5, "batch_size": 8}
    step = pv.Step(compile=True)
    first = vae()
    pv.fit(first, bits(), **common, step=step, callbacks=[pv.Checkpoint(tmp_path)])
    wanted = contents(tmp_path)
    other = pv.mlp_vae(16, latents=2, hidden=8)
    broken = Broken("compiling", KeyboardInterrupt())
    history = pv.fit(
        *(other, bits()),
        **{**common, "epochs": 9},
        step=step,
        callbacks=[broken, pv.Checkpoint(tmp_path)],
        resume=tmp_path,
    )
    assert (history.ended, history.kept) == ("interrupted", 5)
    assert contents(tmp_path) == wanted
    assert_same(other.state_dict(), first.state_dict())


def test_a_callback_that_started_hears_the_end_of_a_training_that_could_not_begin(tmp_path):
    class Told(pv.Callback):
        def __init__(self):
            self.events = []

        def started(self, training):
            self.events.append("started")

        def finished(self, training):
            self.events.append("finished")

        def ended(self, training):
            self.events.append("ended")

    train("Adam", tmp_path, stop=2)
    one, other = Told(), Told()
    with pytest.raises(ValueError, match="the data or the batch size"):
        pv.fit(vae(), 1 - bits(), epochs=3, callbacks=[one, other], resume=tmp_path)
    assert one.events == ["started", "ended"]
    one, other = Told(), Told()
    with pytest.raises(RuntimeError, match="no server"):
        pv.fit(
            *(vae(), bits()),
            callbacks=[one, Broken("started", RuntimeError("no server")), other],
        )
    assert (one.events, other.events) == (["started", "ended"], [])


REFUSED = {
    "other data": ({"data": lambda: bits(rows=21)}, "the data or the batch size are not"),
    "other values": ({"data": lambda: 1 - bits()}, "the data or the batch size are not"),
    "another order": ({"data": lambda: bits().flip(0)}, "the data or the batch size are not"),
    "other programs": (
        {"target": lambda: pv.mlp_vae(16, latents=3, hidden=8)},
        "in shape .* resume with the programs of the training",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_training_is_refused(kind, tmp_path, monkeypatch):
    settings, message = REFUSED[kind]
    train("Adam", tmp_path, stop=2)
    monkeypatch.setitem(CASES, "Adam", {**CASES["Adam"], **settings})
    with pytest.raises(ValueError, match=message):
        train("Adam", tmp_path, resume=tmp_path)


def test_a_missing_callback_is_named(tmp_path):
    train("early stopping", tmp_path, stop=2)
    with pytest.raises(ValueError, match="had the callback EarlyStopping: resume with"):
        train("Adam", tmp_path / "b", resume=tmp_path)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no checkpoint: train with .*Checkpoint\(folder\)"):
        train("Adam", tmp_path, resume=tmp_path)


def test_a_state_that_is_no_plain_data_is_refused(tmp_path):
    class Odd(pv.Callback):
        def state_dict(self):
            return {"odd": [object()]}

    with pytest.raises(ValueError, match=r"state/callbacks/\d/1/odd/0 is a object, and a checkpo"):
        pv.fit(vae(), bits(), epochs=1, callbacks=[Odd(), pv.Checkpoint(tmp_path)])


def discriminating():
    torch.manual_seed(2)
    return pv.objectives.FactorVAE(10.0, pv.nets.MLP(2, 8, 1))


class Thaw(pv.Callback):
    """Train the likelihood from the second epoch on."""

    def started(self, training):
        training.target.likelihood.requires_grad_(requires_grad=False)

    def started_epoch(self, training):
        if training.history.epochs:
            training.target.likelihood.requires_grad_(requires_grad=True)


def frozen():
    made = vae()
    made.likelihood.requires_grad_(requires_grad=False)
    return made


LATE = {
    "a discriminator": {"loss": discriminating},
    "a discriminator of a pair": {"loss": discriminating, "target": pair},
    "averaged": {"loss": discriminating, "callbacks": lambda: [pv.EMA(0.8)]},
    "best": {"loss": discriminating, "callbacks": lambda: [pv.EarlyStopping(1)]},
    "accumulated": {"loss": discriminating, "accumulate": 2},
    "one optimizer": {"loss": discriminating, "optim": OPTIMIZERS["one"]},
    "by groups": {"loss": discriminating, "optim": OPTIMIZERS["warm-up and cosine"]},
    "thawed": {"target": frozen, "callbacks": lambda: [Thaw()]},
    "thawed, by groups": {
        "target": frozen,
        "callbacks": lambda: [Thaw()],
        "optim": OPTIMIZERS["warm-up and cosine"],
    },
    "thawed, averaged": {"target": frozen, "callbacks": lambda: [Thaw(), pv.EMA(0.8)]},
}


def train_late(case, folder, monkeypatch, **options):
    """Train a case of `LATE`; return all that SVI steps and how it is averaged."""
    made = []
    settings = dict(LATE[case])
    if "loss" in settings:
        settings["loss"] = lambda: made.append(discriminating()) or made[-1]
    monkeypatch.setitem(CASES, case, settings)
    target, history, callbacks = train(case, folder, **options)
    found = tensors(target, history)
    for loss in made:
        found |= {f"discriminator {n}": p for n, p in loss.discriminator.named_parameters()}
    for average in (c for c in callbacks if isinstance(c, pv.EMA)):
        found |= {f"average of {name}": value for name, value in average.averaged.items()}
    return found


@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("stop", [1, BATCHES, BATCHES + 2])
def test_parameters_that_the_first_batch_does_not_announce_resume(
    case, stop, tmp_path, monkeypatch
):
    """Those of an objective, and those that a callback thaws."""
    wanted = train_late(case, tmp_path / "whole", monkeypatch)
    train_late(case, tmp_path / "broken", monkeypatch, stop=stop)
    broken = tmp_path / "broken"
    assert_same(train_late(case, broken, monkeypatch, resume=broken), wanted)


def test_a_finished_training_comes_back_with_what_a_callback_thawed(tmp_path, monkeypatch):
    wanted = train_late("thawed", tmp_path, monkeypatch)
    assert_same(train_late("thawed", tmp_path, monkeypatch, resume=tmp_path), wanted)


@pytest.mark.slow
def test_a_compiled_training_resumes_with_its_discriminator(tmp_path, monkeypatch, compiled_once):
    options = {"compile": True, "epochs": 5}
    wanted = train_late("a discriminator", tmp_path / "whole", monkeypatch, **options)
    broken = tmp_path / "broken"
    train_late("a discriminator", broken, monkeypatch, stop=2 * BATCHES + 1, **options)
    found = train_late("a discriminator", broken, monkeypatch, resume=broken, **options)
    assert_same(found, wanted)


def test_the_best_epoch_is_kept_with_what_was_announced_since():
    """The parameters of that epoch; a thawed one has the value that it had while it was frozen."""

    class Watch(pv.Callback):
        def started(self, training):
            self.seen = []

        def finished_epoch(self, training):
            present = {**made.state_dict(), **loss.discriminator.state_dict()}
            self.seen.append({name: value.clone() for name, value in present.items()})

    for thawed_in in (2, 3, 4):
        made, loss, watch = frozen(), discriminating(), Watch()

        class Later(Thaw):
            def started_epoch(self, training):
                if len(training.history.epochs) + 1 >= thawed_in:  # noqa: B023
                    super().started_epoch(training)

        history = pv.fit(
            *(made, bits()),
            validation=1 - bits(rows=9),
            epochs=6,
            step=pv.Step(loss=loss, optim=pyro.optim.Adam({"lr": 0.05})),
            callbacks=[Later(), watch, pv.EarlyStopping(2)],
        )
        assert 0 < history.kept < len(history.epochs)
        found = {**made.state_dict(), **loss.discriminator.state_dict()}
        assert_same(found, watch.seen[history.kept - 1])


def test_an_interrupt_in_the_first_epoch_restores_the_discriminator():
    made, loss = vae(), discriminating()
    wanted = {name: value.clone() for name, value in loss.discriminator.state_dict().items()}

    class Interrupt(pv.Callback):
        def stepped(self, training):
            assert not torch.equal(loss.discriminator.layers[0].weight, wanted["layers.0.weight"])
            raise KeyboardInterrupt

    pv.fit(made, bits(), epochs=2, step=pv.Step(loss=loss), callbacks=[Interrupt()])
    assert_same(loss.discriminator.state_dict(), wanted)


@pytest.mark.parametrize("kind", ["Adam", "clipped", "scheduled", "warm-up and cosine", "one"])
def test_an_optimizer_of_several_trainings_keeps_the_state_of_each(kind, tmp_path):
    """What it trained before is in no checkpoint, and a training that resumes does not meet it."""

    def fit(optim, epochs, folder=None, resume=None):
        made = vae()
        callbacks = [] if folder is None else [pv.Checkpoint(folder)]
        step = pv.Step(optim=optim)
        pv.fit(made, bits(), epochs=epochs, batch_size=8, step=step,
               callbacks=callbacks, resume=resume)  # fmt: skip
        return made.state_dict()

    optim = OPTIMIZERS[kind]()
    fit(optim, 2)
    first, second = tmp_path / "first", tmp_path / "second"
    fit(optim, 2, first)
    shutil.copytree(first, second)
    wanted = fit(OPTIMIZERS[kind](), 4)
    assert_same(fit(OPTIMIZERS[kind](), 4, first, resume=first), wanted)
    assert_same(fit(optim, 4, second, resume=second), wanted)
    assert_same(fit(optim, 4), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_data_are_known_by_their_values_and_order(dtype):
    """Whatever the threads; a zero has no sign."""
    draws = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(1000, 100, generator=draws, dtype=torch.float64)
    x = x > 0 if dtype is torch.bool else x.to(dtype)
    labels = torch.arange(1000)
    wanted = fingerprint(Batches((x, labels), 10))
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert fingerprint(Batches((x.clone(), labels), 10)) == wanted
    torch.set_num_threads(before)
    zeros = torch.zeros(5, 2)
    assert fingerprint(Batches(zeros, 2)) == fingerprint(Batches(-zeros, 2))
    changed = x.clone()
    changed[7, 3] = x[7, 3] == 0
    for other in ((changed, labels), (x[labels.flip(0)], labels), (x, labels.flip(0))):
        assert fingerprint(Batches(other, 10)) != wanted
    assert fingerprint(Batches((x, labels), 20)) != wanted


@pytest.mark.parametrize("case", ["Adam", "early stopping", "pair in the store"])
def test_a_process_that_ended_before_it_wrote_its_last_model_is_made_up_for(case, tmp_path):
    """The last state was written, and no step is left."""
    train(case, tmp_path / "short", epochs=1)
    train(case, tmp_path / "run")
    model, metrics = (tmp_path / "run" / name for name in ("model.safetensors", "metrics.jsonl"))
    wanted, lines = load_file(model), metrics.read_text()
    for path in (model, metrics):
        (tmp_path / "short" / path.name).replace(path)
    assert load_file(model).keys() == wanted.keys()
    assert any(not torch.equal(tensor, wanted[name]) for name, tensor in load_file(model).items())
    train(case, tmp_path / "run", resume=tmp_path / "run")
    assert_same(load_file(model), wanted)
    assert metrics.read_text() == lines
