"""Weights really lie on a second device, and a device without memory or without life ends as StopwatchFailed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rpc_device import RpcDevice, rpc_device
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.units import MIB
from edgemed.engines import stopwatch
from edgemed.engines.base import EngineConfig, TensorPlace
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed

N_LAYERS = 4
SHAPE = TinyShape(n_layers=N_LAYERS, hidden_size=256, ffn_size=1024, n_heads=8, n_kv_heads=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MiB of float32."""
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=SHAPE)


def on_device(model: Path, device: RpcDevice, **changes: object) -> EngineConfig:
    return EngineConfig(
        model_path=model, context_length=4096, n_gpu_layers=N_LAYERS + 1, devices=(device.name,)
    ).model_copy(update=changes)


def test_layers_lie_on_the_device_and_answer_from_there(model: Path) -> None:
    with rpc_device() as device, Stopwatch(on_device(model, device)) as watch:
        assert watch.loaded.memory[device.name][0] > 15 * MIB
        assert watch.loaded.memory[RAM][0] < 1 * MIB
        assert watch.measure(Measurement(prompt_tokens=8, answer_tokens=2)).prompt_s
        assert device.resident_bytes() > 15 * MIB


def test_weights_placed_by_name_leave_the_device(model: Path) -> None:
    place = TensorPlace(pattern=r"ffn_(gate|up|down)\.weight", device="CPU")
    with rpc_device() as device, Stopwatch(on_device(model, device, tensor_places=(place,))) as watch:
        ffn_bytes = N_LAYERS * 3 * 256 * 1024 * 4
        assert watch.loaded.memory[RAM][0] > ffn_bytes
        assert watch.loaded.memory[device.name][0] < 5 * MIB
        assert watch.measure(Measurement(prompt_tokens=8)).prompt_s


def test_the_device_serves_one_client_after_the_other(model: Path) -> None:
    with rpc_device() as device:
        for _ in range(2):
            with Stopwatch(on_device(model, device)) as watch:
                assert watch.loaded.memory[device.name]


def test_nothing_is_left_of_the_device_after_the_block() -> None:
    with rpc_device() as device:
        assert os.environ["EDGEMED_RPC_DEVICES"] == device.address
        assert device.process.poll() is None
    assert device.process.returncode == -signal.SIGKILL
    assert "EDGEMED_RPC_DEVICES" not in os.environ


def test_weights_beyond_its_memory_are_refused(model: Path) -> None:
    with rpc_device(limit_bytes=8 * MIB) as device:
        with pytest.raises(StopwatchFailed, match=r"failed to allocate RPC0\S* buffer"):
            Stopwatch(on_device(model, device))
        assert device.process.poll() is None


def test_a_cache_beyond_its_memory_is_refused(model: Path) -> None:
    with rpc_device(limit_bytes=40 * MIB) as device:
        with pytest.raises(StopwatchFailed, match=r"KV cache: .*failed to allocate RPC0\S* buffer"):
            Stopwatch(on_device(model, device, context_length=65536))
        assert device.process.poll() is None


def test_the_same_device_holds_what_fits_after_a_refusal(model: Path) -> None:
    with rpc_device(limit_bytes=40 * MIB) as device:
        with pytest.raises(StopwatchFailed):
            Stopwatch(on_device(model, device, context_length=65536))
        with Stopwatch(on_device(model, device, context_length=512)) as watch:
            assert watch.measure(Measurement(prompt_tokens=8)).prompt_s


def test_a_device_that_dies_in_the_middle_ends_the_measurement(model: Path) -> None:
    with rpc_device() as device, Stopwatch(on_device(model, device)) as watch:
        assert watch.measure(Measurement(prompt_tokens=8)).prompt_s
        device.kill()
        with pytest.raises(StopwatchFailed, match="Remote RPC server crashed"):
            watch.measure(Measurement(prompt_tokens=8), timeout_s=30)


def test_a_device_that_no_longer_answers_ends_the_measurement(model: Path) -> None:
    with rpc_device() as device, Stopwatch(on_device(model, device)) as watch:
        device.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StopwatchFailed, match="no answer in the time"):
            watch.measure(Measurement(prompt_tokens=8), timeout_s=0.5)


def test_a_device_that_is_busy_is_not_waited_for_for_ever(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "_LOAD_TIMEOUT_S", 0.8)
    with rpc_device() as device:
        device.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StopwatchFailed, match="no answer in the time"):
            Stopwatch(on_device(model, device))


def test_a_device_that_is_gone_is_no_riddle(model: Path) -> None:
    with rpc_device() as device:
        device.kill()
        with pytest.raises(StopwatchFailed, match="Failed to connect"):
            Stopwatch(on_device(model, device))
