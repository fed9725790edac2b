"""llama.cpp's shared libraries: where they are, the very copies that the engine has loaded, and their devices.

For tests and experiments without a GPU, devices of llama.cpp's RPC backend can be added (core.settings.rpc_devices): a
second process on this machine then is a device with memory of its own. Its protocol is not safe on a network, so only
loopback addresses are taken.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemed.core.errors import EngineFailed, UsageError
from edgemed.core.offline import is_loopback
from edgemed.core.settings import rpc_devices


def engine_folder() -> Path | None:
    """The folder of the engine's shared libraries, found without loading the engine."""
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent / "lib" if spec and spec.origin else None


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


class DeviceList:
    """The devices in ggml's registry, by the engine's own names; `api` is the loaded binding."""

    def __init__(self, api: Any) -> None:
        folder = Path(api.__file__).parent / "lib"
        registry, base = load_ggml(folder, "ggml"), load_ggml(folder, "ggml-base")
        registry.ggml_backend_dev_count.restype = ctypes.c_size_t
        registry.ggml_backend_dev_get.restype = ctypes.c_void_p
        registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
            getattr(base, name).restype = ctypes.c_char_p
            getattr(base, name).argtypes = [ctypes.c_void_p]
        base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        base.ggml_backend_dev_buffer_type.argtypes = [ctypes.c_void_p]
        base.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
        size = ctypes.c_size_t
        base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(size), ctypes.POINTER(size)]
        base.ggml_backend_dev_memory.restype = None
        self._base = base
        self.pointers = {
            base.ggml_backend_dev_name(pointer).decode(errors="replace"): pointer
            for pointer in map(registry.ggml_backend_dev_get, range(registry.ggml_backend_dev_count()))
        }

    def pointer(self, name: str) -> int:
        """The device of this name. Raises EngineFailed for one that the engine does not have now."""
        try:
            return int(self.pointers[name])
        except KeyError:
            raise EngineFailed(
                f"The engine has no device {name}; it has {', '.join(self.pointers)}.",
                next_step="plan again: edgemed plan MODEL",
            ) from None

    def buffer_type(self, name: str) -> int:
        """The kind of memory that weights on this device lie in. Raises EngineFailed."""
        return int(self._base.ggml_backend_dev_buffer_type(self.pointer(name)))

    def describe(self) -> list[dict[str, Any]]:
        """Name, description, kind (enum ggml_backend_dev_type), free and total bytes of each."""
        found = []
        for name, pointer in self.pointers.items():
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            self._base.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
            description = self._base.ggml_backend_dev_description(pointer).decode(errors="replace")
            kind = self._base.ggml_backend_dev_type(pointer)
            found.append(
                {"name": name, "description": description, "kind": kind, "free": free.value, "total": total.value}
            )
        return found


def start_backends(api: Any) -> None:
    """Make the engine ready in this process, with the devices that settings add. Raises UsageError, EngineFailed."""
    wanted = rpc_devices()
    if wanted is not None:
        _add_rpc_devices(api, *wanted)
    api.llama_backend_init()


def _add_rpc_devices(api: Any, library: Path, addresses: Sequence[str]) -> None:
    for address in addresses:
        if not is_loopback(address.rpartition(":")[0]):
            raise UsageError(
                f"{address} is no device of this machine: llama.cpp's RPC protocol is not safe on a network.",
                next_step="use 127.0.0.1:PORT",
            )
    try:
        rpc = ctypes.CDLL(str(library))
    except OSError as error:
        raise EngineFailed(f"The RPC backend cannot be loaded: {error}.") from error
    registry = load_ggml(Path(api.__file__).parent / "lib", "ggml")
    registry.ggml_backend_register.argtypes = [ctypes.c_void_p]
    registry.ggml_backend_register.restype = None
    rpc.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    for address in addresses:
        registered = rpc.ggml_backend_rpc_add_server(address.encode())
        if not registered:
            raise EngineFailed(f"No RPC device answers at {address}.")
        registry.ggml_backend_register(registered)
