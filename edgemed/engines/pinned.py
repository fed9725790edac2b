"""The version of the engine that everything here was read and measured with. Standard library only."""

from __future__ import annotations

import importlib.metadata

ENGINE_VERSION = "0.3.36"
"""The pinned llama-cpp-python; pyproject.toml says the same."""
ENGINE_PACKAGE = "llama-cpp-python"


def installed_version() -> str | None:
    """The version of the installed binding, without loading it; None when it is not installed."""
    try:
        return importlib.metadata.version(ENGINE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
