"""The options of the commands that draw the latent space.

Like `options`, this module does not import torch, and its annotations are evaluated.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pyrovae.cli.options import Count, Flag, Opened, Place, Reconstructed, Split

__all__ = ["Explored", "Interpolated", "Mapped", "Planned", "Walked"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Walked(Reconstructed):
    """The options of `pyrovae walk`."""

    number: Annotated[
        Count | None, Parameter(name="-n", help="The number of dimensions (10).")
    ] = None
    datum: Annotated[
        Place, Parameter(help="The row at whose latents the other dimensions stay.")
    ] = 0
    gif: Annotated[Flag, Parameter(help="Animate the walk too, as a GIF beside the PNG.")] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Interpolated(Reconstructed):
    """The options of `pyrovae interpolate`."""

    number: Annotated[
        Count | None, Parameter(name="-n", help="The number of steps, both ends included (11).")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Planned(Reconstructed):
    """The options of `pyrovae manifold`."""

    number: Annotated[
        Count | None, Parameter(name="-n", help="The number of images in each direction (20).")
    ] = None
    dimensions: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            help="Two dimensions, such as z[0] z[3], if there are more; the others stay at the "
            "median of the prior.",
        ),
    ] = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Mapped(Reconstructed):
    """The options of `pyrovae map`."""

    number: Annotated[
        Count | None, Parameter(name="-n", help="The number of data, the first ones (2000).")
    ] = None
    by: Annotated[
        str | None, Parameter(help="A covariate that colors the data, instead of their labels.")
    ] = None
    embedding: Annotated[
        Literal["pca", "tsne", "umap"],
        Parameter(
            help="How more than two dimensions are mapped to a plane; umap needs 'pyrovae[umap]'."
        ),
    ] = "pca"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Explored(Opened):
    """The options of `pyrovae explore`."""

    split: Annotated[Split, Parameter(help="The split of the data.")] = "test"
    number: Annotated[
        Count | None,
        Parameter(name="-n", help="The number of data, the first ones (10000; 2000 in a file)."),
    ] = None
    out: Annotated[
        Path | None,
        Parameter(help="Write one HTML file that needs no server, instead of serving the page."),
    ] = None
    port: Annotated[Place, Parameter(help="The port, on this machine alone; 0: any free one.")] = 0
