"""Why an engine ended, by what its library, a driver or C++ wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.engines.base import Cause, EngineConfig, TensorPlace
from edgemed.engines.losses import cause_of, uses_devices


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4 MiB on device 0: cudaMalloc failed: out of memory",
         "memory"),
        ("CUDA error: out of memory", "memory"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 123456", "memory"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "memory"),
        ("ggml_vulkan: Device memory allocation of size 1 failed.\n vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
         "memory"),
        ("llama.cpp refused a step of 64 tokens with code -2.", "memory"),
        ("llama.cpp refused a step of 64 tokens with code -3.", "fault"),
        ("The engine has no device CUDA0; it has CPU.", "device"),
        ("  what():  vk::Queue::submit: ErrorDeviceLost", "device"),
        ("CUDA error: unspecified launch failure", "device"),
        ("ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected", "device"),
        ("No RPC device answers at 127.0.0.1:50052.", "device"),
        ("ggml/src/ggml-rpc/ggml-rpc.cpp:547: Failed to connect to 127.0.0.1:57281", "device"),
        ("Remote RPC server crashed or returned malformed response", "device"),
        ("The engine's process ended with exit code 1.", "fault"),
        ("", "fault"),
    ],
)  # fmt: skip
def test_the_words_tell_the_cause(words: str, cause: Cause) -> None:
    assert cause_of(words) == cause


def test_weights_outside_of_main_memory_use_devices() -> None:
    config = EngineConfig(model_path=Path("a.gguf"))
    on_gpu = (TensorPlace(pattern="ffn", device="CUDA0"),)
    on_cpu = (TensorPlace(pattern="ffn", device="CPU"),)
    assert not uses_devices(config)
    assert uses_devices(config.model_copy(update={"n_gpu_layers": 3}))
    assert uses_devices(config.model_copy(update={"tensor_places": on_gpu}))
    assert not uses_devices(config.model_copy(update={"tensor_places": on_cpu}))
