r"""Semi-supervised learning: the class of a datum is a latent that is known for a few data.

The model has a class y that the guide enumerates, such as p(y) p(z) p(x | y, z) with the guide
q(y | x) q(z | x, y). Without a label, the bound sums y out exactly; with one, y is observed, and
q(y | x) is trained as a classifier too. What is trained stays a pair of programs with log p(x).
"""

from __future__ import annotations

import functools
import math
from typing import Any, final

import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine import condition
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.objectives.base import Loss
from pyrovae.types import Data, Program
from pyrovae.weights.sites import advice_on_shapes, log_prob, sample_sites
from pyrovae.weights.target import as_tensors, check_data

__all__ = ["SemiSupervised"]

_NO_TARGET: Any = nn.Module()
"""Labeled data are given before the programs: whole numbers get torch's default dtype."""


@final
class SemiSupervised(Loss):
    r"""Train on all data, and on the labels of a few: the objective of the model M2.

    A step on a batch of data $x_n$ draws as many labeled data $(x_m, y_m)$ with replacement, and
    minimizes

    $$ -\sum_n U(x_n) - \sum_m \left[ \pi\, L(x_m, y_m) + \alpha \log q(y_m | x_m) \right] $$

    $$ L(x, y) = E_{q(z | x, y)} [\log p(x, y, z) - \log q(z | x, y)],\qquad
       U(x) = \sum_y q(y | x) [L(x, y) - \log q(y | x)] $$

    with the share $\pi$ of the rows that have a label. Per datum, this is the objective
    $J^\alpha$ of the paper if all rows are given, and -1 stands where the label is not known. If
    only the labeled rows are given, $\pi = 1$: they count as much as all the data.

    The sum over y is exact. The value is in nats, with the scale of the plate. A KL weight is no
    part of the classifier's term, $\alpha \log q(y | x)$. `fit` takes the
    data as for any other objective, and measures their log p(x). Labeled data are drawn from
    torch's generator, and binarized anew if they are a dynamic split.

    Args:
        data: x [N, ...], a tuple (x, *context) or a `data.Split`, on the device of the programs.
        labels: integers [N], the index of the class, or -1 if it is not known.
        alpha: the weight of the classifier's term, 0 or more.
        site: the name of the class's site; None is the only site that the guide enumerates.

    Attributes:
        share: the share of rows that have a label.

    Raises:
        ValueError: if the labels are not integers of -1 or more, there is not one for each row, or
            none is known; for data that are not finite; in a step, for a label outside the
            classes, and for a guide that enumerates no site, or several while none is named.

    References:
        Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative
            Models (equations 6 to 9).

    Example:
        >>> import torch, pyrovae as pv
        >>> from pyrovae.nets import MLP
        >>> digits = pv.data.load("digits")
        >>> vae = pv.VAE(
        ...     pv.priors.Joint(y=pv.priors.Categorical(10), z=pv.priors.StandardNormal(2)),
        ...     pv.likelihoods.Bernoulli(MLP(10 + 2, 32, 64)),
        ...     pv.guides.Joint(
        ...         y=pv.guides.Categorical(MLP(64, 32, 10)),
        ...         z=pv.guides.MeanFieldNormal(MLP(64 + 10, 32, 2 * 2)),
        ...     ),
        ... )
        >>> labels = digits.train.labels.clone()
        >>> labels[100:] = -1
        >>> objective = pv.objectives.SemiSupervised(digits.train, labels, alpha=1.0)
        >>> step = pv.Step(loss=objective)
        >>> history = pv.fit(vae, digits.train, epochs=2, step=step, callbacks=[])
        >>> history.column("loss")[1] < history.column("loss")[0]
        True
    """

    def __init__(
        self, data: Data, labels: Any, *, alpha: float = 0.1, site: str | None = None
    ) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be 0 or more and finite; got {alpha}")
        values = data if isinstance(data, tuple) else (data,)
        self.dynamic = bool(getattr(values[0], "dynamic", False))
        if hasattr(values[0], "x"):  # a split
            values = (values[0].x, *getattr(values[0], "context", ()), *values[1:])
        x, *context = as_tensors(_NO_TARGET, *values)
        check_data(_NO_TARGET, x, *context)
        labels = _checked_labels(labels, len(x))
        known = (labels >= 0).nonzero().flatten().to(x.device)
        self.data = tuple(rows[known] for rows in (x, *context))
        self.labels, self.highest = labels.to(x.device)[known], int(labels.max())
        self.alpha, self.site, self.share = alpha, site, len(known) / len(labels)

    def __str__(self) -> str:  # noqa: D105
        return f"the semi-supervised bound, {len(self.labels)} labels, alpha {self.alpha:g}"

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Return the loss as a scalar tensor with a gradient, in nats, summed over data."""
        labels, *labeled = self.draw(*args)
        known = _Observed(labels, self.highest, self.site)
        with advice_on_shapes():
            of_labeled = _negative_elbo(known.given(model), known(guide), *labeled, **kwargs)
            loss = _negative_elbo(model, guide, *args, **kwargs)
        return loss + self.share * of_labeled - self.alpha * (known.scale * known.log_q).sum()

    def draw(self, x: Tensor, *context: Any) -> tuple[Tensor, ...]:
        """Draw as many labeled data as a batch has: labels [N], x [N, ...] and its context."""
        own = self.data[0]
        if len(context) != len(self.data) - 1 or x.device != own.device:
            raise ValueError(
                f"the labeled data are {len(self.data)} tensors on {own.device}, but a batch has "
                f"{1 + len(context)} on {x.device}: give SemiSupervised the same arguments, on "
                "the same device"
            )
        rows = torch.randint(len(self.labels), (len(x),), device=own.device)
        drawn, *beside = (values.index_select(0, rows) for values in self.data)
        drawn = torch.bernoulli(drawn) if self.dynamic else drawn
        return self.labels[rows], drawn.to(x.dtype), *beside

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("this objective runs the programs on two batches")


def _negative_elbo(*pair: Any, **kwargs: Any) -> Tensor:
    """Return the loss of Pyro's bound of (model, guide, *args), with enumerated sites summed out.

    With gradients off, Pyro gives the number alone.
    """
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    if torch.is_grad_enabled():
        loss: Tensor = elbo.differentiable_loss(*pair, **kwargs)
        return loss
    return torch.as_tensor(elbo.loss(*pair, **kwargs), dtype=torch.float64)


class _Observed(Messenger):
    """Observe the class in a guide, and hide its site: log q(y | x) is no part of L(x, y).

    Args:
        labels: the index of the class of each datum, [N].
        highest: the highest index of any label.
        site: the name of the class's site; None is the only site that is enumerated.

    Attributes:
        site: the name of the class's site.
        value: the class of each datum, in the support of the site.
        log_q: log q(y | x), [N], once the guide has run.
        scale: the scale of the observed data, once the model has run. That of the class's own
            site would contain a KL weight, which is no part of the classifier's term.
    """

    scale: Any = 1.0
    value: Tensor
    log_q: Tensor

    def __init__(self, labels: Tensor, highest: int, site: str | None) -> None:
        super().__init__()
        self.labels, self.highest, self.site, self.named = labels, highest, site, site is not None

    def given(self, model: Program) -> Program:
        """Return the model with the class observed, to be run after the guide."""

        @functools.wraps(model)
        def labeled(*args: Any, **kwargs: Any) -> Any:
            if not hasattr(self, "log_q"):
                raise ValueError(
                    f"the guide enumerates no site{f' {self.site!r}' if self.site else ''}, so it "
                    "has no class that a label could be of: use pyrovae.guides.Categorical, or "
                    "mark the site of the class with infer={'enumerate': 'parallel'}"
                )
            with poutine.trace() as tape:
                found = condition(model, {str(self.site): self.value})(*args, **kwargs)
            scales = [
                site["scale"]
                for name, site in sample_sites(tape.trace)
                if site["is_observed"] and name != self.site
            ]
            self.scale = scales[0] if scales else self.scale
            return found

        return labeled

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_enumerated(msg) or (self.named and msg["name"] != self.site):
            return
        if self.site not in (None, msg["name"]):
            raise ValueError(
                f"the guide enumerates the sites {self.site!r} and {msg['name']!r}: name that of "
                f"the class, SemiSupervised(..., site={self.site!r})"
            )
        self.site = msg["name"]
        self.value = self._of_labels(msg["fn"])
        msg["value"], msg["is_observed"], msg["stop"] = self.value, True, True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.site:
            self.log_q = log_prob(msg)

    def _of_labels(self, fn: Any) -> Tensor:
        support = fn.enumerate_support(expand=False)
        classes = support.reshape(len(support), *fn.event_shape)
        if self.highest >= len(classes):
            raise ValueError(
                f"a label is {self.highest}, but the guide's site {self.site!r} has the classes "
                f"0 to {len(classes) - 1}: give its network more outputs, or mend the label"
            )
        return classes[self.labels]


def _is_enumerated(msg: Any) -> bool:
    infer = msg["infer"] or {}
    return infer.get("enumerate") == "parallel" and not infer.get("is_auxiliary")


def _checked_labels(labels: Any, rows: int) -> Tensor:
    """Return labels [N] as whole numbers from -1 on, of which one is a class."""
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() and labels.isnan().any():
        raise ValueError(
            f"labels are whole numbers; got NaN in {int(labels.isnan().sum())} of {len(labels)} "
            "rows: write -1 where a label is not known, torch.nan_to_num(y, nan=-1).long()"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are whole numbers, of classes; got {labels.dtype}: y.long()")
    if labels.shape != (rows,):
        raise ValueError(
            f"x and its labels have one row per datum; got {rows} rows of x and labels of shape "
            f"{tuple(labels.shape)}: write -1 where a label is not known"
        )
    if not (labels >= 0).any() or (labels < -1).any():
        met = int(labels.min())
        raise ValueError(
            f"labels are the indices 0, 1, ... of classes, or -1 if not known; got {met}"
            + (" alone: without a label, train by the ELBO" if met == -1 else "")
        )
    return labels.long()
