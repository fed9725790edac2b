from pathlib import Path

import pytest
from checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint; tests must not change it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return write_checkpoint(tmp_path_factory.mktemp("parent") / "qwen2", "qwen2")
