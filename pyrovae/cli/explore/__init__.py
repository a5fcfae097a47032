"""The latent explorer: a page in which the latent space of a run is walked."""
