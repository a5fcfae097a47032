"""The pages and the figures of the published tables, made from the rows that are kept.

A table has one page and one figure, `benchmarks/tables/NAME.md` and NAME.png. The page of all
benchmarks, `benchmarks/README.md`, has blocks between two comments that are made from the same
rows: those of which something was published, and the bounds below annealing.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from protocol import Row, Table, row_of

HERE: Final = Path(__file__).parent / "tables"

README: Final = HERE.parent / "README.md"

CURVE_DATA: Final = 1000
"""The number of test images, and of particles, of the points of a row's curve."""

MANY: Final = 50
"""The points of a figure from which its highest tenth lies outside."""


def tables() -> dict[str, Table]:
    """Return the tables of `benchmarks/tables/`, which is on the path, by name."""
    names = sorted(path.stem for path in HERE.glob("*.py"))
    return {name: importlib.import_module(name).TABLE for name in names}


def key(line: dict[str, Any]) -> tuple[str, int, int, int]:
    """Return what tells a measured row from others: its name, budget, seed and threads."""
    return line["row"], line["budget"], line["seed"], line["threads"]


def lines(name: str) -> list[dict[str, Any]]:
    """Return the rows that are measured: the last line of those that have the same key."""
    path = HERE / f"{name}.jsonl"
    found = path.read_text().splitlines() if path.exists() else []
    read = [json.loads(line) for line in found]
    return list({key(line): line for line in read}.values())


