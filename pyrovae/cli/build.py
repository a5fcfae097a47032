"""Build the parts of a VAE, and an objective, from the tables of an experiment.

The entries of a table are the arguments of the part's constructor. What follows from the rest is
derived: the number of latents, the widths of networks, the shape of the data.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.cli import names
from pyrovae.cli.experiment import named
from pyrovae.data import DataSet, seeded
from pyrovae.vae import VAE

__all__ = ["Builder", "objective", "vae"]

Table = Mapping[str, Any]

GUIDES: Final = {
    "UniformSphere": "PowerSpherical",
    **{name: name for name in ("Bernoulli", "Categorical", "OneHot", "RelaxedOneHot")},
    **{name: name for name in ("Joint", "Hierarchical")},
}
"""The guide that goes with a prior, where it is another than `MeanFieldNormal`."""

PIXELS: Final = "likelihood.pixels"
WIDTHS: Final = list[typing.Annotated[int, msgspec.Meta(ge=1)]]


def vae(tables: Table, data: DataSet, *, seed: int = 0) -> VAE:
    """Build the VAE of an experiment, its weights drawn at the seed.

    The likelihood starts at the mean of the training data, and a VampPrior at some of them.

    Args:
        tables: of the experiment (see `experiment.layered`).
        data: what it is built for.
        seed: of the weights.

    Raises:
        ValueError: naming the entry that is missing, unknown or of another kind; and what the
            parts themselves raise.

    Example:
        >>> from pyrovae.cli.experiment import layered
        >>> tables = layered([{"prior": {"name": "VampPrior", "components": 9, "latents": 2}}])
        >>> vae(tables, pv.data.load("digits")).prior.pseudo_inputs.shape
        torch.Size([9, 64])
    """
    builder = Builder(tables, data.train.x, data.shape)
    prior = named(tables["prior"])
    with seeded(seed):
        likelihood = builder.likelihood(tables["likelihood"], width(prior), data.train.x)
        given = tables.get("guide") or {}
        needs_prior = given.get("name") == "Ladder"
        built = builder.prior(prior, 0) if needs_prior else None
        guide = builder.guide(given, prior, built)
        return VAE(builder.prior(prior, 0, guide) if built is None else built, likelihood, guide)


def objective(table: Table) -> Any:
    """Build an objective; None for the plain ELBO of one particle, which `fit` has of its own.

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
        made = {"m": entries["particles"], "k": 1, "gradient": entries["gradient"]}
        return pv.objectives.MIWAE(**arguments(pv.objectives.MIWAE, made, "objective"))
    kind = names.part("objective", table["name"])
    taken = inspect.signature(kind).parameters
    entries = dict(table)
    if "k" in taken and "m" not in taken:  # all the particles that there are
        if "k" in entries:
            raise ValueError(f"objective {table['name']}: the argument k is called particles")
        if "particles" not in entries:
            raise ValueError(f"objective {table['name']} needs particles: --particles K")
        entries["k"] = entries.pop("particles")
    return kind(**arguments(kind, entries, "objective"))


def width(table: Any) -> int:
    """Return how many numbers of a prior the likelihood takes, as its tables say.

    Example:
        >>> width({"name": "Joint", "parts": {"a": {"latents": 2}, "b": {"latents": 3}}})
        5
    """
    table = named(table)
    if table.get("name") == "Joint":
        return sum(map(width, _required(table, "parts", "prior Joint").values()))
    if table.get("name") == "Hierarchical":
        return width(_required(table, "levels", "prior Hierarchical")[-1])
    latents = table.get("classes", table.get("latents"))
    if latents is None:
        raise ValueError(f"{table.get('name') or 'a part'} needs latents: how many numbers z has")
    return convert(latents, int, "latents")


