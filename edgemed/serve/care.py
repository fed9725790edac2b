"""The medical side of one question: taken in, looked for among saved answers, its numbers checked, entered, kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemed.core.errors import EdgemedError
from edgemed.engines.base import DoneEvent
from edgemed.medical.clinical_key import clinical_key
from edgemed.medical.guard import Source, Verdict, check_numbers
from edgemed.medical.language import DEFAULT_LANGUAGE, languages
from edgemed.medical.prompts import templates_digest
from edgemed.serve.cache_privacy import private_reason, words_of_language
from edgemed.serve.consultation import Consultation, consult, contradicted, number_fields, verdicts
from edgemed.serve.journal import Journal, JournalEntry, now
from edgemed.serve.metrics import Metrics
from edgemed.serve.options import ServeOptions
from edgemed.serve.recall import Recall, Recalled
from edgemed.serve.schemas import ChatMessage, ChatRequest, Conversation, conversation_of

log = logging.getLogger(__name__)

Facts = Callable[[str], Sequence[Source]]
"""The checked facts that may support numbers in the answer to a question."""


@dataclass(slots=True)
class Course:
    """How one question went; filled on the event loop, read when it has ended."""

    request: ChatRequest
    case: Consultation
    recalled: Recalled
    began: float
    """Monotonic clock, when its body had come."""
    id: str = ""
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    """What a reasoning model said to itself; no part of the answer."""
    medical: dict[str, Any] = field(default_factory=dict)
    done: DoneEvent | None = None
    ended: str = "failed"
    unsupported: int = 0
    """Numbers of the answer without support, contradicting ones included."""
    clean_for_all: bool = False
    """No such number even without the sources that this caller brought."""


class WarmUp:
    """Reads every list once, some seconds of CPU: in a thread of its own, while the engine's process loads the model.

    Without it the first question would read them; with two at once, each would.
    """

    def __init__(self, facts: Facts, languages_folder: Path | None = None) -> None:
        self._facts = facts
        self._folder = languages_folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lists", daemon=True)
        self._thread.start()

    def wait(self, *, every_language: bool = False) -> None:
        """Return when the lists for a question in English are read, or all; Ctrl-C passes."""
        while not self._ready.wait(0.2) or (every_language and self._thread.is_alive()):
            self._thread.join(0.2)

    def _run(self) -> None:
        try:
            self._read(DEFAULT_LANGUAGE)
            question = "What is the dose of paracetamol?"
            check_numbers("Paracetamol: 15 mg/kg every 6 hours.", question, self._facts(question))
        except EdgemedError as error:
            log.warning("%s", error)
        finally:
            self._ready.set()
        for language in languages(self._folder):
            self._read(language)

    def _read(self, language: str) -> None:
        asked = ChatRequest(messages=[ChatMessage(role="user", content="What is the dose of paracetamol?")])
        asked = asked.model_copy(update={"language": language})
        conversation = conversation_of(asked)
        consult(asked, conversation, ServeOptions(model_name="", languages=self._folder))
        clinical_key(conversation.question, language)
        private_reason(conversation.question, words_of_language(language))


class Care:
    """What every question of one server is given; each method may be called on any thread."""

    def __init__(
        self, recall: Recall, journal: Journal, options: ServeOptions, sources: Facts, metrics: Metrics | None = None
    ) -> None:
        self.recall = recall
        self._metrics = metrics
        self._journal = journal
        self._options = options
        self._facts = sources

    def take_in(self, request: ChatRequest, conversation: Conversation) -> Course:
        """The question understood, and its saved answer if there is one. Raises ApiError 400."""
        began = time.monotonic()
        case = consult(request, conversation, self._options)
        recalled = self.recall.find(case, request)
        question = conversation.question
        asked = contradicted(question, (*self._facts(question), *case.sources))
        medical = case.opening(recalled.answer) | {"asked_numbers": [number_fields(number) for number in asked]}
        return Course(request, case, recalled, began, medical=medical)

    def check(self, course: Course, done: DoneEvent) -> None:
        """The guard's verdicts on the ended answer, into `course.medical`."""
        text, question = "".join(course.texts), course.case.conversation.question
        facts = self._facts(question)
        result = check_numbers(text, question, (*facts, *course.case.sources))
        course.medical |= verdicts(result)
        course.unsupported = result.summary[Verdict.UNSUPPORTED] + result.summary[Verdict.CONTRADICTS_SOURCE]
        course.clean_for_all = (check_numbers(text, question, facts) if course.case.sources else result).clean
        course.done, course.ended = done, done.reason

    def finish(self, course: Course) -> None:
        """Enter the question in the journal, and keep its answer where that is allowed."""
        done = course.done
        if done is not None:
            self.recall.keep(course.recalled, "".join(course.texts), done, numbers_clean=course.clean_for_all)
        seconds = time.monotonic() - course.began
        if self._metrics is not None:
            saved, emergency = course.recalled.answer is not None, course.case.emergency
            self._metrics.ended(course.ended, seconds, saved=saved, emergency=emergency)
        self._journal.write(
            JournalEntry(
                time=now(),
                answer_id=course.id,
                model=self._options.name_of(course.request.model),
                adapter_digest=self._options.adapters.get(self._options.adapter_of(course.request.model), "")[:16],
                templates_digest=templates_digest(course.case.language, course.case.languages_folder),
                language=course.case.language,
                category=course.case.classification.category.value,
                danger_signs=len(course.case.classification.danger),
                cache=course.recalled.state,
                prompt_tokens=done.prompt_tokens if done else 0,
                answer_tokens=done.completion_tokens if done else 0,
                numbers_unsupported=course.unsupported,
                milliseconds=round(seconds * 1000, 1),
                ended=course.ended,
            )
        )
