"""A convolutional VAE with a normal likelihood of learned noise, on images of faces.

    python examples/faces.py --data freyfaces.npz --figure faces.png
    python examples/faces.py --data freyfaces.npz --latents 2 --epochs 120 --figure plane.png
    python examples/faces.py --data celeba --root data

An .npz file contains grayscale images under the key "images" ([N, H, W], 0 to 255), as the Frey
Faces do; celeba is loaded by torchvision, 64 x 64 in color. The scale of the noise is learned, and
determines the balance of reconstruction and rate, for which a beta-VAE has a parameter. With two
latents, the decoder's means over the plane of the prior are drawn too (plane-manifold.png).

References:
    Kingma, Welling, 2014. Auto-Encoding Variational Bayes, figure 4.
    Rybkin, Daniilidis, Levine, 2021. Simple and Effective VAE Training with Calibrated Decoders.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import ConvDecoder, ConvEncoder, positive


def frames(path: str) -> tuple[Tensor, tuple[int, int, int]]:
    """Return flat images in [0, 1] and their shape."""
    with np.load(path, allow_pickle=False) as archive:
        images = torch.from_numpy(archive["images"]).float() / 255
    return images.flatten(1), (1, *images.shape[1:])


def celeba(root: str, count: int) -> tuple[Tensor, tuple[int, int, int]]:
    from torchvision import datasets, transforms

    steps = [transforms.CenterCrop(148), transforms.Resize(64), transforms.ToTensor()]
    data = datasets.CelebA(root, transform=transforms.Compose(steps), download=True)
    images = torch.stack([image for image, _ in itertools.islice(data, count)])
    return images.flatten(1), (3, 64, 64)


def blobs() -> tuple[Tensor, tuple[int, int, int]]:
    """Return small grayscale images of one bright spot each, for a smoke test."""
    grid = torch.stack(torch.meshgrid(torch.arange(28), torch.arange(20), indexing="ij"), -1)
    centers = torch.rand(200, 1, 1, 2) * torch.tensor([28.0, 20.0])
    return torch.exp(-(grid - centers).square().sum(-1) / 20).flatten(1), (1, 28, 20)


def make_vae(x: Tensor, shape: tuple[int, int, int], latents: int) -> pv.VAE:
    likelihood = pv.likelihoods.Normal(ConvDecoder(latents, shape)).start_at_mean(x)
    likelihood.fit_scale(torch.zeros(len(x), latents), x)  # the noise starts at the data's spread
    return pv.VAE(
        prior=pv.priors.StandardNormal(latents),
        likelihood=likelihood,
        guide=pv.guides.MeanFieldNormal(ConvEncoder(shape, 2 * latents)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an .npz file of images, or celeba")
    parser.add_argument("--root", default="data", help="where celeba is, or goes")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--latents", type=int, default=16)
    parser.add_argument("--figure", type=Path, help="draw faces, reconstructions and samples")
    parser.add_argument("--smoke", action="store_true", help="one epoch on bright spots")
    args = parser.parse_args()
    if not (args.smoke or args.data):
        parser.error("give --data FILE.npz or --data celeba; or try --smoke")
    torch.manual_seed(0)  # the networks' first weights
    if args.smoke:
        args.epochs, (x, shape) = 1, blobs()
    else:
        x, shape = celeba(args.root, 50_000) if args.data == "celeba" else frames(args.data)

    held = len(x) // 10  # the last frames: those of a film resemble their neighbors
    train, test = x[:-held], x[-held:]
    vae = make_vae(train, shape, args.latents)
    # Without a warm-up the latents collapse in the first steps, while the noise is large.
    step = pv.Step(pyro.optim.Adam({"lr": 5e-4}), kl_weight=pv.schedules.linear(0, 1, 5))
    bar = [] if args.smoke else [pv.ProgressBar(every=10)]
    pv.fit(vae, train, epochs=args.epochs, batch_size=20, step=step, callbacks=bar)
    print(pv.evaluate(vae, test, particles=10 if args.smoke else 1000))
    noise = positive(vae.likelihood.raw_scale).item()
    print(f"learned noise: a scale of {255 * noise:.1f} gray levels")
    if args.figure:
        pv.plots.save(pv.plots.reconstructions(vae, test[:8], shape), args.figure)
        samples = args.figure.with_stem(f"{args.figure.stem}-samples")
        pv.plots.save(pv.plots.samples(vae, 32, shape), samples)
    if args.figure and args.latents == 2:
        plane = args.figure.with_stem(f"{args.figure.stem}-manifold")
        pv.plots.save(pv.plots.manifold(pv.manifold(vae), shape), plane)


if __name__ == "__main__":
    main()
