from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

MakeCheckpoint = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Makes a tiny random checkpoint of an architecture once; tests must not change it."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = write_checkpoint(tmp_path_factory.mktemp("parent") / architecture, architecture)
        return made[architecture]

    return make
