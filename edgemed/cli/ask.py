"""`edgemed ask`: one question, its answer streamed to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Json, Verbose
from edgemed.core.errors import EdgemedError, EngineLost, UsageError
from edgemed.core.records import Record

if TYPE_CHECKING:
    from queue import SimpleQueue

    from edgemed.engines.base import DoneEvent, Engine, Event, GenerationRequest
    from edgemed.medical.guard import CheckedNumber, GuardResult
    from edgemed.serve.consultation import Consultation
    from edgemed.serve.options import ServeOptions
    from edgemed.serve.schemas import ChatRequest


class AskNumber(Record):
    """A number of the answer, and what stands behind it."""

    text: str
    verdict: str
    """"from_source", "contradicts_source", "repeated_from_question" or "unsupported"."""
    source: str
    source_says: str


class AskAnswer(Record):
    """One question and its answer."""

    schema_version: Literal[1] = 1
    question: str
    language: str
    category: str
    danger_signs: tuple[str, ...]
    """Found in the question; with one, the emergency template was used, else that of the category."""
    answer: str
    numbers: tuple[AskNumber, ...]
    finish_reason: str
    """"stop": the answer is whole; "length": it was cut."""
    model: str
    prompt_tokens: int
    completion_tokens: int
    ttft_ms: float
    total_ms: float
    notice: str
    demo_notice: str = ""
    """Not empty for the demonstration model."""


def ask(
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    model: Annotated[str | None, typer.Option(help="A GGUF file, or a name such as: demo")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens (default: by the kind of question).")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of the question, such as: en, fr, es, sw (default: en).")
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Answer one question on the terminal, with no server."""
    from edgemed.cli.models import resolve_model
    from edgemed.serve.schemas import says_nothing

    question = question.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a terminal may send any bytes
    if says_nothing(question):
        raise UsageError("The question is empty.", next_step='edgemed ask "What is the dose of paracetamol?"')
    console = Console(json_mode=json, verbose=verbose)
    console.record(_answer(question, resolve_model(model), max_tokens, language, console))


def _answer(question: str, path: Path, max_tokens: int | None, language: str | None, console: Console) -> AskAnswer:
    """Load, ask, stream the text to stdout; what was said."""
    from edgemed.core.settings import project_settings
    from edgemed.demo import DEMO_NAME, DEMO_NOTICE, is_demo
    from edgemed.demo.supported import checked_facts
    from edgemed.engines.registry import open_engine
    from edgemed.medical.guard import check_numbers
    from edgemed.plan.store import plan_for
    from edgemed.serve.options import ServeOptions
    from edgemed.serve.schemas import ChatMessage, ChatRequest, says_nothing

    demo = is_demo(path)
    options = ServeOptions(
        model_name=DEMO_NAME if demo else path.stem,
        languages=project_settings().medical.languages,
        demo_notice=DEMO_NOTICE if demo else "",
    )
    asked = ChatRequest(messages=[ChatMessage(role="user", content=question)], max_tokens=max_tokens, language=language)
    case = _consulted(asked, options)
    config = plan_for(path, console, n_slots=1).engine_config.model_copy(update={"model_path": path})
    engine = open_engine(config, console)
    try:
        request = _request(engine, case, asked, options)
        _say_before(case, options, console)
        text, done = _stream(engine, request, console)
    finally:
        engine.close()
    if done.reason == "stop" and says_nothing(text):
        raise EdgemedError("The model gave no answer.", next_step="ask in other words")
    if done.reason == "length":
        count = done.completion_tokens
        console.note(f"The answer was cut after {count} token{'' if count == 1 else 's'}.")
    guard = check_numbers(text, question, checked_facts(question))
    _say_of_numbers(guard, console)
    kind = case.classification
    return AskAnswer(
        question=question,
        language=case.language,
        category=kind.category.value,
        danger_signs=tuple(sign.sign for sign in kind.danger),
        answer=text,
        numbers=tuple(
            AskNumber(text=n.text, verdict=n.verdict.value, source=n.source, source_says=n.source_says)
            for n in guard.numbers
        ),
        finish_reason=done.reason,
        model=options.model_name,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        ttft_ms=done.ttft_ms,
        total_ms=done.total_ms,
        notice=options.notice,
        demo_notice=options.demo_notice,
    )


