"""The engine's speed on a machine of the catalog: what data sheets promise times the share that llama.cpp gets of it.

The shares come from published runs; a run's share is tokens per second times the size of the model's file over the
memory's bandwidth (decoding), or tokens per second times two operations per parameter over the peak (reading a
prompt). Read on 2026-11-21, all llama-bench unless said otherwise:
    cuda          github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference: f16 .81-.91 of bandwidth (RTX 3090, 4090,
                  4080), Q4_K_M .80 (3070), .81 (4070 Ti), .74 (4080), .61 (3090); of Torch's FP16 products
                  (github.com/zzc0721/torch-performance-test-data) f16 .91-.94, Q4_K_M .69 (4090), .86 (3090).
                  github.com/danielesalpietro/kickstart-berlin/issues/58: Q4_K_M .92 of bandwidth, 1.3 of Torch's FP16
                  (RTX 5060 Ti). github.com/AlexsJones/llmfit/pull/958: .91 (4060 Laptop, Ollama).
                  github.com/ggml-org/llama.cpp/pull/4766: Q8_0 .70 (4090).
    cuda without  kickstart-berlin: Q4_K_M .58 of bandwidth, 1.5 of the FP32 peak (GTX 1060; four 8-bit products count
                  as one operation there). One card, in a virtual machine.
    vulkan-shared github.com/brand-o/normiebench/issues/6 and 10: .5 and .8 of bandwidth, .9 of Torch's FP16 in the
                  better run (Radeon 780M).
    cuda-shared   raw.githubusercontent.com/msmcs-robotics/WayfindR-driver, docs/jetson_orin_nano_llm_benchmarks.md:
                  Q4_K_M .6 of bandwidth (Jetson Orin Nano Super, Ollama). Its share of the peak is an assumption.
    metal         GPU-Benchmarks: Q4_0 .80 (M3), Q4_K_M .73 (M1), f16 .75 (M1 Max); of the FP32 peak .65-.80.
                  llmfit/pull/1031: Q4_K_M .81, Q8_0 .94 (M2 Pro).
    cpu           x86: .68 of bandwidth, .3 of the FP32 peak (llama.cpp/issues/34, an i9-13900K in 2023). Arm: Q4_K_M
                  .53-.60 (geerlingguy/ai-benchmarks/issues/7, a Raspberry Pi 5, Ollama).
Bandwidths and peaks of the cards that are not in the catalog, and sizes of Ollama's files, are remembered.
What stands between these points, and every overhead below, are assumptions. Hence the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgemed.core.records import Basis, Figure, NotAvailable
from edgemed.engines.pinned import ENGINE_PACKAGE, ENGINE_VERSION
from edgemed.hardware.record import AttentionSpeed, DeviceSpeed, EngineSpeed, FormatSpeed, Link
from edgemed.hardware.reference_machine import DeviceClass, ListedFigure, ListedGpu, ReferenceMachine

SPREAD = 0.3
"""What a paper speed may be off, either way."""


@dataclass(frozen=True, slots=True)
class _Share:
    """What llama.cpp gets of a data sheet's figures on one class of devices."""

    read: Mapping[str, float]
    """Of memory bandwidth while decoding, by format."""
    compute: Mapping[str, float]
    """Of the peak while reading 512 tokens, by format."""
    chunk: int
    """Tokens of one step of a prompt, as the engine is told."""
    short: float
    """Of that while reading 64 tokens."""
    kv_read: float
    """Of bandwidth while attention reads keys and values."""
    attention: float
    """Of the peak while attention looks at earlier tokens of a prompt."""
    layer_s: float
    """Overhead of each layer and step."""
    token_s: float
    """Overhead of each step."""


def _by_format(f16: float, q8_0: float, q6_k: float, q5_k: float, q4_k: float, iq4_nl: float) -> dict[str, float]:
    return {"f16": f16, "q8_0": q8_0, "q6_k": q6_k, "q5_k": q5_k, "q4_k": q4_k, "iq4_nl": iq4_nl}


# A processor's: of the order that `edgemed profile` found on two cores of an EPYC. A card's: assumptions.
_ON_GPU: Mapping[str, float] = {"short": 0.55, "kv_read": 0.6, "attention": 0.3, "layer_s": 30e-6, "token_s": 3e-4}
_ON_CPU: Mapping[str, float] = {"short": 0.9, "kv_read": 0.3, "attention": 0.2, "layer_s": 10e-6, "token_s": 5e-5}

