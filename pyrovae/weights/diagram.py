"""Show the programs of a VAE in a notebook: their sites, what depends on what, and the parts.

The programs are run once, on two data that the model samples, as `pyro.render_model` runs them.
Nothing of this run is left: no random number is used up, and no parameter is created.
"""

from __future__ import annotations

import contextlib
import copy
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, Final
from xml.etree import ElementTree

import pyro
import torch
from torch import nn

from pyrovae.files import html
from pyrovae.parts import as_call, describe
from pyrovae.randomness import seeded
from pyrovae.weights.families import innermost
from pyrovae.weights.sites import one_line, sample_sites
from pyrovae.weights.stored import held_modules
from pyrovae.weights.target import buffers_kept, evaluation_mode
from pyrovae.weights.traces import trace_pair

__all__ = ["vae_as_html"]

PLACE: Final = "{http://www.w3.org/2000/svg}"
DRAWN: Final = frozenset({"svg", "g", "title", "polygon", "ellipse", "path", "text"})
"""The elements of a diagram; one with others is not shown."""


def vae_as_html(vae: Any) -> str:
    """Return a VAE as HTML: its diagrams where graphviz is there, its sites and its parts."""
    found = []
    try:
        with _left_as_it_was(vae), torch.no_grad():
            x = vae.model(None, size=2)
            traces = trace_pair(vae.model, vae.guide, x, particles=1, enumerate=False)
            model, guide = (dict(sample_sites(trace)) for trace in traces)
            found += [_diagrams(vae, x, model, guide), _sites(model, guide)]
    except Exception as error:  # a notebook shows what there is of any VAE
        found.append(
            html.sentence(f"Its sites are not shown, as the programs need more: {one_line(error)}")
        )
    return html.block(*found, _parts(vae))


@contextlib.contextmanager
def _left_as_it_was(vae: Any) -> Iterator[None]:
    """Keep the random generators, buffers, modes and Pyro's parameters through a block."""
    store, stored = pyro.get_param_store(), vae.stored
    vae.stored = copy.deepcopy(stored)  # it gives loaded values to the first run
    try:
        with seeded(0), buffers_kept(vae), evaluation_mode(vae), store.scope(store.get_state()):
            yield
    finally:
        vae.stored = stored
        for name in store:
            _ = store[name]  # this restores what `get_state` takes off a parameter


def _parts(vae: Any) -> str:
    """Return the table of the three parts, with the numbers of their parameters."""
    parts = {"prior": vae.prior, "likelihood": vae.likelihood, "guide": vae.posterior}
    rows = [
        [role, as_call(describe(part)), f"{_parameters(part):,}"] for role, part in parts.items()
    ]
    # What parts share, such as the guide of a VampPrior, is counted once in the sum.
    rows.append(["all", "", f"{_parameters(*parts.values()):,}"])
    return html.table("VAE", ["", "part", "parameters"], rows, words=[1])


def _parameters(*parts: Any) -> int:
    """Return the number of the parameters of parts, those that they share once."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    plain = {str(i): part for i, part in enumerate(parts) if not isinstance(part, nn.Module)}
    modules += held_modules(**plain).values()
    each = {id(p): p.numel() for module in modules for p in module.parameters()}
    return sum(each.values())


def _sites(model: dict[str, Any], guide: dict[str, Any]) -> str:
    """Return the table of the sites: their shapes per datum, and their distributions."""
    rows = []
    for name, site in {**model, **guide}.items():
        shape = list(site["fn"].event_shape)
        cells = [_family(program[name]) if name in program else "" for program in (model, guide)]
        observed = name in model and model[name]["is_observed"]
        rows.append([name, str(shape), cells[0], "observed" if observed else cells[1]])
    return html.table("sites", ["site", "shape", "model", "guide"], rows, words=[1, 2, 3])


def _family(site: Any) -> str:
    return type(innermost(site["fn"])).__name__


def _diagrams(vae: Any, x: Any, model: dict[str, Any], guide: dict[str, Any]) -> str:
    """Return the diagrams of the two programs as SVG; "" where graphviz is not there."""
    if shutil.which("dot") is None:
        return ""
    try:
        drawn = [
            (words, _svg(pyro.render_model(program, (x,)).pipe(format="svg"), sites))
            for words, program, sites in (("model", vae.model, model), ("guide", vae.guide, guide))
        ]
    except Exception:  # without its package, or for a program that it cannot trace
        return ""
    return "".join(
        '<figure style="display: inline-block; margin: 0 1.5em 0.5em 0; vertical-align: top;">'
        f'{svg}<figcaption style="opacity: 0.75;">{words}</figcaption></figure>'
        for words, svg in drawn
    )


def _svg(drawn: bytes, sites: Iterable[str]) -> str:
    """Return a diagram of graphviz in the colors of the notebook, without its ids.

    Raises:
        ValueError: if it holds anything but shapes and text, or not the names of the sites, as of
            one that graphviz reads as its own markup.
    """
    tree = ElementTree.fromstring(re.sub(rb"<!DOCTYPE[^>]*>", b"", drawn))
    for element in tree.iter():
        element.tag = element.tag.removeprefix(PLACE)
        if element.tag not in DRAWN:
            raise ValueError(f"a diagram has no <{element.tag}>")
        element.attrib.pop("id", None)
        _recolor(element)
    if not {*sites} <= {element.text for element in tree.iter("text")}:
        raise ValueError(f"the diagram lacks one of the sites {list(sites)}")
    tree.attrib["xmlns"] = PLACE[1:-1]
    tree.attrib["style"] = "max-width: 100%; height: auto;"
    return ElementTree.tostring(tree, encoding="unicode")


def _recolor(element: Any) -> None:
    """Draw what is black in the color of the text, and observed sites as a shade of it."""
    if element.tag == "text":
        element.attrib["fill"] = "currentColor"
    if element.attrib.get("stroke") == "black":
        element.attrib["stroke"] = "currentColor"
    fill = element.attrib.get("fill")
    if fill == "black":
        element.attrib["fill"] = "currentColor"
    elif fill in ("white", "lightgrey"):
        element.attrib["fill"] = "none"
    elif fill == "gray":
        element.attrib |= {"fill": "currentColor", "fill-opacity": "0.2"}
    if element.attrib.get("stroke") == "transparent":
        element.attrib["stroke"] = "none"
