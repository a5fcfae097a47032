"""What the sites of a trace must be for each datum to have a weight of its own.

Every site lies in a plate over data at dim -1, under one over particles at dim -2, with whatever
is left declared by `.to_event`. Errors name the site, what was met and a way to mend it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from pyro.distributions import Delta, Independent, MaskedDistribution, VonMises
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.distributions import constraints, transform_to

from pyrovae.data.domains import flat_line

TRAINING_FACTOR: Final = "_training_factor"
"""The key of `infer` that marks an observed site as a factor that a handler added."""


DUMP: Final = "Trace Shapes:"
"""With what Pyro begins the table of every shape that it puts below an error's own words."""


def one_line(error: BaseException | str) -> str:
    """Return an error's text and notes in one line, without the tensors and traces in it."""
    text = str(error).partition(DUMP)[0].partition(": tensor(")[0]
    return " ".join(" ".join([text, *getattr(error, "__notes__", [])]).split())


class UndefinedWeight(ValueError):  # noqa: N818
    """A log-weight that is NaN or plus infinity; the text names the datum and the site."""


class UndefinedMean(ValueError):  # noqa: N818
    """A distribution that has no mean, where one is to be shown."""


def mean_of(fn: Any, called: str = "p(x | z)") -> Tensor:
    """Return the mean of a distribution.

    Raises:
        UndefinedMean: if it has none, as that of classes, or of Student's t at one degree of
            freedom: torch gives NaN there, or nothing.

    Example:
        >>> import pyro.distributions as dist
        >>> mean_of(dist.Categorical(torch.ones(3)))
        Traceback (most recent call last):
        pyrovae.weights.sites.UndefinedMean: p(x | z) is a Categorical, which has no mean ...
    """
    try:
        mean: Tensor | None = fn.mean
    except NotImplementedError:
        mean = None
    if mean is not None and not mean.isnan().any():
        return mean
    family = fn
    while hasattr(family, "base_dist"):
        family = family.base_dist
    where = "" if mean is None else f" at {int(mean.isnan().sum()):,} of {mean.numel():,} entries"
    raise UndefinedMean(
        f"{called} is a {type(family).__name__}, which has no mean{where}: draw from it instead, "
        "vae.decode(z).sample() or vae.sample(n), or read its parameters off vae.decode(z)"
    )


def sample_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield the sites that carry a density: not the plates' indices, not deterministic values."""
    for name, site in objective_sites(trace):
        if not is_training_factor(site):
            yield name, site


