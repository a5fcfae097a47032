"""Unsupervised clustering with an enumerated class and a continuous latent.

The model is p(c) p(z | c) p(x | z), and the guide is q(z | x): `TraceEnum_ELBO` and `log_weights`
sum over the class exactly, so nothing discrete is sampled. The cluster of a datum is the most
probable class under p(c | z) at the mean of q(z | x). The clusters are compared with the digits'
labels, which are not used in training.

References:
    Jiang, Zheng, Tan, Tang, Zhou, 2017. Variational Deep Embedding.
    Dilokthanakul et al., 2017. Deep Unsupervised Clustering with Gaussian Mixture VAEs.
"""

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, positive

CLASSES, LATENTS, HIDDEN, WIDTH = 20, 8, 200, 64


def make_vae(x: Tensor) -> pv.VAE:
    likelihood = pv.likelihoods.Bernoulli(MLP(LATENTS, HIDDEN, WIDTH))
    return pv.VAE(
        prior=pv.priors.MixtureOfNormals(LATENTS, CLASSES, component="enumerated"),
        likelihood=likelihood.start_at_mean(x),
        guide=pv.guides.MeanFieldNormal(MLP(WIDTH, HIDDEN, 2 * LATENTS)),
    )


@torch.no_grad()
def cluster(vae: pv.VAE, x: Tensor) -> Tensor:
    """Return the most probable component at the posterior mean of each datum."""
    prior = vae.prior
    normals = dist.Normal(prior.loc, positive(prior.raw_scale)).to_event(1)
    z = vae.encode(x).mean.unsqueeze(-2)
    return (prior.logits + normals.log_prob(z)).argmax(-1)


def purity(clusters: Tensor, labels: Tensor) -> float:
    """Return the fraction of data whose label is the most frequent one of their cluster."""
    right = 0
    for c in clusters.unique():
        right += int(labels[clusters == c].bincount().max())
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--smoke", action="store_true", help="one epoch")
    args = parser.parse_args()
    if args.smoke:
        args.epochs = 1

    data = pv.data.load("digits")
    torch.manual_seed(0)  # the networks' first weights
    vae = make_vae(data.train.x)
    step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), loss=TraceEnum_ELBO(max_plate_nesting=1))
    pv.fit(vae, data.train, epochs=args.epochs, batch_size=50, step=step, callbacks=[])
    print(pv.evaluate(vae, data.test, particles=50 if args.smoke else 1000))
    clusters = cluster(vae, data.test.draw())
    share = purity(clusters, data.test.labels)
    print(f"{len(clusters.unique())} clusters in use; {100 * share:.0f}% of the test digits")
    print("have the label that is most frequent in their cluster (about 24% would by chance)")


if __name__ == "__main__":
    main()
