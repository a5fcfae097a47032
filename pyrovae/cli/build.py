"""Build the parts of a VAE, and an objective, from the tables of an experiment.

The entries of a table are the arguments of the part's constructor. The number of latents, the
widths of networks and the shape of the data are derived.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.cli import defaults, names
from pyrovae.cli.arguments import (
    activation,
    arguments,
    convert,
    keywords,
    listed,
    parameters,
    required,
)
from pyrovae.cli.experiment import named
from pyrovae.data import DataSet
from pyrovae.randomness import seeded
from pyrovae.vae import VAE
from pyrovae.weights.sites import one_line

__all__ = ["Builder", "objective", "vae"]

DISCRIMINATOR: Final = (100, 100)
"""The widths of the hidden layers of the discriminator of `FactorVAE`."""

Table = Mapping[str, Any]

PIXELS: Final = "likelihood.pixels"
WIDTHS: Final = list[typing.Annotated[int, msgspec.Meta(ge=1)]]


def vae(tables: Table, data: DataSet, *, seed: int = 0) -> VAE:
    """Build the VAE of an experiment.

    The likelihood is initialized at the mean of the training data, and a VampPrior at some of
    the training data.

    Args:
        tables: the tables of the experiment (see `experiment.layered`).
        data: the data set, which determines the sizes and the initialization.
        seed: the seed of the initial weights.

    Raises:
        ValueError: naming the entry that is missing, unknown or of the wrong type, and as the
            constructors of the parts.

    Example:
        >>> import pyrovae as pv
        >>> from pyrovae.cli import build, experiment
        >>> prior = {"name": "VampPrior", "components": 9, "latents": 2}
        >>> tables = experiment.layered([{"prior": prior}])
        >>> build.vae(tables, pv.data.load("digits")).prior.pseudo_inputs.shape
        torch.Size([9, 64])
    """
    tables = defaults.with_likelihood(tables, data)
    context = data.train.context if data.table is None else data.train.context[:-1]
    covariates = tuple(value.shape[-1] for value in context)
    builder = Builder(tables, data.train.x, data.shape, covariates, data.table)
    prior = named(tables["prior"])
    with seeded(seed), _sizes_refused():
        likelihood = builder.likelihood(tables["likelihood"], width(prior), _scored(tables, data))
        given = named(tables.get("guide"))
        needs_prior = given.get("name") == "Ladder"
        built = builder.prior(prior, sum(covariates)) if needs_prior else None
        guide = builder.guide(given, prior, built)
        if built is None:
            built = builder.prior(prior, sum(covariates), guide)
        return VAE(built, likelihood, guide)


@contextlib.contextmanager
def _sizes_refused() -> Iterator[None]:
    """Raise a ValueError where torch cannot make tensors of the sizes that are asked for."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(f"the parts of the VAE cannot be built: {one_line(error)}") from error


def _scored(tables: Table, data: DataSet) -> Tensor:
    """Return the data for the initialization of the likelihood, binarized if training is."""
    kind = names.part("likelihood", named(tables["likelihood"]).get("name"))
    binary = getattr(kind, "domain", None) is constraints.boolean
    drawn = tables.get("data", {}).get("binarization") == "dynamic" and not binary
    return data.train.draw() if drawn else data.train.x


