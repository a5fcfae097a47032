"""A deep Markov model of polyphonic music, scored by its ELBO and by a particle filter.

    python examples/deep_markov.py --data jsb-chorales-quarter.json --epochs 300

The file holds Bach's chorales as lists of the notes (21 to 108) of each step, in the splits
"train", "valid" and "test". Latents follow a Markov chain, each step sounds 88 notes, and the
guide reads a piece from its end. The ELBO has one weight for a whole piece; the filter weighs and
resamples at each step, so that its bound is tighter. Both are divided by the number of steps, as
is usual. Then the last steps of each piece are held back, and forecast. `--smoke` generates a
little music.

References:
    Krishnan, Shalit, Sontag, 2017. Structured Inference Networks for Nonlinear State Space Models.
    Boulanger-Lewandowski, Bengio, Vincent, 2012. Modeling Temporal Dependencies in
    High-Dimensional Sequences.
"""

import argparse
import json

import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU

LOWEST, KEYS = 21, 88
LATENTS, HIDDEN = 32, 100


def roll(piece: list[list[int]]) -> Tensor:
    """Return the notes of a piece as zeros and ones, [T, 88]."""
    x = torch.zeros(len(piece), KEYS)
    for t, notes in enumerate(piece):
        x[t, [note - LOWEST for note in notes]] = 1.0
    return x


def chorales(path: str) -> dict[str, tuple[Tensor, Tensor]]:
    with open(path, encoding="utf-8") as file:
        return {split: pv.data.pad(map(roll, pieces)) for split, pieces in json.load(file).items()}


def scales(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return rising and falling scales of 5 to 12 steps."""
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for _ in range(number):
        start, length, step = (
            int(torch.randint(low, high, (), generator=generator))
            for low, high in ((50, 60), (5, 13), (1, 3))
        )
        pieces.append([[start + step * t, start + step * t + 12] for t in range(length)])
    return pv.data.pad(map(roll, pieces))


def make_vae() -> pv.VAE:
    emission = pv.likelihoods.Bernoulli(MLP(LATENTS, HIDDEN, KEYS))
    reader = BackwardGRU(KEYS, HIDDEN)
    return pv.VAE(
        prior=pv.priors.Markov(MLP(LATENTS, HIDDEN, 2 * LATENTS), LATENTS),
        likelihood=pv.likelihoods.EachStep(emission),
        guide=pv.guides.Combiner(reader, MLP(LATENTS + HIDDEN, HIDDEN, 2 * LATENTS), LATENTS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="the .json file of the chorales")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--fivo", type=int, metavar="K", help="train by FIVO with K particles")
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--smoke", action="store_true", help="a few epochs on generated scales")
    args = parser.parse_args()
    if not (args.smoke or args.data):
        parser.error("give --data FILE.json; or try --smoke")
    if args.smoke:
        args.epochs, args.particles = 3, 20
        data = {"train": scales(60, 0), "valid": scales(20, 1), "test": scales(20, 2)}
    else:
        data = chorales(args.data)
    torch.manual_seed(0)
    vae = make_vae()
    steps = args.epochs * -(-len(data["train"][0]) // 20)
    step = pv.Step(
        optim=pv.Optim(torch.optim.Adam, lr=pv.learning_rates.cosine(3e-3, steps)),
        loss=pv.objectives.FIVO(args.fivo) if args.fivo else None,
        kl_weight=1.0 if args.fivo else pv.schedules.linear(0.1, 1, args.epochs // 4 + 1),
        clip_norm=1e4,
        compile=False,  # a graph of so many steps in turn takes minutes to compile
    )
    bar = [] if args.smoke else [pv.ProgressBar(every=20)]
    batches = pv.data.ByLength(*data["train"], batch_size=20)
    pv.fit(vae, batches, validation=data["valid"], epochs=args.epochs, step=step, callbacks=bar)
    x, mask = data["test"]
    slices = mask.sum().item()
    report = pv.evaluate(vae, (x, mask), particles=args.particles)
    filtered = pv.ParticleFilter(args.particles, repeats=5)(vae, x, mask)
    print(f"-ELBO per step: {-report.elbo.value.sum().item() / slices:.3f} nats")
    bound = report.iwae[args.particles]
    print(f"-IWAE-{args.particles} per step: {-bound.value.sum().item() / slices:.3f} nats")
    print(filtered)
    ahead = 3 if args.smoke else 8
    print(pv.Forecast(ahead, particles=args.particles)(vae, x, mask))


if __name__ == "__main__":
    main()
