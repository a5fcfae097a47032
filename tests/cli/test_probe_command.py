"""`pyrovae probe`: the scores of `pv.probe` for a run, beside its principal components."""

import numpy as np
import pytest
import torch
from complaints import complaint
from sklearn.decomposition import PCA

import pyrovae as pv
from pyrovae.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "run"
    with pv.seeded(0):
        vae = pv.mlp_vae(64, latents=3, hidden=8)
    pv.save(vae, folder, data={"name": "digits", "shape": [1, 8, 8], "binarization": "static"})
    return folder


def test_prints_the_scores_of_the_run_and_of_its_principal_components(run, capsys):
    assert main(["probe", str(run)]) == 0
    printed = capsys.readouterr().out
    digits = pv.data.load("digits", binarization="static")
    x = digits.test.x
    components = PCA(3, random_state=0).fit(digits.train.x.numpy()).transform(x.numpy())
    wanted = pv.probe(
        {"VAE": pv.load(run).embed(digits.test), "PCA": components, "x": x}, y=digits.test.labels
    )
    assert printed == f"{wanted}\n"
    assert "PCA [3], linear" in printed


def test_data_without_labels_are_refused(tmp_path, capsys):
    np.save(tmp_path / "x.npy", torch.rand(60, 4).numpy())
    vae = pv.mlp_vae(4, latents=2, hidden=8, likelihood=pv.likelihoods.Normal)
    pv.save(vae, tmp_path / "run", data={"name": str(tmp_path / "x.npy"), "shape": [4]})
    line = complaint(capsys, "probe", tmp_path / "run")
    assert "have no labels to predict: name their column or key with --data.labels" in line
