"""A causal transformer over a sequence of codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.nets.blocks import Residual
from pyrovae.parts import Part

__all__ = ["CausalTransformer", "attention_blocks"]


class CausalTransformer(Part):
    r"""Map T codes to logits of each one, given the codes before it, $f_t(k_{<t})$.

    The embedded codes are shifted by one place, a learned bias is added at each place, and
    residual blocks of masked attention and of two linear layers follow, each after a layer
    normalization. Every earlier code is seen.

    Args:
        size: T.
        codes: the number K of codes.
        channels: the width of the hidden layers, a multiple of `heads`.
        heads: the number of attention heads.
        blocks: the number of residual blocks of each kind.

    Raises:
        ValueError: if a size is below 1, there are fewer than two codes, the width is no multiple
            of the number of heads, or the input has another length.

    References:
        Vaswani et al., 2017. Attention Is All You Need.
        Esser, Rombach, Ommer, 2021. Taming Transformers for High-Resolution Image Synthesis (as a
        prior of codes).

    Example:
        >>> import torch
        >>> from pyrovae.nets import CausalTransformer
        >>> net = CausalTransformer(49, 256)
        >>> net(torch.zeros(5, 3, 49, dtype=torch.long)).shape
        torch.Size([5, 3, 49, 256])
    """

    def __init__(
        self, size: int, codes: int, *, channels: int = 64, heads: int = 4, blocks: int = 2
    ) -> None:
        super().__init__()
        if min(size, channels, heads, blocks) < 1 or codes < 2 or channels % heads:
            raise ValueError(
                "CausalTransformer takes at least one place, block and head, at least two codes, "
                f"and channels that are a multiple of the heads; got size={size}, codes={codes}, "
                f"channels={channels}, heads={heads}, blocks={blocks}"
            )
        self.size, self.codes = size, codes
        self.embedding = nn.Embedding(codes, channels)
        self.places = nn.Parameter(0.1 * torch.randn(size, channels))
        layers = attention_blocks(size, channels, heads=heads, blocks=blocks)
        self.layers = nn.Sequential(*layers, nn.LayerNorm(channels), nn.Linear(channels, codes))

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes [..., T] to logits [..., T, K]."""
        if codes.shape[-1] != self.size:
            raise ValueError(
                f"CausalTransformer takes {self.size} codes; got shape {tuple(codes.shape)}: make "
                f"it for size={codes.shape[-1]}"
            )
        before = nn.functional.pad(self.embedding(codes[..., :-1]), (0, 0, 1, 0))
        logits: Tensor = self.layers(before + self.places)
        return logits


def attention_blocks(size: int, channels: int, *, heads: int, blocks: int) -> list[nn.Module]:
    """Return residual blocks of masked attention and of two linear layers, for up to T places.

    Each block follows a layer normalization, and maps [..., T, C] to [..., T, C].
    """
    layers: list[nn.Module] = []
    for _ in range(blocks):
        layers.append(Residual(_Attention(size, channels, heads)))
        wide = nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        layers.append(Residual(nn.Sequential(nn.LayerNorm(channels), *wide)))
    return layers


class _Attention(nn.Module):
    """Attend to the places up to each place, itself included."""

    later: Tensor

    def __init__(self, size: int, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.normalize = nn.LayerNorm(channels)
        # Without a bias: that of the keys would have no gradient but rounding.
        self.joint = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)
        later = torch.ones(size, size, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., T, C] to [..., T, C]."""
        parts = self.joint(self.normalize(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.transpose(-4, -2).unbind(-3)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        later = self.later[: x.shape[-2], : x.shape[-2]]
        shares = scores.masked_fill(later, -torch.inf).softmax(-1)
        found: Tensor = self.out((shares @ value).transpose(-2, -3).flatten(-2))
        return found
