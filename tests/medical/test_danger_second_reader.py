"""The learned reader of danger signs beside the rules: what it adds, what it silences, what it must leave alone."""

from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.medical.danger import UNCLEAR, danger_signs
from edgemed.medical.matching.danger_concepts import concepts_of, measures_by_word
from edgemed.medical.matching.danger_features import MOST_PIECES, PIECE, pieces_of
from edgemed.medical.matching.danger_findings import findings_of
from edgemed.medical.matching.linear import shipped_weights
from edgemed.medical.reading import read

LANGUAGES = ("en", "es", "fr", "sw")


def features(text: str, language: str = "en") -> set[str]:
    findings = findings_of(read(text).plain, language)
    return {feature for piece in pieces_of(findings, language) for feature in (*piece.places, *piece.found)}


def by_rules(text: str, language: str = "en") -> set[str]:
    return set(findings_of(read(text).plain, language).signs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_weights_of_one_class(language: str) -> None:
    weights = shipped_weights(f"danger_{language}")
    assert weights is not None
    assert weights.classes == ("danger",)
    assert not any(len(feature) > 60 for feature in weights.weights)


def test_danger_that_no_rule_names_is_unclear_with_the_words_as_written() -> None:
    text = "Hello. The TWINS came at home, the small one is ICY and his mouth will not close on the nipple."
    assert not by_rules(text)
    (sign,) = danger_signs(text)
    assert sign.sign == UNCLEAR
    assert sign.words in text
    assert text.encode()[sign.start : sign.end].decode() == sign.words


def test_harmless_find_of_a_rule_is_silenced() -> None:
    text = "previous PPH and retained placenta, now 20 wks, Hb 11.9, birth plan?"
    assert by_rules(text) == {"postpartum-bleeding"}
    assert not danger_signs(text)


def test_measured_value_is_never_silenced() -> None:
    text = "for the poster and the quiz, an exercise of last year: man, BP 70/40"
    assert by_rules(text) <= {sign.sign for sign in danger_signs(text)}


def test_rules_of_a_clinics_own_language_file_are_never_silenced(tmp_path: Path) -> None:
    text = "previous PPH and retained placenta, now 20 wks, Hb 11.9, birth plan?"
    shipped = resources.files("edgemed.medical") / "languages" / "en.toml"
    (tmp_path / "en.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    assert {sign.sign for sign in danger_signs(text, "en", tmp_path)} == {"postpartum-bleeding"}


def test_a_language_without_weights_is_read_by_its_rules(tmp_path: Path) -> None:
    shipped = (resources.files("edgemed.medical") / "languages" / "en.toml").read_text(encoding="utf-8")
    (tmp_path / "qq.toml").write_text(shipped.replace('language = "en"', 'language = "qq"', 1), encoding="utf-8")
    text = "previous PPH and retained placenta, now 20 wks, Hb 11.9, birth plan?"
    assert {sign.sign for sign in danger_signs(text, "qq", tmp_path)} == {"postpartum-bleeding"}
    assert not danger_signs("The small one is icy and his mouth will not close on the nipple.", "qq", tmp_path)


def test_the_same_notion_has_one_name_in_every_language() -> None:
    words = {"en": "breathing", "fr": "respire", "es": "respira", "sw": "anapumua"}
    assert all("breathe" in concepts_of(language).of(word) for language, word in words.items())
    assert "no" in concepts_of("sw").of("hapumui")


def test_denied_words_are_marked() -> None:
    assert "not:convulsions" in features("no convulsions")
    assert "convulsions" in features("convulsions")
    assert "c:not:fit" in features("no convulsions")


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("SpO2 84 %", "m:oxygen:low"),
        ("sat 97", "m:oxygen:right"),
        ("RR 72", "m:breaths:high"),
        ("GCS of 15", "m:coma-scale:right"),
        ("BP 75/40", "m:pressure:low"),
        ("TA 17/11", "m:pressure:high"),
        ("120/80", "m:pressure:right"),
        ("T 34.2", "m:temperature:low"),
    ],
)
def test_measured_values_are_features_by_their_size(text: str, feature: str) -> None:
    assert feature in features(text)


def test_only_some_pieces_of_a_long_text_are_judged() -> None:
    pieces = pieces_of(findings_of("he is ill today. " * 2000, "en"), "en")
    assert len(pieces) == MOST_PIECES
    assert all(0 < piece.end - piece.start <= PIECE for piece in pieces)
    assert pieces[-1].end == 8000


def test_words_that_name_measures_are_in_one_measure_each() -> None:
    assert measures_by_word()["spo"][0] == "oxygen"


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=300), st.sampled_from(LANGUAGES))
def test_no_text_raises_and_every_sign_lies_in_it(text: str, language: str) -> None:
    for sign in danger_signs(text, language):
        assert 0 <= sign.start < sign.end <= len(text.encode("utf-8", "surrogatepass"))
        assert sign.words


@pytest.mark.parametrize(
    "text", ["1/2", "\u0664/\u0663", "9" * 5000 + "/" + "9" * 5000, "\ud800 bp \ud800/8", "²/³ bp", "٣٨.٥"]
)
def test_odd_numbers_are_read(text: str) -> None:
    danger_signs(text)
