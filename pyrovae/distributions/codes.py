r"""Distributions of code vectors: the prior's, of random codes, and the guide's, of given ones.

A value is the flat vector [R * D * M] of M positions, R levels and width D, with the position in
the last axis, as the maps of a convolution have it. Both distributions are discrete: their
densities are probabilities of codes. With a guide that gives one code sequence k probability one,

    log p(x, z) - log q(z | x) = log p(x | k) + log p(k) <= log sum_k p(x | k) p(k) = log p(x),

so the log-weight is a bound without an error over particles.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["CodeVectors", "KnownCodes", "TokenChain", "join_levels", "split_levels", "sum_levels"]


def split_levels(value: Tensor, quantizer: Any) -> Tensor:
    """Return a flat value [..., R * D * M] as vectors [..., M, R, D]."""
    return value.unflatten(-1, (quantizer.depth, quantizer.width, -1)).movedim(-1, -3)


def join_levels(vectors: Tensor) -> Tensor:
    """Return vectors [..., M, R, D] as a flat value [..., R * D * M]."""
    return vectors.movedim(-3, -1).flatten(-3)


def sum_levels(value: Tensor, quantizer: Any) -> Tensor:
    """Return the sum over levels of a flat value, [..., D * M]."""
    if quantizer.depth == 1:
        return value
    return value.unflatten(-1, (quantizer.depth, -1)).sum(-2)


class _Coded(constraints.Constraint):
    """Flat vectors of codes, up to rounding."""

    is_discrete, event_dim = True, 1

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = quantizer

    def check(self, value: Tensor) -> Tensor:
        """Return whether each vector is that of a code, [...]."""
        vectors = split_levels(value, self.quantizer)
        known = self.quantizer.lookup(self.quantizer.nearest(vectors))
        return torch.isclose(vectors, known, rtol=1e-3, atol=1e-4).flatten(-3).all(-1)


class CodeVectors(dist.TorchDistribution):
    r"""The vectors of M positions whose R codes each are random, $p(z(k)) = p(k)$.

    Args:
        quantizer: looks up vectors and nearest codes, such as `nets.Codebook`.
        tokens: p(k), with event shape [T], T = M R. The R codes of a position are consecutive.

    Example:
        >>> from pyrovae.nets import Codebook
        >>> tokens = dist.Categorical(logits=torch.zeros(3, 256)).to_event(1)
        >>> vectors = CodeVectors(Codebook(256, 16), tokens)
        >>> z = vectors.sample((5,))
        >>> z.shape, vectors.log_prob(z)[0] / torch.tensor(256.0).log()
        (torch.Size([5, 48]), tensor(-3.))
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, quantizer: Any, tokens: Any, *, validate_args: bool | None = None) -> None:
        self.quantizer, self.tokens = quantizer, tokens
        event = torch.Size([tokens.event_shape[0] * quantizer.width])
        super().__init__(tokens.batch_shape, event, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The vectors of codes."""
        return _Coded(self.quantizer)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CodeVectors:
        """Return the distribution with a larger batch shape."""
        tokens = self.tokens.expand(torch.Size(batch_shape))
        return CodeVectors(self.quantizer, tokens, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p of the codes nearest to vectors [..., T * D], in nats."""
        if self._validate_args:
            self._validate_sample(value)
        codes = self.quantizer.nearest(split_levels(value, self.quantizer))
        found: Tensor = self.tokens.log_prob(codes.flatten(-2))
        return found

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample codes, and return their vectors [..., T * D]."""
        tokens = self.tokens.sample(torch.Size(sample_shape))
        codes = tokens.unflatten(-1, (-1, self.quantizer.depth))
        return join_levels(self.quantizer.lookup(codes))


class KnownCodes(dist.TorchDistribution):
    """The vectors of given codes, which have probability one.

    The log-probability carries the gradient of the quantizer's penalty; its value is 0 at the
    vectors of the same codes, minus infinity at any others.

    Args:
        quantizer: as of `CodeVectors`.
        quantized: the vectors [..., M, R, D], codes [..., M, R] and penalties [..., M], as
            `nets.Quantizer.quantize` returns them.

    Attributes:
        codes: the codes, [..., M, R].
        deterministic: True: no particle differs from another, so no density is differentiated.

    Example:
        >>> from pyrovae.nets import Codebook
        >>> book = Codebook(256, 16)
        >>> known = KnownCodes(book, book.quantize(torch.randn(5, 3, 16)))
        >>> known.codes.shape, known.log_prob(known.mean)
        (torch.Size([5, 3, 1]), tensor([0., 0., 0., 0., 0.]))
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True
    deterministic = True

    def __init__(
        self, quantizer: Any, quantized: Any, *, validate_args: bool | None = None
    ) -> None:
        vectors, self.codes, penalty = quantized
        self.quantizer, self._quantized = quantizer, quantized
        self._value, self._penalty = join_levels(vectors), penalty.sum(-1)
        shape = self._value.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The vectors of codes."""
        return _Coded(self.quantizer)

    @property
    def mean(self) -> Tensor:
        """The vectors, [..., R * D * M]."""
        return self._value

    @property
    def variance(self) -> Tensor:
        """Zeros, [..., R * D * M]."""
        return torch.zeros_like(self._value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> KnownCodes:
        """Return the distribution with a larger batch shape."""
        lead = len(self.batch_shape)
        several = (part.expand(*batch_shape, *part.shape[lead:]) for part in self._quantized)
        return KnownCodes(
            self.quantizer, type(self._quantized)(*several), validate_args=self._validate_args
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return the vectors, with the straight-through gradient."""
        return self._value.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 at the vectors of the codes and minus infinity elsewhere, [...]."""
        if self._validate_args:
            self._validate_sample(value)
        # By the vectors: several codes may share one. Nothing differs from the NaN of a diverging
        # encoder, whose penalty makes the result NaN.
        own = self._value.detach()
        rounding = 4 * torch.finfo(own.dtype).eps * own.abs().amax(-1, keepdim=True)
        other = ((value.detach() - own).abs() > rounding).any(-1)
        pull = self._penalty - self._penalty.detach()
        return torch.where(other, -torch.inf, pull)


class TokenChain(dist.TorchDistribution):
    r"""An autoregressive distribution of T codes, $p(k) = \prod_t p(k_t | k_{<t})$.

    Scoring takes one pass of the network, sampling T passes.

    Args:
        net: maps codes [..., T] to logits [..., T, K], those at t from the codes before t; it has
            `size`, T.
        batch_shape: the batch shape.

    Example:
        >>> from pyrovae.nets import CausalTransformer
        >>> chain = TokenChain(CausalTransformer(4, 8), (3,))
        >>> chain.log_prob(chain.sample()).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(
        self, net: Any, batch_shape: Any = (), *, validate_args: bool | None = None
    ) -> None:
        self.net = net
        super().__init__(
            torch.Size(batch_shape), torch.Size([net.size]), validate_args=validate_args
        )

    def expand(self, batch_shape: Any, _instance: Any = None) -> TokenChain:
        """Return the distribution with a larger batch shape."""
        return TokenChain(self.net, batch_shape, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of codes [..., T], in nats."""
        log_p = self.net(value).log_softmax(-1)
        found: Tensor = log_p.gather(-1, value.unsqueeze(-1)).squeeze(-1).sum(-1)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Sample codes [..., T], one after the other."""
        device = next(self.net.parameters()).device
        shape = self._extended_shape(torch.Size(sample_shape))
        codes = torch.zeros(shape, dtype=torch.long, device=device)
        for t in range(shape[-1]):
            codes[..., t] = dist.Categorical(logits=self.net(codes)[..., t, :]).sample()
        return codes
