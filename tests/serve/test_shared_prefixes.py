"""Our own templates are shared, and never a word of a question."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from serving import serving

from edgemed.core.errors import EngineFailed
from edgemed.core.prompt import PromptPart
from edgemed.engines.fake import FakeEngine
from edgemed.medical.language import Category, languages
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat
from edgemed.serve.shared_prefixes import SharedPrefixes, template_prefixes


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    fake = FakeEngine()
    yield fake
    fake.close()


def prompt(engine: FakeEngine, question: str, category: Category, language: str) -> tuple[int, ...]:
    messages = messages_for(question, category=category, language=language)
    return tuple(engine.tokenize(render_chat(engine.info.chat_template, messages)))


def n_pinned(engine: FakeEngine) -> int:
    """Once the threads that look for templates have ended."""
    for thread in threading.enumerate():
        if thread.name == "templates":
            thread.join(10)
    return len(engine.pinned)


@pytest.mark.parametrize("language", sorted(languages()))
def test_every_prompt_of_a_category_begins_with_its_prefix_and_the_question_follows(
    engine: FakeEngine, language: str
) -> None:
    prefixes = template_prefixes(engine, language)
    assert len(prefixes) == len(Category)
    for category, prefix in zip(Category, prefixes, strict=True):
        asked = prompt(engine, "Zinc for Amina?", category, language)
        assert asked[: len(prefix)] == prefix
        assert engine.text_of(asked[len(prefix) :]).startswith("Zinc")
        assert "Zinc" not in engine.text_of(prefix)


def test_english_is_pinned_at_the_start_and_another_language_when_it_is_used(engine: FakeEngine) -> None:
    shared = SharedPrefixes(engine, None)
    shared.note("fr")
    assert engine.pinned == []  # the server has not begun
    shared.begin()
    assert n_pinned(engine) == 6
    shared.note("fr")
    assert n_pinned(engine) == 12
    shared.note("fr")
    assert engine.pinned == [*template_prefixes(engine, "en"), *template_prefixes(engine, "fr")]


def test_templates_that_could_not_be_cut_are_tried_again_with_the_next_question() -> None:
    class Losing(FakeEngine):
        fails = True

        def tokenize(self, parts: list[PromptPart]) -> list[int]:
            if self.fails:
                raise EngineFailed("lost")
            return super().tokenize(parts)

    engine = Losing()
    shared = SharedPrefixes(engine, None)
    shared.begin()
    assert n_pinned(engine) == 0
    engine.fails = False
    shared.note("en")
    assert n_pinned(engine) == 6
    engine.close()


def test_a_question_in_another_language_has_its_templates_pinned() -> None:
    engine = FakeEngine()
    with serving(engine) as running:
        running.server._app.prefixes.begin()
        assert n_pinned(engine) == 6
        assert running.chat("Quelle est la dose de zinc ?", language="fr").status_code == 200
        assert n_pinned(engine) == 12
