"""torch's notice that no CUDA runtime is found is not printed by what compiles here."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, sys, torch, pyro, pyrovae as pv
from pyrovae.weights.compiled import CompiledRun

def compile(graph, **options):  # imports what Inductor imports, without its seconds
    importlib.import_module("torch.utils.cpp_extension")
    return graph

torch.compile = compile
assert "torch.utils.cpp_extension" not in sys.modules
vae = pv.VAE(
    prior=pv.priors.StandardNormal(2),
    likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(2, 4, 6)),
    guide=pv.guides.MeanFieldNormal(pv.nets.MLP(6, 4, 2 * 2)),
)
x = torch.zeros(5, 6)
if sys.argv[1] == "SVI":
    svi = pv.SVI(vae.model, vae.guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    [svi.step(x) for _ in range(3)]
else:
    pv.log_weights(vae, x, particles=10, runner=CompiledRun())
print("compiled", file=sys.stderr, flush=True)
importlib.reload(sys.modules["torch.utils.cpp_extension"])
"""


@pytest.mark.parametrize("kind", ["SVI", "CompiledRun"])
def test_the_notice_that_no_cuda_runtime_is_found_is_suppressed(kind, tmp_path):
    """Outside of what compiles, the notice is printed: here after the word "compiled"."""
    environment = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", SCRIPT, kind]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    before, after = ran.stderr.split("compiled\n")
    assert before == ""
    if not after:
        pytest.skip("this build of torch has no notice")
    assert "No CUDA runtime is found" in after