def objective(table: Table, prior: Any = None, size: int | None = None) -> Any:
    """Build an objective; None for the ELBO with one particle, the default of `fit`.

    Args:
        table: the table of the objective.
        prior: the table of the prior, for objectives that depend on the number of latents.
        size: the number of training data, for objectives that depend on it.

    Raises:
        ValueError: naming the entry that is missing, unknown or of the wrong type.

    Example:
        >>> objective({"name": "IWAE", "particles": 50, "gradient": "dreg"}).num_particles
        50
    """
    if table["name"] == names.ELBO:
        entries = {"particles": 1, "gradient": "plain", **table}
        if entries == {"name": names.ELBO, "particles": 1, "gradient": "plain"}:
            return None
        extra = entries.keys() - {"name", "particles", "gradient"}
        if extra:
            said = names.unknown("argument", min(extra), ["particles", "gradient"])
            raise ValueError(f"objective ELBO: {said}")
        made = {"particles": entries["particles"], "k": 1, "gradient": entries["gradient"]}
        return pv.objectives.MIWAE(**arguments(pv.objectives.MIWAE, made, "objective"))
    kind = names.part("objective", table["name"])
    entries, derived = dict(table), {} if size is None else {"data_size": size}
    if kind is pv.objectives.MMD:
        derived["kernel"] = _kernel(entries.pop("kernel", {}), prior)
    made = arguments(kind, entries, "objective", derived)
    if kind is pv.objectives.FactorVAE:
        sizes = (width(prior), *DISCRIMINATOR, 1)
        made["discriminator"] = pv.nets.MLP(*sizes, activation=nn.LeakyReLU)
    return kind(**made)


def _kernel(table: Any, prior: Any) -> Any:
    """Build a kernel from its width or its scale; the scale is 2 D for D latents by default."""
    aggregate = pv.objectives.aggregate
    entries = {"scale": 2.0 * width(prior)} if table == {} else named(table)
    kind = aggregate.GaussianKernel if "width" in entries else aggregate.InverseMultiquadratic
    return kind(**arguments(kind, entries, "objective.kernel"))


def width(table: Any) -> int:
    """Return the number of latent dimensions that a prior passes to the likelihood.

    Raises:
        ValueError: if the tables do not give it.

    Example:
        >>> width({"name": "Joint", "parts": {"a": {"latents": 2}, "b": {"latents": 3}}})
        5
    """
    table = named(table)
    if table.get("name") == "Joint":
        return sum(map(width, named(required(table, "parts", "prior Joint")).values()))
    if table.get("name") == "Hierarchical":
        return width(listed(table, "levels", "prior Hierarchical")[-1])
    latents = table.get("classes", table.get("latents"))
    if latents is None:
        raise ValueError(f"{table.get('name') or 'a part'} needs latents, the dimensions of z")
    return convert(latents, int, "latents")


