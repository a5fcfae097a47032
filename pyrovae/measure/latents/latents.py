r"""Latent-space diagnostics: mutual information, posterior collapse, active units and holes.

The rate is decomposed with the aggregate posterior of the data, q(z) = 1/N sum_n q(z | x_n):

    KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z))
    KL(q(z) || p(z)) = KL(q(z) || prod_j q(z_j)) + KL(prod_j q(z_j) || p(z))

on average over the data, in nats. For these N data the parts are exact up to sampling noise, and
I(x; z) is at most log N. As estimates for the population they are biased: I(x; z) is too low and
KL(q(z) || p(z)) too high. If each draw's own datum is left out of q(z), the biases have the
opposite signs, so the two values bracket the population's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pyrovae.measure.findings import Number
from pyrovae.measure.latents.active_units import PROBED, active_units, check_several
from pyrovae.measure.latents.aggregate_posterior import Mixture, Posterior, Sum, over_data
from pyrovae.measure.latents.draws import LatentDraws, draw_latents, two_stage
from pyrovae.measure.latents.latents_finding import (
    AT_LEAST,
    AT_MOST,
    CORRELATION,
    DIMENSION_WISE,
    HOLES,
    INFORMATION,
    MARGINAL,
    OUTSIDE,
    RATE,
    SPREAD,
    SWAPPED,
    LatentsFinding,
)
from pyrovae.measure.latents.sites import Values, latent_sites
from pyrovae.types import ContextValue, Program, Target
from pyrovae.weights.given import Given
from pyrovae.weights.target import Resolved

__all__ = ["Latents", "LatentsFinding"]


@dataclass(frozen=True)
class Latents:
    r"""Measure active units, mutual information, posterior collapse and holes of the latents.

    All latent sites are included, discrete ones by their draws. Quantities of single dimensions
    need sites that depend on no other site. The table has, in nats per datum,

        active units             dimensions with $Var_x(E_q[z_j | x]) > 0.01$, a threshold for
                                 priors of variance 1
        rate                     KL(q(z|x) || p(z))
        I(x; z)                  mutual information of z and the index of these data, at most log N
        I(x; z), at most         with each draw's own datum left out: above the population's
        marginal KL              KL(q(z) || p(z)) of these data, the rate minus I(x; z)
        marginal KL, at least    with each draw's own datum left out: below the population's
        total correlation        KL(q(z) || prod_j q(z_j))
        dimension-wise KL        sum_j KL(q(z_j) || p(z_j)), the rest of the marginal KL
        cost of another's z      the loss of log p(x | z) when z is another datum's
        spread over the prior    the mean absolute difference of log p(x | z) between two draws of
                                 p(z), which is 0 for a decoder that ignores z
        prior mass in holes      P_p[q(z) < hole p(z)], a probability
        aggregate mass outside   P_q[p(z) < hole q(z)], a probability

    The total correlation needs a density for every dimension; the dimension-wise KL also needs a
    factorized prior. The two lines with each draw's own datum left out are missing where they are
    infinite: where a draw is impossible under all other data, as a code is that one datum has.
    The two values of I(x; z) converge as $N \to \infty$: they are biased by half the mean of
    $Var_x(q(z|x)) / q(z)^2$ over N, with opposite signs. Errors over data are of first order. If
    q(z) equals the prior, the marginal KL and the total correlation are of second order, and the
    two values say more than their errors.

    Args:
        limit: the number of data to measure, taken from the start; None for all.
        draws: the number of draws of the aggregate posterior, at least two for each of the
            `draws // 2` data or fewer that are sampled at random. Each is scored under all data.
        hole: the ratio of densities that defines a hole. The default of 0.05 is ours.

    Raises:
        ValueError: if a setting is out of range. When called: for fewer than two data, for a prior
            that depends on the datum, and, naming the site, for a Delta or a masked site.

    References:
        Hoffman, Johnson, 2016. ELBO Surgery.
        Chen, Li, Grosse, Duvenaud, 2018. Isolating Sources of Disentanglement in VAEs.
        Poole, Ozair, van den Oord, Alemi, Tucker, 2019. On Variational Bounds of Mutual
            Information, sections 2.2 and 2.3.
        Rosca, Lakshminarayanan, Mohamed, 2018. Distribution Matching in Variational Inference.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> finding = pv.Latents(draws=100)(vae, torch.rand(20, 64).round())
        >>> print(finding.verdict[0])  # before training
        Collapsed: ...
    """

    name: ClassVar[str] = "latents"

    limit: int | None = None
    draws: int = 2000
    hole: float = 0.05

    def __post_init__(self) -> None:  # noqa: D105
        if self.draws < 4 or (self.limit is not None and self.limit < 2):
            raise ValueError(
                "expected a limit of at least 2 data and at least 4 draws, two for each of two "
                f"data; got limit={self.limit}, draws={self.draws}: raise them"
            )
        if not 0 < self.hole < 1:
            raise ValueError(
                f"expected a ratio hole between 0 and 1; got hole={self.hole}: use one such as "
                "0.05"
            )

    @torch.no_grad()
    def __call__(self, target: Target, x: Tensor, *context: ContextValue) -> LatentsFinding:
        """Measure a VAE, or a pair (model, guide), on data [N, ...].

        Raises:
            ValueError: for fewer than two data, a prior that depends on the datum, or, naming the
                site, a Delta or a masked site.
        """
        resolved = Resolved.of(target)
        whole = resolved.given(x, *context)
        model, guide = (whole.bound(program) for program in resolved.pair)
        given = whole.first(self.limit).unshared((model, guide))
        check_several(given)
        with resolved.evaluating():
            return self._measure(model, guide, given)

    def _measure(self, model: Program, guide: Program, given: Given) -> LatentsFinding:
        """Draw the latents, evaluate the aggregate posterior, and compute the table."""
        probe = given.first(PROBED)
        probe.trace(1)  # Check that the programs match.
        posterior = Posterior(guide, latent_sites(guide, *probe))
        # The first data after shuffling are a random sample.
        shuffled = given.rows(torch.randperm(len(given), device=given.x.device))
        sources = min(len(given), self.draws // 2)
        draws = draw_latents(model, posterior, self.draws // sources, shuffled.first(sources))
        mixture, of_prior = _aggregate(posterior, draws, shuffled)
        draws = draws.first(mixture.size)
        numbers = _surgery(draws, mixture)
        if posterior.complete:
            factorized = all(site.separable for site in latent_sites(model, *probe))
            numbers |= _by_dimension(draws, mixture, factorized=factorized)
        numbers |= {
            SWAPPED: draws.cost_of_swapping(),
            SPREAD: draws.spread(mixture.size),
        } | self._masses(draws, mixture, of_prior)
        return LatentsFinding(
            data=mixture.size,
            wanted=len(given),
            draws=mixture.own[..., 0].numel(),
            activity=active_units((model, guide), *given),
            numbers=numbers,
            sites=posterior.sites,
            hole=self.hole,
        )

    def _masses(self, draws: LatentDraws, mixture: Mixture, of_prior: Tensor) -> dict[str, Number]:
        """Estimate the mass of p(z) in holes of q(z), and the mass of q(z) outside p(z)."""
        log_hole = math.log(self.hole)
        missed = of_prior < log_hole + draws.prior_density
        outside = draws.log_prior < log_hole + mixture.log_density[..., 0]
        independent = two_stage(missed.reshape(1, -1), math.inf)
        return {
            HOLES: _mass(missed, independent.error_over_data),
            OUTSIDE: _mass(outside, two_stage(outside, mixture.size).error_over_particles),
        }


def _aggregate(posterior: Posterior, draws: LatentDraws, given: Given) -> tuple[Mixture, Tensor]:
    """Return log q(z) at the guide's draws, as a mixture, and at the prior's draws, [K, M]."""
    particles, sources = draws.log_prior.shape
    owners = torch.arange(sources, device=given.x.device).repeat(particles)
    at_draws = Sum(posterior, _rows(draws.values), owners)
    joint = replace(posterior, by_dimension=False)
    at_prior = Sum(joint, _rows(draws.prior_values), torch.full_like(owners, -1))
    (others, of_prior), size = over_data([at_draws, at_prior], given)
    others = others.reshape(particles, sources, -1)[:, :size]
    of_prior = of_prior.reshape(particles, sources)[:, :size] - math.log(size)
    return Mixture(draws.own[:, :size].double(), others, size), of_prior


def _rows(values: Values) -> Values:
    """Reshape values [K, M, ...] to particles [K M, 1, ...]."""
    return {name: value.reshape(-1, 1, *value.shape[2:]) for name, value in values.items()}


def _surgery(draws: LatentDraws, mixture: Mixture) -> dict[str, Number]:
    """Decompose the rate into mutual information and marginal KL, with bounds of each."""
    own, joint = mixture.own[..., 0], mixture.log_density[..., 0]
    others, log_prior = mixture.log_density_of_others[..., 0], draws.log_prior
    parts = {
        RATE: own - log_prior,
        INFORMATION: own - joint,
        AT_MOST: own - others,
        MARGINAL: joint - log_prior,
        AT_LEAST: others - log_prior,
    }
    found = {name: two_stage(part, mixture.size) for name, part in parts.items()}
    # A code that one datum alone has is impossible under all others: there is no such bound.
    none = [name for name in (AT_MOST, AT_LEAST) if math.isinf(found[name].mean)]
    return {name: number for name, number in found.items() if name not in none}


def _by_dimension(draws: LatentDraws, mixture: Mixture, *, factorized: bool) -> dict[str, Number]:
    """Decompose the marginal KL into total correlation and, for a product prior, dimensions."""
    product = mixture.log_density[..., 1:].sum(-1)
    parts = {CORRELATION: mixture.log_density[..., 0] - product}
    if factorized:
        parts[DIMENSION_WISE] = product - draws.log_prior
    return {name: two_stage(part, mixture.size) for name, part in parts.items()}


def _mass(inside: Tensor, error: float) -> Number:
    """Return a share of draws; if all agree, its error is that of one draw."""
    return Number(inside.double().mean().item(), error_over_particles=error or 1 / inside.numel())
