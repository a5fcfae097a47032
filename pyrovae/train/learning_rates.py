r"""Schedules of the learning rate, for `pyrovae.Optim`.

A schedule is a function of the number t of steps (or epochs) so far, from 0. The rate depends on
nothing else, so a training that resumes needs no state of its schedule. `Plateau` is a function
of the bounds of the epochs so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "KNOWN",
    "LearningRate",
    "Plateau",
    "constant",
    "cosine",
    "exponential",
    "one_cycle",
    "parse",
]

Schedule = Callable[[int], float]


def constant(lr: float, *, warmup: int = 0) -> Schedule:
    r"""Keep a rate, after a linear warm-up.

    $$ \eta(t) = \eta \min(1, (t + 1) / W) $$

    Args:
        lr: the rate $\eta$, above 0.
        warmup: the number W of steps in which the rate rises to it; 0 is none.

    Raises:
        ValueError: for a rate that is not positive and finite, or a negative warm-up.

    Example:
        >>> from pyrovae.train.learning_rates import constant
        >>> rate = constant(0.1, warmup=4)
        >>> [rate(t) for t in (0, 1, 3, 100)]
        [0.025, 0.05, 0.1, 0.1]
    """
    _check(lr, warmup)
    return lambda t: _warming(lr, t, warmup)


def cosine(lr: float, steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    r"""Decay along half a cosine, after a linear warm-up, and stay there.

    $$ \eta(t) = e + \frac{\eta - e}{2} \left(1 + \cos \pi \frac{t - W}{T - W}\right) $$

    Args:
        lr: the rate $\eta$ at t = W, above 0.
        steps: the number T of steps with the warm-up, after which the rate is `end`.
        warmup: the number W of steps of the warm-up, less than `steps`.
        end: the last rate e, 0 or more.

    Raises:
        ValueError: as `constant`, and for a warm-up that is not shorter than `steps`.

    References:
        Loshchilov, Hutter, 2017. SGDR: Stochastic Gradient Descent with Warm Restarts.

    Example:
        >>> from pyrovae.train.learning_rates import cosine
        >>> rate = cosine(0.1, 12, warmup=2)
        >>> [round(rate(t), 4) for t in (0, 1, 2, 7, 12, 50)]
        [0.05, 0.1, 0.1, 0.05, 0.0, 0.0]
    """
    _check(lr, warmup, steps, end)

    def rate(t: int) -> float:
        if t < warmup:
            return _warming(lr, t, warmup)
        way = min(1.0, (t - warmup) / (steps - warmup))
        return _along_cosine(lr, end, way)

    return rate


def exponential(lr: float, gamma: float, *, warmup: int = 0) -> Schedule:
    r"""Multiply the rate by $\gamma$ after each step, after a linear warm-up.

    $$ \eta(t) = \eta\, \gamma^{t - W} $$

    Args:
        lr: the rate $\eta$ at t = W, above 0.
        gamma: the factor $\gamma$, above 0 and at most 1.
        warmup: the number W of steps of the warm-up.

    Raises:
        ValueError: as `constant`, and for a factor outside its range.

    Example:
        >>> from pyrovae.train.learning_rates import exponential
        >>> rate = exponential(0.1, 0.5)
        >>> [rate(t) for t in (0, 1, 2)]
        [0.1, 0.05, 0.025]
    """
    _check(lr, warmup)
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is a factor above 0 and at most 1; got {gamma}")
    return lambda t: _warming(lr, t, warmup) if t < warmup else lr * gamma ** (t - warmup)


def one_cycle(
    lr: float, steps: int, *, rise: float = 0.3, start: float = 0.04, end: float = 4e-6
) -> Schedule:
    r"""Rise along half a cosine to the largest rate, and fall along another.

    The defaults are those of `torch.optim.lr_scheduler.OneCycleLR`, whose momentum stays fixed.

    Args:
        lr: the largest rate, above 0.
        steps: the number T of steps of the cycle.
        rise: the fraction of the steps in which the rate rises, above 0 and below 1.
        start: the first rate, as a fraction of the largest.
        end: the last rate, as a fraction of the largest.

    Raises:
        ValueError: as `constant`, and for a cycle without steps in which the rate rises or falls.

    References:
        Smith, Topin, 2019. Super-Convergence: Very Fast Training of Neural Networks Using Large
        Learning Rates.

    Example:
        >>> from pyrovae.train.learning_rates import one_cycle
        >>> rate = one_cycle(1.0, 11, rise=0.5)
        >>> [round(rate(t), 3) for t in (0, 10, 50)]
        [0.04, 0.0, 0.0]
    """
    _check(lr, 0, steps)
    top, last = rise * steps - 1, steps - 1
    if not (0 < rise < 1 and 0 < top < last):
        raise ValueError(
            f"a cycle rises and falls for more than one step each; got {steps} steps, of which "
            f"{rise} rise"
        )

    def rate(t: int) -> float:
        if t <= top:
            return _along_cosine(lr * start, lr, t / top)
        return _along_cosine(lr, lr * end, min(1.0, (t - top) / (last - top)))

    return rate


@dataclass(frozen=True)
class Plateau:
    r"""Reduce the rate when the bound has not increased for some epochs.

    The bound is the validation ELBO, or minus the loss without validation data.

    Attributes:
        lr: the first rate, above 0.
        factor: the factor of each reduction, above 0 and below 1.
        patience: the number of epochs without an increase that do not reduce the rate; one
            more reduces it.
        threshold: the increase in nats that counts, 0 or more.
        smallest: the smallest rate.

    Raises:
        ValueError: for a number outside its range.

    Example:
        >>> from pyrovae.train.learning_rates import Plateau
        >>> rate = Plateau(0.1, factor=0.5, patience=1)
        >>> [rate.after(bounds) for bounds in ([], [-9.0, -8.0], [-8.0, -9.0, -9.0])]
        [0.1, 0.1, 0.05]
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 0.0
    smallest: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check(self.lr, self.patience, name="patience")
        if not 0 < self.factor < 1:
            raise ValueError(f"the factor of a plateau is above 0 and below 1; got {self.factor}")
        if not (self.threshold >= 0 and self.smallest >= 0):
            raise ValueError(
                f"threshold and smallest are 0 or more; got {self.threshold}, {self.smallest}"
            )

    def after(self, bounds: Sequence[float]) -> float:
        """Return the rate after epochs with these bounds."""
        rate, best, waited = self.lr, -math.inf, 0
        for bound in bounds:
            better = bound > best + self.threshold
            best, waited = (bound, 0) if better else (best, waited + 1)
            if waited > self.patience:
                rate, waited = max(rate * self.factor, self.smallest), 0
        return rate


