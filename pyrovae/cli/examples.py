"""The examples at the end of each command's help."""

from __future__ import annotations

from typing import Final

__all__ = ["EPILOGUES", "RECIPE", "ROOT", "TABLE", "WHAT"]

WHAT: Final = (
    "A name: digits, sprites, mnist-5k, mnist, fashion-mnist, kmnist, emnist, omniglot, cifar10, "
    "svhn, celeba, hf:NAME; or a path: .npy, .npz, .pt, .csv, .parquet, .feather, .h5ad, .h5, "
    ".ts, .txt, .jsonl, a folder of images. Options such as --data.key, --data.labels, "
    "--data.covariates, --data.split, --data.fractions and --data.shape say how it is read"
)

TABLE: Final = (
    "Read columns of mixed kinds, with missing values; the default where a column is not numeric "
    "or has gaps. --data.columns.grade ordinal gives the kind of a column."
)

ROOT: Final = "The folder that contains or receives torchvision's files, for names such as mnist."

RECIPE: Final = (
    "A Python file whose function vae(shape) returns a pyrovae.VAE; shape is (channels, height, "
    "width) of images, or (D,); x has rows of as many numbers. For sequences x [N, T, D] it is "
    "(T, D), and the last context is their mask [N, T]; for texts, the function is "
    "vae(shape, vocabulary)."
)

_TRAIN: Final = """\
examples:
  pyrovae train --latents 8 --hidden 200 --epochs 60 --out runs/digits
  pyrovae train --data mnist --root data --out runs/mnist
  pyrovae train --data table.parquet --data.split set --out runs/table
  pyrovae train --data people.csv --data.columns.grade ordinal --out runs/people
  pyrovae train --data cells.h5ad --data.covariates batch --latents 10 --out runs/cells
  pyrovae train --prior VampPrior --prior.components 100 --out runs/vamp
  pyrovae train --likelihood Normal --guide LowRankNormal --guide.rank 5 --out runs/lr
  pyrovae train --objective IWAE --particles 50 --gradient dreg --out runs/iw
  pyrovae train experiment.toml --training.epochs 3 --out runs/short
  pyrovae train --like runs/vamp --prior.components 500 --out runs/more
  pyrovae train --recipe my_vae.py --out runs/mine
  pyrovae train --data texts.txt --recipe sentences.py --out runs/texts
  pyrovae train --resume runs/mnist --epochs 200

an experiment, experiment.toml:
  [prior]
  name = "VampPrior"
  components = 100
  latents = 10

  [net]
  name = "GatedMLP"
  hidden = [300, 300]

  [training]
  epochs = 100

a recipe, my_vae.py:
  import math, pyro, pyro.distributions as dist, pyrovae as pv, torch

  def prior():
      return pyro.sample("z", dist.StudentT(5.0, torch.zeros(8), 1.0).to_event(1))

  def vae(shape):
      width = math.prod(shape)
      likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(8, 200, width))
      guide = pv.guides.MeanFieldNormal(pv.nets.MLP(width, 200, 2 * 8))
      return pv.VAE(prior, likelihood, guide)"""

EPILOGUES: Final = {
    "demo": """\
examples:
  pyrovae demo
  pyrovae demo --out runs/first --epochs 200""",
    "train": _TRAIN,
    "sweep": """\
examples:
  pyrovae sweep experiment.toml --out runs/sweep --jobs 2
  pyrovae sweep experiment.toml --out runs/sweep --print
  pyrovae sweep experiment.toml --out runs/sweep --evaluate 500

a grid of six cells, experiment.toml:
  [training]
  epochs = 100

  [sweep]
  "prior.latents" = [2, 5, 10]
  "training.lr" = [1e-3, 3e-4]

twenty trials of Optuna (python -m pip install 'pyrovae[sweeps]'):
  [sweep]
  trials = 20
  "prior.latents" = {low = 2, high = 50, log = true}
  "training.lr" = {low = 1e-4, high = 1e-2, log = true}
  guide = ["MeanFieldNormal", {name = "LowRankNormal", rank = 5}]""",
    "evaluate": """\
examples:
  pyrovae evaluate runs/digits
  pyrovae evaluate runs/digits --particles 5000 --ais 1000 --gaps --latents
  pyrovae evaluate runs/mnist --particles 5000 --ks 1 50 5000 --limit 1000
  pyrovae evaluate runs/table --data held_out.parquet
  pyrovae evaluate runs/mine --recipe my_vae.py --split validation""",
    "compare": """\
examples:
  pyrovae compare runs/wide runs/narrow
  pyrovae compare runs/wide runs/narrow runs/deep
  pyrovae compare runs/wide runs/narrow --out comparison.png
  pyrovae compare runs/wide runs/narrow runs/deep --out comparison.html""",
    "factors": """\
examples:
  pyrovae factors runs/digits
  pyrovae factors runs/sprites --split validation
  pyrovae factors runs/mine --data images.npy --factors factors.csv""",
    "probe": """\
examples:
  pyrovae probe runs/digits
  pyrovae probe runs/digits --split train --limit 1000""",
    "report": """\
examples:
  pyrovae report runs/digits
  pyrovae report runs/mnist --out mnist.html
  pyrovae report runs/mine --recipe my_vae.py""",
    "sample": """\
examples:
  pyrovae sample runs/digits
  pyrovae sample runs/digits --means
  pyrovae sample runs/digits -n 100 --out samples.png
  pyrovae sample runs/conditional --by class --means
  pyrovae sample runs/people -n 100 --out people.parquet""",
    "reconstruct": """\
examples:
  pyrovae reconstruct runs/digits -n 10 --out reconstructions.png""",
    "walk": """\
examples:
  pyrovae walk runs/digits
  pyrovae walk runs/digits -n 5 --datum 3 --gif --out walk.png""",
    "interpolate": """\
examples:
  pyrovae interpolate runs/digits 0 5 --out between.png""",
    "manifold": """\
examples:
  pyrovae manifold runs/plane
  pyrovae manifold runs/digits --dimensions 'z[0]' 'z[3]' -n 12""",
    "map": """\
examples:
  pyrovae map runs/digits --embedding tsne
  pyrovae map runs/cells --by batch --split train""",
    "explore": """\
examples:
  pyrovae explore runs/digits
  pyrovae explore runs/cells --split train -n 2000 --port 8000
  pyrovae explore runs/digits --out digits.html""",
    "export": """\
examples:
  pyrovae export runs/digits
  pyrovae export runs/digits --onnx --out programs""",
    "impute": """\
examples:
  pyrovae impute runs/people --data gaps.parquet --out filled.parquet""",
}
