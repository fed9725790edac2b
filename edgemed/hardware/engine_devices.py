"""Asks the installed engine for its devices and libraries, in a process of its own.

Loading llama.cpp may start GPU drivers, print, or die; the caller only ever reads one line of JSON.
Device memory is the engine's own figure: on CUDA it is already without the context that every engine
process pays for, which the driver's tools do not subtract.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgemed.core.records import MaybeFigure, NotAvailable
from edgemed.core.settings import ENGINE_ENVIRONMENT, set_environment
from edgemed.hardware.binding import ENGINE_PACKAGE, installed_backends
from edgemed.hardware.record import DeviceKind, EngineDevice, EngineProfile, MaybeEngine, bytes_figure

_KINDS: tuple[DeviceKind, ...] = ("cpu", "gpu", "integrated-gpu", "accelerator")
"""enum ggml_backend_dev_type, ggml-backend.h."""
_TIMEOUT_S = 60.0
"""A first start may compile GPU kernels and read libraries from a slow stick."""


def engine_version() -> str | None:
    """The version of the installed binding, without loading it; None when it is not installed."""
    try:
        return importlib.metadata.version(ENGINE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def engine_name() -> str:
    """Name, version and backends of the installed engine, without loading it; "" when none is installed."""
    version = engine_version()
    backends = ", ".join(installed_backends(engine_folder()))
    return f"llama.cpp ({ENGINE_PACKAGE} {version}; {backends})" if version else ""


def ask_engine() -> MaybeEngine:
    """The engine's devices as it sees them now, or why it cannot be asked. Takes about a second."""
    if engine_version() is None:
        return NotAvailable(reason="no engine is installed: pip install 'edgemed[llama-cpp]'")
    command = [sys.executable, "-P", "-m", "edgemed.hardware.engine_devices"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return NotAvailable(reason=f"the engine did not name its devices within {_TIMEOUT_S:.0f} s")
    except OSError as error:
        return NotAvailable(reason=f"the engine could not be started: {error.strerror or error}")
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return NotAvailable(reason=f"the engine cannot be loaded (exit {done.returncode}): {last[0]}")
    return parse_answer(done.stdout.decode(errors="replace"))


def parse_answer(text: str) -> MaybeEngine:
    """The child's answer, which is the last line of its output, as a record."""
    try:
        answer: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
        devices = tuple(_device(entry) for entry in answer["devices"])
        name, features = str(answer["name"]), str(answer["features"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return NotAvailable(reason=f"the engine's answer could not be read: {error}")
    return EngineProfile(name=name, devices=devices, features=features)


def _device(entry: dict[str, Any]) -> EngineDevice:
    number = int(entry["kind"])
    kind: DeviceKind = _KINDS[number] if number < len(_KINDS) else "accelerator"
    return EngineDevice(
        name=str(entry["name"]),
        description=str(entry["description"]),
        kind=kind,
        memory_total=_memory(int(entry["total"])),
        memory_free=_memory(int(entry["free"])),
    )


def _memory(n_bytes: int) -> MaybeFigure:
    return bytes_figure(n_bytes) if n_bytes else NotAvailable(reason="this backend does not report its memory")


def main() -> None:
    """Write one line of JSON about the engine to stdout; the body of the child process."""
    set_environment(ENGINE_ENVIRONMENT)
    answer = os.dup(1)
    os.dup2(2, 1)  # drivers print to stdout; the answer must stay alone there
    import llama_cpp
    from llama_cpp import llama_cpp as native

    native.llama_backend_init()
    content = {
        "name": engine_name(),
        "features": (native.llama_print_system_info() or b"").decode(errors="replace").strip(),
        "devices": _native_devices(Path(llama_cpp.__file__).parent / "lib"),
    }
    os.write(answer, json.dumps(content).encode() + b"\n")


def _native_devices(folder: Path) -> list[dict[str, Any]]:
    """Every device of ggml's registry; `folder` holds the engine's shared libraries."""
    registry, base = load_ggml(folder, "ggml"), load_ggml(folder, "ggml-base")
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(base, name).restype = ctypes.c_char_p
        getattr(base, name).argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size = ctypes.c_size_t
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(size), ctypes.POINTER(size)]
    base.ggml_backend_dev_memory.restype = None
    found = []
    for index in range(registry.ggml_backend_dev_count()):
        device = registry.ggml_backend_dev_get(index)
        free, total = size(), size()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            {
                "name": base.ggml_backend_dev_name(device).decode(errors="replace"),
                "description": base.ggml_backend_dev_description(device).decode(errors="replace"),
                "kind": base.ggml_backend_dev_type(device),
                "free": free.value,
                "total": total.value,
            }
        )
    return found


def load_ggml(folder: Path, name: str) -> ctypes.CDLL:
    """One of ggml's libraries, the very copy that the engine has loaded.

    On Linux that is the name with the version number: "libggml.so" without it is a second file in a wheel,
    and loading it would give a second, empty registry. Raises OSError when there is none.
    """
    patterns = (f"lib{name}.so.[0-9]", f"lib{name}.so", f"lib{name}.[0-9].dylib", f"lib{name}.dylib", f"{name}.dll")
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            return ctypes.CDLL(str(path))
    raise OSError(f"the engine's library {name} is not in its folder")


def engine_folder() -> Path | None:
    """The folder of the engine's shared libraries, found without loading the engine."""
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent / "lib" if spec and spec.origin else None


if __name__ == "__main__":
    main()
