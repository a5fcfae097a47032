"""Compare scVI with the same model composed of this library's parts, on single-cell counts.

    python benchmarks/single_cell.py pbmc.npz            # five folds, then the table
    python benchmarks/single_cell.py pbmc.npz --table    # the table of the rows that are there

The counts are those that scanpy's wheel ships, 700 cells and 765 genes of 10x PBMC 68k, recovered
as round(expm1(raw.X) * n_counts / 1e4): the file has them as `counts` [cells, genes]. With the
path `scanpy` they are recovered here, which gives the same matrix.

Each of five folds is the test set once (140 cells); 70 of the other cells are for validation and
490 for training. A training ends when the validation ELBO has not improved for 45 epochs, and
keeps its best parameters. scVI's module is wrapped as two Pyro programs, so that both libraries'
models are scored by one estimator, IWAE-1000 given the library size (the sum of a cell's counts).

    python -m pip install scvi-tools 'lightning!=2.6.2,!=2.6.3' 'pandas<3'
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae.weights.bounds import Estimate

FOLDS, VALIDATION, PATIENCE, BATCH, EPOCHS = 5, 70, 45, 128, 400
LATENTS, HIDDEN = 10, 128
ROWS = Path(__file__).with_name("single_cell.jsonl")


def counts(path: str) -> Tensor:
    """Return the counts [cells, genes], as floats."""
    if path != "scanpy":
        return torch.tensor(np.load(path)["counts"], dtype=torch.float32)
    import scanpy

    cells = scanpy.datasets.pbmc68k_reduced()
    scale = cells.obs["n_counts"].to_numpy()[:, None] / 1e4
    return torch.tensor((np.expm1(cells.raw.X.toarray().astype(float)) * scale).round()).float()


def split(cells: int, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for training, validation and test; the folds' test sets are disjoint."""
    order = np.random.default_rng(0).permutation(cells)
    test = np.array_split(order, FOLDS)[fold]
    rest = np.random.default_rng(fold + 1).permutation(np.setdiff1d(order, test))
    return rest[VALIDATION:], rest[:VALIDATION], test


class Genes(dist.TorchDistribution):
    """p(x | z) of scVI's module, for Pyro: the genes of a cell are one event."""

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, genes: Any) -> None:
        self.genes = genes
        super().__init__(genes.mu.shape[:-1], genes.mu.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum over genes of scVI's log-probabilities."""
        return self.genes.log_prob(value).sum(-1)


def programs(module: Any) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return scVI's generative and inference networks as a model and a guide of (x, library)."""
    module.eval()

    def model(x: Tensor, library: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENTS]).to_event(1))
            found = module.generative(z, library.log()[:, None], x.new_zeros(len(x), 1))
            pyro.sample("x", Genes(found["px"]), obs=x)

    def guide(x: Tensor, library: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            q = module.inference(x, x.new_zeros(len(x), 1))["qz"]
            pyro.sample("z", dist.Normal(q.loc, q.scale).to_event(1))

    return model, guide


def fit_scvi(
    x: Tensor, rows: Any, seed: int, *, gene_likelihood: str = "zinb", **plan: Any
) -> tuple[Any, dict[str, Any]]:
    """Train scVI with its defaults and early stopping; return its programs and what is said."""
    import anndata
    import lightning.pytorch as pl
    import scvi

    class KeepBest(pl.Callback):
        """Keep the best parameters in memory; scVI's own callback writes each to disk."""

        best, kept, epochs = float("inf"), -1, 0

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            self.epochs = trainer.current_epoch + 1
            loss = float(trainer.callback_metrics.get("elbo_validation", "inf"))
            if loss < self.best:
                self.best, self.kept = loss, self.epochs
                self.state = copy.deepcopy(module.module.state_dict())

    scvi.settings.seed = seed
    cells = anndata.AnnData(x.numpy())
    scvi.model.SCVI.setup_anndata(cells)
    scvi_model = scvi.model.SCVI(cells, gene_likelihood=gene_likelihood)
    best = KeepBest()
    begun = time.process_time()
    scvi_model.train(
        max_epochs=EPOCHS,
        batch_size=BATCH,
        datasplitter_kwargs={"external_indexing": list(rows)},
        plan_kwargs=plan,
        early_stopping=True,
        early_stopping_patience=PATIENCE,
        callbacks=[best],
        accelerator="cpu",
        enable_progress_bar=False,
        logger=False,
    )
    seconds = time.process_time() - begun
    scvi_model.module.load_state_dict(best.state)
    said = {"epochs": best.epochs, "kept": best.kept, "seconds": seconds}
    if seed == 0:  # scVI's own estimate; it averages batches, not cells, so cells are asked for
        cells_ll = scvi_model.get_marginal_ll(
            indices=rows[2], n_mc_samples=1000, return_mean=False
        )
        said["own"] = [round(float(value), 3) for value in cells_ll]
    return programs(scvi_model.module), said


class ReLUDropout(nn.Sequential):
    """The activation of scVI's encoder, without its batch normalization."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(), nn.Dropout(0.1))


def fit_ours(
    x: Tensor,
    rows: Any,
    seed: int,
    *,
    zeros: bool = False,
    activation: type[nn.Module] = nn.ReLU,
    lr: float = 1e-3,
    kl_weight: Any = 1.0,
) -> tuple[Any, dict[str, Any]]:
    """Train a VAE of the library's parts; return it and what is said of its training."""
    train, validation = ((x[part], x[part].sum(1)) for part in rows[:2])
    genes = x.shape[1]
    noise = "ZeroInflatedNegativeBinomial" if zeros else "NegativeBinomial"
    decoder = pv.nets.MLP(LATENTS, HIDDEN, genes * (1 + zeros))
    encoder = pv.nets.MLP(genes + 1, HIDDEN, 2 * LATENTS, activation=activation)
    torch.manual_seed(seed)
    likelihood = getattr(pv.likelihoods, noise)(decoder, genes, library=True)
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(LATENTS),
        likelihood=likelihood.start_at_mean(train[0]),
        guide=pv.guides.MeanFieldNormal(pv.nets.LogCounts(encoder, library=True)),
    )
    begun = time.process_time()
    history = pv.fit(
        vae,
        train,
        validation=validation,
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
        step=pv.Step(pyro.optim.Adam({"lr": lr}), kl_weight=kl_weight),
        callbacks=[pv.EarlyStopping(PATIENCE)],
    )
    seconds = time.process_time() - begun
    return vae, {"epochs": len(history.epochs), "kept": history.kept, "seconds": seconds}


CONTESTANTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "scVI": (fit_scvi, {}),
    "scVI, no KL warm-up": (fit_scvi, {"n_epochs_kl_warmup": None}),
    "scVI, NB, no KL warm-up": (fit_scvi, {"n_epochs_kl_warmup": None, "gene_likelihood": "nb"}),
    "scVI, NB, no KL warm-up, lr 3e-3": (
        fit_scvi,
        {"n_epochs_kl_warmup": None, "gene_likelihood": "nb", "lr": 3e-3},
    ),
    "ours, ZINB": (fit_ours, {"zeros": True}),
    "ours, NB": (fit_ours, {}),
    "ours, NB, dropout": (fit_ours, {"activation": ReLUDropout}),
    "ours, NB, dropout, lr 3e-3": (fit_ours, {"activation": ReLUDropout, "lr": 3e-3}),
    "ours, NB, KL warm-up": (fit_ours, {"kl_weight": pv.schedules.linear(0, 1, 400)}),
}


def run(name: str, fold: int, x: Tensor) -> dict[str, Any]:
    """Train and score one contestant on one fold."""
    fit, settings = CONTESTANTS[name]
    rows = split(len(x), fold)
    target, said = fit(x, rows, fold, **settings)
    validation, test = ((x[part], x[part].sum(1)) for part in rows[1:])
    chosen_by = pv.evaluate(target, validation, particles=100)
    report = pv.evaluate(target, test, particles=1000, ks=[1000])
    iwae = report.iwae[1000]
    return {
        "contestant": name,
        "fold": fold,
        **said,
        "validation_elbo": chosen_by.elbo.mean,
        "kl": report.monte_carlo_kl.mean,
        "elbo": [round(value, 3) for value in report.elbo.value.tolist()],
        "iwae": [round(value, 3) for value in iwae.value.tolist()],
        "error": [round(value, 3) for value in iwae.standard_error.tolist()],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the table in Markdown; differences from scVI are paired over cells and folds."""
    head = ["", "folds", "ELBO", "IWAE-1000", "minus scVI", "over folds", "validation ELBO", "KL"]
    text = ["| " + " | ".join([*head, "epochs", "CPU s"]) + " |", "|---" + "|---:" * 9 + "|"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["fold"]):
        by_name.setdefault(line["contestant"], []).append(line)
    for name in [name for name in CONTESTANTS if name in by_name]:
        found = by_name[name]
        folds = {line["fold"]: line for line in by_name.get("scVI", [])}
        pairs = [(line, folds[line["fold"]]) for line in found if line["fold"] in folds]
        gain = [torch.tensor(a["iwae"]) - torch.tensor(b["iwae"]) for a, b in pairs]
        whole = {key: torch.cat([torch.tensor(a[key]) for a in found]) for key in ("elbo", "iwae")}
        iwae = estimate(whole["iwae"])
        over_cells = estimate(torch.cat(gain)) if gain else None
        over_folds = estimate(torch.stack([g.mean() for g in gain])) if len(gain) > 1 else None
        means = [np.mean([line[key] for line in found]) for key in ("validation_elbo", "kl")]
        spent = [np.mean([line[key] for line in found]) for key in ("epochs", "seconds")]
        text.append(
            f"| {name} | {len(found)} | {estimate(whole['elbo']).mean:.2f} | "
            f"{iwae.mean:.2f} ± {iwae.error_over_data:.2f} | "
            + (f"{over_cells.mean:+.2f} ± {over_cells.error_over_data:.2f}" if over_cells else "")
            + (f" | ± {over_folds.error_over_data:.2f}" if over_folds else " | ")
            + f" | {means[0]:.2f} | {means[1]:.1f} | {spent[0]:.0f} | {spent[1]:.1f} |"
        )
    return "\n".join(text)


def estimate(values: Tensor) -> Estimate:
    return Estimate(values, torch.zeros_like(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="the file of counts, or scanpy")
    parser.add_argument("--rows", type=Path, default=ROWS, help="the rows, one JSON line each")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--table", action="store_true", help="only the table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = counts(args.data)
    for fold in [] if args.table else args.folds:
        for name in args.only:
            line = run(name, fold, x)
            with args.rows.open("a") as rows:
                rows.write(json.dumps(line) + "\n")
            print(name, fold, f"{np.mean(line['iwae']):.2f}, {line['seconds']:.1f} s", flush=True)
    print(table([json.loads(line) for line in args.rows.read_text().splitlines()]))


if __name__ == "__main__":
    main()
