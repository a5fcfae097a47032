"""A run's report as one HTML page that loads nothing: figures and style stand in it.

Its numbers and sentences are those of the run's files; nothing is computed here.
"""

from __future__ import annotations

import base64
import datetime
import html
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from pyrovae import pareto
from pyrovae.cli.page_style import STYLE
from pyrovae.mosaics import png
from pyrovae.runs import NEVER_TRAINED, Run
from pyrovae.saved_findings import SavedFinding

CSS_PIXELS_PER_INCH: Final = 96

HEADINGS: Final = {
    "ais": "Annealed importance sampling",
    "gaps": "What limits the bound",
    "latents": "The latent space",
}
OF_FINDING: Final = {"ais": ("sandwich",), "gaps": ("gaps",), "latents": ("holes", "traversals")}
COLUMNS: Final = ("mean", "error_over_data", "error_over_particles")

CAPTIONS: Final = {
    "bounds": "The importance-weighted bounds against k, the particles in each; at k = 1 stands "
    "the ELBO.",
    "kl_per_dimension": "The KL of each latent dimension, greatest first, with one standard error "
    "over data. Grey: 0.01 nats or less.",
    "sandwich": "Bounds of annealed importance sampling on data drawn from the model, and what "
    "lies between them.",
    "gaps": "From the ELBO up to log p(x): what each gap costs.",
    "holes": "The aggregate posterior over the two most active dimensions, the contours of the "
    "prior, and where one misses the other.",
    "traversals": "The mean of p(x | z) as one dimension at a time goes through the quantiles of "
    "the aggregate posterior, the most active dimension first.",
    "history": "The ELBO and its two parts, epoch by epoch.",
    "reconstructions": "Data above the mean of p(x | z) at one draw z from the guide.",
    "samples": "Means of p(x | z) at draws z from the prior.",
    "latents": "The posterior mean of each datum, coloured by its label.",
}


def page(
    run: Run,
    saved: SavedFinding,
    figures: Mapping[str, Figure],
    *,
    left_out: Sequence[str] = (),
) -> str:
    """Return the page.

    Args:
        run: whose configuration and metrics are shown.
        saved: its evaluation, as `read_report` read it.
        figures: by the names of `CAPTIONS`; the page shows those that are there.
        left_out: sentences that say what is not shown, and why.
    """
    name = run.folder.resolve().name
    sections = {
        "trust": ("Can it be trusted?", _trust(saved)),
        "bounds": ("Bounds on log p(x)", [*_table(saved.said), *_shown(figures, "bounds")]),
        **_findings(saved, figures),
        "dimensions": ("KL per dimension", _dimensions(saved.said, figures)),
        "data": ("Data and samples", _shown(figures, "reconstructions", "samples", "latents")),
        "training": ("Training", _training(run, figures)),
        "making": ("How it was made", _making(run, saved.said, left_out)),
    }
    sections = {key: section for key, section in sections.items() if section[1]}
    lines = [*_head(f"VAE report: {name}"), "<header>", f"<h1>VAE report: {_e(name)}</h1>"]
    lines += [*_byline(saved.said), *_partial(saved), *_remarks(run, saved)]
    lines += [*_contents(sections), "</header>", "<main>"]
    for key, (heading, body) in sections.items():
        lines += [f'<section id="{_e(key)}">', f"<h2>{_e(heading)}</h2>", *body, "</section>"]
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _e(text: Any) -> str:
    return html.escape(str(text))


