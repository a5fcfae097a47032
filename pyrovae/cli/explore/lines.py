"""The lines of Python that compute what a view shows.

They assume what `Lines.start` defines: the VAE `vae`, its data, the tensor x and the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyrovae.cli.explore.bounds import BATCH, PARTICLES

__all__ = ["Lines", "Origin"]

OWN: Final = """\
import torch
import pyrovae as pv

# vae and data are yours, as given to World(vae, data)"""

AGAIN: Final = """\
from pyrovae.cli.explore import World

world = World(vae, data)"""


@dataclass(frozen=True)
class Origin:
    """Where a world comes from.

    Attributes:
        held: the factor that each latent holds, by the latent's name, as a run records it.
        head: the lines of Python that load the VAE and its data.
        again: the lines that make the world again.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    head: str = OWN
    again: str = AGAIN


@dataclass(frozen=True)
class Lines:
    """The lines for a target.

    Attributes:
        origin: the lines that load the VAE and its data, and name them `vae` and `data`.
        simple: whether `vae.embed` and `vae.decode` have the coordinates of the page: a VAE with
            one continuous site, of one axis. Others go through `World`.
        per_datum: whether each argument of the context has one row per datum.
    """

    origin: Origin
    simple: bool
    per_datum: tuple[bool, ...] = ()

    @property
    def start(self) -> str:
        """The lines that come before those of any view."""
        head, again = self.origin.head, self.origin.again
        return head if self.simple else f"{head}\n\n{again}"

    def latents(self) -> str:
        """Return the lines of the map: posterior means [N, D] and their principal components."""
        first = "z = vae.embed(data)" if self.simple else "z = world.z"
        return f"""\
{first}
from sklearn.decomposition import PCA

plane = PCA(2, random_state=0).fit_transform(z.double().cpu().numpy())"""

    def datum(self, i: int) -> str:
        """Return the lines of one datum: its latents, its reconstruction and its bounds."""
        start = i // BATCH * BATCH
        rows = f"{start}:{start + BATCH}"
        beside = self._beside(rows)
        if self.simple:
            own = self._beside(f"[{i}]")
            first = f"z = vae.embed(x[[{i}]]{own})\nreconstruction = vae.decode(z{own}).mean"
        else:
            first = f"z = world.z[[{i}]]\nreconstruction = world.decode(z.tolist(), {i})"
        return f"""\
{first}
torch.manual_seed({start})
with torch.no_grad():
    log_w = pv.log_weights(vae, x[{rows}]{beside}, particles={PARTICLES})[:, [{i - start}]]
iwae, elbo, khat = pv.bounds.iwae(log_w), pv.bounds.elbo(log_w), pv.psis.pareto_k(log_w)"""

    def decode(self, z: Sequence[Sequence[float]], at: int) -> str:
        """Return the lines that decode points [S, D] with the context of datum `at`."""
        rows = ",\n    ".join(f"[{_row(row)}]" for row in z)
        if not self.simple:
            return f"found = world.decode([\n    {rows},\n], {at})"
        beside = self._beside(f"[{at}] * len(z)")
        return f"z = torch.tensor([\n    {rows},\n])\nmeans = vae.decode(z{beside}).mean"

    def density(self, z: Sequence[float], at: int) -> str:
        """Return the lines that weigh the prior and the aggregate posterior at a point [D]."""
        first = f"{self.origin.again}\n\n" if self.simple else ""
        return f"{first}densities = world.density([{_row(z)}], {at})"

    def between(self, a: int, b: int, steps: int) -> str:
        """Return the lines that interpolate between two data."""
        beside = self._beside(f"[{a}, {b}]")
        return f"means = pv.interpolate(vae, x[[{a}, {b}]]{beside}, steps={steps}).means"

    def _beside(self, rows: str) -> str:
        """Return the further arguments of a program at some rows; a shared one is passed whole."""
        if self.per_datum and all(self.per_datum):
            return f", *(value[{rows}] for value in context)"
        each = (
            f"context[{k}][{rows}]" if own else f"context[{k}]"
            for k, own in enumerate(self.per_datum)
        )
        return "".join(f", {one}" for one in each)


def _row(z: Sequence[float]) -> str:
    return ", ".join(repr(round(float(value), 6)) for value in z)
