"""The interface's texts: the same in every language, each used, and none left in the code of the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgemed.demo import DEMO_NOTICE
from edgemed.medical.language import Category, language_data, languages
from edgemed.serve.options import CARE_NOTICE
from edgemed.serve.page import WEB

OWN = ("app", "calculators", "card", "dom", "fields", "interrupted", "machine", "medical", "numbers", "plot")
MODULES = [WEB / f"{name}.js" for name in (*OWN, "server", "session", "slip", "status", "taken", "views", "words")]
PAGES = [WEB / "index.html", WEB / "status.html"]
OTHERS = ("es", "fr", "sw")
WHOLE_WORDS = {"Content-Type", "Escape", "Enter", "AbortError"}
"""Names of keys, headers and errors."""
FOR_STYLES = {"asked-numbers care", "line line- ", "paper-mark  "}
"""Classes and selectors of CSS."""
FROM_SERVER = {"from memory"}
"""What the server writes, compared with."""

Text = str | dict[str, str]


def texts(code: str) -> dict[str, Text]:
    """The file is JavaScript to the browser, and JSON between its first and last words."""
    source = (WEB / "words" / f"{code}.js").read_text(encoding="utf-8").strip()
    assert source.startswith("export default ")
    assert source.endswith(";")
    pairs = json.loads(source.removeprefix("export default ")[:-1], object_pairs_hook=list)
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), "a key stands twice"
    return {key: dict(value) if isinstance(value, list) else value for key, value in pairs}


def forms(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text.values())


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def without_comments(path: Path) -> str:
    return re.sub(r"(?m)(^|\s)//.*$", "", path.read_text(encoding="utf-8"))


def literals(path: Path) -> list[str]:
    """The strings of a module; what stands inside of ${} is not text."""
    found = re.findall(r'"([^"\n]*)"|`([^`\n]*)`', without_comments(path))
    return [re.sub(r"\$\{[^}]*\}", " ", double or template) for double, template in found]


@pytest.mark.parametrize("code", OTHERS)
def test_each_language_has_the_same_texts_with_the_same_placeholders(code: str) -> None:
    english, other = texts("en"), texts(code)
    assert list(other) == list(english)
    for key, text in other.items():
        assert isinstance(text, dict) == isinstance(english[key], dict), key
        for form, in_english in zip(forms(text), forms(english[key]), strict=True):
            assert form.strip() == form != "", key
            assert placeholders(form) == placeholders(in_english), (key, form)


@pytest.mark.parametrize("code", ["en", *OTHERS])
def test_plural_forms_count_by_n(code: str) -> None:
    for key, text in texts(code).items():
        if isinstance(text, dict):
            assert list(text) == ["one", "other"], key
            assert "n" in placeholders(text["other"]), key


@pytest.mark.parametrize("code", OTHERS)
def test_texts_are_translated(code: str) -> None:
    english, other = texts("en"), texts(code)
    same = [key for key, text in other.items() if text == english[key] and re.search(r"[a-z]{3} [a-z]{3}", str(text))]
    assert same == []


def test_every_text_is_used_and_every_used_text_is_there() -> None:
    sources = "".join(without_comments(path) for path in MODULES)
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    keys = texts("en")
    exact = set(re.findall(r'"([a-z]+\.[a-z_]+)"', sources)) | set(re.findall(r'data-t\S*="([^"]+)"', pages))
    families = tuple(re.findall(r"`([a-z]+\.[a-z_]*)\$\{", sources))
    assert [key for key in keys if key not in exact and not key.startswith(families)] == []
    named = {key for key in exact if key.split(".")[0] in {each.split(".")[0] for each in keys}}
    assert [key for key in sorted(named) if key not in keys and not key.startswith("edgemed.")] == []
    assert all(any(key.startswith(family) for key in keys) for family in families)


def test_no_text_for_people_is_left_in_the_code() -> None:
    left = [
        (path.name, literal)
        for path in MODULES
        for literal in literals(path)
        if (re.search(r"[A-Za-z]{2,} [A-Za-z]{2,}", literal) or re.match(r"[A-Z][a-z]{2,}", literal))
        and literal not in WHOLE_WORDS | FOR_STYLES | FROM_SERVER
    ]
    assert left == []


class _Texts(HTMLParser):
    """Collects what a page says by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.said += [value for name, value in attrs if name in ("aria-label", "title", "placeholder") and value]

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"noscript", "title", "h1"} & set(self._open):
            self.said.append(data.strip())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_text_for_people_is_left_in_the_pages(path: Path) -> None:
    page = _Texts()
    page.feed(path.read_text(encoding="utf-8"))
    assert [each for each in page.said if each.strip()] == []


def test_words_for_what_the_server_names_are_complete() -> None:
    keys = texts("en")
    assert {f"category.{each.value}" for each in Category} == {key for key in keys if key.startswith("category.")}
    subclasses = {
        f"subclass.{name}" for code in languages() for each in language_data(code).subclasses.values() for name in each
    }
    assert subclasses == {key for key in keys if key.startswith("subclass.")}
    assert (keys["clinical.notice"], keys["clinical.demo"]) == (CARE_NOTICE, DEMO_NOTICE)


def test_each_shipped_language_of_questions_is_a_language_of_the_page() -> None:
    assert {path.stem for path in (WEB / "words").iterdir()} == {"en", *OTHERS} == set(languages())
