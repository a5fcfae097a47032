"""Classify MNIST with 100 labels, over several draws of the labels.

    python benchmarks/semi_supervised.py --root data   # what is missing, then the table
    python benchmarks/semi_supervised.py --table       # the table of the rows that are there

Each draw takes ten images of each class at random from the 50,000 for training. The methods:

- labels: a classifier with input dropout, of the labeled images shifted by up to two pixels.
- m2: this classifier as q(y | x) in a VAE with a class and a style, trained on all images by
  `objectives.SemiSupervised`. The shifted images are its labeled data.
- m1labels: a classifier of samples of the embedding q(z | x) by a VAE without classes (M1), which
  is trained once, on all images.
- m1m2: the VAE with a class, of the embedding. Its classifier starts as that of m1labels.

Accuracies are those of q(y | x) on the 10,000 test images, dynamically binarized once, or on the
means of their embedding. A run is a line of JSON; a run that is there is not repeated, so that
`--rows` with a new file begins anew.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import pyrovae as pv
from pyrovae.nets import MLP
from pyrovae.weights.bounds import Estimate

CLASSES, LABELS, HIDDEN, EMBEDDED = 10, 100, 200, 50
STYLES = {"m2": 4, "m1m2": 10}
EPOCHS = {"m1": 5, "m2": 10, "m1m2": 4}
ALPHA = {"m2": 1.0, "m1m2": 1.0}
PUBLISHED = {"m2": 88.03, "m1m2": 96.67}
ROWS = Path(__file__).with_suffix(".jsonl")
SAMPLES = 25  # of the embedding of a labeled image, as many as there are shifts


class WithClass(pv.parts.Part):
    """Encode the data once, and combine the result with each class."""

    def __init__(self, width: int, styles: int) -> None:
        super().__init__()
        self.data = MLP(width, HIDDEN, HIDDEN)
        self.style = MLP(HIDDEN + CLASSES, HIDDEN, 2 * styles)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the parameters of q(z | x, y)."""
        return self.style(self.data(x).relu(), y)


def with_class(likelihood: nn.Module, classifier: nn.Module, width: int, styles: int) -> pv.VAE:
    """Return the model M2: p(y) p(z) p(x | y, z) and q(y | x) q(z | x, y)."""
    p, q = pv.priors, pv.guides
    return pv.VAE(
        p.Joint(y=p.Categorical(CLASSES), z=p.StandardNormal(styles)),
        likelihood,
        q.Joint(y=q.Categorical(classifier), z=q.MeanFieldNormal(WithClass(width, styles))),
    )


