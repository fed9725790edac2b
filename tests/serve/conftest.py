"""Servers over the engine that needs no model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server whose engine answers at once; the tests of a file share it and leave it sound."""
    with serving(FakeEngine()) as server:
        yield server


@pytest.fixture
def held() -> Iterator[Running]:
    """A server whose engine gives a token only when it is told to."""
    with serving(FakeEngine(held=True)) as server:
        yield server
