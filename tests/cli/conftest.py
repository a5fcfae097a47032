"""Commands make their figures, and draw none but for a test that asks for `drawn`."""

import base64

import pytest

from pyrovae.plots.image_grid import png

WRITERS = "pyrovae.plots.files.png", "pyrovae.cli.page.png"
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True, scope="module")
def _undrawn():
    """Write a dot for each figure: drawing takes half the time of a command."""
    with pytest.MonkeyPatch.context() as patch:
        for writer in WRITERS:
            patch.setattr(writer, lambda figure: DOT)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Draw the figures, as users see them."""
    for writer in WRITERS:
        monkeypatch.setattr(writer, png)
