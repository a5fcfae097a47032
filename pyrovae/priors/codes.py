"""Priors over codes: independent, uniform or learned, and autoregressive.

The site "z" holds the vectors of codes, and its density is the probability of the codes. Prior
and guide share the quantizer, which turns one into the other.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.codes import CodeVectors, TokenChain, sum_levels
from pyrovae.nets import CausalTransformer, Quantizer
from pyrovae.parts import Part

__all__ = ["AutoregressiveCodes", "Codes"]


class _CodePrior(Part):
    """Sample the vectors of codes at a site "z", and return the sum over their levels."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        if not isinstance(quantizer, Quantizer):
            raise ValueError(
                f"{type(self).__name__} takes the quantizer of the guide, such as "
                f"guide.quantizer or a pyrovae.nets.Codebook; got {type(quantizer).__name__}"
            )
        self.quantizer = quantizer

    def tokens(self) -> Any:
        """Return p(k), with event shape [T]."""
        raise NotImplementedError

    def distribution(self, *context: Tensor) -> dist.Distribution:
        """Return p(z), with event shape [T * D]; the context is ignored."""
        return CodeVectors(self.quantizer, self.tokens())

    def forward(self, *context: Tensor) -> Tensor:
        """Sample codes and return their vectors [..., D * M], summed over the levels."""
        z = pyro.sample("z", self.distribution(*context))
        return sum_levels(z, self.quantizer)


class Codes(_CodePrior):
    r"""Independent codes at each of M positions, $p(k) = \prod_{m,r} \pi_{m,r,k_{m,r}}$.

    They are uniform, $\pi = 1 / K$, or learned for each position and level. To learn them after
    the codes, freeze the guide, `vae.posterior.requires_grad_(False)`, and fit
    `VAE(Codes(quantizer, M, learned=True), vae.likelihood, vae.posterior)`.

    Args:
        quantizer: the guide's, with K codes in each of R levels.
        positions: M.
        learned: whether the probabilities are learned; they are uniform at the start.

    Raises:
        ValueError: if there is no position, or the quantizer is none.

    References:
        van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> book = pv.nets.Codebook(32, 4)
        >>> vae = pv.VAE(
        ...     prior=pv.priors.Codes(book, positions=5),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(5 * 4, 16, 64)),
        ...     guide=pv.guides.VectorQuantized(pv.nets.MLP(64, 16, 5 * 4), book),
        ... )
        >>> vae.sample(3).shape
        torch.Size([3, 64])
    """

    logits: Tensor

    def __init__(self, quantizer: Quantizer, positions: int, *, learned: bool = False) -> None:
        super().__init__(quantizer)
        if positions < 1:
            raise ValueError(f"Codes needs at least one position; got {positions}")
        logits = torch.zeros(positions * quantizer.depth, quantizer.codes)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def tokens(self) -> Any:
        """Return p(k), with event shape [M R]."""
        return dist.Categorical(logits=self.logits).to_event(1)


class AutoregressiveCodes(_CodePrior):
    r"""Codes that depend on those before them, $p(k) = \prod_t p(k_t | k_{<t})$.

    The rate -log p(k) has no gradient in the codes, so that a prior trained along with them
    only follows them. To train it after them, freeze the guide,
    `vae.posterior.requires_grad_(False)`, and fit
    `VAE(AutoregressiveCodes(quantizer, net), vae.likelihood, vae.posterior)`.

    Args:
        quantizer: the guide's.
        net: maps codes [..., T] to logits [..., T, K], with T = M R: the R codes of a position
            are consecutive.

    Raises:
        ValueError: if the network is for another number of codes, or for part of a position.

    References:
        van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> book = pv.nets.Codebook(32, 4)
        >>> prior = pv.priors.AutoregressiveCodes(book, pv.nets.CausalTransformer(49, 32))
        >>> with pyro.plate("data", 3):
        ...     prior().shape
        torch.Size([3, 196])
    """

    def __init__(self, quantizer: Quantizer, net: CausalTransformer) -> None:
        super().__init__(quantizer)
        if net.codes != quantizer.codes or net.size % quantizer.depth:
            raise ValueError(
                f"the quantizer has {quantizer.codes} codes in {quantizer.depth} levels at each "
                f"position; got a network for {net.size} tokens of {net.codes} codes: give it "
                "the same number of codes, and all levels of each position"
            )
        self.net = net

    def tokens(self) -> Any:
        """Return p(k), with event shape [T]."""
        return TokenChain(self.net)
