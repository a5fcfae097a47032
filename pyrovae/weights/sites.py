"""Read and check the sample sites of a trace.

Each datum has its own log-weight if every site is in a plate over data at dim -1, within a plate
over particles at dim -2, and declares all other dimensions with `.to_event`. Errors name the
site, what was found and how to fix it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from pyro.distributions import Delta, MaskedDistribution, VonMises
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.distributions import constraints, transform_to

from pyrovae.data.domains import flat_line
from pyrovae.weights.families import (
    UndefinedMean,
    innermost,
    is_deterministic,
    mean_of,
    univariate_factors,
    unmasked,
)
from pyrovae.weights.observed import observed_at

__all__ = [
    "TRAINING_FACTOR",
    "UndefinedMean",
    "UndefinedWeight",
    "check_event",
    "advice_on_shapes",
    "check_latents",
    "check_plates",
    "check_shape",
    "check_supports",
    "enumeration_dim",
    "innermost",
    "is_auxiliary_draw",
    "is_deterministic",
    "is_point_mass",
    "is_training_factor",
    "log_prob",
    "mean_of",
    "objective_sites",
    "one_line",
    "plate_size",
    "is_masked",
    "same_mask",
    "same_scale",
    "support_of",
    "sample_sites",
    "univariate_factors",
]

TRAINING_FACTOR: Final = "_training_factor"
"""The key of `infer` that marks an observed site as a factor that a handler added."""

DUMP: Final = "Trace Shapes:"
"""The first line of the table of shapes that Pyro appends to an error message."""


def one_line(error: BaseException | str) -> str:
    """Return the text and notes of an error in one line, without tensors and tables of shapes."""
    text = str(error).partition(DUMP)[0].partition(": tensor(")[0]
    return " ".join(" ".join([text, *getattr(error, "__notes__", [])]).split())


class UndefinedWeight(ValueError):  # noqa: N818
    """Raised for a log-weight that is NaN or plus infinity; names the datum and the site."""


def sample_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and the message of each sample site.

    Subsample indices of plates, `pyro.deterministic` sites and factors of handlers are left out.
    """
    for name, site in objective_sites(trace):
        if not is_training_factor(site):
            yield name, site


def objective_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the sample sites, as `sample_sites`, and the factors that handlers add."""
    for name, site in trace.nodes.items():
        deterministic = site.get("infer") and site["infer"].get("_deterministic")
        if site["type"] == "sample" and not site_is_subsample(site) and not deterministic:
            yield name, site


def is_training_factor(site: Any) -> bool:
    """Return whether a site is a factor of a handler, which counts in objectives only."""
    return TRAINING_FACTOR in (site.get("infer") or {})


def log_prob(site: Any) -> Tensor:
    """Return the log-probability of a site's value, masked and unscaled, in nats.

    The mask of an enumerated site is ignored. Its probabilities sum to one, so a masked datum
    has the same density as without the site. Log-probabilities of zero would instead add the log
    of the number of classes. Pyro's `TraceEnum_ELBO` does the same for sites that the model
    enumerates.

    Raises:
        ValueError: naming the site, if the value has the wrong shape or is outside the support.
    """
    fn, mask, value = site["fn"], site["mask"], site["value"]
    if enumeration_dim(site) is not None:
        fn, mask = unmasked(fn), None
    check_event(site, fn)
    try:
        log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
    except (ValueError, RuntimeError) as error:
        # Pyro and torch print the whole tensor after this phrase.
        said = str(error).partition("but found invalid values")[0]
        said = " ".join(said.split()).rstrip(", ")
        raise ValueError(f"site '{site['name']}' cannot score its value: {said}") from error
    return cast(Tensor, scale_and_mask(log_prob, mask=mask))


def check_event(site: Any, fn: Any) -> None:
    """Check that the value of a site ends in the event shape of its distribution.

    Raises:
        ValueError: otherwise, naming the site.
    """
    value, event = site["value"], fn.event_shape
    if site["is_observed"] and value.ndim <= len(event):
        raise ValueError(
            f"site '{site['name']}' observes a value of shape {tuple(value.shape)}, which has no "
            "axis over data: pass a batch of one, x[None]"
        )
    if value.shape[value.ndim - len(event) :] != event:
        image = site["is_observed"] and value[0].numel() == event.numel()
        remedy = f"pass {flat_line(value)}" if image else "reshape the data"
        if getattr(innermost(fn), "duration", 0) is None:  # a hidden Markov model of Pyro
            remedy = f"give the {type(innermost(fn)).__name__} a duration"
        raise ValueError(
            f"site '{site['name']}' has event shape {tuple(event)}; got a value of shape "
            f"{tuple(value.shape)}: {remedy}, or reshape the output of the network"
        )


def enumeration_dim(site: Any) -> int | None:
    """Return the dimension along which a site is enumerated; None if it is sampled."""
    return cast("int | None", site["infer"].get("_enumerate_dim"))


@contextlib.contextmanager
def advice_on_shapes() -> Iterator[None]:
    """Shorten Pyro's errors to one line, and add advice to errors about shapes."""
    try:
        yield
    except RuntimeError as error:
        if DUMP not in str(error):
            raise
        raise type(error)(one_line(error)) from error
    except ValueError as error:
        # Pyro appends a table of all shapes to the message.
        said = str(error).partition(DUMP)[0].strip()
        if "Shape mismatch inside plate" in said or "ollide" in said:
            said += (
                ": every site needs batch shape [N] in the plate over data at dim -1 (dim -2 is "
                "for particles); declare all other dimensions with .to_event(...)"
            )
        raise ValueError(said) from error


