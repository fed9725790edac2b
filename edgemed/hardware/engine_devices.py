"""Asks the installed engine for its devices and libraries, in a process of its own.

Loading llama.cpp may start GPU drivers, print, or die; the caller only ever reads one line of JSON.
Device memory is the engine's own figure: on CUDA it is already without the context that every engine
process pays for, which the driver's tools do not subtract.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from edgemed.core.records import MaybeFigure, NotAvailable
from edgemed.core.settings import ENGINE_ENVIRONMENT, set_environment
from edgemed.engines.native_library import DeviceList, engine_folder, start_backends
from edgemed.engines.pinned import ENGINE_PACKAGE, installed_version
from edgemed.hardware.binding import installed_backends
from edgemed.hardware.record import DeviceKind, EngineDevice, EngineProfile, MaybeEngine, bytes_figure

_KINDS: tuple[DeviceKind, ...] = ("cpu", "gpu", "integrated-gpu", "accelerator")
"""enum ggml_backend_dev_type, ggml-backend.h."""
_METAL = ("Metal", "MTL")
"""Metal calls itself a GPU; on Apple's chips its memory is the processor's."""
_TIMEOUT_S = 60.0
"""A first start may compile GPU kernels and read libraries from a slow stick."""


def engine_name() -> str:
    """Name, version and backends of the installed engine, without loading it; "" when none is installed."""
    version = installed_version()
    backends = ", ".join(installed_backends(engine_folder()))
    return f"llama.cpp ({ENGINE_PACKAGE} {version}; {backends})" if version else ""


def ask_engine() -> MaybeEngine:
    """The engine's devices as it sees them now, or why it cannot be asked. Takes about a second."""
    if installed_version() is None:
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
        shares_ram=kind == "integrated-gpu" or str(entry["name"]).startswith(_METAL),
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
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    start_backends(api)
    content = {
        "name": engine_name(),
        "features": (api.llama_print_system_info() or b"").decode(errors="replace").strip(),
        "devices": DeviceList(api).describe(),
    }
    os.write(answer, json.dumps(content).encode() + b"\n")


if __name__ == "__main__":
    main()
