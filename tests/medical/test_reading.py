"""The plain form of a text, and the way back to bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.reading import read

ANY_TEXT = st.text(st.characters(), max_size=60)


def test_dashes_quotes_accents_and_digits_of_other_scripts_become_plain() -> None:
    assert read("Ibuprofène 5\u201310 mg \u201cx\u201d \u0665").plain == 'ibuprofene 5-10 mg "x" 5'


def test_a_thin_blank_stays_apart_from_a_blank() -> None:
    assert read("1\u202f000\u00a0mg").plain == "1\u2009000\u2009mg"


@given(ANY_TEXT)
def test_each_character_of_the_plain_form_stands_for_one_of_the_text(text: str) -> None:
    reading = read(text)
    places = reading.places or tuple(range(len(text) + 1))
    assert len(places) == len(reading.plain) + 1
    assert places[-1] == len(text)


@given(ANY_TEXT)
def test_byte_offsets_cut_the_text_where_the_places_do(text: str) -> None:
    reading = read(text)
    offsets = reading.byte_offsets(range(len(reading.plain) + 1))
    data = text.encode("utf-8", "surrogatepass")
    for place in range(len(reading.plain) + 1):
        original = place if reading.places is None else reading.places[place]
        assert data[: offsets[place]].decode("utf-8", "surrogatepass") == text[:original]


@given(ANY_TEXT)
def test_reading_the_plain_form_of_ascii_changes_nothing(text: str) -> None:
    plain = read(text).plain
    if plain.isascii():
        assert read(plain).plain == plain