def check_latents(model_trace: Any, guide_trace: Any) -> None:
    """Check that model and guide sample the same latent sites, with the same event dimensions.

    Raises:
        ValueError: naming the sites that only one of them samples, whose event dimensions differ
            or whose masks differ.
    """
    model = {
        name
        for name, site in sample_sites(model_trace)
        if not site["is_observed"] and enumeration_dim(site) is None
    }
    guide = {
        name for name, site in sample_sites(guide_trace) if not site["infer"].get("is_auxiliary")
    }
    observed = {name for name, site in sample_sites(model_trace) if site["is_observed"]}
    for name in model & guide:
        _check_event_dims(name, model_trace.nodes[name]["fn"], guide_trace.nodes[name]["fn"])
        _check_masks(name, model_trace.nodes[name], guide_trace.nodes[name])
    missing = sorted(model - guide)
    extra = sorted((guide - {name for name, _ in sample_sites(model_trace)}) | (guide & observed))
    if missing:
        raise ValueError(
            f"the model samples the sites {sorted(model)} but the guide does not sample "
            f"{missing}: add pyro.sample statements with these names to the guide"
        )
    if extra:
        raise ValueError(
            f"the guide samples {extra}, which the model does not: its latent sites are "
            f"{sorted(model)}. Rename or remove them: log q is the density of the latent sites"
        )


def _check_event_dims(name: str, model_fn: Any, guide_fn: Any) -> None:
    if model_fn.event_dim != guide_fn.event_dim:
        raise ValueError(
            f"site '{name}' has {model_fn.event_dim} event dimensions in the model but "
            f"{guide_fn.event_dim} in the guide: declare the same with .to_event(...) in both"
        )


def check_supports(model_trace: Any, guide_trace: Any) -> None:
    """Check that the guide draws each latent within the support of the model's distribution.

    The check evaluates the guide's draw, and five points of its support that are between -5 and 5
    on the unconstrained scale.

    Raises:
        ValueError: naming the site and both supports.
    """
    for name, site in sample_sites(guide_trace):
        other = model_trace.nodes.get(name)
        if other is None or is_masked(site) or is_masked(other):
            continue
        wanted, given = support_of(other["fn"]), support_of(site["fn"])
        if wanted is None or given is None:
            continue
        value = site["value"]
        points = [value, *([] if is_point_mass(site) else _points(given, value))]
        if not all(bool(wanted.check(point).all()) for point in points):
            raise ValueError(
                f"site '{name}' has the support {_in_words(given)} in the guide but the support "
                f"{_in_words(wanted)} in the model, where some of the guide's draws have no "
                "density: in the guide, use a distribution on the model's support (such as "
                "LogNormal instead of Normal for positive numbers), or change the prior"
            )


def support_of(fn: Any) -> Any:
    """Return the support of a distribution; None if it is unknown."""
    if isinstance(innermost(fn), VonMises):  # It declares the reals and draws from one circle.
        return constraints.independent(constraints.interval(-math.pi, math.pi), fn.event_dim)
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _points(support: Any, like: Tensor) -> list[Tensor]:
    """Return points spread over a continuous support, of the shape of a value."""
    if support.is_discrete:
        return []
    with torch.no_grad(), contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        to = transform_to(support)
        free = to.inv(like)
        return [to(torch.full_like(free, u)) for u in (-5.0, -1.0, 0.0, 1.0, 5.0)]
    return []


def is_masked(site: Any) -> bool:
    """Return whether a site has a mask, by a handler or by `.mask` of its distribution."""
    return any(mask is not None and mask is not True for mask in _masks(site))


def _masks(site: Any) -> list[Any]:
    """Return the mask of a site, and those of its distribution within `.to_event`."""
    found, fn = [site["mask"]], site["fn"]
    while isinstance(fn, torch.distributions.Independent | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):
            found.append(fn._mask)
        fn = fn.base_dist
    return found


