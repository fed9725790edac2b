"""`edgemed ask`: one question, its answer streamed to the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgemed.cli.console import Console
from edgemed.cli.options import Json, Verbose
from edgemed.core.errors import EngineLost, UsageError
from edgemed.core.records import Record

if TYPE_CHECKING:
    from queue import SimpleQueue

    from edgemed.engines.base import DoneEvent, Engine, Event, GenerationRequest
    from edgemed.medical.category import Classification
    from edgemed.medical.guard import GuardResult


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
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Answer one question on the terminal, with no server."""
    from edgemed.cli.models import resolve_model

    if not question.strip():
        raise UsageError("The question is empty.", next_step='edgemed ask "What is the dose of paracetamol?"')
    console = Console(json_mode=json, verbose=verbose)
    console.record(_answer(question, resolve_model(model), max_tokens, console))


def _answer(question: str, path: Path, max_tokens: int | None, console: Console) -> AskAnswer:
    """Load, ask, stream the text to stdout; what was said."""
    from edgemed.demo import DEMO_NAME, DEMO_NOTICE, is_demo
    from edgemed.demo.supported import checked_facts
    from edgemed.engines.registry import open_engine
    from edgemed.medical.category import classify
    from edgemed.medical.guard import check_numbers
    from edgemed.plan.store import plan_for
    from edgemed.serve.options import CARE_NOTICE

    kind, demo = classify(question), is_demo(path)
    config = plan_for(path, console, n_slots=1).engine_config.model_copy(update={"model_path": path})
    engine = open_engine(config, console)
    try:
        request = _request(engine, question, kind, max_tokens)
        if kind.danger:
            found = ", ".join(sign.words for sign in kind.danger)
            console.note(f"Possible danger sign ({found}): follow your emergency protocol, refer at once.")
        for notice in (CARE_NOTICE, DEMO_NOTICE if demo else ""):
            if notice:
                console.note(notice)
        text, done = _stream(engine, request, console)
    finally:
        engine.close()
    if done.reason == "length":
        count = done.completion_tokens
        console.note(f"The answer was cut after {count} token{'' if count == 1 else 's'}.")
    guard = check_numbers(text, question, checked_facts(question))
    _say_unsupported(guard, console)
    return AskAnswer(
        question=question,
        category=kind.category.value,
        danger_signs=tuple(sign.sign for sign in kind.danger),
        answer=text,
        numbers=tuple(
            AskNumber(text=n.text, verdict=n.verdict.value, source=n.source, source_says=n.source_says)
            for n in guard.numbers
        ),
        finish_reason=done.reason,
        model=DEMO_NAME if demo else path.stem,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        ttft_ms=done.ttft_ms,
        total_ms=done.total_ms,
        notice=CARE_NOTICE,
        demo_notice=DEMO_NOTICE if demo else "",
    )


def _say_unsupported(guard: GuardResult, console: Console) -> None:
    """Name on stderr each number that has no support, and what a source says instead."""
    from edgemed.medical.guard import Verdict

    for number in guard.numbers:
        if number.verdict is Verdict.CONTRADICTS_SOURCE:
            console.note(f"Check {number.text!r}: {number.source} says {number.source_says}.")
        elif number.verdict is Verdict.UNSUPPORTED:
            console.note(f"Check {number.text!r}: no source supports it.")


def _request(engine: Engine, question: str, kind: Classification, max_tokens: int | None) -> GenerationRequest:
    """The question in the project's template and the model's own, as tokens; at the pace of its class."""
    from edgemed.engines.base import GenerationRequest, Sampling
    from edgemed.medical.pace import pace_of
    from edgemed.medical.prompts import messages_for
    from edgemed.models.chat_template import render_chat

    info = engine.info
    messages = messages_for(question, category=kind.prompt_category)
    parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    prompt = engine.tokenize(parts)
    if len(prompt) >= info.context_length:
        raise UsageError(
            f"The question is too long: {len(prompt)} tokens with its instructions; the context holds "
            f"{info.context_length}, answer included.",
            next_step="shorten the question",
        )
    pace = pace_of(kind.prompt_category, bool(kind.danger))
    sampling = Sampling(temperature=pace.temperature, top_p=pace.top_p)
    return GenerationRequest("ask", tuple(prompt), max_tokens or pace.max_tokens, sampling)


def _stream(engine: Engine, request: GenerationRequest, console: Console) -> tuple[str, DoneEvent]:
    """Show the text as it comes; all of it, and how it ended."""
    from queue import SimpleQueue

    from edgemed.engines.base import DoneEvent, ErrorEvent, TextEvent

    events: SimpleQueue[Event] = SimpleQueue()
    engine.submit(request, events.put)
    text = ""
    while True:
        event = _next(events)
        if isinstance(event, TextEvent):
            text += event.text
            console.text(event.text, end="")
        else:
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
