"""Networks that read sequences [N, T, ...], and the mask that tells their steps from padding."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyrovae.nets.heads import diagonal_normal
from pyrovae.parts import Part

__all__ = ["BackwardGRU", "step_mask", "steps_normal"]


def step_mask(context: tuple[Tensor, ...], owner: str, *, alone: bool = False) -> Tensor:
    """Return the mask of the steps, the last context, booleans [N, T].

    Args:
        context: the context.
        owner: the name of the part, for messages.
        alone: whether the part takes no other context.

    Raises:
        ValueError: if it is none, a sequence has no step or padding before its last step, or
            there is a context that the part would ignore.
    """
    if not context or context[-1].dtype != torch.bool or context[-1].ndim < 2:
        met = f"{tuple(context[-1].shape)} of {context[-1].dtype}" if context else "no context"
        raise ValueError(
            f"{owner} takes the mask of the steps as its last context, booleans [N, T], True for "
            f"the steps of a sequence and False for padding; got {met}"
        )
    if alone and len(context) > 1:
        raise ValueError(
            f"{owner} takes the mask of the steps and no other context, which it would ignore; "
            f"got {len(context) - 1} before the mask. Write a part of your own that passes it on, "
            "with distributions.MarkovChain (inputs) or EachStep"
        )
    if is_validation_enabled():
        _check_steps(context[-1], owner)
    return context[-1]


def steps_normal(parameters: Tensor, before: Tensor, owner: nn.Module) -> dist.Distribution:
    """Return the diagonal normal of a step [..., D], given the one before and 2 D numbers.

    Raises:
        ValueError: if there are not 2 D numbers; the message names `owner`.
    """
    if parameters.shape[-1] != 2 * before.shape[-1]:
        raise ValueError(
            f"{type(owner).__name__} expected a network with {2 * before.shape[-1]} outputs, D "
            f"means and D unconstrained scales of D = {before.shape[-1]} latents; got "
            f"{parameters.shape[-1]}"
        )
    return diagonal_normal(parameters, owner)


def _check_steps(mask: Tensor, owner: str) -> None:
    """Check that each sequence has a step, and padding after its last one only."""
    wrong = ~mask[..., 0] | (mask[..., 1:] & ~mask[..., :-1]).any(-1)
    if wrong.any():
        row = mask[wrong][0].int().tolist()
        raise ValueError(
            f"{owner} takes sequences of one or more steps with padding at their ends; got the "
            f"mask {row[:12]}{'...' if len(row) > 12 else ''}. Move the steps to the front, as "
            "data.pad does"
        )


class BackwardGRU(Part):
    r"""Read sequences from their ends, so that output t depends on $x_{t:T}$.

    Values of padding are not read, and the output there has no meaning.

    Args:
        inputs: the width of x.
        hidden: the width H of the outputs.

    References:
        Cho et al., 2014. Learning Phrase Representations using RNN Encoder-Decoder.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[True, True, False]])
        >>> BackwardGRU(4, 8)(torch.zeros(1, 3, 4), mask).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return h [N, T, H] of x [N, T, D]."""
        order = reversed_steps(mask)
        backward, _ = self.gru(_steps_at(x.flatten(2), order))
        return _steps_at(backward, order)


def reversed_steps(mask: Tensor) -> Tensor:
    """Return the order [N, T] that reverses the steps and leaves the padding where it is.

    Example:
        >>> reversed_steps(torch.tensor([[True, True, True, False]]))
        tensor([[2, 1, 0, 3]])
    """
    steps = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    return torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)


def _steps_at(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(1, order.unsqueeze(-1).expand(*order.shape, values.shape[-1]))
