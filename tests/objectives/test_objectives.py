"""Values against formulas; scales, masks and plates; every way that SVI takes an objective."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from learned import Linear
from pyro import poutine
from worlds import LinearGaussian, data_plate, random

import pyrovae as pv
from pyrovae.objectives import CIWAE, CUBO, IWAE, MIWAE, PIWAE, Renyi, ReweightedWakeSleep
from pyrovae.objectives.handlers import free_bits, kl_weight
from pyrovae.weights import bounds
from pyrovae.weights.log_weights import log_weight_terms, log_weights


def by_hand_iwae(column):
    return math.log(sum(math.exp(v) for v in column) / len(column))


def by_hand_power(column, p):
    return math.log(sum(math.exp(p * v) for v in column) / len(column)) / p


CASES = {
    "IWAE": (IWAE(6), by_hand_iwae),
    "IWAE at 1": (IWAE(1), lambda c: c[0]),
    "MIWAE": (MIWAE(6, k=3), lambda c: (by_hand_iwae(c[:3]) + by_hand_iwae(c[3:])) / 2),
    "ELBO": (MIWAE(6, k=1), lambda c: sum(c) / 6),
    "CIWAE": (CIWAE(0.3, 6), lambda c: 0.3 * sum(c) / 6 + 0.7 * by_hand_iwae(c)),
    "Renyi": (Renyi(0.5, 6), lambda c: by_hand_power(c, 0.5)),
    "Renyi, optimistic": (Renyi(-1.0, 6), lambda c: by_hand_power(c, 2.0)),
    "Renyi, above 1": (Renyi(2.0, 6), lambda c: by_hand_power(c, -1.0)),
    "CUBO": (CUBO(3.0, 6), lambda c: -by_hand_power(c, 3.0)),
    "PIWAE": (PIWAE(6, k=2), by_hand_iwae),
    "RWS": (ReweightedWakeSleep(6), by_hand_iwae),
}
"""Objectives with what each raises, from the K log-weights of one datum."""


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_minus_the_bound_of_the_log_weights(name):
    objective, by_hand = CASES[name]
    world, x = Linear(), random(0, 4, 3)
    torch.manual_seed(1)
    loss = objective.loss(world.model, world.guide, x)
    torch.manual_seed(1)
    log_w = log_weights(world, x, particles=objective.num_particles)
    wanted = -sum(by_hand(column) for column in log_w.T.tolist())
    assert loss == pytest.approx(wanted, rel=1e-10)
    torch.manual_seed(1)
    assert objective.loss_and_grads(world.model, world.guide, x) == pytest.approx(loss, rel=1e-12)
    torch.manual_seed(1)
    assert objective(world.model, world.guide)(x).item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
@pytest.mark.parametrize("make", [IWAE, functools.partial(PIWAE, k=2), functools.partial(CUBO, 2)])
def test_the_value_does_not_depend_on_the_gradient(make, gradient):
    world, x = Linear(), random(0, 4, 3)
    losses = []
    for which in ("plain", gradient):
        torch.manual_seed(1)
        losses.append(make(4, gradient=which).loss_and_grads(world.model, world.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("name", [n for n, (o, _) in CASES.items() if hasattr(o, "curvature")])
def test_the_curvature_is_the_second_derivative_over_the_first(name):
    objective = CASES[name][0]
    log_w = random(0, objective.num_particles, 1)

    def value(column):
        return objective.value(column.unsqueeze(-1)).sum()

    column = log_w.squeeze(-1).requires_grad_()
    (slope,) = torch.autograd.grad(value(column), column)
    second = torch.autograd.functional.hessian(value, column)
    met = objective.curvature(log_w).squeeze(-1)
    torch.testing.assert_close(met, second.diagonal() / slope, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.5, 2.0])
def test_pyros_renyi_bound_agrees_where_it_is_right(alpha):
    world, x = Linear(), random(0, 4, 3)
    pyros = pyro.infer.RenyiELBO(
        alpha=alpha, num_particles=6, vectorize_particles=True, max_plate_nesting=1
    )
    losses = []
    for objective in (pyros, Renyi(alpha, 6)):
        torch.manual_seed(1)
        losses.append(objective.loss(world.model, world.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_subsample_is_scaled_outside_the_logarithm(name):
    objective, world, x = CASES[name][0], Linear(), random(0, 4, 3)
    losses = []
    for size in (4, 600):
        torch.manual_seed(1)
        losses.append(objective.loss_and_grads(world.model, world.guide, x, size=size))
    assert losses[1] == pytest.approx(150 * losses[0], rel=1e-10)


@pytest.mark.parametrize("scale", [0.01, torch.tensor([1.0, 0.0, 2.0, 0.5])])
def test_a_scale_on_both_programs_weighs_each_datum(scale):
    world, x = Linear(), random(0, 4, 3)
    with_zeros = torch.as_tensor(scale).double().expand(4)
    torch.manual_seed(1)
    log_w = log_weights(world, x, particles=3)
    for gradient in ("plain", "stl", "dreg"):
        programs = (scaled(program, scale) for program in (world.model, world.guide))
        torch.manual_seed(1)
        loss = IWAE(3, gradient=gradient).loss(*programs, x)
        assert loss == pytest.approx(-(with_zeros * bounds.iwae(log_w)).sum().item(), rel=1e-6)


def scaled(program, scale):
    """Wrap a program in a scale; Pyro's own handler takes positive scales alone."""

    class by(poutine.messenger.Messenger):  # noqa: N801
        def _pyro_sample(self, msg):
            msg["scale"] = msg["scale"] * scale

    return by()(program)


