"""What the cache gives again is what would have been read: with real models, through the engine's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Answer, ask
from tiny_models import MERGES, vocabulary

from edgemed.core.prompt import Message
from edgemed.demo import demo_model_path
from edgemed.engines.base import EngineConfig, GenerationRequest, PlaceEvent
from edgemed.engines.supervisor import EngineProcess
from edgemed.medical.language import Category
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

QUESTION = "What is the dose of zinc for diarrhoea in a child of 2 years?"
NAMES = ("Amina", "Brigid", "Chidi", "Dalia", "Esther", "Farouk", "Grace", "Hawa")


@contextmanager
def opened(model: Path, **more: Any) -> Iterator[EngineProcess]:
    engine = EngineProcess(EngineConfig(model_path=model, **({"context_length": 512, "n_slots": 2} | more)))
    engine.start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[EngineProcess]:
    with opened(demo_model_path()) as engine:
        yield engine


def prompt_of(engine: EngineProcess, question: str, history: tuple[Message, ...] = ()) -> tuple[int, ...]:
    info = engine.info
    messages = messages_for(question, history, category=Category.MEDICATION)
    parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    return tuple(engine.tokenize(parts))


def answered(engine: EngineProcess, prompt: tuple[int, ...], name: str = "a", **more: Any) -> tuple[Answer, int]:
    answer = ask(engine, GenerationRequest(name, prompt, 24, **more))
    return answer, answer.done().cached_tokens


def begins_alike(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    return next(n for n, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)


def test_answers_from_a_shared_template_are_those_without(demo: EngineProcess) -> None:
    questions = [QUESTION, "How much ORS for a child of 8 months?", "Is ibuprofen safe in pregnancy?"]
    prompts = [prompt_of(demo, question) for question in questions]
    plain = [answered(demo, prompt) for prompt in prompts]
    n_template = begins_alike(prompts[0], prompts[1])
    demo.pin([prompts[0][:n_template]])
    shared = [answered(demo, prompt) for prompt in prompts]
    demo.pin([])
    assert [answer.text for answer, _ in shared] == [answer.text for answer, _ in plain]
    assert [cached for _, cached in plain] == [0, 0, 0]
    assert [cached for _, cached in shared] in ([n_template] * 3, [0, n_template, n_template])  # the first may read it


def test_a_conversation_goes_on_where_it_was(demo: EngineProcess) -> None:
    first = prompt_of(demo, QUESTION)
    answer, _ = answered(demo, first, session="one")
    turns: tuple[Message, ...] = (
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": answer.text},
    )
    second = prompt_of(demo, "And for how many days?", turns)
    n_alike = begins_alike((*first, -1), second)
    alone, none = answered(demo, second)
    again, cached = answered(demo, second, session="one")
    assert none == 0
    assert cached >= n_alike >= len(first) - 2
    assert again.text == alone.text
    demo.forget_session("one")
    assert answered(demo, second, session="one")[1] == 0


def test_twins_that_differ_in_a_name_share_nothing_but_the_template(demo: EngineProcess) -> None:
    twins = [prompt_of(demo, f"{name} has diarrhoea. {QUESTION}") for name in NAMES[:2]]
    n_template = begins_alike(prompt_of(demo, "a"), prompt_of(demo, "7"))
    plain = [answered(demo, prompt)[0].text for prompt in twins]
    demo.pin([twins[0][:n_template]])
    for round_ in range(2):
        asked = [ask(demo, GenerationRequest(f"{round_}{i}", twins[i], 24, session=NAMES[i])) for i in range(2)]
        cached = [one.done().cached_tokens for one in asked]
        assert [one.text for one in asked] == plain
        for n, prompt in zip(cached, twins, strict=True):
            assert n == len(prompt) - 1 if round_ else n <= n_template
    crossed, n_crossed = answered(demo, twins[0], session=NAMES[1])
    assert (crossed.text, n_crossed) == (
        plain[0],
        begins_alike(*twins),
    )  # its own earlier turn, as far as it is the same
    demo.pin([])
    for name in NAMES[:2]:
        demo.forget_session(name)


def test_many_sessions_with_a_secret_each_answer_as_if_they_were_alone(demo: EngineProcess) -> None:
    """Interleaved in two slots with a cache that holds a few of them: kept, evicted, forgotten and begun anew."""
    secrets = {name: prompt_of(demo, f"{name}, code {name[::-1]}{i}: {QUESTION}") for i, name in enumerate(NAMES)}
    plain = {name: answered(demo, prompt)[0].text for name, prompt in secrets.items()}
    n_template = begins_alike(*(secrets[name] for name in NAMES[:2]))
    demo.pin([secrets[NAMES[0]][:n_template]])
    asked = []
    for number in range(64):
        name = NAMES[number * 5 % len(NAMES)]
        asked.append((name, ask(demo, GenerationRequest(f"s{number}", secrets[name], 24, session=name))))
        if number % 11 == 0:
            demo.forget_session(NAMES[number % len(NAMES)])
    cached = [one.done().cached_tokens for _, one in asked]
    for name, one in asked:
        assert one.text == plain[name]
        others = {other[::-1] for other in NAMES if other != name}
        assert not any(other in one.text for other in others)
    assert max(cached) > n_template
    demo.pin([])
    for name in NAMES:
        demo.forget_session(name)


def test_those_who_wait_learn_their_places(endless_model: Path) -> None:
    with opened(endless_model, n_slots=1, context_length=4096) as engine:
        running = ask(engine, GenerationRequest("running", tuple(range(40, 60)), 3000))
        running.next()
        waiting = ask(engine, GenerationRequest("waiting", tuple(range(40, 60)), 2))
        assert waiting.next() == PlaceEvent(1)
        urgent = ask(engine, GenerationRequest("urgent", tuple(range(40, 60)), 2, lane="emergency"))
        assert urgent.next() == PlaceEvent(1)
        assert waiting.next() == PlaceEvent(2)
        engine.cancel("running")
        urgent.done()
        waiting.done()
        assert PlaceEvent(1) in waiting.events[1:]
        assert not any(isinstance(event, PlaceEvent) for event in urgent.events[1:])


@pytest.mark.parametrize("more", [{"flash_attention": False}, {"n_ubatch": 16}, {"n_slots": 1}])
def test_a_conversation_is_reused_however_the_engine_is_set_up(endless_model: Path, more: dict[str, Any]) -> None:
    prompt = tuple((i * 37) % 250 for i in range(50))
    with opened(endless_model, context_length=256, **more) as engine:
        plain, _ = answered(engine, prompt)
        answered(engine, prompt[:30], session="s")
        again, cached = answered(engine, prompt, session="s")
        assert (again.text, cached) == (plain.text, 30)


def write_tiny_mamba(path: Path) -> Path:
    """A recurrent model of two layers with random weights and the tiny vocabulary."""
    import gguf
    import numpy as np

    hidden, inner, state, rank, conv = 32, 64, 8, 4, 4
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_block_count(2)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(0)
    writer.add_head_count(1)  # it has none; our reader wants one
    writer.add_ssm_conv_kernel(conv)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(len(tokens) - 1)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), hidden), "output_norm.weight": (hidden,)}
    for layer in range(2):
        block = {
            "attn_norm.weight": (hidden,),
            "ssm_in.weight": (2 * inner, hidden),
            "ssm_conv1d.weight": (inner, conv),
            "ssm_conv1d.bias": (inner,),
            "ssm_x.weight": (rank + 2 * state, inner),
            "ssm_dt.weight": (inner, rank),
            "ssm_dt.bias": (inner,),
            "ssm_a": (inner, state),
            "ssm_d": (inner,),
            "ssm_out.weight": (hidden, inner),
        }
        shapes |= {f"blk.{layer}.{name}": size for name, size in block.items()}
    random = np.random.default_rng(0)
    for name, size in shapes.items():
        values = np.ones(size, np.float32) if "norm" in name else random.standard_normal(size).astype(np.float32)
        writer.add_tensor(name, -np.abs(values) if name.endswith("ssm_a") else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_windowed(path: Path) -> Path:
    """A Gemma 3 whose layers, all but each sixth, forget what is more than 16 tokens ago."""
    pytest.importorskip("torch")
    from checkpoints import write_checkpoint

    from edgemed.export.gguf import convert
    from edgemed.export.preflight import prepare

    convert(prepare(write_checkpoint(path.with_suffix(""), "gemma3"), path, "f32"), path)
    return path


@pytest.mark.parametrize("write", [write_tiny_mamba, write_windowed])
def test_a_model_whose_state_cannot_be_cut_reuses_nothing_and_answers_right(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    prompt = tuple((i * 37) % 250 + 3 for i in range(60))
    with opened(write(tmp_path / "model.gguf"), context_length=256) as engine:
        plain, _ = answered(engine, prompt)
        engine.pin([prompt[:20]])
        answered(engine, prompt[:30], session="s")
        again, cached = answered(engine, prompt, session="s")
        assert (again.text, cached) == (plain.text, 0)


def test_every_slot_reaches_its_full_length_in_a_cache_full_of_holes(endless_model: Path) -> None:
    """Sessions of many lengths come and go; then requests need the last cell of the pool."""
    with opened(endless_model, n_slots=2, context_length=256) as engine:
        engine.pin([tuple(range(100, 120))])
        for number in range(24):
            prompt = tuple((number * 13 + i * 7) % 250 for i in range(10 + number * 29 % 180))
            answered(engine, prompt, name=f"s{number}", session=f"s{number % 9}")
            if number % 4 == 0:
                engine.forget_session(f"s{number % 5}")
        full = [tuple((n * 31 + i * 11) % 250 for i in range(200)) for n in range(2)]
        asked = [ask(engine, GenerationRequest(f"f{n}", full[n], 56)) for n in range(2)]
        ends = [one.done() for one in asked]
        assert [(end.reason, end.completion_tokens) for end in ends] == [("length", 56)] * 2
