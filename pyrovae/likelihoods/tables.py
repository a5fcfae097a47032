"""A likelihood of tables with columns of different types.

Each group of columns has its own likelihood. One site "x" holds the joint distribution of all
columns, so that `decode`, `reconstruct`, log-weights and masks work as for any other data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Self, cast, final

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.table import Table
from pyrovae.distributions.columns import JointColumns
from pyrovae.likelihoods.base import Likelihood, NetworkLikelihood
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.likelihoods.counts import NegativeBinomial
from pyrovae.likelihoods.location_scale import Normal
from pyrovae.likelihoods.pixels import Categorical, DiscretizedLogisticMixture
from pyrovae.nets import MLP

__all__ = ["Columns"]


@final
class Columns(Likelihood):
    r"""Heterogeneous columns, $p(x | z) = \prod_g p_g(x_{C_g} | z)$ over groups of columns.

    Data are one float tensor [N, D]; a categorical column holds the class indices 0, 1, 2, ...

    Args:
        groups: for each group, a likelihood and the list of the columns that it scores.
        trunk: maps (z, *context) to features [..., F], which every likelihood takes in place of
            z. Without a trunk, each likelihood takes z and the context.

    Raises:
        ValueError: if the groups omit or share a column, or the event shape of a likelihood is
            not that of its group.

    References:
        Nazabal, Olmos, Ghahramani, Valera, 2020. Handling Incomplete Heterogeneous Data using
        VAEs.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Categorical, Normal, Poisson
        >>> from pyrovae.nets import MLP
        >>> from pyrovae.likelihoods import Columns
        >>> table = Columns(
        ...     [
        ...         (Normal(MLP(16, 2)), [0, 3]),
        ...         (Categorical(MLP(16, 3), classes=3), [1]),
        ...         (Poisson(MLP(16, 1)), [2]),
        ...     ],
        ...     trunk=MLP(4, 16),
        ... )
        >>> table.observation(torch.zeros(5, 4)).sample().shape
        torch.Size([5, 4])
    """

    def __init__(
        self, groups: Sequence[tuple[Likelihood, list[int]]], *, trunk: nn.Module | None = None
    ) -> None:
        super().__init__()
        _check_groups(groups)
        self.likelihoods = nn.ModuleList([likelihood for likelihood, _ in groups])
        self.columns = [list(columns) for _, columns in groups]
        self.trunk = trunk
        everywhere = torch.tensor(sum(self.columns, []))
        self.register_buffer("place", everywhere.argsort(), persistent=False)
        for number, columns in enumerate(self.columns):
            self.register_buffer(f"group_{number}", torch.tensor(columns), persistent=False)
        domains = [like.domain for like, columns in groups for _ in columns]
        self.domain = constraints.stack([domains[i] for i in everywhere.argsort()], dim=-1)

    @classmethod
    def of(cls, table: Table, latents: int, *, hidden: Sequence[int] = (200,)) -> Self:
        """Return the likelihood of a table's columns, which starts at their own distributions.

        Numeric columns are `Normal` with a scale for each value from the network, counts
        `NegativeBinomial`, binaries `Bernoulli` and categories `Categorical`. An ordinal column is
        a logistic variable rounded to its levels (`DiscretizedLogisticMixture`): a cumulative
        logit with equal steps, whose scale depends on z.

        Args:
            table: the schema of the columns.
            latents: the number of latent dimensions.
            hidden: the widths of the hidden layers, from z to x. All groups share all but the
                last.

        Raises:
            ValueError: if there is no hidden width.

        References:
            McCullagh, 1980. Regression Models for Ordinal Data.

        Example:
            >>> import pandas, torch, pyrovae as pv
            >>> frame = pandas.DataFrame({"height": [1.6, 1.85, 1.7], "sex": ["f", "m", "f"]})
            >>> table = pv.data.Table.of(frame)
            >>> columns = pv.likelihoods.Columns.of(table, 2, hidden=[8])
            >>> columns.observation(torch.zeros(1, 2)).mean.shape
            torch.Size([1, 2])
        """
        if not hidden:
            raise ValueError("the likelihood of a table needs at least one hidden width; got none")
        members: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for index, column in enumerate(table.columns):
            members[column.kind, column.classes].append(index)
        x, width = table.typical(), hidden[-1]
        groups = []
        for (kind, classes), columns in members.items():
            family, outputs = _family(kind, classes, len(columns))
            likelihood = family(MLP(width, width, outputs * len(columns)))
            groups.append((likelihood.start_at_mean(x[:, columns]), columns))
        return cls(groups, trunk=MLP(latents, *hidden))

    def observation(self, z: Tensor, *context: Tensor) -> JointColumns:
        """Return p(x | z) with the leading axes of z as batch shape and event shape [D]."""
        inputs = (z, *context) if self.trunk is None else (self.trunk(z, *context),)
        likelihoods = [cast(Likelihood, likelihood) for likelihood in self.likelihoods]
        parts = [likelihood.observation(*inputs) for likelihood in likelihoods]
        for part, columns, likelihood in zip(parts, self.columns, likelihoods, strict=True):
            if tuple(part.event_shape) != (len(columns),):
                raise ValueError(
                    f"{type(likelihood).__name__} of the columns {columns} has event shape "
                    f"{tuple(part.event_shape)}; expected ({len(columns)},): change the width of "
                    "its network"
                )
        groups = [self.get_buffer(f"group_{number}") for number in range(len(parts))]
        return JointColumns(parts, groups, self.get_buffer("place"))


def _family(
    kind: str, classes: int, width: int
) -> tuple[Callable[[nn.Module], NetworkLikelihood], int]:
    """Return the likelihood of a kind of columns, and its number of outputs for each."""
    if kind == "numeric":
        return lambda net: Normal(net, scale="network"), 2
    if kind == "count":
        return lambda net: NegativeBinomial(net, width), 1
    if kind == "binary":
        return Bernoulli, 1
    if kind == "ordinal":
        return lambda net: DiscretizedLogisticMixture(net, components=1, levels=classes), 3
    return lambda net: Categorical(net, classes=classes), classes


def _check_groups(groups: Sequence[tuple[Likelihood, list[int]]]) -> None:
    for likelihood, columns in groups:
        if not isinstance(likelihood, Likelihood) or isinstance(likelihood, Columns):
            raise ValueError(
                "a group is a pair of a likelihood and a list of columns, such as "
                f"(Normal(net), [0, 1]); got {type(likelihood).__name__}"
            )
        if not isinstance(columns, list | tuple):
            raise ValueError(
                f"{type(likelihood).__name__} takes a list of columns, such as [0, 1]; got "
                f"{columns!r}"
            )
    named = sorted(column for _, columns in groups for column in columns)
    if not named or named != list(range(len(named))):
        wanted = range(max([*named, 0]) + 1)
        missing = [column for column in wanted if column not in named]
        twice = sorted({column for column in named if named.count(column) > 1})
        raise ValueError(
            "the groups must contain each column 0, 1, ... exactly once; "
            f"got {named}, where {missing} are missing and {twice} are repeated"
        )
