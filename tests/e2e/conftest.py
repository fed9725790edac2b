"""A browser for all tests of the page; they are skipped, with the reason, where Chromium is absent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import CHROMEDRIVER, CHROMIUM, Browser, browsing


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all; each test opens its own page."""
    if CHROMEDRIVER is None or CHROMIUM is None:
        pytest.skip("Chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    with browsing() as made:
        yield made
