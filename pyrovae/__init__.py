"""Variational autoencoders as pairs of Pyro programs, measured by one tensor of log-weights.

A VAE is two Pyro programs over one plate of data: a `model`, which samples latents from a prior
and scores x under a likelihood, and a `guide`, which samples the latents given x. Everything
that is trained or reported is a reduction of one tensor,

    log_w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)        shape [K particles, N data].

The ELBO is its mean over particles, the importance-weighted bound its log-mean-exp; rate and
distortion are its partial sums by site.

Names are resolved when they are first used, so that the command line answers `--help` without
waiting for torch. Importing the package changes no setting of Pyro or torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrovae import (
        aggregate,
        bounds,
        data,
        guides,
        handlers,
        imputation,
        kl,
        likelihoods,
        nets,
        objectives,
        parts,
        plots,
        priors,
        regularized,
        runs,
        schedules,
    )
    from pyrovae.callbacks import Callback, Checkpoint, EarlyStopping, History, ProgressBar
    from pyrovae.evaluation import Report, evaluate
    from pyrovae.imputation import Imputation, impute
    from pyrovae.kl import analytic_kl, monte_carlo_kl
    from pyrovae.refinement import refine
    from pyrovae.regularized import DIP, MMD, FactorVAE, TotalCorrelation
    from pyrovae.runs import load, save
    from pyrovae.svi import SVI, OneOptimizer
    from pyrovae.training import NonFiniteLoss, Step, fit
    from pyrovae.vae import VAE
    from pyrovae.weights import log_weight_terms, log_weights

__version__ = "0.1.0"

_MODULES = (
    "aggregate bounds callbacks data evaluation guides handlers imputation kl "
    "likelihoods nets objectives parts plots priors refinement regularized runs schedules "
    "training vae weights"
).split()
_HOMES = {
    "DIP": "regularized",
    "FactorVAE": "regularized",
    "MMD": "regularized",
    "SVI": "svi",
    "OneOptimizer": "svi",
    "TotalCorrelation": "regularized",
    "VAE": "vae",
    "fit": "training",
    "Step": "training",
    "Callback": "callbacks",
    "Checkpoint": "callbacks",
    "EarlyStopping": "callbacks",
    "History": "callbacks",
    "ProgressBar": "callbacks",
    "NonFiniteLoss": "training",
    "evaluate": "evaluation",
    "Report": "evaluation",
    "Imputation": "imputation",
    "impute": "imputation",
    "refine": "refinement",
    "load": "runs",
    "save": "runs",
    "log_weights": "weights",
    "log_weight_terms": "weights",
    "analytic_kl": "kl",
    "monte_carlo_kl": "kl",
}

__all__ = [
    "DIP",
    "MMD",
    "SVI",
    "VAE",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "FactorVAE",
    "History",
    "Imputation",
    "NonFiniteLoss",
    "OneOptimizer",
    "ProgressBar",
    "Report",
    "Step",
    "TotalCorrelation",
    "aggregate",
    "analytic_kl",
    "bounds",
    "data",
    "evaluate",
    "fit",
    "guides",
    "handlers",
    "imputation",
    "impute",
    "kl",
    "likelihoods",
    "load",
    "log_weight_terms",
    "log_weights",
    "monte_carlo_kl",
    "nets",
    "objectives",
    "parts",
    "plots",
    "priors",
    "refine",
    "regularized",
    "runs",
    "save",
    "schedules",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"pyrovae.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"pyrovae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pyrovae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
