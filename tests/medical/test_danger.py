from pathlib import Path

import pytest
from cpu_time import fastest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.medical.category import classify
from edgemed.medical.danger import danger_signs
from edgemed.medical.language import language_data

SENTENCES = [
    line.split("\t") for line in (Path(__file__).parent / "data" / "danger_en.tsv").read_text("utf-8").splitlines()
]
ALARMING = [
    phrase
    for words in ("fit", "bleed", "snake", "bite", "poison", "ate", "breathe", "cant")
    for phrase in language_data().danger.words[words]
]


def signs(text: str) -> set[str]:
    return {sign.sign for sign in danger_signs(text)}


@pytest.mark.parametrize("sentence", [text for kind, text in SENTENCES if kind == "danger"])
def test_somebody_in_danger_is_seen(sentence: str) -> None:
    assert danger_signs(sentence)


@pytest.mark.parametrize("sentence", [text for kind, text in SENTENCES if kind == "safe"])
def test_alarming_words_without_danger_raise_no_alarm(sentence: str) -> None:
    assert not danger_signs(sentence)


def test_sign_says_where_it_stands_in_bytes_and_as_written() -> None:
    text = "é — the boy is CONVULSING"
    (sign,) = danger_signs(text)
    assert sign.sign == "convulsion"
    assert text.encode()[sign.start : sign.end].decode() == sign.words == "CONVULSING"


def test_negation_reaches_over_a_list_that_ends_in_or() -> None:
    assert not danger_signs("my son has no cough, convulsions or bleeding")
    assert "convulsion" in signs("my son has no cough, convulsions since this morning")


def test_negation_ends_at_but_and_at_a_full_stop() -> None:
    assert signs("no fever but convulsing") == {"convulsion"}
    assert signs("No fever. Convulsing") == {"convulsion"}


def test_negation_inside_a_sign_does_not_deny_it() -> None:
    assert "not-breathing" in signs("he is not breathing")
    assert "cannot-drink" in signs("my baby does not drink")


def test_past_is_told_from_now() -> None:
    assert not danger_signs("He had fits two years ago")
    assert "convulsion" in signs("He had fits two years ago and is fitting again")


def test_what_if_is_told_from_what_is() -> None:
    assert not danger_signs("What do I do if a child chokes?")
    assert "choking" in signs("child is choking what do I do")


def test_teaching_is_told_from_asking_for_help() -> None:
    assert not danger_signs("I teach mothers about convulsions and snake bite")
    assert "convulsion" in signs("I teach mothers, and now one of them is having convulsions here")


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("2 month old with 65 breaths a minute", "breathing-distress"),
        ("man, BP 70/40", "shock"),
        ("she has a blood sugar of 1,9", "diabetic-emergency"),
        ("newborn 3 days old, temp 38.4", "neonatal"),
        ("34 weeks pregnant, BP 170/110", "eclampsia"),
        ("in labour for 26 hours", "prolonged-labour"),
        ("my father, SpO2 82", "breathing-distress"),
    ],
)
def test_measured_values_out_of_bounds_are_signs(text: str, sign: str) -> None:
    assert sign in signs(text)


@pytest.mark.parametrize(
    "text", ["RR 32, 2 years old", "BP 120/80", "blood sugar 5.4", "temp 38.4, 3 years old", "SpO2 97"]
)
def test_measured_values_within_bounds_are_none(text: str) -> None:
    assert not danger_signs(text)


def test_one_wrong_letter_in_a_long_word_is_mended() -> None:
    assert "unconscious" in signs("my wife is unconscius")


def test_each_sign_comes_once() -> None:
    found = danger_signs("convulsing, convulsing, he is convulsing")
    assert len(found) == len({sign.sign for sign in found})


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    danger_signs(text)


@given(st.text(alphabet=st.characters(codec=None), max_size=100))
def test_places_lie_in_the_text(text: str) -> None:
    whole = f"{text} she is convulsing {text}"
    size = len(whole.encode("utf-8", "surrogatepass"))
    for sign in danger_signs(whole):
        assert 0 <= sign.start < sign.end <= size


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([*ALARMING, "no", ",", ".", "if", "now", "and", "or", "12"]), max_size=30))
def test_any_heap_of_alarming_words_is_read(words: list[str]) -> None:
    danger_signs(" ".join(words).replace("*", ""))


@pytest.mark.parametrize(
    "piece",
    [
        "a ",
        "no fits. ",
        "bleeding heavily, ",
        "she is ",
        "convulsionz ",
        "if he can't ",
        "12 ",
        "\ud800",
        "ش ",
        "blood lips blue not ",
    ],
)
def test_a_hundred_kilobytes_take_a_tenth_of_a_second(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    danger_signs("")
    assert fastest(lambda: danger_signs(text), 0.1) < 0.1


def test_dose_question_about_anyone_is_no_alarm_but_one_about_somebody_is() -> None:
    assert not danger_signs("dose of salbutamol for severe asthma attack in a child?")
    assert not danger_signs("What amount of diazepam is right for an adult with convulsions?")
    assert "breathing-distress" in signs("dose of salbutamol for my child with a severe asthma attack?")
    assert "convulsion" in signs("Diazepam dose for a 10 kg child having convulsions")


def test_words_that_say_it_is_over_reach_back_over_a_comma_and_now() -> None:
    assert not danger_signs("bled a lot with the second, now asks about pills")
    assert "bleeding" in signs("bled a lot with the second, now bleeding a lot")


def test_teacher_is_no_misspelt_teaching() -> None:
    assert signs("our teacher collapsed in front of the children")


@pytest.mark.parametrize(
    "question",
    ["L'enfant ne respire plus", "La madre está sangrando mucho después del parto y no responde", "Mtoto hapumui"],
)
def test_danger_is_seen_in_another_language_than_the_chosen_one(question: str) -> None:
    assert classify(question, "en").danger


def test_other_languages_do_not_alarm_over_an_english_question() -> None:
    assert not classify("What is the dose of salbutamol for asthma in an adult?", "en").danger
