r"""Compute the log-weights of K particles for each datum, in passes of bounded memory.

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)        shape [K particles, N data]

The particles are a plate of size K at dim -2, left of the plate over data at dim -1. A discrete
site with `infer={"enumerate": "parallel"}` in the model or the guide is summed out exactly,

    log_w = log sum_c p(x, z_c, c) / q(z_c | x, c)
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrovae.types import ContextValue, Target
from pyrovae.weights.given import Given
from pyrovae.weights.pair import Terms
from pyrovae.weights.passes import check_request, cut, over_passes
from pyrovae.weights.run import LOG_W, TERMS, Runner, run
from pyrovae.weights.target import programs_and_data

__all__ = ["iterate_log_weights", "log_weight_terms", "log_weights"]


def log_weights(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    chunk: int | None = None,
    runner: Runner | None = None,
) -> Tensor:
    r"""Sample K particles per datum from the guide and return their log-weights, [K, N] in nats.

    $$ \log w_{kn} = \log p(x_n, z_{kn}) - \log q(z_{kn} | x_n), \qquad z_{kn} \sim q(z | x_n) $$

    Args:
        target: a VAE, or a pair (model, guide) of Pyro programs of (x, *context). The model
            observes x in a plate over data at dim -1. The guide samples every latent of the
            model. The two may also be given as two arguments, `log_weights(model, guide, x, ...)`.
        x: data [N, ...], a tensor or any array that `fit` takes; a sparse matrix becomes dense.
        *context: further arguments. A tensor with N rows is cut along with x, unless test runs
            of the programs show that all data share it.
        particles: K.
        chunk: the largest number of pairs (particle, datum) in one pass, which bounds the memory.
            The random draws at a seed depend on it. Data are split first, so the guide's network
            runs once per datum unless K exceeds the chunk. By default it adapts to the size of x.
        runner: the function that runs a pass: `run`, or a `CompiledRun` to be reused.

    Raises:
        ValueError: if data are empty or not finite, there is less than one particle, only one of
            the programs samples a latent, or a site is outside the plate over data or has a batch
            shape other than [K, N]. The error names the site.

    References:
        Burda, Grosse, Salakhutdinov, 2016. Importance Weighted Autoencoders.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> pv.log_weights(vae, torch.zeros(5, 64), particles=100).shape
        torch.Size([100, 5])
    """
    pair, x, context = programs_and_data(target, x, context)
    given = Given(x, context, pair)
    log_w: Tensor = over_passes(given, particles, chunk=chunk, runner=runner or run, read=LOG_W)
    return log_w


def log_weight_terms(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    chunk: int | None = None,
    runner: Runner | None = None,
) -> Terms:
    """Return the terms of the log-weights by site, [K, N] each, in nats.

    Arguments and errors are as of `log_weights`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> terms = pv.weights.log_weights.log_weight_terms(vae, torch.zeros(5, 64), particles=3)
        >>> terms.prior["z"].shape
        torch.Size([3, 5])
    """
    pair, x, context = programs_and_data(target, x, context)
    given = Given(x, context, pair)
    terms: Terms = over_passes(given, particles, chunk=chunk, runner=runner or run, read=TERMS)
    return terms


def iterate_log_weights(
    target: Target,
    x: Tensor,
    *context: ContextValue,
    particles: int,
    chunk: int,
    runner: Runner | None = None,
) -> Iterator[Tensor]:
    """Yield log-weights [K_i, N] with K_i N <= chunk, for bounds with very large K.

    `bounds.streaming_log_mean_exp` reduces them with memory that does not grow with K. Arguments
    are as of `log_weights`.

    Raises:
        ValueError: as `log_weights`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.zeros(5, 64)
        >>> rows = pv.weights.log_weights.iterate_log_weights(vae, x, particles=100, chunk=50)
        >>> pv.bounds.streaming_log_mean_exp(rows).shape
        torch.Size([5])
    """
    (model, guide), x, context = programs_and_data(target, x, context)
    check_request(x, particles, chunk)
    for rows in cut(particles, max(1, chunk // len(x))):
        count = len(rows)
        yield (runner or run)(model, guide, x, *context, particles=count, read=LOG_W)
