"""Resolve references that a signature or a page spells in another way than the reference does.

A class has the name of the file that defines it, `pyrovae.measure.report.Report`, and is
documented as `pyrovae.Report`; classes of other projects likewise. Names that only type checkers
see are spelled without their module.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from docutils import nodes
from names import elsewhere, resolve
from public import everything
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def complete(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Give an unresolved reference the name of the reference or of another project's site."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    node["reftarget"] = documented(target) or elsewhere(target) or target
    return env.domains.python_domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, contnode
    )


@functools.cache
def documented(target: str) -> str | None:
    """Return the documented name of an object under another one, None if there is none."""
    parts = target.split(".")
    if parts[0] in ("pyrovae", "pv"):
        for end in range(len(parts) - 1, 0, -1):
            try:
                module = importlib.import_module(".".join(["pyrovae", *parts[1:end]]))
            except ImportError:
                continue
            return resolve(".".join(parts[end:]), module)
    last = [item.name for item in everything() if item.name.endswith(f".{target}")]
    return last[0] if len(last) == 1 else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Complete names before other projects are asked for them."""
    app.connect("missing-reference", complete, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
