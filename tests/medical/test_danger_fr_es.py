"""French and Spanish sentences with and without somebody in danger."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemed.medical.danger import danger_signs
from edgemed.medical.language import language_data

SENTENCES = [
    (language, *line.split("\t"))
    for language in ("fr", "es")
    for line in (Path(__file__).parent / "data" / f"danger_{language}.tsv").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize(("language", "text"), [(code, text) for code, kind, text in SENTENCES if kind == "danger"])
def test_somebody_in_danger_is_seen(language: str, text: str) -> None:
    assert danger_signs(text, language)


@pytest.mark.parametrize(("language", "text"), [(code, text) for code, kind, text in SENTENCES if kind == "safe"])
def test_alarming_words_without_danger_raise_no_alarm(language: str, text: str) -> None:
    assert not danger_signs(text, language)


@pytest.mark.parametrize(
    ("language", "text"), [("fr", "Il n\u2019a pas de convulsions"), ("es", "No tiene convulsiones")]
)
def test_denied_convulsions_are_none(language: str, text: str) -> None:
    assert not danger_signs(text, language)


@pytest.mark.parametrize("language", ["fr", "es"])
def test_signs_are_called_as_in_english(language: str) -> None:
    english = {sign.sign for sign in language_data("en").danger.sign}
    assert {sign.sign for sign in language_data(language).danger.sign} <= english
