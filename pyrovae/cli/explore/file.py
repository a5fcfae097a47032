"""The explorer as one file: the page, what it shows and the decoder, which opens without a server.

The file has the first data of a view with their posteriors and bounds. A decoder of the library's
networks is in it as data, and runs in the page. In the place of any other decoder, the file has
means that were decoded before: of the data, and over a plane of two latents.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor

from pyrovae.cli.explore import bounds
from pyrovae.cli.explore.document import document, script
from pyrovae.cli.explore.network import (
    TOLERANCE,
    NotExpressible,
    as_columns,
    as_data,
    compressed,
    packed,
)
from pyrovae.cli.explore.normals import as_mixtures
from pyrovae.cli.explore.world import World
from pyrovae.files.atomic import write_atomically
from pyrovae.measure.latents.latents import Latents
from pyrovae.measure.latents.sites import drawn
from pyrovae.vae import VAE

__all__ = ["MOST", "fitting", "page", "write"]

MOST: Final = 2000
"""The most data of a file, unless more are asked for."""

NUMBERS: Final = 2_000_000
"""The numbers of x that a file has, or of a decoded plane, about."""

FEWEST: Final = 100
"""The data of a file, however large they are."""

DRAWS: Final = 1000
"""The draws of the prior and of the aggregate posterior in a file."""

EXACT_BYTES: Final = 2**20
"""Images of up to this size keep their 32-bit floats; larger ones have 256 levels."""

CHECKED: Final = 256
"""The data at which the decoder in the page is checked."""

PROBED: Final = 32
"""The draws of the prior, and of the posteriors, at which the likelihood's inputs are compared."""

ROW, DATUM, OTHER, STEPS = 123454321.0, 987656789, 876545678, 765434567
"""Numbers that stand for others in the lines of Python that the page fills in."""


