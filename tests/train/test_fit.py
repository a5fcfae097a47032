"""`fit` trains what Pyro's own SVI trains, measures apart from it, and loses nothing."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.utils.data import Dataset, IterableDataset, TensorDataset
from worlds import random

import pyrovae as pv
from pyrovae.train.fit import Step
from pyrovae.train.step import default_loss

SIZE = 16
GREY = torch.full((1, SIZE), 0.5)


def small_vae(seed=0):
    with pv.seeded(seed):
        return pv.VAE(
            prior=pv.priors.StandardNormal(2),
            likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 8, SIZE)),
            guide=pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE, 8, 4)),
        )


def binary_data(n=60, seed=1):
    """Two patterns with a tenth of the pixels flipped: there is something to learn."""
    with pv.seeded(seed):
        patterns = torch.bernoulli(torch.full((2, SIZE), 0.5))
        chosen = patterns[torch.randint(2, (n,))]
        return (chosen + torch.bernoulli(torch.full((n, SIZE), 0.1))) % 2


def parameters(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def svi_by_hand(vae, loss, batches):
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    return [svi.step(x) for x in batches]


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()])
def test_fit_takes_the_very_steps_of_pyros_svi(loss):
    x = binary_data()
    ours, theirs = small_vae(), small_vae()
    pv.fit(ours, x, epochs=3, batch_size=20, step=Step(loss=loss), seed=7, callbacks=[])
    with pv.seeded(7):
        orders = (torch.randperm(len(x)) for _ in range(3))
        svi_by_hand(theirs, loss, (x[rows] for order in orders for rows in order.split(20)))
    # One fused Adam over all parameters against Pyro's one for each: rounding apart, the same.
    torch.testing.assert_close(parameters(ours), parameters(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_both_objectives_of_pyro_and_fit_train_to_the_same_elbo():
    """The same VAE from the same start: the ELBO on fresh noise agrees within 4 standard errors.

    The errors are those of the particles, plus the spread of the ELBO over training seeds, which
    is estimated from five trainings by `fit`.
    """
    x = binary_data(200)

    def trained_elbo(train):
        vae = small_vae()
        train(vae)
        report = pv.evaluate(vae, x, particles=200)
        return report.elbo.mean, report.elbo.error_over_particles

    def by_fit(seed):
        return lambda vae: pv.fit(vae, x, epochs=15, batch_size=20, seed=seed, callbacks=[])

    def by_hand(loss):
        def train(vae):
            with pv.seeded(99):
                orders = (torch.randperm(len(x)) for _ in range(15))
                svi_by_hand(vae, loss, (x[rows] for order in orders for rows in order.split(20)))

        return train

    ours = torch.tensor([trained_elbo(by_fit(seed))[0] for seed in range(5)])
    for loss in (Trace_ELBO(), TraceMeanField_ELBO()):
        elbo, error = trained_elbo(by_hand(loss))
        spread = math.hypot(error, ours.std().item() * math.sqrt(1 + 1 / 5))
        assert abs(elbo - ours.mean().item()) < 4 * spread


def test_history_is_the_bound_that_evaluate_reports():
    x = binary_data()
    vae = small_vae()
    history = pv.fit(vae, x, validation=x, epochs=4, batch_size=20, callbacks=[])
    assert [epoch.epoch for epoch in history.epochs] == [1, 2, 3, 4]
    last = history.epochs[-1]
    assert last.elbo == pytest.approx(-last.rate - last.distortion)
    report = pv.evaluate(vae, x, particles=400)
    # One particle per datum against 400: its error is sqrt(400) times the report's.
    error = 20 * report.elbo.error_over_particles
    assert abs(last.elbo - report.elbo.mean) < 4 * error
    assert abs(last.validation_elbo - report.elbo.mean) < 4 * error
    assert history.column("elbo")[-1] > history.column("elbo")[0]
    assert all(seconds > 0 for seconds in history.column("seconds"))


def test_kl_weight_changes_the_loss_but_not_the_reported_elbo():
    x = binary_data()
    heavy, light = small_vae(), small_vae()
    still = pyro.optim.Adam({"lr": 0.0})
    reported = [
        pv.fit(vae, x, epochs=1, step=Step(optim=still, kl_weight=weight), callbacks=[]).epochs[0]
        for vae, weight in ((light, 1.0), (heavy, 10.0))
    ]
    assert reported[0].elbo == reported[1].elbo
    assert reported[0].rate == reported[1].rate > 0
    assert reported[1].loss > reported[0].loss
    assert [epoch.kl_weight for epoch in reported] == [1.0, 10.0]


def test_kl_weight_zero_gives_the_loss_without_its_kl():
    """At weight 0 the mean-field loss is the distortion at the same noise: the KL is the gap."""
    x = binary_data(20)
    still = pyro.optim.Adam({"lr": 0.0})
    losses = {
        weight: pv.fit(
            small_vae(), x, epochs=1, step=Step(optim=still, kl_weight=weight), callbacks=[]
        )
        .epochs[0]
        .loss
        for weight in (0.0, 1.0)
    }
    vae = small_vae()
    kl = pv.analytic_kl(vae, x).mean().item()
    assert losses[1.0] - losses[0.0] == pytest.approx(kl, rel=1e-4)


def test_kl_weight_schedule_is_asked_for_the_epochs_gone_by():
    asked = []

    def schedule(epochs):
        asked.append(epochs)
        return min(1.0, epochs / 2)

    pv.fit(
        small_vae(), binary_data(40), epochs=2, batch_size=20,
        step=Step(kl_weight=schedule), callbacks=[],
    )  # fmt: skip
    assert asked == [0.0, 0.5, 1.0, 1.5]


def test_a_seed_repeats_a_training_and_leaves_torchs_generator_alone():
    x = binary_data()
    before = torch.random.get_rng_state()
    first, second, other = small_vae(), small_vae(), small_vae()
    for vae, seed in ((first, 3), (second, 3), (other, 4)):
        pv.fit(vae, x, epochs=2, batch_size=20, seed=seed, callbacks=[])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(parameters(first), parameters(second))
    assert not torch.equal(parameters(first), parameters(other))


class Items(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x,),
        TensorDataset,
        Items,
        lambda x: [(x[:30],), (x[30:],)],
        lambda x: pv.data.Split(x, torch.zeros(len(x))),
    ],
    ids=["tensor", "tuple", "TensorDataset", "Dataset", "batches", "Split"],
)
def test_every_form_of_data_trains(wrap):
    x = binary_data()
    step = Step(optim=pyro.optim.Adam({"lr": 0.02}))
    history = pv.fit(small_vae(), wrap(x), epochs=20, batch_size=30, step=step, callbacks=[])
    assert history.epochs[-1].loss < history.epochs[0].loss - 1


class Stream(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


class Unsized:
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x.split(25))


@pytest.mark.parametrize("wrap", [Stream, Unsized])
def test_data_that_do_not_know_their_length_are_counted(wrap):
    seen = Recorder()
    pv.fit(small_vae(), wrap(binary_data(60)), epochs=2, batch_size=25, callbacks=[seen])
    assert seen.moments == ["started", 1, 2, 3, "epoch", 4, 5, 6, "epoch", "finished", "ended"]


def test_a_bad_batch_of_an_iterable_is_met_before_its_step():
    batches = [binary_data(20), GREY.repeat(20, 1)]
    with pytest.raises(ValueError, match="Bernoulli takes values that are 0 or 1; got 0.5"):
        pv.fit(small_vae(), batches, epochs=1, callbacks=[])


def test_a_network_that_no_part_holds_is_refused():
    """Nothing would train it, and nothing would save it."""
    net = pv.nets.MLP(2, 8, SIZE)

    def likelihood(z, x=None):
        return pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    base = small_vae()
    vae = pv.VAE(base.prior, likelihood, base.posterior)
    with pytest.raises(ValueError, match=r"shapes \[.*\(16, 8\).*no part holds.*nn\.Module"):
        pv.fit(vae, binary_data(), epochs=1, callbacks=[])

    def announced(z, x=None):
        pyro.module("net", net)
        return likelihood(z, x)

    before = net.layers[0].weight.detach().clone()
    pv.fit(pv.VAE(base.prior, announced, base.posterior), binary_data(), epochs=1, callbacks=[])
    pyro.clear_param_store()
    assert not torch.equal(net.layers[0].weight, before)


def test_a_kl_weight_on_sites_that_are_summed_out_is_refused():
    def model(x):
        probs = pyro.param("probs", torch.tensor(0.4), constraint=dist.constraints.unit_interval)
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(probs), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Bernoulli(0.2 + 0.5 * c), obs=x)

    pair = (model, lambda x: None)
    with pytest.raises(ValueError, match="summed out: leave it at 1"):
        pv.fit(pair, torch.ones(9), epochs=1, step=Step(kl_weight=0.5), callbacks=[])
    pv.fit(pair, torch.ones(9), epochs=1, callbacks=[])
    pyro.clear_param_store()


def test_context_reaches_all_three_parts():
    x, label = binary_data(), torch.eye(2).repeat(30, 1)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(2),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2 + 2, 8, SIZE)),
        guide=pv.guides.MeanFieldNormal(pv.nets.MLP(SIZE + 2, 8, 4)),
    )
    history = pv.fit(vae, (x, label), validation=(x, label), epochs=2, callbacks=[])
    assert math.isfinite(history.epochs[-1].validation_elbo)


def pair_of_programs():
    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        spread = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc * x, spread).to_event(1))

    return model, guide


def test_fit_trains_a_pair_of_plain_pyro_programs():
    """With p(z) = N(0, s^2) and x = z + N(0, 1) the optimum is known.

    The guide is then the exact posterior, N(a x, a) with a = s^2 / (1 + s^2), whose gradient has
    no noise of z at the optimum; what is left is Adam's last rate, 1e-3, and the minibatches: each
    of four has a second moment that is off by sqrt(2 / 100) of itself, which decays with the rate.
    """
    x = 3 * torch.randn(400, 1)
    optim = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.95}
    )
    step = Step(optim=optim)
    pv.fit(pair_of_programs(), x, epochs=80, batch_size=100, step=step, callbacks=[])
    found = {name: pyro.param(name).item() for name in ("scale", "loc", "spread")}
    pyro.clear_param_store()
    variance = x.square().mean().item() - 1
    shrink = variance / (1 + variance)
    assert found["scale"] == pytest.approx(variance**0.5, rel=0.02)
    assert found["loc"] == pytest.approx(shrink, rel=0.02)
    assert found["spread"] == pytest.approx(shrink**0.5, rel=0.02)


def test_a_compiled_training_is_an_uncompiled_one(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    x, found = binary_data(50), {}
    for compiled in (False, True):
        vae = small_vae()
        step = Step(kl_weight=lambda epochs: min(1.0, epochs / 3), compile=compiled)
        history = pv.fit(vae, x, validation=x, epochs=4, batch_size=20, step=step, callbacks=[])
        found[compiled] = (parameters(vae), history)
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-4, atol=1e-5)
    losses = [history.column("loss") for _, history in found.values()]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert found[False][1].compile_seconds == 0
    # Two shapes of a batch, 20 and 10, were recorded; the epochs do not count that time.
    assert found[True][1].compile_seconds > 0


def test_short_trainings_are_not_compiled_unless_asked(monkeypatch):
    asked = []

    class Spy(pv.SVI):
        def __init__(self, *arguments, compile, **more):
            asked.append(compile)
            super().__init__(*arguments, compile=False, **more)

    monkeypatch.setattr("pyrovae.train.fit.SVI", Spy)
    monkeypatch.setattr("pyrovae.train.fit.COMPILED_FROM", 6)
    for epochs, step in (
        (1, Step()),
        (2, Step()),
        (2, Step(handlers=[poutine.scale(scale=0.5)])),
        (2, Step(compile=False)),
        (1, Step(compile=True)),
    ):
        pv.fit(small_vae(), binary_data(60), epochs=epochs, batch_size=20, step=step, callbacks=[])
    assert asked == [False, True, False, False, True]


def test_an_infinite_loss_of_a_compiled_step_spares_the_parameters(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    x = binary_data(40)
    vae = small_vae()

    class Poison(pv.Callback):
        def stepped(self, training):
            with torch.no_grad():
                training.parameters["posterior.net.layers.0.weight"].fill_(math.inf)

    before = parameters(vae)
    with pytest.raises(pv.NonFiniteLoss, match=r"step 2 .*posterior\.net\.layers\.0\.weight"):
        pv.fit(vae, x, epochs=1, batch_size=20, step=Step(compile=True), callbacks=[Poison()])
    assert torch.equal(parameters(vae), before)


WEIGHED = {
    "a mask": (poutine.mask(mask=False), 0.0),
    "a scale": (poutine.scale(scale=0.25), 0.25),
}


@pytest.mark.parametrize(("alone", "weight"), WEIGHED.values(), ids=WEIGHED)
def test_default_loss_reads_a_mask_and_a_scale_of_the_prior_alone(alone, weight):
    """The prior's density is weighed, and that of q is not, so that no closed form holds."""
    mean, scale, rows = torch.tensor(2.0), torch.tensor(0.3), 4000

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            with alone:
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, scale))

    torch.manual_seed(0)
    x = torch.ones(rows)
    loss = default_loss(model, guide, x).loss(model, guide, x) / rows
    half, square = 0.5 * math.log(2 * math.pi), mean**2 + scale**2
    wanted = weight * (half + square / 2) + half + ((1 - mean) ** 2 + scale**2) / 2
    wanted -= half + 0.5 + scale.log()
    z = dist.Normal(mean, scale).sample((100_000,))
    each = weight * z**2 / 2 + (1 - z) ** 2 / 2 - ((z - mean) / scale) ** 2 / 2
    assert abs(loss - wanted) < 5 * each.std() / rows**0.5


