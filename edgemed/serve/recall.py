"""The answer cache on the way of one question: what it is asked with, and what it is given to keep."""

from __future__ import annotations

from dataclasses import dataclass

from edgemed import __version__
from edgemed.core.errors import EdgemedError
from edgemed.engines.base import DoneEvent, Engine
from edgemed.engines.embedding import embed_text
from edgemed.medical.clinical_key import clinical_key
from edgemed.medical.prompts import templates_digest
from edgemed.serve.consultation import Consultation
from edgemed.serve.options import ServeOptions
from edgemed.serve.response_cache import Answered, Asked, CacheContext, CachedAnswer, Miss, ResponseCache
from edgemed.serve.schemas import ChatRequest

TURNED_OFF = "off"
"""Why there is no saved answer when the caller wanted none, or one of another kind."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """A question as it was put to the cache, and what came back."""

    asked: Asked | None
    """None when the caller turned the cache off, or wants what no saved answer has."""
    answer: CachedAnswer | None
    state: str
    """For the journal: "memory" or "disk", else why there is no saved answer."""


class Recall:
    """One server's cache with its engine; every method may be called on any thread."""

    def __init__(self, cache: ResponseCache, engine: Engine, options: ServeOptions) -> None:
        self.cache = cache
        self._engine = engine
        self._options = options

    def find(self, case: Consultation, request: ChatRequest) -> Recalled:
        """The saved answer to this question, if there is one that may be given."""
        if request.cache == "off" or not request.is_plain:
            return Recalled(None, None, TURNED_OFF)
        asked = self._asked(case, request)
        if request.cache == "retry":
            self.cache.forget(asked)
            return Recalled(asked, None, "retry")
        found = self.cache.lookup(asked)
        if isinstance(found, Miss):
            return Recalled(asked, None, found.reason)
        return Recalled(asked, found, found.level)

    def keep(self, recalled: Recalled, text: str, done: DoneEvent, *, numbers_clean: bool) -> None:
        """Keep an answer of the model, if question, answer and ending allow it."""
        if recalled.asked is None or recalled.answer is not None:
            return
        answered = Answered(text, done.reason, numbers_clean, done.completion_tokens)
        self.cache.store(recalled.asked, answered)

    def _asked(self, case: Consultation, request: ChatRequest) -> Asked:
        question = case.conversation.question
        return Asked(
            question=question,
            context=self._context(case, request),
            key=clinical_key(question, case.language),
            emergency=case.emergency,
            has_history=bool(case.conversation.history),
            embed=self._embedding,
        )

    def _context(self, case: Consultation, request: ChatRequest) -> CacheContext:
        return CacheContext(
            model_name=self._options.name_of(request.model),
            model_digest=self._options.model_digest,
            adapter=self._options.adapters.get(self._options.adapter_of(request.model), ""),
            templates_digest=templates_digest(case.language, case.languages_folder),
            medical_version=__version__,
            language=case.language,
            max_tokens=request.token_limit or case.pace.max_tokens,
            reasoning_tokens=case.pace.reasoning_tokens,
            temperature=case.pace.temperature,
            top_p=case.pace.top_p,
            seed=request.seed,
            stop=tuple(request.stop or ()),
        )

    def _embedding(self, question: str) -> tuple[float, ...] | None:
        """By the served model itself; None where it gives none, and words alone decide."""
        try:
            return tuple(embed_text(self._engine, question))
        except EdgemedError:
            return None
