"""The adapter on the real library, in a process of its own: the library may abort what it lives in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cpu_time import fastest
from tiny_models import SPECIAL_TOKENS, vocabulary, write_tiny_qwen2

from edgemed.core.errors import UsageError
from edgemed.engines.llama_cpp import _check_runs

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

_PREAMBLE = """
import json, sys, time
from pathlib import Path
from edgemed.core.errors import EdgemedError
from edgemed.engines.base import EngineConfig, GenerationRequest, PromptPart, Sampling, TextEvent
from edgemed.engines.llama_cpp import LlamaCpp
from edgemed.engines.scheduler import Chunk, Scheduler

def load(**more):
    return LlamaCpp(EngineConfig(**{"model_path": sys.argv[1], "context_length": 128, "n_slots": 4} | more))

def answers(engine, requests):
    # A clock that stands still: what a step reads then never depends on how busy the machine is.
    scheduler = Scheduler(engine, lambda: 0.0)
    for request in requests:
        scheduler.submit(request)
    texts, ends = {request.id: "" for request in requests}, {}
    while not scheduler.idle:
        scheduler.admit()
        for name, event in scheduler.step():
            if isinstance(event, TextEvent):
                texts[name] += event.text
            else:
                ends[name] = getattr(event, "reason", event)
    return texts, ends

def requests(n, max_tokens=40, **sampling):
    prompts = [tuple((i * 37 + j * 11) % 256 for j in range(3 + 29 * i)) for i in range(n)]
    return [GenerationRequest(str(i), p, max_tokens, Sampling(**sampling)) for i, p in enumerate(prompts)]
"""


def run(model: Path, code: str) -> Any:
    """What `code` prints as JSON, run with the real library and `model`."""
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + code, str(model)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_sequences_decoded_together_answer_as_each_does_alone(endless_model: Path) -> None:
    together, alone = run(
        endless_model,
        """
engine = load(context_length=256, n_ubatch=32)
together, _ = answers(engine, requests(6))
alone = {request.id: answers(engine, [request])[0][request.id] for request in requests(6)}
print(json.dumps([together, alone]))
""",
    )
    assert together == alone
    assert len(set(together.values())) == 6
    assert all(together.values())


@pytest.mark.parametrize("kv_type", ["q8_0", "q4_0"])
def test_a_quantized_kv_cache_works_with_flash_attention(endless_model: Path, kv_type: str) -> None:
    # The tiny model's heads are 16 wide; a block of a quantized cache is 32.
    wide = endless_model.with_name("wide.gguf")
    if not wide.exists():
        from tiny_models import TinyShape

        write_tiny_qwen2(wide, shape=TinyShape(hidden_size=128))
    texts = run(wide, f"print(json.dumps(answers(load(kv_type={kv_type!r}), requests(3))[0]))")
    assert all(texts.values())


def test_an_answer_ends_at_the_models_own_end_token(ending_model: Path) -> None:
    texts, ends = run(
        ending_model, "print(json.dumps(answers(load(context_length=2000), requests(4, max_tokens=1500))))"
    )
    assert "stop" in ends.values()
    assert not any(token in text for text in texts.values() for token in SPECIAL_TOKENS)


def test_a_control_token_ends_the_answer_and_an_ordinary_one_does_not(endless_model: Path) -> None:
    tokens = vocabulary()
    control = [tokens.index(text) for text in SPECIAL_TOKENS]
    ordinary = tokens.index("the") if "the" in tokens else 70
    code = f"engine = load(); print(json.dumps([engine.piece(t) is None for t in {[*control, ordinary]}]))"
    assert run(endless_model, code) == [*(True for _ in control), False]


def test_letters_are_composed_first_where_the_original_tokenizer_did_so(endless_model: Path, tmp_path: Path) -> None:
    composing = write_tiny_qwen2(tmp_path / "nfc.gguf", normalization="NFC")
    code = (
        "engine = load()\n"
        "words = ('fie\\u0300vre', 'fi\\u00e8vre')\n"
        "print(json.dumps([engine.tokenize([PromptPart(word, special=False)]) for word in words]))"
    )
    decomposed, composed = run(composing, code)
    assert decomposed == composed
    decomposed, composed = run(endless_model, code)
    assert decomposed != composed


def test_the_same_seed_draws_the_same_answer_and_another_seed_another(endless_model: Path) -> None:
    first, again, other, cold = run(
        endless_model,
        """
engine = load()
def texts(**sampling):
    return answers(engine, requests(1, **sampling))[0]["0"]
print(json.dumps([
    texts(temperature=2.0, seed=7, top_p=0.95, top_k=50, min_p=0.01),
    texts(temperature=2.0, seed=7, top_p=0.95, top_k=50, min_p=0.01),
    texts(temperature=2.0, seed=2**63 + 8, top_p=0.95, top_k=50, min_p=0.01),
    texts(temperature=1.0, top_k=1) == texts(),
]))
""",
    )
    assert first == again
    assert first != other
    assert cold, "top_k of 1 must be greedy"


def test_the_greedy_token_is_the_one_that_the_library_draws_also_between_equals(endless_model: Path) -> None:
    ours, theirs = run(
        endless_model,
        """
engine = load()
api, _, context = engine.native
ours, theirs = [], []
for slot in range(4):
    engine.acquire(slot, Sampling())
for step in range(20):
    tokens = engine.decode([Chunk(slot, (40 * slot + step,), step, wants_token=True) for slot in range(4)])
    ours += tokens
    theirs += [api.llama_sampler_sample(engine._greedy, context, at) for at in range(4)]
