"""Two tokenizations of one text, cut where both have a boundary: fuzzed, and against brute force."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.distill.alignment import NO_CHUNK, Alignment, Piece, align

texts = st.text(st.sampled_from("ab 7,é€😀\r\n"), max_size=12)


@st.composite
def tokenizations(draw: st.DrawFn) -> tuple[bytes, list[Piece], list[Piece]]:
    """A text cut twice at any bytes, with tokens of no bytes among them."""
    data = draw(texts).encode()

    def cut() -> list[Piece]:
        at = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=6)))
        ends = [0, *(one for one in at if one < len(data)), len(data)]
        pieces = [Piece(data[a:b]) for a, b in pairwise(ends) if b > a]
        if draw(st.booleans()):
            pieces.insert(draw(st.integers(0, len(pieces))), Piece(b""))
        return pieces

    return data, cut(), cut()


def bytes_of(pieces: list[Piece], chunks: tuple[int, ...], n: int) -> list[bytes]:
    return [b"".join(p.data for p, chunk in zip(pieces, chunks, strict=True) if chunk == number) for number in range(n)]


@settings(deadline=None)
@given(tokenizations())
def test_chunks_are_the_same_bytes_on_both_sides_and_the_finest_there_are(
    made: tuple[bytes, list[Piece], list[Piece]],
) -> None:
    data, student, teacher = made
    found = align(student, teacher)
    ours, theirs = (bytes_of(*side, found.n_chunks) for side in ((student, found.student), (teacher, found.teacher)))
    assert ours == theirs
    assert b"".join(ours) == data

    def boundaries(pieces: list[Piece]) -> set[int]:
        return {sum(len(p.data) for p in pieces[: n + 1]) for n in range(len(pieces))} - {0}

    assert set(found.ends) == boundaries(student) & boundaries(teacher)
    assert sum(found.kinds().values()) == found.n_chunks


@settings(deadline=None)
@given(tokenizations())
def test_one_tokenizer_gives_one_token_a_chunk(made: tuple[bytes, list[Piece], list[Piece]]) -> None:
    pieces = [piece for piece in made[1] if piece.data]
    found = align(pieces, pieces)
    assert found.student == found.teacher == tuple(range(len(pieces)))
    assert set(found.kinds()) <= {"1:1"}


@settings(deadline=None)
@given(tokenizations(), st.integers(0, 20), st.integers(0, 20))
def test_an_entity_is_whole_chunks_or_cannot_be_compared(
    made: tuple[bytes, list[Piece], list[Piece]], start: int, end: int
) -> None:
    data, student, teacher = made
    found = align(student, teacher)
    chunks = found.chunks_of(start, end)
    on_boundaries = start in {0, *found.ends} and end in found.ends and start < end <= len(data)
    assert (chunks is not None) == on_boundaries
    if chunks is not None:
        texts_of = bytes_of(student, found.student, found.n_chunks)
        assert b"".join(texts_of[chunk] for chunk in chunks) == data[start:end]


def test_digits_of_the_student_are_one_token_of_the_teachers() -> None:
    student = [Piece(one) for one in (b"give", b" ", b"2", b"5", b"0", b" mg")]
    teacher = [Piece(one) for one in (b"give", b" ", b"250", b" mg")]
    found = align(student, teacher)
    assert found == Alignment((0, 1, 2, 2, 2, 3), (0, 1, 2, 3), (4, 5, 8, 11))
    assert dict(found.kinds()) == {"1:1": 3, "n:1": 1}
    assert found.chunks_of(5, 8) == range(2, 3)
    assert found.chunks_of(5, 7) is None


def test_special_tokens_are_matched_by_role_and_hold_the_sides_together() -> None:
    student = [Piece(b"", "user"), Piece(b"ab"), Piece(b"", "assistant"), Piece(b"c"), Piece(b"", "eos")]
    teacher = [
        Piece(b"", "bos"),
        Piece(b"", "user"),
        Piece(b"a"),
        Piece(b"b"),
        Piece(b"", "assistant"),
        Piece(b"c"),
        Piece(b"", "eos"),
    ]
    found = align(student, teacher)
    assert found.student == (0, 1, 2, 3, 4)
    assert found.teacher == (NO_CHUNK, 0, 1, 1, 2, 3, 4)
    assert found.chunks_of(0, 2) == range(1, 2)
    assert found.chunks_of(2, 3) == range(3, 4)


def test_texts_that_differ_are_refused_with_their_place() -> None:
    with pytest.raises(UsageError, match="from byte 3 on"):
        align([Piece(b"abc"), Piece(b"\xc3\xa9")], [Piece(b"abce\xcc\x81")])
    with pytest.raises(UsageError, match="from byte 1 on"):
        align([Piece(b"a")], [Piece(b"ab")])


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ([Piece(b"", "think")], [Piece(b"")], "'think'"),
        ([Piece(b"", "user"), Piece(b"", "eos")], [Piece(b"", "eos"), Piece(b"", "user")], "different orders"),
    ],
)
def test_conversations_that_do_not_match_are_refused(student: list[Piece], teacher: list[Piece], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        align(student, teacher)
