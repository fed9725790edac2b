"""How full the KV cache is: told by the engine's process while it works, and right when it sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ask

from edgemed.engines.base import EngineConfig, EngineHealth, GenerationRequest
from edgemed.engines.supervisor import EngineProcess

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

PROMPT = tuple(range(40, 60))


def told(engine: EngineProcess, is_so: Callable[[EngineHealth], bool]) -> EngineHealth:
    """The first health of which that is so; fails after ten seconds."""
    until = time.monotonic() + 10
    while not is_so(health := engine.health()):
        assert time.monotonic() < until, health
    return health


def test_cells_are_told_while_they_fill_when_they_are_kept_and_when_they_are_freed(endless_model: Path) -> None:
    engine = EngineProcess(EngineConfig(model_path=endless_model, context_length=512, n_slots=2))
    engine.start()
    try:
        empty = told(engine, lambda health: health.kv_cells is not None)
        assert (empty.kv_used, empty.kv_cells) == (0, 1024)
        answer = ask(engine, GenerationRequest("one", PROMPT, 30, session="s" * 32))
        answer.wait()
        kept = told(engine, lambda health: bool(health.kv_used))
        assert kept.kv_used is not None
        assert 20 <= kept.kv_used <= 50
        engine.forget_session("s" * 32)
        told(engine, lambda health: health.kv_used == 0)
    finally:
        engine.close()
    assert engine.health().kv_used is None
