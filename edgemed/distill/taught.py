"""All that a run teaches, from the table of facts or from files, with nothing in it that an examination asks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.demo.questions import dose_examination, statement_examination
from edgemed.demo.table import fact_table
from edgemed.distill.config import DEMO, DataConfig
from edgemed.distill.demo_data import demo_data
from edgemed.distill.examples import Example, find_leaks, plain, read_examples
from edgemed.evaluate.choices import demo_choices
from edgemed.evaluate.prompts import SetName, demo_prompts, generic_prompts

_SETS: tuple[SetName, ...] = ("A", "B")
_MOST_NAMED = 5


def taught_examples(data: DataConfig) -> tuple[Example, ...]:
    """What `data` says, read and checked: examples, then foundations, then replay.

    Raises UsageError with all faults of all files together: lines that cannot be taught, examples that stand in two
    files, and examples that share 13 words with a question of the shipped evaluation sets, of `data.examinations` or of
    `data.validation`.
    """
    if data.examples == DEMO:
        return demo_data(shipped_questions() if data.check_leaks else (), data.n_examples, data.n_facts)
    faults: list[str] = []

    def read(path: str) -> tuple[Example, ...]:
        try:
            return read_examples(Path(path)) if path else ()
        except UsageError as error:
            faults.append(error.what)
            return ()

    examples, basic, replay = read(data.examples), read(data.basic), read(data.replay)
    taught = (
        *(examples[: data.n_examples] if data.n_examples else examples),
        *(one.model_copy(update={"kind": "basic"}) for one in basic),
        *(one.model_copy(update={"kind": "replay"}) for one in replay),
    )
    faults += _twice(taught)
    if data.check_leaks:
        faults += _leaks(taught, [*shipped_questions(), *_questions(data, faults)])
    if faults:
        raise UsageError(" ".join(f"{fault.rstrip('.')}." for fault in faults), next_step="mend those files")
    return taught


@cache
def shipped_questions() -> tuple[str, ...]:
    """Every question that the shipped evaluation sets can ask."""
    table = fact_table()
    return (
        *(one.question for one in (*dose_examination(table), *statement_examination(table))),
        *(prompt.question for name in _SETS for prompt in (*demo_prompts(name), *generic_prompts(name))),
        *(choice.question for name in _SETS for choice in demo_choices(name)),
    )


def _questions(data: DataConfig, faults: list[str]) -> list[str]:
    """What the files of examinations and of validation ask; a line that asks nothing is a fault."""
    found: list[str] = []
    for name in filter(None, (data.validation, *data.examinations)):
        try:
            lines = Path(name).read_bytes().splitlines()
        except OSError as error:
            faults.append(f"{name} cannot be read: {error.strerror}")
            continue
        wrong = []
        for number, line in enumerate(lines, 1):
            try:
                question = json.loads(line)["question"] if line.strip() else ""
                found.append(str(question))
            except (ValueError, TypeError, KeyError):
                wrong.append(f"line {number}")
        if wrong:
            faults.append(f'{name} cannot be asked: {_told(wrong)} hold no {{"question": ...}}')
    return found


def _twice(examples: Sequence[Example]) -> list[str]:
    seen: dict[tuple[str, str], Example] = {}
    twice = []
    for example in examples:
        before = seen.setdefault((plain(example.question), plain(example.answer)), example)
        if before is not example:
            twice.append(f"{_name(before)} and {_name(example)}")
    if not twice:
        return []
    return [f"The same example stands twice in what is taught: {_told(twice)}; keep one of each"]


def _leaks(examples: Sequence[Example], questions: Sequence[str]) -> list[str]:
    leaks = list(find_leaks(examples, questions))
    if not leaks:
        return []
    told = [f'{_name(leak.example)} ("{leak.words}")' for leak in leaks]
    return [
        f"{len(leaks)} of {len(examples)} examples hold what an examination asks, so its result would mean nothing: "
        f"{_told(told)}; remove them, or say data.check_leaks = false and believe no figure"
    ]


def _told(items: Sequence[str]) -> str:
    more = f", and {len(items) - _MOST_NAMED} more" if len(items) > _MOST_NAMED else ""
    return ", ".join(items[:_MOST_NAMED]) + more


def _name(example: Example) -> str:
    return f"{example.id} of data.{example.kind or 'examples'}"
