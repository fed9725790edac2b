"""Reads the graphics processors of this machine, through NVML where there is NVIDIA's driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.hardware.binding import Gpu, gpus_in_machine
from edgemed.hardware.record import GpuProfile, MaybeText, TextFact, bytes_figure

T = TypeVar("T")


def read_gpus() -> tuple[tuple[GpuProfile, ...], str]:
    """The GPUs of this machine, and why NVML could not be read (empty when it could)."""
    from_nvml, reason = _read_nvml()
    seen = gpus_in_machine()
    others = [gpu for gpu in seen if gpu.vendor != "nvidia" or not from_nvml]
    return (*from_nvml, *(_without_figures(gpu, reason) for gpu in others)), reason


def _without_figures(gpu: Gpu, nvml_reason: str) -> GpuProfile:
    why = nvml_reason if gpu.vendor == "nvidia" else "no vendor-neutral way to read it; see the engine's device list"
    nothing = NotAvailable(reason=why)
    return GpuProfile(
        name=gpu.name,
        vendor=gpu.vendor,
        found_by=gpu.found_by,
        memory_total=bytes_figure(gpu.memory_bytes) if gpu.memory_bytes else nothing,
        memory_free=nothing,
        temperature=nothing,
        driver=NotAvailable(reason=why),
    )


def _read_nvml() -> tuple[tuple[GpuProfile, ...], str]:
    try:
        import pynvml
    except ImportError:
        return (), "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"NVML: {error}"
    try:
        count = pynvml.nvmlDeviceGetCount()
        driver = _attempt(lambda: TextFact(value=_text(pynvml.nvmlSystemGetDriverVersion())))
        return tuple(_nvml_gpu(pynvml, index, driver) for index in range(count)), ""
    except pynvml.NVMLError as error:
        return (), f"NVML: {error}"
    finally:
        pynvml.nvmlShutdown()


def _nvml_gpu(nvml: Any, index: int, driver: MaybeText) -> GpuProfile:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return GpuProfile(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        vendor="nvidia",
        found_by="NVML",
        memory_total=_attempt(lambda: bytes_figure(nvml.nvmlDeviceGetMemoryInfo(handle).total)),
        memory_free=_attempt(lambda: bytes_figure(nvml.nvmlDeviceGetMemoryInfo(handle).free)),
        temperature=_attempt(lambda: _degrees(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        driver=driver,
    )


def _attempt(read: Callable[[], T]) -> T | NotAvailable:
    """What `read` gives, or the driver's reason: each figure may be unsupported on its own."""
    import pynvml

    try:
        return read()
    except pynvml.NVMLError as error:
        return NotAvailable(reason=f"NVML: {error}")


def _degrees(value: float) -> MaybeFigure:
    return Figure(value=value, unit="degC", basis="measured")


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
