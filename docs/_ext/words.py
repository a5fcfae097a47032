"""The words of the glossary, which docstrings use without markup."""

from __future__ import annotations

import functools
import re
from pathlib import Path

GLOSSARY = Path(__file__).parents[1] / "glossary.md"
BESIDE = {
    "rate": "KL|distortion|latent",
    "rates": "KL|distortion|latent",
    "site": "latent|Pyro",
    "nat": "bits",
    "prior": "[Pp]rior, (a |the )?likelihood",
    "likelihood": "[Pp]rior, (a |the )?likelihood",
    "posterior": "approximat",
}
"""Words with a second meaning, as in "learning rate", and words that most docstrings have, with
what a docstring has beside those that are linked."""


@functools.cache
def glossary() -> dict[str, str]:
    """Return each word of the glossary, with the first word of its entry."""
    found, entry = {}, ""
    inside = re.search(r"```\{glossary\}\n(.*?)```", GLOSSARY.read_text(), re.DOTALL)
    for line in inside[1].splitlines() if inside else ():
        if line.strip() and not line.startswith(" "):
            entry = entry or line.strip()
            found[line.strip()] = entry
        else:
            entry = ""
    return found


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Return a pattern that matches any word of the glossary as a whole, the longest first."""
    words = sorted(glossary(), key=len, reverse=True)
    spaced = [r"\s+".join(map(re.escape, word.split())) for word in words]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(spaced)})(?![\w(:-])")


class Unlinked:
    """The entries of the glossary that one docstring has not yet linked."""

    def __init__(self, text: str):
        other = {word for word, beside in BESIDE.items() if not re.search(beside, text)}
        self.entries = set(glossary().values()) - other

    def link(self, text: str) -> str:
        """Link the first word of each entry, and take the entry out."""
        return _pattern().sub(lambda found: self._linked(found[0]), text)

    def _linked(self, met: str) -> str:
        word = " ".join(met.split())
        entry = glossary()[word]
        if entry not in self.entries:
            return met
        self.entries.remove(entry)
        return f":term:`{word}`"
