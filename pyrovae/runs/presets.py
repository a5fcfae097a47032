"""Complete VAEs with common choices of prior, likelihood, guide and networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from pyrovae.data.table import Table
from pyrovae.guides.normal import MeanFieldNormal
from pyrovae.likelihoods.binary import Bernoulli
from pyrovae.likelihoods.masks import Masked
from pyrovae.likelihoods.tables import Columns
from pyrovae.nets.inputs import EncodeColumns
from pyrovae.nets.perceptrons import MLP
from pyrovae.priors.standard import StandardNormal
from pyrovae.vae import VAE

__all__ = ["mlp_vae", "table_vae"]


def mlp_vae(
    features: int,
    latents: int,
    *,
    hidden: int | Sequence[int] = 200,
    likelihood: Callable[[nn.Module], Any] = Bernoulli,
) -> VAE:
    """Return a VAE of perceptrons, with a standard normal prior and a mean-field normal guide.

    Args:
        features: the number of dimensions D of x, [N, D].
        latents: the number of latent dimensions.
        hidden: the widths of the guide's hidden layers, from x to z. The likelihood's network has
            the same widths in reverse order.
        likelihood: a class of `pyrovae.likelihoods`, or a function of a network with D outputs.

    Raises:
        ValueError: if a width is less than 1.

    References:
        Kingma, Welling, 2014. Auto-Encoding Variational Bayes.

    Example:
        >>> import torch, pyrovae as pv
        >>> vae = pv.mlp_vae(64, latents=2, hidden=16)
        >>> vae.sample(5).shape
        torch.Size([5, 64])
        >>> vae = pv.mlp_vae(64, 2, hidden=(32, 16), likelihood=pv.likelihoods.Normal)
        >>> vae.likelihood.net.sizes
        (2, 16, 32, 64)
    """
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    return VAE(
        prior=StandardNormal(latents),
        likelihood=likelihood(MLP(latents, *reversed(widths), features)),
        guide=MeanFieldNormal(MLP(features, *widths, 2 * latents)),
    )


def table_vae(table: Table, latents: int, *, hidden: int | Sequence[int] = 200) -> VAE:
    r"""Return a VAE of a table with columns of mixed kinds and missing values.

    The prior is standard normal. The guide's network gets numbers, indicators of classes and the
    mask (`nets.EncodeColumns`); the likelihood scores the observed entries
    (`likelihoods.Masked` of `likelihoods.Columns`), so that bounds are on $\log p(x_{obs})$.

    Args:
        table: the schema, of which `table.encode(frame)` gives the VAE's data (x, mask).
        latents: the number of latent dimensions.
        hidden: the widths of the guide's hidden layers, from x to z. The likelihood's network has
            the same widths in reverse order.

    References:
        Nazabal, Olmos, Ghahramani, Valera, 2020. Handling Incomplete Heterogeneous Data using
        VAEs.
        Mattei, Frellsen, 2019. MIWAE: Deep Generative Modelling and Imputation of Incomplete
        Data Sets.

    Example:
        >>> import pandas, pyrovae as pv
        >>> people = pandas.DataFrame({
        ...     "height": [1.62, 1.8, None, 1.75], "city": ["Bern", "Rome", None, "Oslo"]
        ... })
        >>> table = pv.data.Table.of(people)
        >>> vae = pv.table_vae(table, latents=2, hidden=16)
        >>> history = pv.fit(vae, table.encode(people), epochs=1, callbacks=())
        >>> filled = pv.impute_table(vae, table, people, particles=100)
        >>> int(filled.isna().sum().sum()), len(table.sample(vae, 10))
        (0, 10)
    """
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    classes = [column.classes for column in table.columns]
    counts = [i for i, column in enumerate(table.columns) if column.kind == "count"]
    net = MLP(EncodeColumns.width(classes) + len(classes), *widths, 2 * latents)
    return VAE(
        prior=StandardNormal(latents),
        likelihood=Masked(Columns.of(table, latents, hidden=widths[::-1])),
        guide=MeanFieldNormal(EncodeColumns(net, classes, counts=counts)),
    )
