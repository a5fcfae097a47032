"""Networks that read sequences [N, T, ...], the mask of their steps, and their covariates."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyrovae.nets.heads import diagonal_normal, join
from pyrovae.parts import Part

__all__ = ["BackwardGRU", "step_inputs", "step_mask", "steps_normal"]


def step_mask(context: tuple[Tensor, ...], owner: str) -> Tensor:
    """Return the mask of the steps, the last context, booleans [N, T].

    Args:
        context: the context.
        owner: the name of the part, for messages.

    Raises:
        ValueError: if it is none, or a sequence has no step or padding before its last step.
    """
    if not context or context[-1].dtype != torch.bool or context[-1].ndim < 2:
        met = f"{tuple(context[-1].shape)} of {context[-1].dtype}" if context else "no context"
        raise ValueError(
            f"{owner} takes the mask of the steps as its last context, booleans [N, T], True for "
            f"the steps of a sequence and False for padding; got {met}"
        )
    if is_validation_enabled():
        _check_steps(context[-1], owner)
    return context[-1]


def step_inputs(context: tuple[Tensor, ...], owner: str) -> tuple[Tensor, Tensor | None]:
    """Return the mask of the steps [N, T], and the covariates before it, joined, [N, T, C].

    The number of axes tells what a covariate is of: three, [N, T, C], of each step; two, [N, C],
    of the whole sequence. One row stands for all sequences. If all covariates are of the whole
    sequence, the result is [N, 1, C]; if there are none, it is None.

    Args:
        context: the covariates, then the mask.
        owner: the name of the part, for messages.

    Raises:
        ValueError: as `step_mask`, or if a covariate has neither shape.

    Example:
        >>> import torch
        >>> mask = torch.ones(5, 7, dtype=torch.bool)
        >>> actions, city = torch.zeros(5, 7, 2), torch.zeros(5, 3)
        >>> step_inputs((actions, city, mask), "Markov")[1].shape
        torch.Size([5, 7, 5])
        >>> step_inputs((city, mask), "Markov")[1].shape
        torch.Size([5, 1, 3])
    """
    mask = step_mask(context, owner)
    if len(context) == 1:
        return mask, None
    covariates = [_of_steps(each, mask, owner) for each in context[:-1]]
    lead = torch.broadcast_shapes(*(each.shape[:-1] for each in covariates))
    return mask, torch.cat([each.expand(*lead, each.shape[-1]) for each in covariates], dim=-1)


def _of_steps(covariate: Tensor, mask: Tensor, owner: str) -> Tensor:
    """Return a covariate of each step as it is, and one of the whole sequence as [N, 1, C]."""
    of_each = covariate.ndim == mask.ndim + 1
    lead = mask.shape if of_each else mask.shape[:-1]
    fits = covariate.ndim == len(lead) + 1 and all(
        1 in (own, rows) or own == rows
        for own, rows in zip(covariate.shape, mask.shape[:-1], strict=False)
    )
    if not fits or (of_each and covariate.shape[-2] != mask.shape[-1]):
        raise ValueError(
            f"{owner} takes covariates before the mask of the steps: [N, T, C] of each step, or "
            f"[N, C] of the whole sequence; got {tuple(covariate.shape)} beside the mask "
            f"{tuple(mask.shape)}. One number for each step is [N, T, 1], one for each sequence "
            "[N, 1]"
        )
    return covariate if of_each else covariate.unsqueeze(-2)


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

    Values of padding are not read, and the output there has no meaning. Covariates are read
    beside x.

    Args:
        inputs: the width of x, plus that of the covariates if there are any: tensors [N, T, C] of
            each step or [N, C] of the whole sequence, before the mask.
        hidden: the width H of the outputs.

    Raises:
        ValueError: if the context is not covariates and a mask of the steps of x, or x and the
            covariates have another width.

    References:
        Cho et al., 2014. Learning Phrase Representations using RNN Encoder-Decoder.

    Example:
        >>> import torch
        >>> from pyrovae.nets import BackwardGRU
        >>> mask = torch.tensor([[True, True, False]])
        >>> BackwardGRU(4, 8)(torch.zeros(1, 3, 4), mask).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return h [N, T, H] of x [N, T, ...]; the last context is the mask [N, T]."""
        mask, covariates = step_inputs(context, type(self).__name__)
        if x.ndim < 3 or mask.shape not in (x.shape[:2], (1, x.shape[1])):
            raise ValueError(
                f"{type(self).__name__} reads sequences x [N, T, ...] and the mask of their steps "
                f"[N, T]; got {tuple(x.shape)} beside the mask {tuple(mask.shape)}. One number "
                "for each step is [N, T, 1]"
            )
        read = (x.flatten(2),) if covariates is None else (x.flatten(2), covariates)
        order = reversed_steps(mask)
        backward, _ = self.gru(_steps_at(join(read, self.gru.input_size, self), order))
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
    """Return values [N, T, C] in an order [N, T], or in one of all sequences, [1, T]."""
    return values.gather(1, order.unsqueeze(-1).expand_as(values))
