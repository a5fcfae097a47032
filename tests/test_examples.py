"""Every script in examples/ runs, prints a table and stays short enough to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fresh import printed_by

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

BOUNDS = r"(?m)^ +(ELBO|IWAE-\d+) +-?\d+\.\d+ "
FINDINGS = {
    "autoencoder": r"(?m)^(auto-encoder|VAE) +latents 2 .*in holes +\d+\.\d%",
    "beta_tcvae": r"(?m)^beta +(\d\.\d) +ELBO +-\d+\.\d+ .*MIG 0\.\d+ ",
    "beta_vae": r"(?m)^ +\d +\d +(-\d+\.\d+) ",
    "contractive": r"(?m)^weight (\d\.\d+) .*moved by noise +\d+\.\d%",
    "deep_markov": r"(?m)^(?:-(ELBO|IWAE-\d+) per step: \d+\.\d+ nats| CRPS +(\d\.\d+) )",
    "factor_vae": r"(?m)^gamma +(\d+\.\d) +ELBO +-\d+\.\d+ .*MIG 0\.\d+ ",
    "faster_pyro": r"pyrovae\.SVI \d+\.\d+ ms \(ratio (\d+\.\d+)\)",
    "ladder": r"(?m)^(flat|ladder), bits per dimension: \d\.\d+",
    "information_bottleneck": r"(?m)^beta +(\d\.\d+) +rate +\d+\.\d+ nats",
    "multimodal": r"(?m)^ log p\((?:image|label) \| (?:image|label)\) +(-\d+\.\d+) ",
    "sentence_vae": r"(?m)^(as usual|cured) +ELBO -\d+\.\d+, .*perplexity \d+\.\d+",
    "sklearn_grid": r"(?m)^(PCA|FactorAnalysis|VAE|VAE, scales) +\d+ +-?\d+\.\d+ ",
    "sparse_autoencoder": r"(?m)^KL weight (\d) .*explained +\d+\.\d%",
    "vq_vae": r"(?m)^ *(log p\(x \| k\) \+ log p\(k\) +-\d+\.\d+) ",
    "semi_supervised": r"(?m)^ accuracy(?:, labels alone)? +(0\.\d+) ",
}


def test_there_are_examples():
    names = {script.stem for script in SCRIPTS}
    assert {"vae_mnist", "custom_prior", "custom_likelihood", "plain_pyro"} <= names
    assert {"vampprior", "flow_prior", "flow_guide", "hierarchical", "mixture_latents"} <= names
    assert {"conditional", "missing_data", "counts", "faces", "linear_vae"} <= names
    assert {"denoising", "information_bottleneck", "mixed_table", "beta_vae"} <= names
    assert {"deep_markov", "multimodal"} <= names
    assert {"autoencoder", "sparse_autoencoder", "contractive"} <= names
    assert {"beta_tcvae", "factor_vae"} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_without_a_warning_and_prints_its_findings(script, tmp_path):
    printed = printed_by(script, "--smoke", folder=tmp_path)
    assert len(set(re.findall(FINDINGS.get(script.stem, BOUNDS), printed))) >= 2, printed
    assert not list(tmp_path.iterdir()), "an example writes only where it is told to"


def test_an_example_runs_from_the_command_line(tmp_path):
    """As its reader runs it: nothing is imported beforehand."""
    script = next(script for script in SCRIPTS if script.stem == "linear_vae")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "--smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(re.findall(BOUNDS, done.stdout))) >= 2, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_can_be_read_in_one_sitting(script):
    text = script.read_text()
    assert 40 <= len(text.splitlines()) <= 120
    assert text.startswith('"""')
    assert "clear_param_store" not in text
    assert "--smoke" in text
