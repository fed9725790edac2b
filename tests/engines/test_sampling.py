"""Penalties, log-probabilities and grammars on the demonstration model, by the real library."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from conftest import Answer, ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgemed.demo
from edgemed.core.prompt import PromptPart
from edgemed.engines.base import DrawnToken, EngineConfig, GenerationRequest, Sampling, TextEvent
from edgemed.engines.supervisor import EngineProcess
from edgemed.serve.json_grammar import json_grammar, schema_grammar

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

MODEL = Path(edgemed.demo.__file__).parent / "model" / "edgemed-demo-q8_0.gguf"
QUESTION = "<|im_start|>user\nHow much paracetamol does a child of 10 kg need?<|im_end|>\n<|im_start|>assistant\n"
_NUMBERS = iter(range(10**9))


@pytest.fixture(scope="module")
def demo() -> Iterator[EngineProcess]:
    engine = EngineProcess(EngineConfig(model_path=MODEL, context_length=512, n_slots=2))
    engine.start()
    yield engine
    engine.close()


def asked(engine: EngineProcess, max_tokens: int = 24, **more: Any) -> Answer:
    prompt = engine.tokenize([PromptPart(QUESTION, special=True)])
    return ask(engine, GenerationRequest(str(next(_NUMBERS)), tuple(prompt), max_tokens, **more))


def tokens_of(answer: Answer) -> list[DrawnToken]:
    return [token for event in answer.events if isinstance(event, TextEvent) for token in event.tokens]


def test_the_greedy_token_is_the_likeliest_and_all_together_have_probability_one(demo: EngineProcess) -> None:
    answer = asked(demo, 8, top_logprobs=demo.info.vocab_size)
    answer.done()
    tokens = tokens_of(answer)
    assert b"".join(token.drawn.piece for token in tokens).decode() == answer.text
    for token in tokens:
        assert token.drawn == token.likeliest[0]
        assert math.fsum(math.exp(one.logprob) for one in token.likeliest) == pytest.approx(1, abs=1e-5)
        assert [one.logprob for one in token.likeliest] == sorted((o.logprob for o in token.likeliest), reverse=True)


def test_log_probabilities_are_those_before_temperature(demo: EngineProcess) -> None:
    cold = asked(demo, 1, top_logprobs=3)
    cold.done()
    hot = asked(demo, 1, top_logprobs=3, sampling=Sampling(temperature=2.0, seed=4, presence_penalty=1.0))
    hot.done()
    assert tokens_of(hot)[0].likeliest == tokens_of(cold)[0].likeliest


def test_log_probabilities_change_no_answer(demo: EngineProcess) -> None:
    plain = asked(demo)
    plain.done()
    told = asked(demo, top_logprobs=0)
    told.done()
    assert plain.text == told.text
    assert all(token.likeliest == () for token in tokens_of(told))


def test_penalties_count_what_the_answer_holds_also_when_greedy(demo: EngineProcess) -> None:
    def repeats(**penalties: float) -> int:
        answer = asked(demo, 60, top_logprobs=0, sampling=Sampling(**penalties))
        answer.done()
        pieces = [token.drawn.piece for token in tokens_of(answer)]
        return len(pieces) - len(set(pieces))

    assert repeats() > 3
    assert repeats(presence_penalty=100.0) == 0
    assert repeats(frequency_penalty=100.0) == 0
    assert repeats(presence_penalty=-2.0) >= repeats()


def test_the_prompts_words_are_not_penalised(demo: EngineProcess) -> None:
    plain = asked(demo, 1)
    plain.done()
    penalised = asked(demo, 1, sampling=Sampling(presence_penalty=2.0))
    penalised.done()
    assert penalised.text == plain.text


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_follows_its_grammar_and_ends_where_it_ends(demo: EngineProcess, temperature: float) -> None:
    answer = asked(
        demo, grammar='root ::= "dose: " ("5" | "10") " mg"', sampling=Sampling(temperature=temperature, seed=3)
    )
    assert answer.done().reason == "stop"
    assert answer.text in ("dose: 5 mg", "dose: 10 mg")


def test_an_answer_may_not_end_before_its_grammar_does(demo: EngineProcess) -> None:
    free, held = asked(demo, 200), asked(demo, 200, grammar="root ::= [a-z ]{150,}")
    assert free.done().reason == "stop"
    held.done()
    assert len(free.text) < 150 <= len(held.text)


def test_a_grammar_that_the_model_would_follow_anyway_changes_nothing(demo: EngineProcess) -> None:
    for sampling in (Sampling(), Sampling(temperature=0.9, top_p=0.95, seed=11)):
        free = asked(demo, sampling=sampling)
        free_end = free.done()  # one after the other: side by side, sums are rounded otherwise
        held = asked(demo, sampling=sampling, grammar="root ::= [^\\x00]*")
        assert (free_end.reason, free.text) == (held.done().reason, held.text)


def test_log_probabilities_and_penalties_go_with_a_grammar(demo: EngineProcess) -> None:
    answer = asked(demo, 12, grammar='root ::= "a"{4,}', top_logprobs=2, sampling=Sampling(presence_penalty=0.5))
    answer.done()
    assert set(answer.text) <= {"a"}
    tokens = tokens_of(answer)
    assert "".join(token.drawn.piece.decode() for token in tokens) == answer.text
    assert any(token.drawn not in token.likeliest for token in tokens), "the free model would not say this"


@pytest.mark.parametrize(
    "grammar",
    ["root ::= (", "foo ::= \"a\"", "root ::= root \"a\" | \"b\"", "root ::= x", "root ::= [é]",
     "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, 'root ::= "' + "a" * 70_000 + '"'],
)  # fmt: skip
def test_a_grammar_that_cannot_be_used_ends_its_own_request_alone(demo: EngineProcess, grammar: str) -> None:
    beside = asked(demo)
    refused = asked(demo, grammar=grammar)
    error = refused.error()
    assert not error.retryable
    assert "grammar" in error.message
    assert beside.done().reason in ("stop", "length")
    assert demo.health().restarts == 0


def test_a_faulty_grammars_text_is_in_no_log(demo: EngineProcess, caplog: pytest.LogCaptureFixture) -> None:
    refused = asked(demo, grammar='root ::= ( "Marker Ngozi"')
    assert "Ngozi" not in refused.error().message + caplog.text + demo.health().detail
    process = demo._child  # what its process has said
    assert process is None or "Ngozi" not in str(getattr(process, "_words", ""))


def test_a_form_with_control_characters_of_the_vocabulary_is_no_end(demo: EngineProcess) -> None:
    answer = asked(demo, 40, grammar='root ::= "<|im_start|>" [a-z]{3}')
    assert answer.done().reason == "stop"
    assert answer.text.startswith("<|im_start|>")
    assert len(answer.text) == len("<|im_start|>") + 3


small_schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string", "maxLength": 6},
            {"type": "integer", "minimum": -3, "maximum": 120},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
            {"type": ["boolean", "null"]},
            {"enum": ["oral", "IV", "é剂👶", 'a "quote" and \\']},
        ]
    ),
    lambda inner: (
        st.dictionaries(st.sampled_from(["dose_mg", "route", 'a"b', "剂"]), inner, min_size=1, max_size=3).map(
            lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[:1]}
        )
        | inner.map(lambda one: {"type": "array", "items": one, "maxItems": 3})
    ),
    max_leaves=4,
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=small_schemas, seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 0.8, 2.0]))
def test_every_answer_held_to_a_schema_satisfies_it(
    demo: EngineProcess, schema: dict[str, Any], seed: int, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, seed=seed)
    answer = asked(demo, 300, grammar=schema_grammar(schema), sampling=sampling)
    assert answer.done().reason == "stop"
    jsonschema.Draft202012Validator(schema).validate(json.loads(answer.text))


def test_any_json_object_is_json(demo: EngineProcess) -> None:
    answer = asked(demo, 300, grammar=json_grammar(), sampling=Sampling(temperature=1.0, seed=5))
    if answer.done().reason == "stop":
        assert isinstance(json.loads(answer.text), dict)
    assert answer.text.startswith("{")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """A model with the tags of thinking in its vocabulary; it never ends by itself."""
    import tiny_models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "SPECIAL_TOKENS", (*tiny_models.SPECIAL_TOKENS, "<think>", "</think>"))
        model = tiny_models.write_tiny_qwen2(tmp_path_factory.mktemp("thinker") / "thinks.gguf")
    engine = EngineProcess(EngineConfig(model_path=model, context_length=256))
    engine.start()
    yield engine
    engine.close()


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_a_grammar_begins_with_the_answer_behind_the_thinking(
    thinker: EngineProcess, opened: bool, penalty: float
) -> None:
    prompt = tuple(thinker.tokenize([PromptPart("dose <think>\n" if opened else "dose ", special=True)]))
    request = GenerationRequest(
        str(next(_NUMBERS)),
        prompt,
        30,
        sampling=Sampling(presence_penalty=penalty),
        reasoning_limit=5,
        grammar='root ::= "dose " [c-d]{3}',
        top_logprobs=1,
    )
    heard = ask(thinker, request)
    done = heard.done()
    said = "".join(e.text for e in heard.events if isinstance(e, TextEvent) and not e.reasoning)
    assert done.reason == "stop"
    assert said.startswith("dose ")
    assert len(said) == 8
    assert set(said[5:]) <= {"c", "d"}
    assert (done.reasoning_tokens > 0) is opened
    assert b"".join(token.drawn.piece for token in tokens_of(heard)).decode() == said


def test_draws_by_a_grammar_are_as_likely_as_among_the_allowed_tokens(demo: EngineProcess) -> None:
    told = asked(demo, 1, top_logprobs=demo.info.vocab_size)
    told.done()
    letters = [b" the", b" a", b" of", b" in"]
    weight = {one.piece: math.exp(one.logprob) for one in tokens_of(told)[0].likeliest if one.piece in letters}
    assert len(weight) == 4
    grammar = "root ::= " + " | ".join(f'"{piece.decode()}"' for piece in letters)
    n_draws, temperature = 150, 3.0
    answers = [
        asked(demo, 1, grammar=grammar, sampling=Sampling(temperature=temperature, seed=seed), top_logprobs=0)
        for seed in range(n_draws)
    ]
    pieces = []
    for answer in answers:
        answer.wait()
        pieces.append(tokens_of(answer)[0].drawn.piece)
    whole = [piece for piece in pieces if piece in letters]
    softened = {piece: value ** (1 / temperature) for piece, value in weight.items()}
    for piece in letters:
        share = softened[piece] / sum(softened.values())
        spread = math.sqrt(share * (1 - share) / len(whole))
        assert whole.count(piece) / len(whole) == pytest.approx(share, abs=4.5 * spread)
