r"""Guides that give one sequence of codes probability one: VQ-VAE, residual levels, FSQ.

$$ \log p(x) \ge \log p(x | k) + \log p(k), \qquad k = k(x) $$

The bound is exact arithmetic: it has no error over particles, and more particles do not tighten
it. It falls short of log p(x) by $-\log p(k | x)$.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.codes import KnownCodes
from pyrovae.guides.base import Guide
from pyrovae.nets import Lattice, Quantizer

__all__ = ["FSQ", "VectorQuantized"]


class VectorQuantized(Guide):
    r"""Replace the M vectors of width D that a network returns by their nearest codes.

    The site "z" holds the code vectors; its gradient is passed on to the network as it is
    (straight-through). The density of the codes is one, so that the ELBO is
    $\log p(x | k) + \log p(k)$. The gradient of the quantizer's penalty (commitment and codebook
    loss) is added to that of every objective, and a KL weight scales it; its value is in no
    number. Give the prior the same quantizer.

    Args:
        net: maps (x, *context) to [..., D * M], with the position in the last axis, as the
            flattened maps [D, H, W] of a convolution have it.
        quantizer: such as `nets.Codebook`.

    Raises:
        ValueError: if the quantizer is none, or the width of the network's output is no multiple
            of D.

    References:
        van den Oord, Vinyals, Kavukcuoglu, 2017. Neural Discrete Representation Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> book = pv.nets.Codebook(32, 4)
        >>> guide = pv.guides.VectorQuantized(pv.nets.MLP(64, 16, 5 * 4), book)
        >>> vae = pv.VAE(
        ...     prior=pv.priors.Codes(book, positions=5, learned=True),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(5 * 4, 16, 64)),
        ...     guide=guide,
        ... )
        >>> x = torch.rand(100, 64).round()
        >>> history = pv.fit(vae, x, epochs=1)
        >>> guide.codes(x).shape
        torch.Size([100, 5, 1])
    """

    def __init__(self, net: nn.Module, quantizer: Quantizer) -> None:
        super().__init__(net)
        if not isinstance(quantizer, Quantizer):
            raise ValueError(
                f"{type(self).__name__} takes a quantizer such as pyrovae.nets.Codebook(256, "
                f"16); got {type(quantizer).__name__}"
            )
        self.quantizer = quantizer

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return q(z | x) at the network's output [..., D * M], with event shape [R * D * M]."""
        width = self.quantizer.width
        if parameters.shape[-1] % width or not parameters.shape[-1]:
            raise ValueError(
                f"{type(self).__name__} expected a network with {width} outputs for each "
                f"position, the width of its codes; got {parameters.shape[-1]}"
            )
        vectors = parameters.unflatten(-1, (width, -1)).transpose(-1, -2)
        return KnownCodes(self.quantizer, self.quantizer.quantize(vectors))

    @torch.no_grad()
    def codes(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the codes k of data [N, ...], [N, M, R]."""
        found: Tensor = self.distribution(self.net(x, *context)).codes
        return found


class FSQ(VectorQuantized):
    r"""Round the D coordinates of each of M vectors to $L_1, \dots, L_D$ levels.

    No code is learned, so none can die, and there is no penalty. `nets.Lattice` has the equation.
    Give the prior `guide.quantizer`.

    Args:
        net: maps (x, *context) to [..., D * M], as of `VectorQuantized`.
        levels: L, such as [8, 6, 5] for 240 codes.

    Raises:
        ValueError: if there are no levels or one is below 2, or the width of the network's output
            is no multiple of D.

    References:
        Mentzer, Minnen, Agustsson, Tschannen, 2024. Finite Scalar Quantization: VQ-VAE Made
        Simple.

    Example:
        >>> import torch, pyrovae as pv
        >>> guide = pv.guides.FSQ(pv.nets.MLP(64, 16, 5 * 3), levels=[8, 6, 5])
        >>> pv.priors.Codes(guide.quantizer, positions=5).logits.shape
        torch.Size([5, 240])
    """

    def __init__(self, net: nn.Module, levels: Sequence[int]) -> None:
        super().__init__(net, Lattice(levels))
