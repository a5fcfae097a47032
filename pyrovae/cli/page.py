"""Render a run's report as one HTML page, which contains its figures and style.

Numbers and sentences are read from the run's files. The page is the template `page.html` with
escaped values, and the style `page.css`.
"""

from __future__ import annotations

import base64
import datetime
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyrovae.cli.recipes import described
from pyrovae.cli.sequences import Texts, per_token
from pyrovae.measure.disentanglement.saved import FACTORS, read_factors
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.parts import as_call
from pyrovae.plots.image_grid import png
from pyrovae.runs import Run
from pyrovae.runs.run import NEVER_TRAINED
from pyrovae.weights import psis as pareto

__all__ = [
    "CAPTIONS",
    "answer",
    "environment",
    "page",
    "settings_of",
    "shown_figure",
]

CSS_PIXELS_PER_INCH: Final = 96
POINTS_PER_INCH: Final = 72

LEAST_TEXT: Final = 9.0
"""The height of the smallest letters of a figure in pixels, below which it is not shrunk."""

EXPLORER: Final = "explore.html"
"""The file of `pyrovae explore` that a page links to, if it is beside the page."""

FIRST: Final = {"trust": "Can it be trusted?", "bounds": "Bounds on log p(x)"}
LAST: Final = {
    "dimensions": "KL per dimension",
    "data": "Data and samples",
    "training": "Training",
    "making": "How it was made",
}
"""The headings of the sections before and after those of the diagnostics."""

HEADINGS: Final = {
    "ais": "Annealed importance sampling",
    "gaps": "What limits the bound",
    "latents": "The latent space",
}
FACTOR_HEADINGS: Final = {
    "factors": "Which unit holds which factor",
    "scores": "Disentanglement",
}
OF_FINDING: Final = {
    "ais": ("sandwich",),
    "gaps": ("gaps",),
    "latents": ("holes", "traversals"),
    "factors": ("assignment",),
}
COLUMNS: Final = ("mean", "error_over_data", "error_over_particles")

CAPTIONS: Final = {
    "bounds": "The importance-weighted bounds against the number of particles k; the bound at "
    "k = 1 is the ELBO.",
    "kl_per_dimension": "The KL of each latent dimension, greatest first, with one standard error "
    "over data. Gray: 0.01 nats or less, a threshold of ours.",
    "sandwich": "Lower and upper bounds of annealed importance sampling on data drawn from the "
    "model, and their difference.",
    "gaps": "The gaps between the ELBO and log p(x).",
    "holes": "The aggregate posterior over the two most active dimensions, the contours of the "
    "prior, and the regions where one has density and the other has not.",
    "traversals": "The mean of p(x | z) as one dimension at a time takes the quantiles of the "
    "aggregate posterior, sorted by KL.",
    "history": "The ELBO and its two terms after each epoch.",
    "reconstructions": "Data, and the mean of p(x | z) at one draw z from the guide.",
    "samples": "Means of p(x | z) at draws z from the prior.",
    "walk": "The mean of p(x | z) as one dimension at a time takes the quantiles of the prior.",
    "assignment": "The information of each latent unit about each factor of the data, as a share "
    "of the factor's entropy. Framed: the units that hold a factor.",
    "latents": "The posterior mean of each datum, colored by its label.",
}


