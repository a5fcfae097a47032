r"""Filtering bounds for sequences: the logarithm of a particle filter's estimate of p(x)."""

from __future__ import annotations

import functools
from typing import Any, final

from torch import Tensor

from pyrovae.objectives.base import Loss
from pyrovae.types import Program
from pyrovae.weights.filtering import StateSpace, filter_particles

__all__ = ["FIVO"]


@final
class FIVO(Loss):
    r"""Maximize the filtering bound $E[\log \hat p(x)]$, $\hat p$ from a filter of K particles.

    $$ \hat p(x) = \prod_t \frac{1}{K} \sum_k
       \frac{p(z_t^k | z_{t-1}^k)\, p(x_t | z_t^k)}{q(z_t^k | z_{t-1}^k, x)} $$

    With `likelihoods.LinearStates` the filter is Rao-Blackwellized: p(x_t | z_t) is then
    p(x_t | z_1:t, x_<t), by the Kalman filter of each particle. With one particle the bound is
    the ELBO. A KL weight is the exponent of p(z) / q(z). The gradient
    leaves out the terms of the resampling, as the paper recommends: it is biased, with a much
    smaller variance.

    Args:
        particles: K.

    Raises:
        ValueError: if there is no particle; in a step, if the programs are no state-space model,
            the steps of the guide are not reparameterized, or a handler adds a factor, as
            `free_bits` and `capacity` do.

    References:
        Maddison, Lawson, Tucker, Heess, Norouzi, Mnih, Doucet, Teh, 2017. Filtering Variational
            Objectives.
        Le, Igl, Rainforth, Jin, Wood, 2018. Auto-Encoding Sequential Monte Carlo.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP, BackwardGRU
        >>> vae = pv.VAE(
        ...     pv.priors.Markov(MLP(2, 8, 2 * 2), 2),
        ...     pv.likelihoods.EachStep(pv.likelihoods.Bernoulli(MLP(2, 8, 5))),
        ...     pv.guides.Combiner(BackwardGRU(5, 8), MLP(2 + 8, 8, 2 * 2), 2),
        ... )
        >>> x, mask = torch.ones(20, 6, 5), torch.ones(20, 6, dtype=torch.bool)
        >>> step = pv.Step(loss=pv.objectives.FIVO(4), compile=False)
        >>> history = pv.fit(vae, (x, mask), epochs=2, step=step, callbacks=[])
        >>> history.column("loss")[1] < history.column("loss")[0]
        True
    """

    def __init__(self, particles: int) -> None:
        if particles < 1:
            raise ValueError(f"a filter needs at least one particle; got {particles}")
        super().__init__(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)

    def __str__(self) -> str:  # noqa: D105
        return f"FIVO, {self.num_particles} particles"

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss as a scalar tensor with a gradient, in nats, summed over data."""
        space = StateSpace.of(_with(model, kwargs), _with(guide, kwargs), *args)
        if not space.guide.has_rsample:
            raise ValueError(
                "FIVO trains guides whose steps are reparameterized (has_rsample); those of this "
                "one are not, and would get no gradient. Use continuous latents, or Trace_ELBO"
            )
        if space.factors:
            raise ValueError(
                f"FIVO weighs z and x step by step, and knows no place for {list(space.factors)}, "
                "the factor of free_bits or capacity: remove the handler, or train by IWAE"
            )
        found = filter_particles(space, self.num_particles, kl_weight=space.kl_weight)
        loss: Tensor = -(space.scale * found.log_z).sum()
        return loss

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("this objective runs the programs step by step")


def _with(program: Program, kwargs: dict[str, Any]) -> Program:
    return functools.partial(program, **kwargs) if kwargs else program
