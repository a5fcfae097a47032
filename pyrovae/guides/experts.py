r"""Posteriors of several modalities, from one expert for each that a datum has.

An expert is a network from a modality x_m to a normal $e_m(z)$. The guides here are products of
experts, mixtures of them, and mixtures of products. Products of normals are normal, so every
density is exact, and importance weights are those of q itself.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions.mixtures import NormalMixture
from pyrovae.guides.base import Guide
from pyrovae.nets import positive
from pyrovae.nets.modalities import Modalities

__all__ = ["MixtureOfExperts", "MixtureOfProducts", "ProductOfExperts"]

Subset = Sequence[int]
"""The numbers of some modalities."""


class _Fused(Guide):
    """Combine the experts of the modalities that a datum has.

    `net` maps (x, *context) to the parameters of S products of experts: their S logits, S D means
    and S D logarithms of precisions.

    Args:
        modalities: the names and widths of the modalities.
        **experts: the network of each, by name.
    """

    prior_in_products = True

    def __init__(self, modalities: Modalities, /, **experts: nn.Module) -> None:
        owner = type(self).__name__
        modalities.check_names(experts, owner)
        wrong = [name for name, net in experts.items() if not isinstance(net, nn.Module)]
        if wrong:
            raise ValueError(f"{owner} takes a network for each modality; that of {wrong} is none")
        subsets = self.subsets(len(experts))
        nets = [experts[name] for name in modalities.names]
        super().__init__(_Products(modalities, nets, subsets, prior=self.prior_in_products))
        self.components = len(subsets)

    @staticmethod
    @abc.abstractmethod
    def subsets(modalities: int) -> list[Subset]:
        """Return the modalities of each product."""

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the mixture of the S products, given [..., S (1 + 2 D)]."""
        count = self.components
        logits, rest = parameters[..., :count], parameters[..., count:]
        loc, log_precision = rest.unflatten(-1, (2, count, -1)).unbind(-3)
        return NormalMixture(logits, loc, torch.exp(-0.5 * log_precision))


@final
class ProductOfExperts(_Fused):
    r"""The product of the experts of the modalities present, a normal posterior.

    $$ q(z | x) \propto p_0(z) \prod_m e_m(z; x_m) $$

    $p_0 = N(0, I)$ is the prior expert; without any modality, q is $p_0$. The exact posterior has
    this form where $p_0$ is the prior, with $e_m(z; x_m) \propto p(x_m | z)$. A product is sharp
    where any expert is: an expert that is too sure cannot be outvoted.

    The mask of the modalities, booleans [N, M], is the last context; without it, every datum has
    all. Values of missing modalities are not read.

    Args:
        modalities: the names and widths of the modalities.
        **experts: the network of each modality, by name. It maps x_m [N, D_m] and the context
            before the mask to 2 D numbers: D means, then D unconstrained scales (see
            `nets.positive`).

    Raises:
        ValueError: if a modality has no network, or the networks have outputs of different or odd
            widths.

    References:
        Wu, Goodman, 2018. Multimodal Generative Models for Scalable Weakly-Supervised Learning.

    Example:
        >>> import pyro, torch
        >>> from pyrovae.guides import ProductOfExperts
        >>> from pyrovae.nets import MLP, Modalities
        >>> pair = Modalities(upper=32, lower=32)
        >>> guide = ProductOfExperts(pair, upper=MLP(32, 2 * 8), lower=MLP(32, 2 * 8))
        >>> with pyro.plate("data", 3):
        ...     guide(torch.zeros(3, 64)).shape
        torch.Size([3, 8])
    """

    @staticmethod
    def subsets(modalities: int) -> list[Subset]:
        """Return all modalities, as one product."""
        return [range(modalities)]

    def distribution(self, parameters: Tensor) -> dist.Distribution:
        """Return the diagonal normal, given [..., 1 + 2 D]."""
        loc, log_precision = parameters[..., 1:].chunk(2, dim=-1)
        return dist.Normal(loc, torch.exp(-0.5 * log_precision)).to_event(1)


@final
class MixtureOfExperts(_Fused):
    r"""The mixture $q(z | x) = \frac{1}{M} \sum_m e_m(z; x_m)$ of the modalities present.

    Each expert is a posterior by itself, so that z is inferred from any one modality as well as
    the expert can; together, they are no surer than one. Without any modality, q is N(0, I).
    Samples are implicitly reparameterized (see `distributions.NormalMixture`), where the paper
    draws from each expert in turn. Arguments and errors are as of `ProductOfExperts`.

    References:
        Shi, Siddharth, Paige, Torr, 2019. Variational Mixture-of-Experts Autoencoders for
        Multi-Modal Deep Generative Models.

    Example:
        >>> import torch
        >>> from pyrovae.guides import MixtureOfExperts
        >>> from pyrovae.nets import MLP, Modalities
        >>> pair = Modalities(upper=32, lower=32)
        >>> guide = MixtureOfExperts(pair, upper=MLP(32, 2 * 8), lower=MLP(32, 2 * 8))
        >>> mask = torch.tensor([[True, False]])
        >>> guide.distribution(guide.net(torch.zeros(1, 64), mask)).logits.exp()
        tensor([[0., 1., 0.]], grad_fn=<ExpBackward0>)
    """

    prior_in_products = False

    @staticmethod
    def subsets(modalities: int) -> list[Subset]:
        """Return the empty subset, whose product is the prior expert, and each modality."""
        return [(), *((number,) for number in range(modalities))]


