"""The likelihood of a class label, for models of a label given something else."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.likelihoods.base import Likelihood

__all__ = ["Label"]


class Label(Likelihood):
    r"""Score the class label of each datum given z alone.

    $$ p(y = k | z) = \mathrm{softmax}(h(z))_k $$

    The data are labels [N], and what they are of is context, which the network does not get. With
    `guides.OfContext` and a KL weight $\beta$, this is the variational information bottleneck:
    the objective

    $$ E_{q(z | c)} \log p(y | z) - \beta\, KL(q(z | c) \| p(z)) $$

    is, up to the entropy of y, a lower bound on $I(z; y) - \beta I(z; c)$: z keeps what is
    informative about the label, and discards the rest of the context c.

    Args:
        net: maps z to C logits h.
        classes: the number C of classes; labels are 0 to C - 1.

    Raises:
        ValueError: if there are fewer than two classes, or the network does not have C outputs.

    References:
        Alemi, Fischer, Dillon, Murphy, 2017. Deep Variational Information Bottleneck.

    Example:
        >>> import torch, pyrovae as pv
        >>> digits = pv.data.load("digits")
        >>> vib = pv.VAE(
        ...     pv.priors.StandardNormal(6),
        ...     pv.likelihoods.Label(pv.nets.MLP(6, 10), classes=10),
        ...     pv.guides.OfContext(pv.guides.MeanFieldNormal(pv.nets.MLP(64, 50, 2 * 6))),
        ... )
        >>> step = pv.Step(kl_weight=0.1)
        >>> data = (digits.train.labels, digits.train.x)
        >>> history = pv.fit(vib, data, epochs=2, step=step, callbacks=[])
        >>> pv.class_probabilities(vib, digits.test.labels, digits.test.x).shape
        torch.Size([297, 10])
    """

    def __init__(self, net: nn.Module, *, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"Label needs at least two classes; got {classes}")
        self.net, self.classes = net, classes
        self.domain = constraints.integer_interval(0, classes - 1)

    def observation(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        """Return p(y | z) with the leading axes of z as batch shape; the context is ignored."""
        logits = self.net(z)
        if logits.shape[-1] != self.classes:
            raise ValueError(
                f"Label expected a network with one output per class, {self.classes}; got "
                f"{logits.shape[-1]}"
            )
        return dist.Categorical(logits=logits)
