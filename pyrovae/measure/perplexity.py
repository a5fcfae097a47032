"""Perplexity: the number of equally likely tokens that a model would choose among at each step."""

from __future__ import annotations

import math

from pyrovae.measure.findings import NotMeasurable, Number
from pyrovae.measure.report import Report

__all__ = ["of_bits", "perplexity"]


def perplexity(report: Report) -> Number:
    r"""Return the perplexity of a token, $\exp(-\sum_n L_n / \sum_n T_n)$, with its errors.

    $L_n$ is the bound with the largest k of sequence n, and $T_n$ the number of its tokens, which
    its mask counts; so this is an upper bound. The bits of a token, its logarithm to base 2, are
    `report.bits_per_dimension()`. A text has one more token than words, its end.

    Args:
        report: the result of `evaluate`.

    Returns:
        The perplexity and its errors, to first order those of the logarithm.

    Raises:
        NotMeasurable: if x are no whole numbers, so that p(x) is a density; if no token is
            scored; or if the guide is a point mass, so that there is no bound.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space.
        Cochran, 1977. Sampling Techniques, chapter 6 (the error of a ratio).

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> report = pv.evaluate(vae, torch.zeros(5, 64), particles=100)
        >>> 1.8 < pv.perplexity(report).mean < 2.2  # untrained: a coin for each pixel
        True
    """
    reason = ""
    if not report.of_whole_numbers:
        reason = "p(x) is a density, not the probability of whole numbers"
    elif report.point_masses:
        reason = "the guide is a point mass, so that there is no bound on p(x)"
    elif not report.entries.sum():
        reason = "the mask counts no token"
    if reason:
        raise NotMeasurable(f"there is no perplexity: {reason}")
    return of_bits(report.bits_per_dimension())


def of_bits(bits: Number) -> Number:
    """Return the perplexity of a token of so many bits, with its errors to first order.

    Example:
        >>> of_bits(Number(3.0, 0.0, 0.0)).mean
        8.0
    """
    found = 2**bits.mean
    slope = found * math.log(2)
    return Number(found, slope * bits.error_over_data, slope * bits.error_over_particles)
