"""Tell MNIST's test digits from changed ones by the scores of `pyrovae.measure.novelty`.

    python benchmarks/novelty.py --root data --epochs 20 --models 5 --out runs/novelty

An ensemble of VAEs 784-200-200-20 with tanh, batch 100, Adam at 1e-3, dynamic binarization, seeds
0, 1, ...; the first one gives all scores but WAIC. Typicality takes the entropy from the
validation images. A figure for each kind of novel data lies in the folder, with the numbers.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.data.images import rotated
from pyrovae.measure.novelty import Novelty, likelihood_regret, surprise, typicality, waic

LATENTS, HIDDEN, PIXELS = 20, (200, 200), 784


def train(data: Any, seed: int, epochs: int) -> pv.VAE:
    torch.manual_seed(seed)
    network = partial(pv.nets.MLP, activation=torch.nn.Tanh)
    decoder = network(LATENTS, *HIDDEN, PIXELS)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Bernoulli(decoder).start_at_mean(data.train.x),
        guide=pv.guides.MeanFieldNormal(network(PIXELS, *HIDDEN, 2 * LATENTS)),
    )
    print(f"seed {seed}: {epochs} epochs", flush=True)
    pv.fit(vae, data.train, epochs=epochs, batch_size=100, callbacks=[])
    return vae


def kinds(x: Tensor) -> dict[str, Tensor]:
    """Return novel data made of binarized digits."""
    return {
        "rotated by 90 degrees": rotated(x, (1, 28, 28)),
        "inverted": 1 - x,
        "blank but for noise": torch.bernoulli(torch.full_like(x, 0.02)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--models", type=int, default=5, help="of the ensemble, two or more")
    parser.add_argument("--limit", type=int, default=1000, help="so many images of each kind")
    parser.add_argument("--out", type=Path, default=Path("runs/novelty"))
    args = parser.parse_args()
    data = pv.data.load("mnist", args.root)
    vae, *others = [train(data, seed, args.epochs) for seed in range(args.models)]
    x = data.test.draw()[: args.limit]
    torch.manual_seed(0)
    entropy = surprise(vae, data.validation.draw()[: args.limit]).mean().item()
    scores = {
        "-log p(x)": surprise,
        "likelihood regret": likelihood_regret,
        "WAIC": lambda vae, *given: waic([vae, *others], *given),
        "typicality": partial(typicality, entropy=entropy),
    }
    found = {}
    for kind, novel in kinds(x).items():
        detection = Novelty(novel, scores, limit=args.limit)(vae, x)
        print(f"\n{kind}\n{detection}", flush=True)
        found[kind] = detection.to_json()
        pv.plots.save(pv.plots.novelty(detection), args.out / f"{kind.split()[0]}.png")
    (args.out / "novelty.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
