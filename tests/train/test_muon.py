"""Muon: torch's steps where bfloat16 is fast, and the same iteration in float32 elsewhere."""

import pytest
import torch

from pyrovae.train import muon
from pyrovae.train.muon import Muon, orthogonalized

SHAPES = (7, 3), (3, 7), (5, 5)
SETTINGS = {
    "as it is": {},
    "decay, plain momentum": {"weight_decay": 0.3, "nesterov": False, "momentum": 0.8},
    "rates as AdamW's": {"adjust_lr_fn": "match_rms_adamw"},
    "rates by the spectrum": {"adjust_lr_fn": "spectral_unclamped", "ns_steps": 3},
    "a rate that is a tensor": {"lr": torch.tensor([0.1]), "weight_decay": 0.3},
    "other coefficients": {"ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
}


def steps_of(kind, **settings):
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(matrices, **{"lr": 0.1, **settings})
    for _ in range(4):
        for matrix in matrices[:2]:  # the last has no gradient
            matrix.grad = torch.randn_like(matrix)
        optimizer.step()
    return matrices


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_steps_are_torchs_where_bfloat16_is_fast(monkeypatch, settings):
    monkeypatch.setattr(muon, "_multiplies_bfloat16", lambda device: True)
    for found, wanted in zip(
        steps_of(Muon, **settings), steps_of(torch.optim.Muon, **settings), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_elsewhere_they_are_torchs_to_the_rounding_of_bfloat16(monkeypatch, settings):
    """Four steps of 0.1, each off by five iterations of some roundings of 2^-8."""
    monkeypatch.setattr(muon, "_multiplies_bfloat16", lambda device: False)
    for found, wanted in zip(
        steps_of(Muon, **settings), steps_of(torch.optim.Muon, **settings), strict=True
    ):
        torch.testing.assert_close(found, wanted, atol=4 * 0.1 * 5 * 5 * 2**-8, rtol=0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_acts_on_the_singular_values(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = coefficients = 3.4445, -4.775, 2.0315
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    found = orthogonalized(matrix, coefficients, steps=5, eps=1e-7)
    torch.testing.assert_close(found, u @ torch.diag(s) @ vh)
    assert (s - 1).abs().max() < 0.5


def test_a_closure_gives_its_loss():
    matrix = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([matrix], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = matrix.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6.0
    assert matrix.square().sum() < 6.0
