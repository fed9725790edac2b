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

DEFAULT_MAX_TOKENS = 512


class AskAnswer(Record):
    """One question and its answer."""

    schema_version: Literal[1] = 1
    question: str
    category: str
    """The class of question whose prompt template was used."""
    answer: str
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
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = DEFAULT_MAX_TOKENS,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Answer one question on the terminal, with no server."""
    from edgemed.cli.models import resolve_model

    if not question.strip():
        raise UsageError("The question is empty.", next_step='edgemed ask "What is the dose of paracetamol?"')
    console = Console(json_mode=json, verbose=verbose)
    console.record(_answer(question, resolve_model(model), max_tokens, console))


def _answer(question: str, path: Path, max_tokens: int, console: Console) -> AskAnswer:
    """Load, ask, stream the text to stdout; what was said."""
    from edgemed.demo import DEMO_NAME, DEMO_NOTICE, is_demo
    from edgemed.engines.registry import open_engine
    from edgemed.medical.category import category_of
    from edgemed.plan.store import plan_for
    from edgemed.serve.options import CARE_NOTICE

    category, demo = category_of(question), is_demo(path)
    config = plan_for(path, console, n_slots=1).engine_config.model_copy(update={"model_path": path})
    engine = open_engine(config, console)
    try:
        request = _request(engine, question, max_tokens)
        for notice in (CARE_NOTICE, DEMO_NOTICE if demo else ""):
            if notice:
                console.note(notice)
        text, done = _stream(engine, request, console)
    finally:
        engine.close()
    if done.reason == "length":
        count = done.completion_tokens
        console.note(f"The answer was cut after {count} token{'' if count == 1 else 's'}.")
    return AskAnswer(
        question=question,
        category=category.value,
        answer=text,
        finish_reason=done.reason,
        model=DEMO_NAME if demo else path.stem,
        prompt_tokens=done.prompt_tokens,
        completion_tokens=done.completion_tokens,
        ttft_ms=done.ttft_ms,
        total_ms=done.total_ms,
        notice=CARE_NOTICE,
        demo_notice=DEMO_NOTICE if demo else "",
    )


def _request(engine: Engine, question: str, max_tokens: int) -> GenerationRequest:
    """The question in the project's template and the model's own, as tokens; greedy."""
    from edgemed.engines.base import GenerationRequest
    from edgemed.medical.prompts import messages_for
    from edgemed.models.chat_template import render_chat

    info = engine.info
    messages = messages_for(question)
    parts = render_chat(info.chat_template, messages, bos_token=info.bos_token, eos_token=info.eos_token)
    prompt = engine.tokenize(parts)
    if len(prompt) >= info.context_length:
        raise UsageError(
            f"The question is too long: {len(prompt)} tokens with its instructions; the context holds "
            f"{info.context_length}, answer included.",
            next_step="shorten the question",
        )
    return GenerationRequest("ask", tuple(prompt), max_tokens)


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
