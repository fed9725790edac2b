"""NVIDIA's figures are read one by one; one that the driver refuses does not hide the others."""

import sys
from types import SimpleNamespace

import pytest

from edgemed.core.records import Figure, NotAvailable
from edgemed.core.units import GIB
from edgemed.hardware import gpu
from edgemed.hardware.binding import Gpu
from edgemed.hardware.record import TextFact


class NVMLError(Exception):
    """NVML's own error."""


def refuse(*args: object) -> None:
    raise NVMLError("Not Supported")


class FakeNvml(SimpleNamespace):
    """Two cards, as nvidia-ml-py shows them; the second knows no temperature and its name as bytes."""

    def __init__(self) -> None:
        super().__init__(
            NVMLError=NVMLError,
            NVML_TEMPERATURE_GPU=0,
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: 2,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlSystemGetDriverVersion=lambda: "550.54",
            nvmlDeviceGetName=lambda handle: ("RTX 4060", b"RTX 3050")[handle],
            nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=8 * GIB, free=6 * GIB),
            nvmlDeviceGetTemperature=lambda handle, sensor: 51 if handle == 0 else refuse(),
        )


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu, "gpus_in_machine", lambda: (Gpu("nvidia", "NVIDIA GPU", "PCI"),))
    return fake


def test_every_card_is_read_with_its_figures(nvml: FakeNvml) -> None:
    (first, second), reason = gpu.read_gpus()
    assert reason == ""
    assert (first.name, second.name) == ("RTX 4060", "RTX 3050")
    assert first.driver == TextFact(value="550.54")
    assert isinstance(first.memory_free, Figure)
    assert first.memory_free.value == 6 * GIB
    assert isinstance(first.temperature, Figure)
    assert second.temperature == NotAvailable(reason="NVML: Not Supported")
    assert isinstance(second.memory_total, Figure)


def test_a_card_whose_driver_is_absent_is_still_listed(nvml: FakeNvml) -> None:
    nvml.nvmlInit = refuse
    (seen,), reason = gpu.read_gpus()
    assert seen.name == "NVIDIA GPU"
    assert reason == "NVML: Not Supported"
    assert seen.memory_total == NotAvailable(reason="NVML: Not Supported")


def test_a_card_that_fails_midway_is_no_traceback(nvml: FakeNvml) -> None:
    nvml.nvmlDeviceGetHandleByIndex = refuse
    _, reason = gpu.read_gpus()
    assert reason == "NVML: Not Supported"


def test_cards_of_two_makers_are_both_listed(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    both = (Gpu("intel", "Intel GPU", "PCI", integrated=True), Gpu("nvidia", "NVIDIA GPU", "PCI"))
    monkeypatch.setattr(gpu, "gpus_in_machine", lambda: both)
    found, _ = gpu.read_gpus()
    assert [card.vendor for card in found] == ["nvidia", "nvidia", "intel"]


def test_without_the_package_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpu, "gpus_in_machine", lambda: (Gpu("amd", "AMD GPU", "PCI", memory_bytes=8 * GIB),))
    (card,), reason = gpu.read_gpus()
    assert "nvidia-ml-py is not installed" in reason
    assert isinstance(card.memory_total, Figure)
    assert isinstance(card.memory_free, NotAvailable)