logits = api.llama_get_logits_ith(context, 2)
logits[7] = logits[90] = logits[91] = 1e9
ours.append(engine._likeliest.draw(2))
theirs.append(api.llama_sampler_sample(engine._greedy, context, 2))
print(json.dumps([ours, theirs]))
""",
    )
    assert ours == theirs
    assert len(set(ours)) > 2
    assert ours[-1] == 7


def test_prompts_are_cut_as_the_library_cuts_the_whole_text(endless_model: Path) -> None:
    ours, whole, spelled = run(
        endless_model,
        """
engine = load()
def whole(text):
    data = text.encode()
    ids = (engine._api.llama_token * 200)()
    return list(ids[:engine._api.llama_tokenize(engine._vocab, data, len(data), ids, 200, False, True)])
template = ["<|im_start|>user\\n", "<|im_end|>\\n<|im_start|>assistant\\n"]
words = ["the dose of a drug", "a\\0b", " \\n the  dose ", "5 mg/kg \\U0001f600", "", "\\n"]
head, tail = (PromptPart(text, True) for text in template)
print(json.dumps([
    [engine.tokenize([head, PromptPart(w, False), tail]) for w in words],
    [whole(template[0] + w + template[1]) for w in words],
    engine.tokenize([PromptPart("<|im_end|>", False)]),
]))
""",
    )
    assert ours == whole
    special = {vocabulary().index(token) for token in SPECIAL_TOKENS}
    assert not special & set(spelled)
    assert len(spelled) == len("<|im_end|>")


@pytest.mark.parametrize("character", ["x", " ", ","])
def test_a_text_that_would_overflow_the_librarys_stack_is_refused(tmp_path: Path, character: str) -> None:
    n_tokens, refusal = run(
        write_tiny_qwen2(tmp_path / "tekken.gguf", pre="tekken"),
        f"""
import threading
from edgemed.engines.worker import _READER_STACK_BYTES
threading.stack_size(_READER_STACK_BYTES)
engine, found = load(), []
def cut():
    found.append(len(engine.tokenize([PromptPart("a" + {character!r} * 49_990 + "a", False)])))
    try:
        engine.tokenize([PromptPart({character!r} * 300_000, False)])
    except EdgemedError as error:
        found.append(type(error).__name__)
thread = threading.Thread(target=cut)
thread.start(); thread.join()
print(json.dumps(found))
""",
    )
    assert n_tokens >= 49_000
    assert refusal == "UsageError"


def test_texts_of_many_long_words_are_checked_in_one_pass() -> None:
    text = (("x" * 49_999 + " ") * 40)[:-1]
    assert fastest(lambda: _check_runs(text), 1) < 1  # two million steps; one pass per character would take hours
    with pytest.raises(UsageError, match="50001"):
        _check_runs(text + " " + "x" * 50_001)


def test_the_model_describes_itself(endless_model: Path) -> None:
    info = run(endless_model, "print(load().info.model_dump_json())")
    assert info["architecture"] == "qwen2"
    assert info["model_name"] == "tiny-qwen2-0"
    assert (info["context_length"], info["n_slots"], info["vocab_size"]) == (128, 4, len(vocabulary()))
    assert (info["bos_token"], info["eos_token"]) == ("", "<|im_end|>")
    assert "add_generation_prompt" in info["chat_template"]
    assert info["devices"] == ["CPU"]
    assert info["buffer_bytes"]["CPU"] > 4 * 128 * 2 * 2 * 32 * 2  # at least the KV cache


def test_a_model_that_computes_no_numbers_is_refused(tmp_path: Path) -> None:
    words = run(
        write_tiny_qwen2(tmp_path / "nan.gguf", nan=True),
        """
try:
    load()
except EdgemedError as error:
    print(json.dumps([type(error).__name__, error.what]))
""",
    )
    assert words[0] == "ModelRefused"
    assert "no numbers" in words[1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"kv_type": "q8_0", "flash_attention": False}, "needs flash attention"),
        ({"n_slots": 0}, "must be positive"),
        ({"n_threads": 0}, "must be positive"),
        ({"context_length": 1 << 40, "n_slots": 1}, "KV cache"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(endless_model: Path, setting: dict[str, Any], words: str) -> None:
    kind, what = run(
        endless_model,
        f"""
try:
    load(**{setting!r})
except EdgemedError as error:
    print(json.dumps([type(error).__name__, error.what]))
""",
    )
    assert kind == "EngineFailed"
    assert words in what


def test_a_step_that_is_too_large_is_refused_and_not_given_to_the_library(endless_model: Path) -> None:
    what = run(
        endless_model,
        """
engine = load(n_ubatch=8)
engine.acquire(0, Sampling())
try:
    engine.decode([Chunk(0, tuple(range(20)), 0, True)])
except EdgemedError as error:
    print(json.dumps(error.what))
""",
    )
    assert "20 tokens" in what


def test_a_released_slot_holds_nothing_of_the_last_sequence(endless_model: Path) -> None:
    refused, free = run(
        endless_model,
        """
engine = load(n_slots=1)
engine.acquire(0, Sampling())
engine.decode([Chunk(0, tuple(range(20)), 0, True)])
engine.release(0)
print(json.dumps([
    engine._api.llama_memory_seq_pos_max(engine._memory, 0),
    len(answers(engine, requests(1, max_tokens=200))[0]["0"]) > 0,
]))
engine.close()
""",
    )
    assert (refused, free) == (-1, True)


def test_the_packages_own_llama_class_is_never_loaded(endless_model: Path) -> None:
    assert (
        run(
            endless_model,
            """
load()
print(json.dumps([m for m in ("llama_cpp.llama", "torch", "jinja2") if m in sys.modules]))
""",
        )
        == []
    )
