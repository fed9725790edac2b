"""How many held-out questions the demonstration model answers exactly: `python benchmarks/bench_demo.py`.

Greedy, through the engine and the prompt templates that `serve` uses, on the shipped GGUF. A dose answer is
exact when drug, value, unit and interval are those of the table; no held-out wording occurs in training.
"""

from __future__ import annotations

import argparse
import queue
from pathlib import Path

from edgemed.demo import demo_model_path
from edgemed.demo.questions import (
    UNKNOWN_ANSWER,
    Example,
    dose_examination,
    has_dose,
    statement_examination,
    unknown_examination,
    vague_examination,
)
from edgemed.demo.table import fact_table
from edgemed.engines.base import DoneEvent, Engine, EngineConfig, ErrorEvent, Event, GenerationRequest, TextEvent
from edgemed.engines.registry import open_engine
from edgemed.evaluate.paired import wilson
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat


def answers(engine: Engine, examples: list[Example]) -> list[str]:
    """The greedy answer of each example, in order."""
    info = engine.info
    texts = [""] * len(examples)
    finished: queue.Queue[int] = queue.Queue()

    def listener(number: int) -> object:
        def on_event(event: Event) -> None:
            if isinstance(event, TextEvent):
                texts[number] += event.text
            elif isinstance(event, ErrorEvent):
                raise SystemExit(event.message)
            elif isinstance(event, DoneEvent):
                finished.put(number)

        return on_event

    for number, example in enumerate(examples):
        parts = render_chat(
            info.chat_template, messages_for(example.question), bos_token=info.bos_token, eos_token=info.eos_token
        )
        prompt = tuple(engine.tokenize(parts))
        engine.submit(GenerationRequest(str(number), prompt, max_tokens=160), listener(number))  # type: ignore[arg-type]
    for _ in examples:
        finished.get(timeout=600)
    return texts


def _wrong_number(text: str, example: Example) -> bool:
    """True when the answer gives a dose that the table does not give for this question."""
    return text != example.answer and text != UNKNOWN_ANSWER and "Which one do you mean" not in text


def report(title: str, right: list[bool]) -> None:
    found = wilson(sum(right), len(right))
    share, low, high = (100 * value for value in (sum(right) / len(right), found.low, found.high))
    print(f"{title:<55} {sum(right):5d} of {len(right):5d}  {share:5.1f} %  (95 % {low:.1f} to {high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None, help="GGUF file (default: the shipped one)")
    parser.add_argument("--misses", type=int, default=0, help="print this many wrong dose answers")
    arguments = parser.parse_args()
    table = fact_table()
    doses = {dose.id: dose for dose in table.doses()}
    config = EngineConfig(model_path=arguments.model or demo_model_path(), context_length=512, n_slots=4, n_threads=2)
    engine = open_engine(config)
    try:
        examples = dose_examination(table)
        given = answers(engine, examples)
        right = [has_dose(text, doses[example.fact_id]) for text, example in zip(given, examples, strict=True)]
        report("doses: drug, value, unit and interval exact", right)
        report("doses: whole sentence exact", [t == e.answer for t, e in zip(given, examples, strict=True)])
        other = statement_examination(table)
        report(
            "other facts: whole sentence exact",
            [t == e.answer for t, e in zip(answers(engine, other), other, strict=True)],
        )
        vague = vague_examination(table)
        replies = answers(engine, vague)
        report(
            "hurried questions: the one dose, or asks which",
            [t == e.answer for t, e in zip(replies, vague, strict=True)],
        )
        report(
            "hurried questions: a number that is no answer",
            [_wrong_number(t, e) for t, e in zip(replies, vague, strict=True)],
        )
        unknown = unknown_examination(table)
        report(
            "unknown drugs: says that it does not know",
            [t == e.answer for t, e in zip(answers(engine, unknown), unknown, strict=True)],
        )
    finally:
        engine.close()
    misses = [(e, t) for e, t, ok in zip(examples, given, right, strict=True) if not ok]
    for example, text in misses[: arguments.misses]:
        print(f"\nasked     {example.question}\nexpected  {example.answer}\nanswered  {text}")


if __name__ == "__main__":
    main()
