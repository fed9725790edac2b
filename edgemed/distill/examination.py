"""What a student is asked, how its answers are judged, and what came of it, question by question.

Two examinations on the demonstration's table of facts: one that weights are chosen on ("validation"), one that is
reported ("final"). No wording is in both, and no fact in the choices of both. The doses are those of the same facts:
what is taught is the facts, and a fact that was never taught cannot be asked for. Files of examples have one more
("file"): questions whose answers state doses, and questions with options.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.demo.questions import Example as Asked
from edgemed.demo.questions import dose_examination, has_dose
from edgemed.demo.table import Dose, fact_table
from edgemed.distill.batched_answers import BATCH, greedy_answers, likeliest
from edgemed.distill.rendering import Side
from edgemed.evaluate.choices import Choice, demo_choices
from edgemed.evaluate.dose_match import dose_error, stated_doses
from edgemed.evaluate.prompts import SetName
from edgemed.evaluate.retention import Judged
from edgemed.evaluate.torch_scorer import ends_of

ExaminationName = Literal["validation", "final", "file"]
WORDINGS = 4
"""Held-out wordings of each of the two."""
ANSWER_TOKENS = 160
_SEED = 61
_SETS: dict[str, tuple[int, SetName]] = {"validation": (0, "A"), "final": (1, "B")}
"""The first of the wordings, every second of which is its own; the set of facts whose choices it asks."""
_MOST_NAMED = 10


class DoseQuestion(Record):
    """A question whose answer states doses."""

    id: str
    concept: str
    """What it is about; a fact's id where it is one of the table."""
    question: str
    answer: str
    """The right one."""


class ChoiceQuestion(Record):
    """A question with its options, as Choice has it."""

    concept: str
    choice: Choice
    whole: bool = False
    """The options are whole answers, whose end is part of them."""


class Examination(Record):
    """All that is asked."""

    name: ExaminationName
    doses: tuple[DoseQuestion, ...] = ()
    choices: tuple[ChoiceQuestion, ...] = ()

    @property
    def chance(self) -> float:
        """Share of the choices that guessing has right."""
        shares = [1 / len(one.choice.options) for one in self.choices]
        return sum(shares) / len(shares) if shares else 0.0


class Scores(Record):
    """What one model made of an examination. Shares are from 0 to 1, and 0 where nothing was asked."""

    name: ExaminationName
    examination: str
    """Its digest: scores of different ones make no pairs."""
    doses: tuple[Judged, ...] = ()
    choices: tuple[Judged, ...] = ()
    chance: float = 0.0
    """Of the choices."""

    @property
    def dose_match(self) -> float:
        """Share of the dose questions whose doses are exactly right."""
        return _share(self.doses)

    @property
    def choice_accuracy(self) -> float:
        """Share of the questions with options that are right."""
        return _share(self.choices)

    @property
    def errors(self) -> Counter[str]:
        """How many dose answers are wrong in which way."""
        return Counter(one.error for one in self.doses if not one.right)


def demo_examination(
    name: Literal["validation", "final"], *, facts: Collection[str] | None = None, wordings: int = WORDINGS
) -> Examination:
    """Questions about these dose facts of the table (all by default), each in `wordings` of up to four wordings.

    The choices ask about those of the facts that are of the examination's own set.
    """
    doses, choices = _demo_questions(name)
    return Examination(
        name=name,
        doses=tuple(one for n, one in doses if n < wordings and (facts is None or one.concept in facts)),
        choices=tuple(one for one in choices if facts is None or one.concept in facts),
    )


def examine(
    model: Any, side: Side, which: Examination, device: str = "", *, batch: int = BATCH, max_tokens: int = ANSWER_TOKENS
) -> Scores:
    """What the model, a causal language model of transformers, with or without PEFT, answers, judged.

    It is moved to `device` where one is named. Whether it trains is as it was.
    """
    if device:
        model.to(device)
    ends = ends_of(side.folder) | {side.end}
    prompts = [side.prompt(one.question) for one in which.doses]
    vocabulary = side.vocabulary()
    answers = [
        b"".join(vocabulary[token] for token in answer if token < len(vocabulary)).decode("utf-8", "replace").strip()
        for answer in greedy_answers(model, prompts, ends, max_tokens, batch=batch)
    ]
    chosen = likeliest(model, [_texts(side, one) for one in which.choices], batch=batch)
    return Scores(
        name=which.name,
        examination=which.digest(),
        doses=tuple(judged(one, answer) for one, answer in zip(which.doses, answers, strict=True)),
        choices=tuple(
            Judged(item=one.choice.id, concept=one.concept, right=option == one.choice.right)
            for one, option in zip(which.choices, chosen, strict=True)
        ),
        chance=which.chance,
    )


