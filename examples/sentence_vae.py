"""A VAE of sentences whose posterior collapses, and the same VAE with the collapse cured.

    python examples/sentence_vae.py --figure sentences.png

A small grammar draws the sentences: one of six topics, then its words, two of them perhaps with
an adjective. So log p of each is known exactly, and no model's is higher on average. The decoder
reads the topic off the first noun and needs no latents: trained as usual, it ends near that limit
with a KL of about 0. Hiding words from it in training, with free bits and a KL weight that rises
in cycles, makes it use them. `--smoke` trains for an epoch on a few sentences.

References:
    Bowman et al., 2016. Generating Sentences from a Continuous Space.
    Fu et al., 2019. Cyclical Annealing Schedule.
"""

import argparse
import math
import random

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pyrovae as pv
from pyrovae.nets import MLP, BackwardGRU, CausalGRU, EmbedTokens, EncodeSequence, WordDropout

TOPICS = [
    ("salty deep calm", "ship whale sailor harbor", "sinks drifts swims waits"),
    ("hungry wild shy", "wolf deer owl hare", "howls hides hunts sleeps"),
    ("hot fresh sweet", "soup bread cook oven", "boils bakes smells cools"),
    ("loud late crowded", "train bus driver station", "stops leaves brakes honks"),
    ("slow solemn jazzy", "violin singer drum choir", "plays hums rests begins"),
    ("bright distant cold", "star comet moon planet", "shines rises fades turns"),
]
LATENTS, CHANNELS, HIDDEN = 4, 32, 64


def sentences(number: int, seed: int) -> tuple[list[str], Tensor]:
    """Return sentences such as "the shy owl hides near the deer", and the exact log p of each."""
    draw, texts, log_p = random.Random(seed), [], []
    for _ in range(number):
        adjectives, nouns, verbs = (words.split() for words in draw.choice(TOPICS))
        known, named = [len(TOPICS), len(verbs)], []  # known: the numbers of equal choices
        for _ in range(2):
            described = [draw.choice(adjectives)] if draw.random() < 0.5 else []
            named.append(" ".join(["the", *described, draw.choice(nouns)]))
            known += [2, len(nouns), *[len(adjectives)] * len(described)]
        texts.append(f"{named[0]} {draw.choice(verbs)} near {named[1]}")
        log_p.append(-math.log(math.prod(known)))
    return texts, torch.tensor(log_p)


def make_vae(words: int, hidden: float) -> pv.VAE:
    head = pv.likelihoods.Categorical(MLP(HIDDEN, words), classes=words)
    reader = BackwardGRU(CHANNELS, HIDDEN)
    encoder = EncodeSequence(EmbedTokens(words, CHANNELS), reader, MLP(HIDDEN, 2 * LATENTS))
    shown = WordDropout(EmbedTokens(words, CHANNELS), hidden)
    return pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=pv.likelihoods.Autoregressive(
            CausalGRU(shown, CHANNELS, LATENTS, HIDDEN), head, end=0
        ),
        guide=pv.guides.MeanFieldNormal(encoder),
    )


def show(vae: pv.VAE, vocabulary: pv.data.Vocabulary, x: Tensor, mask: Tensor) -> None:
    """Print each sentence beside one that is drawn from p(x | z) at a draw of q(z | x)."""
    drawn = vae.decode(vae.encode(x, mask).sample(), torch.ones_like(mask)).sample()
    for before, after in zip(vocabulary.decode(x), vocabulary.decode(drawn), strict=True):
        print(f"  {before} -> {after}")
    print("  sample:", vocabulary.decode(vae.sample(1, torch.ones_like(mask[:1])))[0], end="\n\n")


def plot(histories: dict[str, pv.History], highest: float) -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("KL", "ELBO"), strict=True):
        column = {"KL": "validation_rate", "ELBO": "validation_elbo"}[name]
        for label, history in histories.items():
            axes.plot(history.column("epoch"), history.column(column), marker="o", label=label)
        axes.set(xlabel="epoch", ylabel=f"{name}, nats per sentence")
    axes.axhline(highest, color="gray", linestyle="--", label="exact log p(x)")
    axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--figure", help="a file for the figure of both trainings")
    parser.add_argument("--smoke", action="store_true", help="an epoch on a few sentences")
    args = parser.parse_args()
    number, epochs, k = (100, 1, 20) if args.smoke else (6000, args.epochs, 200)
    (texts, _), (held_out, log_p) = sentences(number, seed=0), sentences(number // 10, seed=1)
    vocabulary = pv.data.Vocabulary.of(texts)
    data, test = vocabulary.encode(texts), vocabulary.encode(held_out)
    exact = torch.exp(-log_p.sum() / test[1].sum())
    print(f"exact     log p {log_p.mean():.2f} nats, perplexity {exact:.2f}\n")
    steps, cycles = epochs * number // 50, pv.schedules.cyclical(0, 1, max(1, epochs // 4))
    cure = {"kl_weight": cycles, "handlers": [pv.handlers.free_bits(0.5)]}
    histories, latents, fitting = {}, pv.Latents(draws=500), {"batch_size": 50, "callbacks": []}
    for name, hidden, settings in (("as usual", 0.0, {}), ("cured", 0.6, cure)):
        torch.manual_seed(1)
        vae, rate = make_vae(len(vocabulary), hidden), pv.learning_rates.cosine(3e-3, steps)
        step = pv.Step(pv.Optim(torch.optim.Adam, lr=rate), **settings)
        histories[name] = pv.fit(vae, data, validation=test, epochs=epochs, step=step, **fitting)
        report = pv.evaluate(vae, test, particles=k, diagnostics=[latents])
        found = report.findings["latents"]
        print(
            f"{name:9s} ELBO {report.elbo.mean:.2f}, IWAE-{k} {report.iwae[k].mean:.2f}, "
            f"KL {report.monte_carlo_kl.mean:.2f}, active units {found.activity.count}, "
            f"perplexity {pv.perplexity(report).mean:.2f}\n  {found.verdict[0]}"
        )
        show(vae, vocabulary, test[0][:3], test[1][:3])
    if args.figure:
        pv.plots.save(plot(histories, log_p.mean().item()), args.figure)


if __name__ == "__main__":
    main()
