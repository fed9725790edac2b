"""One text in the tokens of teacher and student: spelled whole, ended as the model ends, thought apart from answer."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from checkpoints import write_byte_level_tokenizer, write_sentencepiece_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.distill.alignment import align
from edgemed.distill.rendering import Rendered, Side, thinks

TRACE = "<think>\r\n12 kg, so 40 mg/kg: 480 mg.\n</think>Give 480 mg."
words = st.text(
    st.sampled_from("ab 7\u0301,\u20ac\U0001f48a\r\n<>/think") | st.characters(exclude_categories=["Cs"]), max_size=40
)
answers = words.filter(lambda text: text.strip() and not text.strip().startswith("<think>"))


def texts_of(side: Rendered, chunks: tuple[int, ...], n_chunks: int) -> list[bytes]:
    found = [b""] * n_chunks
    for piece, chunk in zip(side.pieces, chunks, strict=True):
        found[chunk] += piece.data
    return found


@settings(deadline=None)
@given(answers, words)
def test_chunks_of_both_sides_spell_the_text(deepseek: Side, llama3: Side, answer: str, thought: str) -> None:
    whole = f"<think>{thought.replace('</think>', '')}</think>{answer}"
    for text in (answer, whole):
        student, teacher = deepseek.answer(text), llama3.answer(text)
        found = align(student.pieces, teacher.pieces)
        ours, theirs = (
            texts_of(side, chunks, found.n_chunks)
            for side, chunks in ((student, found.student), (teacher, found.teacher))
        )
        assert ours == theirs
        assert b"".join(ours) == student.text.encode() == teacher.text.encode()
        assert -1 not in found.student
        assert student.text.endswith(unicodedata.normalize("NFC", answer).strip())


@settings(deadline=None, max_examples=30)
@given(answers)
def test_one_tokenizer_gives_one_token_a_chunk(demo: Side, answer: str) -> None:
    rendered = demo.answer(answer)
    assert align(rendered.pieces, rendered.pieces).student == tuple(range(len(rendered.ids)))


@pytest.mark.parametrize(("side", "end"), [("deepseek", 151643), ("qwen", 151645), ("llama3", 4), ("demo", 2)])
def test_an_answer_ends_as_the_template_ends_a_turn(side: str, end: int, request: pytest.FixtureRequest) -> None:
    """ "end of sentence", "im_end" twice, and "eot_id" where EOS is another."""
    found: Side = request.getfixturevalue(side)
    rendered = found.answer("Give 5 mg.")
    assert rendered.ids[-1] == found.end == end
    assert [piece.anchor for piece in rendered.pieces if piece.anchor] == ["eos"]


def test_without_a_template_the_end_is_eos_and_without_that_there_is_none(tmp_path: Path) -> None:
    write_byte_level_tokenizer(tmp_path, chat_template=None)
    assert Side(tmp_path).end == 2
    write_byte_level_tokenizer(tmp_path, chat_template=None, eos_token=None)
    with pytest.raises(UsageError, match="ends an answer"):
        Side(tmp_path)


def test_tags_are_the_models_tokens_where_they_are_tokens_and_anchors_everywhere(deepseek: Side, qwen: Side) -> None:
    ours, theirs = deepseek.answer(TRACE), qwen.answer(TRACE)
    assert [piece.anchor for piece in ours.pieces if piece.anchor] == ["think", "/think", "eos"]
    assert [piece.anchor for piece in theirs.pieces if piece.anchor] == ["think"] * 3 + ["/think"] * 3 + ["eos"]
    found = align(theirs.pieces, ours.pieces)
    assert found.kinds() == {"1:1": found.n_chunks - 2, "n:1": 2}
    assert ours.text == theirs.text == "\n12 kg, so 40 mg/kg: 480 mg.\n\n\nGive 480 mg."


def test_thinking_is_the_reasoning_with_its_tags(deepseek: Side) -> None:
    rendered = deepseek.answer(TRACE)
    closed = next(number for number, piece in enumerate(rendered.pieces) if piece.anchor == "/think")
    assert rendered.thinking == (True,) * (closed + 1) + (False,) * (len(rendered.ids) - closed - 1)
    assert not any(deepseek.answer("Give 480 mg.").thinking)


def test_a_prompt_leaves_thinking_to_an_answer_that_thinks_and_ends_it_for_others(deepseek: Side, qwen: Side) -> None:
    opened, closed = (deepseek.prompt("Dose of zinc?", thinks=which) for which in (True, False))
    tags = deepseek.role_ids()
    assert opened == closed[: len(opened)]
    assert tags["think"] not in opened
    assert [token for token in closed[len(opened) :] if token in tags.values()] == [tags["think"], tags["/think"]]
    assert deepseek.opening[0] == tags["think"]
    assert thinks(deepseek.opening_text + "40 mg/kg\n</think>\nGive it.")
    assert (qwen.reasons, qwen.opening, qwen.opening_text) == (False, [], "")
    assert qwen.prompt("Dose?", thinks=True) == qwen.prompt("Dose?")


def test_a_prompt_for_a_trace_and_its_answer_are_what_the_model_would_have_written(deepseek: Side) -> None:
    rendered = deepseek.answer(TRACE)
    assert list(rendered.ids[: len(deepseek.opening)]) == deepseek.opening


@pytest.mark.parametrize("text", ["<think>never ends", "<think>ends</think>\n ", " \n", "<think></think>"])
def test_a_text_without_an_answer_is_refused(deepseek: Side, text: str) -> None:
    with pytest.raises(UsageError, match="holds no answer"):
        deepseek.answer(text)


def test_an_empty_thought_is_none(deepseek: Side) -> None:
    assert not thinks("<think>\n\n</think>\n\nGive it.")
    assert deepseek.answer("<think>\n\n</think>\n\nGive it.") == deepseek.answer("Give it.")


def test_letters_are_composed_once_for_both(deepseek: Side, llama3: Side) -> None:
    assert deepseek.answer("fie\u0300vre").text == llama3.answer("fie\u0300vre").text == "fi\u00e8vre"


def test_the_blank_that_sentencepiece_puts_first_is_not_the_texts(tmp_path: Path) -> None:
    write_sentencepiece_tokenizer(tmp_path)
    side = Side(tmp_path)
    assert (
        b"".join(piece.data for piece in side.answer("Give 15 mg/kg \U0001f48a").pieces)
        == "Give 15 mg/kg \U0001f48a".encode()
    )


def test_starts_are_the_bytes_at_which_tokens_start(llama3: Side) -> None:
    rendered = llama3.answer("\u20ac 250 mg")
    raw = rendered.text.encode()
    assert [raw[a:b] for a, b in pairwise(rendered.starts())] == [piece.data for piece in rendered.pieces]


def test_the_vocabulary_has_the_bytes_of_text_alone(deepseek: Side, demo: Side) -> None:
    words = deepseek.vocabulary()
    assert words[deepseek.answer("a").ids[0]] == b"a"
    assert all(not words[token] for token in deepseek.role_ids().values())
    assert len(demo.vocabulary()) <= 4096


def test_the_digest_is_that_of_tokenizer_and_template(tmp_path: Path) -> None:
    write_byte_level_tokenizer(tmp_path)
    before = Side(tmp_path).digest
    assert Side(tmp_path).digest == before
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    assert Side(tmp_path).digest != before
