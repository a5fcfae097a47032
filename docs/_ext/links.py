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
from names import resolve
from public import everything
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ELSEWHERE = {
    "ELBO": "pyro.infer.elbo.ELBO",
    "PyroOptim": "pyro.optim.optim.PyroOptim",
    "pyro.distributions.distribution.Distribution": "pyro.distributions.Distribution",
    "Optimizer": "torch.optim.Optimizer",
    "Tensor": "torch.Tensor",
    "torch._C.Generator": "torch.Generator",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
    "torch.utils.data.dataset.Dataset": "torch.utils.data.Dataset",
    "numpy.random._generator.Generator": "numpy.random.Generator",
    "NDArray": "numpy.typing.NDArray",
    "nw.DataFrame": "narwhals.DataFrame",
    "nw.Series": "narwhals.Series",
}
"""Names of other projects as signatures have them, and as their sites do."""


def complete(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Give an unresolved reference the name of the reference or of another project's site."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    node["reftarget"] = ELSEWHERE.get(target) or documented(target) or target
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
