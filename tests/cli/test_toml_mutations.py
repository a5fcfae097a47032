"""An experiment's file with any edit is one clear line, or an experiment.

`MUTATIONS=1000 pytest tests/cli/test_toml_mutations.py` tries so many.
"""

import copy
import os
import tomllib

import hypothesis
import hypothesis.strategies as st
import pytest

import pyrovae as pv
from pyrovae.cli import main
from pyrovae.cli.sweep_table import _toml
from pyrovae.train.callbacks import History

EXPERIMENTS = tuple(
    map(
        tomllib.loads,
        (
            """
            prior = {name = "VampPrior", components = 7, latents = 2}
            likelihood = {name = "Normal", scale = "network"}
            guide = {name = "LowRankNormal", rank = 1}
            net = {name = "GatedMLP", hidden = [8, 6]}
            objective = {name = "IWAE", particles = 3, gradient = "dreg"}
            data = {name = "digits", binarization = "none"}
            training = {epochs = 1, lr = 0.002, seed = 3, kl_weight = 0.5, compile = false}
            """,
            """
            net = {hidden = [8], activation = "ReLU"}
            training = {patience = 2, free_bits = 0.1, kl_weight = "linear:0:1:3"}
            [[prior.levels]]
            name = "StandardNormal"
            latents = 2
            [[prior.levels]]
            name = "ConditionalNormal"
            latents = 3
            [prior]
            name = "Hierarchical"
            """,
            """
            prior = {name = "Flow", latents = 2, transforms = 1, hidden = 4}
            likelihood = {name = "Masked", likelihood = "Bernoulli"}
            objective = {name = "FactorVAE", gamma = 2.0}
            """,
            """
            sweep = {"prior.latents" = [2, 3], training = {lr = [0.1, 0.2]}}
            prior = {parts = {y = {name = "OneHot", classes = 3}, z = "StandardNormal"}}
            """,
        ),
    )
)
WORDS = (
    *("name", "latents", "hidden", "digits", "IWAE", "MLP", "Normal", "Flow", "epochs", "lr"),
    *("linear:0:1", "low", "high", "trials", "nan", "../x", "", "a b", "é", "training", "-", "."),
)
"""Words of experiments and others, to be keys and values."""

VALUES = st.recursive(
    st.sampled_from((*WORDS, -1, 0, 1, 2, 3, 17, 2**62, -(2**62), True, False))
    | st.sampled_from((0.0, -0.5, 0.5, 1e300, float("inf"), float("-inf"), float("nan"))),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(tree, path=()):
    """Yield the path of every value of nested tables and lists."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(value, (*path, key))


def edited(tree, draw):
    """Return a copy of a tree with one value replaced, removed, renamed or added."""
    tree = copy.deepcopy(tree)
    *above, last = draw(st.sampled_from(list(places(tree))))
    inner = tree
    for key in above:
        inner = inner[key]
    kind = draw(st.sampled_from(("value", "value", "gone", "renamed", "added")))
    if kind == "value":
        inner[last] = draw(VALUES)
    elif kind == "gone":
        del inner[last]
    elif kind == "added" or isinstance(inner, list):
        more = draw(st.sampled_from(WORDS)), draw(VALUES)
        inner.append(more[1]) if isinstance(inner, list) else inner.update([more])
    else:
        inner[draw(st.sampled_from(WORDS))] = inner.pop(last)
    return tree


def text(draw):
    """Draw the text of an experiment with one to three edits, perhaps one of its characters."""
    tree = draw(st.sampled_from(EXPERIMENTS))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        if tree:
            tree = edited(tree, draw)
    lines = "".join(f'"{key}" = {_toml(value)}\n' for key, value in tree.items())
    if draw(st.integers(0, 4)) or not lines:
        return lines
    at = draw(st.integers(0, len(lines) - 1))
    return lines[:at] + draw(st.sampled_from("\"'[]{}=.,#\n\0é1")) + lines[at + 1 :]


@pytest.fixture
def built(monkeypatch):
    """Build what a training needs, and do not train."""
    monkeypatch.setattr("pyrovae.cli.train.fit", lambda *_, **__: History())
    digits = pv.data.load("digits")
    monkeypatch.setattr("pyrovae.runs.sources.load", lambda *_, **__: digits)


@hypothesis.settings(
    max_examples=int(os.environ.get("MUTATIONS", "200")),
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(data=st.data())
def test_an_edited_experiment_is_one_line_or_is_built(built, tmp_path_factory, capsys, data):
    folder = tmp_path_factory.mktemp("edited")
    (folder / "experiment.toml").write_text(content := text(data.draw))
    hypothesis.note(content)
    command, *more = ["sweep", "--print"] if "sweep" in content else ["train"]
    capsys.readouterr()
    argv = [command, str(folder / "experiment.toml"), "--out", str(folder / "run"), *more]
    code = main(argv)
    said = capsys.readouterr()
    hypothesis.note(said.err)
    assert code in (0, 2)
    lines = said.err.splitlines()
    assert [line.startswith("pyrovae: error: ") for line in lines] == [True] * (code == 2)
    assert all(len(line) <= 700 for line in lines)


@pytest.mark.parametrize("tree", EXPERIMENTS)
def test_unedited_they_are_built(built, tmp_path, tree):
    file = tmp_path / "experiment.toml"
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in tree.items()))
    command = ["sweep", str(file), "--print"] if "sweep" in tree else ["train", str(file)]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
