"""What tests share: Hypothesis's examples are the same at every run, and commands draw nothing."""

import base64

import hypothesis
import pytest
import torch

from pyrovae.measure.annealing import ais
from pyrovae.plots.image_grid import png
from pyrovae.randomness import generators_kept

WRITERS = "pyrovae.plots.files.png", "pyrovae.cli.page.png"
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)

hypothesis.settings.register_profile(
    "same-every-run", derandomize=True, database=None, deadline=None, max_examples=50
)
hypothesis.settings.load_profile("same-every-run")


@pytest.fixture(autouse=True, scope="module")
def _undrawn(request):
    """Write a dot for each figure of a command: drawing takes half of its time."""
    with pytest.MonkeyPatch.context() as patch:
        for writer in WRITERS if request.path.parent.name == "cli" else ():
            patch.setattr(writer, lambda figure: DOT)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Draw the figures of a command, as users see them."""
    for writer in WRITERS:
        monkeypatch.setattr(writer, png)


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
