"""Plot predictive checks: discrepancies of real data and of data sampled from the model."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from pyrovae.measure.predictive_checks import PredictiveCheckFinding
from pyrovae.plots.style import OBJECTIVE, TRAIN, VALIDATION, clean, panels

__all__ = ["predictive_checks"]


def predictive_checks(checks: PredictiveCheckFinding) -> Figure:
    """Plot each discrepancy as a histogram over replicated data and a line at the real data.

    The real value of a discrepancy that depends on latents varies; the panel then shows the
    difference, drawn - real, with the line at 0. Panels of discrepancies that reject the model
    are highlighted.

    Args:
        checks: the result of `pyrovae.PredictiveCheck`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> found = pv.PredictiveCheck({"mean": torch.mean}, draws=99)(vae, torch.zeros(50, 64))
        >>> pv.plots.predictive_checks(found).axes[0].get_title(loc="left")
        'mean: p = 1.000'
    """
    figure, each = panels(list(checks.real), most=3, height=1.9)
    key: dict[str, Any] = {}
    for name, axes in each.items():
        _panel(axes, checks, name)
        key |= {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        key.values(), key, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5
    )
    return figure


def _panel(axes: Any, checks: PredictiveCheckFinding, name: str) -> None:
    real, drawn = checks.real[name], checks.replicated[name]
    moves = bool((real != real[0]).any())
    values, at = (drawn - real, 0.0) if moves else (drawn, real[0].item())
    outside = name in checks.outside
    axes.hist(values.tolist(), 30, color=OBJECTIVE, alpha=0.75, label="drawn from the model")
    color = VALIDATION if outside else TRAIN
    label = "real data, outside" if outside else "real data"
    axes.axvline(at, color=color, linewidth=2, label=label)
    axes.set_title(
        f"{name}: p = {checks.p_value(name).mean:.3f}",
        loc="left",
        fontsize=9,
        color=color if outside else "black",
    )
    if moves:
        axes.set_xlabel("drawn - real")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=5)
    clean(axes)
    axes.grid(visible=False)