def test_a_mask_takes_its_data_out_of_the_bound():
    world, x = Linear(), random(0, 4, 3)
    mask = torch.tensor([True, False, True, True])
    programs = [poutine.mask(program, mask=mask) for program in (world.model, world.guide)]
    torch.manual_seed(1)
    loss = IWAE(3, gradient="dreg").loss(*programs, x)
    torch.manual_seed(1)
    log_w = log_weights(world, x, particles=3)
    assert loss == pytest.approx(-bounds.iwae(log_w)[mask].sum().item(), rel=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.4, 3.0])
def test_a_kl_weight_tempers_the_latents_inside_the_bound(beta):
    world, x = Linear(), random(0, 4, 3)
    weight = kl_weight(beta)
    torch.manual_seed(1)
    loss = IWAE(5).loss(weight(world.model), weight(world.guide), x, size=40)
    torch.manual_seed(1)
    terms = log_weight_terms(world, x, particles=5)
    tempered = terms.log_likelihood - beta * terms.rate
    assert loss == pytest.approx(-10 * bounds.iwae(tempered).sum().item(), rel=1e-6)


def test_programs_of_different_scales_are_refused():
    world, x = Linear(), random(0, 4, 3)
    half = functools.partial(world.guide, size=40)
    with pytest.raises(ValueError, match=r"site 'z' is scaled by 1.0 in the model and by 10.0"):
        IWAE(2).loss(world.model, half, x)
    with pytest.raises(ValueError, match=r"site 'z' is scaled by .*0.5"):
        IWAE(2).loss(kl_weight(0.5)(world.model), world.guide, x)


def test_observed_sites_of_different_scales_are_refused():
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc = z.sum(-1, keepdim=True) * torch.ones(3)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)
            with poutine.scale(scale=7.0):
                pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match=r"observed sites 'x' and 'y' are scaled by 1.0 and 7.0"):
        IWAE(2).loss(model, Linear().guide, random(0, 4, 3))


def test_a_plate_that_is_nested_is_named():
    def model(x):
        with pyro.plate("rows", 5, dim=-3), data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("rows", 5, dim=-3), data_plate(x):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"site 'z' is in the plates \['rows'\]"):
        IWAE(2).loss(model, guide, random(0, 4, 3))


def test_a_plate_that_subsamples_by_itself_is_scaled():
    world, x, met = Linear(), random(0, 50, 3), {}

    def model(_):
        with pyro.plate("data", 50, subsample_size=5, dim=-1) as rows:
            world.likelihood(world.prior(), x[rows])

    def guide(_):
        with pyro.plate("data", 50, subsample_size=5, dim=-1) as rows:
            met["x"], met["z"] = x[rows], world.posterior(x[rows])

    loss = IWAE(4).loss(model, guide, x)
    wanted = -10 * bounds.iwae(world.log_w(met["x"], met["z"])).sum()
    assert loss == pytest.approx(wanted.item(), rel=1e-10)


