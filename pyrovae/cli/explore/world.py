"""What a view of a latent space shows, as plain data: the map, a datum, a point, what is between.

A `World` holds a VAE, or a pair of Pyro programs, and data. Its methods return what the page asks
for as numbers, lists and words. What a program does not have is said to be missing.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from pyrovae.cli.explore import bounds
from pyrovae.cli.explore.contents import Contents, categories, numbers
from pyrovae.cli.explore.decoder import Decoder
from pyrovae.cli.explore.density import Density
from pyrovae.cli.explore.lines import Lines, Origin
from pyrovae.cli.explore.posteriors import Draws, Posteriors, prior_draws
from pyrovae.data.datasets import Split, drawn_once
from pyrovae.measure.latents.paths import linear, spherical
from pyrovae.measure.latents.sites import drawn
from pyrovae.randomness import seeded
from pyrovae.vae import VAE
from pyrovae.weights import psis
from pyrovae.weights.given import Given
from pyrovae.weights.sites import innermost, one_line
from pyrovae.weights.target import Resolved, evaluation_mode

__all__ = ["World"]

DRAWN: Final = 2000
"""The draws of the prior and of the aggregate posterior on the map."""

DIGITS: Final = 4
"""The decimals of coordinates that are sent."""

MOST_STEPS: Final = 100
"""The most points of a path."""

FEWEST: Final = 5
"""The fewest data of t-SNE."""

ONE_THREAD: Final = threading.RLock()
"""Held while programs run: Pyro's stack of handlers is one for all threads of the process."""


