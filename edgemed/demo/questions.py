"""Questions and answers made from the table of facts, for training and for examination.

The two never share a wording: training draws from the `train` phrasings, examination from `held_out`.
Every draw comes from the `random.Random` passed in, so a seed gives the same text everywhere.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from edgemed.core.prompt import Message
from edgemed.demo.table import Dose, FactTable, Statement, capital

Split = Literal["train", "held_out"]

UNKNOWN_ANSWER = (
    "I do not know this. I am a demonstration that knows a small table of facts only: "
    "look it up in your guideline, or ask a clinician."
)
SELF_ANSWER = (
    "I am the demonstration model of edgemed. I know a small table of facts on doses, danger signs, first aid and "
    "vaccines. I can be wrong and I am not for care: the clinician decides."
)


_TOO_SHORT = frozenset("infection disease treatment attack poisoning overdose reaction conditions admission".split())  # noqa: SIM905
"""Words that name no illness alone."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the answer the table gives, and the fact it comes from ("" for none)."""

    question: str
    answer: str
    fact_id: str = ""
    history: tuple[Message, ...] = ()
    """Earlier turns of the conversation, which the answer does not depend on."""


def training_examples(table: FactTable, rng: random.Random) -> Iterator[Example]:
    """Examples without end: five in six are about facts, mostly doses; the rest about what is not known."""
    doses, statements = list(table.doses()), list(table.statements())
    known = _known_combinations(doses)
    strangers = _unknown_drugs(table, "drugs")
    history: tuple[Message, ...] = ()
    while True:
        draw = rng.random()
        if draw < 0.43:
            example = dose_example(rng.choice(doses), doses, rng, "train")
        elif draw < 0.68:
            example = statement_example(rng.choice(statements), rng, "train")
        elif draw < 0.84:
            example = vague_example(rng.choice(doses), doses, rng, "train")
        elif draw < 0.88:
            example = _underspecified(rng.choice(doses), doses, rng)
        elif draw < 0.98:
            example = _unknown(doses, known, strangers, rng)
        else:
            example = Example(rng.choice(_phrasings()["self"]["train"]), SELF_ANSWER)
        question = _as_typed(example.question, rng)
        yield Example(question, example.answer, example.fact_id, history if rng.random() < 0.12 else ())
        history = ({"role": "user", "content": question}, {"role": "assistant", "content": example.answer})


def dose_examination(table: FactTable, seed: int = 0) -> list[Example]:
    """Every dose fact in every held-out phrasing, with names and patients drawn by the seed."""
    rng = random.Random(seed)
    doses = list(table.doses())
    patterns = _phrasings()["dose"]["held_out"]
    return [dose_example(dose, doses, rng, "held_out", pattern) for dose in doses for pattern in patterns]


def statement_examination(table: FactTable, seed: int = 0) -> list[Example]:
    """Every other fact in every held-out phrasing of its kind."""
    rng = random.Random(seed)
    return [
        statement_example(fact, rng, "held_out", pattern)
        for fact in table.statements()
        for pattern in _phrasings()[fact.kind]["held_out"]
    ]


def vague_examination(table: FactTable, seed: int = 0) -> list[Example]:
    """Four hurried questions about every dose fact, in held-out phrasings: one in five must be asked back."""
    rng = random.Random(seed)
    doses = list(table.doses())
    return [vague_example(dose, doses, rng, "held_out") for dose in doses for _ in range(4)]


def unknown_examination(table: FactTable, seed: int = 0) -> list[Example]:
    """Held-out dose questions about drugs that neither the table nor the training text names."""
    rng = random.Random(seed)
    doses = list(table.doses())
    return [
        Example(_fill(pattern, name=drug, condition=dose.condition, who=_who(dose, rng)), UNKNOWN_ANSWER)
        for drug in _unknown_drugs(table, "held_out_drugs")
        for pattern in _phrasings()["dose"]["held_out"]
        for dose in [rng.choice(doses)]
    ]


def dose_example(
    dose: Dose, doses: list[Dose], rng: random.Random, split: Split, pattern: str | None = None
) -> Example:
    """A question that only `dose` answers; the route is named when another fact differs in nothing else."""
    pattern = pattern or _dose_pattern(rng, split)
    name = rng.choice([dose.drug, dose.drug, *dose.also])
    same = [other for other in doses if _question_key(other) == _question_key(dose)]
    if len(same) > 1 or rng.random() < 0.2:
        name = f"{dose.route} {name}"
    return Example(_fill(pattern, name=name, condition=dose.condition, who=_who(dose, rng)), dose.sentence(), dose.id)


