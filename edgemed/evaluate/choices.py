"""Multiple choice: how many answers flip when the child stands in for the parent.

A question is put in the chat template, the answer is begun, and the option whose tokens the model finds most likely,
by the sum of their log-probabilities, is its answer. The demonstration's questions ask for the dose of a fact among
three that other facts have in the same unit, or that are off by a usual mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from random import Random

import numpy as np

from edgemed.core.progress import Task
from edgemed.core.records import Record, digest_of
from edgemed.demo.questions import dose_examination
from edgemed.demo.table import Dose, fact_table
from edgemed.evaluate.divergence import log_softmax
from edgemed.evaluate.prompts import SetName, demo_facts
from edgemed.evaluate.scorer import Scorer
from edgemed.evaluate.token_text import TokenText

N_OPTIONS = 4
_FACTORS = ("10", "2", "5", "100", "4")
"""By which a dose goes wrong, where too few facts have other doses in its unit."""


class Choice(Record):
    """One question with its options."""

    id: str
    question: str
    opening: str
    """How the answer begins, up to the option."""
    options: tuple[str, ...]
    right: int


class Flip(Record):
    """One question that was right and became wrong, or the other way."""

    id: str
    right: str
    parent: str
    child: str


class ChoiceResult(Record):
    """Answers of parent and child to the same questions."""

    n_questions: int
    parent_right: int
    child_right: int
    n_flipped: int
    """Right became wrong, or wrong right."""
    n_changed: int
    """Another option was chosen, also among wrong ones."""
    flips: tuple[Flip, ...]


def demo_choices(name: SetName) -> tuple[Choice, ...]:
    """One question for each dose fact of the set; the same every time."""
    ids = demo_facts(name)
    doses = {dose.id: dose for dose in fact_table().doses()}
    chance = Random(9)
    questions = {example.fact_id: example.question for example in dose_examination(fact_table(), seed=9)}
    return tuple(_choice(doses[fact_id], questions[fact_id], chance) for fact_id in sorted(ids & doses.keys()))


def answers(scorer: Scorer, tokens: TokenText, choices: Sequence[Choice], task: Task) -> list[int]:
    """The option that the scorer chooses for each question."""
    chosen = []
    for choice in choices:
        chosen.append(int(np.argmax(_scores(scorer, tokens, choice))))
        task.advance()
    return chosen


def compared(choices: Sequence[Choice], parent: Sequence[int], child: Sequence[int]) -> ChoiceResult:
    """What changed between the parent's answers and the child's."""
    rows = list(zip(choices, parent, child, strict=True))
    flips = tuple(
        Flip(id=c.id, right=c.options[c.right], parent=c.options[p], child=c.options[q])
        for c, p, q in rows
        if (p == c.right) != (q == c.right)
    )
    return ChoiceResult(
        n_questions=len(rows),
        parent_right=sum(p == c.right for c, p, _ in rows),
        child_right=sum(q == c.right for c, _, q in rows),
        n_flipped=len(flips),
        n_changed=sum(p != q for _, p, q in rows),
        flips=flips,
    )


def choices_digest(choices: Sequence[Choice]) -> str:
    """SHA-256 of the questions."""
    return digest_of([choice.model_dump(mode="json") for choice in choices])


def _scores(scorer: Scorer, tokens: TokenText, choice: Choice) -> list[float]:
    """Log-probability of each option after the opening, in nats; the tokens that all share are left out."""
    texts = [tokens.prompt(choice.question, f"{choice.opening}{option}") for option in choice.options]
    first = next(n for n, found in enumerate(zip_longest(*texts)) if len(set(found)) > 1)
    scores = []
    for ids in texts:
        logs = log_softmax(scorer.logits(ids, first))
        scores.append(float(sum(logs[row, token] for row, token in enumerate(ids[first:]))))
    return scores


def _choice(dose: Dose, question: str, chance: Random) -> Choice:
    options = [dose.quantity]
    for other in _plausible(dose, chance):
        if other not in options:
            options.append(other)
        if len(options) == N_OPTIONS:
            break
    order = chance.sample(range(N_OPTIONS), N_OPTIONS)
    opening = dose.sentence().split(dose.quantity, 1)[0]
    return Choice(
        id=dose.id,
        question=question,
        opening=opening,
        options=tuple(options[n] for n in order),
        right=order.index(0),
    )


def _plausible(dose: Dose, chance: Random) -> Iterator[str]:
    """Doses that are not this one: of the same drug, of the same unit and interval, then by a usual mistake."""
    others = [other for other in fact_table().doses() if other.unit == dose.unit]
    chance.shuffle(others)
    yield from (other.quantity for other in others if other.drug == dose.drug)
    yield from (other.quantity for other in others if other.interval == dose.interval)
    for factor in _FACTORS:
        times = re.sub(r"\d+(\.\d+)?", lambda found: f"{float(found[0]) * int(factor):g}", dose.amount)  # noqa: B023
        yield dose.model_copy(update={"amount": times}).quantity
