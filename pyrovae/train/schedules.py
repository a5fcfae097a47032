r"""Schedules of the KL weight: functions of the number of epochs so far, for `pyrovae.Step`.

Annealing lets the likelihood learn to use the latents before the KL term regularizes them. Each
schedule goes from `start` to `end`; t is the number of epochs so far, with fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

__all__ = ["KNOWN", "STEEPNESS", "Schedule", "cyclical", "linear", "parse", "sigmoid"]

Schedule = Callable[[float], float]
"""A function of the number of epochs so far, with fractions, that returns a KL weight."""

STEEPNESS: Final = 12.0
"""The steepness of the sigmoid: a logistic function of it is within 0.25% of its limits."""


def linear(start: float, end: float, epochs: float) -> Schedule:
    r"""Interpolate linearly from start to end, and stay there.

    $$ \beta(t) = s + (e - s) \min(1, t / T) $$

    Args:
        start: the weight s at t = 0, 0 or more.
        end: the weight e from t = T on, 0 or more.
        epochs: the number of epochs T, above 0.

    Raises:
        ValueError: for a weight below 0, or a T that is not positive and finite.

    References:
        Sønderby, Raiko, Maaløe, Sønderby, Winther, 2016. Ladder Variational Autoencoders.

    Example:
        >>> from pyrovae.train.schedules import linear
        >>> warm_up = linear(0, 1, 10)
        >>> [warm_up(epochs) for epochs in (0, 2.5, 10, 50)]
        [0.0, 0.25, 1.0, 1.0]
    """
    _check(start, end, epochs)
    return lambda epoch: _between(start, end, min(1.0, epoch / epochs))


def cyclical(start: float, end: float, period: float, *, ramp: float = 0.5) -> Schedule:
    r"""Interpolate linearly from start to end in each cycle, and stay for the rest of it.

    $$ \beta(t) = s + (e - s) \min\left(1, \frac{t \bmod T}{r\,T}\right) $$

    Args:
        start: the weight s at the start of each cycle, 0 or more.
        end: the weight e at the end of each cycle, 0 or more.
        period: the number of epochs T of a cycle, above 0.
        ramp: the fraction r of a cycle in which the weight rises, above 0 and at most 1.

    Raises:
        ValueError: as `linear`, and for a ramp outside its range.

    References:
        Fu, Li, Liu, Gao, Celikyilmaz, Carin, 2019. Cyclical Annealing Schedule: A Simple Approach
        to Mitigating KL Vanishing.

    Example:
        >>> from pyrovae.train.schedules import cyclical
        >>> weight = cyclical(0, 1, 10)
        >>> [weight(epochs) for epochs in (0, 2.5, 5, 9, 10, 12.5)]
        [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    _check(start, end, period)
    if not 0 < ramp <= 1:
        raise ValueError(f"the ramp is a fraction of the cycle, above 0 and at most 1; got {ramp}")
    return lambda epoch: _between(start, end, min(1.0, epoch % period / (ramp * period)))


def sigmoid(start: float, end: float, epochs: float) -> Schedule:
    r"""Interpolate from start to end along a logistic curve, and stay there.

    $$ \beta(t) = s + (e - s) \frac{\sigma(k (u - \tfrac12)) - \sigma(-\tfrac{k}{2})}
       {\sigma(\tfrac{k}{2}) - \sigma(-\tfrac{k}{2})},\qquad u = \min(1, t / T),\ k = 12 $$

    Args:
        start: the weight s at t = 0, 0 or more.
        end: the weight e from t = T on, 0 or more.
        epochs: the number of epochs T, above 0.

    Raises:
        ValueError: as `linear`.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space.

    Example:
        >>> from pyrovae.train.schedules import sigmoid
        >>> weight = sigmoid(0, 1, 10)
        >>> [round(weight(epochs), 3) for epochs in (0, 2.5, 5, 7.5, 10, 50)]
        [0.0, 0.045, 0.5, 0.955, 1.0, 1.0]
    """
    _check(start, end, epochs)

    def weight(epoch: float) -> float:
        # tanh is the logistic function, rescaled to go from -1 to 1.
        curve = math.tanh(STEEPNESS / 2 * (min(1.0, epoch / epochs) - 0.5))
        return _between(start, end, 0.5 + 0.5 * curve / math.tanh(STEEPNESS / 4))

    return weight


KNOWN: Final = {schedule.__name__: schedule for schedule in (linear, cyclical, sigmoid)}
"""The schedules by their names, as `parse` reads them."""


def parse(text: str) -> float | Schedule:
    """Parse a weight, such as "0.5", or a schedule with its arguments, such as "linear:0:1:10".

    Raises:
        ValueError: for any other text, with the names of the schedules.

    Example:
        >>> from pyrovae.train.schedules import parse
        >>> parse("0.5"), parse("linear:0:1:10")(5)
        (0.5, 0.5)
    """
    name, *numbers = text.split(":")
    try:
        values = [float(number) for number in numbers or [name]]
    except ValueError:
        values = []
    if not numbers and values:
        _check_weight(values[0])
        return values[0]
    if name not in KNOWN or len(values) != 3:
        known = ", ".join(f"{known}:START:END:EPOCHS" for known in KNOWN)
        raise ValueError(f"{text!r} is neither a number nor one of {known}")
    return KNOWN[name](*values)


def _between(start: float, end: float, way: float) -> float:
    return start + (end - start) * way


def _check(start: float, end: float, epochs: float) -> None:
    _check_weight(start)
    _check_weight(end)
    if not 0 < epochs < math.inf:
        raise ValueError(f"a schedule takes more than 0 epochs, and finitely many; got {epochs}")


def _check_weight(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise ValueError(f"a KL weight is 0 or more, and finite; got {weight}")
