"""Every test and every doctest starts from one seed and leaves no global state behind.

Examples of internal functions find a small VAE, `vae`, and data for it, `x`; what users call is
shown in full, so that its example runs as it is copied.
"""

import gc
import os

gc.disable()  # until all tests are collected: nothing of the library or the tests is ever freed
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads only wait for each other

import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import pyrovae as pv  # noqa: E402


def pytest_collection_finish() -> None:
    """Spare every later collection of garbage the objects of the libraries and the tests."""
    gc.freeze()
    gc.enable()


def _global_state() -> dict[str, object]:
    return {
        "Pyro's settings": pyro.settings.get(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's validation of distributions": torch.distributions.Distribution._validate_args,
        "whether gradients are on": torch.is_grad_enabled(),
    }


@pytest.fixture(autouse=True)
def _fresh_and_left_clean():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    before = _global_state()
    yield
    leaked = list(pyro.get_param_store())
    pyro.clear_param_store()
    assert not leaked, f"parameters leaked into Pyro's store: {leaked}"
    for name, value in _global_state().items():
        assert value == before[name], f"the test changed {name}"


@pytest.fixture(autouse=True)
def _examples(request, doctest_namespace, _fresh_and_left_clean):
    if isinstance(request.node, pytest.DoctestItem):
        with torch.random.fork_rng(devices=[]):
            doctest_namespace["vae"] = pv.mlp_vae(64, latents=2, hidden=16)
        doctest_namespace["x"] = torch.zeros(5, 64)
