"""The stopwatch: what it times, what it says of memory, and what becomes of an engine that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.demo import demo_model_path
from edgemed.engines.base import EngineConfig, TensorPlace
from edgemed.engines.stopwatch import Measurement, Stopwatch, StopwatchFailed


@pytest.fixture(scope="module")
def watch() -> Stopwatch:
    with Stopwatch(EngineConfig(model_path=demo_model_path(), context_length=512)) as loaded:
        yield loaded


def test_prompt_and_answer_are_timed_once_for_each_repetition(watch: Stopwatch) -> None:
    timed = watch.measure(Measurement(prompt_tokens=64, answer_tokens=8, repetitions=3))
    assert len(timed.prompt_s) == len(timed.answer_s) == len(timed.step_s) == len(timed.cpu_s) == 3
    assert all(seconds > 0 for seconds in (*timed.prompt_s, *timed.answer_s, *timed.step_s))
    assert 4 * timed.step_median_s() < max(timed.answer_s)


def test_more_takes_longer(watch: Stopwatch) -> None:
    short = watch.measure(Measurement(prompt_tokens=16, answer_tokens=2, repetitions=3))
    long = watch.measure(Measurement(prompt_tokens=256, answer_tokens=32, repetitions=3))
    assert min(long.prompt_s) > min(short.prompt_s)
    assert min(long.answer_s) > min(short.answer_s)


def test_depth_is_read_before_and_not_timed(watch: Stopwatch) -> None:
    deep = watch.measure(Measurement(prompt_tokens=1, answer_tokens=1, depth=400, repetitions=3))
    whole = watch.measure(Measurement(prompt_tokens=400, repetitions=3))
    assert min(deep.prompt_s) < min(whole.prompt_s)
    assert whole.answer_s
    assert not whole.step_s


def test_no_repetition_begins_after_its_time(watch: Stopwatch) -> None:
    assert len(watch.measure(Measurement(prompt_tokens=64, repetitions=50, at_most_s=1e-6)).prompt_s) == 1


def test_it_says_what_the_engine_took(watch: Stopwatch) -> None:
    weights, kv_cache, compute = watch.loaded.memory["RAM"]
    assert weights > 5_000_000
    assert kv_cache == 6 * 512 * 2 * 2 * 128  # layers, cells, keys and values, bytes, KV heads * head size
    assert compute > 0
    assert watch.loaded.resident_bytes > weights + kv_cache


def test_more_than_the_context_holds_is_refused() -> None:
    with Stopwatch(EngineConfig(model_path=demo_model_path(), context_length=512)) as small:
        with pytest.raises(StopwatchFailed, match="600 tokens were to be timed; the context holds 512"):
            small.measure(Measurement(prompt_tokens=600))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(StopwatchFailed, match=r"broken\.gguf"):
        Stopwatch(EngineConfig(model_path=broken))


def test_a_device_that_is_not_there_is_named() -> None:
    config = EngineConfig(model_path=demo_model_path(), n_gpu_layers=99, devices=("CUDA7",))
    with pytest.raises(StopwatchFailed, match="no device CUDA7"):
        Stopwatch(config)


def test_weights_may_be_placed_by_name() -> None:
    place = TensorPlace(pattern=r"ffn_down\.weight", device="CPU")
    with Stopwatch(EngineConfig(model_path=demo_model_path(), context_length=256, tensor_places=(place,))) as loaded:
        assert loaded.measure(Measurement(prompt_tokens=8)).prompt_s


def test_an_engine_that_dies_is_no_riddle() -> None:
    doomed = Stopwatch(EngineConfig(model_path=demo_model_path(), context_length=256))
    doomed._process.kill()
    with pytest.raises(StopwatchFailed, match="ended with -9"):
        doomed.measure(Measurement(prompt_tokens=8))
