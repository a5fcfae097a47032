"""Plot the differences of several models from the best of them."""

from __future__ import annotations

from matplotlib.figure import Figure

from pyrovae.measure.rank import Ranking
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import OBJECTIVE, TRAIN, blank, clean

__all__ = ["ranking"]


def ranking(ranking: Ranking) -> Figure:
    """Plot the paired difference of each model from the best, with intervals at 5% over all pairs.

    Models that differ significantly from the best are gray.

    Args:
        ranking: the result of `rank`.

    Example:
        >>> import torch, pyrovae as pv
        >>> x = torch.rand(50, 64).round()
        >>> vaes = {str(width): pv.mlp_vae(64, latents=2, hidden=width) for width in (32, 16, 4)}
        >>> reports = {name: pv.evaluate(vae, x, particles=20) for name, vae in vaes.items()}
        >>> found = pv.rank(reports)
        >>> figure = pv.plots.ranking(found)
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()] == list(found.names)
        True
    """
    figure = blank(WIDTH, 1.2 + 0.3 * len(ranking.names))
    axes = figure.subplots()
    axes.plot([0], [0], "o", color=TRAIN, markersize=5)
    for row, (name, estimate) in enumerate(ranking.differences.items(), 1):
        axes.errorbar(
            [estimate.mean],
            [row],
            xerr=[ranking.errors * estimate.error_over_data],
            fmt="o",
            color=OBJECTIVE if name in ranking.apart else TRAIN,
            markersize=4.5,
            capsize=3,
        )
    axes.axvline(0, color="#333333", linewidth=0.9)
    axes.set_yticks(range(len(ranking.names)), ranking.names)
    axes.set_ylim(len(ranking.names) - 0.4, -0.6)
    axes.set_xlabel(f"{ranking.bound} less that of {ranking.names[0]}, nats")
    clean(axes)
    return figure
