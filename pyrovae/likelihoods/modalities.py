"""The likelihood of several modalities, each with a likelihood of its own.

One site "x" holds the joint distribution of all modalities, so that `decode`, `reconstruct`,
log-weights and diagnostics work as for any other data. `Reconstructions` measures its sum by
modality.
"""

from __future__ import annotations

from typing import cast, final

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.domains import value_in
from pyrovae.distributions.columns import JointColumns
from pyrovae.distributions.present import Present
from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets.modalities import Modalities

__all__ = ["EachModality"]


@final
class EachModality(Likelihood):
    r"""Score each modality that a datum has, $\log p(x | z) = \sum_m b_m \log p_m(x_m | z)$.

    The mask b of the modalities, booleans [N, M], is the last context; without it, every datum has
    all. The value of x at a missing modality is not read. Samples are complete.

    Args:
        modalities: the names and widths of the modalities.
        **likelihoods: the likelihood $p_m(x_m | z)$ of each, by name. It takes z and the context
            before the mask.

    Raises:
        ValueError: if a modality has no likelihood, or its event shape is not that of its columns.

    References:
        Wu, Goodman, 2018. Multimodal Generative Models for Scalable Weakly-Supervised Learning.

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.likelihoods import Bernoulli, Categorical
        >>> from pyrovae.nets import MLP, Modalities
        >>> both = Modalities(image=64, label=1)
        >>> likelihood = pv.likelihoods.EachModality(
        ...     both,
        ...     image=Bernoulli(MLP(8, 100, 64)),
        ...     label=Categorical(MLP(8, 50, 10), classes=10),
        ... )
        >>> likelihood.observation(torch.zeros(5, 8)).sample().shape
        torch.Size([5, 65])
    """

    def __init__(self, modalities: Modalities, /, **likelihoods: Likelihood) -> None:
        super().__init__()
        modalities.check_names(likelihoods, "EachModality")
        self.modalities = modalities
        for name, likelihood in likelihoods.items():
            if not isinstance(likelihood, Likelihood):
                raise ValueError(
                    f"EachModality takes a pyrovae.likelihoods.Likelihood for '{name}'; got "
                    f"{type(likelihood).__name__}"
                )
        self.likelihoods = nn.ModuleList([likelihoods[name] for name in modalities.names])
        self.domain = constraints.stack(
            [
                own
                for name, width in modalities.widths.items()
                for own in _domains(likelihoods[name].domain, width)
            ],
            dim=-1,
        )
        everywhere = torch.arange(sum(modalities.widths.values()))
        self.register_buffer("place", everywhere, persistent=False)
        self.register_buffer("filler", torch.as_tensor(value_in(self.domain)), persistent=False)

    def observation(self, z: Tensor, *context: Tensor) -> JointColumns:
        """Return p(x | z) with the leading axes of z as batch shape and event shape [D]."""
        context, mask = self.modalities.present(context)
        place, filler = self.get_buffer("place"), self.get_buffer("filler")
        parts, groups = [], []
        for number, (name, columns) in enumerate(self.modalities.columns.items()):
            part = cast(Likelihood, self.likelihoods[number]).observation(z, *context)
            self._check_event(name, part)
            if mask is not None:
                part = Present(part, mask[..., number], filler[columns])
            parts.append(part)
            groups.append(place[columns])
        return JointColumns(parts, groups, place)

    def _check_event(self, name: str, part: dist.Distribution) -> None:
        width = self.modalities.widths[name]
        if tuple(part.event_shape) != (width,):
            raise ValueError(
                f"the likelihood of '{name}' has event shape {tuple(part.event_shape)}; expected "
                f"({width},): change the width of its network"
            )


def _domains(domain: constraints.Constraint, width: int) -> list[constraints.Constraint]:
    """Return the domain of each column of a modality."""
    if isinstance(domain, constraints.stack):
        return list(domain.cseq)
    return [domain] * width