def test_default_loss_is_the_one_that_holds():
    x = binary_data(10)
    vae = small_vae()
    assert isinstance(default_loss(vae.model, vae.guide, x), TraceMeanField_ELBO)

    def coin():
        return pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))

    def coin_guide(x):
        pyro.sample("z", dist.Bernoulli(torch.full((len(x), 2), 0.5)).to_event(1))

    discrete = pv.VAE(coin, vae.likelihood, coin_guide)
    assert isinstance(default_loss(discrete.model, discrete.guide, x), Trace_ELBO)
    assert not isinstance(default_loss(discrete.model, discrete.guide, x), TraceMeanField_ELBO)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            probs = (0.25 + 0.5 * c).unsqueeze(-1).expand(*c.shape, SIZE)
            pyro.sample("x", dist.Bernoulli(probs).to_event(1), obs=x)

    assert isinstance(default_loss(model, lambda x: None, x), TraceEnum_ELBO)


def test_any_objective_of_pyro_may_be_given():
    step = Step(loss=RenyiELBO(alpha=0, num_particles=5, vectorize_particles=True))
    history = pv.fit(small_vae(), binary_data(), epochs=20, batch_size=20, step=step, callbacks=[])
    assert history.epochs[-1].loss < history.epochs[0].loss


class Recorder(pv.Callback):
    def __init__(self):
        self.moments = []

    def started(self, training):
        self.moments.append("started")

    def stepped(self, training):
        self.moments.append(training.step)

    def finished_epoch(self, training):
        self.moments.append("epoch")

    def finished(self, training):
        self.moments.append("finished")

    def ended(self, training):
        self.moments.append("ended")