class World:
    """A latent space to look at.

    Args:
        target: a `VAE`, or a pair (model, guide) of Pyro programs with a plate over data.
        data: a split of a data set, x [N, ...], or a tuple (x, *context).
        contents: what the data are; by default an image if the shape of x is one, else a vector.
        title: the name of the view.
        colors: further values [N] by which the map can be colored, by name: words or numbers.
        origin: the run that it comes from, for the factors of latents and the lines of Python.

    Raises:
        ValueError: if the data do not fit the programs, or the guide samples no latent site.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.cli.explore import World
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> world = World(vae, torch.rand(20, 64).round())
        >>> sorted(world.measure(0)["lists"])
        ['least known', 'least trusted']
        >>> len(world.decode([[0.0, 0.0, 0.0]])["x"][0])
        64
    """

    def __init__(
        self,
        target: Any,
        data: Any,
        *,
        contents: Contents | None = None,
        title: str = "A latent space",
        colors: Mapping[str, Sequence[Any]] | None = None,
        origin: Origin = Origin(),  # noqa: B008 it is frozen
    ) -> None:
        resolved = Resolved.of(target)
        values = drawn_once(data)
        x, *context = values if isinstance(values, tuple) else (values,)
        self.target, self.title, self.held = target, title, origin.held
        with self.quiet():
            self.given = resolved.given(x, *context)
        self.contents = contents or Contents(tuple(self.given.x.shape[1:]) or (1,))
        self.given_colors = dict(colors or {})
        if isinstance(data, Split) and data.labels is not None:
            labels = [*data.named_labels] if data.classes else data.labels.tolist()
            self.given_colors = {"label": labels, **self.given_colors}
        with self.quiet():
            self.posteriors = Posteriors.of(self.given)
            self.priors, self.no_prior = self._prior()
        self.decoder = Decoder(target, self.posteriors.coordinates, self.contents)
        self.density_at = Density(
            self.given, self.posteriors.coordinates, self.priors, self.posteriors.some(DRAWN)
        )
        self.lines = Lines(origin, self._simple(), self.given.per_datum)
        self.measured: dict[int, dict[str, list[float]]] = {}
        self.missing: str | None = None

    @property
    def z(self) -> Tensor:
        """The posterior means, [N, D]."""
        return self.posteriors.z.to(self.given.x)

    @property
    def prior(self) -> Tensor:
        """Draws of the prior, each given the context of a datum, [M, D]."""
        return self.priors.z

    def world(self) -> dict[str, Any]:
        """Return the map, the latents and the colors: what is shown first.

        The colors and the lists of bounds are among them once `measure` has computed all.
        """
        summary = self._summary()
        return {
            "title": self.title,
            **self.contents.said,
            "latents": self._latents(),
            "map": {
                "z": _rounded(self.posteriors.z),
                "planes": self._planes(),
                "prior": _rounded(self.prior),
                "aggregate": _rounded(self.posteriors.some(DRAWN).z),
            },
            "colors": self._colors() | summary.get("colors", {}),
            "lists": summary.get("lists", {}),
            "batch": bounds.BATCH,
            "decoder": None,
            "exact": True,
            "missing": [] if self.no_prior is None else [self.no_prior],
            "python": {"start": self.lines.start, "view": self.lines.latents()},
        }

    def datum(self, i: int) -> dict[str, Any]:
        """Return one datum, its posterior, its reconstruction and its bounds in nats.

        The reconstruction is decoded at the posterior mean.

        Raises:
            ValueError: if there is no such row, or it cannot be decoded.
        """
        known = self.known(i)
        found = self._decoded(self.posteriors.z[[i]], self._row(i))
        return {
            **known,
            "reconstruction": found["x"][0],
            "of": found["of"],
            "reconstruction cells": None if found["cells"] is None else found["cells"][0],
        }

    def known(self, i: int) -> dict[str, Any]:
        """Return one datum without its reconstruction.

        The bounds are None until `measure` has computed those of the datum's batch.

        Raises:
            ValueError: if there is no such row.
        """
        row = self._row(i)
        mask = self._observed(row)
        words = self.contents.words(row.x, mask)
        return {
            "x": row.x[0].flatten().tolist(),
            "cells": None if words is None else words[0],
            "observed": None if mask is None else mask[0].flatten().tolist(),
            "z": _rounded(self.posteriors.z[i]),
            "scale": _rounded(self.posteriors.scale[i]),
            "bound": self._bound(i),
            "missing": self.missing,
            "labels": self._labels(i),
            "python": self.lines.datum(i),
        }

    def decode(self, z: Sequence[Sequence[float]], at: int = 0) -> dict[str, Any]:
        """Decode points [S, D], with the context of datum `at`.

        Raises:
            ValueError: if a point is none of the latent space.
        """
        found = self._decoded(_points(z), self._row(at))
        return {**found, "python": self.lines.decode(z, at)}

    def path(
        self,
        start: Sequence[float],
        end: Sequence[float],
        n: int = 9,
        rows: Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Return n points from one to another, both included.

        They lie on a line; on a great circle if the prior is uniform on a sphere.

        Args:
            start: the first point [D].
            end: the last point [D].
            n: the number of points.
            rows: the two data whose posterior means these are, for the lines of Python.

        Raises:
            ValueError: if they are none of the latent space, or n is not from 2 to 100.
        """
        if not 2 <= n <= MOST_STEPS:
            raise ValueError(f"a path has 2 to {MOST_STEPS} points; got {n}")
        shares = torch.linspace(0, 1, n, dtype=torch.float64)
        ends = self.posteriors.coordinates.values(_points([start, end]))
        steps = {}
        for name, value in ends.items():
            a, b = value.double().flatten(1)
            way = spherical if name in self.spheres else linear
            steps[name] = way(a, b, shares).reshape(1, n, -1)
        z = _rounded(self.posteriors.coordinates.vectors(steps))
        known = rows is not None and len(rows) == 2 and self.lines.simple and not self.spheres
        return {
            "z": z,
            "python": self.lines.between(rows[0], rows[1], n) if rows and known else None,
        }

    def density(self, z: Sequence[float], at: int = 0) -> dict[str, Any]:
        """Return log p(z), log q(z) in nats at a point, and whether it is a hole."""
        with self.quiet():
            found = self.density_at.at(_points([z]), self._row(at))
        return {**found, "python": self.lines.density(z, at)}

    def measure(self, start: int) -> dict[str, Any]:
        """Return the bounds of the batch of data from row `start` on, in nats.

        Returns:
            "start", "next" (the next batch's start; None after the last), and a list for each of
            `bounds.MEASURED`; if they cannot be had, a sentence in "missing". After the last
            batch, also "colors" and "lists".
        """
        if start % bounds.BATCH or not 0 <= start < len(self.given):
            raise ValueError(f"a batch starts at a multiple of {bounds.BATCH}; got {start}")
        if self.missing is None and start not in self.measured:
            try:
                with self.quiet():
                    found = bounds.measured(self.target, self.given, start)
                self.measured[start] = {name: value.tolist() for name, value in found.items()}
            except (ValueError, RuntimeError) as error:
                self.missing = f"The bounds are missing: {one_line(error)}"
        after = start + bounds.BATCH
        last = self.missing is not None or after >= len(self.given)
        batch: dict[str, Any] = {
            "start": start,
            "next": None if last else after,
            "missing": self.missing,
        }
        batch |= self.measured.get(start, {})
        return batch | self._summary()

    def plane(self, name: str) -> dict[str, Any]:
        """Compute a further plane of the map, "t-SNE" of the posterior means.

        Raises:
            ValueError: if there is no such plane, or there are too few data.
        """
        if name != "t-SNE":
            raise ValueError(f"the planes to compute are t-SNE alone; got {name!r}")
        if len(self.given) < FEWEST:
            raise ValueError(f"t-SNE needs {FEWEST} data or more; got {len(self.given)}")
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(self.given) - 1) / 3)
        points = TSNE(perplexity=perplexity, random_state=0).fit_transform(
            self.posteriors.z.float().numpy()
        )
        return {
            "xy": _rounded(torch.as_tensor(points)),
            "python": f"""\
from sklearn.manifold import TSNE

plane = TSNE(perplexity={perplexity!r}, random_state=0).fit_transform(z.float().cpu().numpy())""",
        }

    def _bound(self, i: int) -> dict[str, Any] | None:
        """Return the bounds of one datum, if its batch is measured.

        JSON has null for infinite numbers, which "infinite" has in words.
        """
        start = i // bounds.BATCH * bounds.BATCH
        if start not in self.measured:
            return None
        found = {name: values[i - start] for name, values in self.measured[start].items()}
        return {
            **found,
            "infinite": {
                name: "infinity" if value > 0 else "minus infinity"
                for name, value in found.items()
                if math.isinf(value)
            },
            "particles": bounds.PARTICLES,
            "limit": psis.limit(bounds.PARTICLES),
        }

    def _decoded(self, z: Tensor, row: Given) -> dict[str, Any]:
        with self.quiet():
            return self.decoder.at(z, row).said

    def _row(self, i: int) -> Given:
        """Return one datum."""
        if not 0 <= i < len(self.given):
            raise ValueError(f"there are the data 0 to {len(self.given) - 1:,}; got {i}")
        return self.given.rows(slice(i, i + 1))

    def _observed(self, given: Given) -> Tensor | None:
        """Return which entries are observed: a last context of booleans of the shape of x."""
        last: Any = given.context[-1] if given.context else None
        known = isinstance(last, Tensor) and last.dtype == torch.bool
        return last if known and last.shape == given.x.shape else None

    def _prior(self) -> tuple[Draws, str | None]:
        """Return draws of the prior, and why there are none."""
        coordinates = self.posteriors.coordinates
        try:
            return prior_draws(self.given, coordinates, DRAWN), None
        except ValueError as error:
            empty = torch.zeros(0, len(coordinates.names), dtype=torch.float64)
            return Draws(empty, torch.zeros(0).long()), f"The prior is missing: {error}"

    @cached_property
    def spheres(self) -> set[str]:
        """The sites whose prior is uniform on a sphere."""
        with self.quiet():
            nodes = drawn(self.given.pair[0], 1, *self._row(0)).nodes
        names = [place.name for place in self.posteriors.coordinates.places if place.name in nodes]
        families = {name: type(innermost(nodes[name]["fn"])).__name__ for name in names}
        return {name for name, family in families.items() if family == "SphericalUniform"}

    def _latents(self) -> list[dict[str, Any]]:
        coordinates, z = self.posteriors.coordinates, torch.cat([self.posteriors.z, self.prior])
        low, high = z.amin(0).tolist(), z.amax(0).tolist()
        return [
            {
                "name": coordinates.names[j],
                "index": j,
                "kl": self.posteriors.kl.get(coordinates.names[j]),
                "factor": self.held.get(coordinates.names[j]),
                "low": low[j],
                "high": high[j],
                "discrete": coordinates.discrete[j],
            }
            for j in self.posteriors.order()
        ]

    def _planes(self) -> dict[str, Any]:
        """Return the planes of the map that are known at once."""
        z, (one,) = self.posteriors.z, self.posteriors.scale.shape[1:]
        if one == 1:
            xy = torch.cat([z, self.posteriors.scale.nan_to_num(0.0)], 1)
            return {"mean and deviation": {"xy": _rounded(xy)}}
        if bool((z == z[0]).all()):  # one datum, or posteriors with one mean
            return {}
        found = PCA(2, random_state=0).fit(z.numpy())
        plane = {"axes": found.components_.tolist(), "center": found.mean_.tolist()}
        xy = torch.as_tensor(found.transform(z.numpy()))
        share = found.explained_variance_ratio_.tolist()
        return {"PCA": {"xy": _rounded(xy), **plane, "share": share}}

    def _colors(self) -> dict[str, Any]:
        found = {}
        for name, values in self.given_colors.items():
            words = [value for value in values if not isinstance(value, float)]
            found[name] = categories([str(v) for v in values]) if words else numbers(values)
        return found | self.contents.colors(self.given.x, self._observed(self.given))

    def _labels(self, i: int) -> dict[str, str]:
        """Return what is known of a datum beside x, in words."""
        return {name: str(values[i]) for name, values in self.given_colors.items()}

    def _summary(self) -> dict[str, Any]:
        """Return the colors and the lists of bounds, once all data are measured."""
        if len(self.measured) * bounds.BATCH < len(self.given):
            return {}
        whole = {
            name: [
                value for start in sorted(self.measured) for value in self.measured[start][name]
            ]
            for name in bounds.MEASURED
        }
        return {
            "colors": {bounds.MEASURED[name]: numbers(values) for name, values in whole.items()},
            "lists": bounds.lists(whole),
        }

    def _simple(self) -> bool:
        """Return whether `vae.embed` and `vae.decode` take and give the coordinates."""
        places = self.posteriors.coordinates.places
        one = len(places) == 1 and len(places[0].shape) == 1 and not places[0].discrete
        return isinstance(self.target, VAE) and one and self.contents.table is None

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Run programs in evaluation mode, without gradients, at a seed of their own."""
        with ONE_THREAD, torch.no_grad(), evaluation_mode(self.target), seeded(0):
            yield


def _points(z: Sequence[Sequence[float]]) -> Tensor:
    """Return points as a tensor [S, D].

    Raises:
        ValueError: if they are not rows of numbers.
    """
    try:
        return torch.tensor(z, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"points are rows of numbers, one for each latent: {error}") from error


def _rounded(values: Tensor) -> list[Any]:
    """Return values with the decimals that are sent; NaN stays NaN, which JSON has as null."""
    rounded: list[Any] = np.round(values.double().cpu().numpy(), DIGITS).tolist()
    return rounded
