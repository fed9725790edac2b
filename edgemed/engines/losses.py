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


_NATIVE = re.compile(
    r"\s*(?:\S+\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+:|(?:ggml|llama|gguf|cuda|vulkan|hip|metal)\w*\b|"
    r"terminate called|fault: \w+ at |what\(\):\s+std::|(?:import|modulenotfound|os)error\b|aborted|"
    r"segmentation fault)",
    re.IGNORECASE,
)
"""How a line of llama.cpp's own code, of a driver or of the loader begins."""
_QUOTES_TEXT = re.compile(r"grammar|piece|prompt|token_to|chat", re.IGNORECASE)
"""In lines of llama.cpp that repeat what somebody typed, or what was answered."""


def tells_no_text(words: str) -> bool:
    """Whether a line that an engine's process left on its way out may be shown: it is about memory, devices or code.

    Any other might hold a patient's words, and would be seen in the log and by whoever else was being answered.
    """
    return bool(_NATIVE.match(words)) and not _QUOTES_TEXT.search(words)


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
