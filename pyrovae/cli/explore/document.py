"""The page as one document: its markup, style and script in it, and no permission for more.

The Content-Security-Policy names the hashes of its own script and style, so no other runs, and
connects to nothing but `connect`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from markupsafe import escape

__all__ = ["document", "script"]

FOLDER: Final = Path(__file__).parent

SCRIPTS: Final = ("source.js", "map.js", "draw.js", "hands.js", "page.js")
"""The scripts of every page, in order."""


def script(name: str) -> str:
    """Return a script of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def document(title: str, *scripts: str, connect: str = "'none'") -> str:
    """Return the page with its scripts, of which the last calls `start(source)`.

    Args:
        title: the title, which is escaped.
        *scripts: JavaScript that runs after those of the page.
        connect: what the page may connect to, a source list of a Content-Security-Policy.

    Raises:
        ValueError: if a script would end its own element.

    Example:
        >>> page = document("<b>", "start(new Served(''))", connect="'self'")
        >>> "<title>&lt;b&gt;</title>" in page
        True
    """
    code = "\n".join([*map(script, SCRIPTS), *scripts])
    if "</script" in code.lower():
        raise ValueError("a script contains </script, which would end it: write <\\/script")
    style = script("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(code)}; style-src {_hash(style)}; "
        f"img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    parts = {"POLICY": policy, "TITLE": str(escape(title)), "STYLE": style, "SCRIPT": code}
    names = "|".join(parts)  # in one pass: a part may contain the name of another
    return re.sub(f"@({names})@", lambda met: parts[met[1]], script("page.html"))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
