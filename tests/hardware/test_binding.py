"""A GPU that the engine cannot use is seen, and the command that mends it is exact."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgemed.engines.pinned import ENGINE_PACKAGE, ENGINE_VERSION
from edgemed.hardware import binding
from edgemed.hardware.binding import (
    Gpu,
    advice_for,
    gpus_in_machine,
    install_command,
    installed_backends,
    suited_backends,
    wheel_variants,
)

ROOT = Path(__file__).parents[2]
NVIDIA = Gpu("nvidia", "NVIDIA GeForce RTX 4060", "PCI")
RADEON = Gpu("amd", "AMD GPU", "PCI", memory_bytes=8 * 1024**3)
IRIS = Gpu("intel", "Intel GPU", "PCI", integrated=True)
APPLE = Gpu("apple", "Apple GPU", "system", integrated=True)

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /sys as Linux writes it")


def pci_device(root: Path, slot: str, vendor: str, kind: str = "0x030000", **files: str) -> None:
    """A device as /sys/bus/pci shows it."""
    folder = root / "sys/bus/pci/devices" / slot
    folder.mkdir(parents=True)
    for name, content in {"vendor": vendor, "class": kind, "device": "0x1234", **files}.items():
        (folder / name).write_text(content + "\n")


@linux_only
def test_an_nvidia_card_is_named_by_its_driver(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:01:00.0", "0x10de", "0x030200")
    information = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA GeForce RTX 4060\nIRQ:   \t\t 42\n")
    assert gpus_in_machine(tmp_path) == (NVIDIA,)


@linux_only
def test_a_card_without_driver_is_still_seen(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:01:00.0", "0x10de")
    (found,) = gpus_in_machine(tmp_path)
    assert found.vendor == "nvidia"
    assert "0000:01:00.0" in found.name


@linux_only
def test_graphics_that_share_main_memory_are_told_apart(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:02.0", "0x8086")
    pci_device(tmp_path, "0000:03:00.0", "0x8086")
    pci_device(tmp_path, "0000:04:00.0", "0x1002", mem_info_vram_total=str(512 * 1024**2))
    pci_device(tmp_path, "0000:05:00.0", "0x1002", mem_info_vram_total=str(8 * 1024**3))
    assert [gpu.integrated for gpu in gpus_in_machine(tmp_path)] == [True, False, True, False]


@linux_only
def test_virtual_adapters_and_other_devices_do_not_count(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:01.0", "0x1234")  # an emulator's display
    pci_device(tmp_path, "0000:00:1f.3", "0x8086", "0x040300")  # sound
    pci_device(tmp_path, "0000:00:03.0", "0x10de", "0x020000")  # a network card of NVIDIA's
    assert gpus_in_machine(tmp_path) == ()


@linux_only
def test_a_gpu_lent_to_a_container_or_to_windows_linux_is_seen(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert gpus_in_machine(tmp_path)[0].vendor == "nvidia"
    library = tmp_path / "other/usr/lib/wsl/lib/libcuda.so.1"
    library.parent.mkdir(parents=True)
    library.touch()
    assert gpus_in_machine(tmp_path / "other")[0].vendor == "nvidia"


@pytest.mark.parametrize(
    ("name", "vendor", "integrated"),
    [
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "nvidia", False),
        ("AMD Radeon RX 7600", "amd", False),
        ("AMD Radeon(TM) Graphics", "amd", True),
        ("Intel(R) Iris(R) Xe Graphics", "intel", True),
        ("Intel(R) Arc(TM) A770 Graphics", "intel", False),
    ],
)
def test_windows_names_are_understood(name: str, vendor: str, integrated: bool) -> None:
    gpu = binding._named_gpu(name)
    assert gpu is not None
    assert (gpu.vendor, gpu.integrated) == (vendor, integrated)


@pytest.mark.parametrize("name", ["Microsoft Basic Display Adapter", "Microsoft Hyper-V Video", "Citrix Display"])
def test_windows_adapters_without_a_gpu_are_ignored(name: str) -> None:
    assert binding._named_gpu(name) is None


@pytest.mark.parametrize(
    ("gpus", "backends"),
    [
        ((), ("cpu",)),
        ((NVIDIA,), ("cuda", "vulkan", "cpu")),
        ((IRIS, NVIDIA), ("cuda", "vulkan", "cpu")),
        ((RADEON,), ("vulkan", "cpu")),
        ((IRIS,), ("cpu",)),
        ((APPLE,), ("metal", "cpu")),
    ],
)
def test_the_best_backend_for_the_gpus_comes_first(gpus: tuple[Gpu, ...], backends: tuple[str, ...]) -> None:
    assert suited_backends(gpus) == backends


@pytest.mark.parametrize(
    ("driver", "variants"),
    [
        ((13, 2), ("cu132",)),
        ((12, 8), ("cu125",)),
        ((12, 1), ("cu121",)),
        ((12, 0), ("cu118",)),
        ((11, 4), ()),
        (None, ()),
    ],
)
def test_a_cuda_wheel_is_never_newer_than_the_driver(driver: tuple[int, int] | None, variants: tuple[str, ...]) -> None:
    assert wheel_variants("cuda", driver) == variants


def test_other_backends_have_one_wheel_folder() -> None:
    assert [wheel_variants(backend, None) for backend in ("cpu", "vulkan", "metal")] == [
        ("cpu",),
        ("vulkan",),
        ("metal",),
    ]


@pytest.mark.parametrize(("gpu", "backend"), [(NVIDIA, "cuda"), (RADEON, "vulkan"), (APPLE, "metal"), (IRIS, "vulkan")])
def test_an_engine_without_gpu_backend_is_named_with_the_command(gpu: Gpu, backend: str) -> None:
    advice = advice_for([gpu], ["cpu"])
    assert advice is not None
    assert gpu.name in advice.what
    assert advice.command == f"{sys.executable} -m edgemed.hardware.install_engine --backend {backend}"
    assert advice.command in str(advice)


def test_there_is_nothing_to_mend_where_the_backend_is_or_no_gpu_is() -> None:
    assert advice_for([NVIDIA], ["cpu", "cuda"]) is None
    assert advice_for([NVIDIA], ["cpu", "vulkan"]) is None
    assert advice_for([], ["cpu"]) is None
    assert advice_for([NVIDIA], []) is None  # no engine at all is another message


def test_the_command_quotes_a_path_with_a_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/home/a b/python")
    assert install_command("cpu").startswith("'/home/a b/python' ")


def test_backends_are_told_from_the_libraries(tmp_path: Path) -> None:
    for name in ("libggml-base.so.0", "libggml-cpu.so", "libggml-cuda.so", "libllama.so"):
        (tmp_path / name).touch()
    assert installed_backends(tmp_path) == ("cpu", "cuda")
    assert installed_backends(tmp_path / "absent") == ()
    assert installed_backends(None) == ()


def test_the_pin_is_the_one_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"{ENGINE_PACKAGE}=={ENGINE_VERSION}" in extras["llama-cpp"]


def test_the_installer_needs_only_the_standard_library() -> None:
    check = (
        "import sys, edgemed.hardware.install_engine\n"
        "known = sys.stdlib_module_names | {'edgemed'}\n"
        "foreign = {name.partition('.')[0] for name in sys.modules} - known - set(sys.builtin_module_names)\n"
        "print(sorted(name for name in foreign if not name.startswith('_') and name != 'sitecustomize'))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
