"""Settings: the environment and `edgemed.toml`, read here and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import ConfigDict, Field

from edgemed.core.records import Record
from edgemed.core.toml_file import read_toml

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

WITHOUT_DEVICES_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "GGML_VK_VISIBLE_DEVICES": "",
    "EDGEMED_RPC_DEVICES": "",
}
"""Hides GPUs from the engine: it starts every driver it finds, used or not, and a broken one ends the process."""


class ModelSettings(Record):
    """The `[model]` table."""

    path: Path | None = None


class ServeSettings(Record):
    """The `[serve]` table."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    adapters: dict[str, Path] = Field(default_factory=dict)
    """Adapter files by the name that requests say."""
    session_minutes: float = Field(default=30, ge=1, le=1440)
    """A session that was not used for so long is ended and erased."""
    unfinished_hours: float = Field(default=24, gt=0, le=720)
    """A question that a crash interrupted is kept for so long."""
    access_token_file: Path | None = None
    """On a loopback address, a token is asked for only with this."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_lan: bool = False
    """Serve other machines without encryption."""
    names: tuple[str, ...] = ()
    """Names of this machine in the clinic's own name server, for certificate and Host header."""
    require_gpu: bool = False
    """Do not start where no layer runs on a GPU."""


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


def rpc_devices() -> tuple[Path, tuple[str, ...]] | None:
    """llama.cpp's RPC library ($EDGEMED_RPC_LIBRARY) and the addresses ($EDGEMED_RPC_DEVICES, with commas) of processes
    that stand in for a GPU; None without both. For tests and experiments on one machine."""
    library, addresses = os.environ.get("EDGEMED_RPC_LIBRARY"), os.environ.get("EDGEMED_RPC_DEVICES")
    return (Path(library), tuple(addresses.split(","))) if library and addresses else None


def teacher_api_key() -> str:
    """$EDGEMED_TEACHER_API_KEY: what a teacher's server wants to be shown; empty without it."""
    return os.environ.get("EDGEMED_TEACHER_API_KEY", "").strip()


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
    path = (folder or Path.cwd()) / PROJECT_FILE  # a current folder that is gone is another fault than no file
    try:
        return read_toml(path, ProjectSettings)
    except FileNotFoundError:
        return ProjectSettings()


def environment_of_engine() -> dict[str, str]:
    """The environment to start an engine's process with: this one's, and what glibc reads before the program begins.

    It makes malloc ask Linux for pages of 2 MiB. Weights in pages of 4 KiB cost a table look-up every few microseconds:
    a token of a 0.5B took 27.5 ms of CPU with them and 20.2 without (where the system gives such pages to who asks,
    as Debian and Ubuntu do). Whoever has set it keeps it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in tunables:
        tunables = ":".join(filter(None, (tunables, "glibc.malloc.hugetlb=1")))
    return {**os.environ, "GLIBC_TUNABLES": tunables}


def process_place() -> tuple[int, int]:
    """Which of how many processes this is, as torchrun and accelerate tell them: 0 of 1 without those."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def weights_are_sharded() -> bool:
    """Whether accelerate was told to spread weights over the processes (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def set_environment(variables: dict[str, str]) -> None:
    """Set variables for this process and its children, before a library that reads them is imported."""
    os.environ.update(variables)


def terminal_is_plain() -> bool:
    """True when the user asked for no colours (NO_COLOR) or works in a dumb terminal."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
