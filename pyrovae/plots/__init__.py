"""Figures of training, evaluation and latent spaces. Each function returns a new figure.

The functions build `matplotlib.figure.Figure` objects directly: they open no window, register
nothing with pyplot and change no setting of matplotlib. A notebook displays the figure that a
cell returns, and `save` writes it as PNG, or an animation as GIF. Colors are distinguishable by
color-blind readers, and markers repeat them. Bounds, rates and distortions are in nats per datum.

Images are [N, C, H, W], or flat vectors with their `shape`, (channels, height, width).
"""

from pyrovae.plots.animation import Animation, animation
from pyrovae.plots.comparison import comparison
from pyrovae.plots.curves import bounds, rate_distortion
from pyrovae.plots.dimensions import kl_per_dimension
from pyrovae.plots.factors import assignment, factor_responses
from pyrovae.plots.files import save
from pyrovae.plots.forecast import forecast
from pyrovae.plots.gaps import gaps
from pyrovae.plots.holes import holes
from pyrovae.plots.images import reconstructions, samples, samples_by
from pyrovae.plots.latents import latent_map
from pyrovae.plots.novelty import novelty
from pyrovae.plots.piano import piano_rolls
from pyrovae.plots.predictive_checks import predictive_checks
from pyrovae.plots.ranking import ranking
from pyrovae.plots.sandwich import sandwich
from pyrovae.plots.series import series
from pyrovae.plots.style import CLASSES
from pyrovae.plots.training import history
from pyrovae.plots.walks import interpolations, manifold, profiles, traversals

__all__ = [
    "CLASSES",
    "Animation",
    "animation",
    "assignment",
    "bounds",
    "comparison",
    "factor_responses",
    "forecast",
    "gaps",
    "history",
    "holes",
    "interpolations",
    "kl_per_dimension",
    "latent_map",
    "manifold",
    "novelty",
    "piano_rolls",
    "predictive_checks",
    "profiles",
    "ranking",
    "rate_distortion",
    "reconstructions",
    "samples",
    "samples_by",
    "sandwich",
    "save",
    "series",
    "traversals",
]
