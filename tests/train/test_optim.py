"""`Optim` steps as the optimizers of torch and Pyro do, by groups, at the rates of a schedule."""

import copy
import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import LATENTS, SIZE, binary
from pyro.infer import TraceMeanField_ELBO

import pyrovae as pv
from pyrovae.train.muon import Muon
from pyrovae.train.optim import Optim
from pyrovae.train.svi import SVI

STEPS = 20
EXACT = {"rtol": 1e-10, "atol": 1e-10}
MATRICES = {lambda name, p: p.ndim != 2: {"optimizer": torch.optim.AdamW, "weight_decay": 0.01}}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made():
    torch.manual_seed(0)
    vae = pv.VAE(
        pv.priors.StandardNormal(LATENTS),
        pv.likelihoods.Bernoulli(pv.nets.MLP(LATENTS, 5, SIZE)),
        pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 5, 2 * LATENTS)),
    )
    return vae, binary()


def steps_of(kind, optim, *, between=lambda optim: None, steps=STEPS, **options):
    vae, x = made()
    optim = optim(vae)
    svi = kind(vae.model, vae.guide, optim, TraceMeanField_ELBO(), **options)
    torch.manual_seed(1)
    for _ in range(steps):
        svi.step(x)
        between(optim)
    return dict(vae.named_parameters())


def loop_of_torch(make, *, between=lambda optimizers: None, clip_norm=None):
    """Train by a loop of torch's own: the gradients are Pyro's."""
    vae, x = made()
    optimizers, loss = make(vae), TraceMeanField_ELBO()
    torch.manual_seed(1)
    for _ in range(STEPS):
        vae.zero_grad()
        loss.differentiable_loss(vae.model, vae.guide, x).backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(vae.parameters(), clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        between(optimizers)
    return dict(vae.named_parameters())


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, parameter in wanted.items():
        torch.testing.assert_close(found[name], parameter, **EXACT, msg=name)


OPTIMIZERS = {
    "Adadelta": {"lr": 0.5},
    "Adagrad": {"lr": 0.05, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "betas": (0.8, 0.9)},
    "Adamax": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "ASGD": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.5},
    "Rprop": {"lr": 0.01},
    "SGD": {"lr": 0.01, "momentum": 0.9, "nesterov": True},
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_compiled_step_is_that_of_pyros_own_svi(name):
    settings = OPTIMIZERS[name]
    wrapper = getattr(pyro.optim, name)
    wanted = steps_of(pyro.infer.SVI, lambda _: wrapper(dict(settings)))
    assert_same(steps_of(SVI, lambda _: wrapper(dict(settings))), wanted)

    def ours(_):
        return Optim(getattr(torch.optim, name), **settings)

    # That the compiled gradients are Pyro's is told by one of them.
    assert_same(steps_of(SVI, ours, compile=name == "AdamW"), wanted)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("compiled", [True, False])
def test_muon_steps_the_matrices_and_another_optimizer_the_rest(compiled):
    def theirs(vae):
        matrices = [p for p in vae.parameters() if p.ndim == 2]
        others = [p for p in vae.parameters() if p.ndim != 2]
        return [
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.05),
            torch.optim.AdamW(others, lr=0.02, weight_decay=0.01),
        ]

    def ours(_):
        return Optim(torch.optim.Muon, lr=0.02, weight_decay=0.05, groups=MATRICES)

    assert_same(steps_of(SVI, ours, compile=compiled), loop_of_torch(theirs))


@pytest.mark.usefixtures("interpreted")
def test_muon_for_a_number_of_steps_is_muon_without_decay_and_adam_along_cosines():
    def theirs(vae):
        matrices = [p for p in vae.parameters() if p.ndim == 2]
        others = [p for p in vae.parameters() if p.ndim != 2]
        return [
            Muon(matrices, lr=0.04, weight_decay=0.0),
            torch.optim.Adam(others, lr=0.002),
        ]

    taken = itertools.count(1)

    def along_a_cosine(optimizers):
        way = (1 + math.cos(math.pi * next(taken) / 99)) / 2
        for each, lr in zip(optimizers, (0.04, 0.002), strict=True):
            each.param_groups[0]["lr"] = lr * way

    wanted = loop_of_torch(theirs, between=along_a_cosine)
    assert_same(steps_of(SVI, lambda _: Optim.muon(99, lr=0.04), compile=False), wanted)


