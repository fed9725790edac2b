"""Measures what a device beside the CPU costs: copying, changing sides within a step, the driver's own memory."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemed.core.records import MaybeFigure, NotAvailable
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.core.units import MIB
from edgemed.engines.base import TensorPlace
from edgemed.engines.native_library import DeviceList, load_ggml, start_backends
from edgemed.engines.stopwatch import Loaded, Measurement
from edgemed.hardware.device_speed import THIN, Target
from edgemed.hardware.energy import gpu_free_bytes
from edgemed.hardware.record import Link, bytes_figure
from edgemed.hardware.workshop import Run, Workshop

_COPY_BYTES = 64 * MIB
_COPIES = 5
_TIMEOUT_S = 60.0
_LAYERS = 8


def measure_link(shop: Workshop, target: Target) -> Link:
    """Everything about one device's link. Takes about three seconds."""
    to_device, from_device = _copies(shop, target.device)
    return Link(
        device=target.device,
        to_device=to_device,
        from_device=from_device,
        crossing=_crossing(shop, target),
        context_overhead=_context_overhead(shop, target),
    )


def _crossing(shop: Workshop, target: Target) -> MaybeFigure:
    """Seconds for each change of side, from thin layers whose feed-forward lies on the CPU."""
    wanted = [Measurement(prompt_tokens=1, answer_tokens=16, repetitions=5)]
    with shop.model(replace(THIN, n_layers=_LAYERS), "q8_0") as (path, _):
        config = target.config(path, 256)
        whole = shop.time(config, wanted)
        aside = (TensorPlace(pattern=r"\.ffn_(gate|up|down)\.", device="CPU"),)
        split = shop.time(config.model_copy(update={"tensor_places": aside}), wanted)
    if isinstance(whole, NotAvailable):
        return whole
    if isinstance(split, NotAvailable):
        return split
    base = min(whole[0].step_s)
    changes = 2 * _LAYERS
    seconds = [max(0.0, step - base) / changes for step in split[0].step_s]
    return shop.seconds(seconds, "there or back, the CPU's start of work included")


def _context_overhead(shop: Workshop, target: Target) -> MaybeFigure:
    """What the driver takes when a process begins to use the device, by the driver's account less the engine's."""
    before = gpu_free_bytes(target.device)
    if before is None:
        return NotAvailable(reason=f"no driver tells how much memory of {target.device} is free")

    def read(run: Run, loaded: Loaded) -> int:
        run(Measurement(prompt_tokens=64, answer_tokens=2, repetitions=1))  # kernels are loaded with the first step
        used = before - (gpu_free_bytes(target.device) or before)
        return used - sum(loaded.memory.get(target.device, (0, 0, 0)))

    with shop.model(replace(THIN, n_layers=2), "q8_0") as (path, _):
        found = shop.use(target.config(path, 256), read)
    if isinstance(found, NotAvailable):
        return found
    if found <= 0:
        return NotAvailable(reason="other programs gave memory back while it was measured")
    return bytes_figure(found, note="driver and context of one process with a small model")


def _copies(shop: Workshop, device: str) -> tuple[MaybeFigure, MaybeFigure]:
    """Bytes per second to the device and back, by the engine's own copying, in a process of its own."""
    body = "import sys; sys.path[:] = {path!r}; from edgemed.hardware.link import main; main()"
    command = [sys.executable, "-P", "-c", body.format(path=[entry for entry in sys.path if entry]), device]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = NotAvailable(reason=f"copying could not be timed: {error}")
        return failed, failed
    try:
        answer: dict[str, list[float]] = json.loads(done.stdout)
        there, back = answer["to"], answer["from"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        failed = NotAvailable(reason=f"copying could not be timed (exit {done.returncode}): {said[0]}")
        return failed, failed
    note = f"{_COPY_BYTES // MIB} MiB from ordinary memory"
    speeds = ([_COPY_BYTES / seconds for seconds in direction] for direction in (there, back))
    to_device, from_device = (shop.speed(speed, "B/s", note) for speed in speeds)
    return to_device, from_device


def main() -> None:
    """The body of the process: copies a block to the device that the last argument names, and back."""
    answers = os.dup(1)
    os.dup2(2, 1)  # drivers print; the answer must stay alone on stdout
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    start_backends(api)
    found = _time_copies(api, sys.argv[-1])
    os.write(answers, json.dumps(found).encode() + b"\n")
    os._exit(0)  # some drivers crash while they unload; the answer is out


class _InitParams(ctypes.Structure):
    """struct ggml_init_params, ggml.h."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _time_copies(api: Any, device: str) -> dict[str, list[float]]:
    """Seconds of each copy; the first one, which sets up the device, is not counted."""
    base = load_ggml(Path(api.__file__).parent / "lib", "ggml-base")
    _declare(base)
    buffer_type = DeviceList(api).buffer_type(device)
    context = base.ggml_init(_InitParams(1 << 16, None, no_alloc=True))
    tensor = base.ggml_new_tensor_1d(context, 24, _COPY_BYTES)  # GGML_TYPE_I8
    if not base.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type):
        raise SystemExit(f"{device} has no {_COPY_BYTES} bytes free")
    block = ctypes.create_string_buffer(_COPY_BYTES)
    found: dict[str, list[float]] = {"to": [], "from": []}
    for _ in range(_COPIES + 1):
        for name, copy in (("to", base.ggml_backend_tensor_set), ("from", base.ggml_backend_tensor_get)):
            began = time.perf_counter()
            copy(tensor, block, 0, _COPY_BYTES)
            found[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in found.items()}


def _declare(base: ctypes.CDLL) -> None:
    """Signatures of ggml.h, ggml-alloc.h and ggml-backend.h."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    base.ggml_init.argtypes, base.ggml_init.restype = [_InitParams], pointer
    base.ggml_new_tensor_1d.argtypes, base.ggml_new_tensor_1d.restype = [pointer, ctypes.c_int, ctypes.c_int64], pointer
    base.ggml_backend_alloc_ctx_tensors_from_buft.argtypes = [pointer, pointer]
    base.ggml_backend_alloc_ctx_tensors_from_buft.restype = pointer
    for function in (base.ggml_backend_tensor_set, base.ggml_backend_tensor_get):
        function.argtypes, function.restype = [pointer, pointer, size, size], None