def _in_words(support: Any) -> str:
    """Return a constraint's name and scalar bounds, without its tensors."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    bounds = [
        f"{name}={float(torch.as_tensor(value).flatten()[0]):g}"
        for name, value in vars(support).items()
        if isinstance(value, Tensor | float | int) and torch.as_tensor(value).numel()
    ]
    name = type(support).__name__.lstrip("_")
    return f"{name}({', '.join(bounds)})" if bounds else name


def _check_masks(name: str, model_site: Any, guide_site: Any) -> None:
    """Check that both programs mask the same data. One mask for all data makes a flat prior."""
    masks = [mask for site in (model_site, guide_site) for mask in _masks(site)]
    by_datum = any(isinstance(mask, Tensor) for mask in masks) and not any(map(is_fake, masks))
    if not by_datum or enumeration_dim(guide_site) is not None:
        return
    if not same_mask(observed_at(model_site), observed_at(guide_site)):
        raise ValueError(
            f"site '{name}' is masked differently in the model and in the guide, so some data "
            "have only one of the two densities: use the same mask in both programs"
        )


def same_mask(first: Any, second: Any) -> bool:
    """Return whether the masks of two sites are equal.

    While a graph is recorded, masks have no values, and only identical objects count as equal.
    """
    first, second = (True if mask is None else mask for mask in (first, second))
    if first is second or is_fake(first) or is_fake(second):
        return first is second
    return _equal(first, second)


def same_scale(first: Any, second: Any) -> bool:
    """Return whether two scales are equal; those without values, as in a recording, are."""
    return first is second or is_fake(first) or is_fake(second) or _equal(first, second)


def _equal(first: Any, second: Any) -> bool:
    device = next((each.device for each in (first, second) if isinstance(each, Tensor)), None)
    both = [torch.as_tensor(each, device=device) for each in (first, second)]
    return torch.equal(*torch.broadcast_tensors(*both))


def is_point_mass(site: Any) -> bool:
    """Return whether a site's distribution is a Delta, which has no finite density."""
    family = site["fn"]
    while hasattr(family, "base_dist"):
        family = family.base_dist
    return isinstance(family, Delta)


def is_auxiliary_draw(site: Any) -> bool:
    """Return whether a site is an auxiliary continuous draw, which other sites may transform."""
    auxiliary = (site["infer"] or {}).get("is_auxiliary", False)
    return bool(auxiliary and not site["fn"].has_enumerate_support and not is_point_mass(site))


def plate_size(name: str, site: Any) -> int:
    """Return the size of the plate at dim -1 that a site is in.

    Raises:
        ValueError: naming the site, if it is in no plate at dim -1.
    """
    frames = _plates(site)
    if -1 not in frames:
        raise ValueError(
            f"site '{name}' is sampled outside the plate over data: put it inside "
            'pyro.plate("data", len(x), dim=-1), so that each datum has its own log-weight'
        )
    return cast(int, frames[-1].size)


def check_plates(name: str, site: Any, size: int) -> None:
    """Check that a site is in the plates over particles and data, and in no other.

    Raises:
        ValueError: naming the site and the plate, if the plate over data has another size than
            the data, or if there are further plates.
    """
    frames = _plates(site)
    if plate_size(name, site) < frames[-1].full_size == size:
        raise ValueError(
            f"site '{name}' is in plate '{frames[-1].name}', which draws {frames[-1].size} of the "
            f"{size} data by itself: leave out its subsample_size, as x is a batch, or all data "
            "that are to be measured"
        )
    if plate_size(name, site) != size:
        raise ValueError(
            f"site '{name}' is in plate '{frames[-1].name}' of size {frames[-1].size}, but there "
            f"are {size} data: create the plate with size len(x) in both programs. (A Pyro "
            "autoguide keeps the plate of its first batch: pass the same data in one batch, and "
            "few enough particles for a single pass.)"
        )
    others = [frame.name for dim, frame in frames.items() if dim < -2]
    if others:
        raise ValueError(
            f"site '{name}' is in the plates {others} besides those over particles and data: "
            "declare these dimensions with .to_event(...)"
        )


def _plates(site: Any) -> dict[int, Any]:
    return {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def check_shape(
    name: str, met: torch.Size, wanted: tuple[int, int], dims: set[int | None]
) -> None:
    """Check that the log-probabilities of a site have shape [K, N].

    Args:
        name: the name of the site.
        met: the shape of its log-probabilities.
        wanted: (K, N).
        dims: the dimensions of enumerated sites, left of K, which may have any size.

    Raises:
        ValueError: naming the site and both shapes.
    """
    stray = [d for d in range(-len(met), -2) if met[d] > 1 and d not in dims]
    if met[-2:] != wanted or stray:
        raise ValueError(
            f"site '{name}' has log-probabilities of shape {tuple(met)}; expected [K, N] = "
            f"{tuple(wanted)}: declare the other dimensions with .to_event(...)"
        )
