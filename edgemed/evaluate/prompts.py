"""What a report asks: two sets of questions that share no fact, and two short texts.

Bit allocation may look at set A; set B is the report's alone. The demonstration model is asked about its table of
facts, in wordings that it never trained on and split by fact; other models are asked the questions of prompts.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from random import Random
from typing import Any, Literal

from edgemed.core.records import Record
from edgemed.demo.questions import Example, dose_examination, statement_examination
from edgemed.demo.table import Dose, Statement, fact_table

SetName = Literal["A", "B"]
PromptKind = Literal["dosing", "contraindication", "danger_sign"]

_SHARE_OF_A = 3
"""Every third fact of a kind is A's."""
_DOSE_WORDINGS = 2
"""Of eight, for each dose fact; other facts are asked about once."""
_KINDS: dict[str, PromptKind] = {
    "contraindication": "contraindication",
    "pregnancy": "contraindication",
    "danger_sign": "danger_sign",
}


class EvaluationPrompt(Record):
    """One question."""

    id: str
    kind: PromptKind
    question: str
    answer: str = ""
    """The right one, where it is known."""


@cache
def demo_prompts(name: SetName) -> tuple[EvaluationPrompt, ...]:
    """Questions about the demonstration's table, with the table's answers."""
    return tuple(_of_facts(demo_facts(name)))


@cache
def generic_prompts(name: SetName) -> tuple[EvaluationPrompt, ...]:
    """Medical questions in general, without answers."""
    content = _file()
    return tuple(
        EvaluationPrompt.model_validate(
            {
                "id": f"{name}-{kind}-{number}-{version}",
                "kind": kind,
                "question": _capital(wording.format(*(field.strip() for field in row.split("|")))),
            }
        )
        for kind, rows in content[name].items()
        for number, row in enumerate(rows)
        for version, wording in enumerate(content["wordings"][kind])
    )


@cache
def demo_facts(name: SetName) -> frozenset[str]:
    """The ids of the table's facts that belong to the set."""
    places: dict[str, int] = {}
    chosen = set()
    for fact in fact_table().facts:
        place = places[fact.kind] = places.get(fact.kind, -1) + 1
        if (place % _SHARE_OF_A == 0) == (name == "A"):
            chosen.add(fact.id)
    return frozenset(chosen)


def general_text() -> str:
    """Some paragraphs about anything but medicine."""
    return _text("general_text.txt")


def medical_text() -> str:
    """Some paragraphs of medicine."""
    return _text("medical_text.txt")


def _of_facts(ids: frozenset[str]) -> Iterator[EvaluationPrompt]:
    table = fact_table()
    facts: dict[str, Dose | Statement] = {fact.id: fact for fact in table.facts}
    asked: dict[str, list[Example]] = {}
    for example in (*dose_examination(table), *statement_examination(table)):
        asked.setdefault(example.fact_id, []).append(example)
    chance = Random(4)
    for fact_id in sorted(ids):
        fact = facts[fact_id]
        kind: PromptKind | None = "dosing" if isinstance(fact, Dose) else _KINDS.get(fact.kind)
        if kind is None:
            continue
        for number, example in enumerate(chance.sample(asked[fact_id], _DOSE_WORDINGS if kind == "dosing" else 1)):
            yield EvaluationPrompt(
                id=f"{fact_id}-{number}", kind=kind, question=example.question, answer=example.answer
            )


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(_text("prompts.toml"))


def _text(name: str) -> str:
    return resources.files("edgemed.evaluate").joinpath(name).read_text(encoding="utf-8")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
