r"""Autoregressive sequences: each step is drawn given those before it and the latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets.sequences import step_mask

__all__ = ["Autoregressive", "SequenceChain"]


class SequenceChain(dist.TorchDistribution):
    r"""An autoregressive distribution of sequences [T, *event].

    $$ \log p(x) = \sum_t m_t \log p(x_t | h_t), \quad h_t = f(x_{<t}, z) $$

    Scoring takes one pass of the network, sampling T passes. After an end token, further end
    tokens have probability one: they add nothing, and sampling fills the rest with them.

    Args:
        net: f, which maps the t steps so far (None for none) and z to h [..., t + 1, H].
        head: maps h [..., H] to p(x_t | h_t), with the leading axes as batch shape.
        given: z and context, each [..., D].
        mask: booleans [..., T], True where there is a step.
        end: the end token; None if there is none.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self,
        net: nn.Module,
        head: Callable[[Tensor], Any],
        given: tuple[Tensor, ...],
        mask: Tensor,
        *,
        end: float | None = None,
    ) -> None:
        self.net, self.head, self.given, self.mask = net, head, given, mask
        self.end: Any = end
        with torch.no_grad():  # only its shape and support are asked for
            self.first = head(net(None, *given))
        lead = torch.broadcast_shapes(mask.shape[:-1], *(value.shape[:-1] for value in given))
        event = torch.Size((mask.shape[-1], *self.first.event_shape))
        super().__init__(lead, event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of a step, for all steps."""
        return constraints.independent(self.first.support, 1)

    def observed(self) -> Tensor:
        """Return which entries are scored: those of all steps but padding."""
        entries = self.mask.reshape(*self.mask.shape, *[1] * len(self.event_shape[1:]))
        return entries.expand(*self.batch_shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SequenceChain:
        """Return the same distribution with a larger batch shape."""
        mask = self.mask.expand(*batch_shape, self.mask.shape[-1])
        return SequenceChain(self.net, self.head, self.given, mask, end=self.end)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum over the steps that count, [...], in nats."""
        scores = self._steps(value).log_prob(value)
        if self.end is not None:
            certain = torch.where(self._ends(value), 0.0, -torch.inf)
            scores = torch.where(self._over(value), certain, scores)
        return torch.where(self.mask, scores, 0.0).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw all T steps in turn, also those of padding, [..., T, *event]."""
        shape = torch.Size(sample_shape) + self.batch_shape
        given = [value.expand(*shape, value.shape[-1]) for value in self.given]
        x: Tensor = self.head(self.net(None, *given)).sample()
        for _ in range(self.event_shape[0] - 1):
            step = self.head(self.net(x, *given)[..., -1:, :]).sample()
            if self.end is not None:
                step = self._filled(step, self._ends(x).any(-1, keepdim=True))
            x = torch.cat([x, step], dim=len(shape))
        return x

    @property
    def mean(self) -> Tensor:
        r"""An unbiased estimate of the mean from one sample, which differs at each call.

        It is the conditional mean of each step of a sampled sequence,
        $E_x\, E[x_t | x_{<t}] = E x_t$. The mean of tokens, which are names, has no meaning.
        """
        with torch.no_grad():
            drawn = self.sample()
        mean: Tensor = self._steps(drawn).mean
        return mean if self.end is None else self._filled(mean, self._over(drawn))

    def _filled(self, steps: Tensor, over: Tensor) -> Tensor:
        """Return steps [..., T, *event] with end tokens where the sequence is over, [..., T]."""
        over = over.reshape(*over.shape, *[1] * len(self.first.event_shape))
        return torch.where(over, torch.full_like(steps, self.end), steps)

    def _steps(self, value: Tensor) -> Any:
        """Return p(x_t | x_<t, z) of all steps, with batch shape [..., T]."""
        axis = value.ndim - len(self.event_shape)
        return self.head(self.net(value.narrow(axis, 0, value.shape[axis] - 1), *self.given))

    def _ends(self, value: Tensor) -> Tensor:
        """Return which steps are end tokens, [..., T]."""
        steps = value.shape[: value.ndim - len(self.first.event_shape)]
        ends: Tensor = torch.eq(value, self.end).reshape(*steps, -1).all(-1)
        return ends

    def _over(self, value: Tensor) -> Tensor:
        """Return which steps come after an end token, [..., T]."""
        ends = self._ends(value)
        return ends.cumsum(-1) > ends.int()


@final
class Autoregressive(Likelihood):
    r"""Sequences whose steps depend on those before and on the latents.

    $$ \log p(x | z) = \sum_t m_t \log p(x_t | x_{<t}, z) $$

    The last context is the mask m of the steps, booleans [N, T]; context before it goes to the
    network. Any likelihood of one step is the head: a `Categorical` of one token, x [N, T, 1], or
    of several, a `Bernoulli` of keys, a `Normal`. Scoring, and so training, reads the steps of x
    (teacher forcing); sampling reads its own. `nets.WordDropout` hides steps in training.

    The network models the sequence, and the latents what the whole sequence is about. If it can do
    without them, the posterior may collapse (see `pyrovae.Latents`).

    Args:
        net: maps the steps so far and z to vectors of each step and the next, such as
            `nets.CausalGRU` or `nets.CausalAttention`.
        head: p(x_t | h_t), of h_t [..., H].
        end: the token after which a sequence is over: sampled sequences are filled with it, and
            further ones add nothing to the score. None if lengths come from the mask alone.

    Raises:
        ValueError: if the context does not end in a mask of the steps, or the end token is no
            value of the head.

    References:
        Bowman et al., 2016. Generating Sentences from a Continuous Space.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> net = pv.nets.CausalGRU(pv.nets.EmbedTokens(30, 16), 16, 2, 64)
        >>> words = pv.likelihoods.Categorical(pv.nets.MLP(64, 30), classes=30)
        >>> likelihood = pv.likelihoods.Autoregressive(net, words, end=0)
        >>> mask = torch.ones(5, 7, dtype=torch.bool)
        >>> with pyro.plate("data", 5):
        ...     likelihood(torch.zeros(5, 2), None, mask).shape
        torch.Size([5, 7, 1])
    """

    def __init__(self, net: nn.Module, head: Likelihood, *, end: float | None = None) -> None:
        super().__init__()
        self.net, self.head, self.domain, self.end = net, head, head.domain, end
        if end is not None and not bool(self.domain.check(torch.tensor(float(end)))):
            raise ValueError(
                f"the end token is a value of the {type(head).__name__}, {self.domain}; got {end}"
            )

    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z), with the leading axes of z as batch shape."""
        mask = step_mask(context, "Autoregressive")
        given = (z, *context[:-1])
        return SequenceChain(self.net, self.head.observation, given, mask, end=self.end)