def judged(asked: DoseQuestion, answer: str) -> Judged:
    """Whether the answer is right: by the table for a fact of it, else by equal doses; and how it is wrong."""
    fact = _facts().get(asked.concept)
    error = dose_error(asked.answer, answer)
    right = has_dose(answer, fact) if fact else not error
    return Judged(
        item=asked.id, concept=asked.concept, right=right, error="" if right else error or "other"
    )  # the table asks for more than the parser reads: "as a single dose"


class _Line(Record):
    """One line of a file that is asked."""

    id: str = ""
    concept: str = ""
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    options: tuple[str, ...] = ()
    source: str = ""
    specialty: str = ""
    kind: str = ""

    @model_validator(mode="after")
    def _one_is_right(self) -> _Line:
        said = [unicodedata.normalize("NFC", option).strip() for option in self.options]
        if said and (self.answer not in self.options or len(set(said)) < max(2, len(said)) or not all(said)):
            raise ValueError("the answer must be one of at least two options that differ")
        return self


def read_examination(*paths: Path) -> Examination:
    """The questions of JSON Lines files: {"question", "answer"} and, for a choice, "options"; "id", "concept".

    Lines without options whose answer states no dose are not asked. Raises UsageError that names the faulty lines, or
    when nothing is left to ask.
    """
    doses: list[DoseQuestion] = []
    choices: list[ChoiceQuestion] = []
    faults: list[str] = []
    for path in paths:
        for where, line in _lines(path, faults):
            name = line.id or where
            concept = line.concept or name
            if line.options:
                right = line.options.index(line.answer)
                choice = Choice(id=name, question=line.question, opening="", options=line.options, right=right)
                choices.append(ChoiceQuestion(concept=concept, choice=choice, whole=True))
            elif stated_doses(line.answer):
                doses.append(DoseQuestion(id=name, concept=concept, question=line.question, answer=line.answer))
    names = Counter([*(one.id for one in doses), *(one.choice.id for one in choices)])
    faults += [f"the id {name!r} stands {count} times" for name, count in names.items() if count > 1]
    if not doses and not choices and not faults:
        faults = ["no answer states a dose, and no question has options"]
    if faults:
        more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise UsageError(
            f"{', '.join(map(str, paths))} cannot be asked: {'; '.join(faults[:_MOST_NAMED])}{more}.",
            next_step='mend those lines; each is {"question": "...", "answer": "...", "options": ["...", "..."]}',
        )
    return Examination(name="file", doses=tuple(doses), choices=tuple(choices))


def _lines(path: Path, faults: list[str]) -> Iterator[tuple[str, _Line]]:
    """The good lines with the names of their places; the others' faults are added to `faults`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error
    for number, raw in enumerate(lines, 1):
        where = f"{path.name} line {number}"
        if not raw.strip():
            continue
        try:
            yield where, _Line.model_validate_json(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            faults.append(f"{where}: byte {error.start} is no UTF-8")
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            faults.append(f"{where}: {place + ': ' if place else ''}{fault['msg'].lower()}")


def _texts(side: Side, one: ChoiceQuestion) -> list[list[int]]:
    """Prompt, opening and option of each option."""
    prompt = side.prompt(one.choice.question)
    ends = None if one.whole else -1  # an option within an answer does not end it
    answers = [side.answer(f"{one.choice.opening}{option}").ids for option in one.choice.options]
    return [[*prompt, *ids[:ends]] for ids in answers]


@cache
def _demo_questions(name: str) -> tuple[list[tuple[int, DoseQuestion]], list[ChoiceQuestion]]:
    """Dose questions with the number of their wording in this examination, and choices."""
    first, facts = _SETS[name]
    asked: dict[str, list[Asked]] = {}
    for example in dose_examination(fact_table(), seed=_SEED):
        asked.setdefault(example.fact_id, []).append(example)
    own = {fact: examples[first::2] for fact, examples in asked.items()}
    doses = [
        (n, DoseQuestion(id=f"{fact}/{first + 2 * n}", concept=fact, question=example.question, answer=example.answer))
        for fact, examples in own.items()
        for n, example in enumerate(examples)
    ]
    choices = [
        ChoiceQuestion(concept=one.id, choice=one.model_copy(update={"question": own[one.id][-1].question}))
        for one in demo_choices(facts)
    ]
    return doses, choices


@cache
def _facts() -> dict[str, Dose]:
    return {dose.id: dose for dose in fact_table().doses()}


def _share(answers: Sequence[Judged]) -> float:
    return sum(one.right for one in answers) / len(answers) if answers else 0.0