def page(
    run: Run,
    saved: SavedFinding,
    figures: Mapping[str, Figure],
    *,
    texts: Texts | None = None,
    left_out: Sequence[str] = (),
    out: Path | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        run: the run, for its configuration and metrics.
        saved: its evaluation, as of `read_report`.
        figures: the figures to show, by the names of `CAPTIONS`.
        texts: the texts to show, if the data are texts.
        left_out: sentences that explain what is not shown.
        out: the file that the page is written to; by default report.html in the run's folder.

    Raises:
        ValueError: if the configuration or the metrics are damaged.
    """
    said, config, epochs = saved.said, run.config, run.metrics
    findings, dimensions = _findings(saved) | _factors(run), _dimensions(said)
    missing = {
        "dimensions": not dimensions and "kl_per_dimension" not in figures,
        "data": texts is None
        and not {"reconstructions", "samples", "walk", "latents"} & figures.keys(),
        "training": not epochs,
    }
    of_findings = {key: found["heading"] for key, found in findings.items()}
    sections = {**FIRST, **of_findings, **LAST}
    return (
        environment()
        .get_template("page.html")
        .render(
            name=run.folder.resolve().name,
            said=said,
            config=config,
            sections={key: words for key, words in sections.items() if not missing.get(key)},
            answer=answer(saved),
            remarks=_remarks(saved, trained=bool(epochs)),
            cut=[heading(name) for name, found in saved.findings.items() if found.partial],
            findings=findings,
            dimensions=dimensions,
            figures={name: shown_figure(each, CAPTIONS[name]) for name, each in figures.items()},
            texts=texts,
            per_token=run.vocabulary and per_token(saved, run.vocabulary),
            explorer=_explorer(run, out),
            left_out=left_out,
            **settings_of(config, said),
            **(_last(epochs) if epochs else {}),
        )
    )


def environment() -> Environment:
    """Return the environment of the templates, which escapes all values."""
    found = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    found.filters.update(
        code=_code,
        command=shlex.join,
        day=_day,
        number=_number,
        provenance=_provenance,
        rows=_rows,
    )
    return found


def heading(finding: str) -> str:
    """Return the heading of a diagnostic's section."""
    return HEADINGS.get(finding, finding)


def answer(saved: SavedFinding) -> str:
    """Return a sentence on whether the bounds of an evaluation are reliable."""
    if saved.point_masses:
        return "No: the guide has no density, so the numbers are not bounds."
    shape = saved.per_datum.get("Pareto k-hat")
    if shape is None or shape.isnan().any():
        return "It cannot be told: the Pareto k-hat of the weights is not known."
    bad = int(pareto.beyond(shape, saved.particles).sum())
    if bad:
        return (
            f"Not everywhere: the weights are unreliable at {bad:,} of "
            f"{saved.said['data']:,} data."
        )
    if saved.remarks:
        return "Yes, as far as the weights tell. But read the remark at the top."
    return "Yes, as far as the weights tell."


def _remarks(saved: SavedFinding, *, trained: bool) -> list[str]:
    """Return the remarks at the top of the page."""
    said = [*saved.remarks]
    return said if trained or NEVER_TRAINED in said else [NEVER_TRAINED, *said]


def _findings(saved: SavedFinding) -> dict[str, dict[str, Any]]:
    """Return the content of each diagnostic's section, by its anchor."""
    return {
        f"finding-{name}": {
            **saved.said["findings"][name],
            "heading": heading(name),
            "verdict": list(found.verdict),
            "figures": OF_FINDING.get(name, ()),
        }
        for name, found in saved.findings.items()
    }


def _factors(run: Run) -> dict[str, dict[str, Any]]:
    """Return the sections on the factors of the data, if `pyrovae factors` found some."""
    if run.assignment() is None:
        return {}
    said = read_factors(run.folder / FACTORS)
    found = {"factors": said["assignment"], "scores": said.get("scores")}
    shared = {"origin": _origin(said)}
    return {
        key: {
            **each,
            **shared,
            "heading": FACTOR_HEADINGS[key],
            "figures": OF_FINDING.get(key, ()),
        }
        for key, each in found.items()
        if each
    }


def _origin(said: Mapping[str, Any]) -> str:
    """Return a sentence on the data that factors were assigned on, and the command."""
    if not said.get("data_set"):
        return "Of posterior means of data that the file does not name."
    whose = f"Of the posterior means of {said['data_set']}, {said.get('split')} split"
    return f"{whose}: `{shlex.join(said['command'])}`" if said.get("command") else f"{whose}."


def _explorer(run: Run, out: Path | None) -> dict[str, Any]:
    """Return the name of the explorer's file beside the page, or the command that makes it."""
    file = (out or run.folder / "report.html").parent / EXPLORER
    if file.exists():
        return {"file": EXPLORER}
    return {"command": ["pyrovae", "explore", str(run.folder), "--out", str(file)]}


def shown_figure(figure: Figure, caption: str) -> dict[str, Any]:
    """Return a figure as the template takes it: its PNG, its size and its least width in pixels.

    At the least width, its smallest letters are 9 pixels high; a narrower screen scrolls.
    """
    width, height = (round(CSS_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}"
    written = [text for text in figure.findobj(Text) if text.get_text().strip()]
    points = min((float(text.get_fontsize()) for text in written), default=math.inf)
    smallest = points * CSS_PIXELS_PER_INCH / POINTS_PER_INCH
    least = math.ceil(width * min(1.0, LEAST_TEXT / smallest))
    size = {"width": width, "height": height, "least": least}
    return {"caption": caption, **size, "source": source}


def _rows(found: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the rows of a diagnostic's table."""
    return {
        name: [
            float(infinite[column]) if column in infinite else quantity[column]
            for column in COLUMNS
        ]
        for name, quantity in found["quantities"].items()
        for infinite in [quantity.get("infinite", {})]
    }


def _dimensions(said: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    return {
        site: {f"{site}[{i}]": [value] for i, value in enumerate(values)}
        for site, values in said.get("kl_per_dimension", {}).items()
    }


def _last(epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the table of the last epoch."""
    epoch = epochs[-1]
    names = {"ELBO": "elbo", "rate": "rate", "distortion": "distortion"}
    rows = {label: [epoch[name], epoch[f"validation_{name}"]] for label, name in names.items()}
    return {"last_epoch": f"{len(epochs):,}", "epoch_rows": rows}


def settings_of(config: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the model, the training and the evaluation."""
    experiment, source = config.get("experiment") or {}, config.get("data") or {}
    training = {"data": source.get("name"), "binarization": source.get("binarization")}
    if experiment.get("objective"):
        training["objective"] = _entries(experiment["objective"])
    training |= experiment.get("training") or {}
    if config.get("recipe"):
        training["recipe"] = described(config["recipe"])
    used = ("binarization", "split", "limit", "particles")
    evaluation = {"data": said.get("data_set"), **{key: said.get(key) for key in used}}
    model = {role: as_call(part) for role, part in config["vae"].items()}
    return {"model": model, "training": training, "evaluation": evaluation}


def _provenance(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seed, the date and the versions that a file records."""
    facts: dict[str, Any] = {"seed": said.get("seed")}
    if said.get("created"):
        facts["date"] = f"{_day(said['created'])}, {_when(said['created']):%H:%M} UTC"
    if said.get("versions"):
        facts["versions"] = ", ".join(f"{name} {v}" for name, v in said["versions"].items())
    return facts


def _entries(table: Mapping[str, Any]) -> str:
    given = ", ".join(f"{key}={value}" for key, value in table.items() if key != "name")
    return f"{table.get('name')}({given})" if given else str(table.get("name"))


def _number(value: float | None) -> str:
    """Return a number as HTML, rounded to three decimals, with its full value as an attribute."""
    if value is None:
        return ""
    shown = str(value) if isinstance(value, int) else f"{value:.3f}"
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)


def _code(sentence: str) -> str:
    """Return a sentence as HTML, with text in backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(sentence))))


def _day(text: str) -> str:
    when = _when(text)
    return f"{when.day} {when:%B %Y}"


def _when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
