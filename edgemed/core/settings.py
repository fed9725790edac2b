"""Settings: the environment and `edgemed.toml`, read here and nowhere else."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

PROJECT_FILE = "edgemed.toml"

OFFLINE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""Variables that tell libraries not to dial out; onnxruntime reads its own before it is imported."""

ENGINE_ENVIRONMENT = {
    # Spinning OpenMP threads starve each other when the box is shared: 0.8 against 6.7 tokens/s on 2 busy cores.
    "OMP_WAIT_POLICY": "passive",
    # A crash must not write a core file or a backtrace that holds a patient's words.
    "GGML_NO_BACKTRACE": "1",
}


class ModelSettings(Record):
    """The `[model]` table."""

    path: Path | None = None


class ServeSettings(Record):
    """The `[serve]` table."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)


class MedicalSettings(Record):
    """The `[medical]` table."""

    languages: Path | None = None
    """A folder of language files of the clinic's own; a file there goes before the shipped one of the same name."""


class CacheSettings(Record):
    """The `[cache]` table: the answer cache of `edgemed serve`."""

    memory_mib: float = Field(default=16, ge=0, le=1024)
    """0 keeps nothing in memory."""
    on_disk: bool = True
    """Also a sealed file, where there is a keyring or a passphrase file."""
    disk_mib: float = Field(default=512, ge=1, le=65536)
    days: float = Field(default=30, gt=0, le=366)
    """An older answer is not given."""
    word_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of shared words against the embeddings' cosine in the similarity."""
    threshold: float = Field(default=0.15, ge=0, le=1)
    """Least similarity of two questions with equal clinical keys."""
    word_threshold: float = Field(default=0.1, ge=0, le=1)
    """The same by words alone, where the model gives no embedding."""


class ProjectSettings(Record):
    """The content of `edgemed.toml`; unknown tables and keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSettings = ModelSettings()
    serve: ServeSettings = ServeSettings()
    medical: MedicalSettings = MedicalSettings()
    cache: CacheSettings = CacheSettings()


def cache_passphrase_file() -> Path | None:
    """$EDGEMED_CACHE_PASSPHRASE_FILE: the file whose first line seals the answer cache on disk; None without it."""
    path = os.environ.get("EDGEMED_CACHE_PASSPHRASE_FILE")
    return Path(path) if path else None


def data_dir() -> Path:
    """Where installed models, profiles and plans live: $EDGEMED_HOME, else the system's place for user data."""
    if home := os.environ.get("EDGEMED_HOME"):
        return Path(home)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "edgemed"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "edgemed"
    return Path(os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local" / "share"))) / "edgemed"


def project_settings(folder: Path | None = None) -> ProjectSettings:
    """The settings of `edgemed.toml` in `folder` (default: the current one), or the defaults without it.

    Raises UsageError for a file that cannot be read or holds unknown keys.
    """
    path = (folder or Path.cwd()) / PROJECT_FILE
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ProjectSettings()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", next_step="mend that line, or remove the file") from error
    try:
        return ProjectSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        why = "it must be a path in quotes" if first["type"] == "path_type" else first["msg"]
        raise UsageError(f"{path}: {where}: {why}.", next_step="mend that key, or remove it") from error


def set_environment(variables: dict[str, str]) -> None:
    """Set variables for this process and its children, before a library that reads them is imported."""
    os.environ.update(variables)


def terminal_is_plain() -> bool:
    """True when the user asked for no colours (NO_COLOR) or works in a dumb terminal."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
