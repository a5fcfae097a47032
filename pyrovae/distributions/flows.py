r"""Autoregressive flows: zuko's networks, as distributions that Pyro's programs can sample.

A flow maps noise to a latent by an invertible $z = T(e)$, $e \sim N(0, I)$, with the density

    log p(z) = log N(e; 0, I) - log |det dT/de|.

An autoregressive map costs one pass of its networks in one direction and D passes in the other.
A prior is scored at the guide's draws, so the pass leads from z to the noise; a guide is scored
at its own, so the pass leads from the noise to z.

Zuko is an optional extra, imported when a flow is made. Its import changes `torch.distributions`
for the whole process; what is changed for others is put back here.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, Final, Literal, Self

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor, nn
from torch import distributions as td

Kind = Literal["spline", "affine"]

_FLOWS: Final = {"spline": "NSF", "affine": "MAF"}
_INVERSE: Final = td.transforms._InverseTransform


class FlowDistribution(dist.TorchDistribution):
    """Sample and score a flow through Pyro's bridge to zuko.

    The bridge keeps the density of each draw, so a guide's draw is scored without inverting the
    flow. Draws made with gradients and without are kept apart: a density that was computed
    without them is never used where they are wanted.

    Args:
        flow: a `zuko.distributions.NormalizingFlow` over vectors.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Any) -> None:
        self.flow = flow
        self._bridges = {with_gradients: ZukoToPyro(flow) for with_gradients in (True, False)}
        super().__init__(flow.batch_shape, flow.event_shape)

    @property
    def _bridge(self) -> ZukoToPyro:
        return self._bridges[torch.is_grad_enabled()]

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> FlowDistribution:
        """Return the flow with another batch shape."""
        return FlowDistribution(self.flow.expand(torch.Size(batch_shape)))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw z, differentiable in the flow's parameters and features."""
        return self._bridge(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), kept where z was drawn here, else by the change of variables."""
        if self._validate_args:
            self._validate_sample(value)
        return self._bridge.log_prob(value)


class AutoregressiveFlow(nn.Module):
    r"""A chain of masked autoregressive maps of vectors, conditional on features where given.

    With features, the last map is an affine one whose location and scale are linear in them,
    since a spline leaves what lies outside [-5, 5] as it is.

    Args:
        latents: the dimension D of z.
        features: the number of features.
        kind: "spline" (monotonic rational-quadratic, 8 bins) or "affine".
        transforms: how many autoregressive maps; the order of the dimensions alternates.
        hidden: the width of the two hidden layers of each map's network, at least D.

    Raises:
        ValueError: for a number out of range or an unknown kind, or if zuko is not installed.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Import zuko: here, since unpickling a flow comes this way before it names zuko."""
        zuko()
        return super().__new__(cls)

    def __init__(
        self,
        latents: int,
        *,
        features: int = 0,
        kind: Kind = "spline",
        transforms: int = 3,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        _check_sizes(latents, transforms, hidden)
        if kind not in _FLOWS:
            raise ValueError(f"Flow is of the kind {' or '.join(_FLOWS)}; got kind='{kind}'")
        family = getattr(zuko().flows, _FLOWS[kind])
        flow = family(latents, features, transforms=transforms, hidden_features=(hidden, hidden))
        steps = list(flow.transform.transforms)
        if features:
            affine = zuko().flows.gaussianization.ElementWiseTransform
            steps.append(affine(latents, features, hidden_features=()))
        self.transform = zuko().lazy.LazyComposedTransform(*steps)
        self.register_buffer("loc", torch.zeros(latents))
        self.register_buffer("scale", torch.ones(latents))

    def fast_to_score(self) -> FlowDistribution:
        """Return the flow, without features, whose density takes one pass and sampling D."""
        return self._distribution(self.transform(None), torch.Size())

    def fast_to_sample(self, features: Tensor) -> FlowDistribution:
        """Return the flow given features [..., C], batch shape [...]; sampling takes one pass.

        A value that was not drawn from the distribution itself takes D passes to score.
        """
        return self._distribution(self.transform(features).inv, features.shape[:-1])

    def _distribution(self, to_noise: Any, batch_shape: torch.Size) -> FlowDistribution:
        noise = dist.Normal(self.get_buffer("loc"), self.get_buffer("scale")).to_event(1)
        flow = zuko().distributions.NormalizingFlow
        return FlowDistribution(flow(to_noise, noise.expand(batch_shape)))


def zuko() -> Any:
    """Import zuko, and undo what its import changes in `torch.distributions` for everybody.

    It switches the validation of arguments off, empties `Distribution.arg_constraints` and renames
    the class of inverse transforms; all three are put back. The method `call_and_ladj` that it
    adds to `Transform`, which its flows need, stays.

    Raises:
        ValueError: if zuko is not installed.
    """
    if sys.modules.get("zuko") is None:
        with _distributions_kept():
            try:
                importlib.import_module("zuko")
            except ModuleNotFoundError as error:
                raise ValueError(
                    "flows come from zuko, which is not installed: pip install 'pyrovae[flows]'"
                ) from error
        families: list[Any] = td.Distribution.__subclasses__()
        for family in families:
            if family.__module__ == "zuko.distributions" and "arg_constraints" not in vars(family):
                family.arg_constraints = {}
    return sys.modules["zuko"]


@contextlib.contextmanager
def _distributions_kept() -> Iterator[None]:
    kept = {key: vars(td.Distribution)[key] for key in ("_validate_args", "arg_constraints")}
    name = _INVERSE.__name__
    try:
        yield
    finally:
        for key, value in kept.items():
            setattr(td.Distribution, key, value)
        _INVERSE.__name__ = name


def _check_sizes(latents: int, transforms: int, hidden: int) -> None:
    if latents < 1:
        raise ValueError(f"Flow needs at least one latent dimension; got {latents}")
    if transforms < 1:
        raise ValueError(f"Flow needs at least one transform; got transforms={transforms}")
    if hidden < latents:
        raise ValueError(
            f"Flow needs hidden layers at least as wide as its {latents} latent dimensions, or "
            f"some would not depend on others; got hidden={hidden}"
        )
