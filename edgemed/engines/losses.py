"""Why an engine's process ended: by memory, by a device that is gone, or by anything else.

Nobody says it in one way: the system's memory killer sends SIGKILL, llama.cpp writes a line and returns a code, a
driver aborts. The words below are those of llama.cpp's backends (CUDA, Vulkan, Metal, SYCL, RPC) and of C++.
"""

from __future__ import annotations

import re

from edgemed.engines.base import Cause, EngineConfig

_MEMORY = re.compile(
    r"out of memory|outofdevicememory|outofhostmemory|outofmemory|bad_alloc|not enough (?:memory|space)|"
    r"(?:failed|unable|cannot|could not) to allocate|cannot allocate|alloc\w* failed|"
    r"refused a step of \d+ tokens with code -2\b",
    re.IGNORECASE,
)
"""Code -2 of llama_decode: a compute buffer could not be allocated (llama-context.cpp)."""
_DEVICE = re.compile(
    r"has no device|device ?lost|errordevicelost|no rpc device|cuda error|no cuda-capable|cuda driver|"
    r"unspecified launch failure|gpu (?:is lost|has fallen)|initializationfailed|incompatibledriver|"
    r"rpc server crashed|ggml-rpc\S* failed to connect",
    re.IGNORECASE,
)


def cause_of(words: str) -> Cause:
    """What these words of an engine, a driver or C++ mean; "fault" for all others.

    A device's "out of memory" is memory: CUDA says "CUDA error: out of memory".
    """
    if _MEMORY.search(words):
        return "memory"
    return "device" if _DEVICE.search(words) else "fault"


def uses_devices(config: EngineConfig) -> bool:
    """Whether weights lie anywhere but in main memory."""
    placed = any(place.device != "CPU" for place in config.tensor_places)
    return config.n_gpu_layers != 0 or placed
