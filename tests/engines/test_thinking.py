"""Reasoning kept apart from the answer, and ended by the engine where the request says so."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ask
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.prompt import PromptPart
from edgemed.engines.base import DoneEvent, EngineConfig, Event, GenerationRequest, Sampling, TextEvent
from edgemed.engines.fake import FakeEngine
from edgemed.engines.scheduler import Chunk, Scheduler
from edgemed.engines.thinking import CLOSING, Thinking, is_reasoning, opens_thinking

DEEPSEEK = Path(__file__).parents[3] / "shared" / "data" / "tokenizer-deepseek-r1-distill-qwen"
PIECES: tuple[bytes | None, ...] = (None, b"<think>", b"</think>", b"\n", b"\n\n", b"a", b"b", b"c", b"<th", b"ink>")
END, OPEN, CLOSE, LINE, GAP, A, B, C, HALF, OTHER_HALF = range(10)
THINK_ON = [B] * 40


class ScriptedEngine:
    """Draws the tokens of a script, whatever it reads, and keeps what it has read."""

    n_slots, n_batch, context_length, n_kept = 2, 8, 64, 0

    def __init__(self, script: Sequence[int], closing: tuple[int, ...] | None = (LINE, CLOSE, GAP)) -> None:
        self.closing = closing
        self._script = script
        self.read: dict[int, list[int]] = {}
        self._drawn: dict[int, int] = {}

    adapters = frozenset[str]()

    def use_adapter(self, name: str) -> None:
        pass

    def acquire(self, slot: int, sampling: Sampling) -> None:
        self.read[slot], self._drawn[slot] = [], 0

    def release(self, slot: int) -> None:
        pass

    def decode(self, chunks: Sequence[Chunk]) -> list[int]:
        drawn = []
        for chunk in chunks:
            assert chunk.position == len(self.read[chunk.slot])
            self.read[chunk.slot] += chunk.tokens
            if chunk.wants_token:
                at = self._drawn[chunk.slot]
                self._drawn[chunk.slot] += 1
                drawn.append(self._script[at] if at < len(self._script) else END)
        return drawn

    def piece(self, token: int) -> bytes | None:
        return PIECES[token]


def answer(
    engine: ScriptedEngine, *, prompt: tuple[int, ...] = (A,), max_tokens: int = 50, **more: object
) -> tuple[str, str, DoneEvent]:
    """Reasoning, answer and end of one request."""
    scheduler = Scheduler(engine, lambda: 0.0)
    scheduler.submit(GenerationRequest("r", prompt, max_tokens, **more))  # type: ignore[arg-type]
    events: list[Event] = []
    while not scheduler.idle:
        scheduler.admit()
        events += [event for _, event in scheduler.step()]
    texts = [event for event in events if isinstance(event, TextEvent)]
    done = events[-1]
    assert isinstance(done, DoneEvent)
    assert sum(text.n_tokens for text in texts) <= done.completion_tokens
    reasoning, said = ("".join(t.text for t in texts if t.reasoning is kind) for kind in (True, False))
    return reasoning, said, done


def test_what_a_model_thinks_is_no_part_of_its_answer() -> None:
    reasoning, said, done = answer(ScriptedEngine([OPEN, LINE, A, B, LINE, CLOSE, GAP, C, A]))
    assert (reasoning, said) == ("\nab\n", "ca")
    assert (done.reason, done.completion_tokens, done.reasoning_tokens) == ("stop", 9, 7)


def test_a_prompt_may_open_the_thinking_itself() -> None:
    reasoning, said, _ = answer(ScriptedEngine([A, B, CLOSE, C]), prompt=(A, OPEN, LINE))
    assert (reasoning, said) == ("ab", "c")


def test_tags_of_several_tokens_are_found() -> None:
    reasoning, said, _ = answer(ScriptedEngine([HALF, OTHER_HALF, A, CLOSE, C]))
    assert (reasoning, said) == ("a", "c")


def test_a_model_that_answers_at_once_is_heard_from_its_first_token() -> None:
    assert answer(ScriptedEngine([GAP, C, OPEN, A]))[:2] == ("", "\n\nc<think>a")
    assert answer(ScriptedEngine([HALF, C]))[:2] == ("", "<thc")
    assert answer(ScriptedEngine([HALF]))[:2] == ("", "<th")


@pytest.mark.parametrize("limit", [0, 1, 5])
@pytest.mark.parametrize("opened", [True, False])
def test_a_thinking_that_is_too_long_is_closed_and_the_answer_follows(limit: int, opened: bool) -> None:
    n_before = limit + (0 if opened else 1)
    drawn = [*([] if opened else [OPEN]), *[B] * limit, *[A] * 3, C, C]  # three are drawn in vain
    engine = ScriptedEngine(drawn)
    prompt = (A, OPEN, LINE) if opened else (A,)
    reasoning, said, done = answer(engine, prompt=prompt, reasoning_limit=limit)
    assert (reasoning.strip("\n"), said) == ("b" * limit, "cc")
    assert engine.read[0] == [*prompt, *drawn[:n_before], LINE, CLOSE, GAP, C, C]
    assert done.reasoning_tokens == n_before + 3


def test_a_thinking_within_its_limit_is_left_alone() -> None:
    script = [OPEN, A, B, CLOSE, GAP, C]
    assert answer(ScriptedEngine(script), reasoning_limit=10) == answer(ScriptedEngine(script))


def test_with_a_limit_the_answer_has_its_tokens_to_itself() -> None:
    script = [OPEN, *[B] * 10, CLOSE, *[C] * 30]
    assert answer(ScriptedEngine(script), max_tokens=4, reasoning_limit=20)[1] == "cccc"
    assert answer(ScriptedEngine(script), max_tokens=4)[:2] == ("bbb", "")


def test_a_limit_beyond_the_context_leaves_room_for_the_answer() -> None:
    script = [OPEN, *[B] * 29, *[C] * 30]
    reasoning, said, done = answer(ScriptedEngine(script), max_tokens=30, reasoning_limit=1000)
    assert len(reasoning) > 20
    assert len(said) >= 20
    assert done.prompt_tokens + done.completion_tokens <= ScriptedEngine.context_length


def test_stop_strings_are_looked_for_in_the_answer_alone() -> None:
    reasoning, said, done = answer(ScriptedEngine([OPEN, A, B, CLOSE, C, A, B, C]), stop=("ab",))
    assert (reasoning, said, done.reason) == ("ab", "c", "stop")


def test_a_model_without_the_tags_is_untouched_by_a_limit() -> None:
    script = [OPEN, A, B, CLOSE, GAP, C]
    reasoning, said, done = answer(ScriptedEngine(script, closing=None), reasoning_limit=0, max_tokens=5)
    assert (reasoning, said) == ("", "<think>ab</think>\n\n")
    assert (done.reason, done.completion_tokens, done.reasoning_tokens) == ("length", 5, 0)


def test_two_answers_are_closed_in_the_same_step() -> None:
    engine = ScriptedEngine([OPEN, *THINK_ON])
    scheduler = Scheduler(engine, lambda: 0.0)
    for name in "xy":
        scheduler.submit(GenerationRequest(name, (A,), 4, reasoning_limit=2))
    said = {"x": "", "y": ""}
    while not scheduler.idle:
        scheduler.admit()
        for name, event in scheduler.step():
            if isinstance(event, TextEvent) and not event.reasoning:
                said[name] += event.text
    assert said == {"x": "bbbb", "y": "bbbb"}


_thoughts = st.text(alphabet="ab<thinké/> \n", max_size=20).filter(lambda text: "</think>" not in text)


@given(_thoughts, st.text(alphabet="ab<thinké/>", max_size=20), st.lists(st.integers(1, 5)), st.booleans())
def test_the_parts_are_the_same_however_the_bytes_are_cut(
    thought: str, said: str, cuts: list[int], opened: bool
) -> None:
    data = (("" if opened else "\n<think>") + f"{thought}</think>\n\n{said}").encode()
    thinking = Thinking(opened=opened)
    reasoning, rest = "", b""
    sizes = iter(cuts)
    while data:
        size = next(sizes, 3)
        new, more = thinking.push(data[:size])
        reasoning, rest, data = reasoning + new, rest + more, data[size:]
    new, more = thinking.flush()
    assert ((reasoning + new), (rest + more).decode()) == (thought, said)


def test_a_reasoning_model_is_known_by_its_template_or_its_tokens() -> None:
    assert is_reasoning("{{ '<think>\n' }}", both_are_tokens=False)
    assert is_reasoning("", both_are_tokens=True)
    assert not is_reasoning("{{ messages }}", both_are_tokens=False)
    assert opens_thinking((A, HALF, OTHER_HALF, LINE), PIECES.__getitem__)
    assert not opens_thinking((OPEN, A, END), PIECES.__getitem__)
    assert not opens_thinking((OPEN, GAP, CLOSE, GAP), PIECES.__getitem__)


def test_the_fake_engine_thinks_as_ordered() -> None:
    engine = FakeEngine(answer="Give fluids.", thought="The child is dry.")
    assert engine.info.reasoning
    for limit, thought in ((None, "The child is dry."), (2, "The child"), (0, "")):
        heard = ask(engine, GenerationRequest(str(limit), (), 10, reasoning_limit=limit))
        done = heard.done()
        texts = [event for event in heard.events if isinstance(event, TextEvent)]
        assert "".join(text.text for text in texts if text.reasoning) == thought
        assert "".join(text.text for text in texts if not text.reasoning) == "Give fluids."
        assert done.reasoning_tokens == len(thought.split())
    engine.close()


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the vocabulary and the chat template of a distilled reasoning model."""
    if not DEEPSEEK.is_dir():
        pytest.skip("the shared test data are not beside the repository")
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from checkpoints import write_checkpoint

    from edgemed.export.gguf import convert
    from edgemed.export.preflight import prepare

    folder = tmp_path_factory.mktemp("deepseek") / "model"
    write_checkpoint(folder, "qwen2", vocab_size=151_936, hidden_size=32, num_attention_heads=2, pad_token_id=151_643)
    (folder / "tokenizer.json").write_bytes(gzip.decompress((DEEPSEEK / "tokenizer.json.gz").read_bytes()))
    shutil.copy(DEEPSEEK / "tokenizer_config.json", folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = (DEEPSEEK / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = folder.with_suffix(".gguf")
    convert(prepare(folder, model, "f16"), model)
    return model


@pytest.mark.needs_torch
def test_a_real_vocabularys_thinking_is_closed_by_its_own_token(deepseek: Path) -> None:
    from edgemed.core.prompt import Message
    from edgemed.engines.supervisor import EngineProcess
    from edgemed.models.chat_template import render_chat

    engine = EngineProcess(EngineConfig(model_path=deepseek, context_length=256))
    engine.start()
    try:
        info = engine.info
        assert info.reasoning
        messages = [Message(role="user", content="What is oral rehydration?")]
        parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
        prompt = tuple(engine.tokenize(parts))
        closing = tuple(engine.tokenize([PromptPart(CLOSING, special=True)]))[-3:]
        heard = ask(engine, GenerationRequest("a", prompt, 10, reasoning_limit=6))
        done = heard.done()
        texts = [event for event in heard.events if isinstance(event, TextEvent)]
        assert any(text.reasoning for text in texts)
        assert not any("think>" in text.text for text in texts)
        assert done.reasoning_tokens == 6 + len(closing)
        assert (done.reason, done.completion_tokens) == ("length", 6 + len(closing) + 10)
        # The answer is what the model says after exactly these tokens.
        whole = ask(engine, GenerationRequest("b", prompt, 10, reasoning_limit=0))
        whole.done()
        direct = ask(engine, GenerationRequest("c", (*prompt, *closing), 10))
        direct.done()
        assert whole.text.strip() == direct.text.strip()
    finally:
        engine.close()


@pytest.mark.parametrize("as_tokens", [True, False])
def test_tags_may_be_control_tokens_or_ordinary_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_tokens: bool
) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import tiny_models

    from edgemed.engines.supervisor import EngineProcess

    if as_tokens:
        monkeypatch.setattr(tiny_models, "SPECIAL_TOKENS", (*tiny_models.SPECIAL_TOKENS, "<think>", "</think>"))
    else:
        monkeypatch.setattr(tiny_models, "CHAT_TEMPLATE", tiny_models.CHAT_TEMPLATE + "<think>")
    model = tiny_models.write_tiny_qwen2(tmp_path / "thinks.gguf")
    engine = EngineProcess(EngineConfig(model_path=model, context_length=256))
    engine.start()
    try:
        assert engine.info.reasoning
        prompt = tuple(engine.tokenize([PromptPart("dose <think>\n", special=True)]))
        heard = ask(engine, GenerationRequest("a", prompt, 12, reasoning_limit=5))
        done = heard.done()
    finally:
        engine.close()
    n_closing = len("\n\n\n") + (1 if as_tokens else len("</think>") - 1)  # "in" is one token
    assert (done.reason, done.completion_tokens) == ("length", 5 + n_closing + 12)
    assert done.reasoning_tokens == 5 + n_closing
    assert not any("think>" in event.text for event in heard.events if isinstance(event, TextEvent))


def test_a_model_that_knows_no_tags_says_so(endless_model: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from edgemed.engines.supervisor import EngineProcess

    engine = EngineProcess(EngineConfig(model_path=endless_model, context_length=256))
    engine.start()
    try:
        assert not engine.info.reasoning
        heard = ask(engine, GenerationRequest("a", tuple(range(40, 60)), 12, reasoning_limit=0))
        assert heard.done().reasoning_tokens == 0
    finally:
        engine.close()
    assert heard.n_tokens
