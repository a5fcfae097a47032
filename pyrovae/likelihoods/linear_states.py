"""Likelihoods of sequences with a linear-Gaussian state that is integrated out exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.distributions import linear_states
from pyrovae.distributions.linear_states import LinearStep
from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets import positive, unconstrained
from pyrovae.nets.sequences import step_inputs

__all__ = ["LinearStates"]

KEPT: Final = 0.9
"""The share of a state that a step keeps at the start of a training."""


@final
class LinearStates(Likelihood):
    r"""Sequences that follow a linear-Gaussian state u, whose dynamics the latents change.

    $$ u_t = A_t u_{t-1} + b_t + q_t \epsilon_t, \quad x_t = C_t u_t + d_t + r_t \eta_t $$

    The state is integrated out by Kalman's filter, so that only what is not linear is left to the
    guide. Each of the six parameters is a learned constant. To those in `varying`, the network
    adds a function of z_t, and of covariates c_t if there are any. With "transition" this is a
    soft switch between dynamics; with "offset", a nonlinear emission whose residuals are
    correlated over time. Scales are positive by `nets.positive`.

    The last context is the mask of the steps, booleans [N, T]; before it stand covariates, of
    each step [N, T, C] or of the whole sequence [N, C].

    Args:
        net: maps z [..., D], and c [..., C] if there are covariates, to the numbers of all
            parameters in `varying`, in that order.
        states: U, the width of u.
        width: X, the width of x_t.
        varying: names of the parameters that depend on z: "transition" (A, U U numbers), "drift"
            (b, U), "drift_scale" (q, U), "emission" (C, X U), "offset" (d, X), "scale" (r, X).

    Attributes:
        constants: the constant of each parameter.
        first: u_0, a parameter that starts at zero.

    Raises:
        ValueError: if a width is below 1 or a name unknown; in use, if the network returns
            another number of outputs, or the context is not covariates and a mask of the steps.

    References:
        Fraccaro, Kamronn, Paquet, Winther, 2017. A Disentangled Recognition and Nonlinear Dynamics
            Model for Unsupervised Learning.
        Doucet, de Freitas, Murphy, Russell, 2000. Rao-Blackwellised Particle Filtering for Dynamic
            Bayesian Networks.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> net = pv.nets.MLP(3, 16, 4 * 4)
        >>> likelihood = pv.likelihoods.LinearStates(
        ...     net, states=4, width=10, varying=["transition"]
        ... )
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> with pyro.plate("data", 2):
        ...     likelihood(torch.zeros(2, 2, 3), None, mask).shape
        torch.Size([2, 2, 10])
    """

    domain = constraints.real

    def __init__(self, net: nn.Module, *, states: int, width: int, varying: Sequence[str]) -> None:
        super().__init__()
        if min(states, width) < 1:
            raise ValueError(
                f"LinearStates needs a state and x of width 1 or more; got states={states} and "
                f"width={width}"
            )
        shapes = LinearStep.shapes(states, width)
        names = [name for name in shapes if name in varying]
        if not names or sorted(names) != sorted(varying):
            raise ValueError(
                f"varying names one or more of {', '.join(shapes)}, each once: with none, x does "
                f"not depend on the latents; got {list(varying)}"
            )
        self.net, self.sizes = net, {name: shapes[name] for name in varying}
        self.constants = nn.ParameterDict(_constants(shapes))
        self.first = nn.Parameter(torch.zeros(states))

    def dynamics(self, z: Tensor, inputs: Tensor | None = None) -> LinearStep:
        """Return the parameters of steps at z_t [..., D] and c_t [..., C]."""
        output = self.net(z) if inputs is None else self.net(z, inputs)
        widths = [math.prod(shape) for shape in self.sizes.values()]
        if output.shape[-1] != sum(widths):
            wanted = " + ".join(
                f"{n} ({name})" for name, n in zip(self.sizes, widths, strict=True)
            )
            raise ValueError(
                f"LinearStates expected a network with {wanted} = {sum(widths)} outputs; got "
                f"{output.shape[-1]}"
            )
        raw = dict(self.constants.items())
        for (name, shape), part in zip(self.sizes.items(), output.split(widths, -1), strict=True):
            raw[name] = raw[name] + part.unflatten(-1, shape)
        for name in ("drift_scale", "scale"):
            raw[name] = positive(raw[name])
        return LinearStep(**raw)

    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(x | z) of z [..., T, D], with the leading axes as batch shape."""
        mask, covariates = step_inputs(context, "LinearStates")
        return linear_states.LinearStates(
            self.dynamics, z, mask, first=self.first, inputs=covariates
        )


def _constants(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the constants at the start: states of variance 1 in the long run, noise of 1."""
    found = {name: torch.zeros(shape) for name, shape in shapes.items()}
    width, states = shapes["emission"]
    found["transition"] = KEPT * torch.eye(states)
    found["emission"] = torch.randn(width, states) / math.sqrt(states)
    found["drift_scale"] += unconstrained(torch.tensor(math.sqrt(1 - KEPT**2)))
    found["scale"] += unconstrained(torch.tensor(1.0))
    return found
