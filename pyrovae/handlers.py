"""Effect handlers that change what a program is trained on, never what is reported of it.

A handler scales the log-probabilities that an objective sees. `log_weights`, and with it every
reported number, reads unscaled log-probabilities and so never sees it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample


class kl_weight(Messenger):  # noqa: N801  (handlers are lower-case, as Pyro's own are)
    r"""Weigh the Kullback-Leibler term, $E_q \log p(x | z) - \beta\, KL(q(z | x) \| p(z))$.

    Wrap both programs: the log-probability of every latent site is multiplied by beta in the
    model and in the guide alike.

    Args:
        beta: 0 or more; 1 is the ELBO.

    Raises:
        ValueError: if beta is negative.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space (annealing).
        Higgins et al., 2017. beta-VAE.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> with pyro.poutine.trace() as tape, kl_weight(0.5):
        ...     _ = pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> tape.trace.nodes["z"]["scale"]
        tensor(0.5000)
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self._beta = torch.tensor(0.0)
        self.beta = beta

    @property
    def beta(self) -> float:
        """The weight now."""
        return self._beta.item()

    @beta.setter
    def beta(self, value: float) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"a KL weight is 0 or more, and finite; got {value}")
        # In place, so that a step that was compiled with the tensor sees the new value.
        self._beta.fill_(value)

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self._beta
