"""Compares the GPUs in this machine with what the engine's binding was built for, and says what mends it.

Only the standard library, and nothing is loaded but a driver's version number: this runs before anything
is installed. A GPU is looked for in /sys, in Windows' registry and in the kind of Mac this is.
"""

from __future__ import annotations

import ctypes
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WHEEL_INDEX = "https://abetlen.github.io/llama-cpp-python/whl"
"""Upstream's own prebuilt wheels, one folder per variant."""

Backend = Literal["cpu", "cuda", "vulkan", "metal"]
Vendor = Literal["nvidia", "amd", "intel", "apple"]

_CUDA_WHEELS = ((13, 2), (13, 0), (12, 5), (12, 4), (12, 3), (12, 2), (12, 1), (11, 8))
"""CUDA versions that upstream builds wheels for, newest first; a driver runs all that are not newer than itself."""
_VENDORS: dict[str, Vendor] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_OWN_MEMORY_BYTES = 2 * 1024**3
"""AMD's integrated processors carve out less than this; its cards have more."""
_INTEL_INTEGRATED_SLOT = "0000:00:02.0"
"""Intel's integrated graphics have sat in this PCI slot for two decades; its cards sit elsewhere."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics processor seen in the machine, whether or not a driver runs it."""

    vendor: Vendor
    name: str
    found_by: str
    integrated: bool = False
    """Shares main memory with the processor."""
    memory_bytes: int = 0
    """Its own memory, where the kernel tells; 0 where it does not."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What keeps the engine from using a GPU, and the exact command that mends it."""

    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what} To mend it: {self.command}"


def gpus_in_machine(root: Path = Path("/")) -> tuple[Gpu, ...]:
    """The GPUs of this machine; virtual display adapters do not count."""
    if sys.platform == "darwin":
        return (Gpu("apple", "Apple GPU", "system", integrated=True),) if platform.machine() == "arm64" else ()
    if sys.platform == "win32":
        return _windows_gpus()
    return _linux_gpus(root)


def _linux_gpus(root: Path) -> tuple[Gpu, ...]:
    found = []
    for device in sorted(root.glob("sys/bus/pci/devices/*")):
        vendor = _VENDORS.get(_word(device / "vendor"))
        if vendor is not None and _word(device / "class").startswith("0x03"):  # PCI base class 3: display
            found.append(_pci_gpu(root, device, vendor))
    if not found and (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
        found.append(Gpu("nvidia", "NVIDIA GPU", "Windows' Linux subsystem"))
    if not found and (root / "dev/nvidia0").exists():
        found.append(Gpu("nvidia", "NVIDIA GPU", "/dev/nvidia0"))
    return tuple(found)


def _pci_gpu(root: Path, device: Path, vendor: Vendor) -> Gpu:
    slot = device.name
    number = _word(device / "device")
    name = f"{vendor.upper() if vendor != 'intel' else 'Intel'} GPU {number} in PCI slot {slot}"
    memory = _word(device / "mem_info_vram_total")  # written by the amdgpu driver only
    memory_bytes = int(memory) if memory.isdigit() else 0
    if vendor == "nvidia":
        for line in _lines(root / "proc/driver/nvidia/gpus" / slot / "information"):
            if line.startswith("Model:"):
                name = line.partition(":")[2].strip()
    integrated = slot == _INTEL_INTEGRATED_SLOT if vendor == "intel" else False
    if vendor == "amd" and memory_bytes:
        integrated = memory_bytes < _OWN_MEMORY_BYTES
    return Gpu(vendor, name, "PCI", integrated, 0 if integrated else memory_bytes)


def _windows_gpus() -> tuple[Gpu, ...]:
    """Display adapters that have a driver, from the registry's display class."""
    if sys.platform != "win32":
        return ()
    import winreg

    display_class = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
    found: dict[str, Gpu] = {}
    for index in range(32):
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, rf"{display_class}\{index:04d}") as key:
                name = str(winreg.QueryValueEx(key, "DriverDesc")[0])
        except OSError:
            continue
        gpu = _named_gpu(name)
        if gpu is not None:
            found[name] = gpu
    return tuple(found.values())


def _named_gpu(name: str) -> Gpu | None:
    """The GPU that a Windows driver's description names, or None for virtual and unknown adapters."""
    lower = name.lower()
    if "nvidia" in lower:
        return Gpu("nvidia", name, "registry")
    if "radeon" in lower or "amd" in lower:
        return Gpu("amd", name, "registry", integrated="graphics" in lower and " rx " not in lower)
    if "intel" in lower and ("arc" in lower or "graphics" in lower):
        return Gpu("intel", name, "registry", integrated="arc" not in lower)
    return None