def _consulted(asked: ChatRequest, options: ServeOptions) -> Consultation:
    """What the medical layer says of the question, as the server would. Raises UsageError."""
    from edgemed.serve.consultation import consult
    from edgemed.serve.errors import ApiError
    from edgemed.serve.schemas import conversation_of

    try:
        return consult(asked, conversation_of(asked), options)
    except ApiError as error:
        raise UsageError(error.message) from None


def _request(engine: Engine, case: Consultation, asked: ChatRequest, options: ServeOptions) -> GenerationRequest:
    """What the server would ask the engine, but with all the time it takes. Raises UsageError when it is too long."""
    from dataclasses import replace

    from edgemed.serve.errors import ApiError
    from edgemed.serve.generation import generation_of

    try:
        return replace(generation_of(engine, engine.info, case, asked, options, "ask"), deadline_s=None)
    except ApiError as error:
        raise UsageError(error.message) from None


def _say_before(case: Consultation, options: ServeOptions, console: Console) -> None:
    """On stderr, before the first word: danger signs, notes on words, the asker's doubtful numbers, notices."""
    from edgemed.demo.supported import checked_facts
    from edgemed.serve.consultation import contradicted

    kind = case.classification
    if kind.danger:
        found = ", ".join(sign.words for sign in kind.danger)
        console.note(f"Possible danger sign ({found}): follow your emergency protocol, refer at once.")
    elif not kind.danger_checked:
        console.note("Danger signs are not checked in this language.")
    for note in case.notes:
        means = " or ".join(note.meanings)
        said = f"can mean {means}: write it out" if note.ambiguous else f"stands for {means}"
        console.note(f"Note: {note.surface!r} {said}." + (f" Careful: {note.warning}." if note.warning else ""))
    for number in contradicted(case.conversation.question, checked_facts(case.conversation.question)):
        console.note(f"Your {number.text!r} is not what {number.source} says: {number.source_says}.")
    for notice in (options.notice, options.demo_notice):
        if notice:
            console.note(notice)


def _say_of_numbers(guard: GuardResult, console: Console) -> None:
    """On stderr: each number that has no support, and what a source says instead."""
    for number in guard.numbers:
        if words := _words_on(number):
            console.note(f"Check {number.text!r}: {words}.")


def _words_on(number: CheckedNumber) -> str:
    from edgemed.medical.guard import Verdict

    if number.verdict is Verdict.CONTRADICTS_SOURCE:
        return f"{number.source} says {number.source_says}"
    if number.verdict is Verdict.UNSUPPORTED:
        return "no source supports it"
    if number.verdict is Verdict.REPEATED_FROM_QUESTION:
        return "it is your own number, and no source supports it"
    return ""


def _stream(engine: Engine, request: GenerationRequest, console: Console) -> tuple[str, DoneEvent]:
    """Show the text as it comes; all of it, and how it ended."""
    from queue import SimpleQueue

    from edgemed.engines.base import DoneEvent, ErrorEvent, PlaceEvent, TextEvent

    events: SimpleQueue[Event] = SimpleQueue()
    engine.submit(request, events.put)
    text = ""
    while True:
        event = _next(events)
        if isinstance(event, TextEvent):
            if not event.reasoning:  # a reasoning model's thinking is no part of its answer
                text += event.text
                console.text(event.text, end="")
        elif not isinstance(event, PlaceEvent):
            console.text("")
            if isinstance(event, ErrorEvent):
                raise EngineLost(event.message, next_step="ask again" if event.retryable else "see the message above")
            assert isinstance(event, DoneEvent)
            return text, event


def _next(events: SimpleQueue[Event]) -> Event:
    """The next event; woken twice a second, because on Windows Ctrl-C does not end an endless wait."""
    from queue import Empty

    while True:
        try:
            return events.get(timeout=0.5)
        except Empty:
            continue