def drawn(labels: Tensor, draw: int) -> Tensor:
    """Return the rows of the labeled images: ten of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    each = LABELS // CLASSES
    return torch.cat([order[labels[order] == c][:each] for c in range(CLASSES)])


def shifted(x: Tensor) -> Tensor:
    """Return images [N, 784] with all shifts up to two pixels, [N, 25, 784]."""
    images = pad(x.reshape(-1, 28, 28), [2] * 4)
    return images.unfold(1, 28, 1).unfold(2, 28, 1).reshape(len(x), -1, x.shape[-1])


def trained_classifier(width: int, draw: Callable[[], tuple[Tensor, Tensor]]) -> nn.Module:
    """Return a classifier, trained on batches of labeled data for 500 steps."""
    classifier = nn.Sequential(nn.Dropout(0.4), MLP(width, HIDDEN, HIDDEN, CLASSES))
    optim = torch.optim.Adam(classifier.parameters(), lr=1e-3)
    for _ in range(500):
        x, labels = draw()
        optim.zero_grad()
        cross_entropy(classifier(x), labels).backward()
        optim.step()
    return classifier


def embedding(out: Path, data: pv.data.DataSet) -> Any:
    """Return, for a split, means and scales of q(z | x) of M1, [N, 2, D], of its active units."""
    if not (out / "m1" / "config.json").exists():
        torch.manual_seed(0)
        vae = pv.mlp_vae(784, latents=EMBEDDED, hidden=400)
        vae.likelihood.start_at_mean(data.train.x)
        begun = time.process_time()
        pv.fit(vae, data.train, epochs=EPOCHS["m1"], step=pv.Step(compile=True), callbacks=[])
        print(f"m1 {time.process_time() - begun:.0f} s", flush=True)
        pv.save(vae, out / "m1")
    vae = pv.load(out / "m1")

    @torch.no_grad()
    def embed(split: pv.data.Split) -> Tensor:
        found = [vae.encode(x) for x in split.draw().split(1000)]
        return torch.cat([torch.stack([q.mean, q.stddev], 1) for q in found])

    train = embed(data.train)
    active = train[:, 0].std(0) > 0.1
    return train[..., active], embed(data.test)[..., active]


def of_images(data: pv.data.DataSet, rows: Tensor, *, semi: bool) -> tuple[nn.Module, Tensor]:
    """Return a classifier of images, and the test images."""
    train, labels = data.train, data.train.labels
    images = shifted(train.x[rows])
    known = labels[rows].repeat_interleave(images.shape[1])
    images = images.flatten(0, 1)

    def batch() -> tuple[Tensor, Tensor]:
        of = torch.randint(len(images), (100,))
        return torch.bernoulli(images[of]), known[of]

    classifier = trained_classifier(784, batch)
    if semi:
        likelihood = pv.likelihoods.Bernoulli(MLP(CLASSES + STYLES["m2"], HIDDEN, HIDDEN, 784))
        vae = with_class(likelihood.start_at_mean(train.x), classifier, 784, STYLES["m2"])
        unknown = torch.full_like(labels, -1)
        partly = replace(train, x=torch.cat([images, train.x]), labels=None)
        train_on(vae, train, (partly, torch.cat([known, unknown])), "m2")
    return classifier, data.test.draw()


def of_embeddings(
    embedded: tuple[Tensor, Tensor], data: pv.data.DataSet, rows: Tensor, *, semi: bool
) -> tuple[nn.Module, Tensor]:
    """Return a classifier of embeddings, and those of the test images."""
    train, test = embedded
    labels, width = data.train.labels, train.shape[-1]

    def sample(q: Tensor) -> Tensor:
        return q[:, 0] + q[:, 1] * torch.randn_like(q[:, 1])

    known = labels[rows].repeat_interleave(SAMPLES)
    points = sample(train[rows].repeat_interleave(SAMPLES, 0))

    def batch() -> tuple[Tensor, Tensor]:
        of = torch.randint(len(rows), (100,))
        return sample(train[rows[of]]), labels[rows[of]]

    classifier = trained_classifier(width, batch)
    if semi:
        net = MLP(CLASSES + STYLES["m1m2"], HIDDEN, HIDDEN, 2 * width)
        likelihood = pv.likelihoods.Normal(net, scale="network")
        vae = with_class(likelihood, classifier, width, STYLES["m1m2"])
        unknown = torch.full_like(labels, -1)
        partly = torch.cat([points, train[:, 0]]), torch.cat([known, unknown])
        train_on(vae, sample(train), partly, "m1m2")
    return classifier, test[:, 0]


def train_on(vae: pv.VAE, data: Any, partly: tuple[Any, Tensor], method: str) -> None:
    """Train M2 on data, and on those of which some have a label."""
    objective = pv.objectives.SemiSupervised(*partly, alpha=ALPHA[method])
    step = pv.Step(pv.Optim(torch.optim.Adam, lr=2e-3), loss=objective, compile=True)
    pv.fit(vae, data, epochs=EPOCHS[method], step=step, callbacks=[])


def run(method: str, draw: int, data: pv.data.DataSet, embedded: Any) -> dict[str, Any]:
    """Train with one draw of the labels, and return the line of it."""
    rows = drawn(data.train.labels, draw)
    begun = time.process_time()
    torch.manual_seed(draw)
    if method.startswith("m1"):
        classifier, x = of_embeddings(embedded(), data, rows, semi=method == "m1m2")
    else:
        classifier, x = of_images(data, rows, semi=method == "m2")
    with torch.no_grad():
        right = classifier.eval()(x).argmax(-1) == data.test.labels
    seconds = round(time.process_time() - begun, 1)
    return {"method": method, "draw": draw, "accuracy": right.double().mean().item()} | {
        "epochs": EPOCHS.get(method, 0),
        "alpha": ALPHA.get(method),
        "seconds": seconds,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table in Markdown; errors are Student's, over the draws."""
    found = ["| | draws | accuracy, % | published | CPU s |", "|---|---:|---:|---:|---:|"]
    for method in METHODS:
        met = {line["draw"]: line for line in lines if line["method"] == method}
        if not met:
            continue
        values = torch.tensor([100 * line["accuracy"] for line in met.values()])
        mean = Estimate(values, torch.zeros_like(values))
        error = f" ± {mean.error_over_data:.2f}" if len(met) > 1 else ""
        seconds = sum(line["seconds"] for line in met.values()) / len(met)
        published = f"{PUBLISHED[method]:.2f}" if method in PUBLISHED else ""
        found.append(
            f"| {method} | {len(met)} | {mean.mean:.2f}{error} | {published} | {seconds:.0f} |"
        )
    return "\n".join(found)


METHODS = ("labels", "m1labels", "m1m2", "m2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="the folder of MNIST/raw")
    parser.add_argument("--out", type=Path, default=Path("runs/semi"), help="the folder of M1")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the rows, one JSON line each")
    parser.add_argument("--draws", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--table", action="store_true", help="only the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: Path = args.rows
    lines = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    done = {(line["method"], line["draw"]) for line in lines}
    wanted = [(method, draw) for method in args.only for draw in args.draws]
    data = None if args.table else pv.data.load("mnist", args.root)
    for method, draw in () if data is None else wanted:
        if (method, draw) in done:
            continue
        lines.append(run(method, draw, data, lambda: embedding(args.out, data)))
        with rows.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(lines[-1], flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