def in_order(table: Table, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measured rows in the order of the table, of budgets, seeds and threads.

    Raises:
        ValueError: for a row that the table does not have.
    """
    places = {name: i for i, name in enumerate(table.rows)}
    unknown = sorted({line["row"] for line in measured} - set(places))
    if unknown:
        raise ValueError(
            f"of {table.title!r}, the rows {unknown} are kept, which the table does not have: "
            "rename them in its .jsonl, or delete their lines"
        )
    return sorted(measured, key=lambda line: (places[line["row"]], *key(line)[1:]))


def page(table: Table, measured: list[dict[str, Any]], name: str) -> str:
    """Return the table in Markdown."""
    head = "| | steps | seed | published | ours | ± over data | ± over particles | over published "
    unit = "Bits per dimension" if table.bits else "Nats per datum"
    particles = " or ".join(f"{k:,}" for k in sorted({line["particles"] for line in measured}))
    text = [
        f"# {table.title}\n",
        table.text + "\n",
        f"Made by `python benchmarks/tables.py {name} --page` from `{name}.jsonl`, which also has "
        f"the curve of each row. Published numbers are from memory. {unit}, -IWAE-K with K = "
        f"{particles}; k-hat too large is the share of the data whose k-hat is above its limit, "
        "so that the bound falls short of log p(x) there; seconds are those of the processor over "
        "the steps, on one thread, or of a clock where it says several.\n",
        head
        + "| ELBO | KL | active units (published) | k-hat too large | CPU s |"
        + (" over the first row |" if table.paired else ""),
        "|---" * 2 + "|---:" * (12 if table.paired else 11) + "|",
    ]
    text += [_line(line, table.rows[line["row"]], table) for line in in_order(table, measured)]
    commands = [f"- {_named(line)}: `{line['command']}` ({_versions(line)})" for line in measured]
    sections = _sections(table, measured, name)
    return "\n".join([*text, *sections, "\n## Commands\n", *commands]) + "\n"


def _sections(table: Table, measured: list[dict[str, Any]], name: str) -> list[str]:
    """Return what a page has between its rows and their commands."""
    text: list[str] = []
    known = {line["row"] for line in measured}
    missing = [
        row_name + ("" if row.published is None else f" (published {row.published:.2f})")
        for row_name, row in table.rows.items()
        if row_name not in known
    ]
    if missing:
        text.append("\nNot run: " + "; ".join(missing) + ".")
    found = [_annealing(line) for line in measured if "ais" in line]
    if found:
        text += ["\n## By annealing\n", *found]
    if table.goals and measured:
        text += ["\n## Seconds to a number\n", *_seconds_to(table.goals, measured)]
    if any(line["curve"] for line in measured):
        text.append(f"\n![-IWAE-1000 on the first {CURVE_DATA:,} test data]({name}.png)")
    if (HERE / f"{name}-bounds.png").exists():
        text += [
            "\n## Where the bound lies\n",
            f"By `benchmarks/where_the_bound_lies.py`, from `{name}-bounds.json`.\n",
            f"![bounds above annealing]({name}-bounds.png)",
        ]
    return text


def _seconds_to(goals: Sequence[float], measured: list[dict[str, Any]]) -> list[str]:
    """Return a table of the seconds of the first point of each curve at or below each number."""
    text = [
        f"Processor seconds to the first point of a row's curve (-IWAE-{CURVE_DATA} on the first "
        f"{CURVE_DATA:,} test data, ten points a training) at or below so many nats; none where "
        "the row ends above.\n",
        "| | images seen | " + " | ".join(f"{goal:.1f}" for goal in goals) + " | at the end |",
        "|---|---:|" + "---:|" * (len(goals) + 1),
    ]
    for line in sorted(measured, key=lambda each: (each["budget"], each["curve"][-1]["nll"])):
        curve = line["curve"]
        first = [next((p["seconds"] for p in curve if p["nll"] <= goal), None) for goal in goals]
        cells = " | ".join("" if s is None else f"{s:,.0f}" for s in first)
        images = f"{line['steps'] * line['batch']:,}"
        text.append(f"| {_named(line)} | {images} | {cells} | {curve[-1]['nll']:.2f} |")
    return text


def _annealing(line: dict[str, Any]) -> str:
    ais = line["ais"]
    return (
        f"- {_named(line)}, {line['steps']:,} steps: {ais['mean']:.2f} ± {ais['over_data']:.2f} "
        f"over the first {ais['data']} test data, ± {ais['over_particles']:.3f} over chains, from "
        f"below; {ais['temperatures']:,} temperatures. The bounds from below and above on "
        f"simulated data are {ais['gap']:.3f} ± {ais['gap_over_data']:.3f} apart."
    )


def _named(line: dict[str, Any]) -> str:
    """Return the name of a row, with the number of threads if there are several."""
    several = line["threads"] > 1
    return line["row"] + (f", {line['threads']} threads" if several else "")


def _versions(line: dict[str, Any]) -> str:
    return ", ".join(f"{package} {version}" for package, version in line["versions"].items())


def _unit(table: Table, row: Row) -> tuple[float, float]:
    """Return the factor and the summand from nats to what the table shows."""
    if not table.bits:
        return 1.0, 0.0
    return 1 / (table.bits * math.log(2)), 8.0 if row.continuous else 0.0


def _line(line: dict[str, Any], row: Row, table: Table) -> str:
    unit, levels = _unit(table, row)
    nll = unit * line["nll"] + levels
    over = "" if row.published is None else f"{nll - row.published:+.2f}"
    return (
        f"| {_named(line)} | {line['steps']:,} | {line['seed']} | {_published(row)} | "
        f"{nll:.2f} | {unit * line['over_data']:.2f} | {unit * line['over_particles']:.3f} | "
        f"{over} | {unit * line['elbo'] - levels:.2f} | {unit * line['kl']:.2f} | "
        f"{_units(line, row)} | "
        f"{100 * line['untrusted']:.0f} % | {line['seconds']:,.0f} |"
        + (f" {_over_first(line)} |" if table.paired else "")
    )


def _over_first(line: dict[str, Any]) -> str:
    """Return by how many nats a row is ahead of the first, blank where that is not known."""
    ahead = line.get("over_first")
    return f"{ahead['mean']:+.2f} ± {ahead['over_data']:.2f}" if ahead else ""


def beside_the_published() -> str:
    """Return the rows of all tables of which something was published, in Markdown."""
    text = [
        "| | data seen, millions | published | ours | ± over data | ± over particles "
        "| active units (published) | k-hat too large | CPU s |",
        "|---" + "|---:" * 8 + "|",
    ]
    for name, table in tables().items():
        for line in in_order(table, lines(name)):
            row = table.rows[line["row"]]
            if row.published is not None:
                text.append(_beside(name, line, row, table))
    return "\n".join(text) + "\n"


def _beside(name: str, line: dict[str, Any], row: Row, table: Table) -> str:
    unit, levels = _unit(table, row)
    return (
        f"| [{name}](tables/{name}.md): {_named(line)} | "
        f"{line['steps'] * line['batch'] / 1e6:.1f} | {_published(row)} | "
        f"{unit * line['nll'] + levels:.2f} | {unit * line['over_data']:.2f} | "
        f"{unit * line['over_particles']:.3f} | {_units(line, row)} | "
        f"{100 * line['untrusted']:.0f} % | {line['seconds']:,.0f} |"
    )


def _published(row: Row) -> str:
    """Return what was published, and in brackets what a replication found."""
    again = "" if row.replicated is None else f" ({row.replicated:.2f})"
    return "" if row.published is None else f"{row.published:.2f}{again}"


def _units(line: dict[str, Any], row: Row) -> str:
    known = f" ({' + '.join(map(str, row.units))})" if row.units else ""
    return " + ".join(str(count) for count in line["units"].values()) + known


def below_annealing() -> str:
    """Return how far the bounds of one run of each table lie below annealing, in Markdown."""
    names = "ELBO", "IWAE-50", "IWAE-5000", "PSIS-5000"
    text = [
        f"| | data | annealing | {' | '.join(names)} | k-hat above 0.7 | gap of annealing |",
        "|---" + "|---:" * (len(names) + 4) + "|",
    ]
    by_name = tables()
    for path in sorted(HERE.glob("*-bounds.json")):
        line, name = json.loads(path.read_text()), path.stem.removesuffix("-bounds")
        cells = [
            f"[{name}](tables/{name}.md): {row_of(by_name[name], line['run'])}",
            str(line["data"]),
            _with_error(line["bounds"]["annealing"], ".2f"),
            *(_with_error(line["above annealing"][name], "+.2f") for name in names),
            f"{100 * line['k-hat above 0.7'] / line['data']:.0f} %",
            _with_error(line["gap of annealing"], ".2f"),
        ]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _with_error(number: dict[str, float], form: str) -> str:
    return f"{number['mean']:{form}} ± {number['data']:.2f}"


def beside_the_first() -> str:
    """Return the rows of the paired tables beside their first, in Markdown."""
    text = [
        "| | ours | over the first row | ELBO | KL | active units | k-hat too large | CPU s |",
        "|---" + "|---:" * 7 + "|",
    ]
    for name, table in tables().items():
        for line in in_order(table, lines(name)) if table.paired else ():
            text.append(
                f"| {_named(line)} | {line['nll']:.2f} | {_over_first(line)} | "
                f"{line['elbo']:.2f} | {line['kl']:.2f} | {_units(line, table.rows[line['row']])} "
                f"| {100 * line['untrusted']:.0f} % | {line['seconds']:,.0f} |"
            )
    return "\n".join(text) + "\n"


BLOCKS: Final = {
    "rows beside the first": beside_the_first,
    "rows beside the published": beside_the_published,
    "bounds below annealing": below_annealing,
}
"""What makes the text between two comments of the page of all benchmarks, by their name."""


def figure(table: Table, measured: list[dict[str, Any]]) -> Any:
    """Return test nats against seconds, one curve a row."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    curves = [line for line in measured if line["curve"]]
    drawn = Figure(figsize=(7.2, 3.7 + 0.19 * len(curves)), layout="constrained")
    axes = drawn.subplots()
    heights: list[float] = []
    for i, line in enumerate(curves):
        unit, levels = _unit(table, table.rows[line["row"]])
        points = ((p["seconds"], unit * p["nll"] + levels) for p in line["curve"])
        seconds, nll = zip(*points, strict=True)
        label = f"{_named(line)}, {line['steps']:,} steps"
        style = f"{'os^Dvx*'[i % 7]}{'-' if i < 10 else '--'}"
        axes.plot(seconds, nll, style, ms=4, lw=1.2, label=label)
        heights += nll
    if len(heights) > MANY:  # the start of a slow curve would leave no room for the others
        low, high = min(heights), sorted(heights)[int(0.9 * len(heights))]
        axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set(
        xscale="log",
        xlabel="seconds of the processor over the steps",
        ylabel="-IWAE-1000, up to 1,000 test images" + (", bits" if table.bits else ""),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.grid(alpha=0.3)
    drawn.legend(loc="outside lower left", fontsize=8, frameon=False)
    return drawn


def write(name: str, table: Table) -> Path:
    """Write the page and the figure of a table, and its rows into the page of all benchmarks."""
    measured, path = lines(name), HERE / f"{name}.md"
    path.write_text(page(table, measured, name))
    if any(line["curve"] for line in measured):
        figure(table, measured).savefig(HERE / f"{name}.png", dpi=130)
    write_blocks()
    return path


def write_blocks() -> None:
    """Write the blocks of the page of all benchmarks anew."""
    text = README.read_text()
    for name, make in BLOCKS.items():
        before, _, after = block(text, name)
        text = before + make() + after
    README.write_text(text)


def block(text: str, name: str) -> tuple[str, str, str]:
    """Return what stands before, inside and after a block, with its comments outside.

    Raises:
        ValueError: if the text does not have the two comments once, in this order.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if (text.count(begin), text.count(end)) != (1, 1) or text.index(end) < text.index(begin):
        raise ValueError(
            f"the page has no block of {name}: write the lines {begin.strip()} and {end.strip()}, "
            "once each, where it is to stand"
        )
    before, rest = text.split(begin)
    inside, after = rest.split(end)
    return before + begin, inside, end + after