def objective_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an objective counts: the sample sites, and the factors that handlers add."""
    for name, site in trace.nodes.items():
        deterministic = site.get("infer") and site["infer"].get("_deterministic")
        if site["type"] == "sample" and not site_is_subsample(site) and not deterministic:
            yield name, site


def is_training_factor(site: Any) -> bool:
    """Tell whether a site is a factor that a handler added, which no measurement may see."""
    return TRAINING_FACTOR in (site.get("infer") or {})


def log_prob(site: Any) -> Tensor:
    """Score a site's value, unscaled, with its mask.

    A site that is summed out keeps its own probabilities where it is masked: they sum to one, so
    that the datum's sum is what it is without the site. Zeros would add the log of the number of
    classes. (Pyro's `TraceEnum_ELBO` does the same for sites that the model enumerates.)

    Raises:
        ValueError: naming the site, if the value is not of the distribution's shape or support.
    """
    fn, mask, value = site["fn"], site["mask"], site["value"]
    if enumeration_dim(site) is not None:
        fn, mask = _unmasked(fn), None
    event = fn.event_shape
    if site["is_observed"] and value.ndim <= len(event):
        raise ValueError(
            f"site '{site['name']}' observes a value of shape {tuple(value.shape)}, which has no "
            "axis over data: give a batch of one, x[None]"
        )
    met = value.shape[value.ndim - len(event) :]
    if met != event:
        image = site["is_observed"] and value[0].numel() == event.numel()
        remedy = f"give {flat_line(value)}" if image else "reshape the data"
        raise ValueError(
            f"site '{site['name']}' has event shape {tuple(event)}; got a value of shape "
            f"{tuple(value.shape)}: {remedy}, or reshape the output of the network"
        )
    try:
        log_prob = fn.log_prob(value, *site["args"], **site["kwargs"])
    except (ValueError, RuntimeError) as error:
        # Pyro and torch print the whole tensor after these words.
        said = str(error).partition("but found invalid values")[0]
        said = " ".join(said.split()).rstrip(", ")
        raise ValueError(f"site '{site['name']}' cannot score its value: {said}") from error
    return cast(Tensor, scale_and_mask(log_prob, mask=mask))


def _unmasked(fn: Any) -> Any:
    """Return a distribution without the mask of `.mask(mask)`."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        return Independent(_unmasked(fn.base_dist), fn.reinterpreted_batch_ndims)
    return fn


def enumeration_dim(site: Any) -> int | None:
    """Return the dimension along which a site is summed out, if it is."""
    return cast("int | None", site["infer"].get("_enumerate_dim"))


@contextlib.contextmanager
def advice_on_shapes() -> Iterator[None]:
    """Say what is wrong in one line, and for Pyro's complaints about shapes how to mend it."""
    try:
        yield
    except RuntimeError as error:
        if DUMP not in str(error):
            raise
        raise type(error)(one_line(error)) from error
    except ValueError as error:
        # Pyro prints every shape of the trace below the line that says what is wrong.
        said = str(error).partition(DUMP)[0].strip()
        if "Shape mismatch inside plate" in said or "ollide" in said:
            said += (
                ": every site has batch shape [N] in the plate over data at dim -1 (dim -2 holds "
                "the particles); declare what is left with .to_event(...)"
            )
        raise ValueError(said) from error


def check_latents(model_trace: Any, guide_trace: Any) -> None:
    """Hold the latent sites of the two programs against each other.

    Raises:
        ValueError: naming the sites that only one of them samples.
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
            f"{missing}: add pyro.sample statements of these names to the guide"
        )
    if extra:
        raise ValueError(
            f"the guide samples {extra}, which the model does not: its latent sites are "
            f"{sorted(model)}. Rename them, or leave them out: log q is the density of the latents"
        )


def _check_event_dims(name: str, model_fn: Any, guide_fn: Any) -> None:
    if model_fn.event_dim != guide_fn.event_dim:
        raise ValueError(
            f"site '{name}' has {model_fn.event_dim} event dimensions in the model but "
            f"{guide_fn.event_dim} in the guide: declare the same with .to_event(...) in both"
        )


def check_supports(model_trace: Any, guide_trace: Any) -> None:
    """Hold the values that the guide may draw against those that have a density in the model.

    The guide's draw is looked at, and points of its support up to 5 on the unconstrained scale.

    Raises:
        ValueError: naming the site and both supports.
    """
    for name, site in sample_sites(guide_trace):
        other = model_trace.nodes.get(name)
        if other is None or _masked(site) or _masked(other):
            continue
        wanted, given = _support(other["fn"]), _support(site["fn"])
        if wanted is None or given is None:
            continue
        value = site["value"]
        points = [value, *([] if is_point_mass(site) else _points(given, value))]
        if not all(bool(wanted.check(point).all()) for point in points):
            raise ValueError(
                f"site '{name}' has the support {_in_words(given)} in the guide but the support "
                f"{_in_words(wanted)} in the model, which gives some of the guide's draws no "
                "density: sample it in the guide from a distribution on the model's support (for "
                "positive numbers LogNormal in place of Normal), or change the prior"
            )


def _support(fn: Any) -> Any:
    """Return where a distribution lies, None if it does not say."""
    base = fn
    while hasattr(base, "base_dist") and not isinstance(
        base, torch.distributions.TransformedDistribution
    ):
        base = base.base_dist
    if isinstance(base, VonMises):  # declared on all real numbers, drawn from one turn
        return constraints.independent(constraints.interval(-math.pi, math.pi), fn.event_dim)
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _points(support: Any, like: Tensor) -> list[Tensor]:
    """Return points all over a continuous support, in the shape of a value in it."""
    if support.is_discrete:
        return []
    with torch.no_grad(), contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        to = transform_to(support)
        free = to.inv(like)
        return [to(torch.full_like(free, u)) for u in (-5.0, -1.0, 0.0, 1.0, 5.0)]
    return []


def _masked(site: Any) -> bool:
    masked = any(isinstance(layer, MaskedDistribution) for layer in _layers(site["fn"]))
    return masked or not (site["mask"] is None or site["mask"] is True)


def _layers(fn: Any) -> list[Any]:
    """Return a distribution and what it declares or masks, from the outside in."""
    layers = [fn]
    while isinstance(layers[-1], torch.distributions.Independent | MaskedDistribution):
        layers.append(layers[-1].base_dist)
    return layers


def _in_words(support: Any) -> str:
    """Say where a support is without its tensors."""
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
    """Hold masks over data against each other; a mask of all data at once is a flat prior."""
    masks = model_site["mask"], guide_site["mask"]
    by_datum = [mask for mask in masks if isinstance(mask, Tensor) and not is_fake(mask)]
    if by_datum and enumeration_dim(guide_site) is None and not same_mask(*masks):
        raise ValueError(
            f"site '{name}' is masked otherwise in the model than in the guide, so that a datum "
            "keeps one density without the other: mask both programs alike"
        )


def same_mask(first: Any, second: Any) -> bool:
    """Tell whether the masks of two sites leave the same entries.

    While a graph is recorded, masks have no values, and only one and the same mask is known to be.
    """
    first, second = (True if mask is None else mask for mask in (first, second))
    if first is second or is_fake(first) or is_fake(second):
        return first is second
    device = next((mask.device for mask in (first, second) if isinstance(mask, Tensor)), None)
    masks = [torch.as_tensor(mask, device=device) for mask in (first, second)]
    return torch.equal(*torch.broadcast_tensors(*masks))


def is_point_mass(site: Any) -> bool:
    """Tell whether a site's distribution is a Delta, whose density is no number."""
    family = site["fn"]
    while hasattr(family, "base_dist"):
        family = family.base_dist
    return isinstance(family, Delta)


def is_auxiliary_draw(site: Any) -> bool:
    """Tell whether a site is a guide's own continuous draw, which other sites may transform."""
    auxiliary = (site["infer"] or {}).get("is_auxiliary", False)
    return bool(auxiliary and not site["fn"].has_enumerate_support and not is_point_mass(site))


def plate_size(name: str, site: Any) -> int:
    """Return the number of data in the plate that a site lies in.

    Raises:
        ValueError: naming the site, if it lies in no plate at dim -1.
    """
    frames = _plates(site)
    if -1 not in frames:
        raise ValueError(
            f"site '{name}' is sampled outside the plate over data: put it inside "
            'pyro.plate("data", len(x), dim=-1), so that each datum has a weight of its own'
        )
    return cast(int, frames[-1].size)


def check_plates(name: str, site: Any, size: int) -> None:
    """Hold a site's plates against those over particles and data.

    Raises:
        ValueError: naming the site and the plate.
    """
    frames = _plates(site)
    if plate_size(name, site) != size:
        raise ValueError(
            f"site '{name}' is in plate '{frames[-1].name}' of size {frames[-1].size}, but there "
            f"are {size} data: size the plate by len(x) in both programs. (An autoguide of Pyro "
            "keeps the plate of the data that it met first: give these in one batch, with so few "
            "particles that one pass holds them.)"
        )
    others = [frame.name for dim, frame in frames.items() if dim < -2]
    if others:
        raise ValueError(
            f"site '{name}' is in the plates {others} beside those over particles and data: "
            "declare these dimensions with .to_event(...)"
        )


def _plates(site: Any) -> dict[int, Any]:
    return {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}


def check_shape(
    name: str, met: torch.Size, wanted: tuple[int, int], dims: set[int | None]
) -> None:
    """Hold a site's log-probabilities against [K, N], the dimensions summed out apart.

    Raises:
        ValueError: naming the site, the shape met and the shape wanted.
    """
    stray = [d for d in range(-len(met), -2) if met[d] > 1 and d not in dims]
    if met[-2:] != wanted or stray:
        raise ValueError(
            f"site '{name}' has log-probabilities of shape {tuple(met)}; expected [K, N] = "
            f"{tuple(wanted)}: declare the other dimensions with .to_event(...)"
        )