@dataclass(frozen=True)
class Builder:
    """Build the parts of one experiment for one data set.

    Attributes:
        tables: the tables of the experiment.
        x: the training data [N, D].
        shape: (channels, height, width) of an image, which is flattened to a row of x, or (D,).
        covariates: the widths of the context, without the mask of a table.
        schema: the schema of a table of mixed columns.
    """

    tables: Table
    x: Tensor
    shape: tuple[int, ...]
    covariates: tuple[int, ...] = ()
    schema: pv.data.Table | None = None

    @property
    def hidden(self) -> list[int]:
        """The widths of the hidden layers of a guide's network."""
        hidden: list[int] = convert(self.tables["net"].get("hidden", []), WIDTHS, "net.hidden")
        return hidden

    def net(
        self, table: Any, inputs: int, outputs: int, *, decoder: bool = False, where: str = "net"
    ) -> nn.Module:
        """Build a network with these numbers of inputs and outputs.

        Args:
            table: the table of the network; entries that it lacks are those of [net].
            inputs: the number of inputs.
            outputs: the number of outputs.
            decoder: whether it belongs to a likelihood or prior, and so maps latents to x.
            where: the name of the table, for error messages.
        """
        table = named(table)
        if "name" not in table:
            table = {**self.tables["net"], **table}
        name = str(table["name"])
        kind = names.part(
            "net", re.sub("(En|De)coder$", "Decoder" if decoder else "Encoder", name)
        )
        given = {key: value for key, value in table.items() if key not in ("hidden", "activation")}
        if name == "MLP" and "activation" in table:
            given["activation"] = activation(table["activation"])
        if "net" in parameters(kind):  # It wraps another network.
            if table is self.tables["net"] or name == self.tables["net"].get("name"):
                raise ValueError(f"net {name} wraps one network: give it as --guide.net {name}")
            library = table.get("library") is True and not self.covariates
            taken = inputs + inputs * (table.get("append_mask") is True) + library
            if name == "EncodeColumns":
                classes = convert(required(table, "classes", where), list[int], f"{where}.classes")
                taken = kind.width(classes) + inputs
            inner = self.net(table.get("net"), taken, outputs, decoder=decoder, where=where)
            return kind(inner, **arguments(kind, given, where))
        if "sizes" in parameters(kind):
            hidden = convert(table.get("hidden", self.hidden), WIDTHS, f"{where}.hidden")
            sizes = (inputs, *(hidden[::-1] if decoder else hidden), outputs)
            return kind(*sizes, **keywords(kind, given))
        if name == "PixelCNN":
            raise ValueError("net PixelCNN is used in a likelihood AutoregressiveBernoulli only")
        if len(self.shape) != 3:
            raise ValueError(f"net {name} is of images; the data are rows of {self.shape[0]}")
        derived = {"latents": inputs, "features": outputs, "shape": self.shape}
        if decoder:
            derived["shape"] = self._maps(outputs)
        return kind(**arguments(kind, given, where, derived))

    def _maps(self, outputs: int) -> tuple[int, int, int]:
        """Return the shape of an image with this number of outputs, with the data's size."""
        channels, height, across = outputs // math.prod(self.shape[1:]), *self.shape[1:]
        return channels, height, across

    def likelihood(self, table: Any, inputs: int, x: Tensor) -> Any:
        """Build a likelihood of so many latents, initialized at the mean of x [N, D]."""
        table = named(table)
        name = table.get("name")
        kind = names.part("likelihood", name)
        if name == "Masked":
            inner = required(table, "likelihood", "likelihood Masked")
            return kind(self.likelihood(inner, inputs, x))
        if name == "Columns":
            return self._columns(table, inputs, x)
        inputs += sum(self.covariates)
        if name == "AutoregressiveBernoulli":
            given = {"shape": self.shape}
            pixels = arguments(pv.nets.PixelCNN, named(table.get("pixels")), PIXELS, given)
            outputs = pixels["features"] * x.shape[-1]
            features = self.net(table.get("features"), inputs, outputs, decoder=True)
            return kind(features, pv.nets.PixelCNN(**pixels)).start_at_mean(x)
        given = arguments(kind, table, "likelihood", {"width": x.shape[-1]})
        if given.get("library"):
            if not self.covariates:
                raise ValueError(
                    f"likelihood {name} with library needs the library size as the last "
                    "covariate: --data.covariates"
                )
            inputs -= self.covariates[-1]
        outputs = kind(nn.Identity(), **given).parameters_at(torch.zeros_like(x[:2])).shape[-1]
        net = self.net(table.get("net"), inputs, outputs, decoder=True)
        return kind(net, **given).start_at_mean(x)

    def _columns(self, table: Table, inputs: int, x: Tensor) -> Any:
        trunk = None
        if self.schema is not None and not table.get("groups"):
            latents = inputs + sum(self.covariates)
            return pv.likelihoods.Columns.of(self.schema, latents, hidden=self.hidden[::-1])
        if "trunk" in table:
            inputs, before = self.hidden[0], inputs
            trunk = self.net(table["trunk"], before, inputs)
        groups = []
        for group in map(named, listed(table, "groups", "likelihood Columns")):
            where = "likelihood Columns, a group"
            columns = convert(required(group, "columns", where), list[int], "columns")
            own = {key: value for key, value in group.items() if key != "columns"}
            groups.append((self.likelihood(own, inputs, x[:, columns]), columns))
        return pv.likelihoods.Columns(groups, trunk=trunk)

    def prior(self, table: Any, inputs: int, guide: Any = None) -> Any:
        """Build a prior.

        Args:
            table: the table of the prior.
            inputs: the number of latents that it is conditioned on.
            guide: the guide, which a VampPrior shares.
        """
        table = named(table)
        name = table.get("name")
        kind = names.part("prior", name)
        if name == "Joint":
            parts = {}
            for site, part in named(required(table, "parts", "prior Joint")).items():
                parts[site] = self.prior(part, inputs, guide)
                inputs += width(part)
            return kind(**parts)
        if name == "Hierarchical":
            levels = []
            for level in listed(table, "levels", "prior Hierarchical"):
                levels.append(self.prior(level, inputs, guide))
                inputs = width(level)
            return kind(*levels)
        if name == "ConditionalNormal":
            if not inputs:
                raise ValueError(
                    "prior ConditionalNormal is conditioned on nothing here: use it as a level of "
                    "a Hierarchical below the top, or as a later part of a Joint"
                )
            return kind(self.net(table.get("net"), inputs, 2 * width(table), decoder=True))
        if name == "VampPrior":
            given = arguments(kind, table, "prior", {"guide": guide})
            return kind(**given).start_at_data(self.x)
        widths = {"latents": width(table), "classes": width(table)}
        return kind(**arguments(kind, table, "prior", widths))

    def guide(self, table: Any, prior: Table, built: Any = None, inputs: int | None = None) -> Any:
        """Build a guide for the latents of a prior.

        Args:
            table: the table of the guide. Without a name, it is the default guide of the prior.
            prior: the table of the prior.
            built: the prior itself, which a Ladder shares.
            inputs: the number of inputs of the guide; None for that of x.
        """
        inputs = self.x.shape[-1] + sum(self.covariates) if inputs is None else inputs
        table, prior = named(table), named(prior)
        name = defaults.guide_of(table, prior)
        kind = names.part("guide", name)
        if name == "Joint":
            return kind(**self._joint(named(table.get("parts")), prior, inputs))
        if name == "Hierarchical":
            return kind(*self._levels(table.get("levels"), prior, inputs))
        if name == "Ladder":
            return self._ladder(prior, built)
        latents = width({**prior, **table} if "latents" in table else prior)
        derived = {"latents": latents, "features": (self.hidden or [inputs])[-1]}
        given = arguments(kind, table, "guide", derived)
        return kind(self.net(table.get("net"), inputs, _outputs(kind, latents, given)), **given)

    def _joint(self, tables: Table, prior: Table, inputs: int) -> dict[str, Any]:
        """Build the parts of a guide: those of the tables, or one for each part of the prior."""
        of_prior = named(required(prior, "parts", "prior Joint"))
        parts = {}
        for site in tables or of_prior:
            below = of_prior.get(site, {})
            parts[site] = self.guide(tables.get(site, {}), below, inputs=inputs)
            inputs += width({**named(below), **named(tables.get(site, {}))})
        return parts

    def _levels(self, tables: Any, prior: Table, inputs: int) -> list[Any]:
        """Build the levels of a guide from the lowest up; a prior's are from the top down."""
        of_prior = [named(level) for level in listed(prior, "levels", "prior Hierarchical")][::-1]
        given = {"levels": tables or [{}] * len(of_prior)}
        levels = []
        for table, below in zip(
            listed(given, "levels", "guide Hierarchical"), of_prior, strict=False
        ):
            levels.append(self.guide(table, below, inputs=inputs))
            inputs = width(below)
        return levels

    def _ladder(self, prior: Table, built: Any) -> Any:
        widths = [width(level) for level in listed(prior, "levels", "prior Hierarchical")][::-1]
        features = (self.hidden or [self.x.shape[-1]])[-1]
        if self.covariates:
            raise ValueError("guide Ladder takes no covariates: choose another guide")
        sizes = [self.x.shape[-1], *[features] * len(widths)]
        return pv.guides.Ladder(
            built,
            upward=[self.net({}, size, features) for size in sizes[:-1]],
            estimates=[self.net({}, features, 2 * each) for each in widths],
        )


def _outputs(guide: Any, latents: int, given: Table) -> int:
    """Return the number of outputs of the network of a guide with one site."""
    if hasattr(guide, "width"):
        taken = inspect.signature(guide.width).parameters
        known = {**given, "latents": latents}
        outputs: int = guide.width(**{name: known[name] for name in taken})
        return outputs
    own: dict[str, int] = {
        "MeanFieldNormal": 2 * latents,
        "PowerSpherical": latents + 1,
        "Flow": given.get("features", 0),
    }
    return own.get(guide.__name__, latents)
