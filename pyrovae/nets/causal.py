r"""Causal networks: vectors $h_t = f(x_{<t}, z)$ of the steps of a sequence.

They take the steps so far, [..., t, *event], and return t + 1 vectors, the last of which is of the
step that comes next; without any step (x is None) they return that of the first. No step is read
by its own vector, so that `likelihoods.Autoregressive` scores all steps in one pass and draws them
in turn. Each step becomes a vector first: `EmbedTokens` does so for tokens, an `MLP` for others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.nets.heads import join
from pyrovae.nets.sequences import step_mask
from pyrovae.nets.transformer import attention_blocks
from pyrovae.parts import Part

__all__ = ["CausalAttention", "CausalGRU", "EmbedTokens", "EncodeSequence", "WordDropout"]


class EmbedTokens(Part):
    """Map tokens to learned vectors, one after the other where a step has several tokens.

    Args:
        classes: the number of tokens; they are 0, ..., `classes` - 1, as floats or integers.
        channels: the width of the vector of a token.

    Raises:
        ValueError: for fewer than two tokens, or no channel.

    Example:
        >>> import torch
        >>> from pyrovae.nets import EmbedTokens
        >>> EmbedTokens(30, 16)(torch.zeros(5, 7, 1)).shape
        torch.Size([5, 7, 16])
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        if classes < 2 or channels < 1:
            raise ValueError(
                "EmbedTokens takes at least two tokens and one channel; got "
                f"classes={classes}, channels={channels}"
            )
        self.embedding = nn.Embedding(classes, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [..., D] to vectors [..., D * channels]."""
        vectors: Tensor = self.embedding(x.long()).flatten(-2)
        return vectors


class WordDropout(Part):
    """Hide steps at random in training: their vectors become zero.

    A decoder that does not see every word before has to ask the latents for them. All steps are
    seen in evaluation mode, and wherever no gradients are recorded, as when a sequence is drawn.

    Args:
        net: embeds each step by itself, such as `EmbedTokens`.
        probability: that a step is hidden, from 0 to 1.

    Raises:
        ValueError: if the probability is none.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space.

    Example:
        >>> import torch
        >>> from pyrovae.nets import EmbedTokens, WordDropout
        >>> embed = WordDropout(EmbedTokens(30, 16), 1.0)
        >>> embed(torch.zeros(2, 1)).any().item(), embed.eval()(torch.zeros(2, 1)).any().item()
        (False, True)
    """

    def __init__(self, net: nn.Module, probability: float) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"WordDropout takes a probability, from 0 to 1; got {probability}")
        self.net, self.probability = net, probability

    def forward(self, x: Tensor) -> Tensor:
        """Map steps to vectors [..., T, C], some of them zero in training."""
        vectors: Tensor = self.net(x)
        if not (self.training and torch.is_grad_enabled()):
            return vectors
        kept = torch.rand(vectors.shape[:-1], device=vectors.device) >= self.probability
        return vectors * kept.unsqueeze(-1)


class CausalGRU(Part):
    r"""Read the steps before each one by a recurrent network that knows the latents.

    $$ h_t = \mathrm{GRU}(h_{t-1}, [e(x_{t-1}), z]), \quad h_0 = \tanh(W z + b) $$

    A compiled step unrolls the network over time, which takes long to compile and gains little:
    train it with `pv.Step(compile=False)`.

    Args:
        embed: maps steps [..., *event] to vectors [..., C].
        channels: C.
        latents: the width of z, and of context that comes with it.
        hidden: the width H of h.

    Raises:
        ValueError: if the embedding has another width, or z another width or dtype.

    References:
        Cho et al., 2014. Learning Phrase Representations using RNN Encoder-Decoder.
        Bowman et al., 2016. Generating Sentences from a Continuous Space.

    Example:
        >>> import torch
        >>> from pyrovae.nets import CausalGRU, EmbedTokens
        >>> net = CausalGRU(EmbedTokens(30, 16), 16, 2, 64)
        >>> net(torch.zeros(5, 7, 1), torch.zeros(3, 5, 2)).shape  # of 3 particles
        torch.Size([3, 5, 8, 64])
        >>> net(None, torch.zeros(5, 2)).shape
        torch.Size([5, 1, 64])
    """

    def __init__(self, embed: nn.Module, channels: int, latents: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.channels, self.latents = embed, channels, latents
        self.start = nn.Linear(latents, hidden)
        self.gru = nn.GRU(channels + latents, hidden, batch_first=True)

    def forward(self, x: Tensor | None, *given: Tensor) -> Tensor:
        """Map t steps [..., t, *event], and z and context [..., D], to h [..., t + 1, H]."""
        z = join(given, self.latents, self)
        before = _after_nothing(self.embed, x, self.channels, self)
        steps = before.shape[-2]
        lead = torch.broadcast_shapes(before.shape[:-2], z.shape[:-1])
        beside = z.unsqueeze(-2).expand(*lead, steps, -1)
        read = torch.cat([before.expand(*lead, -1, -1), beside], dim=-1)
        first = torch.tanh(self.start(z)).expand(*lead, -1)
        h, _ = self.gru(
            read.reshape(-1, steps, read.shape[-1]), first.reshape(1, -1, first.shape[-1])
        )
        return h.reshape(*lead, steps, -1)


class CausalAttention(Part):
    r"""Attend to the steps before each one, given the latents: a transformer.

    A learned bias for each place and a linear function of z are added to the vectors of the
    steps; blocks of masked attention and of two linear layers follow (see `CausalTransformer`).

    Args:
        embed: maps steps [..., *event] to vectors [..., C].
        size: the largest number of steps T.
        latents: the width of z, and of context that comes with it.
        channels: C, the width of the vectors and of h, a multiple of `heads`.
        heads: the number of attention heads.
        blocks: the number of residual blocks of each kind.

    Raises:
        ValueError: if a size is below 1, the width is no multiple of the number of heads, there
            are more steps than places, or the embedding or z has another width.

    References:
        Vaswani et al., 2017. Attention Is All You Need.

    Example:
        >>> import torch
        >>> from pyrovae.nets import CausalAttention, EmbedTokens
        >>> net = CausalAttention(EmbedTokens(30, 16), 10, 2, channels=16)
        >>> net(torch.zeros(5, 7, 1), torch.zeros(3, 5, 2)).shape  # of 3 particles
        torch.Size([3, 5, 8, 16])
    """

    def __init__(
        self,
        embed: nn.Module,
        size: int,
        latents: int,
        *,
        channels: int = 64,
        heads: int = 4,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if min(size, latents, channels, heads, blocks) < 1 or channels % heads:
            raise ValueError(
                "CausalAttention takes at least one place, latent, block and head, and channels "
                f"that are a multiple of the heads; got size={size}, latents={latents}, "
                f"channels={channels}, heads={heads}, blocks={blocks}"
            )
        self.embed, self.size, self.latents, self.channels = embed, size, latents, channels
        self.given = nn.Linear(latents, channels)
        self.places = nn.Parameter(0.1 * torch.randn(size, channels))
        layers = attention_blocks(size, channels, heads=heads, blocks=blocks)
        self.layers = nn.Sequential(*layers, nn.LayerNorm(channels))

    def forward(self, x: Tensor | None, *given: Tensor) -> Tensor:
        """Map t steps [..., t, *event], and z and context [..., D], to h [..., t + 1, C]."""
        z = join(given, self.latents, self)
        before = _after_nothing(self.embed, x, self.channels, self)
        steps = before.shape[-2]
        if steps > self.size:
            raise ValueError(
                f"CausalAttention has places for {self.size} steps; got a sequence of {steps}: "
                f"make it for size={steps}"
            )
        h: Tensor = self.layers(before + self.places[:steps] + self.given(z).unsqueeze(-2))
        return h


class EncodeSequence(Part):
    """Map a whole sequence to the numbers of a guide, by a reader from its end.

    Args:
        embed: maps steps [..., *event] to vectors [..., C].
        reader: maps vectors [N, T, C] and the mask [N, T] to h [N, T, H], of which the first has
            read all steps, such as `BackwardGRU`.
        net: maps the first h [N, H], and context before the mask, to the output.

    Raises:
        ValueError: if the context does not end in a mask of the steps.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP, BackwardGRU
        >>> from pyrovae.nets import EmbedTokens, EncodeSequence
        >>> net = EncodeSequence(EmbedTokens(30, 16), BackwardGRU(16, 64), MLP(64, 2 * 2))
        >>> net(torch.zeros(5, 7, 1), torch.ones(5, 7, dtype=torch.bool)).shape
        torch.Size([5, 4])
    """

    def __init__(self, embed: nn.Module, reader: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.embed, self.reader, self.net = embed, reader, net

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Map x [N, T, *event], context and the mask [N, T] to [N, ...]."""
        mask = step_mask(context, "EncodeSequence")
        read = self.reader(self.embed(x), mask)
        encoded: Tensor = self.net(read[:, 0], *context[:-1])
        return encoded


def _after_nothing(embed: nn.Module, x: Tensor | None, channels: int, owner: nn.Module) -> Tensor:
    """Return the vectors of the steps after one of zeros, [..., t + 1, C]."""
    if x is None:
        return next(owner.parameters()).new_zeros(1, channels)
    vectors: Tensor = embed(x)
    if vectors.shape[-1] != channels:
        raise ValueError(
            f"{type(owner).__name__} takes steps as vectors of {channels} numbers; got "
            f"{vectors.shape[-1]} of {type(embed).__name__}: give it channels="
            f"{vectors.shape[-1]}, or an embedding of that width"
        )
    return nn.functional.pad(vectors, (0, 0, 1, 0))