def cuda_driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the installed NVIDIA driver runs, such as (12, 4); None without a driver.

    Source: cuDriverGetVersion of the CUDA driver API, which answers 1000 * major + 10 * minor.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
        number = ctypes.c_int(0)
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0 or number.value <= 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def installed_backends(folder: Path | None) -> tuple[Backend, ...]:
    """The backends of the installed binding, told from its libraries without loading them; empty without one.

    `folder` is the binding's `lib`; see `engine_folder` in engines.native_library.
    """
    if folder is None or not folder.is_dir():
        return ()
    names = " ".join(path.name for path in folder.iterdir())
    extra: tuple[Backend, ...] = ("cuda", "vulkan", "metal")
    return ("cpu", *(backend for backend in extra if f"ggml-{backend}" in names))


def suited_backends(gpus: Sequence[Gpu]) -> tuple[Backend, ...]:
    """Backends worth having for these GPUs, best first; "cpu" always comes last."""
    vendors = {gpu.vendor for gpu in gpus}
    own_memory = {gpu.vendor for gpu in gpus if not gpu.integrated}
    found: list[Backend] = []
    if "apple" in vendors:
        found.append("metal")
    if "nvidia" in vendors:
        found += ["cuda", "vulkan"]
    elif own_memory & {"amd", "intel"}:
        found.append("vulkan")
    return (*found, "cpu")


def advice_for(gpus: Sequence[Gpu], backends: Sequence[Backend]) -> Advice | None:
    """What to do about GPUs that the installed backends cannot use; None when there is nothing to do.

    An integrated GPU shares the processor's memory and gains little: it is named, not urged.
    """
    if not gpus or not backends or set(backends) & {"cuda", "vulkan", "metal"}:
        return None
    best = suited_backends(gpus)[0]
    names = ", ".join(gpu.name for gpu in gpus)
    if best == "cpu":
        what = f"{names} shares main memory and is not used; the installed engine has no GPU backend (seldom a loss)."
        return Advice(what, install_command("vulkan"))
    return Advice(f"{names} is not used: the installed engine has no GPU backend.", install_command(best))


def install_command(backend: Backend) -> str:
    """The command line that installs the engine with `backend` into this Python."""
    quote = shlex.quote if sys.platform != "win32" else (lambda text: f'"{text}"' if " " in text else text)
    return f"{quote(sys.executable)} -m edgemed.hardware.install_engine --backend {backend}"


def wheel_variants(backend: Backend, cuda: tuple[int, int] | None) -> tuple[str, ...]:
    """Folders of upstream's wheel index that hold `backend` for a driver that runs CUDA `cuda`."""
    if backend != "cuda":
        return (backend,)
    fitting = [version for version in _CUDA_WHEELS if cuda is not None and version <= cuda]
    return tuple(f"cu{major}{minor}" for major, minor in fitting[:1])


def cmake_flags(backend: Backend) -> str:
    """CMake options for building `backend` from source; empty for the plain build, which Macs get Metal with."""
    return {"cuda": "-DGGML_CUDA=on", "vulkan": "-DGGML_VULKAN=on"}.get(backend, "")


def build_tools_missing(backend: Backend) -> str:
    """What a build from source with `backend` still needs, in words; empty when nothing is missing."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        return {
            "linux": "a C++ compiler (Debian, Ubuntu: sudo apt install g++; Fedora: sudo dnf install gcc-c++)",
            "darwin": "a C++ compiler (xcode-select --install)",
            "win32": 'a C++ compiler ("Desktop development with C++" of the Visual Studio Build Tools)',
        }.get(sys.platform, "a C++ compiler")
    if backend == "cuda" and not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()):
        return "the CUDA toolkit (nvcc)"
    if backend == "vulkan" and not shutil.which("glslc"):
        return "the Vulkan development files (Debian, Ubuntu: sudo apt install libvulkan-dev glslc)"
    return ""


def loads(python: str = sys.executable) -> tuple[bool, str]:
    """Whether the installed engine can be loaded, in a process of its own; and the last line it said if not."""
    command = [python, "-P", "-c", "import llama_cpp.llama_cpp as native; native.llama_backend_init()"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return False, str(error)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode == 0, said[-1] if said else f"exit {done.returncode}"


def _word(path: Path) -> str:
    return " ".join(_lines(path)).strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
