"""What is taught is checked first, all faults together; what an examination asks is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.distill.examples import Example, examples_digest, find_leaks, read_examples

GOOD = {"question": "What is the dose of zinc in diarrhoea?", "answer": "20 mg a day for 10 to 14 days."}


def written(folder: Path, *lines: object) -> Path:
    path = folder / "taught.jsonl"
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_examples_come_in_order_and_are_named_by_their_line(tmp_path: Path) -> None:
    found = read_examples(written(tmp_path, GOOD, b"", {**GOOD, "id": "zinc", "answer": "10 mg below six months."}))
    assert [one.id for one in found] == ["line 1", "zinc"]
    assert found[0].answer == GOOD["answer"]
    assert examples_digest(found) != examples_digest(found[:1])


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        GOOD,
        b"{",
        {"question": "a"},
        {**GOOD, "answer": ""},
        {**GOOD, "answer": " . "},
        {**GOOD, "score": 3},
        b'{"question": "caf\xe9", "answer": "x"}',
        {"question": "what is the dose of ZINC, in diarrhoea", "answer": "20 mg a day for 10 to 14 days"},
    )
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    said = str(caught.value)
    for words in (
        "line 2: is no JSON",
        "line 3: answer",
        "line 4: answer",
        "line 5: the answer says nothing",
        "line 6: score",
        "line 7: byte 17 is no UTF-8",
        "line 8: says the same as line 1",
    ):
        assert words in said, said


@pytest.mark.parametrize("lines", [(), (b"", b"  ")])
def test_an_empty_file_is_refused(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    with pytest.raises(UsageError, match="no example"):
        read_examples(written(tmp_path, *lines))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")


words = st.lists(st.sampled_from(["fever", "a", "child", "with", "no", "rash", "5"]), min_size=1, max_size=40)


@given(words, words, st.integers(1, 6))
def test_leaks_are_those_that_brute_force_finds(question: list[str], other: list[str], n_words: int) -> None:
    example = Example(question=" ".join(question).upper() + "?", answer="Give fluids.")

    def runs(text: list[str]) -> set[str]:
        return {" ".join(text[at : at + n_words]) for at in range(len(text) - n_words + 1)}

    leaked = bool(runs(question) & runs(other)) or (len(other) < n_words and question == other)
    # "Give fluids." holds no word of the other text, so the answer leaks nothing.
    assert bool(list(find_leaks([example], [", ".join(other)], n_words))) == leaked


def test_an_answer_can_leak_as_well() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    (leak,) = find_leaks([Example(question="q", answer=f"so: {text}, fourteen")], [f"zero {text}"])
    assert leak.words == text
