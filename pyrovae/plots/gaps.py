"""Plot the inference gaps between the ELBO and log p(x)."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.figure import Figure

from pyrovae.measure.findings import Finding, estimate_of, or_zero
from pyrovae.measure.refinement import gaps_finding as measured
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import CLASSES, OBJECTIVE, TRAIN, VALIDATION, blank, clean
from pyrovae.weights.bounds import Estimate

__all__ = ["gaps"]

WITHOUT_FLOW: Final = (
    (measured.ELBO, "ELBO", None, ""),
    (measured.REFINED, "refined", measured.AMORTIZATION, "amortization"),
    (measured.LOG_EVIDENCE, "log p(x)", measured.APPROXIMATION, "approximation"),
)
WITH_FLOW: Final = (
    *WITHOUT_FLOW[:2],
    (measured.FLOW, "refined\nflow", measured.GAINED, "gained by the flow"),
    (measured.LOG_EVIDENCE, "log p(x)", measured.OF_FLOW, "missed by the flow"),
)
COLORS: Final = (OBJECTIVE, VALIDATION, TRAIN, CLASSES[2])
HATCHES: Final = ("", "", "//", "..")


def gaps(finding: Finding) -> Figure:
    r"""Plot the levels from the ELBO to log p(x), and the gaps between them as bars.

    Each bar spans two successive levels; its height is the gap. Its error bar is two standard
    errors of the gap over particles. The number beside it includes the gap's standard error over
    data, which is far smaller than that of the levels, because they vary together.

    Args:
        finding: the result of `pyrovae.Gaps`, also as read by `read_report`.

    Raises:
        ValueError: if it is the result of another diagnostic.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> x = torch.bernoulli(torch.full((5, 64), 0.5))
        >>> figure = pv.plots.gaps(pv.Gaps(steps=20, flow=pv.PerDatumFlow())(vae, x))
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['ELBO', 'refined', 'refined\nflow', 'log p(x)']
    """
    steps = WITH_FLOW if measured.FLOW in finding.quantities else WITHOUT_FLOW
    levels = [estimate_of(finding, level).mean for level, *_ in steps]
    figure = blank(0.8 * WIDTH, 3.4)
    axes = figure.subplots()
    for place, (_, _, gap, label) in enumerate(steps):
        if gap is not None:
            _bar(axes, place, levels[place - 1 : place + 1], estimate_of(finding, gap), label)
    for place, level in enumerate(levels):
        right = min(place + 1.4, len(levels) - 0.6)
        axes.plot([place - 0.4, right], [level, level], color="black", linewidth=1.2)
    axes.set_xticks(range(len(steps)), [label for _, label, *_ in steps])
    axes.set_xlim(-0.6, len(steps) - 0.4)
    axes.use_sticky_edges = False
    axes.margins(y=0.2)
    axes.set_ylabel("nats per datum")
    axes.set_title(finding.subject, loc="left", fontsize=10)
    clean(axes)
    axes.grid(visible=False, axis="x")
    said = ["bars: ± 2 standard errors over particles"]
    if or_zero(estimate_of(finding, measured.ELBO).error_over_data):
        said.append("numbers: ± 1 over data")
    axes.text(
        0.01,
        0.98,
        "\n".join(said),
        transform=axes.transAxes,
        ha="left",
        va="top",
        fontsize=8.5,
    )
    return figure


def _bar(axes: Any, place: int, ends: list[float], gap: Estimate, label: str) -> None:
    low, high = ends
    axes.bar(
        place,
        gap.mean,
        bottom=low,
        width=0.8,
        color=COLORS[place],
        alpha=0.55,
        hatch=HATCHES[place],
        edgecolor="white",
    )
    error = 2 * or_zero(gap.error_over_particles)
    axes.errorbar(place, high, yerr=error, color="black", capsize=4, linewidth=1.2)
    spread = f" ± {gap.error_over_data:.2g}" if or_zero(gap.error_over_data) else ""
    axes.annotate(
        f"{label}\n{gap.mean:.3g}{spread}",
        (place, max(ends) + error),
        xytext=(0, 4),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
    )
