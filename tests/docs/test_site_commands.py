"""The command lines that the site and README.md show are of the grammar of the command line."""

import re
import shlex
from pathlib import Path

import pytest

from pyrovae.cli import experiment
from pyrovae.cli.grammar import APP

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the words of each `pyrovae` command in the console blocks of a page."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("pyrovae ")]


def parse(words: list[str]) -> None:
    rest, _ = experiment.split(words)
    APP.parse_args(rest, exit_on_error=False, print_error=False)


def pages() -> dict[str, list[list[str]]]:
    """Return the commands of each page that has any, by the page's name."""
    found = {
        path.relative_to(DOCS).with_suffix("").as_posix(): commands(path.read_text())
        for path in sorted(DOCS.rglob("*.md"))
        if "_build" not in path.parts
    }
    found["README"] = commands((DOCS.parent / "README.md").read_text())
    return {name: lines for name, lines in found.items() if lines}


def test_continued_lines_and_comments_are_read():
    text = "```console\npyrovae train --data digits \\\n    --latents 2  # small\nls\n```\n"
    assert commands(text) == [["train", "--data", "digits", "--latents", "2"]]


def test_an_option_that_is_not_there_is_found():
    with pytest.raises(Exception, match="latent_dim"):
        parse(["train", "--latent_dim", "2"])


@pytest.mark.parametrize("page", pages())
def test_commands_parse(page):
    for words in pages()[page]:
        parse(words)