LearningRate = float | Schedule | Plateau
"""A number, a function of the number of steps so far, or a rate reduced on a plateau."""

KNOWN: Final = {
    "cosine": "cosine:RATE[:WARMUP[:STEPS]]",
    "one-cycle": "one-cycle:RATE[:STEPS]",
    "exponential": "exponential:RATE:GAMMA[:WARMUP]",
    "constant": "constant:RATE:WARMUP",
    "plateau": "plateau:RATE[:FACTOR[:PATIENCE]]",
}
"""The forms of the schedules that `parse` reads, by name; brackets can be left out."""


def parse(text: str, steps: int | None = None) -> LearningRate:
    """Parse a rate, such as "0.001", or a schedule with its arguments, such as "cosine:0.001:500".

    Args:
        text: a number, or one of `KNOWN`.
        steps: the number of steps of a schedule whose text does not give it.

    Raises:
        ValueError: for any other text, with the names of the schedules, for a schedule without
            a number of steps, and as the schedules.

    Example:
        >>> from pyrovae.train.learning_rates import parse
        >>> parse("0.5"), parse("cosine:0.1:2", steps=12)(7)
        (0.5, 0.05)
    """
    name, *words = text.split(":")
    try:
        numbers = [float(word) for word in words or [name]]
    except ValueError:
        numbers = []
    if not words and numbers:
        _check(numbers[0], 0)
        return numbers[0]
    form = KNOWN.get(name, "")
    most = form.count(":")
    if not most - form.count("[") <= len(numbers) <= most or not form:
        forms = ", ".join(KNOWN.values())
        raise ValueError(f"{text!r} is neither a number nor one of {forms}")
    return _made(name, text, numbers, steps)


def _made(name: str, text: str, numbers: list[float], steps: int | None) -> LearningRate:
    """Return the schedule of a name and its arguments."""
    lr, *more = numbers

    def whole(number: float) -> int:
        if not number.is_integer():
            raise ValueError(f"a number of steps or epochs is whole; got {number} in {text!r}")
        return int(number)

    def length(at: int) -> int:
        if len(more) > at:
            return whole(more[at])
        if steps is None:
            raise ValueError(f"{text!r} needs its number of steps here, as its last number")
        return steps

    if name == "cosine":
        return cosine(lr, length(1), warmup=whole(more[0]) if more else 0)
    if name == "one-cycle":
        return one_cycle(lr, length(0))
    if name == "exponential":
        return exponential(lr, more[0], warmup=whole(more[1]) if more[1:] else 0)
    if name == "constant":
        return constant(lr, warmup=whole(more[0]))
    named = dict(zip(("factor", "patience"), more, strict=False))
    if "patience" in named:
        named["patience"] = whole(named["patience"])
    return Plateau(lr, **named)  # type: ignore[arg-type]


def _warming(lr: float, t: int, warmup: int) -> float:
    return lr * (t + 1) / warmup if t < warmup else lr


def _along_cosine(start: float, end: float, way: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * way))


def _check(
    lr: float, warmup: int, steps: int | None = None, end: float = 0.0, *, name: str = "warmup"
) -> None:
    if not 0 < lr < math.inf:
        raise ValueError(f"a learning rate is above 0, and finite; got {lr}")
    if not 0 <= end < math.inf:
        raise ValueError(f"the last learning rate is 0 or more, and finite; got {end}")
    if warmup < 0:
        raise ValueError(f"{name} is a number of steps or epochs, 0 or more; got {warmup}")
    if steps is not None and not steps > warmup:
        raise ValueError(
            f"a schedule has more steps than its warm-up; got {steps} steps, of which {warmup} "
            "warm up"
        )
