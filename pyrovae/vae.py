"""A VAE is two Pyro programs over one plate of data, composed from three parts.

    model:  z ~ prior(),  x ~ likelihood(z)          guide:  z ~ guide(x)

Both programs announce their parameters with an effectful `param` message, which is all that
`pyro.infer.SVI` needs to train them. The parameters themselves stay where torch keeps them, in
the modules and in `state_dict()`, so two VAEs in one process share nothing. What plain functions
announce by `pyro.param` or `pyro.module` stays in Pyro's store, and is saved with the VAE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.runtime import effectful
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyrovae.data import check_context, check_domain, check_finite, named
from pyrovae.guides.normal import MeanFieldNormal
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.nets.perceptrons import MLP
from pyrovae.parts import Part, describe_together, is_known
from pyrovae.priors.standard import StandardNormal
from pyrovae.randomness import STEPS, Steps
from pyrovae.sites import mean_of
from pyrovae.stored import Announced, StoredParameters, aliased, held_modules

Program = Callable[..., Any]


class VAE(nn.Module):
    r"""Compose a prior p(z), a likelihood p(x | z) and a guide q(z | x).

    Each part is a plain function, an `nn.Module` or a `PyroModule`, and runs inside
    `pyro.plate("data", N, dim=-1)`, so every site it samples has batch shape [N] (or [K, N] under
    a plate of K particles) and declares the rest with `.to_event`.

    Args:
        prior: called as `prior(*context)`; samples the latent sites and returns what the
            likelihood takes.
        likelihood: called as `likelihood(z, x, *context)`; scores x at the site "x", or draws it
            where x is None. A `domain` attribute, if there is one, is checked by `fit` and
            `evaluate`.
        guide: called as `guide(x, *context)`; samples every latent site of the prior. A module
            is kept as `vae.posterior`, since `vae.guide` is the whole program.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.
        Rezende, Mohamed, Wierstra, 2014. Stochastic Backpropagation.

    Example:
        >>> import pyro, torch, pyrovae as pv
        >>> vae = pv.VAE(
        ...     prior=pv.priors.StandardNormal(2),
        ...     likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 16, 64)),
        ...     guide=pv.guides.MeanFieldNormal(pv.nets.MLP(64, 16, 2 * 2)),
        ... )
        >>> svi = pyro.infer.SVI(
        ...     vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO()
        ... )
        >>> x = torch.zeros(5, 64)
        >>> svi.step(x) > 0
        True
        >>> vae.encode(x).mean.shape, vae.decode(torch.zeros(5, 2)).mean.shape
        (torch.Size([5, 2]), torch.Size([5, 64]))
    """

    def __init__(self, prior: Program, likelihood: Program, guide: Program) -> None:
        super().__init__()
        for role, part in (("prior", prior), ("likelihood", likelihood), ("guide", guide)):
            if not callable(part):
                raise ValueError(f"the {role} is a Pyro program; got {type(part).__name__}")
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = guide
        self.stored = StoredParameters()
        _keep_parameters_local(self)

    @classmethod
    def mlp(
        cls,
        features: int,
        latents: int,
        *,
        hidden: int | Sequence[int] = 200,
        likelihood: Callable[[nn.Module], Program] = Bernoulli,
    ) -> VAE:
        """Return a VAE of perceptrons: standard normal prior, mean-field normal guide.

        Args:
            features: D, where x is [N, D].
            latents: the number of latent dimensions.
            hidden: the width of the hidden layer, or of several, from x to z; the likelihood's
                network has the same in reverse.
            likelihood: called with a network from z to D numbers for each datum, as a class of
                `pyrovae.likelihoods` is.

        Raises:
            ValueError: for a width below 1, and as the likelihood.

        Example:
            >>> import torch, pyrovae as pv
            >>> vae = pv.VAE.mlp(64, latents=2, hidden=16)
            >>> vae.sample(5).shape
            torch.Size([5, 64])
            >>> vae = pv.VAE.mlp(64, 2, hidden=(32, 16), likelihood=pv.likelihoods.Normal)
            >>> vae.likelihood.net.sizes
            (2, 16, 32, 64)
        """
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        return cls(
            prior=StandardNormal(latents),
            likelihood=likelihood(MLP(latents, *reversed(widths), features)),
            guide=MeanFieldNormal(MLP(features, *widths, 2 * latents)),
        )

    def model(self, x: Tensor | None, *context: Any, size: int | None = None) -> Any:
        """Run the joint p(x, z): sample the latents, score x.

        Args:
            x: data [N, ...], or None to draw from the prior predictive.
            *context: whatever else prior, likelihood and guide take, one row per datum.
            size: the size of the whole data set, of which x is a subsample: the plate scales
                every log-probability by size / N. With x None, the number of data to draw.

        Returns:
            What the likelihood returns: x, observed or drawn.

        Raises:
            ValueError: if neither x nor size is given.
        """
        with self._over_data(x, size, self.prior, self.likelihood):
            latents = self.prior(*context)
            if latents is None and isinstance(self.likelihood, Part):
                raise ValueError(
                    "the prior returned None, and the likelihood takes what it returns: end it "
                    'with return pyro.sample("z", ...)'
                )
            return self.likelihood(latents, x, *context)

    def guide(self, x: Tensor, *context: Any, size: int | None = None) -> Any:
        """Run the posterior q(z | x), which samples every latent site of the prior."""
        with self._over_data(x, size, self.posterior):
            return self.posterior(x, *context)

    def encode(self, x: Tensor, *context: Any, site: str | None = None) -> dist.Distribution:
        """Return q(z | x) with batch shape [N].

        Where the guide has several latent sites, name the one that is wanted; its distribution
        is the one met with the sites before it sampled.

        Raises:
            ValueError: if the guide has several latent sites and none is named, or not this one.
        """
        trace = poutine.trace(self.guide).get_trace(x, *context)
        sites = _latent_sites(trace)
        if site is None and len(sites) == 1:
            site = sites[0]
        if site not in sites:
            raise ValueError(f"the guide samples the sites {sites}; got site={site!r}: name one")
        found: dist.Distribution = trace.nodes[site]["fn"]
        return found

    def decode(self, z: Any, *context: Any) -> dist.Distribution:
        """Return p(x | z), the distribution at the site "x", for what the prior returns, z."""
        with _local_parameters(), self._met((self.likelihood,)):
            trace = poutine.trace(self.likelihood).get_trace(z, None, *context)
        return _observation(trace)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *context: Any) -> Tensor:
        """Return the mean of p(x | z) at one draw z ~ q(z | x), of the shape of x.

        Raises:
            ValueError: if p(x | z) has no mean, as where x are classes.
        """
        drawn = poutine.trace(self.guide).get_trace(x, *context)
        generate = poutine.trace(poutine.replay(self.model, trace=drawn))
        return mean_of(_observation(generate.get_trace(None, *context, size=len(x))))

    def predictive(self, n: int, *context: Any) -> dist.Distribution:
        """Return p(x | z) at n draws z ~ p(z): its mean shows what the model has learned."""
        return _observation(poutine.trace(self.model).get_trace(None, *context, size=n))

    @torch.no_grad()
    def sample(self, n: int, *context: Any) -> Tensor:
        """Draw n data from p(x)."""
        drawn: Tensor = self.model(None, *context, size=n)
        return drawn

    @property
    def held(self) -> dict[str, nn.Module]:
        """The modules that parts refer to which are plain functions, by name."""
        return held_modules(prior=self.prior, likelihood=self.likelihood, guide=self.posterior)

    @property
    def config(self) -> dict[str, Any]:
        """The JSON record of the three parts (see `pyrovae.parts`)."""
        return describe_together(
            prior=self.prior, likelihood=self.likelihood, guide=self.posterior
        )

    @contextlib.contextmanager
    def _over_data(self, x: Tensor | None, size: int | None, *parts: Program) -> Iterator[None]:
        if x is not None and not isinstance(x, Tensor):
            raise ValueError(f"a VAE's programs take x as a tensor [N, ...]; got {named(x)}")
        n = size if x is None else len(x)
        if x is not None and size is not None and size < len(x):
            raise ValueError(
                f"x is a subsample of the whole data set; got {len(x)} rows and size={size}"
            )
        if n is None or n < 1:
            met = "neither" if n is None else ("no data" if x is not None else f"size={size}")
            raise ValueError(
                f"a VAE's programs need x with at least one row, or size=n; got {met}"
            )
        plate = pyro.plate("data", size or n, subsample=torch.arange(n), dim=-1)
        with _local_parameters(), self._announced(parts), plate:
            yield

    def _announced(self, parts: tuple[Program, ...]) -> contextlib.AbstractContextManager[Any]:
        """Announce what the parts train, and silence what Pyro modules would say of the same."""
        own = _parameters_of(parts)
        for name, parameter in self.named_parameters():
            if id(parameter) in own and parameter.requires_grad:
                announce(name, parameter)
        return self._met(parts)

    def _met(self, parts: tuple[Program, ...]) -> Announced:
        return Announced(_parameters_of(parts), self.stored)


def programs(target: Any) -> tuple[Program, Program]:
    """Return the model and the guide of a VAE, or of a pair (model, guide).

    Raises:
        ValueError: if the target is neither.
    """
    if isinstance(target, tuple) and len(target) == 2 and all(callable(part) for part in target):
        return target
    if callable(getattr(target, "model", None)) and callable(getattr(target, "guide", None)):
        return target.model, target.guide
    raise ValueError(
        f"expected a VAE or a pair (model, guide) of Pyro programs; got {type(target).__name__}"
    )


def steps_of(target: Any) -> Steps:
    """Return the steps that a VAE, or the model of a pair, was trained for so far."""
    steps: Steps = getattr(_trained(target), STEPS, Steps())
    return steps


def keep_steps(target: Any, steps: Steps) -> None:
    """Remember the steps of a target's training with it; what takes no attribute begins anew."""
    with contextlib.suppress(AttributeError):
        setattr(_trained(target), STEPS, steps)


