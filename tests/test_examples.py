"""Every script in examples/ runs, prints a table and stays short enough to be read."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

BOUNDS = r"(?m)^ +(ELBO|IWAE-\d+) +-?\d+\.\d+ "
FINDINGS = {
    "faster_pyro": r"pyrovae\.SVI \d+\.\d+ ms \(ratio (\d+\.\d+)\)",
    "information_bottleneck": r"(?m)^beta +(\d\.\d+) +rate +\d+\.\d+ nats",
    "semi_supervised": r"test accuracy +(\d+\.\d+)%",
}


def test_there_are_examples():
    names = {script.stem for script in SCRIPTS}
    assert {"vae_mnist", "custom_prior", "custom_likelihood", "plain_pyro"} <= names
    assert {"vampprior", "flow_prior", "flow_guide", "hierarchical", "mixture_latents"} <= names
    assert {"conditional", "missing_data", "counts", "faces", "linear_vae"} <= names
    assert {"denoising", "information_bottleneck"} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_without_a_warning_and_prints_its_findings(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "--smoke"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(set(re.findall(FINDINGS.get(script.stem, BOUNDS), done.stdout))) >= 2, done.stdout
    assert not list(tmp_path.iterdir()), "an example writes only where it is told to"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_can_be_read_in_one_sitting(script):
    text = script.read_text()
    assert 40 <= len(text.splitlines()) <= 120
    assert text.startswith('"""')
    assert "clear_param_store" not in text
    assert "--smoke" in text
