"""The medical side of one question: taken in, looked for among saved answers, its numbers checked, entered, kept."""

from __future__ import annotations

import logging
import threading
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemed.core.errors import EdgemedError
from edgemed.engines.base import DoneEvent, DrawnToken
from edgemed.medical.clinical_key import clinical_key
from edgemed.medical.guard import Source, Verdict, check_numbers
from edgemed.medical.language import DEFAULT_LANGUAGE, languages
from edgemed.medical.prompts import templates_digest
from edgemed.serve.answer_form import AnswerForm, bare_numbers
from edgemed.serve.cache_privacy import private_reason, words_of_language
from edgemed.serve.consultation import Consultation, consult, contradicted, number_fields, verdicts
from edgemed.serve.journal import Journal, JournalEntry, now
from edgemed.serve.metrics import Metrics
from edgemed.serve.options import ServeOptions
from edgemed.serve.recall import Recall, Recalled
from edgemed.serve.schemas import ChatMessage, ChatRequest, Conversation, conversation_of
from edgemed.serve.unfinished import Unfinished

log = logging.getLogger(__name__)

Facts = Callable[[str], Sequence[Source]]
"""The checked facts that may support numbers in the answer to a question."""

_ASK_AGAIN = ("failed", "engine_lost", "shutting_down", "deadline_exceeded")
"""Endings after which asking again helps: the question is kept for its asker. "failed" is a fault of our own.
"engine_failed" is none of them: the question itself may have ended the engine's process."""


@dataclass(slots=True)
class Course:
    """How one question went; filled on the event loop, read when it has ended."""

    request: ChatRequest
    case: Consultation
    recalled: Recalled
    began: float
    """Monotonic clock, when its body had come."""
    id: str = ""
    peer: str = ""
    """The asker's address."""
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    """What a reasoning model said to itself; no part of the answer."""
    tokens: list[DrawnToken] = field(default_factory=list)
    """Those of the answer, where log-probabilities were asked for and it is not streamed."""
    form: AnswerForm | None = None
    medical: dict[str, Any] = field(default_factory=dict)
    done: DoneEvent | None = None
    ended: str = "failed"
    unsupported: int = 0
    """Numbers of the answer without support, contradicting ones included."""
    clean_for_all: bool = False
    """No such number even without the sources that this caller brought."""
    unfinished: str = ""
    """Its name among the unfinished questions; "" where it is not kept."""
    secured: Future[None] | None = None
    """The work of `Care.secure`, beside the answer."""
    entered: bool = False
    """Its end stands in the journal."""


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
        self,
        recall: Recall,
        journal: Journal,
        options: ServeOptions,
        sources: Facts,
        unfinished: Unfinished | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.recall = recall
        self._metrics = metrics
        self._journal = journal
        self._unfinished = unfinished or Unfinished(None)
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
        if conversation.raw:
            medical["raw"] = True
        return Course(request, case, recalled, began, medical=medical)

    def begin(self, course: Course) -> None:
        """The question is accepted: written down before the engine has it, so that a crash cannot lose it."""
        self._journal.write(self._row(course, "begun"), sync=False)
        if course.request.session is not None:
            course.unfinished = self._unfinished.begin(course.request.session, course.case.conversation.question)

    def secure(self, course: Course) -> None:
        """What `begin` wrote is on the disk, also if the power fails now: some milliseconds, beside the first step."""
        self._journal.sync()
        self._unfinished.sync(course.unfinished)

    def conclude(self, course: Course, done: DoneEvent) -> None:
        """Check the ended answer and enter it: only then may its asker hear that it is whole."""
        self.check(course, done)
        self.enter(course)

    def check(self, course: Course, done: DoneEvent) -> None:
        """The guard's verdicts on the ended answer, into `course.medical`."""
        text, question = "".join(course.texts), course.case.conversation.question
        facts = self._facts(question)
        result = check_numbers(text, question, (*facts, *course.case.sources))
        course.medical |= verdicts(result)
        if course.form is not None:
            course.medical["numbers_unchecked"] = bare_numbers(text)
        course.unsupported = result.summary[Verdict.UNSUPPORTED] + result.summary[Verdict.CONTRADICTS_SOURCE]
        course.clean_for_all = (check_numbers(text, question, facts) if course.case.sources else result).clean
        course.done, course.ended = done, done.reason

    def enter(self, course: Course) -> None:
        """The end of the question in the journal, on the disk; once."""
        if course.entered:
            return
        course.entered = True
        self._journal.write(self._row(course, "ended"))
        if self._metrics is not None:
            saved, emergency = course.recalled.answer is not None, course.case.emergency
            seconds = time.monotonic() - course.began
            self._metrics.ended(course.ended, seconds, saved=saved, emergency=emergency)

    def finish(self, course: Course) -> None:
        """All is said: enter the question if it is not, and keep its answer where that is allowed.

        What is kept of the question goes only now: asked twice is better than lost between its end and its asker.
        """
        self.enter(course)
        self._unfinished.end(course.unfinished, interrupted=course.ended in _ASK_AGAIN)
        if course.done is not None:
            clean = course.clean_for_all
            self.recall.keep(course.recalled, "".join(course.texts), course.done, numbers_clean=clean)

    def _row(self, course: Course, kind: Literal["begun", "ended"]) -> JournalEntry:
        done = course.done
        return JournalEntry(
            kind=kind,
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
            milliseconds=round((time.monotonic() - course.began) * 1000, 1),
            ended="" if kind == "begun" else course.ended,
        )
