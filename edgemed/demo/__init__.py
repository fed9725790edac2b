"""The demonstration model that ships with edgemed, and the table of facts it was trained on.

It knows the facts of `facts/` and nothing else. It shows how edgemed works; it is not for care.
"""

from __future__ import annotations

from pathlib import Path

from edgemed.core.errors import EdgemedError

DEMO_NAME = "demo"
DEMO_NOTICE = "Demonstration model, not for care: it knows a few hundred facts and can be wrong about them."

_MODEL = Path(__file__).parent / "model"


def demo_model_path() -> Path:
    """The shipped GGUF file. Raises EdgemedError when the installation lacks it."""
    return _shipped(_MODEL / "edgemed-demo-q8_0.gguf")


def demo_checkpoint_path() -> Path:
    """The shipped checkpoint in Hugging Face layout. Raises EdgemedError when the installation lacks it."""
    return _shipped(_MODEL / "checkpoint")


def is_demo(model: Path) -> bool:
    """True for a file of the shipped demonstration model."""
    return model.resolve().is_relative_to(_MODEL.resolve())


def _shipped(path: Path) -> Path:
    if not path.exists():
        raise EdgemedError(f"The demonstration model is missing from {path}.", next_step="install edgemed again")
    return path
