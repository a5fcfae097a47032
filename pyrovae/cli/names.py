"""Find the public names of the library's parts without importing them.

Names in an experiment are looked up here only, so an experiment can name nothing but these parts.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyrovae

__all__ = ["ELBO", "MODULES", "part", "parts", "unknown"]

MODULES: Final = {
    "prior": "priors",
    "likelihood": "likelihoods",
    "guide": "guides",
    "net": "nets",
    "objective": "objectives",
}
"""The module of the library that holds the parts of each table."""

QUANTIZERS: Final = frozenset({"Codebook", "Lattice", "Quantized", "Quantizer", "TorchCodebook"})

FROM_PYTHON: Final = QUANTIZERS | {
    *("Folded", "CausalTransformer", "Label", "OfContext", "SemiSupervised"),
    *("AutoregressiveCodes", "Codes", "FSQ", "VectorQuantized"),
    *("Markov", "Combiner", "EachStep", "LinearStates", "BackwardGRU", "FIVO"),
    *("Modalities", "EachModality"),
    *("ProductOfExperts", "MixtureOfExperts", "MixtureOfProducts"),
    *("Autoregressive", "CausalAttention", "CausalGRU"),
    *("EmbedTokens", "EncodeSequence", "WordDropout"),
    *("ResidualLadder", "MapsDecoder"),
}
"""Parts that an experiment cannot name.

They wrap a module of one's own, share a quantizer or a ladder, take labels, or are of
sequences or of several modalities.
"""

ELBO: Final = "ELBO"
"""The name of the default objective of `fit`, which is not a class of the library."""


@functools.cache
def parts(role: str) -> tuple[str, ...]:
    """Return the names of the parts of a role.

    They are the public classes of the module, except for abstract ones, which are in its file
    `base.py`, and those of `FROM_PYTHON`. The source is parsed, not imported, so help does not
    import torch.

    Example:
        >>> parts("objective")[:3]
        ('ELBO', 'CIWAE', 'CUBO')
    """
    source = Path(pyrovae.__file__).parent / MODULES[role] / "__init__.py"
    imports = [
        statement
        for statement in ast.parse(source.read_text()).body
        if isinstance(statement, ast.ImportFrom) and not (statement.module or "").endswith("base")
    ]
    shown = {alias.name for statement in imports for alias in statement.names}
    public = {name for name in shown if name[0].isupper() and "_" not in name}
    classes = sorted(public - FROM_PYTHON)
    return (ELBO, *classes) if role == "objective" else tuple(classes)


def part(role: str, name: Any) -> Any:
    """Return the class with this name.

    Raises:
        ValueError: if the library has no such part.

    Example:
        >>> part("prior", "VampPrior").__name__
        'VampPrior'
        >>> part("prior", "vampprior")
        Traceback (most recent call last):
        ...
        ValueError: no prior 'vampprior': did you mean VampPrior? There are Bernoulli, ...
    """
    if name not in parts(role):
        raise ValueError(unknown(role, str(name), parts(role)))
    return getattr(importlib.import_module(f"pyrovae.{MODULES[role]}"), name)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return an error message for an unknown name, with the nearest name and all names.

    Example:
        >>> unknown("table", "piror", ["guide", "prior"])
        "no table 'piror': did you mean prior? There are guide, prior"
    """
    known = list(known)
    lower = {each.lower(): each for each in known}
    plain = name.lower().replace("-", "")
    near = difflib.get_close_matches(plain, [each.replace("_", "") for each in lower], 1)
    nearest = next((each for key, each in lower.items() if key.replace("_", "") in near), None)
    hint = f"did you mean {nearest}? " if nearest else ""
    listed = f"There are {', '.join(known)}" if known else "There are none"
    return f"no {kind} {name!r}: {hint}{listed}"
