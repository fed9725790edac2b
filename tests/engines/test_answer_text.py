"""The text of an answer, however its bytes are cut into tokens."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from edgemed.engines.text import AnswerText

_TEXTS = st.text(alphabet="ab. é😀\n", max_size=40)
_STOPS = st.lists(st.text(alphabet="ab. é😀", min_size=1, max_size=4), max_size=3)


def answer_by_characters(text: str, stops: list[str]) -> tuple[str, bool]:
    """The oracle: read one character at a time; the first stop string to be complete ends the answer."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place for place in places if place < len(data))})
    return [data[a:b] for a, b in pairwise(edges)]


@given(_TEXTS, _STOPS, st.lists(st.integers(1, 160)))
@example("xaab", ["aab"], [3])
@example("xaaab", ["aab", "b"], [2, 3, 4])
def test_answer_is_the_same_however_its_bytes_are_cut(text: str, stops: list[str], places: list[int]) -> None:
    answer = AnswerText(stops)
    shown = ""
    for piece in cut(text.encode(), places):
        shown += answer.push(piece)
        if answer.stopped:
            break
    assert (shown + answer.flush(), answer.stopped) == answer_by_characters(text, stops)


@given(_TEXTS, _STOPS, st.lists(st.integers(1, 160)))
def test_nothing_shown_early_has_to_be_taken_back(text: str, stops: list[str], places: list[int]) -> None:
    expected, _ = answer_by_characters(text, stops)
    answer = AnswerText(stops)
    shown = ""
    for piece in cut(text.encode(), places):
        shown += answer.push(piece)
        assert expected.startswith(shown)
        if answer.stopped:
            return


def test_half_a_character_waits_for_its_other_half() -> None:
    answer = AnswerText()
    first, second = "µ".encode()[:1], "µ".encode()[1:]
    assert answer.push(b"5 " + first) == "5 "
    assert answer.push(second + b"g") == "µg"


def test_half_a_character_at_the_end_is_left_out() -> None:
    answer = AnswerText(["zz"])
    assert answer.push("é".encode()[:1]) == ""
    assert answer.flush() == ""


def test_bytes_that_are_no_text_are_marked() -> None:
    assert AnswerText().push(b"a\xffb") == "a\N{REPLACEMENT CHARACTER}b"


def test_text_without_a_stop_string_is_never_held_back() -> None:
    answer = AnswerText(["\n\n"])
    assert answer.push(b"one") == "one"
    assert answer.push(b"\n") == ""
    assert answer.push(b"two") == "\ntwo"


def test_a_long_stop_string_takes_no_more_memory_than_a_few_copies() -> None:
    stop = "x" * 4000
    tracemalloc.start()
    answer = AnswerText([stop + "y"])
    assert answer.push(b"a" + stop.encode()) == "a"
    assert answer.push(b"z") == stop + "z"
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 20 * len(stop)  # all its beginnings would be 2000 copies


def test_an_empty_stop_string_stops_nothing() -> None:
    answer = AnswerText(["", "x"])
    assert answer.push(b"ab") == "ab"
    assert not answer.stopped
