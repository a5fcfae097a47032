"""Every case of every family, by name: what the protocol tests run over."""

import copy
import importlib
from pathlib import Path

from cases import Case


def _gathered():
    """Return the constructors of every `tests/cases_<family>.py`, by "family: name"."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("cases_*.py")):
        family = path.stem.removeprefix("cases_")
        for name, make in importlib.import_module(path.stem).CASES.items():
            found[f"{family}: {name}"] = make
    return found


CASES = _gathered()


def doubled(value):
    return value.double() if value.is_floating_point() else value


def in_double(case):
    context = tuple(map(doubled, case.context))
    return Case(copy.deepcopy(case.vae).double(), case.x.double(), context)