def _trained(target: Any) -> Any:
    """Return what a target's steps are kept with: the VAE, or the model's function or object."""
    model = target[0] if isinstance(target, tuple) else target
    return getattr(model, "__self__", model)


def check_data(target: Any, x: Tensor, *context: Any) -> None:
    """Hold data against what the programs can take, before the first step.

    Raises:
        ValueError: if x is empty, not finite, or outside the likelihood's `domain`; of what
            stands at missing entries it is said that they are missing. If a context is not finite.
    """
    check_finite(x)
    check_context(context)
    likelihood = getattr(target, "likelihood", None)
    domain = getattr(likelihood, "domain", None)
    if domain is not None:
        last = context[-1] if context else None
        known = isinstance(last, Tensor) and last.dtype == torch.bool and last.shape == x.shape
        check_domain(x, domain, type(likelihood).__name__, mask=last if known else None)


def device_of(target: Any) -> torch.device | None:
    """Return the device of a module's first parameter or buffer; None where there is none."""
    if not isinstance(target, nn.Module):
        return None
    return next((t.device for t in (*target.parameters(), *target.buffers())), None)


def placed(target: Any, *data: Any) -> list[Any]:
    """Return the data with their tensors where the target's parameters are."""
    device = device_of(target)
    return [value.to(device) if isinstance(value, Tensor) else value for value in data]


