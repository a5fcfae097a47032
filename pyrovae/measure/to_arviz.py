r"""Hand a report to ArviZ: a bound on log p(x_n) for each datum, and how far to trust it.

ArviZ's group `log_likelihood` has $\log p(x_n | \theta_s)$ at draws $\theta_s$ of parameters. A
trained VAE has one value of its parameters, so there is one chain with one draw, and the latents
are integrated out, up to a bound.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any, Final

from torch import Tensor

from pyrovae.measure.findings import PARETO, Finding
from pyrovae.weights.bounds import Estimate

__all__ = ["to_arviz"]

AXES: Final = ("chain", "draw", "datum")


def to_arviz(report: Finding) -> Any:
    r"""Return a report as ArviZ's data: `InferenceData` before ArviZ 1.0, a `DataTree` since.

    Needs `pyrovae[arviz]`. Two groups have the axes (chain, draw, datum), [1, 1, N]:

    - `log_likelihood`: "x", the bound on $\log p(x_n)$ with the most particles, in nats. Which one
      it is stands in the attribute "bound".
    - `sample_stats`: each estimate of the report and its standard error over particles, such as
      "elbo" and "elbo_standard_error"; "effective_sample_size"; "pareto_k" of the weights of the
      particles (not of a leave-one-out estimate).

    Args:
        report: the result of `evaluate`, or a saved one.

    Raises:
        ValueError: if the report has no bounds, as with a point guide or if it is of another
            measurement, or ArviZ is not installed.

    References:
        Kumar, Carroll, Hartikainen, Martin, 2019. ArviZ, a unified library for exploratory
        analysis of Bayesian models in Python.

    Example:
        >>> import torch, pyrovae as pv
        >>> report = pv.evaluate(pv.mlp_vae(64, latents=2), torch.zeros(5, 64), particles=100)
        >>> data = report.to_arviz()
        >>> data["log_likelihood"]["x"].shape, data["log_likelihood"].attrs["bound"]
        ((1, 1, 5), 'IWAE-100')
    """
    estimates = {n: q for n, q in report.quantities.items() if isinstance(q, Estimate)}
    bounds = {name: k for name, k in getattr(report, "bounds", {}).items() if name in estimates}
    points = getattr(report, "point_masses", ())
    if points or not bounds:
        why = f"its guide is a point mass at {', '.join(points)}" if points else "it has none"
        raise ValueError(
            f"ArviZ takes a bound on log p(x) of each datum, which this report lacks ({why}): "
            "give the report of pyrovae.evaluate of a VAE whose guide has a density"
        )
    tightest = max(bounds, key=lambda name: bounds[name])
    stats = {key: estimate.value for key, estimate in estimates.items()}
    stats |= {f"{key} standard error": e.standard_error for key, e in estimates.items()}
    beside = {"effective sample size": "effective sample size", PARETO: "pareto k"}
    stats |= {new: report.per_datum[old] for old, new in beside.items()}
    said = {
        "inference_library": "pyrovae",
        "unit": "nats",
        "bound": tightest,
        "particles": getattr(report, "particles", bounds[tightest]),
        "partial": int(report.partial),
    }
    groups = {"log_likelihood": {"x": estimates[tightest].value}, "sample_stats": stats}
    return _grouped(groups, said)


def _grouped(groups: dict[str, dict[str, Tensor]], said: dict[str, Any]) -> Any:
    """Return tensors [N] by group and name as the installed ArviZ holds them."""
    try:
        with warnings.catch_warnings():  # ArviZ 0.23 announces 1.0 when it is imported
            warnings.simplefilter("ignore", FutureWarning)
            arviz, xarray = map(importlib.import_module, ("arviz", "xarray"))
    except ModuleNotFoundError as error:
        raise ValueError(
            f"to_arviz needs {error.name}, which is not installed: pip install 'pyrovae[arviz]'"
        ) from error
    sets = {
        group: xarray.Dataset(
            {
                _key(name): (AXES, value.cpu().double().numpy()[None, None])
                for name, value in tensors.items()
            },
            coords={"chain": [0], "draw": [0]},
            attrs=said,
        )
        for group, tensors in groups.items()
    }
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(**sets)
    return xarray.DataTree.from_dict(sets)


def _key(name: str) -> str:
    """Return the name of an estimate as one word.

    Example:
        >>> _key("IWAE-10 standard error"), _key("KL, closed form")
        ('iwae_10_standard_error', 'kl_closed_form')
    """
    return re.sub(r"\W+", "_", name.lower()).strip("_")