@pytest.mark.usefixtures("interpreted")
def test_groups_of_muons_come_before_its_own():
    def theirs(vae):
        named = dict(vae.named_parameters())
        taken = [p for name, p in named.items() if name.startswith("posterior")]
        rest = [p for name, p in named.items() if not name.startswith("posterior")]
        return [
            torch.optim.SGD(taken, lr=0.05),
            Muon([p for p in rest if p.ndim == 2], lr=0.04, weight_decay=0.0),
            torch.optim.Adam([p for p in rest if p.ndim != 2], lr=0.002),
        ]

    def along_a_cosine(optimizers):
        way = (1 + math.cos(math.pi * next(taken) / 99)) / 2
        for each, lr in zip(optimizers, (0.05, 0.04 * way, 0.002 * way), strict=True):
            each.param_groups[0]["lr"] = lr

    taken = itertools.count(1)
    wanted = loop_of_torch(theirs, between=along_a_cosine)
    groups = {"posterior.*": {"optimizer": torch.optim.SGD, "lr": 0.05}}
    ours = steps_of(SVI, lambda _: Optim.muon(99, lr=0.04, groups=groups), compile=False)
    assert_same(ours, wanted)


class Named(torch.nn.Module):
    """Layers of torch whose matrices have other names than "weight", and matrices of no layer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 2))
        self.recurrent = torch.nn.GRU(2, 2)
        self.convolution = torch.nn.Conv1d(2, 2, 1)
        self.weights_of_mixture = torch.nn.Parameter(torch.zeros(2))
        self.means = torch.nn.Parameter(torch.zeros(2, 3))


def steppers(programs, *args):
    """Return the class of the optimizer that steps each parameter, by its name."""
    optim = Optim.muon(10)
    svi = SVI(*programs, optim, pyro.infer.Trace_ELBO(), compile=False)
    svi.step(*args)
    return {
        svi.names[parameter]: type(optimizer)
        for optimizer in optim.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_muon_takes_the_weights_of_layers_and_adam_all_other_matrices():
    vae, x = made()
    vampprior = pv.priors.VampPrior(vae.posterior, 4).start_at_data(x)
    mixture = pv.priors.MixtureOfNormals(LATENTS, 4)
    for prior, matrices in (vampprior, ["unconstrained"]), (mixture, ["loc", "raw_scale"]):
        composed = pv.VAE(prior, vae.likelihood, vae.posterior)
        found = steppers((composed.model, composed.guide), x)
        for name, parameter in composed.named_parameters():
            weight = name.endswith("weight")
            assert found[name] is (Muon if weight else torch.optim.Adam), (name, parameter.shape)
        assert {name for name in found if name.startswith("prior.")} >= {
            f"prior.{name}" for name in matrices
        }


def test_muon_tells_weights_by_the_names_that_torch_and_pyro_give():
    layers = Named()

    def model():
        pyro.module("net", layers)
        drawn = layers.linear(layers.means).sum() + layers.weights_of_mixture.sum()
        drawn = drawn + layers.recurrent(layers.convolution(torch.zeros(1, 2, 1)).mT)[0].sum()
        pyro.sample("x", dist.Normal(drawn, 1.0), obs=torch.tensor(0.0))

    found = steppers((model, lambda: None))
    muons = {name.removeprefix("net$$$") for name, kind in found.items() if kind is Muon}
    assert muons == {
        "linear.parametrizations.weight.original",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
    }
    assert len(found) == len(dict(layers.named_parameters()))
    pyro.clear_param_store()  # in which pyro.module keeps parameters


def test_muon_falls_along_a_cosine():
    optim = Optim.muon(1000, lr=0.04)
    found = {}
    for t in (0, 9, 10, 505, 1000):
        optim.at(t)
        found[t] = optim.learning_rate
    wanted = {0: 0.004, 9: 0.04, 10: 0.04, 505: 0.02, 1000: 0.0}
    assert found == pytest.approx(wanted)
    with pytest.raises(ValueError, match="number of steps of the whole training; got 0"):
        Optim.muon(0)


def test_adafactor_steps_as_torchs():
    wanted = loop_of_torch(lambda vae: [torch.optim.Adafactor(vae.parameters(), lr=0.02)])
    found = steps_of(SVI, lambda _: Optim(torch.optim.Adafactor, lr=0.02), compile=False)
    assert_same(found, wanted)


@pytest.mark.usefixtures("interpreted")
def test_groups_have_settings_and_rates_of_their_own():
    def theirs(vae):
        def of(end, *, part=""):
            return [p for name, p in vae.named_parameters() if name.endswith(end) and part in name]

        return [
            torch.optim.AdamW(
                [
                    {"params": of("bias"), "weight_decay": 0.0},
                    {"params": of("weight", part="likelihood"), "lr": 0.001},
                    {"params": of("weight", part="posterior")},
                ],
                lr=0.02,
                weight_decay=0.3,
            )
        ]

    def ours(_):
        groups = {"*.bias": {"weight_decay": 0.0}, "likelihood.*": {"lr": 0.001}}
        return Optim(torch.optim.AdamW, lr=0.02, weight_decay=0.3, groups=groups)

    assert_same(steps_of(SVI, ours), loop_of_torch(theirs))


RATE = pv.learning_rates.cosine(0.05, 16, warmup=5)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("kind", "options"), [(SVI, {}), (SVI, {"compile": False}), (pyro.infer.SVI, {})]
)
def test_the_rate_of_each_step_is_that_of_the_schedule(kind, options):
    def theirs(vae):
        adam = torch.optim.Adam(vae.parameters(), lr=1.0)
        return [adam, torch.optim.lr_scheduler.LambdaLR(adam, RATE)]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        wanted = loop_of_torch(theirs)
    assert_same(steps_of(kind, lambda _: Optim(torch.optim.Adam, lr=RATE), **options), wanted)


def test_fit_sets_the_rate_of_each_step_and_shows_it_and_the_norm(interpreted):
    vae, x = made()
    seen = []

    class Note(pv.Callback):
        needs_gradient_norm = True

        def stepped(self, training):
            seen.append((training.learning_rate, training.gradient_norm))
            assert training.optimizer.learning_rate == training.learning_rate

    step = pv.Step(Optim(torch.optim.Adam, lr=RATE), compile=True)
    pv.fit(vae, x.repeat(9, 1), epochs=2, batch_size=10, step=step, callbacks=[Note()])
    rates, norms = zip(*seen, strict=True)
    assert rates == tuple(RATE(t) for t in range(14))
    assert all(math.isfinite(norm) and norm > 0 for norm in norms)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_gradient_norm_is_the_norm_before_clipping(compiled, interpreted):
    wanted = []
    vae, x = made()
    loss, adam = TraceMeanField_ELBO(), torch.optim.Adam(vae.parameters(), lr=0.01)
    torch.manual_seed(1)
    for _ in range(5):
        vae.zero_grad()
        loss.differentiable_loss(vae.model, vae.guide, x).backward()
        wanted.append(torch.cat([p.grad.flatten() for p in vae.parameters()]).norm().item())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 0.3)
        adam.step()
    vae, x = made()
    optim = Optim(torch.optim.Adam, lr=0.01)
    svi = SVI(vae.model, vae.guide, optim, loss, compile=compiled, clip_norm=0.3)
    torch.manual_seed(1)
    found = []
    for _ in range(5):
        svi.step(x)
        found.append(svi.norm.value.item())
    assert found == pytest.approx(wanted, rel=1e-10)


def test_the_norm_is_not_measured_for_nobody():
    vae, x = made()
    svi = SVI(vae.model, vae.guide, Optim(torch.optim.Adam), TraceMeanField_ELBO(), compile=False)
    svi.step(x)
    assert math.isnan(svi.norm.value.item())


@pytest.mark.parametrize("validated", [True, False])
def test_a_rate_per_epoch_and_a_plateau_follow_the_epochs(validated):
    x = binary().repeat(3, 1)
    for lr, per in (
        (pv.learning_rates.exponential(0.1, 0.5), "epoch"),
        (pv.learning_rates.Plateau(0.1, factor=0.5, patience=0, threshold=1e9), "step"),
    ):
        seen = []

        class Note(pv.Callback):
            def stepped(self, training, seen=seen):
                seen.append(training.learning_rate)

        step = pv.Step(Optim(torch.optim.SGD, lr=lr, per=per))
        pv.fit(
            made()[0], x, validation=x if validated else None, epochs=4, batch_size=11, step=step,
            callbacks=[Note()],
        )  # fmt: skip
        # No epoch improves by so much: the rate is halved after each from the second on.
        epochs = [1.0, 0.5, 0.25, 0.125] if per == "epoch" else [1.0, 1.0, 0.5, 0.25]
        assert seen == [0.1 * factor for factor in epochs for _ in range(2)]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("fresh", [True, False])
def test_a_training_goes_on_from_a_saved_state(fresh):
    def optim():
        return Optim(torch.optim.Muon, lr=RATE, groups=MATRICES)

    whole = steps_of(SVI, lambda _: optim())
    vae, x = made()
    first = SVI(vae.model, vae.guide, optim(), TraceMeanField_ELBO())
    torch.manual_seed(1)
    for _ in range(STEPS // 2):
        first.step(x)
    saved = copy.deepcopy(first.optim.get_state())
    # A second with fresh or with other moments.
    second = SVI(vae.model, vae.guide, optim(), TraceMeanField_ELBO())
    before, draws = copy.deepcopy(vae.state_dict()), torch.random.get_rng_state()
    if not fresh:
        second.step(x)
        vae.load_state_dict(before)
        torch.random.set_rng_state(draws)
    second.optim.set_state(saved)
    for _ in range(STEPS // 2):
        second.step(x)
    assert_same(dict(vae.named_parameters()), whole)


def test_a_state_of_other_parameters_is_refused():
    vae, x = made()
    svi = SVI(vae.model, vae.guide, Optim(torch.optim.Adam), TraceMeanField_ELBO(), compile=False)
    svi.step(x)
    state = svi.optim.get_state()
    other = Optim(torch.optim.Adam, groups={"*.bias": {"lr": 0.1}})
    other.set_state(state)
    svi = SVI(vae.model, vae.guide, other, TraceMeanField_ELBO(), compile=False)
    with pytest.raises(ValueError, match="the state of the optimizer is that of other parameters"):
        svi.step(x)


def test_parameters_that_a_step_does_not_announce_stay(interpreted):
    """A momentum would move them: Pyro steps only what the programs have announced."""
    torch.manual_seed(0)
    one, two = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optim = Optim(torch.optim.SGD, lr=0.1, momentum=0.9)
    for given in ([one, two], [one]):
        for parameter in (one, two):
            parameter.grad = torch.ones(2)
        optim.take(given, {one: "one", two: "two"})
    assert torch.equal(two, torch.full((2,), 0.9))
    assert torch.equal(two.grad, torch.ones(2))
    torch.testing.assert_close(one.detach(), torch.full((2,), 1 - 0.1 - 0.19))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optim(torch.optim.LBFGS), "LBFGS evaluates the loss several times in a step"),
        (lambda: Optim(torch.optim.AdamW, weight_decai=1), "AdamW takes no 'weight_decai': its"),
        (lambda: Optim(torch.optim.AdamW, betas=(2.0, 0.9)), "Invalid beta parameter"),
        (lambda: Optim(torch.optim.SGD, groups={"*.bias": {"beta": 1}}), "SGD takes no 'beta'"),
        (lambda: Optim(pyro.optim.Adam), "a class such as torch.optim.AdamW; got"),
        (lambda: Optim(torch.optim.SGD, per="week"), "per is \"step\" or \"epoch\"; got 'week'"),
    ],
)  # fmt: skip
def test_what_is_no_optimizer_is_refused_before_the_first_step(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        (
            lambda: Optim(torch.optim.SGD, groups={"*.bais": {"lr": 1.0}}),
            r"'\*\.bais' of the opti",
        ),
        (
            lambda: Optim(torch.optim.Muon),
            r"Muon only supports 2D .*give other parameters an opti",
        ),
    ],
)
def test_groups_that_do_not_fit_the_parameters_are_refused(optim, message):
    vae, x = made()
    with pytest.raises(ValueError, match=message):
        pv.fit(vae, x, epochs=1, step=pv.Step(optim()), callbacks=[])