SHARES: Mapping[DeviceClass, _Share] = {
    "cuda": _Share(
        _by_format(0.85, 0.82, 0.80, 0.80, 0.82, 0.80), _by_format(0.90, 0.90, 0.85, 0.85, 0.90, 0.85), 512, **_ON_GPU
    ),
    "cuda-without-tensor-cores": _Share(
        _by_format(0.70, 0.70, 0.58, 0.58, 0.58, 0.58), _by_format(0.70, 1.40, 1.20, 1.20, 1.40, 1.20), 512, **_ON_GPU
    ),
    "cuda-shared": _Share(
        _by_format(0.75, 0.72, 0.65, 0.65, 0.65, 0.65), _by_format(0.60, 0.60, 0.60, 0.60, 0.60, 0.60), 512, **_ON_GPU
    ),
    "metal": _Share(
        _by_format(0.78, 0.85, 0.75, 0.75, 0.78, 0.72), _by_format(0.78, 0.68, 0.60, 0.60, 0.65, 0.62), 512, **_ON_GPU
    ),
    "vulkan-shared": _Share(
        _by_format(0.75, 0.75, 0.70, 0.70, 0.72, 0.68), _by_format(0.90, 0.85, 0.80, 0.80, 0.85, 0.80), 512, **_ON_GPU
    ),
    "cpu-x86_64": _Share(
        _by_format(0.75, 0.72, 0.65, 0.60, 0.65, 0.65), _by_format(0.40, 0.45, 0.35, 0.35, 0.40, 0.40), 128, **_ON_CPU
    ),
    "cpu-arm64": _Share(
        _by_format(0.62, 0.62, 0.57, 0.55, 0.57, 0.57), _by_format(0.45, 0.50, 0.40, 0.40, 0.50, 0.50), 128, **_ON_CPU
    ),
}

_NO_ENERGY = NotAvailable(reason="no data sheet tells the energy of a token")
_NO_OPERATIONS = NotAvailable(reason="no data sheet tells it: all is in what is read")
_NO_HEAT = NotAvailable(reason="no data sheet tells what heat and power limits leave after a minute")
_NO_BUS = NotAvailable(reason="it shares main memory: nothing is copied over a bus")


def speed_of(machine: ReferenceMachine) -> EngineSpeed:
    """How fast the engine should be on this machine, every figure with its interval of 30 % either way."""
    cpu, gpu = machine.cpu, machine.gpu
    readable = cpu.bandwidth or machine.memory.bandwidth
    devices = [_device(machine, "CPU", SHARES[cpu.device_class], readable, cpu.fp32)]
    if gpu is not None:
        peak = gpu.fp16_matrix or gpu.fp32
        devices.append(_device(machine, gpu.engine_name, SHARES[gpu.efficiency], gpu.bandwidth, peak))
    return EngineSpeed(
        engine=engine_name(machine),
        n_threads=round((cpu.performance_cores or cpu.physical_cores).value),
        n_threads_batch=round(cpu.physical_cores.value),
        threads=(),
        devices=tuple(devices),
        links=(_link(machine, gpu),) if gpu is not None else (),
        load_average=NotAvailable(reason="nothing was measured"),
        noisy=False,
    )


def engine_name(machine: ReferenceMachine) -> str:
    """The engine that one would install there."""
    backends = "cpu" if machine.gpu is None else f"cpu, {machine.gpu.backend}"
    return f"llama.cpp ({ENGINE_PACKAGE} {ENGINE_VERSION}; {backends})"


def _device(
    machine: ReferenceMachine, name: str, share: _Share, bandwidth: ListedFigure, peak: ListedFigure
) -> DeviceSpeed:
    def of(listed: ListedFigure, part: float) -> Figure:
        return _share_of(machine, listed, part)

    formats = [
        FormatSpeed(
            format=format_name,
            read=of(bandwidth, part),
            compute_64=of(peak, share.compute[format_name] * share.short),
            compute_512=of(peak, share.compute[format_name]),
            chunk=share.chunk,
        )
        for format_name, part in share.read.items()
    ]
    kv_read, prefill = of(bandwidth, share.kv_read), of(peak, share.attention)
    return DeviceSpeed(
        device=name,
        formats=tuple(formats),
        layer_overhead=_guess(share.layer_s, "s", "the start of about ten operations"),
        token_overhead=_guess(share.token_s, "s", "graph, head's rest and sampling"),
        kv_read=kv_read,
        attention_compute=prefill,
        attention=tuple(
            AttentionSpeed(kv_type=kv_type, read=kv_read, decode=_NO_OPERATIONS, prefill=prefill)
            for kv_type in ("f16", "q8_0")
        ),
        energy=_NO_ENERGY,
        sustained=_NO_HEAT,
    )


def _link(machine: ReferenceMachine, gpu: ListedGpu) -> Link:
    copy = _share_of(machine, gpu.link, 0.8) if gpu.link is not None else _NO_BUS
    return Link(
        device=gpu.engine_name,
        to_device=copy,
        from_device=copy,
        crossing=_guess(5e-5, "s", "a copy of one token's activations and a wait for it"),
        context_overhead=machine.figure(gpu.context_overhead),
    )


def _share_of(machine: ReferenceMachine, listed: ListedFigure, part: float) -> Figure:
    whole = machine.figure(listed)
    basis: Basis = "assumed" if whole.basis == "assumed" else "datasheet"
    return _with_spread(
        whole.value * part, whole.unit, basis, f"{part:.2g} of {listed.value:g} {listed.unit}: {whole.note}"
    )


def _guess(value: float, unit: str, note: str) -> Figure:
    return _with_spread(value, unit, "assumed", note)


def _with_spread(value: float, unit: str, basis: Basis, note: str) -> Figure:
    return Figure(value=value, unit=unit, basis=basis, low=value * (1 - SPREAD), high=value * (1 + SPREAD), note=note)
