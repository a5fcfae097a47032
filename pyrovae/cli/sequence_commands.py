"""Run `pyrovae sample`, `reconstruct` and `report` for a run that was trained on sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyrovae.cli import recipes
from pyrovae.cli.conditions import rows_of
from pyrovae.cli.figures import write_figure
from pyrovae.cli.options import Reconstructed, Sampled
from pyrovae.cli.sequences import (
    LINES,
    PANELS,
    Texts,
    reconstructed,
    reconstructed_texts,
    sampled,
    sampled_texts,
)
from pyrovae.data import Split, Vocabulary
from pyrovae.files import write_atomically
from pyrovae.randomness import seeded
from pyrovae.runs import Run
from pyrovae.runs.sources import first
from pyrovae.vae import VAE

__all__ = ["reconstruct", "sample", "texts"]


def texts(vae: VAE, vocabulary: Vocabulary | None, data: Split) -> Texts | None:
    """Return the texts that a page shows; None if the data are none."""
    if vocabulary is None:
        return None
    few = data.take(slice(LINES))
    # At one seed, a VAE that does not use its latents writes the same texts both times.
    with seeded(1):
        pairs = reconstructed_texts(vae, vocabulary, few)
    with seeded(0):
        return Texts(pairs, sampled_texts(vae, LINES, vocabulary, few))


def sample(run: Run, vae: VAE, options: Sampled) -> int:
    """Draw samples of sequences, as a figure or as lines of text."""
    vocabulary, test = run.vocabulary, rows_of(run.source.load(), "test")
    with recipes.running(options.recipe), seeded(options.seed):
        if vocabulary is not None:
            if options.means:
                raise ValueError("--means is of numbers, and a text has no mean: leave it out")
            return _write(
                sampled_texts(vae, options.number or LINES, vocabulary, test), options.out
            )
        number = options.number or min(PANELS, len(test))
        if number > len(test):
            raise ValueError(
                "samples take the mask of the first test data, of which there are "
                f"{len(test)}; got {number}: give a smaller -n"
            )
        known = "mask is that" if len(test.context) == 1 else "mask and the covariates are those"
        print(f"The {known} of the first {number:,} test data.")
        figure = sampled(vae, test.take(slice(number)), means=options.means)
        return write_figure(figure, options.out, run, "samples")


def reconstruct(run: Run, vae: VAE, data: Split, options: Reconstructed) -> int:
    """Draw sequences and their reconstructions, or print texts beside theirs."""
    vocabulary = run.vocabulary
    few = first(data, options.number or (PANELS if vocabulary is None else LINES))
    with recipes.running(options.recipe), seeded(options.seed):
        if vocabulary is None:
            return write_figure(reconstructed(vae, few), options.out, run, "reconstructions")
        pairs = reconstructed_texts(vae, vocabulary, few)
    return _write(["  ->  ".join(pair) for pair in pairs], options.out)


def _write(lines: Sequence[str], out: Path | None) -> int:
    """Print texts, or write them to a file."""
    if out is None:
        print(*lines, sep="\n")
        return 0
    write_atomically(out, "".join(f"{line}\n" for line in lines).encode())
    print(f"written: {out}")
    return 0