def safe_to_compile(target: Any) -> bool:
    """Tell whether compiling goes by default: a VAE made of the library's parts alone.

    A program of the user's own may keep state in Python that no graph follows, so it is compiled
    when it is asked for.
    """
    device = device_of(target)
    known = device is not None and device.type in ("cpu", "cuda")
    return known and isinstance(target, VAE) and is_known(target.config)


def modules_of(target: Any) -> list[nn.Module]:
    """Return every module of a VAE or of a pair (model, guide), with those its functions hold."""
    tops: list[Any] = [target] if isinstance(target, nn.Module) else []
    if isinstance(target, VAE):
        tops += target.held.values()
    elif not tops:
        model, guide = programs(target)
        tops = [part for part in (model, guide) if isinstance(part, nn.Module)]
        tops += held_modules(model=model, guide=guide).values()
    return list({id(module): module for top in tops for module in top.modules()}.values())


def buffers_of(target: Any) -> dict[str, Tensor]:
    """Return the buffers of every module of a target, each once, by name."""
    named = list(target.named_buffers()) if isinstance(target, nn.Module) else []
    met = {id(buffer) for _, buffer in named}
    for number, module in enumerate(modules_of(target)):
        for name, buffer in module.named_buffers(recurse=False):
            if id(buffer) not in met:
                met.add(id(buffer))
                named.append((f"{number}.{name}", buffer))
    return dict(named)