def test_callbacks_see_every_moment():
    seen = Recorder()
    pv.fit(small_vae(), binary_data(40), epochs=2, batch_size=20, callbacks=[seen])
    assert seen.moments == ["started", 1, 2, "epoch", 3, 4, "epoch", "finished", "ended"]


def test_early_stopping_keeps_the_best_parameters():
    """The second half of the training climbs down on purpose: negative learning rate."""
    x = binary_data()

    class Worsen(pv.Callback):
        def stepped(self, training):
            if training.step > 3 * training.batches:
                with torch.no_grad():
                    for parameter in training.parameters.values():
                        parameter.add_(torch.ones_like(parameter))

    vae = small_vae()
    stopping = pv.EarlyStopping(patience=2)
    history = pv.fit(
        vae, x, validation=x, epochs=50, batch_size=20, callbacks=[Worsen(), stopping]
    )
    elbos = history.column("validation_elbo")
    best = elbos.index(max(elbos))
    assert len(elbos) == best + 3
    assert history.ended.startswith("stopped early")
    again = pv.fit(
        vae, x, validation=x, epochs=1, batch_size=20, callbacks=[],
        step=Step(optim=pyro.optim.Adam({"lr": 0.0})),
    )  # fmt: skip
    assert again.epochs[0].validation_elbo == elbos[best]


