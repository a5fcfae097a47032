"""Digits as two modalities, image and label: three guides, either of which may be missing.

    python examples/multimodal.py --figure digits.png

Each guide combines an expert for the image with one for the label: by their product (MVAE), their
mixture (MMVAE), or the mixture of the products of all subsets (MoPoE). The product is trained on
the data and, as in its paper, on each modality alone; the mixtures meet each expert alone in any
case. Measured are log p(image | label) and log p(label | image), and coherence: how often a
classifier of real images finds the label that an image was drawn with, or from.

References:
    Wu, Goodman, 2018. Multimodal Generative Models for Scalable Weakly-Supervised Learning.
    Shi, Siddharth, Paige, Torr, 2019. Variational Mixture-of-Experts Autoencoders for Multi-Modal
    Deep Generative Models.
    Sutter, Daunhawer, Vogt, 2021. Generalized Multimodal ELBO.
"""

import argparse

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.distributions import Distribution

import pyrovae as pv
from pyrovae.nets import MLP

LATENTS, HIDDEN = 10, 100
BOTH = pv.nets.Modalities(image=64, label=1)
GUIDES = (pv.guides.ProductOfExperts, pv.guides.MixtureOfExperts, pv.guides.MixtureOfProducts)


class OfLabel(nn.Module):
    """The expert of a label: a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(10, 2 * LATENTS)

    def forward(self, label: Tensor) -> Tensor:
        return self.rows(label[..., 0].long())


def make_vae(guide: type, x: Tensor) -> pv.VAE:
    image = pv.likelihoods.Bernoulli(MLP(LATENTS, HIDDEN, 64))
    label = pv.likelihoods.Categorical(MLP(LATENTS, HIDDEN, 10), classes=10)
    image.start_at_mean(BOTH.split(x)["image"])
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.EachModality(BOTH, image=image, label=label),
        guide=guide(BOTH, image=MLP(64, HIDDEN, 2 * LATENTS), label=OfLabel()),
    )


def packed(split: pv.data.Split) -> tuple[Tensor, Tensor]:
    return BOTH.pack({"image": split.draw(seed=0), "label": split.labels})


def in_parts(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the data, then their images alone, then their labels alone."""
    return x.repeat(3, 1), torch.cat([mask, BOTH.only(mask, "image"), BOTH.only(mask, "label")])


@torch.no_grad()
def decoded_from(vae: pv.VAE, x: Tensor, mask: Tensor, name: str) -> Distribution:
    """Return p(x | z) at a draw z given one modality."""
    return vae.decode(vae.encode(x, BOTH.only(mask, name)).sample())


def coherence(vae: pv.VAE, x: Tensor, mask: Tensor, classifier: LogisticRegression) -> str:
    """Return the shares of labels that fit: drawn jointly, images from labels, and reverse."""
    jointly, label = BOTH.split(vae.sample(len(x))), BOTH.split(x)["label"][:, 0]
    image, found = (
        BOTH.split(decoded_from(vae, x, mask, given).sample())[of]
        for of, given in (("image", "label"), ("label", "image"))
    )
    right = {
        "jointly": classifier.predict(jointly["image"]) == jointly["label"][:, 0].numpy(),
        "image from label": classifier.predict(image) == label.numpy(),
        "label from image": (found[:, 0] == label).numpy(),
    }
    return ", ".join(f"{name} {hits.mean():.1%}" for name, hits in right.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--figure", metavar="PNG", help="draw an image for each label")
    parser.add_argument("--smoke", action="store_true", help="three epochs")
    args = parser.parse_args()
    args.epochs, particles = (3, 50) if args.smoke else (args.epochs, 500)
    digits = pv.data.load("digits")
    train, test = packed(digits.train), packed(digits.test)
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(BOTH.split(train[0])["image"].numpy(), digits.train.labels.numpy())
    accuracy = classifier.score(BOTH.split(test[0])["image"].numpy(), digits.test.labels.numpy())
    print(f"the classifier finds the label of {accuracy:.1%} of the real test images")
    rows = {}
    for guide in GUIDES:
        torch.manual_seed(0)
        vae, name = make_vae(guide, train[0]), guide.__name__
        data = in_parts(*train) if guide is pv.guides.ProductOfExperts else train
        epochs = args.epochs * len(train[0]) // len(data[0])  # as many steps for each guide
        step = pv.Step(optim=pv.Optim.muon(epochs * -(-len(data[0]) // 50)))
        pv.fit(vae, data, epochs=epochs, batch_size=50, step=step, callbacks=[])
        print(f"\n{name}: coherent {coherence(vae, *test, classifier)}")
        for of, given in (("image", "label"), ("label", "image")):
            measure = pv.CrossModal(BOTH, of, given, particles=particles)
            print(measure(vae, *test))
        one_each = BOTH.pack({"image": None, "label": torch.arange(10)})
        rows[name] = BOTH.split(decoded_from(vae, *one_each, "label").mean)["image"]
    if args.figure:
        grid = [row.reshape(10, 8, 8, 1) for row in rows.values()]
        pv.plots.save(pv.plots.image_grid.mosaic(grid, names=list(rows)), args.figure)


if __name__ == "__main__":
    main()