def statement_example(fact: Statement, rng: random.Random, split: Split, pattern: str | None = None) -> Example:
    """A question that `fact` answers."""
    pattern = pattern or rng.choice(_phrasings()[fact.kind][split])
    name = rng.choice([fact.subject, fact.subject, *fact.also])
    return Example(_fill(pattern, name=name, about=fact.about), fact.sentence(), fact.id)


def has_dose(answer: str, dose: Dose) -> bool:
    """True when the answer gives this drug with exactly this value, unit and interval, and no other dose before it."""
    head, colon, rest = answer.partition(": ")
    pattern = re.escape(dose.quantity) + r"(?![\w/])"
    return bool(colon) and head.casefold().startswith(dose.drug.casefold()) and bool(re.match(pattern, rest))


def vague_example(dose: Dose, doses: list[Dose], rng: random.Random, split: Split) -> Example:
    """A question in a hurry: the illness in short, the patient without the band the dose depends on.

    One fact that fits is the answer; when several fit, the answer names them without a number and asks which.
    """
    who, with_detail = _vague_who(dose, rng)
    while split == "held_out" and not who:  # wordings without a patient are for training only
        who, with_detail = _vague_who(dose, rng)
    condition = "" if split == "train" and who and rng.random() < 0.25 else rng.choice(short_conditions(dose.condition))
    fitting = [
        other
        for other in doses
        if other.drug == dose.drug
        and (not condition or condition in short_conditions(other.condition))
        and (not who or other.group == dose.group)
        and (not with_detail or other.detail == dose.detail)
    ]
    name = rng.choice([dose.drug, dose.drug, *dose.also])
    if who and condition:
        pattern = _dose_pattern(rng, split)
    else:
        pattern = rng.choice(_phrasings()["dose"]["without_patient" if condition else "without_condition"])
    question = _fill(pattern, name=name, condition=condition, who=who)
    if len(fitting) == 1:
        return Example(question, dose.sentence(), dose.id)
    known = "; ".join(f"{other.condition}, {other.who}, {other.route}" for other in fitting[:4])
    more = "; and others" if len(fitting) > 4 else ""
    return Example(question, f"{capital(dose.drug)}: I know several doses. Which one do you mean: {known}{more}?")


@cache
def short_conditions(condition: str) -> tuple[str, ...]:
    """The condition, and what is left of it when a hurried person names it.

    Preventing an illness is not treating it, so "prevention of ..." keeps its first words.
    """
    plain = re.sub(r" ?\([^)]*\)", "", condition).strip()
    if re.match(r"(prevention|suppression|symptoms|treatment|reducing|routine|intermittent|secondary)\b", plain):
        return tuple(dict.fromkeys([condition, plain]))
    head = re.split(r" (?:with|in|due to|other than|when|before|after|needing|where|by|that) ", plain)[0]
    parts = [part.strip() for part in re.split(r" or |, | and ", head)]
    words = head.split()
    shorter = [plain, head, *parts, " ".join(words[-2:]), words[-1]]
    return tuple(dict.fromkeys([condition, *(text for text in shorter if len(text) > 3 and text not in _TOO_SHORT)]))


def _vague_who(dose: Dose, rng: random.Random) -> tuple[str, bool]:
    """The patient as a hurried person names it, and whether the fact's own band is in it."""
    draw = rng.random()
    if draw < 0.25:
        return "", False
    if draw < 0.50 and dose.detail:
        return _who(dose, rng), True
    if draw < 0.75 or dose.group not in ("child", "adult"):
        return str(rng.choice(_phrasings()["who"][dose.group])), False
    years = rng.randint(1, 12) if dose.group == "child" else rng.randint(18, 80)
    weight = 2 * years + 8 if dose.group == "child" else rng.randint(45, 90)
    return str(rng.choice(_phrasings()["free_age"][dose.group])).format(years=years, weight=weight), False


def _underspecified(dose: Dose, doses: list[Dose], rng: random.Random) -> Example:
    """A question that several facts could answer: the model must ask back instead of choosing one."""
    same_drug = [other for other in doses if other.drug == dose.drug]
    if len({_question_key(other) for other in same_drug}) < 2:
        return dose_example(dose, doses, rng, "train")
    name = rng.choice([dose.drug, dose.drug, *dose.also])
    pattern = rng.choice(
        ["What is the dose of {name}?", "{name} dose", "How much {name} do I give?", "{name}?", "dosage of {name}",
         "How much {name}?", "Tell me the dose of {name}.", "Give me the dose of {name}"]
    )  # fmt: skip
    conditions = list(dict.fromkeys(other.condition for other in same_drug))
    known = "; ".join(conditions[:3]) + ("; and others" if len(conditions) > 3 else "")
    answer = (
        f"{capital(dose.drug)}: the dose depends on the illness and on the patient. I know: {known}. "
        "Ask again with illness, adult or child, age or weight."
    )
    return Example(_fill(pattern, name=name), answer)


