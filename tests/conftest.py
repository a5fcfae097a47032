"""Hypothesis draws the same examples at every run, and keeps no database of failures."""

import hypothesis
import pytest
import torch

from pyrovae.measure.annealing import ais
from pyrovae.randomness import generators_kept

hypothesis.settings.register_profile(
    "same-every-run", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("same-every-run")


@pytest.fixture
def interpreted(monkeypatch):
    """Run the recorded graphs without Inductor: what is tested is the recording."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


@pytest.fixture
def compiled_once(monkeypatch):
    """Compile a graph that is recorded again only once: Inductor would make the same of it."""
    made, compile = {}, torch.compile

    def once(graph, **options):
        assert all(node.op != "get_attr" for node in graph.graph.nodes), "its code is not all"
        return made.setdefault(graph.code, compile(graph, **options))

    monkeypatch.setattr(torch, "compile", once)


@pytest.fixture
def recorded_annealing(monkeypatch, interpreted):
    """Anneal along recorded graphs, as a long run does: the same numbers, three times as fast."""
    slope = ais.LatentDensity.slope

    def recorded(path, u, beta):
        with generators_kept():
            path.compile()
        return slope(path, u, beta)

    monkeypatch.setattr(ais.LatentDensity, "slope", recorded)
