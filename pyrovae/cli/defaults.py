"""Choose the parts that an experiment does not name: by the data, or by the other parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch.distributions import constraints

from pyrovae.cli import names
from pyrovae.cli.arguments import convert, parameters
from pyrovae.cli.experiment import Tables, named
from pyrovae.data import DataSet
from pyrovae.data import Table as Schema

__all__ = ["guide_of", "levels", "with_likelihood"]

Table = Mapping[str, Any]

COUNTS: Final = "NegativeBinomial"
"""The default likelihood of counts."""

GUIDES: Final = {
    "UniformSphere": "PowerSpherical",
    **{name: name for name in ("Bernoulli", "Categorical", "OneHot", "RelaxedOneHot")},
    **{name: name for name in ("Joint", "Hierarchical")},
}
"""The default guide of each prior whose default is not `MeanFieldNormal`."""

PRIORS: Final = {
    "Joint": ("Joint",),
    "Hierarchical": ("Hierarchical",),
    "Ladder": ("Hierarchical",),
    "PowerSpherical": ("UniformSphere", "VampPrior"),
}
"""The priors that a guide supports, if it does not support all."""


def with_likelihood(tables: Table, data: DataSet) -> Tables:
    """Return the tables with a likelihood for the domain of the data, if none is named.

    A guide whose network is not given then takes the logarithm of counts. For a table of mixed
    columns, the likelihood is that of each column, and the guide's network encodes them.

    Raises:
        ValueError: if the data are sequences.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.cli import defaults, experiment
        >>> defaults.with_likelihood(experiment.layered([]), pv.data.load("digits"))["likelihood"]
        {'name': 'Bernoulli'}
    """
    if len(data.shape) == 2:
        raise ValueError(
            f"{data.name} holds sequences, whose parts are written in Python: give --recipe "
            "FILE.py (see `pyrovae train --help`)"
        )
    table, found = named(tables.get("likelihood")), dict(tables)
    if data.table is not None:
        return {**found, **_of_columns(tables, data.table)}
    if "name" in table:
        return found
    found["likelihood"] = table = {"name": default_likelihood(data.domain), **table}
    guide = named(tables.get("guide"))
    if table["name"] == COUNTS and not guide:
        logs = {"name": "LogCounts", **({"library": True} if table.get("library") else {})}
        found["guide"] = {"net": logs}
    return found


def _of_columns(tables: Table, schema: Schema) -> Tables:
    """Return the tables of the likelihood and the guide of a table of mixed columns.

    Raises:
        ValueError: if another likelihood is named than `Masked`, which takes the mask.
    """
    likelihood, guide = named(tables.get("likelihood")), named(tables.get("guide"))
    if likelihood.get("name", "Masked") != "Masked":
        raise ValueError(
            f"likelihood {likelihood['name']} is for columns of one kind without gaps; a table of "
            "mixed columns has a likelihood for each: leave --likelihood out"
        )
    given = {"name": "Masked", "likelihood": {"name": "Columns"}, **likelihood}
    net = {"classes": [column.classes for column in schema.columns]}
    net["counts"] = [i for i, column in enumerate(schema.columns) if column.kind == "count"]
    if named(guide.get("net")).get("name", "EncodeColumns") == "EncodeColumns":
        guide = {**guide, "net": {"name": "EncodeColumns", **named(guide.get("net")), **net}}
    return {"likelihood": given, "guide": guide}


def default_likelihood(domain: constraints.Constraint) -> str:
    """Return the name of the likelihood for data of a domain, if none is named."""
    if domain in (constraints.boolean, constraints.unit_interval):
        return "Bernoulli"
    if isinstance(domain, constraints.integer_interval):
        return "DiscretizedLogisticMixture"
    return COUNTS if domain is constraints.nonnegative_integer else "Normal"


def levels(table: Any) -> int | None:
    """Return the number of levels of a pixel that a likelihood scores; None if it scores others.

    Example:
        >>> levels("Categorical"), levels("Bernoulli")
        (256, None)
    """
    table = named(table)
    taken = parameters(names.part("likelihood", table.get("name")))
    for key in ("levels", "classes"):
        if key in taken:
            found: int = convert(table.get(key, taken[key].default), int, f"likelihood.{key}")
            return found
    return None


def guide_of(table: Table, prior: Table) -> str:
    """Return the name of a guide, by default that of the prior, and check that they go together.

    Raises:
        ValueError: if the guide does not have the same sites and supports as the prior.
    """
    of_prior = prior.get("name")
    name = str(table.get("name") or GUIDES.get(str(of_prior), "MeanFieldNormal"))
    _check_pair(of_prior, name)
    return name


def _check_pair(prior: Any, guide: str) -> None:
    """Check that a guide has the same sites and supports as the prior."""
    wanted = PRIORS.get(guide, (prior,))
    if prior not in wanted:
        raise ValueError(
            f"guide {guide} goes with the prior {wanted[0]}; got {prior}: change one of them"
        )
    if prior == "UniformSphere" and guide != "PowerSpherical":
        raise ValueError(f"prior UniformSphere goes with the guide PowerSpherical; got {guide}")
