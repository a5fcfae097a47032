"""Hypothesis draws the same examples at every run, and keeps no database of failures."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "same-every-run", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("same-every-run")


@pytest.fixture
def interpreted(monkeypatch):
    """Run the recorded graphs without Inductor: what is tested is the recording."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
