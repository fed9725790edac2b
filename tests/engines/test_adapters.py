"""Adapters on the real library, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapters import write_tiny_adapter
from tiny_models import write_tiny_qwen2

from edgemed.models.gguf_values import text

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

_PREAMBLE = """
import json, sys, time
from edgemed.core.errors import EdgemedError
from edgemed.engines.base import AdapterFile, EngineConfig, GenerationRequest, TextEvent
from edgemed.engines.llama_cpp import LlamaCpp
from edgemed.engines.scheduler import Chunk, Scheduler

def load(*adapters, **more):
    files = tuple(AdapterFile(name=name, path=path, scale=scale) for name, path, scale in adapters)
    return LlamaCpp(EngineConfig(model_path=sys.argv[1], context_length=256, n_slots=6, adapters=files, **more))

def answers(engine, requests):
    scheduler = Scheduler(engine, time.monotonic)
    for request in requests:
        scheduler.submit(request)
    texts = {request.id: "" for request in requests}
    while not scheduler.idle:
        scheduler.admit()
        for name, event in scheduler.step():
            if isinstance(event, TextEvent):
                texts[name] += event.text
    return texts

def requests(*names):
    prompts = [tuple((i * 37 + j * 11) % 256 for j in range(3 + 29 * i)) for i in range(len(names))]
    return [GenerationRequest(str(i), p, 30, adapter=name) for i, (name, p) in enumerate(zip(names, prompts))]
"""


def run(model: Path, code: str, *more: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + code, str(model), *map(str, more)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("base") / "base.gguf")


def test_requests_of_several_adapters_side_by_side_answer_as_each_does_alone(base: Path, tmp_path: Path) -> None:
    one, two = (write_tiny_adapter(tmp_path / f"{seed}.gguf", seed=seed) for seed in (1, 2))
    together, alone, plain = run(
        base,
        """
files = [("one", sys.argv[2], 1.0), ("two", sys.argv[3], 1.0)]
asked = requests("", "one", "two", "one", "", "two")
engine = load(*files)
together = answers(engine, asked)
alone = {request.id: answers(engine, [request])[request.id] for request in asked}
engine.close()
plain = answers(load(), requests("", "", "", "", "", ""))
print(json.dumps([together, alone, plain]))
""",
        one,
        two,
    )
    assert together == alone
    assert {"0", "4"} == {number for number in plain if plain[number] == together[number]}


def test_an_adapter_of_scale_zero_or_of_zeros_changes_nothing(base: Path, tmp_path: Path) -> None:
    adapter = write_tiny_adapter(tmp_path / "a.gguf")
    zeros = write_tiny_adapter(tmp_path / "zeros.gguf", size=0.0)
    plain, scaled, nothing = run(
        base,
        """
engine = load(("scaled", sys.argv[2], 0.0), ("zeros", sys.argv[3], 1.0))
print(json.dumps([list(answers(engine, requests(name, name, name)).values()) for name in ("", "scaled", "zeros")]))
""",
        adapter,
        zeros,
    )
    assert plain == scaled == nothing


def test_an_adapter_for_another_base_or_of_nans_is_refused_before_the_engine_is_ready(
    base: Path, tmp_path: Path
) -> None:
    strange = write_tiny_adapter(tmp_path / "strange.gguf", edgemed_adapter_base=text("0" * 64))
    nans = write_tiny_adapter(tmp_path / "nans.gguf", size=float("nan"))
    said = run(
        base,
        """
said = []
for place in sys.argv[2:]:
    try:
        load(("a", place, 1.0))
    except EdgemedError as error:
        said.append([type(error).__name__, error.what])
print(json.dumps(said))
""",
        strange,
        nans,
    )
    assert [kind for kind, _ in said] == ["ModelRefused", "ModelRefused"]
    assert "another base" in said[0][1]
    assert "with the adapter a computes values that are no numbers" in said[1][1]


def test_what_a_session_left_under_one_adapter_is_never_used_under_another(base: Path, tmp_path: Path) -> None:
    one, two = (write_tiny_adapter(tmp_path / f"{seed}.gguf", seed=seed) for seed in (1, 2))
    found = run(
        base,
        """
engine = load(("one", sys.argv[2], 1.0), ("two", sys.argv[3], 1.0))
first = tuple(range(10, 90))

def turn(scheduler, number, prompt, **more):
    scheduler.submit(GenerationRequest(number, prompt, 12, **more))
    text, cached = "", None
    while not scheduler.idle:
        scheduler.admit()
        for _, event in scheduler.step():
            if isinstance(event, TextEvent):
                text += event.text
            elif hasattr(event, "cached_tokens"):
                cached = event.cached_tokens
    return text, cached

rows = []
for then in ("one", "two", ""):
    scheduler = Scheduler(engine, time.monotonic)
    turn(scheduler, "a", first, session="s", adapter="one")
    again = turn(scheduler, "b", (*first, 5, 6, 7), session="s", adapter=then)
    fresh = turn(Scheduler(engine, time.monotonic), "c", (*first, 5, 6, 7), adapter=then)
    rows.append([then, again[1], again[0] == fresh[0]])
print(json.dumps(rows))
""",
        one,
        two,
    )
    assert found[0][1] >= 80
    assert [row[1] for row in found[1:]] == [0, 0]
    assert all(row[2] for row in found)
