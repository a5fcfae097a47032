r"""Autoregressive flows: zuko's transforms as distributions that Pyro programs can sample.

A flow maps noise to a latent by an invertible $z = T(e)$, $e \sim N(0, I)$, with the density

    log p(z) = log N(e; 0, I) - log |det dT/de|.

An autoregressive transform takes one network pass in one direction and D passes in the other. A
prior is scored at the guide's samples, so its fast direction is from z to the noise
(`fast_to_score`). A guide is scored at its own samples, so its fast direction is from the noise
to z (`fast_to_sample`).

Zuko is an optional extra, imported when a flow is constructed. Its import changes
`torch.distributions` for the whole process; `zuko()` undoes these changes.
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

__all__ = ["AutoregressiveFlow", "FlowDistribution", "Kind", "zuko"]

Kind = Literal["spline", "affine"]

_FLOWS: Final = {"spline": "NSF", "affine": "MAF"}
_INVERSE: Final = td.transforms._InverseTransform


class FlowDistribution(dist.TorchDistribution):
    """Sample and score a zuko flow through Pyro's bridge, `pyro.contrib.zuko.ZukoToPyro`.

    The bridge caches the log-density of each sample, so a guide's sample is scored without
    inverting the flow. There is one bridge for samples with gradients and one without: a
    log-density that was computed under `no_grad` is never reused where gradients are needed.

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
        """Sample z, differentiable in the flow's parameters and features."""
        return self._bridge(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), in nats: the cached value for a sample, else by change of variables."""
        if self._validate_args:
            self._validate_sample(value)
        return self._bridge.log_prob(value)


class AutoregressiveFlow(nn.Module):
    r"""A composition of masked autoregressive transforms, optionally conditional on features.

    With features, a final affine transform has a location and scale that are linear in them:
    splines are the identity outside [-5, 5] and cannot move the location beyond it.

    Args:
        latents: the dimension D of z.
        features: the number of features, 0 for an unconditional flow.
        kind: "spline" (monotonic rational-quadratic, 8 bins) or "affine".
        transforms: the number of autoregressive transforms; the order of the dimensions
            alternates between them.
        hidden: the width of the two hidden layers of each transform's network, at least D.

    Raises:
        ValueError: if an argument is out of range, or zuko is not installed.

    References:
        Durkan et al., 2019. Neural Spline Flows.
        Papamakarios, Pavlakou, Murray, 2017. Masked Autoregressive Flow for Density Estimation.

    Example:
        >>> flow = AutoregressiveFlow(2, features=3)
        >>> flow.fast_to_sample(torch.zeros(5, 3)).rsample().shape
        torch.Size([5, 2])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Import zuko before the instance exists, because unpickling skips `__init__`."""
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
            raise ValueError(f"Flow takes kind {' or '.join(_FLOWS)}; got kind='{kind}'")
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
        """Return the unconditional flow; `log_prob` takes one pass, `rsample` D passes."""
        return self._distribution(self.transform(None), torch.Size())

    def fast_to_sample(self, features: Tensor) -> FlowDistribution:
        """Return the flow given features [..., C], with batch shape [...].

        `rsample` takes one pass. `log_prob` takes none for a sample of this distribution, and D
        passes for any other value.
        """
        return self._distribution(self.transform(features).inv, features.shape[:-1])

    def _distribution(self, to_noise: Any, batch_shape: torch.Size) -> FlowDistribution:
        noise = dist.Normal(self.get_buffer("loc"), self.get_buffer("scale")).to_event(1)
        flow = zuko().distributions.NormalizingFlow
        return FlowDistribution(flow(to_noise, noise.expand(batch_shape)))


def zuko() -> Any:
    """Import zuko and undo the changes that its import makes to `torch.distributions`.

    The import disables argument validation, empties `Distribution.arg_constraints` and renames
    the class of inverse transforms; all three are restored. The method `call_and_ladj` that it
    adds to `Transform` stays, because its flows need it.

    Raises:
        ValueError: if zuko is not installed.
    """
    if sys.modules.get("zuko") is None:
        with _distributions_kept():
            try:
                importlib.import_module("zuko")
            except ModuleNotFoundError as error:
                raise ValueError(
                    "flows need zuko, which is not installed: pip install 'pyrovae[flows]'"
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
            f"Flow needs hidden layers at least as wide as its {latents} latent dimensions, so "
            f"that each dimension can depend on all earlier ones; got hidden={hidden}"
        )
