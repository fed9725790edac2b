"""Asks llama.cpp for the memory that one context takes, by place.

The sizes come from `llama_get_memory_breakdown`, a C++ function that returns a std::map: its layout is read by hand,
for GNU's library and the pinned version only, and what comes out is checked for sanity.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from edgemed.engines.native_library import load_ggml
from edgemed.engines.pinned import ENGINE_VERSION, installed_version

RAM = "RAM"
"""The place that is main memory; every other place is named as the engine names its device."""
_BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_BUFFER_TYPES = 64
_DEVICE_CPU, _DEVICE_ACCELERATOR = 0, 3
"""enum ggml_backend_dev_type, ggml-backend.h; both work in main memory."""


class Sizes(NamedTuple):
    """What the engine takes in one place, in bytes."""

    weights: int = 0
    kv_cache: int = 0
    compute: int = 0

    def plus(self, other: Sizes) -> Sizes:
        """Both together."""
        return Sizes(self.weights + other.weights, self.kv_cache + other.kv_cache, self.compute + other.compute)


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


class BreakdownReader:
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
            ("ggml_backend_buft_name", ctypes.c_char_p),
        ):
            function = getattr(self._ggml, name)
            function.argtypes, function.restype = [ctypes.c_void_p], result

    def read(self, context: Any) -> dict[str, Sizes]:
        """Bytes by place. Raises ValueError on a strange tree."""
        places: dict[str, Sizes] = {}
        for node in self._nodes(context):
            place = self._place(node.buffer_type)
            places[place] = places.get(place, Sizes()).plus(Sizes(node.model, node.context, node.compute))
        return {place: sizes for place, sizes in places.items() if any(sizes) or place == RAM}

    def repacked_bytes(self, context: Any) -> int:
        """Bytes of weights in main memory in an order of their kernels' own, which cannot be a mapped file's pages.

        Raises ValueError on a strange tree.
        """
        return sum(node.model for node in self._nodes(context) if self._is_repacked(node.buffer_type))

    def _nodes(self, context: Any) -> list[_Node]:
        tree = self._breakdown(context)
        if not 0 < tree.count <= _MOST_BUFFER_TYPES:
            raise ValueError(f"{tree.count} kinds of buffers")
        nodes = list(_walk(tree.root, tree.count))
        if len(nodes) != tree.count:
            raise ValueError(f"{len(nodes)} nodes in a tree of {tree.count}")
        return nodes

    def _is_repacked(self, buffer_type: int) -> bool:
        """Buffers of the CPU that are not plain memory: CPU_REPACK, AMX, CPU_KLEIDIAI."""
        device = self._ggml.ggml_backend_buft_get_device(buffer_type)
        if not device or self._ggml.ggml_backend_dev_type(device) != _DEVICE_CPU:
            return False
        return not self._ggml.ggml_backend_buft_is_host(buffer_type)

    def _place(self, buffer_type: int) -> str:
        """The device whose memory a kind of buffer takes; pinned host buffers of a GPU are main memory."""
        device = self._ggml.ggml_backend_buft_get_device(buffer_type)
        if not device or self._ggml.ggml_backend_buft_is_host(buffer_type):
            return RAM
        if self._ggml.ggml_backend_dev_type(device) in (_DEVICE_CPU, _DEVICE_ACCELERATOR):
            return RAM
        return str(self._ggml.ggml_backend_dev_name(device).decode(errors="replace"))


def memory_by_place(api: Any, context: Any) -> dict[str, tuple[int, int, int]]:
    """Bytes of weights, KV cache and compute buffers by place; empty where the engine's answer cannot be read."""
    if not sys.platform.startswith("linux") or installed_version() != ENGINE_VERSION:
        return {}
    try:
        found = BreakdownReader(api).read(context)
    except (AttributeError, OSError, ValueError):
        return {}
    return {place: (sizes.weights, sizes.kv_cache, sizes.compute) for place, sizes in found.items()}


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


def highest_resident_bytes() -> int:
    """Largest resident memory that this process has had; 0 where the system does not say."""
    return _status_bytes("VmHWM:")


def resident_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not say."""
    return _status_bytes("VmRSS:")


def _status_bytes(field: str) -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