def test_early_stopping_without_validation_data_says_so():
    with pytest.raises(ValueError, match="needs validation data"):
        pv.fit(small_vae(), binary_data(), epochs=1, callbacks=[pv.EarlyStopping()])


class Unbounded(torch.nn.Module):
    """A likelihood of bits whose log-density of a row of ones is a number of one's own."""

    def __init__(self, of_ones):
        super().__init__()
        self.net, self.of_ones = torch.nn.Linear(2, 16), of_ones

    def forward(self, z, x=None):
        found = pyro.sample("x", dist.Bernoulli(logits=self.net(z)).to_event(1), obs=x)
        if x is not None:
            known = torch.where(x.all(-1), self.of_ones, 0.0).expand(z.shape[:-1])
            pyro.factor("ones", known)
        return found


def unbounded_vae(of_ones):
    torch.manual_seed(0)
    guide = pv.guides.MeanFieldNormal(pv.nets.MLP(16, 4))
    return pv.VAE(pv.priors.StandardNormal(2), Unbounded(of_ones), guide)


@pytest.mark.parametrize("of_ones", [-torch.inf, torch.inf])
def test_early_stopping_keeps_the_last_epoch_if_no_validation_elbo_is_finite(of_ones):
    x = torch.bernoulli(torch.full((40, 16), 0.3))
    ones, vae = torch.ones(1, 16), unbounded_vae(of_ones)
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    with pytest.warns(UserWarning, match="not finite in any epoch, so that none is the best"):
        history = pv.fit(
            vae, x, validation=ones, epochs=9, callbacks=[pv.EarlyStopping(patience=3)]
        )
    assert history.kept == len(history.epochs) == 3
    assert history.ended == "stopped early: the validation ELBO was not finite in any epoch"
    assert not all(torch.equal(before[name], new) for name, new in vae.state_dict().items())


