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
