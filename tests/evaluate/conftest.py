"""One tiny real model, opened once for all tests that only ask it questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import write_tiny_qwen2

from edgemed.evaluate.engine_scorer import EngineScorer


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends its answers with a special token after a while."""
    pytest.importorskip("llama_cpp")
    return write_tiny_qwen2(tmp_path_factory.mktemp("models") / "tiny.gguf", ends=True)


@pytest.fixture(scope="session")
def tiny_scorer(tiny_gguf: Path) -> Iterator[EngineScorer]:
    with EngineScorer(tiny_gguf, context_length=300, n_threads=1) as scorer:
        yield scorer
