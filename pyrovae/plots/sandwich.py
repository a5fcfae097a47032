"""Plot the upper and lower bounds of annealed importance sampling."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyrovae.measure.annealing.ais_finding import GAP, SIMULATED_LOWER, SIMULATED_UPPER
from pyrovae.measure.findings import Finding, estimate_of
from pyrovae.plots.image_grid import WIDTH
from pyrovae.plots.style import DASHED, OBJECTIVE, TRAIN, VALIDATION, blank, clean

__all__ = ["sandwich"]


def sandwich(found: Finding) -> Figure:
    """Plot the sandwich of bounds on log p(x) of simulated data, and the sorted gaps between them.

    The first panel shows the upper against the lower bound of each datum; on the diagonal they
    agree. The second shows their difference, with its mean and a band of two standard errors over
    data (none for a single datum).

    Args:
        found: the result of `pyrovae.AIS`, also as read by `read_report`.

    Raises:
        ValueError: if it is the result of another diagnostic.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(4, latents=2, hidden=8, likelihood=pv.likelihoods.Normal)
        >>> figure = pv.plots.sandwich(pv.AIS(20, particles=4)(vae, torch.randn(3, 4)))
        >>> [axes.get_title(loc="left") for axes in figure.axes]
        ['bounds on log p(x), simulated data', 'gap between them']
    """
    figure = blank(WIDTH, 3.1)
    both, apart = figure.subplots(1, 2, width_ratios=[1, 1.15])
    below = estimate_of(found, SIMULATED_LOWER).value.cpu().tolist()
    above = estimate_of(found, SIMULATED_UPPER).value.cpu().tolist()
    ends = [min(below + above), max(below + above)]
    both.plot(ends, ends, color=OBJECTIVE, linestyle=DASHED, linewidth=1)
    both.scatter(below, above, s=14, color=TRAIN, linewidths=0)
    both.set(xlabel="from below, nats", ylabel="from above, nats")
    both.locator_params(nbins=4)
    both.set_title("bounds on log p(x), simulated data", loc="left", fontsize=10)
    gap = estimate_of(found, GAP)
    gaps = sorted(gap.value.cpu().tolist())
    apart.axhline(0, color=OBJECTIVE, linewidth=1, linestyle=DASHED)
    said = f"mean {gap.mean:.2f}"
    if len(gaps) > 1:
        reach = 2 * gap.error_over_data
        apart.axhspan(gap.mean - reach, gap.mean + reach, color=VALIDATION, alpha=0.2)
        said += f" ± {reach:.2f} (two errors)"
    apart.axhline(gap.mean, color=VALIDATION, linewidth=1.3, label=said)
    apart.scatter(range(1, len(gaps) + 1), gaps, s=14, color=TRAIN, linewidths=0)
    apart.xaxis.set_major_locator(MaxNLocator(integer=True))
    apart.set(xlabel="datum, by its gap", ylabel="above less below, nats", xlim=(0, len(gaps) + 1))
    apart.set_title("gap between them", loc="left", fontsize=10)
    apart.legend(frameon=False, fontsize=8.5, loc="best")
    for axes in (both, apart):
        clean(axes)
    return figure
