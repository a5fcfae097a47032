"""Chromium for tests of pages, skipped with a reason where there is none."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium():
    """Start Debian's Chromium, without a download of a browser, and yield it."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def pixels(page, selector):
    """Return the gray levels of a canvas, flattened, from 0 to 255."""
    return page.eval_on_selector(
        selector,
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        ".filter((_, i) => i % 4 === 0)",
    )


def until(page, expression):
    """Wait until an expression is true; the page's own policy forbids to compile it there."""
    for _ in range(1200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never: {expression}")
