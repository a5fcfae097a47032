"""Names for the command line: each prior, likelihood, guide and objective that it can build.

A name stands for a function of a `Plan` or an `Aim`, whose keyword-only arguments are the options
that `--prior.components 500` sets. Nothing here needs torch until a function is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyrovae as pv


@dataclass(frozen=True)
class Plan:
    """What the parts of one VAE share.

    Attributes:
        latents: dimensions of z.
        hidden: widths of the guide's hidden layers, mirrored in the likelihood's.
        x: the training data [N, D], intensities or binary.
    """

    latents: int
    hidden: tuple[int, ...]
    x: Any

    def encoder(self, outputs: int) -> Any:
        """Return a tanh network from x."""
        return self._net(self.x.shape[-1], *self.hidden, outputs)

    def decoder(self, outputs_per_x: int = 1) -> Any:
        """Return a tanh network from z."""
        return self._net(self.latents, *self.hidden[::-1], outputs_per_x * self.x.shape[-1])

    def _net(self, *sizes: int) -> Any:
        from torch.nn import Tanh

        return pv.nets.MLP(*sizes, activation=Tanh)


Builder = Callable[..., Any]


def _vampprior(plan: Plan, guide: Any, *, components: int = 500) -> Any:
    return pv.priors.VampPrior(guide, components).start_at_data(plan.x)


def _mixture_prior(plan: Plan, guide: Any, *, components: int = 10) -> Any:
    return pv.priors.MixtureOfNormals(plan.latents, components)


def _student_t_prior(plan: Plan, guide: Any, *, df: float = 5.0) -> Any:
    return pv.priors.StudentT(plan.latents, df)


def _flow_prior(plan: Plan, guide: Any, *, transforms: int = 3, width: int = 64) -> Any:
    return pv.priors.Flow(plan.latents, transforms=transforms, hidden=width)


def _of_latents(name: str) -> Builder:
    return lambda plan, guide: getattr(pv.priors, name)(plan.latents)


PRIORS: Final[Mapping[str, Builder]] = {
    "standard-normal": _of_latents("StandardNormal"),
    "normal": _of_latents("Normal"),
    "laplace": _of_latents("Laplace"),
    "student-t": _student_t_prior,
    "mixture": _mixture_prior,
    "vampprior": _vampprior,
    "flow": _flow_prior,
    "sphere": _of_latents("UniformSphere"),
}


def _mean_field(plan: Plan) -> Any:
    return pv.guides.MeanFieldNormal(plan.encoder(2 * plan.latents))


def _full_rank(plan: Plan) -> Any:
    width = pv.guides.FullRankNormal.width(plan.latents)
    return pv.guides.FullRankNormal(plan.encoder(width))


def _low_rank(plan: Plan, *, rank: int = 5) -> Any:
    width = pv.guides.LowRankNormal.width(plan.latents, rank)
    return pv.guides.LowRankNormal(plan.encoder(width), rank)


def _flow_guide(plan: Plan, *, features: int = 64, transforms: int = 3, width: int = 64) -> Any:
    net = plan.encoder(features)
    return pv.guides.Flow(
        net, plan.latents, features=features, transforms=transforms, hidden=width
    )


def _power_spherical(plan: Plan) -> Any:
    return pv.guides.PowerSpherical(plan.encoder(plan.latents + 1))


GUIDES: Final[Mapping[str, Builder]] = {
    "mean-field": _mean_field,
    "full-rank": _full_rank,
    "low-rank": _low_rank,
    "flow": _flow_guide,
    "power-spherical": _power_spherical,
}


def _bernoulli(plan: Plan) -> Any:
    return pv.likelihoods.Bernoulli(plan.decoder())


def _continuous_bernoulli(plan: Plan) -> Any:
    return pv.likelihoods.ContinuousBernoulli(plan.decoder())


def _student_t(plan: Plan, *, df: float = 4.0) -> Any:
    return pv.likelihoods.StudentT(plan.decoder(), df=df)


def _normal(plan: Plan) -> Any:
    return pv.likelihoods.Normal(plan.decoder())


def _laplace(plan: Plan) -> Any:
    return pv.likelihoods.Laplace(plan.decoder())


LIKELIHOODS: Final[Mapping[str, Builder]] = {
    "bernoulli": _bernoulli,
    "continuous-bernoulli": _continuous_bernoulli,
    "normal": _normal,
    "laplace": _laplace,
    "student-t": _student_t,
}


@dataclass(frozen=True)
class Aim:
    """What the objectives share: K particles, and a gradient estimator."""

    particles: int
    gradient: Literal["plain", "stl", "dreg"]


def _elbo(aim: Aim) -> Any:
    if aim.particles == 1 and aim.gradient == "plain":
        return None
    return pv.objectives.MIWAE(aim.particles, 1, aim.gradient)


def _iwae(aim: Aim) -> Any:
    return pv.objectives.IWAE(aim.particles, aim.gradient)


def _miwae(aim: Aim, *, m: int = 5) -> Any:
    return pv.objectives.MIWAE(m, aim.particles, aim.gradient)


def _piwae(aim: Aim, *, m: int = 5) -> Any:
    return pv.objectives.PIWAE(m, aim.particles, aim.gradient)


def _ciwae(aim: Aim, *, beta: float = 0.5) -> Any:
    return pv.objectives.CIWAE(beta, aim.particles, aim.gradient)


def _renyi(aim: Aim, *, alpha: float = 0.5) -> Any:
    return pv.objectives.Renyi(alpha, aim.particles, aim.gradient)


def _rws(aim: Aim) -> Any:
    return pv.objectives.ReweightedWakeSleep(aim.particles, aim.gradient)


OBJECTIVES: Final[Mapping[str, Builder]] = {
    "elbo": _elbo,
    "iwae": _iwae,
    "miwae": _miwae,
    "piwae": _piwae,
    "ciwae": _ciwae,
    "renyi": _renyi,
    "rws": _rws,
}

TABLES: Final = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "guide": GUIDES,
    "objective": OBJECTIVES,
}


def options_of(role: str, name: str) -> dict[str, Any]:
    """Return the options that a name takes, with their defaults.

    Example:
        >>> options_of("prior", "vampprior")
        {'components': 500}
    """
    parameters = inspect.signature(TABLES[role][name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def chosen(role: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a role among parsed arguments, as they were given.

    Example:
        >>> chosen("prior", {"epochs": 3, "prior": "vampprior", "prior.components": "50"})
        {'components': '50'}
    """
    prefix = f"{role}."
    return {key.removeprefix(prefix): v for key, v in arguments.items() if key.startswith(prefix)}


def make(role: str, name: str, options: Mapping[str, str], *shared: Any) -> Any:
    """Build what a name stands for, its options given as text.

    Raises:
        ValueError: for an option that the name does not take, or that is not a number of its
            kind; and what the part itself raises.

    Example:
        >>> make("objective", "renyi", {"beta": "1"}, None)
        Traceback (most recent call last):
        ...
        ValueError: renyi has no option --objective.beta; it takes --objective.alpha (0.5)
    """
    known = options_of(role, name)
    for option in options:
        if option not in known:
            said = _listed(f"--{role}.{key} ({value})" for key, value in known.items())
            raise ValueError(f"{name} has no option --{role}.{option}; it takes {said}")
    values = {
        option: _number(f"--{role}.{option}", text, type(known[option]))
        for option, text in options.items()
    }
    return TABLES[role][name](*shared, **values)


def _number(option: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        wanted = "whole number" if kind is int else "number"
        raise ValueError(f"{option} is a {wanted}; got '{text}'") from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
