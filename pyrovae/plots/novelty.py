"""Plot the novelty scores of in-distribution and novel data."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyrovae.measure.novelty import NoveltyFinding
from pyrovae.plots.style import TRAIN, VALIDATION, clean, panels

__all__ = ["novelty"]

BINS = 40


def novelty(detection: NoveltyFinding) -> Figure:
    """Plot histograms of the scores of both kinds of data, one panel per score.

    Histograms are normalized to area 1. The title states the area under the ROC curve. The axis
    spans the central 99% of all finite scores. Scores beyond, also infinite ones, are counted in
    the outermost bins; those that are not numbers are left out.

    Args:
        detection: the result of `pyrovae.Novelty`.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> novelty = pv.Novelty(torch.ones(5, 64), {"-log p": pv.measure.novelty.surprise})
        >>> found = novelty(vae, torch.zeros(5, 64))
        >>> pv.plots.novelty(found).axes[0].get_xlabel()
        '-log p'
    """
    figure, each = panels(list(detection.inside), most=2, height=2.2)
    for name, axes in each.items():
        kinds = (detection.inside[name].double(), detection.outside[name].double())
        low, high = _range(torch.cat(kinds))
        edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64).tolist()
        looks = (("the model's kind", TRAIN), ("novel", VALIDATION))
        for scores, (label, color) in zip(kinds, looks, strict=True):
            values = scores[~scores.isnan()].clamp(low, high).tolist()
            axes.hist(values, edges, density=True, color=color, alpha=0.6, label=label)
        area = detection.quantities[name]
        error = "" if math.isnan(area.error_over_data) else f" ± {area.error_over_data:.3f}"
        known = "" if math.isnan(area.mean) else f"AUROC {area.mean:.3f}{error}"
        axes.set_title(known, loc="left", fontsize=10)
        axes.set_xlabel(name)
        axes.set_yticks([])
        clean(axes)
        axes.grid(visible=False)
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure


def _range(scores: Tensor) -> tuple[float, float]:
    """Return the central 99% of the finite scores, of a width above 0."""
    finite = scores[scores.isfinite()]
    if not len(finite):
        return -0.5, 0.5
    low, high = finite.quantile(torch.tensor([0.005, 0.995]).double()).tolist()
    return (low, high) if low < high else (low - 0.5, high + 0.5)
