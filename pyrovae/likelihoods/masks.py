r"""Likelihoods of data with missing entries: bounds are on the log-density of the observed ones.

    log p(x_obs, z) = log p(z) + sum over observed i of log p(x_i | z)

The programs take a boolean mask of the shape of x, True where an entry is observed, as their last
context. Missing entries hold any value of the likelihood's domain, by convention 0 (1/2 for
`Beta`); it is not read. `fill_missing` returns such x and mask from data with NaN.
"""

from __future__ import annotations

from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor
from torch import distributions as td

from pyrovae.distributions.columns import JointColumns
from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets.inputs import rows_of, split_mask

__all__ = ["Masked", "fill_missing"]


@final
class Masked(Likelihood):
    r"""Score the observed entries only, $\log p(x_{obs} | z) = \sum_i m_i \log p(x_i | z)$.

    The mask m [N, D] is the last context; the wrapped likelihood takes the context before it. The
    entries must be independent given z. Samples are complete: the mask does not apply to them.
    Bounds are valid only if the guide does not depend on the missing entries either: wrap its
    network in `nets.HideMissing`.

    Args:
        likelihood: the likelihood of complete data.

    Raises:
        ValueError: if the last context is not a boolean mask of the shape of x, or the entries
            are not independent given z.

    References:
        Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete
        Data Sets.
        Nazabal, Olmos, Ghahramani, Valera, 2020. Handling Incomplete Heterogeneous Data using
        VAEs.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, HideMissing
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Masked(pv.likelihoods.Normal(MLP(2, 16, 3))),
        ...     guide=pv.guides.MeanFieldNormal(HideMissing(MLP(3, 16, 2 * 2))),
        ... )
        >>> x, mask = pv.likelihoods.fill_missing(torch.tensor([[1.0, float("nan"), 0.5]]))
        >>> pv.log_weights(vae, x, mask, particles=4).shape
        torch.Size([4, 1])
    """

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        if not isinstance(likelihood, Likelihood):
            raise ValueError(
                f"Masked takes a pyrovae.likelihoods.Likelihood; got {type(likelihood).__name__}. "
                "In your own program, use dist.Normal(...).mask(mask).to_event(1)"
            )
        self.likelihood = likelihood
        self.domain = likelihood.domain

    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z) with the missing entries masked."""
        complete = self.likelihood.observation(z, *context[:-1])
        rows = rows_of(complete.batch_shape, context)
        _, mask = split_mask(context, (*rows, *complete.event_shape), "Masked")
        return _masked(complete, mask)


def fill_missing(x: Tensor, *, value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return x with every NaN replaced by `value`, and the mask of observed entries.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import fill_missing
        >>> x, mask = fill_missing(torch.tensor([[1.0, float("nan")]]))
        >>> x, mask
        (tensor([[1., 0.]]), tensor([[ True, False]]))
    """
    mask = ~x.isnan()
    return torch.where(mask, x, value), mask


def _masked(complete: Any, mask: Tensor) -> dist.Distribution:
    if isinstance(complete, JointColumns):
        return complete.each(lambda part, columns: _masked(part, mask.index_select(-1, columns)))
    if not isinstance(complete, td.Independent) or complete.base_dist.event_shape:
        raise ValueError(
            "Masked takes a likelihood with independent entries given z; got the joint "
            f"distribution {type(complete).__name__} of event shape {tuple(complete.event_shape)}"
        )
    declared: dist.Distribution = complete.base_dist.mask(mask).to_event(len(complete.event_shape))
    return declared