def arguments(
    kind: type, table: Table, where: str, derived: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a constructor: those of a table, and those that are derived.

    Args:
        kind: the class.
        table: its entries; `name`, and `latents` where the class takes none, are passed over.
        where: the table's place, for errors.
        derived: arguments that a table need not give.

    Raises:
        ValueError: for an entry that is unknown, of another kind, or missing.
    """
    hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    taken = {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if hints.get(name) is not nn.Module
    }
    entries = {key: value for key, value in table.items() if key not in ("name", "latents", "net")}
    if "latents" in taken and "latents" in table:
        entries["latents"] = table["latents"]
    found = {name: value for name, value in (derived or {}).items() if name in taken}
    for key, value in entries.items():
        if key not in taken:
            raise ValueError(f"{where} {kind.__name__}: {names.unknown('argument', key, taken)}")
        found[key] = convert(value, hints[key], f"{where}.{key}")
    for name, parameter in taken.items():
        if parameter.default is parameter.empty and name not in found:
            raise ValueError(f"{where} {kind.__name__} needs {name}: --{where}.{name}")
    return found


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return a value as the kind of number, text or list that an argument takes.

    Raises:
        ValueError: naming the place, if it is of another kind.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at")[0]
        raise ValueError(f"--{where}: {what[0].lower()}{what[1:]}; got {value!r}") from None


@dataclass(frozen=True)
class Builder:
    """Build parts for one data set, with the networks of one experiment.

    Attributes:
        tables: of the experiment.
        x: the training data [N, D].
        shape: (channels, height, width) of an image, whose flat form is a row of x.
    """

    tables: Table
    x: Tensor
    shape: tuple[int, int, int]

    @property
    def hidden(self) -> list[int]:
        """The widths of the hidden layers of a guide's network."""
        hidden: list[int] = convert(self.tables["net"].get("hidden", []), WIDTHS, "net.hidden")
        return hidden

    def net(
        self, table: Any, inputs: int, outputs: int, *, decoder: bool = False, where: str = "net"
    ) -> nn.Module:
        """Build a network of so many inputs and outputs; of an image, where it is a decoder's."""
        table = named(table) or {}
        if "name" not in table:
            table = {**self.tables["net"], **table}
        name = str(table["name"])
        kind = names.part(
            "net", re.sub("(En|De)coder$", "Decoder" if decoder else "Encoder", name)
        )
        given = {key: value for key, value in table.items() if key not in ("hidden", "activation")}
        if name == "MLP" and "activation" in table:
            given["activation"] = _activation(table["activation"])
        if "net" in inspect.signature(kind).parameters:  # one that stands before another
            more = inputs * (table.get("append_mask") is True) + (table.get("library") is True)
            inner = self.net(
                table.get("net"), inputs + more, outputs, decoder=decoder, where=where
            )
            return kind(inner, **arguments(kind, given, where))
        if "sizes" in inspect.signature(kind).parameters:
            hidden = convert(table.get("hidden", self.hidden), WIDTHS, f"{where}.hidden")
            sizes = (inputs, *(hidden[::-1] if decoder else hidden), outputs)
            return kind(*sizes, **_keywords(kind, given))
        if name == "PixelCNN":
            raise ValueError("net PixelCNN stands in a likelihood AutoregressiveBernoulli alone")
        derived = {"latents": inputs, "features": outputs, "shape": self.shape}
        if decoder:
            derived["shape"] = self._maps(outputs)
        return kind(**arguments(kind, given, where, derived))

    def _maps(self, outputs: int) -> tuple[int, int, int]:
        """Return the shape of an image of so many numbers, as large as those of the data."""
        channels, height, across = outputs // math.prod(self.shape[1:]), *self.shape[1:]
        return channels, height, across

    def likelihood(self, table: Any, inputs: int, x: Tensor) -> Any:
        """Build a likelihood of data x [N, D] from latents of a width, started at the mean."""
        table = named(table)
        name = table.get("name")
        kind = names.part("likelihood", name)
        if name == "Masked":
            inner = _required(table, "likelihood", "likelihood Masked")
            return kind(self.likelihood(inner, inputs, x))
        if name == "Columns":
            return self._columns(table, inputs, x)
        if name == "AutoregressiveBernoulli":
            given = {"shape": self.shape}
            pixels = arguments(pv.nets.PixelCNN, table.get("pixels", {}), PIXELS, given)
            outputs = pixels["features"] * x.shape[-1]
            features = self.net(table.get("features"), inputs, outputs, decoder=True)
            return kind(features, pv.nets.PixelCNN(**pixels)).start_at_mean(x)
        given = arguments(kind, table, "likelihood", {"width": x.shape[-1]})
        outputs = kind(nn.Identity(), **given).parameters_at(torch.zeros_like(x[:2])).shape[-1]
        net = self.net(table.get("net"), inputs, outputs, decoder=True)
        return kind(net, **given).start_at_mean(x)

    def _columns(self, table: Table, inputs: int, x: Tensor) -> Any:
        trunk = None
        if "trunk" in table:
            inputs, before = self.hidden[0], inputs
            trunk = self.net(table["trunk"], before, inputs)
        groups = []
        for group in _required(table, "groups", "likelihood Columns"):
            where = "likelihood Columns, a group"
            columns = convert(_required(group, "columns", where), list[int], "columns")
            own = {key: value for key, value in group.items() if key != "columns"}
            groups.append((self.likelihood(own, inputs, x[:, columns]), columns))
        return pv.likelihoods.Columns(groups, trunk=trunk)

    def prior(self, table: Any, inputs: int, guide: Any = None) -> Any:
        """Build a prior that is given so many numbers; a VampPrior is of the guide."""
        table = named(table)
        name = table.get("name")
        kind = names.part("prior", name)
        if name == "Joint":
            parts = {}
            for site, part in _required(table, "parts", "prior Joint").items():
                parts[site] = self.prior(part, inputs, guide)
                inputs += width(part)
            return kind(**parts)
        if name == "Hierarchical":
            levels = []
            for level in _required(table, "levels", "prior Hierarchical"):
                levels.append(self.prior(level, inputs, guide))
                inputs = width(level)
            return kind(*levels)
        if name == "ConditionalNormal":
            if not inputs:
                raise ValueError(
                    "prior ConditionalNormal is given nothing here: it is a level of a "
                    "Hierarchical below the top, or a later part of a Joint"
                )
            return kind(self.net(table.get("net"), inputs, 2 * width(table), decoder=True))
        if name == "VampPrior":
            given = arguments(kind, table, "prior", {"guide": guide})
            return kind(**given).start_at_data(self.x)
        widths = {"latents": width(table), "classes": width(table)}
        return kind(**arguments(kind, table, "prior", widths))

    def guide(self, table: Any, prior: Table, built: Any = None, inputs: int | None = None) -> Any:
        """Build a guide of a prior's latents.

        Args:
            table: of the guide; without a name it is the guide that goes with the prior.
            prior: the table of the prior.
            built: the prior itself, which a Ladder shares.
            inputs: the width of what the guide takes, else that of x.
        """
        inputs = self.x.shape[-1] if inputs is None else inputs
        table, prior = named(table) or {}, named(prior)
        name = table.get("name") or GUIDES.get(str(prior.get("name")), "MeanFieldNormal")
        kind = names.part("guide", name)
        _check_sphere(prior.get("name"), name)
        if name == "Joint":
            return kind(**self._joint(table.get("parts", {}), prior, inputs))
        if name == "Hierarchical":
            return kind(*self._levels(table.get("levels"), prior, inputs))
        if name == "Ladder":
            return self._ladder(prior, built)
        latents = width({**prior, **table} if "latents" in table else prior)
        derived = {"latents": latents, "features": (self.hidden or [inputs])[-1]}
        given = arguments(kind, table, "guide", derived)
        return kind(self.net(table.get("net"), inputs, _outputs(kind, latents, given)), **given)

    def _joint(self, tables: Table, prior: Table, inputs: int) -> dict[str, Any]:
        """Build the parts of a guide: those of the tables, else one for each part of the prior."""
        of_prior = prior.get("parts", {})
        parts = {}
        for site in tables or of_prior:
            below = of_prior.get(site, {})
            parts[site] = self.guide(tables.get(site, {}), below, inputs=inputs)
            inputs += width({**named(below), **named(tables.get(site, {}))})
        return parts

    def _levels(self, tables: Any, prior: Table, inputs: int) -> list[Any]:
        """Build the levels of a guide from the lowest up, the prior's from the top down."""
        of_prior = [named(level) for level in prior.get("levels", [])][::-1]
        levels = []
        for table, below in zip(tables or [{}] * len(of_prior), of_prior, strict=False):
            levels.append(self.guide(table, below, inputs=inputs))
            inputs = width(below)
        return levels

    def _ladder(self, prior: Table, built: Any) -> Any:
        widths = [width(level) for level in prior.get("levels", [])][::-1]
        if not widths:
            raise ValueError("guide Ladder goes with the prior Hierarchical: --prior Hierarchical")
        features = (self.hidden or [self.x.shape[-1]])[-1]
        sizes = [self.x.shape[-1], *[features] * len(widths)]
        return pv.guides.Ladder(
            built,
            upward=[self.net({}, size, features) for size in sizes[:-1]],
            estimates=[self.net({}, features, 2 * each) for each in widths],
        )


def _outputs(guide: Any, latents: int, given: Table) -> int:
    """Return the outputs of the network of a guide with one site."""
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


def _check_sphere(prior: Any, guide: str) -> None:
    """Refuse a guide on the sphere of a prior that is not, whose densities do not compare."""
    on_sphere = prior == "UniformSphere"
    if on_sphere != (guide == "PowerSpherical") and prior != "VampPrior":
        raise ValueError(
            f"prior UniformSphere and guide PowerSpherical go together; got {prior} and {guide}"
        )


def _required(table: Table, key: str, where: str) -> Any:
    if not table.get(key):
        raise ValueError(f"{where} needs {key}, a table of its own")
    return table[key]


def _keywords(kind: Callable[..., Any], given: Table) -> dict[str, Any]:
    """Return the keyword-only arguments of a perceptron, which takes its widths by position."""
    taken = inspect.signature(kind).parameters
    known = [name for name, parameter in taken.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for key in given:
        if key not in ("name", *known):
            said = names.unknown("argument", key, ["hidden", *known])
            raise ValueError(f"net {kind.__name__}: {said}")
    return {key: given[key] for key in known if key in given}


def _activation(name: Any) -> type[nn.Module]:
    known = nn.modules.activation.__all__
    if name not in known:
        raise ValueError(names.unknown("activation", str(name), known))
    found: type[nn.Module] = getattr(nn, name)
    return found
