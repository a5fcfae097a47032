"""Variational autoencoders as pairs of Pyro programs, measured by one tensor of log-weights.

A VAE is two Pyro programs over one plate of data: a `model`, which samples latents from a prior
and scores x under a likelihood, and a `guide`, which samples the latents given x. Everything
that is trained or reported is a reduction of one tensor,

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)        shape [K particles, N data].

The ELBO is its mean over particles, the importance-weighted bound its log-mean-exp; rate and
distortion are its partial sums by site.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so that the
command line answers `--help` without waiting for torch. Importing the package changes no setting
of Pyro or torch.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