@contextlib.contextmanager
def buffers_kept(target: Any) -> Iterator[None]:
    """Put back, after the block, the buffers of the target's modules and of those it calls.

    A check or a measurement in training mode moves the statistics of a batch normalisation, and a
    program may keep buffers of its own in any mode.
    """
    before: dict[int, tuple[nn.Module, dict[str, tuple[Tensor, Tensor]]]] = {}

    def remember(module: nn.Module, _: Any = None) -> None:
        if id(module) not in before:
            before[id(module)] = (
                module,
                {
                    name: (buffer, buffer.clone())
                    for name, buffer in module._buffers.items()
                    if buffer is not None and not nn.parameter.is_lazy(buffer)
                },
            )

    for module in modules_of(target):
        remember(module)
    try:
        with nn.modules.module.register_module_forward_pre_hook(remember):
            yield
    finally:
        with torch.no_grad():
            for module, buffers in before.values():
                for name, (buffer, value) in buffers.items():
                    module._buffers[name] = buffer.copy_(value)


@contextlib.contextmanager
def evaluation_mode(target: Any) -> Iterator[None]:
    """Switch dropout and the like off for the block in every module of the target."""
    modules = modules_of(target)
    flags = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def announce(name: str, parameter: Tensor) -> None:
    """Send the message by which Pyro's optimizers find a parameter."""
    alias = aliased(parameter)
    effectful(lambda *_, **__: alias, type="param")(name, name=name)


def _parameters_of(parts: tuple[Program, ...]) -> set[int]:
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _local_parameters() -> contextlib.AbstractContextManager[None]:
    return pyro.settings.context(module_local_params=True)


def _keep_parameters_local(vae: VAE) -> None:
    """Give Pyro modules that were made outside Pyro's local mode the store that the mode needs."""
    for module in modules_of(vae):
        if isinstance(module, PyroModule) and not hasattr(module._pyro_context, "param_state"):
            module._pyro_context.param_state = {"params": {}, "constraints": {}}


def _latent_sites(trace: Any) -> list[str]:
    return [
        name
        for name in trace.stochastic_nodes
        if not trace.nodes[name]["infer"].get("is_auxiliary")
        and not site_is_subsample(trace.nodes[name])
    ]


def _observation(trace: Any) -> dist.Distribution:
    if "x" not in trace.nodes:
        raise ValueError(
            f"the likelihood has the sites {list(trace.stochastic_nodes)} but none named 'x': "
            "it scores the data with pyro.sample('x', ..., obs=x)"
        )
    found: dist.Distribution = trace.nodes["x"]["fn"]
    return found
