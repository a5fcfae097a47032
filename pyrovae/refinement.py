r"""Semi-amortised inference: optimise each datum's posterior from where the network starts it.

    lambda_n = argmax ELBO(x_n, q_lambda),        lambda_n starts at net(x_n)

What an amortised posterior loses has two parts: its family may not hold the exact posterior, and
its network may not give the best member of the family. Refinement removes the second and leaves
the model as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae.vae import VAE, evaluation_mode
from pyrovae.weights import log_weights

Family = Callable[[Tensor], dist.Distribution]

PARTICLES: Final = 8
"""How many draws estimate the gradient of a step."""


def refine(vae: VAE, x: Tensor, *context: Any, steps: int = 100, lr: float = 0.05) -> Refined:
    r"""Optimise the posterior of each datum within its own family; leave the VAE as it is.

    Adam ascends the ELBO of each datum in what the guide's network would have returned for it,
    $\lambda_n$, with a step size that falls from `lr` to 0 by half a cosine.

    Args:
        vae: its guide has one site "z", a network `net` and a method `posterior(parameters)`
            whose distribution draws by reparameterisation, as most of `pyrovae.guides`.
        x: data [N, ...].
        *context: what the programs take beside x. A tensor with N rows has one for each datum.
        steps: how many steps to take.
        lr: the size of the first step, in the units of the network's output.

    Returns:
        The guide of these data, to measure with `vae.model`.

    Raises:
        ValueError: if the guide is of another kind, `steps` below 1 or `lr` not positive.

    References:
        Kim, Wiseman, Miller, Sontag, Rush, 2018. Semi-Amortized Variational Autoencoders.
        Cremer, Li, Duvenaud, 2018. Inference Suboptimality in Variational Autoencoders.

    Example:
        >>> import pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Normal(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> x = torch.randn(5, 64)
        >>> guide = refine(vae, x, steps=10)
        >>> log_weights(vae.model, guide, x, particles=100).shape
        torch.Size([100, 5])
    """
    if steps < 1 or not 0 < lr < math.inf:
        raise ValueError(
            f"refinement takes at least one step of a positive size; got steps={steps}, lr={lr}"
        )
    net, posterior = _network_and_family(vae.posterior)
    with evaluation_mode(vae), torch.no_grad():
        parameters = net(x, *context).clone()
    if not posterior(parameters).has_rsample:
        raise ValueError(
            "refinement follows the gradient through the draws; the guide's "
            f"{type(posterior(parameters)).__name__} has none: refine a relaxed posterior"
        )
    guide = Refined(posterior, parameters.requires_grad_(), x, *context)
    optimizer = torch.optim.Adam([parameters], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with evaluation_mode(vae), torch.enable_grad():
        for _ in range(steps):
            log_w = log_weights(vae.model, guide, x, *context, particles=PARTICLES)
            (parameters.grad,) = torch.autograd.grad(-log_w.mean(0).sum(), parameters)
            optimizer.step()
            schedule.step()
    parameters.requires_grad_(requires_grad=False).grad = None
    return guide


class Refined:
    """The guide that `refine` returns: a Pyro program of the data it was made for, and no others.

    Called with those data, or with some of their rows in any order, it samples the site "z" in a
    plate over them; so `log_weights` may cut the data into pieces.

    Attributes:
        parameters: what stands in place of the network's output, [N, P].
    """

    def __init__(self, posterior: Family, parameters: Tensor, x: Tensor, *context: Any) -> None:
        self.parameters = parameters
        self._posterior = posterior
        self._per_datum = [
            isinstance(value, Tensor) and value.shape[:1] == x.shape[:1] for value in context
        ]
        self._rows = {key: row for row, key in enumerate(self._keys(x, *context))}

    def __call__(self, x: Tensor, *context: Any) -> Tensor:
        """Sample z from the refined posterior of each row of x.

        Raises:
            ValueError: if a row of x and its context is none that was refined.
        """
        rows = [self._rows.get(key) for key in self._keys(x, *context)]
        if None in rows:
            raise ValueError(
                f"the guide was refined for {len(self.parameters)} data, and row "
                f"{rows.index(None)} of the {len(x)} given, with its context, is none of them: "
                "call refine(vae, x, *context) for these"
            )
        with pyro.plate("data", len(x), dim=-1):
            z: Tensor = pyro.sample("z", self._posterior(self.parameters[rows]))
        return z

    def _keys(self, x: Tensor, *context: Any) -> list[bytes]:
        """Return what tells one datum from another: its row of x and of each tensor beside it."""
        given = zip(self._per_datum, context, strict=True)
        columns = [x, *(value for per_datum, value in given if per_datum)]
        flat = [column.detach().double().cpu().reshape(len(x), -1) for column in columns]
        return [row.tobytes() for row in torch.cat(flat, dim=1).numpy()]


def _network_and_family(guide: Any) -> tuple[Any, Family]:
    net, posterior = getattr(guide, "net", None), getattr(guide, "posterior", None)
    if not (callable(net) and callable(posterior)):
        raise ValueError(
            "refinement needs a guide with a network `net` and a method `posterior(parameters)`, "
            f"such as guides.MeanFieldNormal; got {type(guide).__name__}"
        )
    return net, posterior