def test_cubo_lies_above_the_evidence_and_its_estimate_rises_to_it():
    world = LinearGaussian()
    x, (off, exact) = world.sample(1), world.off_pair
    # w = p(x) exact(z) / off(z): E_off[(exact / off)^2] is an integral over a normal.
    precision = 2 * exact.precision_matrix - off.precision_matrix
    assert torch.linalg.eigvalsh(precision).min() > 0
    pull = 2 * exact.precision_matrix @ exact.mean - off.precision_matrix @ off.mean
    constant = (
        2 * exact.log_prob(torch.zeros(2).double())
        - off.log_prob(torch.zeros(2).double())
        + 0.5 * pull @ torch.linalg.solve(precision, pull)
        + math.log(2 * math.pi)
        - 0.5 * torch.logdet(precision)
    )
    evidence = world.log_evidence(x).item()
    cubo = evidence + constant.item() / 2
    assert cubo > evidence + 0.01
    many, previous = x.repeat(4000, 1), -math.inf
    for k in (2, 8, 64):
        log_w = log_weights((world.model, world.off_guide), many, particles=k)
        for found, above in ((bounds.cubo(log_w), cubo), (bounds.iwae(log_w), evidence)):
            error = found.std().item() / math.sqrt(len(found))
            assert found.mean().item() < above + 4 * error
        estimate = bounds.cubo(log_w)
        assert estimate.mean().item() > previous
        previous = estimate.mean().item()
    assert previous == pytest.approx(cubo, abs=0.1)
    assert "may fall under log p(x)" in str(CUBO(2, 50))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IWAE(0), "at least one particle; got 0"),
        (lambda: MIWAE(0, k=5), "particles=0, k=5"),
        (lambda: MIWAE(5, k=0), "particles=5, k=0"),
        (lambda: MIWAE(5, k=2), "multiple of the group size k; got particles=5, k=2"),
        (lambda: PIWAE(5, k=-1), "k=-1"),
        (lambda: Renyi(1.0, 5), "order alpha other than 1; got 1.0"),
        (lambda: Renyi(math.inf, 5), "finite order"),
        (lambda: CUBO(0.5, 5), "n >= 1; got n = 0.5"),
        (lambda: CIWAE(-0.1, 5), "between 0 and 1; got beta = -0.1"),
        (lambda: CIWAE(1.1, 5), "between 0 and 1"),
        (lambda: ReweightedWakeSleep(1), "at least two"),
        (lambda: ReweightedWakeSleep(5, gradient="stl"), "'plain' or 'dreg'"),
        (lambda: IWAE(5, gradient="vimco"), "one of plain, stl, dreg; got 'vimco'"),
    ],
)
def test_what_makes_no_objective_is_refused(make, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("objective", [IWAE(3), IWAE(3, gradient="dreg"), PIWAE(4, k=2)])
def test_a_weight_that_is_not_defined_names_its_datum_and_site(objective):
    def model(x):
        with data_plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            loc = torch.where(x[:, :1] > 5, math.nan, 1.0) * z
            noise = dist.Normal(loc, 1.0, validate_args=False).to_event(1)
            pyro.sample("x", noise, obs=x[:, :2])

    x = random(0, 4, 3)
    x[2, 0] = 6.0
    with (
        pyro.validation_enabled(is_validate=False),
        pytest.raises(
            ValueError, match=r"datum 2 are not defined: the log-probability of 'x' is not finite"
        ),
    ):
        objective.loss(model, Linear().guide, x)


@pytest.mark.parametrize("svi", [pyro.infer.SVI, functools.partial(pv.SVI, compile=False)])
def test_svi_raises_the_bound(svi):
    world, x = Linear(), LinearGaussian().sample(50)
    trained = svi(
        world.model, world.guide, pyro.optim.Adam({"lr": 0.02}), IWAE(4, gradient="dreg")
    )
    evidence = -float(world.world.log_evidence(x).sum())
    assert trained.step(x) > evidence + 8
    for _ in range(300):
        trained.step(x)
    # The guide's family lacks the posterior's correlation: what is left is a gap of IWAE-4, and
    # x has a mean of its own, which the model may have learned.
    assert trained.evaluate_loss(x) == pytest.approx(evidence, abs=4)


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_step_is_the_eager_one(name, interpreted):
    objective, x = CASES[name][0], LinearGaussian().sample(7)
    found = []
    for compiled in (False, True):
        world = Linear()
        svi = pv.SVI(
            world.model, world.guide, pyro.optim.Adam({"lr": 0.02}), objective, compile=compiled
        )
        torch.manual_seed(1)
        losses = [svi.step(x) for _ in range(3)]
        found.append([*losses, *world.likelihood.mean.tolist(), world.shift.item()])
        assert svi.compiled == compiled
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_fit_trains_the_bound_and_shows_the_elbo_apart():
    world, x = Linear(), LinearGaussian().sample(200)
    step = pv.Step(pyro.optim.Adam({"lr": 0.02}), loss=IWAE(20, gradient="dreg"))
    history = pv.fit(world, x, epochs=20, batch_size=50, step=step, callbacks=[])
    assert history.objective == "IWAE, 20 particles"
    last = history.epochs[-1]
    # The bound of 20 particles lies above the ELBO, and is what the steps descended.
    assert -last.loss > last.elbo
    assert -last.loss == pytest.approx(float(world.world.log_evidence(x).mean()), abs=0.1)


def test_what_a_handler_adds_counts_in_the_bound():
    world, x, free = Linear(), random(0, 4, 3), free_bits(3.0)
    weight = kl_weight(0.5)
    torch.manual_seed(1)
    loss = IWAE(5).loss(*weight.wrap(*free.wrap(world.model, world.guide)), x, size=40)
    torch.manual_seed(1)
    terms = log_weight_terms(world, x, particles=5)
    prior = torch.distributions.Normal(torch.zeros(2).double(), 1.0)
    kl = torch.distributions.kl_divergence(world.posterior.at(x).base_dist, prior).mean(0)
    assert (kl < 3).any()
    tempered = terms.log_likelihood - 0.5 * (terms.rate + (3.0 - kl).relu().sum())
    assert loss == pytest.approx(-10 * bounds.iwae(tempered).sum().item(), rel=1e-6)


class NotDefinedBeyondFive(torch.nn.Module):
    """A likelihood whose location is NaN where the first column of x is above 5."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, z, x):
        loc = torch.where(x[:, :1] > 5, math.nan, 1.0) * self.gain * z
        noise = dist.Normal(loc, 1.0, validate_args=False).to_event(1)
        return pyro.sample("x", noise, obs=x[:, :2])


def test_fit_says_which_datum_has_no_weight():
    world, x = Linear(), random(0, 600, 3)
    x[570, 0] = 6.0  # beyond the data on which `fit` tries the programs
    vae = pv.VAE(world.prior, NotDefinedBeyondFive(), world.posterior)
    step = pv.Step(loss=IWAE(3, gradient="dreg"))
    with pytest.raises(pv.NonFiniteLoss, match=r"datum \d+ are not defined.*'x' is not finite"):
        pv.fit(vae, x, epochs=1, batch_size=50, step=step, callbacks=[])


def test_a_scale_for_each_particle_is_refused():
    world, scale = Linear(), torch.full((3, 4), 0.5)
    programs = (scaled(program, scale) for program in (world.model, world.guide))
    with pytest.raises(ValueError, match=r"scale of shape \(3, 4\); wanted one for each datum"):
        IWAE(3).loss(*programs, random(0, 4, 3))


def test_a_term_without_weight_is_left_out():
    log_w = torch.tensor([[0.0], [-math.inf]])
    assert CIWAE(0.0, 2).value(log_w).item() == pytest.approx(-math.log(2))
    assert CIWAE(1.0, 2).value(log_w).item() == -math.inf


@pytest.mark.parametrize("make", [lambda: IWAE(2.5), lambda: IWAE(True), lambda: MIWAE(4, k=2.0)])  # noqa: FBT003
def test_particles_are_counted_in_whole_numbers(make):
    with pytest.raises(ValueError, match="particle"):
        make()
