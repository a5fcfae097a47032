"""Semi-supervised learning with 100 labels for MNIST: the model M2 of Kingma et al. (2014).

The model is p(y) p(z) p(x | y, z) with a class y and a style z, the guide q(y | x) q(z | x, y).
`SemiSupervised` sums the class out for unlabeled images, so q(y | x) learns from every image; for
labeled images it observes the class, and trains q(y | x) as a classifier. The style has few
dimensions, so that the class is informative. The classifier has input dropout, and is first
trained on the labeled images only, shifted by up to two pixels. `Accuracy` compares it with what
it is after the training on all images, on the same test images.

References:
    Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative Models.
"""

import argparse
import copy
from dataclasses import replace

import pyro
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import pyrovae as pv
from pyrovae.nets import MLP

CLASSES, STYLES, HIDDEN, LABELED = 10, 4, 200, 100


class FromImageAndClass(pv.parts.Part):
    """Encode the image once, and combine the result with each class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = MLP(width, HIDDEN, HIDDEN)
        self.style = MLP(HIDDEN + CLASSES, HIDDEN, 2 * STYLES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.style(self.image(x).relu(), y)


def make_vae(x: Tensor, classifier: nn.Module) -> pv.VAE:
    width, p, q = x.shape[-1], pv.priors, pv.guides
    likelihood = pv.likelihoods.Bernoulli(MLP(CLASSES + STYLES, HIDDEN, HIDDEN, width))
    style = q.MeanFieldNormal(FromImageAndClass(width))
    return pv.VAE(
        prior=p.Joint(y=p.Categorical(CLASSES), z=p.StandardNormal(STYLES)),
        likelihood=likelihood.start_at_mean(x),
        guide=q.Joint(y=q.Categorical(classifier), z=style),
    )


def partly_labeled(data: pv.data.DataSet) -> tuple[pv.data.Split, Tensor]:
    """Return ten images of each class in all shifts up to a 14th of a side, then all images.

    Their labels are -1 for those that are not known.
    """
    x, labels, side = data.train.x, data.train.labels, data.shape[-1]
    rows = torch.cat([(labels == c).nonzero()[: LABELED // CLASSES, 0] for c in range(CLASSES)])
    images = pad(x[rows].reshape(-1, side, side), [side // 14] * 4)
    moved = images.unfold(1, side, 1).unfold(2, side, 1).reshape(LABELED, -1, x.shape[-1])
    known = labels[rows].repeat_interleave(moved.shape[1])
    images = replace(data.train, x=torch.cat([moved.flatten(0, 1), x]))
    return images, torch.cat([known, torch.full_like(labels, -1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="a few steps on the digits")
    args = parser.parse_args()
    data = pv.data.load("digits" if args.smoke else "mnist", args.root)
    torch.manual_seed(0)  # the networks' first weights
    classifier = nn.Sequential(
        nn.Dropout(0.4), MLP(data.train.x.shape[-1], HIDDEN, HIDDEN, CLASSES)
    )
    objective = pv.objectives.SemiSupervised(*partly_labeled(data), alpha=1.0)

    optim = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(20 if args.smoke else 500):
        labels, x = objective.draw(data.train.x[:100])
        optim.zero_grad()
        cross_entropy(classifier(x), labels).backward()
        optim.step()

    vae = make_vae(data.train.x, classifier)
    alone = copy.deepcopy(classifier)
    step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), loss=objective, compile=not args.smoke)
    pv.fit(vae, data.train, epochs=1 if args.smoke else args.epochs, step=step)
    accuracy = pv.Accuracy(data.test.labels, alone)
    print(pv.evaluate(vae, data.test, particles=10, diagnostics=[accuracy]))


if __name__ == "__main__":
    main()
