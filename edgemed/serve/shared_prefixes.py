"""The beginnings that prompts share: our own templates, read by the engine once for everybody.

A prefix is what two prompts with different questions have in common, found by rendering and cutting both, so that it is
right for whatever the model's chat template does around a question. It holds no word of a person's: there was none.

It costs twelve renderings and short tokenizations for each language, in a thread of its own (about 60 ms of CPU), and
the engine reads the tokens while nobody asks; the server is ready without it. English comes first, other languages when
somebody uses them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from edgemed.core.errors import EdgemedError
from edgemed.engines.base import Engine
from edgemed.medical.language import DEFAULT_LANGUAGE, Category
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat

_PLACEHOLDERS = ("a", "7")
"""Two questions that begin with different tokens in every vocabulary."""
_MOST_LANGUAGES = 4
"""An engine keeps the templates of about so many; those used later are read with each question."""

_log = logging.getLogger(__name__)


class SharedPrefixes:
    """Pins the templates of the languages in use. Every method may be called from any thread, and none waits."""

    def __init__(self, engine: Engine, languages_folder: Path | None) -> None:
        self._engine = engine
        self._folder = languages_folder
        self._lock = threading.Lock()
        self._begun = False
        self._noted: set[str] = set()
        self._pinned: list[tuple[int, ...]] = []

    def begin(self) -> None:
        """From now on the templates of the languages that are noted are pinned; English at once."""
        with self._lock:
            self._begun = True
        self.note(DEFAULT_LANGUAGE)

    def note(self, language: str) -> None:
        """A question in this language was asked."""
        if language in self._noted or not self._begun:
            return
        with self._lock:
            if language in self._noted or len(self._noted) >= _MOST_LANGUAGES:
                return
            self._noted.add(language)
        threading.Thread(target=self._pin, args=(language,), name="templates", daemon=True).start()

    def _pin(self, language: str) -> None:
        try:
            found = template_prefixes(self._engine, language, self._folder)
            with self._lock:
                self._pinned += found
                self._engine.pin(self._pinned)
        except EdgemedError as error:  # the questions themselves tell it to somebody who can act on it
            self._noted.discard(language)
            _log.warning("The templates in %s are not shared: %s", language, error.what)


def template_prefixes(engine: Engine, language: str, folder: Path | None = None) -> list[tuple[int, ...]]:
    """The tokens that every prompt of a language and a category begins with, each once. Raises EdgemedError."""
    found: dict[tuple[int, ...], None] = {}
    for category in Category:
        one, other = (_prompt(engine, text, category, language, folder) for text in _PLACEHOLDERS)
        n_common = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
        if n_common:
            found[tuple(one[:n_common])] = None
    return list(found)


def _prompt(engine: Engine, question: str, category: Category, language: str, folder: Path | None) -> Sequence[int]:
    info = engine.info
    messages = messages_for(question, category=category, language=language, folder=folder)
    return engine.tokenize(
        render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    )