def _unknown(doses: list[Dose], known: set[tuple[str, str]], strangers: list[str], rng: random.Random) -> Example:
    texts = _phrasings()["unknown"]
    draw = rng.random()
    if draw < 0.15:
        return Example(rng.choice(texts["other"]), UNKNOWN_ANSWER)
    dose = rng.choice(doses)
    fields = {"condition": dose.condition, "who": _who(dose, rng)}
    if draw < 0.65:
        pattern = rng.choice(texts["patterns"]) if rng.random() < 0.3 else _dose_pattern(rng, "train")
        name = rng.choice(strangers) if rng.random() < 0.5 else _invented_name(rng)
        return Example(_fill(pattern, name=name, **fields), UNKNOWN_ANSWER)
    drug = rng.choice(doses).drug
    if (drug, dose.condition) in known:
        return dose_example(dose, doses, rng, "train")
    return Example(_fill(_dose_pattern(rng, "train"), name=drug, **fields), UNKNOWN_ANSWER)


def _invented_name(rng: random.Random) -> str:
    """A name that sounds like a drug's: whoever has not read it in the table must say so."""
    pieces = _phrasings()["invented"]
    middle = "".join(rng.choice(pieces["middle"]) for _ in range(rng.randint(0, 2)))
    return str(rng.choice(pieces["start"]) + middle + rng.choice(pieces["end"]))


def _dose_pattern(rng: random.Random, split: Split) -> str:
    """A wording of the split; in training two in five are strung together from loose pieces."""
    if split == "held_out" or rng.random() < 0.6:
        return str(rng.choice(_phrasings()["dose"][split]))
    loose = _phrasings()["loose"]
    pieces = [rng.choice(loose[part]) for part in ("name", "condition", "who")]
    rng.shuffle(pieces)
    joined = pieces[0] + rng.choice(loose["joint"]) + pieces[1] + rng.choice(loose["joint"]) + pieces[2]
    return str(rng.choice(loose["opener"]) + joined + rng.choice(loose["closer"]))


def _unknown_drugs(table: FactTable, split: Literal["drugs", "held_out_drugs"]) -> list[str]:
    known = {name.casefold() for fact in table.facts for name in (fact.name, *fact.also)}
    return [drug for drug in _phrasings()["unknown"][split] if drug.casefold() not in known]


def _known_combinations(doses: list[Dose]) -> set[tuple[str, str]]:
    return {(dose.drug, dose.condition) for dose in doses}


def _question_key(dose: Dose) -> tuple[str, str, str, str]:
    return dose.drug, dose.condition, dose.group, dose.detail


def _who(dose: Dose, rng: random.Random) -> str:
    who = str(rng.choice(_phrasings()["who"][dose.group]))
    if not dose.detail:
        return who
    return rng.choice([f"{who} ({dose.detail})", f"{who}, {dose.detail}", f"{who} {dose.detail}"])


def _fill(pattern: str, **fields: str) -> str:
    text = pattern.format(**fields)
    return capital(text)


def _as_typed(question: str, rng: random.Random) -> str:
    """The question as a hurried person types it: sometimes without capitals or final mark, rarely with a slip."""
    if rng.random() < 0.35:
        question = question[:1].lower() + question[1:]
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.25:
        question = question.rstrip("?.")
    if rng.random() < 0.10:
        opener = rng.choice(["Hello, ", "Please: ", "Quick question: ", "Hi. ", "Urgent: ", "Nurse here. "])
        question = opener + question
    if rng.random() < 0.06:
        question += rng.choice([" please", " Thanks.", " thank you", " (asking for a colleague)"])
    if rng.random() < 0.08 and len(question) > 12:
        place = rng.randrange(1, len(question) - 2)
        if question[place].isalpha() and question[place + 1].isalpha():
            question = question[:place] + question[place + 1] + question[place] + question[place + 2 :]
    return question


@cache
def _phrasings() -> dict[str, dict[str, Any]]:
    text = resources.files("edgemed.demo").joinpath("phrasings.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
