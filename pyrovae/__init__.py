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
        ais,
        bounds,
        comparison,
        data,
        discrepancies,
        gaps,
        guides,
        handlers,
        imputation,
        kl,
        latents,
        likelihoods,
        nets,
        novelty,
        objectives,
        pareto,
        parts,
        plots,
        predictive_checks,
        priors,
        regularized,
        runs,
        schedules,
    )
    from pyrovae.activity import active_units
    from pyrovae.ais import AIS, Sandwich
    from pyrovae.callbacks import (
        Callback,
        Checkpoint,
        EarlyStopping,
        History,
        ProgressBar,
        StopTraining,
    )
    from pyrovae.comparison import Comparison, compare
    from pyrovae.compiled_run import CompiledRun
    from pyrovae.evaluation import evaluate
    from pyrovae.gaps import GapFinding, Gaps, inference_gaps
    from pyrovae.imputation import Imputation, impute
    from pyrovae.kl import analytic_kl, monte_carlo_kl
    from pyrovae.latents import Latents
    from pyrovae.novelty import Novelty
    from pyrovae.per_datum_flow import PerDatumFlow
    from pyrovae.planes import latent_plane
    from pyrovae.predictive_checks import PredictiveCheck
    from pyrovae.rate_distortion_curve import RateDistortion, rate_distortion
    from pyrovae.refinement import refine
    from pyrovae.regularized import DIP, MMD, FactorVAE, TotalCorrelation
    from pyrovae.report import Report
    from pyrovae.runs import load, save
    from pyrovae.svi import SVI, OneOptimizer
    from pyrovae.training import NonFiniteLoss, Step, fit
    from pyrovae.traversals import traverse
    from pyrovae.vae import VAE
    from pyrovae.weights import log_weight_terms, log_weights

__version__ = "0.1.0"

_MODULES = (
    "aggregate ais bounds callbacks comparison data discrepancies evaluation gaps guides handlers "
    "imputation kl latents likelihoods nets novelty objectives pareto parts plots "
    "predictive_checks priors refinement regularized runs schedules training vae weights"
).split()
_HOMES = {
    "AIS": "ais",
    "Sandwich": "ais",
    "Novelty": "novelty",
    "PredictiveCheck": "predictive_checks",
    "read_report": "saved_findings",
    "compare": "comparison",
    "Comparison": "comparison",
    "Latents": "latents",
    "active_units": "activity",
    "latent_plane": "planes",
    "traverse": "traversals",
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
    "StopTraining": "callbacks",
    "NonFiniteLoss": "training",
    "evaluate": "evaluation",
    "RateDistortion": "rate_distortion_curve",
    "rate_distortion": "rate_distortion_curve",
    "Report": "report",
    "Imputation": "imputation",
    "impute": "imputation",
    "GapFinding": "gaps",
    "Gaps": "gaps",
    "inference_gaps": "gaps",
    "PerDatumFlow": "per_datum_flow",
    "refine": "refinement",
    "load": "runs",
    "save": "runs",
    "CompiledRun": "compiled_run",
    "log_weights": "weights",
    "log_weight_terms": "weights",
    "analytic_kl": "kl",
    "monte_carlo_kl": "kl",
}

__all__ = [
    "AIS",
    "DIP",
    "MMD",
    "SVI",
    "VAE",
    "Callback",
    "Checkpoint",
    "Comparison",
    "CompiledRun",
    "EarlyStopping",
    "FactorVAE",
    "GapFinding",
    "Gaps",
    "History",
    "Imputation",
    "Latents",
    "NonFiniteLoss",
    "Novelty",
    "OneOptimizer",
    "PerDatumFlow",
    "PredictiveCheck",
    "ProgressBar",
    "RateDistortion",
    "Report",
    "Sandwich",
    "Step",
    "StopTraining",
    "TotalCorrelation",
    "active_units",
    "aggregate",
    "ais",
    "analytic_kl",
    "bounds",
    "compare",
    "comparison",
    "data",
    "discrepancies",
    "evaluate",
    "fit",
    "gaps",
    "guides",
    "handlers",
    "imputation",
    "impute",
    "inference_gaps",
    "kl",
    "latent_plane",
    "latents",
    "likelihoods",
    "load",
    "log_weight_terms",
    "log_weights",
    "monte_carlo_kl",
    "nets",
    "novelty",
    "objectives",
    "pareto",
    "parts",
    "plots",
    "predictive_checks",
    "priors",
    "rate_distortion",
    "read_report",
    "refine",
    "regularized",
    "runs",
    "save",
    "schedules",
    "traverse",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"pyrovae.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"pyrovae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'pyrovae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
