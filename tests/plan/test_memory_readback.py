"""What was predicted is laid beside what the loaded engine says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rpc_device import rpc_device
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.plan.memory import estimate_memory
from edgemed.plan.readback import MemoryReadback, compare_memory
from edgemed.plan.record import MemoryNeed

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the engine is asked on Linux only")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 MiB of float32."""
    shape = TinyShape(n_layers=4, hidden_size=256, ffn_size=1024, n_heads=8, n_kv_heads=4)
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=shape)


def read_back(config: EngineConfig) -> MemoryReadback:
    (estimate,) = estimate_memory(spec_from_gguf(check_gguf(config.model_path)), [config])
    with Stopwatch(config) as watch:
        watch.measure(Measurement(prompt_tokens=config.context_length - 8, answer_tokens=8, repetitions=1))
        return compare_memory(estimate.needs, watch.loaded.memory, watch.resident_bytes())


@linux_only
@pytest.mark.parametrize("changes", [{}, {"kv_type": "q8_0", "n_slots": 3}, {"use_mmap": True}])
def test_the_loaded_engine_takes_what_was_predicted(model: Path, changes: dict[str, object]) -> None:
    found = read_back(EngineConfig(model_path=model, context_length=512).model_copy(update=changes))
    assert found.worst_percent() < 0.5
    assert found.resident is not None
    assert abs(found.resident.difference_percent or 0) < 10  # a process of 60 MiB; the benchmark has the large ones


@pytest.mark.parametrize("n_gpu_layers", [1, 3, 5])
def test_each_device_takes_what_was_predicted(model: Path, n_gpu_layers: int) -> None:
    with rpc_device() as device:
        config = EngineConfig(model_path=model, context_length=512, n_gpu_layers=n_gpu_layers, devices=(device.name,))
        found = read_back(config)
    assert {one.place for one in found.places} == {RAM, "RPC0"}
    assert found.worst_percent() < 0.5


def need(place: str, part: str, n_bytes: int) -> MemoryNeed:
    return MemoryNeed.model_validate({"place": place, "part": part, "n_bytes": n_bytes, "basis": "projected"})


def test_differences_are_given_by_place_and_part_in_bytes_and_percent() -> None:
    needs = [need("RAM", "weights", 100), need("RAM", "kv_cache", 40), need("RAM", "process", 50)]
    found = compare_memory(needs, {"RAM": (110, 40, 0)}, 200)
    weights = next(one for one in found.parts if one.part == "weights")
    assert (weights.predicted_bytes, weights.real_bytes, weights.difference_bytes) == (100, 110, 10)
    assert weights.difference_percent == pytest.approx(10)
    assert found.worst_percent() == pytest.approx(100 * 10 / 140)
    assert found.resident is not None
    assert (found.resident.predicted_bytes, found.resident.real_bytes) == (190, 200)


def test_a_place_that_was_not_foreseen_and_one_that_stayed_empty_are_shown() -> None:
    found = compare_memory([need("CUDA0", "weights", 100)], {"RAM": (10, 0, 0)})
    assert {one.place: one.difference_bytes for one in found.places} == {"RAM": 10, "CUDA0": -100}
    assert found.places[0].difference_percent is None
    assert found.resident is None


def test_the_embedding_context_counts_once_a_text_was_embedded() -> None:
    needs = [need("RAM", "weights", 100), need("RAM", "embedding", 30)]
    predicted = [compare_memory(needs, {"RAM": (100, 0, 0)}, 1, embeds=embeds).resident for embeds in (False, True)]
    assert [one.predicted_bytes for one in predicted if one is not None] == [100, 130]


def test_an_engine_that_cannot_be_asked_leaves_the_process_alone_to_compare() -> None:
    found = compare_memory([need("RAM", "weights", 100)], {}, 120)
    assert (found.parts, found.places) == ((), ())
    assert found.worst_percent() == 0
    assert found.resident is not None
