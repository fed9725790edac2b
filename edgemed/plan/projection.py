"""Asks the engine what it would allocate, without loading a model: exact, and in about a second for 7B.

llama.cpp's `no_alloc` builds model, KV cache and graphs and only adds up their sizes; no weight is read, so a
file that holds nothing but its header (sparse, of the right length) is enough. The sizes come from
`llama_get_memory_breakdown`, a C++ function that returns a std::map: its layout is read by hand, for GNU's
library and the pinned version only, and what comes out is checked for sanity. Everything happens in a child
process: what goes wrong there is a ProjectionFailed here, and the formula of `memory.py` takes over.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.engines.base import EngineConfig
from edgemed.hardware.binding import ENGINE_VERSION
from edgemed.hardware.engine_devices import engine_version, load_ggml
from edgemed.plan.record import RAM

_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_BUFFER_TYPES = 64
_MOST_BYTES = 1 << 50
_TIMEOUT_S = 120.0
_DEVICE_CPU, _DEVICE_ACCELERATOR = 0, 3
"""enum ggml_backend_dev_type, ggml-backend.h; both work in main memory."""


class ProjectionFailed(Exception):
    """The engine could not be asked, or its answer made no sense; the message says which."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the engine takes in one place, in bytes."""

    weights: int = 0
    kv_cache: int = 0
    compute: int = 0

    def __add__(self, other: Sizes) -> Sizes:
        return Sizes(self.weights + other.weights, self.kv_cache + other.kv_cache, self.compute + other.compute)


@dataclass(frozen=True, slots=True)
class Projection:
    """The engine's answer for one configuration."""

    places: dict[str, Sizes]
    """By place: "RAM", "CUDA0"."""
    process_bytes: int
    """Resident memory of a process with the library, the vocabulary and no weights; 0 where it cannot be read."""