def _sentence(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", _e(text))


def _head(title: str) -> list[str]:
    return [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        '<link rel="icon" href="data:,">',
        f"<title>{_e(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
    ]


def _byline(said: Mapping[str, Any]) -> list[str]:
    parts = [_e(f"{said['data_set']}, {said.get('split')} split")] if "data_set" in said else []
    parts.append(_e(said["title"]))
    if "created" in said:
        parts.append(f"evaluated {_day(said['created'])}")
    return [f'<p class="byline">{" · ".join(parts)}</p>']


def _partial(saved: SavedFinding) -> list[str]:
    if not saved.said["partial"]:
        return []
    cut = [_heading(name) for name, found in saved.findings.items() if found.partial]
    where = f" Partial within: {', '.join(cut)}." if cut else ""
    return [
        '<p class="partial" role="note"><strong>Partial.</strong> An interrupt ended the '
        f"evaluation: {_e(saved.title)}.{_e(where)}</p>"
    ]


def _remarks(run: Run, saved: SavedFinding) -> list[str]:
    """Say what is to be known before the numbers are read."""
    said = [*saved.remarks]
    if not run.metrics and NEVER_TRAINED not in said:
        said.insert(0, NEVER_TRAINED)
    return [f'<p class="partial" role="note">{_sentence(remark)}</p>' for remark in said]


def _contents(sections: Mapping[str, tuple[str, Any]]) -> list[str]:
    links = [
        f'<li><a href="#{_e(key)}">{_e(heading)}</a></li>'
        for key, (heading, _) in sections.items()
    ]
    return ['<nav aria-label="Contents">', "<ul>", *links, "</ul>", "</nav>"]


def _trust(saved: SavedFinding) -> list[str]:
    """Answer in words: the report's sentences, then the first one of each finding."""
    further = [
        f'<li><a href="#{_e(_anchor(name))}">{_e(_heading(name))}</a>: '
        f"{_sentence(found.verdict[0])}</li>"
        for name, found in saved.findings.items()
        if found.verdict
    ]
    return [f'<p class="answer">{_e(_answer(saved))}</p>', *_list(saved.verdict, further)]


def _answer(saved: SavedFinding) -> str:
    if saved.point_masses:
        return "No: the guide has no density, so the bounds are none."
    shape = saved.per_datum.get("Pareto k-hat")
    if shape is None or shape.isnan().any():
        return "It cannot be told: no Pareto k-hat is known of the weights."
    bad = int(pareto.beyond(shape, saved.particles).sum())
    if bad:
        return (
            f"Not everywhere: the weights are not to be believed at {bad:,} of "
            f"{saved.said['data']:,} data."
        )
    if saved.remarks:
        return "The bounds, as far as the weights tell. But mind the remark at the top."
    return "Yes, as far as the weights tell."


def _findings(
    saved: SavedFinding, figures: Mapping[str, Figure]
) -> dict[str, tuple[str, list[str]]]:
    sections = {}
    for name, found in saved.findings.items():
        said = saved.said["findings"][name]
        body = [*_table(said), *_list(found.verdict), *_shown(figures, *OF_FINDING.get(name, ()))]
        sections[_anchor(name)] = (_heading(name), body)
    return sections


def _heading(name: str) -> str:
    return HEADINGS.get(name, name)


def _anchor(name: str) -> str:
    return f"finding-{name}"


def _table(said: Mapping[str, Any]) -> list[str]:
    """Return the table of a finding: the numbers as printed, each in full as its value."""
    rows = [
        f'<tr><th scope="row">{_e(name)}</th>'
        + "".join(f"<td>{_number(quantity[column])}</td>" for column in COLUMNS)
        + "</tr>"
        for name, quantity in said["quantities"].items()
    ]
    return _grid(said["title"], ("", "mean", "± over data", "± over particles"), rows)


def _grid(caption: str, columns: Iterable[str], rows: Iterable[str]) -> list[str]:
    heads = "".join(
        f'<th scope="col">{_e(column)}</th>' if column else "<td></td>" for column in columns
    )
    return [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_e(caption)}">',
        f"<table><caption>{_e(caption)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody></table></div>",
    ]


def _number(value: float | None) -> str:
    """Write a number as it is printed, or a count, and in full as its value."""
    if value is None:
        return ""
    shown = str(value) if isinstance(value, int) else f"{value:.3f}"
    return f'<data value="{value!r}">{shown}</data>'


def _list(sentences: Iterable[str], further: Iterable[str] = ()) -> list[str]:
    items = [*(f"<li>{_sentence(sentence)}</li>" for sentence in sentences), *further]
    return ['<ul class="said">', *items, "</ul>"] if items else []


