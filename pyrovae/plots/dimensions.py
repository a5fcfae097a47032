"""Plot the KL divergence of each latent dimension."""

from __future__ import annotations

from typing import Final

from matplotlib.figure import Figure

from pyrovae.measure.report import USED, Report
from pyrovae.measure.saved_findings import SavedFinding
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import OBJECTIVE, TRAIN, blank, clean
from pyrovae.weights.bounds import students_factor

__all__ = ["kl_per_dimension"]

NAMED: Final = 24
"""The largest number of bars that are labeled with their dimension."""


def kl_per_dimension(report: Report | SavedFinding) -> Figure:
    """Plot the KL of each latent dimension in descending order, one panel per site.

    Error bars are one standard error over data. Dimensions of at most 0.01 nats, a threshold of
    ours, are gray.

    Args:
        report: the result of `evaluate` or `read_report`.

    Raises:
        ValueError: if no site has a KL per dimension, as with a full-rank guide.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=3, hidden=16)
        >>> report = pv.evaluate(vae, torch.rand(5, 64).round(), particles=10)
        >>> axes = pv.plots.kl_per_dimension(report).axes[0]
        >>> sorted(label.get_text() for label in axes.get_xticklabels())
        ['0', '1', '2']
    """
    each = report.kl_per_dimension
    if not each:
        raise ValueError(
            f"'{report.title}' has no KL for each dimension: prior and posterior of a site must "
            "factorize over dimensions, as with a mean-field guide"
        )
    figure = blank(0.8 * WIDTH, 2.5 * len(each))
    panels = figure.subplots(len(each), 1, squeeze=False)[:, 0]
    for axes, (site, found) in zip(panels, each.items(), strict=True):
        values = found.detach().cpu().double()
        means = values.mean(0)
        order = means.argsort(descending=True)
        count = len(values)
        errors = 0 * means
        if count > 1:
            errors = students_factor(count) * values.std(0) / count**0.5
        axes.bar(
            range(len(order)),
            means[order].tolist(),
            yerr=errors[order].tolist(),
            color=[TRAIN if mean > USED else OBJECTIVE for mean in means[order].tolist()],
            error_kw={"linewidth": 1.0, "ecolor": "#333333"},
        )
        labels = order.tolist() if len(order) <= NAMED else []
        axes.set_xticks(range(len(labels)), labels)
        axes.set_xlabel(f"dimension of {site}, by its KL")
        axes.set_ylabel("KL, nats per datum")
        clean(axes)
        axes.grid(visible=False, axis="x")
    return figure
