"""Schedules take the values of torch's own schedulers, and the command line's words for them."""

import math
import warnings

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from pyrovae.train import learning_rates
from pyrovae.train.learning_rates import Plateau, constant, cosine, exponential, one_cycle

STEPS = 60


def rates(make, *, lr=0.3, steps=STEPS):
    """Return the rates that a scheduler of torch gives to so many steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    found = []
    with warnings.catch_warnings():  # SequentialLR passes epochs to its schedulers
        warnings.filterwarnings("ignore", "The epoch parameter")
        scheduler = make(optimizer)
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return found


def warmed(optimizer, after, warmup):
    first = theirs.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return theirs.SequentialLR(optimizer, [first, after], milestones=[warmup])


TORCH = {
    "constant": (
        constant(0.3, warmup=7),
        lambda o: theirs.LambdaLR(o, lambda t: min(1.0, (t + 1) / 7)),
    ),
    "cosine": (cosine(0.3, STEPS), lambda o: theirs.CosineAnnealingLR(o, STEPS)),
    "cosine to an end": (
        cosine(0.3, STEPS, end=0.01),
        lambda o: theirs.CosineAnnealingLR(o, STEPS, eta_min=0.01),
    ),
    "warm-up and cosine": (
        cosine(0.3, STEPS, warmup=10),
        lambda o: warmed(o, theirs.CosineAnnealingLR(o, STEPS - 10), 10),
    ),
    "exponential": (exponential(0.3, 0.9), lambda o: theirs.ExponentialLR(o, 0.9)),
    "warm-up and exponential": (
        exponential(0.3, 0.9, warmup=5),
        lambda o: warmed(o, theirs.ExponentialLR(o, 0.9), 5),
    ),
    "one cycle": (
        one_cycle(0.3, STEPS),
        lambda o: theirs.OneCycleLR(o, 0.3, STEPS, cycle_momentum=False),
    ),
    "one cycle that rises longer": (
        one_cycle(0.3, STEPS, rise=0.45, start=0.1, end=0.001),
        lambda o: theirs.OneCycleLR(
            o, 0.3, STEPS, pct_start=0.45, div_factor=10, final_div_factor=100,
            cycle_momentum=False,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("ours, make", TORCH.values(), ids=TORCH.keys())  # noqa: PT006
def test_a_schedule_takes_the_values_of_torchs(ours, make):
    # torch's one cycle ends with its last step: it cannot be advanced beyond.
    number = STEPS - 1 if "one_cycle" in ours.__qualname__ else STEPS
    wanted = rates(make, steps=number)
    assert [ours(t) for t in range(number)] == pytest.approx(wanted, rel=1e-12, abs=1e-15)


def test_schedules_stay_at_their_end():
    assert cosine(0.3, 10, end=0.01)(10) == cosine(0.3, 10, end=0.01)(99) == pytest.approx(0.01)
    assert one_cycle(0.3, 10)(9) == one_cycle(0.3, 10)(99) == pytest.approx(0.3 * 4e-6)
    assert constant(0.3)(99) == 0.3


@pytest.mark.parametrize("patience", [0, 2])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_plateau_reduces_the_rate_when_torchs_does(patience, threshold):
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(40, generator=generator, dtype=torch.float64)
    bounds = (walk * 2 + torch.linspace(-9, -1, 40)).tolist()
    ours = Plateau(0.3, factor=0.5, patience=patience, threshold=threshold, smallest=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = theirs.ReduceLROnPlateau(
        optimizer, "max", factor=0.5, patience=patience, threshold=threshold,
        threshold_mode="abs", min_lr=0.01, eps=0.0,
    )  # fmt: skip
    found, wanted = [], []
    for epoch, bound in enumerate(bounds):
        scheduler.step(bound)
        wanted.append(optimizer.param_groups[0]["lr"])
        found.append(ours.after(bounds[: epoch + 1]))
    assert found == wanted
    assert len(set(wanted)) > 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cosine:0.1", cosine(0.1, 30)),
        ("cosine:0.1:5", cosine(0.1, 30, warmup=5)),
        ("cosine:1e-1:5:20", cosine(0.1, 20, warmup=5)),
        ("one-cycle:0.1", one_cycle(0.1, 30)),
        ("one-cycle:0.1:20", one_cycle(0.1, 20)),
        ("exponential:0.1:0.9", exponential(0.1, 0.9)),
        ("exponential:0.1:0.9:4", exponential(0.1, 0.9, warmup=4)),
        ("constant:0.1:4", constant(0.1, warmup=4)),
    ],
)
def test_parse_reads_a_schedule(text, wanted):
    read = learning_rates.parse(text, steps=30)
    assert [read(t) for t in range(40)] == [wanted(t) for t in range(40)]


def test_parse_reads_a_plateau_and_a_number():
    assert learning_rates.parse("plateau:0.1:0.5:3") == Plateau(0.1, factor=0.5, patience=3)
    assert learning_rates.parse("plateau:0.1") == Plateau(0.1)
    assert learning_rates.parse("4e-3") == 4e-3


FORMS = r"neither a number nor one of cosine:RATE\[:WARMUP\[:STEPS\]\], one-cycle:RATE"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", FORMS),
        ("warm", FORMS),
        ("cosine", FORMS),
        ("cosine:a", FORMS),
        ("cosine:0.1:1:2:3", FORMS),
        ("constant:0.1", FORMS),
        ("exponential:0.1", FORMS),
        ("0", "a learning rate is above 0, and finite; got 0.0"),
        ("nan", "a learning rate is above 0, and finite; got nan"),
        ("cosine:-1", "a learning rate is above 0, and finite; got -1.0"),
        ("cosine:0.1:30", "more steps than its warm-up; got 30 steps, of which 30 warm up"),
        ("cosine:0.1:1.5", "is whole; got 1.5 in 'cosine:0.1:1.5'"),
        ("cosine:0.1:inf", "is whole; got inf in"),
        ("cosine:0.1:-3", "warmup is a number of steps or epochs, 0 or more; got -3"),
        ("exponential:0.1:1.5", "gamma is a factor above 0 and at most 1; got 1.5"),
        ("one-cycle:0.1:2", "rises and falls for more than one step each; got 2 steps"),
        ("plateau:0.1:1", "above 0 and below 1; got 1"),
        ("plateau:0.1:0.5:-1", "patience is a number of steps or epochs, 0 or more; got -1"),
    ],
)
def test_bad_text_is_refused_in_a_line(text, message):
    with pytest.raises(ValueError, match=message):
        learning_rates.parse(text, steps=30)


def test_a_schedule_that_needs_a_number_of_steps_says_so():
    with pytest.raises(ValueError, match="'cosine:0.1:5' needs its number of steps here"):
        learning_rates.parse("cosine:0.1:5")


@pytest.mark.parametrize("bad", [{"threshold": -1.0}, {"threshold": math.nan}, {"smallest": -1.0}])
def test_a_plateau_checks_its_numbers(bad):
    with pytest.raises(ValueError, match="threshold and smallest are 0 or more"):
        Plateau(0.1, **bad)


def test_an_end_is_0_or_more():
    with pytest.raises(
        ValueError, match="the last learning rate is 0 or more, and finite; got -1"
    ):
        cosine(0.1, 10, end=-1.0)