@final
class MixtureOfProducts(_Fused):
    r"""The mixture of the products of experts of all subsets of the modalities present.

    $$ q(z | x) = \frac{1}{2^M - 1} \sum_{A \neq \emptyset} q_A(z | x), \qquad
       q_A(z | x) \propto p_0(z) \prod_{m \in A} e_m(z; x_m) $$

    M counts the modalities present, and $p_0 = N(0, I)$ is the prior expert, which is in each
    product; without any modality, q is $p_0$. Samples are as of `MixtureOfExperts`, arguments and
    errors as of `ProductOfExperts`.

    References:
        Sutter, Daunhawer, Vogt, 2021. Generalized Multimodal ELBO.

    Example:
        >>> from pyrovae.guides import MixtureOfProducts
        >>> from pyrovae.nets import MLP, Modalities
        >>> pair = Modalities(upper=32, lower=32)
        >>> guide = MixtureOfProducts(pair, upper=MLP(32, 2 * 8), lower=MLP(32, 2 * 8))
        >>> guide.subsets(2)
        [(), (0,), (1,), (0, 1)]
    """

    @staticmethod
    def subsets(modalities: int) -> list[Subset]:
        """Return all subsets; the empty one has weight where a datum has no modality."""
        sizes = range(modalities + 1)
        return [s for size in sizes for s in itertools.combinations(range(modalities), size)]


class _Products(nn.Module):
    """Map x and its context to the parameters of products of experts, [..., S (1 + 2 D)].

    Args:
        modalities: the names and widths of the modalities.
        nets: the networks of the experts.
        subsets: the modalities of each product.
        prior: whether the prior expert is in each product, or in the empty one alone.
    """

    def __init__(
        self,
        modalities: Modalities,
        nets: Sequence[nn.Module],
        subsets: Sequence[Subset],
        *,
        prior: bool,
    ) -> None:
        super().__init__()
        self.modalities, self.nets, self.prior = modalities, nn.ModuleList(nets), prior
        members = torch.tensor([[m in subset for m in range(len(nets))] for subset in subsets])
        self.register_buffer("members", members, persistent=False)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the logits, means and log-precisions of the products."""
        context, mask = self.modalities.present(context)
        pieces = self.modalities.split(x)
        if mask is None:
            mask = torch.ones(len(self.nets), dtype=torch.bool, device=x.device)
            mask = mask.expand(*x.shape[:-1], -1)
        loc, precision = self._experts(list(pieces.values()), mask, context)
        members = self.get_buffer("members") & mask.unsqueeze(-2)  # [..., S, M]
        weights = members.to(precision)
        alone = (~members.any(-1, keepdim=True)).to(precision)
        total = weights @ precision + (1.0 if self.prior else alone)
        mean = weights @ (precision * loc) / total
        counted = self._counted(members, mask)
        logits = torch.zeros_like(total[..., 0]).masked_fill(~counted, -torch.inf)
        return torch.cat([logits, mean.flatten(-2), total.log().flatten(-2)], -1)

    def _experts(
        self, pieces: list[Tensor], mask: Tensor, context: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the means and precisions of the experts, [..., M, D], precision 0 if missing."""
        found = []
        for number, (net, piece) in enumerate(zip(self.nets, pieces, strict=True)):
            present = mask[..., number, None]
            output = net(torch.where(present, piece, 0.0), *context)
            found.append(torch.where(present, output, 0.0))
        widths = [output.shape[-1] for output in found]
        if len(set(widths)) > 1 or widths[0] % 2 or not widths[0]:
            raise ValueError(
                "the networks of all experts have 2 D outputs for D latents; got the widths "
                f"{dict(zip(self.modalities.names, widths, strict=True))}"
            )
        loc, raw = torch.stack(found, -2).chunk(2, -1)
        return loc, torch.where(mask.unsqueeze(-1), positive(raw).square().reciprocal(), 0.0)

    def _counted(self, members: Tensor, mask: Tensor) -> Tensor:
        """Return which products have all of their modalities, [..., S]; the empty one if none."""
        wanted = self.get_buffer("members")
        complete = (members == wanted).all(-1)
        return torch.where(wanted.any(-1), complete, ~mask.any(-1, keepdim=True))
