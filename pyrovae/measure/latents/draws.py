"""Draws of the latents from the guide and the prior, with their log-densities under the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyrovae.measure.findings import Number
from pyrovae.measure.latents.aggregate_posterior import Posterior
from pyrovae.measure.latents.sites import (
    Values,
    alike,
    drawn,
    latent_values,
    score_model,
)
from pyrovae.measure.progress import concatenated
from pyrovae.weights.bounds import Estimate, students_factor
from pyrovae.weights.given import Given
from pyrovae.weights.traces import Program

__all__ = ["LatentDraws", "draw_latents", "two_stage"]


@dataclass(frozen=True)
class LatentDraws:
    """K draws of the latents for each of M data, from the guide and the prior, in nats.

    Attributes:
        values: the guide's draws by site, [K, M, ...].
        own: log q(z_m | x_m) of all sites, then of each dimension, [K, M, 1 + D].
        log_prior: log p(z_m), [K, M].
        log_likelihood: log p(x_m | z_m), [K, M].
        swapped: log p(x_m | z) at the draws of the datum that m is paired with, [K, M].
        prior_values: the prior's draws by site, [K, M, ...].
        prior_density: log p(z) at the prior's draws, [K, M].
        prior_likelihood: log p(x_m | z) at the prior's draws, [K, M].
    """

    values: Values
    own: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    swapped: Tensor
    prior_values: Values
    prior_density: Tensor
    prior_likelihood: Tensor

    def first(self, data: int) -> LatentDraws:
        """Return the draws for the first data."""
        return LatentDraws(**pytree.tree_map(lambda value: value[:, :data], vars(self)))

    def cost_of_swapping(self) -> Number:
        """Return the mean loss of log p(x | z) when z is another datum's.

        The losses of two paired data are dependent, so the error is computed over pairs, widened
        for few (see `bounds.students_factor`).
        """
        lost = (self.log_likelihood - self.swapped).double().mean(0)
        pairs = lost[: len(lost) // 2 * 2].reshape(-1, 2).mean(1)
        found = Estimate(pairs, torch.full_like(pairs, math.nan))
        return Number(found.mean, found.error_over_data)

    def spread(self, population: int) -> Number:
        """Return the mean absolute difference of log p(x | z) between two draws of the prior.

        Args:
            population: N, the number of data that these M were sampled from.
        """
        two = self.prior_likelihood[: len(self.prior_likelihood) // 2 * 2]
        return two_stage((two[::2] - two[1::2]).abs(), population)


def draw_latents(
    model: Program, posterior: Posterior, particles: int, given: Given
) -> LatentDraws:
    """Draw K latents for each datum, and score them.

    Data 0 and 1 are paired, data 2 and 3, and so on: `swapped` exchanges the draws of a pair.

    Raises:
        ValueError: if the prior depends on the context.
    """
    size = max(2, given.per_pass(particles) // 2 * 2)
    pieces = [_draw(model, posterior, particles, part) for part in given.cut(size)]
    return LatentDraws(**concatenated([vars(piece) for piece in pieces], dim=1))


def two_stage(values: Tensor, population: float) -> Number:
    r"""Return the mean of values [K, M] of M data sampled at random from N, with its errors.

    The error over data treats the M data as independent, widened for small M (see
    `bounds.students_factor`). The error over particles conditions on the N data. Its variance is
    that of two-stage sampling, of M data and of K draws for each,

    $$ (1 - f) \frac{s_b^2}{M} + f \frac{s_w^2}{M K}, \qquad f = M / N, $$

    with the variances $s_b^2$ of the means of the data and $s_w^2$ within a datum.

    Args:
        values: one row per draw, [K, M].
        population: N, the number of data sampled from; infinite for independent draws.

    References:
        Cochran, 1977. Sampling Techniques, section 10.4.

    Example:
        >>> number = two_stage(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), population=2)
        >>> number.mean, round(number.error_over_data, 1), number.error_over_particles
        (1.5, 9.7, 0.5)
    """
    values = values.double()
    draws, data = values.shape
    between = values.mean(0).var().item() / data
    within = values.var(0).mean().item() / (data * draws) if draws > 1 else math.nan
    share = data / population
    left = share * within + ((1 - share) * between if share < 1 else 0.0)
    over_data = students_factor(data) * math.sqrt(between)
    return Number(values.mean().item(), over_data, math.sqrt(left))


def _draw(model: Program, posterior: Posterior, particles: int, given: Given) -> LatentDraws:
    """Draw and score the latents of one pass."""
    trace = drawn(posterior.guide, particles, *given)
    values = latent_values(trace)
    from_prior = drawn(model, particles, *given)
    prior_values = {name: from_prior.nodes[name]["value"] for name in values}
    log_prior, log_likelihood = score_model(model, values, *given)
    _check_prior(model, values, log_prior, given)
    _, swapped = score_model(model, _swapped(values), *given)
    prior_density, prior_likelihood = score_model(model, prior_values, *given)
    return LatentDraws(
        values=values,
        own=posterior.log_q(trace, values),
        log_prior=log_prior,
        log_likelihood=log_likelihood,
        swapped=swapped,
        prior_values=prior_values,
        prior_density=prior_density,
        prior_likelihood=prior_likelihood,
    )


def _check_prior(model: Program, values: Values, log_prior: Tensor, given: Given) -> None:
    """Check that the prior does not depend on the context.

    Raises:
        ValueError: if the prior of a datum differs from that of its neighbor.
    """
    neighbors = given.mapped(lambda value: value.roll(1, 0), context_alone=True)
    if given.context and not alike(log_prior, score_model(model, values, *neighbors)[0]):
        raise ValueError(
            f"the prior of {list(values)} depends on the context, so there is no single prior to "
            "compare the aggregate posterior with: measure the data of one context at a time"
        )


def _swapped(values: Values) -> Values:
    """Exchange the values of paired data; a last datum without a partner keeps its own."""
    size = next(iter(values.values())).shape[1]
    partner = torch.arange(size) ^ 1
    partner[partner == size] = size - 1
    return {name: value[:, partner] for name, value in values.items()}