def _shown(figures: Mapping[str, Figure], *names: str) -> list[str]:
    lines = []
    for name in names:
        if name not in figures:
            continue
        figure, caption = figures[name], _e(CAPTIONS[name])
        width, height = (
            round(CSS_PIXELS_PER_INCH * inches) for inches in figure.get_size_inches()
        )
        content = base64.b64encode(png(figure)).decode()
        lines += [
            "<figure>",
            f'<img alt="{caption}" width="{width}" height="{height}" '
            f'src="data:image/png;base64,{content}">',
            f"<figcaption>{caption}</figcaption>",
            "</figure>",
        ]
    return lines


def _dimensions(said: Mapping[str, Any], figures: Mapping[str, Figure]) -> list[str]:
    lines = _shown(figures, "kl_per_dimension")
    for site, values in said.get("kl_per_dimension", {}).items():
        rows = [
            f'<tr><th scope="row">{_e(f"{site}[{i}]")}</th><td>{_number(value)}</td></tr>'
            for i, value in enumerate(values)
        ]
        table = _grid(f"KL of {site}, nats per datum", ("dimension", "mean"), rows)
        lines += ["<details>", f"<summary>The numbers of {_e(site)}</summary>", *table]
        lines.append("</details>")
    return lines


def _training(run: Run, figures: Mapping[str, Figure]) -> list[str]:
    epochs = run.metrics
    if not epochs:
        return []
    last = epochs[-1]
    rows = [
        f'<tr><th scope="row">{_e(label)}</th>'
        f"<td>{_number(last[name])}</td><td>{_number(last[f'validation_{name}'])}</td></tr>"
        for name, label in (("elbo", "ELBO"), ("rate", "rate"), ("distortion", "distortion"))
    ]
    after = f"after epoch {last['epoch']:,}, nats per datum"
    table = _grid(after, ("", "training data", "validation"), rows)
    return [*_shown(figures, "history"), *table]


def _making(run: Run, said: Mapping[str, Any], left_out: Iterable[str]) -> list[str]:
    config = run.config
    lines = ["<h3>The model</h3>"]
    lines += _terms({role: _short(part) for role, part in config["vae"].items()})
    lines += ["<h3>The training</h3>", *_made(config)]
    lines += _terms({**_source(config.get("data") or {}), **(config.get("training") or {})})
    lines += ["<h3>The evaluation</h3>", *_made(said)]
    used = {key: said.get(key) for key in ("split", "limit", "particles")}
    lines += _terms({**_source(said, name="data_set"), **used})
    if left_out:
        lines += ["<h3>Not shown</h3>", *_list(left_out)]
    return lines


def _made(said: Mapping[str, Any]) -> list[str]:
    """Return the command that made a file, and what it takes to make it again."""
    command = said.get("command")
    lines = []
    if command:
        lines.append(f"<pre>{_e(shlex.join(command))}</pre>")
    facts: dict[str, Any] = {"seed": said.get("seed")}
    if "created" in said:
        facts["date"] = f"{_day(said['created'])}, {_when(said['created']):%H:%M} UTC"
    if "versions" in said:
        facts["versions"] = ", ".join(f"{name} {v}" for name, v in said["versions"].items())
    return [*lines, *_terms(facts)]


def _source(recorded: Mapping[str, Any], *, name: str = "name") -> dict[str, Any]:
    return {"data": recorded.get(name), "binarization": recorded.get("binarization")}


def _terms(facts: Mapping[str, Any]) -> list[str]:
    known = {name: value for name, value in facts.items() if value is not None}
    if not known:
        return []
    items = [
        f"<div><dt>{_e(n.replace('_', ' '))}</dt><dd>{_e(v)}</dd></div>" for n, v in known.items()
    ]
    return ["<dl>", *items, "</dl>"]


def _short(record: Any) -> str:
    """Write the record of a part as the call that makes it."""
    if isinstance(record, list):
        return f"[{', '.join(map(_short, record))}]"
    if not isinstance(record, dict):
        return str(record)
    if "tuple" in record:
        return f"({', '.join(map(_short, record['tuple']))})"
    if "part" in record:
        given = [*map(_short, record["args"])]
        given += [f"{name}={_short(value)}" for name, value in record["kwargs"].items()]
        return f"{record['part'].rpartition('.')[2]}({', '.join(given)})"
    return str(record.get("torch.nn") or record.get("custom") or record)


def _day(text: str) -> str:
    when = _when(text)
    return f"{when.day} {when:%B %Y}"


def _when(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC)
