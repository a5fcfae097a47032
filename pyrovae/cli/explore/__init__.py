"""The latent explorer: a local page in which the latent space of a run is walked.

world      what a view shows, as plain data
server     the page and its questions, over HTTP on this machine alone
file       the same page as one file, with the decoder in it
"""

from pyrovae.cli.explore.contents import Contents
from pyrovae.cli.explore.world import World

__all__ = ["Contents", "World"]
