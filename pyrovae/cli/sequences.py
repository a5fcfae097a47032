"""Show the sequences of a run as what they are: texts, piano rolls or curves.

Sequences are what data of the shape (T, D) hold; the mask of their steps is the last context. With
a vocabulary they are texts; zeros and ones of several columns are piano rolls; other numbers are
curves. Samples have the mask of the first data, as they have their covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from matplotlib.figure import Figure
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyrovae import plots
from pyrovae.data import Split, Vocabulary
from pyrovae.measure.findings import Number
from pyrovae.measure.perplexity import of_bits
from pyrovae.measure.report import Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.vae import VAE
from pyrovae.weights.sites import mean_of
from pyrovae.weights.target import evaluation_mode

__all__ = [
    "LINES",
    "PANELS",
    "Texts",
    "in_rows",
    "is_sequence",
    "moves",
    "per_token",
    "reconstructed",
    "reconstructed_texts",
    "sampled",
    "sampled_texts",
]

PANELS: Final = 4
"""The sequences in a figure, by default."""

LINES: Final = 8
"""The texts in a list, by default."""

PIANO: Final = 88
"""The number of keys of a piano, whose lowest is the note 21."""


@dataclass(frozen=True)
class Texts:
    """Texts that a page shows.

    Attributes:
        reconstructions: texts of the data, each with its reconstruction.
        samples: texts drawn from the model.
    """

    reconstructions: Sequence[tuple[str, str]]
    samples: Sequence[str]


def is_sequence(shape: Sequence[int] | None) -> bool:
    """Return whether a shape is that of sequences, (T, D)."""
    return shape is not None and len(shape) == 2


def in_rows(shape: Sequence[int]) -> str:
    """Return what data are that are no images.

    Example:
        >>> in_rows((5,)), in_rows((9, 2))
        ('rows of 5 numbers', 'sequences')
    """
    return "sequences" if is_sequence(shape) else f"rows of {shape[0]} numbers"


@torch.no_grad()
def moves(vae: VAE, data: Split) -> bool:
    """Return whether the latents move from step to step, so that a sequence is no point.

    Raises:
        ValueError: if the guide has several latent sites.
    """
    with evaluation_mode(vae):
        few = data.take(slice(1))
        return len(vae.encode(few.x, *few.context).event_shape) > 1


@torch.no_grad()
def sampled(vae: VAE, data: Split, *, means: bool) -> Figure:
    """Plot samples of a VAE, one for each datum, with its mask and covariates.

    Args:
        vae: the VAE.
        data: the data.
        means: whether to plot means of p(x | z), or samples of x.

    Raises:
        ValueError: if p(x | z) has no mean and `means` is true.
    """
    with evaluation_mode(vae):
        number, context = len(data), data.context
        x = mean_of(vae.predictive(number, *context)) if means else vae.sample(number, *context)
    return _figure(vae, data, x)


@torch.no_grad()
def reconstructed(vae: VAE, data: Split) -> Figure:
    """Plot data and their reconstructions, means of p(x | z) at one draw z from the guide each.

    Raises:
        ValueError: if p(x | z) has no mean.
    """
    with evaluation_mode(vae):
        means = vae.reconstruct(data.x, *data.context)
    return _figure(vae, data, data.x, means)


def _figure(vae: VAE, data: Split, x: Tensor, means: Tensor | None = None) -> Figure:
    """Plot sequences, up to the longest of them, as piano rolls or curves."""
    mask = data.context[-1]
    longest = int(mask.sum(1).max())
    mask, x = mask[:, :longest], x[:, :longest]
    means = None if means is None else means[:, :longest]
    if not _are_notes(vae, data, x if means is None else means):
        return plots.series(x, mask, reconstructions=means)
    lowest = 21 if x.shape[2] == PIANO else None
    if means is None:
        return plots.piano_rolls(x, mask, lowest=lowest)
    pairs = torch.stack([x, means], 1).flatten(0, 1)
    names = ["data", "reconstruction"] * len(x)
    return plots.piano_rolls(pairs, mask.repeat_interleave(2, 0), names=names, lowest=lowest)


def _are_notes(vae: VAE, data: Split, made: Tensor) -> bool:
    """Return whether the data are zeros and ones in several columns, and so what the VAE makes.

    A program of the user's own has no domain, and may make other values of such data.
    """
    binary = getattr(vae.likelihood, "domain", None) in (None, constraints.boolean)
    mask = data.context[-1]
    steps, made = data.x[mask], made[mask[:, : made.shape[1]]]
    notes = ((steps == 0) | (steps == 1)).all() & ((made >= 0) & (made <= 1)).all()
    return binary and steps.shape[1] > 1 and bool(notes)


@torch.no_grad()
def sampled_texts(vae: VAE, number: int, vocabulary: Vocabulary, data: Split) -> list[str]:
    """Draw texts from a VAE, each up to its end, or to the longest text of the data.

    The model says where a text ends; so samples have the mask of all steps, not that of the data.
    """
    mask = data.context[-1]
    steps = mask.new_ones(number, mask.shape[1])
    with evaluation_mode(vae):
        return vocabulary.decode(vae.sample(number, steps))


@torch.no_grad()
def reconstructed_texts(vae: VAE, vocabulary: Vocabulary, data: Split) -> list[tuple[str, str]]:
    """Return texts, and what p(x | z) makes of one draw z from the guide: one draw x of each."""
    with evaluation_mode(vae):
        drawn = poutine.trace(vae.guide).get_trace(data.x, *data.context)
        model: Any = poutine.replay(vae.model, trace=drawn)
        x = model(None, *data.context, size=len(data))
    return list(zip(vocabulary.decode(data.x), vocabulary.decode(x), strict=True))


def per_token(found: Report | SavedFinding, vocabulary: Vocabulary) -> str | None:
    """Return a sentence with the bits and the perplexity of a token; None if there are none."""
    bits = found.quantities.get("bits per dimension")
    if not isinstance(bits, Number) or found.point_masses:
        return None
    perplexity = of_bits(bits)
    return (
        f"A token, the end of each text among them, takes {bits.mean:.3f} bits, the bits per "
        f"dimension; its perplexity is {perplexity.mean:.3f} (± {perplexity.error_over_data:.3f} "
        f"over data, ± {perplexity.error_over_particles:.3f} over particles), of "
        f"{len(vocabulary):,} tokens."
    )
