"""Compose a prior, a likelihood and a guide into the two Pyro programs of a VAE.

    model:  z ~ prior(),  x ~ likelihood(z)          guide:  z ~ guide(x)

Each program sends a `param` message for each of its parameters, so `pyro.infer.SVI` can train
them. The parameters stay in the modules and in `state_dict()`, not in Pyro's parameter store, so
two VAEs in one process do not share them. Parameters that plain functions create by `pyro.param`
or `pyro.module` stay in Pyro's store, and are saved with the VAE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.runtime import effectful
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae.data.domains import named
from pyrovae.parts import Part, describe_together
from pyrovae.types import ContextValue, Data, Program
from pyrovae.weights.attributes import versions_of
from pyrovae.weights.diagram import vae_as_html
from pyrovae.weights.posterior_means import embedded
from pyrovae.weights.reconstructed import decoded_draw
from pyrovae.weights.sites import mean_of
from pyrovae.weights.stored import Announced, StoredParameters, aliased, held_modules
from pyrovae.weights.target import as_tensors, evaluation_mode, modules_of

__all__ = ["VAE", "announce"]


class VAE(nn.Module):
    r"""A variational autoencoder: a prior p(z), a likelihood p(x | z) and a guide q(z | x).

    The model and the guide are trained to maximize the ELBO,

    $$ E_{q(z | x)} [\log p(x | z) + \log p(z) - \log q(z | x)] \le \log p(x) $$

    Each part is a plain function, an `nn.Module` or a `PyroModule`. It runs inside
    `pyro.plate("data", N, dim=-1)`, so each of its sites has batch shape [N], or [K, N] under a
    plate of K particles, and declares all other dimensions with `.to_event`.

    Args:
        prior: called as `prior(*context)`. It samples the latent sites, and returns the input z
            of the likelihood.
        likelihood: called as `likelihood(z, x, *context)`. It observes x at the site "x", or
            samples it if x is None. If it has an attribute `domain`, a constraint, `fit` and
            `evaluate` check the data against it.
        guide: called as `guide(x, *context)`. It samples every latent site of the prior. It is
            kept as `vae.posterior`; the method `vae.guide` is the whole program.

    Raises:
        ValueError: if a part is not callable.

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
                raise ValueError(
                    f"the {role} is a Pyro program, a callable; got {type(part).__name__}"
                )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = guide
        self.stored = StoredParameters()
        _keep_parameters_local(self)
        # Saving compares plain tensor attributes with these, to find those that have changed.
        self.initial = versions_of(self)

    def model(self, x: Tensor | None, *context: ContextValue, size: int | None = None) -> Any:
        """Run the program p(x, z): sample the latents and observe x.

        Args:
            x: data [N, ...], or None to sample x from the prior predictive.
            *context: further arguments of the prior, the likelihood and the guide.
            size: the size of the plate over data, which is the size of the whole data set; N by
                default. If x is a subsample of that data set, the plate scales each
                log-probability by size / N, as any plate of Pyro. If x is None, the plate has
                nothing to subsample, so all `size` data are sampled.

        Returns:
            The return value of the likelihood: the observed or sampled x.

        Raises:
            ValueError: if neither x nor size is given, x is empty or no tensor, size is less than
                N, or the prior returns None.
        """
        with self._over_data(x, size, self.prior, self.likelihood):
            latents = self.prior(*context)
            if latents is None and isinstance(self.likelihood, Part):
                raise ValueError(
                    "the prior returned None, but its return value is the input of the "
                    'likelihood: end it with return pyro.sample("z", ...)'
                )
            return self.likelihood(latents, x, *context)

    def guide(self, x: Tensor, *context: ContextValue, size: int | None = None) -> Any:
        """Run the program q(z | x): sample every latent site of the prior.

        Arguments and errors are as of `model`, except that x is required.

        Returns:
            The return value of the guide.
        """
        with self._over_data(x, size, self.posterior):
            return self.posterior(x, *context)

    def encode(
        self, x: Tensor, *context: ContextValue, site: str | None = None
    ) -> dist.Distribution:
        """Return q(z | x) with batch shape [N].

        Args:
            x: data [N, ...], a tensor or another array.
            *context: further arguments of the guide.
            site: the name of the latent site. Required if the guide has several. The
                distribution of a site that depends on earlier sites is conditioned on one sample
                of them.

        Raises:
            ValueError: if the guide has several latent sites and none is named, or if it has no
                site of that name.
        """
        trace = poutine.trace(self.guide).get_trace(*as_tensors(self, x, *context))
        sites = _latent_sites(trace)
        if site is None and len(sites) == 1:
            site = sites[0]
        if site not in sites:
            raise ValueError(f"the guide samples the sites {sites}; got site={site!r}: name one")
        found: dist.Distribution = trace.nodes[site]["fn"]
        return found

    def embed(self, x: Data, *context: ContextValue, site: str | None = None) -> Tensor:
        r"""Return the posterior means $E_{q(z | x)}[z]$ as a representation, [N, L].

        They are computed in batches and in evaluation mode. Values of more than one axis are
        flattened. A categorical site with C classes gives their C probabilities. Where a site
        depends on others or has no mean in closed form, the mean of 100 draws stands for it; the
        draws are the same at each call with the same data, and torch's generators are left as they
        were. They depend on the batch: `embed(x)[:7]` and `embed(x[:7])` then differ by chance.

        Args:
            x: data [N, ...], an array, a split or a tuple (x, *context). A dynamic split is
                binarized as by `evaluate`.
            *context: further arguments of the guide.
            site: the name of the latent site; by default all sites, side by side in the order in
                which the guide samples them.

        Raises:
            ValueError: if the guide has no site of that name, and as `evaluate` for the data.
            UndefinedMean: if q(z | x) has no mean, as a Cauchy distribution has none.

        Example:
            >>> import torch, pyrovae as pv
            >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
            >>> vae.embed(torch.zeros(5, 64)).shape
            torch.Size([5, 2])
        """
        return embedded(self, x, *context, site=site)

    def decode(self, z: Any, *context: ContextValue) -> dist.Distribution:
        """Return p(x | z), the distribution at the site "x", with batch shape [N].

        Args:
            z: the return value of the prior, such as latents [N, D].
            *context: further arguments of the likelihood.

        Raises:
            ValueError: if the likelihood has no site "x".
        """
        with _local_parameters(), self._met((self.likelihood,)):
            trace = poutine.trace(self.likelihood).get_trace(z, None, *context)
        return _observation(trace)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, *context: ContextValue) -> Tensor:
        """Return the mean of p(x | z) at one draw z ~ q(z | x), of the shape of x.

        The modules are in evaluation mode. A site that is enumerated in the prior and omitted in
        the guide is drawn from its posterior given x and the other sites.

        Raises:
            ValueError: if p(x | z) has no mean, such as a categorical distribution.
        """
        x, *context = as_tensors(self, x, *context)  # type: ignore[assignment]
        with evaluation_mode(self):
            trace = decoded_draw(self.model, self.guide, x, *context)
            return mean_of(_observation(trace))

    def predictive(self, n: int, *context: ContextValue) -> dist.Distribution:
        """Return p(x | z) at n draws z ~ p(z), with batch shape [n].

        The modules are in evaluation mode, unlike in a run of `model`.
        """
        with evaluation_mode(self):
            return _observation(poutine.trace(self.model).get_trace(None, *context, size=n))

    @torch.no_grad()
    def sample(self, n: int, *context: ContextValue) -> Tensor:
        """Sample n data from p(x): z ~ p(z), then x ~ p(x | z), in evaluation mode."""
        with evaluation_mode(self):
            drawn: Tensor = self.model(None, *context, size=n)
            return drawn

    @property
    def held(self) -> dict[str, nn.Module]:
        """The modules that parts refer to, if these are plain functions, by name."""
        return held_modules(prior=self.prior, likelihood=self.likelihood, guide=self.posterior)

    @property
    def config(self) -> dict[str, Any]:
        """The JSON record of the three parts, from which `load` rebuilds them."""
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

    def _repr_html_(self) -> str:
        """Return the diagrams, sites and parts for a notebook."""
        return vae_as_html(self)

    def _announced(self, parts: tuple[Program, ...]) -> contextlib.AbstractContextManager[Any]:
        """Announce the parts' parameters, and hide the param sites that Pyro modules add."""
        own = _parameters_of(parts)
        for name, parameter in self.named_parameters():
            if id(parameter) in own and parameter.requires_grad:
                announce(name, parameter)
        return self._met(parts)

    def _met(self, parts: tuple[Program, ...]) -> Announced:
        return Announced(_parameters_of(parts), self.stored)


def announce(name: str, parameter: Tensor) -> None:
    """Send the `param` message by which Pyro's optimizers find a parameter."""
    alias = aliased(parameter)
    # Pyro's diagrams and its autoguides read the constraint that `pyro.param` gives.
    given = {"name": name, "constraint": constraints.real}
    effectful(lambda *_, **__: alias, type="param")(name, **given)


def _parameters_of(parts: tuple[Program, ...]) -> set[int]:
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return {id(parameter) for module in modules for parameter in module.parameters()}


def _local_parameters() -> contextlib.AbstractContextManager[None]:
    return pyro.settings.context(module_local_params=True)


def _keep_parameters_local(vae: VAE) -> None:
    """Give Pyro modules made outside `module_local_params` the local store that it needs."""
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
            "observe the data with pyro.sample('x', ..., obs=x)"
        )
    found: dist.Distribution = trace.nodes["x"]["fn"]
    return found
