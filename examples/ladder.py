"""A deep ladder of latents against a flat VAE of as many parameters, in bits per dimension.

    python examples/ladder.py --seconds 30 --out levels.png

The ladder has five levels of latents on feature maps from 2 x 2 to 8 x 8. Its guide takes the
prior's top-down path; a rising KL weight and free bits keep its levels in use. Both models are
trained for the same processor time on binary images of sprites, 32 x 32. The script prints bits
per dimension, an upper bound by IWAE, and how many nats each level carries; --out draws them.

References:
    Child, 2021. Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images.
    Vahdat, Kautz, 2020. NVAE: A Deep Hierarchical Variational Autoencoder.
"""

import argparse
import time

import matplotlib.pyplot as plt
import torch

import pyrovae as pv

SHAPE = (1, 32, 32)
SIDES, LATENTS, CHANNELS = (2, 2, 4, 4, 8), 4, 16
FLAT_LATENTS, FLAT_CHANNELS = 16, 14


def ladder() -> pv.VAE:
    prior = pv.priors.ResidualLadder(SIDES, latents=LATENTS, channels=CHANNELS)
    decoder = pv.nets.MapsDecoder(prior.maps, SHAPE)
    return pv.VAE(prior, pv.likelihoods.Bernoulli(decoder), pv.guides.ResidualLadder(prior, SHAPE))


def flat() -> pv.VAE:
    decoder = pv.nets.ConvDecoder(FLAT_LATENTS, SHAPE, channels=FLAT_CHANNELS)
    encoder = pv.nets.ConvEncoder(SHAPE, 2 * FLAT_LATENTS, channels=FLAT_CHANNELS)
    return pv.VAE(
        pv.priors.StandardNormal(FLAT_LATENTS),
        pv.likelihoods.Bernoulli(decoder),
        pv.guides.MeanFieldNormal(encoder),
    )


def sprites(number: int, seed: int) -> torch.Tensor:
    images = pv.data.Sprites(side=SHAPE[1])
    with pv.seeded(seed):
        return images.images(images.factors.sample(number))


class Limit(pv.Callback):
    """End a training after so many seconds of this process, whatever else the machine does."""

    def __init__(self, seconds: float) -> None:
        self.end = time.process_time() + seconds

    def stepped(self, training) -> None:
        if time.process_time() > self.end:
            raise pv.StopTraining("the time was up")


def train(vae: pv.VAE, x: torch.Tensor, seconds: float) -> None:
    vae.likelihood.start_at_mean(x)
    step = pv.Step(
        optim=torch.optim.Adam(vae.parameters(), lr=4e-3),
        kl_weight=pv.schedules.linear(0.05, 1, 1),
        handlers=[pv.handlers.free_bits(0.2, per="site")],
        clip_norm=200.0,
        compile=False,  # the same time for both, without the time of a compiler
    )
    callbacks = [pv.EMA(0.98), Limit(seconds)]
    history = pv.fit(vae, x, epochs=1000, batch_size=64, step=step, callbacks=callbacks)
    print(f"{history.ended}, in epoch {len(history.epochs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="of training, each model")
    parser.add_argument("--particles", type=int, default=50)
    parser.add_argument("--out", metavar="PNG", help="the figure of the levels' KLs")
    parser.add_argument("--smoke", action="store_true", help="a second each")
    args = parser.parse_args()
    if args.smoke:
        args.seconds, args.particles = 0.5, 5
    x, held_out = sprites(200 if args.smoke else 10_000, 0), sprites(20 if args.smoke else 500, 1)
    reports = {}
    for name, make in {"flat": flat, "ladder": ladder}.items():
        torch.manual_seed(0)
        vae = make()
        print(f"\n{name}: {sum(p.numel() for p in vae.parameters()):,} parameters")
        train(vae, x, args.seconds)
        report = reports[name] = pv.evaluate(vae, held_out, particles=args.particles)
        bits = report.bits_per_dimension()
        print(report)
        print(f"{name}, bits per dimension: {bits.mean:.4f} ± {bits.error_over_data:.4f}")
    print(f"\n{pv.compare(reports['ladder'], reports['flat'], names=('ladder', 'flat'))}")
    names = [f"{site}\n{n} x {n}" for site, n in zip(report.site_rates, SIDES, strict=True)]
    rates = [rate.mean for rate in report.site_rates.values()]
    for level, rate in zip(names, rates, strict=True):
        print(f"KL of {' '.join(level.split())}: {rate:.2f} nats")
    if args.out:
        figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
        axes.bar(names, rates)
        axes.set(xlabel="level, from the top", ylabel="KL in nats")
        pv.plots.save(figure, args.out)


if __name__ == "__main__":
    main()
