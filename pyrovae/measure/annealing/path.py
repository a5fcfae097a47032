r"""Log-densities at the ends of an annealing path, as functions of unconstrained latents.

    log f_1(u) = log p(x, z) + log |dz/du|,   log f_0(u) = log p(z) + log |dz/du|,   z = t(u)

Each continuous latent site is the image of unconstrained values u under the bijection t to its
support. The sites of a datum are concatenated, so u has shape [K chains, N data, D]. Discrete
latents are summed out of both densities. The start density f_0 is the prior or the guide q(z | x).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pyrovae.graphs.capture import record
from pyrovae.graphs.reach import Reach
from pyrovae.graphs.signatures import Arguments, NotRecordable
from pyrovae.types import ContextValue, Program
from pyrovae.weights.log_joint import Layout
from pyrovae.weights.particles import over_particles
from pyrovae.weights.sites import (
    advice_on_shapes,
    check_plates,
    is_masked,
    is_point_mass,
    sample_sites,
    support_of,
)
from pyrovae.weights.traces import held, trace_guide

__all__ = ["Constrain", "LatentDensity", "Point", "Start", "bijection"]

Start = Literal["prior", "guide"]


@dataclass(frozen=True)
class Point:
    """A state of the chains and the two log-densities there.

    Attributes:
        u: unconstrained latents, [K, N, D].
        log_start: log f_0(u), [K, N].
        log_joint: log f_1(u), [K, N].
    """

    u: Tensor
    log_start: Tensor
    log_joint: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """The log-ratio log f_1(u) - log f_0(u), [K, N]; the Jacobian cancels."""
        return self.log_joint - self.log_start

    def tempered(self, beta: Tensor) -> Tensor:
        """Return the log-density of the geometric path, (1 - beta) log f_0 + beta log f_1."""
        return self.log_start + beta * self.log_ratio

    def where(self, here: Tensor, other: Point) -> Point:
        """Return this point where the mask `here` [K, N] is true, and the other elsewhere."""
        return Point(
            torch.where(here.unsqueeze(-1), self.u, other.u),
            torch.where(here, self.log_start, other.log_start),
            torch.where(here, self.log_joint, other.log_joint),
        )


class LatentDensity:
    """The start density and the unnormalized posterior at the two ends of an annealing path.

    Args:
        programs: the model and the guide.
        chains: K, the number of chains per datum.
        start: the start density f_0, "prior" or "guide".
        x: data [N, ...].
        *context: the further arguments of the programs.

    Raises:
        ValueError: naming the site, if a latent is neither continuous with a bijection to real
            numbers nor discrete with a finite support, if it is masked in the program that the
            chains start from, or if the guide does not sample it.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.measure.annealing.path import LatentDensity
        >>> vae, x = pv.mlp_vae(64, latents=2, hidden=16), torch.zeros(5, 64)
        >>> path = LatentDensity((vae.model, vae.guide), 4, "prior", x)
        >>> path.point(path.draw()).log_ratio.shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        programs: tuple[Program, Program],
        chains: int,
        start: Start,
        x: Tensor,
        *context: ContextValue,
    ) -> None:
        self.model, self.guide = programs
        self.chains, self.start = chains, start
        self.data: tuple[Any, ...] = (x, *context)
        self._graphs: dict[Any, Any] = {}
        trace = self._drawn(self.model)
        for name, site in sample_sites(trace):
            check_plates(name, site, len(x))
        self._events = {
            name: bijection(site).inv(site["value"]).shape[2:] for name, site in _continuous(trace)
        }
        if not self._events:
            raise ValueError(
                "annealing needs a continuous latent site, and the model samples none: enumerate "
                "every site and use log_weights, which computes log p(x) exactly"
            )
        if start == "guide":
            trace = self._drawn(self.guide)
            _check_guide(trace, set(self._events))
        _check_unmasked(trace, start)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of chains and of data, (K, N)."""
        return self.chains, len(self.data[0])

    def given(self, x: Tensor, *context: ContextValue) -> LatentDensity:
        """Return the densities given other data, sharing the compiled graphs."""
        other = copy.copy(self)
        other.data = (x, *context)
        return other

    def compile(self) -> None:
        """Compile `slope` for data of these shapes; warn where that is not possible.

        Densities made by `given` share the compiled graphs.
        """
        given = Arguments(self.data)
        if given.shape in self._graphs:
            return

        def slope(u: Tensor, beta: Tensor, *tensors: Tensor) -> list[Tensor]:
            data = given.refilled(iter(tensors), given.floats)
            point, gradient = self.given(*data)._slope(u, beta)
            return [point.log_start, point.log_joint, gradient]

        u = self.draw()
        beta = torch.ones((), dtype=u.dtype, device=u.device)
        reach = Reach([self.model, self.guide])
        try:
            graph = record(slope, [u, beta, *given.inputs(given.floats)], reach)
        except NotRecordable as reason:
            warnings.warn(f"annealing is not compiled: {reason}", stacklevel=2)
            return
        self._graphs[given.shape] = graph

    def draw(self) -> Tensor:
        """Draw u from the start density f_0, [K, N, D].

        Raises:
            ValueError: if a draw of the guide lies outside the model's support.
        """
        given = None
        if self.start == "guide":
            given = self._latents_of(self._drawn(self.guide))
        u = self.unconstrained(self._drawn(self.model, given))
        if not u.isfinite().all():
            raise ValueError(
                f"the {self.start} draws values of {list(self._events)} outside their support in "
                "the model: give the sites the same support in both programs"
            )
        return u

    def unconstrained(self, trace: Any) -> Tensor:
        """Return the unconstrained latents of a trace under a plate of particles, [K, N, D]."""
        rows = [self._rows(trace.nodes[name]) for name in self._events]
        return torch.cat(rows, dim=-1).expand(*self.shape, -1).contiguous()

    def point(self, u: Tensor) -> Point:
        """Evaluate both log-densities at u [K, N, D].

        They are NaN where a network returns invalid parameters, which happens far from the data.
        """
        constrain = Constrain(self._by_site(u))
        with pyro.validation_enabled(is_validate=False):
            trace = self._enumerated(self.model, constrain)
            log_joint = self._summed(sample_sites(trace)) + constrain.log_det
            if self.start == "prior":
                start = [both for both in sample_sites(trace) if not both[1]["is_observed"]]
            else:
                latents = ReplayMessenger(trace=self._latents_of(trace))
                start = list(sample_sites(self._enumerated(self.guide, latents)))
            return Point(u, self._summed(start) + constrain.log_det, log_joint)

    def slope(self, u: Tensor, beta: Tensor) -> tuple[Point, Tensor]:
        """Return the point at u and the gradient of the path's log-density, [K, N, D]."""
        given = Arguments(self.data)
        graph = self._graphs.get(given.shape)
        if graph is None:
            return self._slope(u, beta)
        log_start, log_joint, gradient = graph(u, beta, *given.inputs(given.floats))
        return Point(u, log_start, log_joint), gradient

    def _slope(self, u: Tensor, beta: Tensor) -> tuple[Point, Tensor]:
        """Return the same as `slope`, without the compiled graph."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            point = self.point(u)
            (gradient,) = torch.autograd.grad(point.tempered(beta).sum(), u)
        return Point(u.detach(), point.log_start.detach(), point.log_joint.detach()), gradient

    def _summed(self, sites: Iterable[tuple[str, Any]]) -> Tensor:
        """Add the log-probabilities of sites and sum out enumerated ones, [K, N]."""
        sites = list(sites)
        layout = Layout.of_sites(sites, self.shape)
        return layout.summed_out(layout.log_density(sites))

    def _by_site(self, u: Tensor) -> dict[str, Tensor]:
        """Split u [K, N, D] into the unconstrained value of each site."""
        pieces = u.split([event.numel() for event in self._events.values()], dim=-1)
        return {
            name: piece.reshape(*self.shape, *event)
            for (name, event), piece in zip(self._events.items(), pieces, strict=True)
        }

    def _latents_of(self, trace: Any) -> Any:
        """Return a trace of the continuous latent sites alone."""
        return held({name: trace.nodes[name]["value"] for name in self._events})

    def _rows(self, site: Any) -> Tensor:
        """Return the unconstrained value of a site, [K, N, size]."""
        value = bijection(site).inv(site["value"])
        return value.reshape(*value.shape[:2], -1)

    def _enumerated(self, program: Program, given: Messenger) -> Any:
        """Trace a program at given latents, with discrete sites enumerated left of the chains.

        The handler is applied outside the plate of chains and sees values [K, N, ...].
        """
        chains = given(over_particles(config_enumerate(program), self.chains))
        with advice_on_shapes():
            chains = EnumMessenger(first_available_dim=-3)(chains)
            return poutine.trace(chains).get_trace(*self.data)

    def _drawn(self, program: Program, given: poutine.Trace | None = None) -> Any:
        """Trace a program under a plate of chains, replaying the sites of a trace."""
        with torch.no_grad():
            return trace_guide(
                program, *self.data, particles=self.chains, given=given, enumerate=False
            )


class Constrain(Messenger):
    """Set latent sites to the images of unconstrained values, and accumulate log |dz/du|."""

    def __init__(self, unconstrained: dict[str, Tensor]) -> None:
        super().__init__()
        self._unconstrained = unconstrained
        self.log_det: Any = 0.0

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._unconstrained and not msg["is_observed"]:
            u = self._unconstrained[msg["name"]]
            transform = bijection(msg)
            msg["value"], msg["done"] = transform(u), True
            if msg["value"].shape[:2] != u.shape[:2]:
                raise ValueError(
                    f"site '{msg['name']}' has a support that depends on a class that is summed "
                    "out, so no single bijection to it exists: use log_weights instead"
                )
            log_det = transform.log_abs_det_jacobian(u, msg["value"])
            self.log_det = self.log_det + log_det.reshape(*u.shape[:2], -1).sum(-1)


def bijection(site: Any) -> Any:
    """Return the bijection from real numbers to the support of a latent site.

    Raises:
        ValueError: naming the site, if its support has no such bijection.
    """
    support = support_of(site["fn"])
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"site '{site['name']}' has support {support}, for which torch has no bijection from "
            "real numbers: use log_weights instead of annealing"
        ) from error


def _continuous(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the continuous latent sites; discrete ones must be enumerable in parallel."""
    for name, site in sample_sites(trace):
        if site["is_observed"] or site["infer"].get("is_auxiliary"):
            continue
        if not site["fn"].support.is_discrete:
            yield name, site
        elif site["infer"].get("enumerate") == "sequential":
            raise ValueError(
                f"site '{name}' is enumerated sequentially, and annealing needs parallel "
                'enumeration: mark it infer={"enumerate": "parallel"}'
            )
        elif not site["fn"].has_enumerate_support:
            raise ValueError(
                f"site '{name}' is discrete with no finite support, so annealing can neither move "
                "it nor sum it out: use log_weights instead"
            )


def _check_unmasked(trace: Any, start: Start) -> None:
    """Check that the chains start with the densities that they are drawn from."""
    other = "guide" if start == "prior" else "prior"
    for name, site in _continuous(trace):
        if is_masked(site):
            raise ValueError(
                f"site '{name}' is masked in the {start}, so that its draws do not have the "
                f"density of the site: anneal from the other program, start='{other}', or use "
                "log_weights"
            )


def _check_guide(trace: Any, wanted: set[str]) -> None:
    """Check that the guide has a density over the wanted sites and no others."""
    auxiliary = [n for n, site in sample_sites(trace) if site["infer"].get("is_auxiliary")]
    for name, site in sample_sites(trace):
        if is_point_mass(site):
            raise ValueError(
                f"site '{name}' is a Delta in the guide, which has no density to start from: use "
                "start='prior'"
            )
    sampled = {name for name, _ in _continuous(trace)}
    if auxiliary or sampled != wanted:
        raise ValueError(
            f"start='guide' needs a guide that samples exactly {sorted(wanted)}; the guide "
            f"samples {sorted(sampled | set(auxiliary))}: use start='prior'"
        )
