"""Look inside distributions: their family, their univariate factors, their mean."""

from __future__ import annotations

from typing import Any, Final

import torch
from pyro.distributions import Independent, MaskedDistribution
from torch import Tensor
from torch.distributions import TransformedDistribution

__all__ = [
    "UndefinedMean",
    "innermost",
    "is_deterministic",
    "known_mean",
    "mean_of",
    "univariate_factors",
    "unmasked",
]


SAMPLES: Final = (
    "draw samples with vae.decode(z).sample() or vae.sample(n), or read the parameters of "
    "vae.decode(z)"
)


class UndefinedMean(ValueError):  # noqa: N818
    """Raised if the mean of a distribution is needed, and the distribution has none."""


def mean_of(fn: Any, called: str = "p(x | z)", *, remedy: str = SAMPLES) -> Tensor:
    """Return the mean of a distribution.

    Args:
        fn: the distribution.
        called: its name, for the error message.
        remedy: what to do without a mean, for the error message.

    Raises:
        UndefinedMean: if it has none, such as a categorical distribution, or Student's t with
            one degree of freedom, whose mean is NaN in torch.

    Example:
        >>> import pyro.distributions as dist
        >>> mean_of(dist.Categorical(torch.ones(3)))
        Traceback (most recent call last):
        pyrovae.weights.families.UndefinedMean: p(x | z) is a Categorical, which has no mean ...
    """
    try:
        mean: Tensor | None = fn.mean
    except NotImplementedError:
        mean = None
    if mean is not None and not mean.isnan().any():
        return mean
    where = "" if mean is None else f" at {int(mean.isnan().sum()):,} of {mean.numel():,} entries"
    raise UndefinedMean(
        f"{called} is a {type(innermost(fn)).__name__}, which has no mean{where}: {remedy}"
    )


def known_mean(fn: Any) -> Tensor | None:
    """Return the mean of a distribution; None if it has no closed form or is not finite.

    Example:
        >>> import pyro.distributions as dist
        >>> known_mean(dist.Cauchy(0.0, 1.0)), known_mean(dist.Normal(2.0, 1.0))
        (None, tensor(2.))
    """
    try:
        mean: Tensor = fn.mean
    except NotImplementedError:
        return None
    return mean if mean.isfinite().all() else None


def innermost(fn: Any) -> Any:
    """Return the distribution inside `.to_event`, `.mask` and `.expand`.

    Example:
        >>> import pyro.distributions as dist
        >>> innermost(dist.Normal(torch.zeros(2), 1.0).mask(True).to_event(1))
        Normal(loc: torch.Size([2]), scale: torch.Size([2]))
    """
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return fn


def is_deterministic(fn: Any) -> bool:
    """Return whether a discrete distribution gives one value probability one, as codes do.

    Example:
        >>> import pyro.distributions as dist
        >>> is_deterministic(dist.Normal(0.0, 1.0))
        False
    """
    return getattr(innermost(fn), "deterministic", False)


def univariate_factors(fn: Any) -> Any:
    """Return the univariate distributions whose product a distribution is.

    Returns:
        A distribution whose batch shape is the batch and event shape of `fn`, with no event
        dimension; None if `fn` is not declared as such a product by `.to_event`.

    Example:
        >>> import pyro.distributions as dist
        >>> univariate_factors(dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)).batch_shape
        torch.Size([5, 2])
        >>> univariate_factors(dist.MultivariateNormal(torch.zeros(2), torch.eye(2))) is None
        True
    """
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return None if fn.event_shape else fn


def unmasked(fn: Any) -> Any:
    """Return a distribution without its `.mask(mask)`."""
    if isinstance(fn, MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        return Independent(unmasked(fn.base_dist), fn.reinterpreted_batch_ndims)
    return fn
