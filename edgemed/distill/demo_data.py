"""data.examples = "demo": questions about the shipped table of facts, the same for the same settings everywhere.

Doses are what is to be learned. Danger signs and first aid are its foundations ("basic"); vaccines, contraindications
and pregnancy are what a student should keep ("replay"). Training draws from the table's own training wordings,
examinations ask in held-out ones, and what shares 13 words with a question of the shipped evaluation sets is left out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from edgemed.demo.questions import Example as Asked
from edgemed.demo.questions import training_examples
from edgemed.demo.table import Dose, FactTable, Group, Statement, StatementKind, fact_table
from edgemed.distill.examples import Example, find_leaks, plain

N_EXAMPLES = 4096
_SEED = 41
"""The corpus is fixed: seeds of a run decide about weights and order, not about what is taught."""
_REPLAY: tuple[StatementKind, ...] = ("contraindication", "pregnancy", "vaccination")
_SPECIALTIES: dict[Group | StatementKind, str] = {
    "adult": "adult medicine",
    "child": "paediatrics",
    "infant": "paediatrics",
    "newborn": "newborn care",
    "pregnant woman": "obstetrics",
    "contraindication": "pharmacology",
    "pregnancy": "obstetrics",
    "danger_sign": "emergency",
    "first_aid": "emergency",
    "vaccination": "vaccination",
}


def demo_data(examinations: Sequence[str], n_examples: int = 0, n_facts: int = 0) -> tuple[Example, ...]:
    """Examples about `n_facts` dose facts, those of whole drugs (0: all), none of which repeats or leaks.

    Doses first, then foundations, then replay. `examinations` are the questions that must not be taught.
    """
    table = taught_table(n_facts)
    examples: list[Example] = []
    seen: set[tuple[str, str]] = set()
    drawn = (_example(asked, table) for asked in training_examples(table, random.Random(_SEED)))
    while len(examples) < (n_examples or N_EXAMPLES):
        batch = _new_ones(drawn, seen, (n_examples or N_EXAMPLES) - len(examples))
        leaked = {leak.example.question for leak in find_leaks(batch, examinations)}
        examples += [example for example in batch if example.question not in leaked]
    order = {"": 0, "basic": 1, "replay": 2}
    examples = [one.model_copy(update={"id": f"demo-{number}"}) for number, one in enumerate(examples)]
    return tuple(sorted(examples, key=lambda one: order[one.kind]))


def taught_table(n_facts: int = 0) -> FactTable:
    """The table with about so many dose facts, all those of each of its drugs, and with every statement."""
    table = fact_table()
    if not n_facts:
        return table
    drugs = sorted({dose.drug for dose in table.doses()})
    random.Random(_SEED).shuffle(drugs)
    chosen: list[Dose] = []
    for drug in drugs:
        if len(chosen) >= n_facts:
            break
        chosen += [dose for dose in table.doses() if dose.drug == drug]
    return table.model_copy(update={"facts": (*chosen, *table.statements())})


def other_table(n_facts: int) -> FactTable:
    """The table without the doses that `taught_table` keeps: what a student may know before it is taught."""
    table = fact_table()
    taught = {dose.drug for dose in taught_table(n_facts).doses()}
    return table.model_copy(
        update={"facts": tuple(fact for fact in table.facts if not isinstance(fact, Dose) or fact.drug not in taught)}
    )


def _new_ones(drawn: Iterator[Example], seen: set[tuple[str, str]], count: int) -> list[Example]:
    """The next `count` that were not there before."""
    found: list[Example] = []
    while len(found) < count:
        example = next(drawn)
        key = (plain(example.question), plain(example.answer))
        if key[0] and key not in seen:
            seen.add(key)
            found.append(example)
    return found


def _example(asked: Asked, table: FactTable) -> Example:
    """As it is taught: without earlier turns, on which no answer depends."""
    fact = next((fact for fact in table.facts if fact.id == asked.fact_id), None)
    if fact is None:
        return Example(question=asked.question, answer=asked.answer, source="demo")
    statement = fact.kind if isinstance(fact, Statement) else None
    return Example.model_validate(
        {
            "id": fact.id,
            "question": asked.question,
            "answer": asked.answer,
            "source": fact.source,
            "specialty": _SPECIALTIES[fact.group if isinstance(fact, Dose) else fact.kind],
            "kind": "replay" if statement in _REPLAY else "basic" if statement else "",
        }
    )
