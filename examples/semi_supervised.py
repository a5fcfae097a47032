"""Semi-supervised learning with 100 labels for MNIST: the model M2 of Kingma et al. (2014).

The model is p(y) p(z) p(x | y, z) with a class y and a style z, the guide q(y | x) q(z | x, y).
For unlabeled images the expectation over y is exact, so q(y | x) learns from every image. A step
maximizes the sum over a batch of B images of E_q [log p(x, y, z) - log q(y, z | x)], plus B times
the mean over labeled images of

    0.3 E_q(z | x, y) [log p(x, y, z) - log q(z | x, y)] + log q(y | x).

The style has few dimensions, so that the class is informative. The classifier has input dropout,
and is first trained on the labeled images only, shifted by up to two pixels. In one run with
`--root data`, its test accuracy was 79.78% after this, and 91.62% at the end (212 s on one core).

References:
    Kingma, Rezende, Mohamed, Welling, 2014. Semi-supervised Learning with Deep Generative Models.
"""

import argparse
from itertools import starmap

import pyro
import torch
from pyro.poutine import block, condition, scale
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import pyrovae as pv
from pyrovae.nets import MLP

CLASSES, STYLES, HIDDEN, LABELLED = 10, 4, 200, 100


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


class M2(pyro.infer.TraceEnum_ELBO):
    """Sum three terms, each the bound of a pair of programs derived from model and guide."""

    def __init__(self, x: Tensor, labels: Tensor) -> None:
        super().__init__(max_plate_nesting=1)
        self.x, self.labels = x, labels

    def draw(self) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self.x), (LABELLED,))
        return torch.bernoulli(self.x[rows]), self.labels[rows]

    def terms(self, model, guide, x):
        yield model, guide, x
        labeled, labels = self.draw()
        known, weight = {"y": labels}, len(x) / LABELLED
        model, guide = (scale(condition(p, known), weight) for p in (model, guide))
        yield scale(model, 0.3), scale(block(guide, hide=["y"]), 0.3), labeled
        yield block(guide, hide=["z"]), lambda x: None, labeled

    def loss(self, *args):
        return sum(starmap(super().loss, self.terms(*args)))

    def loss_and_grads(self, *args):
        return sum(starmap(super().loss_and_grads, self.terms(*args)))


def labeled_images(data: pv.data.DataSet) -> tuple[Tensor, Tensor]:
    """Return the first ten images of each class, with all shifts up to a 14th of a side."""
    x, labels, side = data.train.x, data.train.labels, data.shape[-1]
    rows = torch.cat([(labels == c).nonzero()[: LABELLED // CLASSES, 0] for c in range(CLASSES)])
    images = pad(x[rows].reshape(-1, side, side), [side // 14] * 4)
    moved = images.unfold(1, side, 1).unfold(2, side, 1).reshape(LABELLED, -1, x.shape[-1])
    return moved.flatten(0, 1), labels[rows].repeat_interleave(moved.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="a few steps on the digits")
    args = parser.parse_args()
    data = pv.data.load("digits" if args.smoke else "mnist", args.root)
    torch.manual_seed(0)  # the networks' first weights
    mlp = MLP(data.train.x.shape[-1], HIDDEN, HIDDEN, CLASSES)
    classifier, objective = nn.Sequential(nn.Dropout(0.4), mlp), M2(*labeled_images(data))

    def show(learned_from: str) -> None:
        right = mlp(data.test.x).argmax(-1) == data.test.labels
        print(f"{learned_from:17s} test accuracy {100 * right.double().mean().item():6.2f}%")

    optim = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(20 if args.smoke else 500):
        x, labels = objective.draw()
        optim.zero_grad()
        cross_entropy(classifier(x), labels).backward()
        optim.step()
    show("100 labels alone")
    vae = make_vae(data.train.x, classifier)
    step = pv.Step(pyro.optim.Adam({"lr": 2e-3}), loss=objective, compile=not args.smoke)
    pv.fit(vae, data.train, epochs=1 if args.smoke else args.epochs, step=step)
    show("all images too")


if __name__ == "__main__":
    main()
