"""The code of each page of the site runs from top to bottom, in one namespace and offline."""

import re
from pathlib import Path

import matplotlib
import pyro
import pytest

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^(`{3,}|:{3,})(?P<language>.*)\n(?P<code>(?:.*\n)*?)\1\s*$", re.MULTILINE)
HEADER = re.compile(r"\A(?:---\n(?:.*\n)*?---\n|(?::[\w-]+:.*\n)+)\n?")
FRONT = "---\nfile_format: mystnb\n"


def pages() -> list[Path]:
    """Return the pages that people write; notebooks and the reference have tests of their own."""
    own = {"_build", "notebooks", "reference"}
    return sorted(
        path for path in DOCS.rglob("*.md") if not own & set(path.relative_to(DOCS).parts)
    )


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the language and the code of each fenced block."""
    return [(found["language"].strip(), found["code"]) for found in FENCE.finditer(text)]


def cells(text: str) -> list[str]:
    """Return the code of each cell, without its options."""
    return [
        HEADER.sub("", code)
        for language, code in blocks(text)
        if language.startswith("{code-cell}")
    ]


def name(path: Path) -> str:
    return path.relative_to(DOCS).with_suffix("").as_posix()


def test_cells_are_found_without_their_options():
    text = "```{code-cell} ipython3\n:tags: [hide-input]\n\nx = 1\n```\n\n```python\ny\n```\n"
    assert cells(text) == ["x = 1\n"]
    assert [language for language, _ in blocks(text)] == ["{code-cell} ipython3", "python"]


@pytest.mark.parametrize("path", pages(), ids=name)
def test_no_code_is_shown_that_is_not_executed(path):
    shown = {language for language, _ in blocks(path.read_text())}
    assert not shown & {"python", "py", "ipython3", "pycon", "{code-block} python"}


@pytest.mark.parametrize("path", [path for path in pages() if cells(path.read_text())], ids=name)
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch, capsys):
    text = path.read_text()
    assert text.startswith(FRONT), "the site executes only pages that say `file_format: mystnb`"
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    store = pyro.get_param_store().scope()  # a page is a process of its own, and leaves its own
    with matplotlib.rc_context({"backend": "agg"}), store:
        for number, code in enumerate(cells(text), start=1):
            exec(compile(code, f"{name(path)}.md, cell {number}", "exec"), names)
        if "pyplot" in text:
            names["plt"].close("all")
