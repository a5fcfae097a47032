"""Decode points of the latent space: the means of p(x | z), or the most probable values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from pyrovae.cli.explore.contents import Contents
from pyrovae.cli.explore.coordinates import Coordinates
from pyrovae.measure.latents.decode import decode_means
from pyrovae.measure.latents.sites import Values, drawn
from pyrovae.measure.most_probable import most_probable
from pyrovae.vae import VAE
from pyrovae.weights.given import Given
from pyrovae.weights.sites import UndefinedMean, mean_of, sample_sites

__all__ = ["Decoded", "Decoder"]

MEAN: Final = "mean of p(x | z)"
MODE: Final = "most probable x"


@dataclass(frozen=True)
class Decoded:
    """What S points decode to.

    Attributes:
        x: the means, or the most probable values, [S, ...].
        of: which of the two, in words.
        words: the rows of a table in words; None for other data.
    """

    x: Tensor
    of: str
    words: list[list[str]] | None

    @property
    def said(self) -> dict[str, Any]:
        """The points as a JSON value."""
        return {"x": self.x.reshape(len(self.x), -1).tolist(), "of": self.of, "cells": self.words}


@dataclass(frozen=True)
class Decoder:
    """The likelihood of a VAE, or of the model of a pair.

    Attributes:
        target: the VAE, or the pair (model, guide).
        coordinates: the latent sites.
        contents: what x is.
    """

    target: Any
    coordinates: Coordinates
    contents: Contents

    def at(self, z: Tensor, row: Given) -> Decoded:
        """Decode points [S, D].

        Args:
            z: the points.
            row: one datum, whose context the likelihood is given.

        Raises:
            ValueError: if a point lies outside the support of a site, or no site observes x.
        """
        values = self.coordinates.values(z)
        if self.contents.table is not None:
            fn = self._likelihood(values, row)
            mean = mean_of(fn)[:, 0]
            likely = most_probable(fn, mean.new_ones(1, 1, len(z)), mean)
            return Decoded(mean, MODE, self.contents.words(likely))
        try:
            if isinstance(self.target, VAE):
                return Decoded(decode_means(self.target, values, *row.context), MEAN, None)
            return Decoded(mean_of(self._likelihood(values, row))[:, 0], MEAN, None)
        except UndefinedMean:
            fn = self._likelihood(values, row)
            like = row.x.new_zeros(len(z), *fn.event_shape)
            likely = most_probable(fn, like.new_ones(1, 1, len(z)), like)
            return Decoded(likely, MODE, None)

    def _likelihood(self, values: Values, row: Given) -> Any:
        """Return p(x | z) at S points, with batch shape [S, 1]."""
        points = len(next(iter(values.values())))
        if isinstance(self.target, VAE):
            model = self.target.model
            trace = drawn(
                lambda x, *context: model(None, *context, size=1), points, *row, given=values
            )
            observed = [name for name in ("x",) if name in trace.nodes]
        else:
            trace = drawn(row.pair[0], points, *row, given=values)
            observed = [name for name, site in sample_sites(trace) if site["is_observed"]]
        of_x = [
            name
            for name in observed
            if trace.nodes[name]["fn"].event_shape.numel() == row.x[0].numel()
        ]
        if not of_x:
            raise ValueError(
                f"no site of the model has the shape of x: it observes {observed}; observe x with "
                "pyro.sample('x', ..., obs=x)"
            )
        return trace.nodes[of_x[0]]["fn"]
