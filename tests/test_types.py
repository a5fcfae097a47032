"""What users call says what it takes: no target, program, data or context is of any type."""

import inspect

import pytest

import pyrovae as pv
from pyrovae import types

ALIASES = {
    "target": "Target",
    "model": "Program",
    "guide": "Program",
    "data": "Data",
    "validation": "Data | None",
    "context": "ContextValue",
}


def has_a_signature(value):
    return callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))


PUBLIC = sorted(name for name in pv.__all__ if has_a_signature(getattr(pv, name)))


def typed(function):
    """Return what the arguments that have an alias are annotated with."""
    found = inspect.signature(function).parameters
    return {n: found[n].annotation for n in ALIASES if n in found}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_function_names_what_it_takes(name):
    for argument, annotation in typed(getattr(pv, name)).items():
        assert annotation != "Any", f"{name}({argument})"


@pytest.mark.parametrize(
    "function", [pv.fit, pv.evaluate, pv.log_weights, pv.impute, pv.refine, pv.analytic_kl]
)
def test_the_aliases_are_those_of_one_module(function):
    assert typed(function)
    for argument, annotation in typed(function).items():
        assert annotation == ALIASES[argument]
        assert all(hasattr(types, part) for part in annotation.split(" | ") if part != "None")