def fitting(width: int) -> int:
    """Return how many data of `width` numbers each a file has by default.

    Example:
        >>> fitting(784), fitting(12288), fitting(200_000)
        (2000, 162, 100)
    """
    return min(MOST, max(FEWEST, NUMBERS // width))


def write(world: World, path: Path) -> str:
    """Write the page of a world to a file, and return a sentence on what it has.

    Raises:
        ValueError: if a datum cannot be decoded.
        OSError: if the file cannot be written; an existing one is left unchanged.
    """
    found = contents(world)
    content = _page(world, found).encode()
    write_atomically(path, content)
    size = f"{len(content) / 1e6:.1f} MB, {len(world.given):,} data"
    return f"written: {path} ({size}). {found['world']['note']}"


def page(world: World) -> str:
    """Return the page of a world, with everything that it shows in it.

    Raises:
        ValueError: if a datum cannot be decoded.
    """
    return _page(world, contents(world))


def _page(world: World, found: dict[str, Any]) -> str:
    # In base64 no word of the data can end the script.
    text = compressed(msgspec.json.encode(found))
    scripts = script("decode.js"), script("packed.js"), f'start(new Packed("{text}"));'
    return document(world.title, *scripts)


def contents(world: World) -> dict[str, Any]:
    """Return all that the page shows, as a JSON value.

    Raises:
        ValueError: if a datum cannot be decoded.
    """
    for start in range(0, len(world.given), bounds.BATCH):
        world.measure(start)
    with world.quiet():
        return _contents(world)


def _contents(world: World) -> dict[str, Any]:
    decoder, decoded, reason = None, None, ""
    try:
        decoder = _decoder(world)
    except NotExpressible as error:
        decoded, reason = _decoded(world), f"The decoder is not in this page: {error}."
    x = _numbers(world, world.given.x.reshape(len(world.given), -1))
    shown = world.world()
    notes = [*shown["missing"], *_notes(world, decoded, reason), *_rounded(x, decoded)]
    shown |= {"decoder": decoder, "exact": decoder is not None, "note": " ".join(notes)}
    shown["map"] = _map(shown["map"])
    return {
        "world": shown,
        "data": [_datum(world.known(i)) for i in range(len(world.given))],
        "x": x,
        "z": _floats(world.posteriors.z),
        "scale": _floats(world.posteriors.scale),
        "context": _context(world) if decoder else None,
        "decoded": decoded,
        "columns": _columns(world),
        "of": world.decode(world.posteriors.z[:1].tolist())["of"],
        "density": _density(world),
        "spheres": _spheres(world),
        "python": _templates(world),
    }


def _notes(world: World, decoded: dict[str, Any] | None, reason: str) -> list[str]:
    """Return sentences on where the page has its reconstructions from."""
    if decoded is None:
        return ["The decoder runs in this page."]
    if decoded["plane"] is None:
        return [reason, "It shows what the data were decoded to before, and no other points."]
    given = ", given the context of datum 0" if world.given.context else ""
    return [
        reason,
        "It shows what was decoded before: the data, and of other points the nearest one of a "
        f"plane of two latents{given}.",
    ]


def _rounded(x: dict[str, Any], decoded: dict[str, Any] | None) -> list[str]:
    """Return a sentence if images have fewer levels than they had."""
    plane = decoded and decoded["plane"]
    whole = [x, *([decoded["x"]] if decoded else []), *([plane["x"]] if plane else [])]
    exact = all(each["exact"] for each in whole)
    return [] if exact else ["Images are rounded to 256 levels."]


def _map(known: dict[str, Any]) -> dict[str, Any]:
    """Return the map without the posterior means, and with fewer draws."""
    rest = {name: value for name, value in known.items() if name != "z"}
    for name in ("prior", "aggregate"):
        rest[name] = [[round(v, 3) for v in row] for row in known[name][:DRAWS]]
    return rest


def _datum(found: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a datum in words and few numbers."""
    names = ("cells", "observed", "labels", "missing", "python", "bound")
    kept = {name: found[name] for name in names if found[name] is not None}
    if "bound" in kept:
        kept["bound"] = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in kept["bound"].items()
        }
    return kept


def _floats(values: Tensor) -> dict[str, Any]:
    """Return rows [N, W] as 32-bit floats."""
    numbers = values.detach().cpu().numpy().astype("f4")
    return {
        "type": "f4",
        "by": 1.0,
        "plus": 0.0,
        "width": numbers.shape[1],
        "numbers": packed(numbers),
        "exact": True,
    }


def _numbers(world: World, values: Tensor) -> dict[str, Any]:
    """Return rows [N, W] as bytes if these have the values, or nearly for large images."""
    numbers = values.detach().double().cpu().numpy()
    low, high = world.contents.range
    steps = [(1.0, 0.0), (1 / 255, 0.0)]
    image = world.contents.kind == "image"
    if image and 4 * numbers.size > EXACT_BYTES:
        steps.append(((high - low) / 255 or 1.0, low))
    for k, (by, plus) in enumerate(steps):
        levels = ((numbers - plus) / by).round()
        inside = np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 255
        exact = inside and np.abs(levels * by + plus - numbers).max() < 1e-6
        if exact or k == 2:
            whole = {"type": "u1", "by": by, "plus": plus, "width": numbers.shape[1]}
            return {
                **whole,
                "numbers": packed(levels.clip(0, 255).astype("u1")),
                "exact": bool(exact),
            }
    return _floats(values)


def _decoder(world: World) -> dict[str, Any]:
    """Return the decoder as data, from the coordinates of the page and the context.

    Raises:
        NotExpressible: if it cannot be written.
    """
    vae = world.target
    if not isinstance(vae, VAE):
        raise NotExpressible("the model is a program of one's own, not a VAE of a likelihood")
    places, width = _places(world, vae), world.posteriors.z.shape[1]
    rows = world.given.first(CHECKED)
    z = world.z[: len(rows), places]
    data = as_data(vae, z, *rows.context, likely=world.contents.table is not None)
    if places != list(range(width)):
        rest = data["inputs"] - len(places)
        pick = {"kind": "pick", "places": [*places, *range(width, width + rest)]}
        data |= {"layers": [pick, *data["layers"]], "inputs": width + rest}
    return data


def _places(world: World, vae: VAE) -> list[int]:
    """Return the coordinate of each entry of what the likelihood is given.

    Raises:
        NotExpressible: if it is given something else than latents.
    """
    returned: list[Any] = []
    alone = VAE(vae.prior, lambda z, *_: returned.append(z), vae.posterior)
    points = torch.cat([world.prior[:PROBED], world.posteriors.draws[:PROBED]])
    drawn(
        lambda x, *context: alone.model(None, *context, size=1),
        *(len(points), *world.given.first(1)),
        given=world.posteriors.coordinates.values(points),
    )
    z = returned[-1]
    if not isinstance(z, Tensor) or z.ndim < 2 or z.numel() != len(points) * z.shape[-1]:
        raise NotExpressible("the prior returns something else than latents [N, D]")
    inputs = z.reshape(len(points), -1).cpu().double()
    same = (inputs[:, :, None] - points[:, None]).abs().amax(0) < TOLERANCE
    places = []
    for entry, candidates in enumerate(same):
        found = candidates.nonzero().flatten().tolist()
        if len(found) != 1 and entry not in found:
            raise NotExpressible(
                "the likelihood is given something else than the latents themselves"
            )
        places.append(entry if entry in found else found[0])
    return places


def _context(world: World) -> dict[str, Any] | None:
    """Return the context of each datum, as the decoder takes it; None without one."""
    columns = as_columns(world.target, *world.given.context)
    return _floats(torch.cat([c.float() for c in columns], -1)) if columns else None


def _columns(world: World) -> list[dict[str, Any]] | None:
    """Return how codes of a table's columns become words; None if x is no table."""
    if world.contents.table is None:
        return None
    columns = world.contents.table.columns
    codes = torch.arange(max(len(column.levels) for column in columns) or 1)
    words = world.contents.words(codes[:, None].expand(-1, len(columns)))
    found: list[dict[str, Any]] = []
    for i, column in enumerate(columns):
        if column.levels and words is not None:
            found.append({"levels": [words[k][i] for k in range(len(column.levels))]})
        else:
            counted = column.kind == "count"
            by, plus = (1.0, 0.0) if counted else (column.scale, column.loc)
            found.append({"by": by, "plus": plus})
    return found


def _decoded(world: World) -> dict[str, Any]:
    """Return what was decoded before: the data, and a plane of two latents."""
    z = world.posteriors.z.tolist()
    if world.given.context:  # each with its own
        found = [world.decode([point], i) for i, point in enumerate(z)]
        x, cells = [each["x"][0] for each in found], [each["cells"] for each in found]
        words = None if None in cells else [rows[0] for rows in cells]
    else:
        whole = world.decode(z)
        x, words = whole["x"], whole["cells"]
    return {"x": _listed(world, x), "cells": words, "plane": _plane(world)}


def _listed(world: World, x: list[list[float]]) -> dict[str, Any]:
    return _numbers(world, torch.tensor(x, dtype=torch.float64))


def _plane(world: World) -> dict[str, Any] | None:
    """Return what is decoded over the two latents of the greatest KL, the others at their means.

    None, if the points of the plane cannot be decoded.
    """
    latents = world.world()["latents"][:2]
    side = max(5, min(21, math.isqrt(NUMBERS // 4 // world.given.x[0].numel())))
    ranges = [np.linspace(one["low"], one["high"], side).round(4) for one in latents]
    grid = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, len(latents))
    points = world.posteriors.z.mean(0).repeat(len(grid), 1)
    axes = [one["index"] for one in latents]
    points[:, axes] = torch.as_tensor(grid)
    try:
        found = world.decode(points.tolist())
    except ValueError:
        return None
    return {
        "axes": axes,
        "names": [one["name"] for one in latents],
        "levels": [values.tolist() for values in ranges],
        "x": _listed(world, found["x"]),
        "cells": found["cells"],
    }


def _density(world: World) -> dict[str, Any]:
    """Return the densities, and the sentences on a point with little of one of them."""
    found = as_mixtures(world)
    known = found["prior"] is not None and found["aggregate"]
    apart = (-math.inf, math.inf) if known else ()
    return {
        **found,
        "least": math.log(Latents().hole),
        "sentences": [world.density_at.hole(0.0, aggregate) for aggregate in apart],
    }


def _spheres(world: World) -> list[list[int]]:
    """Return the first coordinate and the size of each site on a sphere."""
    found, start = [], 0
    for place in world.posteriors.coordinates.places:
        if place.name in world.spheres:
            found.append([start, place.size])
        start += place.size
    return found


def _templates(world: World) -> dict[str, str | None]:
    """Return the lines of Python for points and paths that the page fills in."""
    lines, between = world.lines, None
    if lines.simple and not world.spheres:
        between = lines.between(DATUM, OTHER, STEPS)
    found = {
        "decode": lines.decode([[ROW]], DATUM),
        "density": lines.density([ROW], DATUM),
        "between": between,
    }
    return {name: None if text is None else _filled(text) for name, text in found.items()}


def _filled(lines: str) -> str:
    """Return lines with names in the place of the numbers that stand for others."""
    lines = lines.replace(f"[{ROW!r}]", "@rows@")
    for number, name in ((DATUM, "@a@"), (OTHER, "@b@"), (STEPS, "@n@")):
        lines = lines.replace(str(number), name)
    return lines
