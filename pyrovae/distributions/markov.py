r"""Markov chains: each step is drawn given the step before it.

$$ p(z_{1:T}) = \prod_t p(z_t | z_{t-1}, h_t) $$

A draw takes T evaluations of the transition in turn; a score takes one, for all steps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.weights.filtering import Belief

__all__ = ["EachStep", "MarkovChain", "at_step", "together"]

Transition = Callable[[Tensor, Tensor | None], Any]
"""A function of z before [..., D] and h [..., H] that returns the distribution of z, event [D]."""


def at_step(values: Tensor, t: int | Tensor) -> Tensor:
    """Return step t of values [..., T, C], or the one value [..., 1, C] of all steps.

    Args:
        values: one vector for each step, or one for all.
        t: the number of the step, one for all sequences or one for each, [N].

    Example:
        >>> values = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
        >>> at_step(values, torch.tensor([1, 0]))
        tensor([[1.],
                [2.]])
    """
    if values.shape[-2] == 1:
        return values.squeeze(-2)
    if isinstance(t, int):
        return values[..., t, :]
    lead = torch.broadcast_shapes(values.shape[:-2], t.shape)
    index = t[..., None, None].expand(*lead, 1, values.shape[-1])
    return values.expand(*lead, *values.shape[-2:]).gather(-2, index).squeeze(-2)


def together(z: Tensor, inputs: Tensor | None) -> tuple[Tensor, ...]:
    """Return z [..., D] and inputs [..., C], if any, with the same leading axes.

    A network may then join them by `torch.cat`.

    Example:
        >>> [each.shape for each in together(torch.zeros(7, 5, 2), torch.zeros(5, 3))]
        [torch.Size([7, 5, 2]), torch.Size([7, 5, 3])]
    """
    if inputs is None:
        return (z,)
    lead = torch.broadcast_shapes(z.shape[:-1], inputs.shape[:-1])
    return z.expand(*lead, z.shape[-1]), inputs.expand(*lead, inputs.shape[-1])


class MarkovChain(dist.TorchDistribution):
    r"""A chain of events [T, D], each drawn given the one before.

    $$ \log p(z_{1:T}) = \sum_t m_t \log p(z_t | z_{t-1}, h_t) $$

    Steps that the mask leaves out have log-density 0, so that a model and a guide with the same
    mask agree on them. They must be the last ones of a sequence: a step is drawn given the one
    before it, whether that one counts or not.

    Args:
        transition: maps z before [..., D] and h [..., H] to the distribution of z, with event
            shape [D]. It broadcasts over all leading axes.
        first: z_0, [D] or [..., D].
        mask: booleans [..., T], True where there is a step.
        inputs: h, [..., T, H], or [..., 1, H] for all steps. Without, the transition gets None.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyrovae.distributions import MarkovChain
        >>> def step(before, h):
        ...     return dist.Normal(0.9 * before, 0.5).to_event(1)
        >>> chain = MarkovChain(step, torch.zeros(2), torch.ones(3, 7, dtype=torch.bool))
        >>> z = chain.sample()
        >>> z.shape, chain.log_prob(z).shape  # 3 sequences of 7 steps in 2 dimensions
        (torch.Size([3, 7, 2]), torch.Size([3]))
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(
        self, transition: Transition, first: Tensor, mask: Tensor, inputs: Tensor | None = None
    ) -> None:
        self.transition, self.first, self.mask, self.inputs = transition, first, mask, inputs
        size = torch.broadcast_shapes(
            mask.shape, inputs.shape[:-1] if inputs is not None else (), (*first.shape[:-1], 1)
        )
        event = torch.Size((size[-1], first.shape[-1]))
        super().__init__(torch.Size(size[:-1]), event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of a step, for all steps."""
        one = self.step(0, self.first).support
        return constraints.independent(one, 1)

    @property
    def has_rsample(self) -> bool:
        """Whether the steps are reparameterized."""
        return bool(self.step(0, self.first).has_rsample)

    def step(self, t: int | Tensor, before: Tensor) -> Any:
        """Return the distribution of step t, one or each, [N], given the one before, [..., D]."""
        return self._moved(before, None if self.inputs is None else at_step(self.inputs, t))

    def _moved(self, before: Tensor, inputs: Tensor | None) -> Any:
        if inputs is None:
            return self.transition(before, None)
        return self.transition(*together(before, inputs))

    def expand(self, batch_shape: Any, _instance: Any = None) -> MarkovChain:
        """Return the same chain with a larger batch shape."""
        mask = self.mask.expand(*batch_shape, self.mask.shape[-1])
        return MarkovChain(self.transition, self.first, mask, self.inputs)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw all steps in turn, [*sample_shape, *batch_shape, T, D]."""
        shape = torch.Size(sample_shape) + self.batch_shape
        z = self.first.expand(*shape, self.first.shape[-1])
        steps = []
        for t in range(self.event_shape[0]):
            z = self._drawn(self.step(t, z), shape)
            steps.append(z)
        return torch.stack(steps, dim=-2)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw all steps in turn, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _drawn(self, step: Any, shape: torch.Size) -> Tensor:
        missing = len(shape) - len(step.batch_shape)
        if torch.Size((1,) * missing) + step.batch_shape != shape:
            step = step.expand(shape)
        drawn: Tensor = step.rsample() if step.has_rsample else step.sample()
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum over the steps that count, [...]."""
        first = self.first.unsqueeze(-2).expand_as(value[..., :1, :])
        before = torch.cat([first, value[..., :-1, :]], dim=-2)
        scores = self._moved(before, self.inputs).log_prob(value)
        return torch.where(self.mask, scores, 0.0).sum(-1)


class ObservedSteps(dist.TorchDistribution):
    """A distribution of x_1:T whose steps are masked: what such distributions share.

    Attributes:
        z: the latents that it is made of, [..., T, D].
        mask: booleans [..., T], True where there is a step.
        inputs: covariates, [..., T, C], or [..., 1, C] for all steps; None if there are none.
    """

    arg_constraints: dict[str, Any] = {}
    z: Tensor
    mask: Tensor
    inputs: Tensor | None

    def observed(self) -> Tensor:
        """Return which entries are scored: those of all steps but padding."""
        entries = self.mask.reshape(*self.mask.shape, *[1] * len(self.event_shape[1:]))
        return entries.expand(*self.batch_shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """Return the same distribution with a larger batch shape."""
        wider = type(self).__new__(type(self))
        wider.__dict__.update(self.__dict__)
        wider.mask = self.mask.expand(*batch_shape, self.mask.shape[-1])
        super(ObservedSteps, wider).__init__(torch.Size(batch_shape), self.event_shape)
        return wider


class EachStep(ObservedSteps):
    r"""Independent observations of a sequence.

    $$ \log p(x | z) = \sum_t m_t \log p(x_t | z_t, c_t) $$

    Args:
        emission: maps z_t [..., D], and c_t [..., C] if there are inputs, to p(x_t | z_t, c_t),
            with the leading axes as batch shape.
        z: [..., T, D].
        mask: booleans [..., T], True where there is a step.
        inputs: c, [..., T, C], or [..., 1, C] for all steps; None if the emission has none.

    Attributes:
        start: no belief: given the latents, a step does not depend on those before.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyrovae.distributions import EachStep
        >>> def emission(z):
        ...     return dist.Normal(z, 0.3).to_event(1)
        >>> mask = torch.ones(3, 7, dtype=torch.bool)
        >>> EachStep(emission, torch.zeros(3, 7, 2), mask).sample().shape
        torch.Size([3, 7, 2])
    """

    start: Belief = ()

    def __init__(
        self,
        emission: Callable[..., Any],
        z: Tensor,
        mask: Tensor,
        inputs: Tensor | None = None,
    ) -> None:
        self.emission, self.z, self.mask, self.inputs = emission, z, mask, inputs
        self.steps = emission(*together(z, inputs))
        batch = torch.broadcast_shapes(self.steps.batch_shape, mask.shape)
        event = torch.Size((batch[-1], *self.steps.event_shape))
        super().__init__(torch.Size(batch[:-1]), event, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of a step, for all steps."""
        return constraints.independent(self.steps.support, 1)

    @property
    def mean(self) -> Tensor:
        """The mean of each step, [..., T, *event]."""
        mean: Tensor = self.steps.mean
        return mean.expand(*self.batch_shape, *self.event_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw every step, also those of padding."""
        steps = self.steps.expand((*self.batch_shape, self.event_shape[0]))
        drawn: Tensor = steps.sample(sample_shape)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum over the steps that count, [...]."""
        return torch.where(self.mask, self.steps.log_prob(value), 0.0).sum(-1)

    def step(self, t: int | Tensor, z: Tensor) -> Any:
        """Return p(x_t | z_t, c_t) of step t, one or each, [N], for z_t [..., D]."""
        inputs = None if self.inputs is None else at_step(self.inputs, t)
        return self.emission(*together(z, inputs))

    def score_step(self, t: int, z: Tensor, x: Tensor, belief: Belief) -> tuple[Tensor, Belief]:
        """Return log p(x_t | z_t, c_t) for z_t [..., D], and the belief as it was."""
        return self.step(t, z).log_prob(x), belief

    def draw_step(self, t: int | Tensor, z: Tensor, belief: Belief) -> tuple[Tensor, Belief]:
        """Draw x_t given z_t [..., D], and return the belief as it was."""
        return self.step(t, z).sample(), belief
