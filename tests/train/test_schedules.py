"""Schedules take the values of their formulas, and the command line's words for them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrovae.train import schedules
from pyrovae.train.schedules import cyclical, linear, sigmoid

WEIGHTS = st.floats(0, 4)
EPOCHS = st.floats(0.5, 50)
TIMES = st.floats(0, 200)


def test_linear_goes_in_equal_steps_and_stays():
    weight = linear(0.2, 1.0, 4)
    assert [weight(t) for t in range(7)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])
    assert linear(4, 1, 2)(1) == 2.5


def test_cyclical_begins_again():
    weight = cyclical(0.0, 2.0, 8, ramp=0.25)
    one = [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert [weight(t) for t in range(24)] == 3 * one
    assert [cyclical(0, 1, 4, ramp=1)(t) for t in range(5)] == [0.0, 0.25, 0.5, 0.75, 0.0]


@given(start=WEIGHTS, end=WEIGHTS, period=st.integers(1, 20), t=st.integers(0, 160))
def test_cyclical_is_periodic_and_each_cycle_is_a_linear_one(start, end, period, t):
    # Eighths of an epoch are exact, so that no remainder falls on the other side of a cycle's end.
    weight, t = cyclical(start, end, period), t / 8
    assert weight(t) == weight(t + 3 * period)
    assert weight(t % period) == pytest.approx(linear(start, end, period / 2)(t % period))


@given(start=WEIGHTS, end=WEIGHTS, epochs=EPOCHS, part=st.floats(0, 1))
def test_sigmoid_is_the_logistic_function_between_its_ends(start, end, epochs, part):
    def logistic(u):
        return 1 / (1 + math.exp(-12 * (u - 0.5)))

    way = (logistic(part) - logistic(0)) / (logistic(1) - logistic(0))
    wanted = start + (end - start) * way
    assert sigmoid(start, end, epochs)(part * epochs) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("make", [linear, cyclical, sigmoid])
@given(start=WEIGHTS, end=WEIGHTS, epochs=EPOCHS, t=TIMES)
def test_weights_begin_at_start_and_stay_between_start_and_end(make, start, end, epochs, t):
    weight = make(start, end, epochs)
    assert weight(0) == pytest.approx(start, abs=1e-12)
    assert min(start, end) - 1e-12 <= weight(t) <= max(start, end) + 1e-12


@pytest.mark.parametrize("make", [linear, sigmoid])
@given(start=WEIGHTS, end=WEIGHTS, epochs=EPOCHS, t=TIMES, later=TIMES)
def test_one_way_schedules_never_turn_back_and_end_at_end(make, start, end, epochs, t, later):
    weight, way = make(start, end, epochs), math.copysign(1, end - start)
    assert way * (weight(t + later) - weight(t)) >= -1e-12
    assert weight(epochs + t) == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("text", ["0", "1", "0.25", "4e0"])
def test_parse_reads_a_number(text):
    assert schedules.parse(text) == float(text)


@pytest.mark.parametrize("make", [linear, cyclical, sigmoid])
def test_parse_reads_a_schedule(make):
    read, wanted = schedules.parse(f"{make.__name__}:0.5:2:10"), make(0.5, 2.0, 10.0)
    times = [0, 1.5, 3, 8, 10, 14]
    assert [read(t) for t in times] == [wanted(t) for t in times]
    assert len({read(t) for t in times}) > 3


KNOWN = "linear:START:END:EPOCHS, cyclical:START:END:EPOCHS, sigmoid:START:END:EPOCHS"


@pytest.mark.parametrize(
    "text",
    ["", "warm", "linear", "linear:0:1", "linear:0:1:2:3", "linear:0:one:2", "cosine:0:1:2"],
)
def test_parse_names_what_is_known(text):
    with pytest.raises(ValueError, match=f"'{text}' is neither a number nor one of {KNOWN}"):
        schedules.parse(text)


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "linear:-1:1:2", "sigmoid:0:inf:2"])
def test_weights_are_0_or_more_and_finite(text):
    met = text.replace("linear:", "").replace("sigmoid:0:", "").split(":")[0]
    with pytest.raises(ValueError, match=f"a KL weight is 0 or more, and finite; got {met}"):
        schedules.parse(text)


@pytest.mark.parametrize("make", [linear, cyclical, sigmoid])
@pytest.mark.parametrize("epochs", [0, -1, math.inf, math.nan])
def test_a_schedule_ends(make, epochs):
    with pytest.raises(ValueError, match=f"more than 0 epochs, and finitely many; got {epochs}"):
        make(0, 1, epochs)


@pytest.mark.parametrize("ramp", [0, -0.5, 1.5, math.nan])
def test_a_ramp_lies_in_its_cycle(ramp):
    with pytest.raises(ValueError, match=f"above 0 and at most 1; got {ramp}"):
        cyclical(0, 1, 10, ramp=ramp)