class Shifted(torch.nn.Module):
    """A network whose outputs are about 300."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return self.net(z) + 300


def test_real_numbers_far_from_the_likelihood_are_warned_of():
    """The ELBO is near -300^2 / 2 nats for each number; pytest makes other warnings errors."""
    x = 300 + random(0, 40, 3).float()

    def vae(decoder):
        likelihood = pv.likelihoods.Normal(decoder)
        return pv.VAE(pv.priors.StandardNormal(2), likelihood, pv.guides.MeanFieldNormal(of_x))

    with pv.seeded(0):
        of_x, of_z = pv.nets.MLP(3, 8, 4), pv.nets.MLP(2, 8, 3)
    with pytest.warns(UserWarning, match=r"ELBO is -4[.\d]+e[+]04 nats for each number of x"):
        pv.fit(vae(of_z), x, epochs=1, callbacks=[])
    pv.fit(vae(of_z), x - 300, epochs=1, callbacks=[])
    pv.fit(vae(Shifted(of_z)), x, epochs=1, callbacks=[])


def test_a_validation_elbo_of_infinity_is_not_the_best():
    x = torch.bernoulli(torch.full((40, 16), 0.3))

    class Later(pv.Callback):
        def started_epoch(self, training):
            after = len(training.history.epochs)
            training.target.likelihood.of_ones = torch.inf if after == 1 else 0.0

    vae = unbounded_vae(0.0)
    history = pv.fit(
        vae, x, validation=torch.cat([torch.ones(1, 16), x]), epochs=4,
        callbacks=[Later(), pv.EarlyStopping(patience=4)],
    )  # fmt: skip
    elbos = history.column("validation_elbo")
    assert elbos[1] == torch.inf
    assert history.kept == 1 + max((0, 2, 3), key=elbos.__getitem__)


def test_a_plateau_does_not_take_the_loss_for_a_validation_elbo_that_is_not_known():
    x = torch.bernoulli(torch.full((40, 16), 0.3))
    vae, bounds = unbounded_vae(-torch.inf), []
    plateau = pv.learning_rates.Plateau(1e-3, patience=1)

    class Unknown(pv.Callback):
        def finished_epoch(self, training):
            last = training.history.epochs[-1]
            training.history.epochs[-1] = replace(last, validation_elbo=float("nan"))

        def stepped(self, training):
            bounds.append(list(training.optimizer.bounds))

    step = Step(optim=pv.Optim(torch.optim.Adam, lr=plateau))
    pv.fit(vae, x, validation=x, epochs=3, step=step, callbacks=[Unknown()])
    assert list(map(math.isnan, bounds[-1])) == [True, True]


def test_an_interrupt_keeps_what_there_is():
    class Interrupt(pv.Callback):
        def stepped(self, training):
            if training.step == 5:
                raise KeyboardInterrupt

    history = pv.fit(
        small_vae(), binary_data(60), epochs=9, batch_size=20, callbacks=[Interrupt()]
    )
    assert history.ended == "interrupted"
    assert len(history.epochs) == 1


def test_progress_bar_prints_a_line_per_epoch(capsys):
    pv.fit(small_vae(), binary_data(), validation=binary_data(), epochs=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert all("validation" in line and "steps/s" in line for line in lines)


class Explosive(torch.nn.Module):
    """A likelihood that scores x by an infinite amount from a given call on."""

    def __init__(self, after, value=math.inf):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2, SIZE))
        self.after, self.value, self.calls = after, value, 0

    def forward(self, z, x=None):
        self.calls += 1
        pyro.sample("x", dist.Bernoulli(logits=z @ self.weight).to_event(1), obs=x)
        if self.calls > self.after:
            pyro.factor("explosion", torch.full(z.shape[:-1], -self.value))


def test_an_infinite_loss_names_step_site_and_checkpoint_and_spares_the_parameters():
    x = binary_data(60)
    base = small_vae()
    # Three calls come before the steps (the dry runs); three steps and a monitor make an epoch.
    vae = pv.VAE(base.prior, Explosive(after=8), base.posterior)
    kept = []

    class Keep(pv.Callback):
        def finished_epoch(self, training):
            kept.append(parameters(vae))

    with pytest.raises(pv.NonFiniteLoss, match=r"step \d+ .*'explosion'.*end of epoch 1"):
        pv.fit(vae, x, epochs=5, batch_size=20, callbacks=[Keep()])
    assert torch.equal(parameters(vae), kept[-1])


def test_nan_parameters_name_the_parameter():
    class Poison(pv.Callback):
        def stepped(self, training):
            with torch.no_grad():
                training.parameters["posterior.net.layers.0.weight"].fill_(math.nan)

    vae = small_vae()
    before = parameters(vae)
    with pytest.raises(pv.NonFiniteLoss, match=r"step 2 .*posterior\.net\.layers\.0\.weight"):
        pv.fit(vae, binary_data(), epochs=1, batch_size=20, callbacks=[Poison()])
    assert torch.equal(parameters(vae), before)


def test_a_last_step_that_diverges_does_not_reach_the_checkpoint(tmp_path):
    """One step an epoch: the loss is finite, the update is not, and no step follows to tell."""
    vae, x = small_vae(), binary_data()
    before = parameters(vae)
    step = Step(optim=pyro.optim.SGD({"lr": 1e38}))
    with pytest.raises(pv.NonFiniteLoss, match="step before left .* parameters not finite"):
        pv.fit(vae, x, batch_size=len(x), step=step, callbacks=[pv.Checkpoint(tmp_path)])
    assert torch.equal(parameters(vae), before)
    assert torch.equal(parameters(pv.load(tmp_path)), before)


def test_a_broken_step_leaves_no_gradient_to_the_next_training():
    x = binary_data(60)
    vae = pv.VAE(small_vae().prior, Explosive(after=4, value=math.nan), small_vae().posterior)
    with pytest.raises(pv.NonFiniteLoss):
        pv.fit(vae, x, epochs=1, batch_size=20, callbacks=[])
    assert all(parameter.grad is None for parameter in vae.parameters())
    vae.likelihood.after = math.inf
    weight = vae.posterior.net.layers[0].weight
    weight.grad = torch.full_like(weight, math.nan)
    pv.fit(vae, x, epochs=1, batch_size=20, callbacks=[])
    assert torch.isfinite(parameters(vae)).all()


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_parameters_are_saved_whatever_the_order_of_the_callbacks(tmp_path, order):
    vae, x = small_vae(), binary_data()

    class Worsen(pv.Callback):
        def stepped(self, training):
            if training.step > 6:
                with torch.no_grad():
                    for parameter in training.parameters.values():
                        parameter.add_(1.0)

    pair = [pv.EarlyStopping(patience=1), pv.Checkpoint(tmp_path)][::order]
    pv.fit(vae, x, validation=x, epochs=9, batch_size=20, callbacks=[Worsen(), *pair])
    assert torch.equal(parameters(pv.load(tmp_path)), parameters(vae))


def test_checkpoint_leaves_the_last_good_epoch_after_a_crash(tmp_path):
    class Crash(pv.Callback):
        def finished_epoch(self, training):
            if len(training.history.epochs) == 2:
                raise RuntimeError("the machine stops")

    vae = small_vae()
    with pytest.raises(RuntimeError, match="the machine stops"):
        pv.fit(vae, binary_data(), epochs=5, callbacks=[pv.Checkpoint(tmp_path, seed=0), Crash()])
    assert torch.equal(parameters(pv.load(tmp_path)), parameters(vae))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"batch_size": 0}, "at least one datum"),
        ({"data": torch.zeros(0, SIZE)}, "empty"),
        ({"data": torch.full((9, SIZE), 0.5)}, "Bernoulli takes values that are 0 or 1; got 0.5"),
        ({"data": torch.full((9, SIZE), math.nan)}, "NaN or infinite"),
        ({"data": torch.zeros(9, SIZE + 1)}, r"expected inputs \[\.\.\., 16\]"),
        ({"data": torch.zeros(9, SIZE, dtype=torch.int64)}, "torch.int64"),
        ({"data": iter([torch.zeros(9, SIZE)])}, "Put an iterator in a list"),
        ({"data": 3}, "got int"),
        ({"data": []}, "empty"),
        (
            {"data": torch.zeros(9, SIZE).numpy().astype(str)},
            "x must be numeric; got an array of <U",
        ),
        ({"data": pv.data.load("digits")}, r"data\.train"),
        ({"data": torch.cat([torch.zeros(300, SIZE), GREY])}, "got 0.5 at row 300"),
        ({"validation": torch.cat([torch.zeros(900, SIZE), GREY])}, "got 0.5 at row 900"),
        ({"validation": torch.zeros(9, SIZE + 1)}, r"expected inputs \[\.\.\., 16\]"),
        ({"data": pv.data.Split(2 * torch.ones(9, SIZE), torch.zeros(9), dynamic=True)}, "0, 1"),
        ({"step": Step(kl_weight=-1.0)}, "a KL weight must be 0 or more"),
        ({"target": object()}, "a VAE or a pair"),
    ],
)
def test_bad_input_is_met_before_the_first_step(arguments, message):
    vae = small_vae()
    before = parameters(vae)
    asked = {"target": vae, "data": binary_data(), "epochs": 1, "callbacks": [], **arguments}
    target, data = asked.pop("target"), asked.pop("data")
    with pytest.raises(ValueError, match=message):
        pv.fit(target, data, **asked)
    assert torch.equal(parameters(vae), before)


def test_a_kl_weight_is_a_number_or_a_schedule():
    with pytest.raises(ValueError, match=r"kl_weight is a number, or a function .*got 'linear'"):
        pv.Step(kl_weight="linear")
