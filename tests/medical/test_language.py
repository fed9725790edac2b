from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.medical.danger import danger_signs
from edgemed.medical.language import Category, language_data, languages

SMALL = """
language = "xx"
name = "Test"
version = 1
apostrophe = "splits"
[templates]
base = "b"
emergency = "e"
medication = "m"
diagnosis = "d"
treatment = "t"
prevention = "p"
[keywords]
medication = ["dosis"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, text: str, code: str = "xx") -> None:
    (folder / f"{code}.toml").write_text(text, encoding="utf-8")


def test_a_clinics_own_language_is_one_file(folder: Path) -> None:
    write(folder, SMALL)
    assert "xx" in languages(folder)
    assert "en" in languages(folder)
    data = language_data("xx", folder)
    assert data.keywords[Category.MEDICATION] == ("dosis",)
    assert not data.danger_checked
    assert danger_signs("convulsions", "xx", folder) == ()


def test_a_folder_of_languages_is_listed_once(folder: Path) -> None:
    write(folder, SMALL)
    listed = languages(folder)
    (folder / "xx.toml").unlink()
    assert languages(folder) == listed
    with pytest.raises(UsageError, match="does not exist"):
        languages(folder / "none")
    (folder / "none").mkdir()
    assert languages(folder / "none") == languages(), "a refusal is not remembered"


def test_every_shipped_language_can_be_read() -> None:
    for code in languages():
        assert language_data(code).language == code


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("version = 1", "version ="), "line 4"),
        (("version = 1", "version = 'one'"), "version"),
        (('base = "b"', 'base = ""'), "templates.base"),
        (('["dosis"]', '["* dosis"]'), "keywords.medication.0"),
        (('["dosis"]', '["..."]'), "keywords.medication.0"),
        (("[keywords]", "[keyword]\n[keywords]"), "keyword"),
        (('language = "xx"', 'language = "yy"'), "yy"),
        (("[keywords]", "[[danger.sign]]\nsign = 'fit'\nrules = ['@fits']\n[keywords]"), "@fits"),
        (("[keywords]", "[[danger.sign]]\nsign = 'fit'\nrules = ['a + b > c']\n[keywords]"), "danger.sign fit"),
        (("[keywords]", "[[danger.number]]\nsign = 'fit'\nwords = ['a']\n[keywords]"), "danger.number.0"),
        (
            (
                "[keywords]",
                "[danger.words]\na = ['@b']\nb = ['@a']\n[[danger.sign]]\nsign = 'x'\nrules = ['@a']\n[keywords]",
            ),
            "@a",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_its_name_and_line_or_field(
    folder: Path, change: tuple[str, str], named: str
) -> None:
    write(folder, SMALL.replace(*change))
    with pytest.raises(UsageError) as refused:
        language_data("xx", folder)
    assert "xx.toml" in refused.value.what
    assert named in refused.value.what


@pytest.mark.parametrize("code", ["zz", "../en", "", "EN"])
def test_an_unknown_language_is_refused_with_those_that_are_there(code: str) -> None:
    with pytest.raises(UsageError) as refused:
        language_data(code)
    assert "en" in refused.value.next_step


def test_a_file_in_the_clinics_folder_goes_before_the_shipped_one(folder: Path) -> None:
    write(folder, SMALL.replace('"xx"', '"en"'), "en")
    assert language_data("en", folder).name == "Test"
    assert language_data("en").name == "English"


def test_phrases_of_a_splitting_language_match_over_an_apostrophe(folder: Path) -> None:
    write(folder, SMALL + "[[danger.sign]]\nsign = 'convulsion'\nrules = [\"l'enfant convulse\"]\n")
    assert danger_signs("L’enfant convulse", "xx", folder)


def test_verb_stems_are_found_after_the_prefixes_of_a_language(folder: Path) -> None:
    verbs = (
        "[verb_prefixes]\naffirming = [['a', 'wa'], ['na', 'me'], ['', 'm']]\naffirming_whole = ['ku']\n"
        "denying = [['ha', 'si'], ['', 'ja']]\n"
        "[[danger.sign]]\nsign = 'blue'\nrules = ['-tapik*']\n[[danger.sign]]\nsign = 'shock'\nrules = ['=pumu*']\n"
    )
    write(folder, SMALL + verbs)
    for text in ("anatapika", "mtoto amemtapika", "wanatpika", "kutapika"):
        assert [sign.sign for sign in danger_signs(text, "xx", folder)] == ["blue"], text
    for text in ("hapumui", "hajapumua tangu jana", "sipumui"):
        assert [sign.sign for sign in danger_signs(text, "xx", folder)] == ["shock"], text
    for text in ("tapika", "hatapiki", "anapumua", "anapika", "a", "ku"):
        assert danger_signs(text, "xx", folder) == (), text