def project(configs: Sequence[EngineConfig]) -> list[Projection | None]:
    """What the engine would allocate for each configuration; None for one that it refuses.

    All configurations are of the same model. Raises ProjectionFailed.
    """
    if engine_version() != ENGINE_VERSION:
        raise ProjectionFailed(f"it needs llama-cpp-python {ENGINE_VERSION}; {engine_version() or 'none'} is installed")
    if not sys.platform.startswith("linux"):
        raise ProjectionFailed("the engine's answer has a known layout on Linux only")
    question = json.dumps([config.model_dump(mode="json") for config in configs])
    command = [sys.executable, "-P", "-m", "edgemed.plan.projection"]
    try:
        done = subprocess.run(command, input=question.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProjectionFailed(f"the engine did not answer within {_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise ProjectionFailed(f"the engine's process ended with {done.returncode}: {said[0]}")
    return parse_answer(done.stdout, len(configs))


def parse_answer(text: bytes, expected: int) -> list[Projection | None]:
    """The child's answer as projections. Raises ProjectionFailed when it makes no sense."""
    try:
        answer = json.loads(text)
        process_bytes = int(answer["process_bytes"])
        found = [_projection(entry, process_bytes) for entry in answer["projections"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectionFailed(f"the engine's answer could not be read: {error}") from error
    if len(found) != expected:
        raise ProjectionFailed(f"{len(found)} answers came for {expected} questions")
    return found


def _projection(entry: dict[str, list[int]] | None, process_bytes: int) -> Projection | None:
    if entry is None:
        return None
    places = {place: Sizes(*(int(n_bytes) for n_bytes in sizes)) for place, sizes in entry.items()}
    for sizes in places.values():
        if not all(0 <= n_bytes < _MOST_BYTES for n_bytes in (sizes.weights, sizes.kv_cache, sizes.compute)):
            raise ValueError(f"sizes out of range: {sizes}")
    return Projection(places, process_bytes)


def main() -> None:
    """Answer the questions of stdin on stdout; the body of the child process."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # the engine and its drivers print; the answer must stay alone on stdout
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    configs = [EngineConfig.model_validate(entry) for entry in json.loads(sys.stdin.read())]
    from edgemed.engines.llama_cpp import load_api

    api = load_api()
    api.llama_backend_init()
    found = list(_project_all(api, configs))
    content = {"projections": found, "process_bytes": _resident_bytes()}
    os.write(answer_to, json.dumps(content).encode())
    os._exit(0)  # some drivers crash while they unload; the answer is out


def _project_all(api: Any, configs: Sequence[EngineConfig]) -> Iterator[dict[str, list[int]] | None]:
    """One answer per configuration; neighbours with the same layers share one look at the file."""
    from edgemed.engines.llama_cpp import context_parameters, model_parameters

    reader = _BreakdownReader(api)
    model, loaded = None, None
    for config in configs:
        if loaded != config.n_gpu_layers:
            parameters = model_parameters(api, config)
            parameters.no_alloc = True
            parameters.load_mode = api.LLAMA_LOAD_MODE_NONE  # mapping would count the file's pages as no memory
            model = api.llama_model_load_from_file(os.fsencode(config.model_path), parameters)
            loaded = config.n_gpu_layers
        if not model:
            yield None
            continue
        context = api.llama_init_from_model(model, context_parameters(api, config))
        yield reader.read(context) if context else None
        if context:
            api.llama_free(context)


class _StdMap(ctypes.Structure):
    """GNU's std::map by value: compare, then a node header (colour, root, leftmost, rightmost), then the count."""

    _fields_ = (
        ("compare", ctypes.c_uint64),
        ("colour", ctypes.c_uint64),
        ("root", ctypes.c_uint64),
        ("leftmost", ctypes.c_uint64),
        ("rightmost", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    )


class _Node(ctypes.Structure):
    """One node of it: the red-black links, then the key and llama_memory_breakdown_data (llama-ext.h)."""

    _fields_ = (
        ("colour", ctypes.c_uint64),
        ("parent", ctypes.c_uint64),
        ("left", ctypes.c_uint64),
        ("right", ctypes.c_uint64),
        ("buffer_type", ctypes.c_uint64),
        ("model", ctypes.c_uint64),
        ("context", ctypes.c_uint64),
        ("compute", ctypes.c_uint64),
    )


class _BreakdownReader:
    """Reads a context's memory by place."""

    def __init__(self, api: Any) -> None:
        self._breakdown = getattr(api._lib, _BREAKDOWN)
        self._breakdown.argtypes, self._breakdown.restype = [ctypes.c_void_p], _StdMap
        self._ggml = load_ggml(Path(api.__file__).parent / "lib", "ggml-base")
        for name, result in (
            ("ggml_backend_buft_is_host", ctypes.c_bool),
            ("ggml_backend_buft_get_device", ctypes.c_void_p),
            ("ggml_backend_dev_type", ctypes.c_int),
            ("ggml_backend_dev_name", ctypes.c_char_p),
        ):
            function = getattr(self._ggml, name)
            function.argtypes, function.restype = [ctypes.c_void_p], result

    def read(self, context: Any) -> dict[str, list[int]]:
        """Bytes of weights, KV cache and compute buffers, by place. Raises ValueError on a strange tree."""
        tree = self._breakdown(context)
        if not 0 < tree.count <= _MOST_BUFFER_TYPES:
            raise ValueError(f"{tree.count} kinds of buffers")
        nodes = list(_walk(tree.root, tree.count))
        if len(nodes) != tree.count:
            raise ValueError(f"{len(nodes)} nodes in a tree of {tree.count}")
        places: dict[str, list[int]] = {}
        for node in nodes:
            sizes = places.setdefault(self._place(node.buffer_type), [0, 0, 0])
            for index, n_bytes in enumerate((node.model, node.context, node.compute)):
                sizes[index] += n_bytes
        return {place: sizes for place, sizes in places.items() if any(sizes) or place == RAM}

    def _place(self, buffer_type: int) -> str:
        """The device whose memory a kind of buffer takes; pinned host buffers of a GPU are main memory."""
        device = self._ggml.ggml_backend_buft_get_device(buffer_type)
        if not device or self._ggml.ggml_backend_buft_is_host(buffer_type):
            return RAM
        if self._ggml.ggml_backend_dev_type(device) in (_DEVICE_CPU, _DEVICE_ACCELERATOR):
            return RAM
        return str(self._ggml.ggml_backend_dev_name(device).decode(errors="replace"))


def _walk(address: int, most: int) -> Iterator[_Node]:
    """Every node below `address`, in order; never more than `most` levels deep."""
    if not address:
        return
    if most <= 0:
        raise ValueError("the tree has no end")
    node = _Node.from_address(address)
    yield from _walk(node.left, most - 1)
    yield node
    yield from _walk(node.right, most - 1)


def _resident_bytes() -> int:
    """Largest resident memory that this process has had; 0 where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


if __name__ == "__main__":
    main()
