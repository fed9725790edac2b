"""The table of facts: read from `facts/*.toml`, checked, and put into plain sentences.

A fact is `checked` on the date its source's text was read; a fact from memory is shown as unverified and
supports no number. Sentences are the project's own; facts and figures come from the sources named.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

FROM_MEMORY = "from memory"

Group = Literal["adult", "child", "infant", "newborn", "pregnant woman"]
StatementKind = Literal["contraindication", "pregnancy", "danger_sign", "first_aid", "vaccination"]


class Source(Record):
    """A publication whose text was read."""

    id: str
    title: str
    publisher: str
    edition: str
    url: str


class _Fact(Record):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    also: tuple[str, ...] = ()
    """Other names a person would use for the drug or subject."""
    source: str
    """Id of a source, or "memory"."""
    locator: str = ""
    """Section, table or page in the source."""
    checked: datetime.date | Literal["from memory"]

    @model_validator(mode="after")
    def _source_agrees(self) -> _Fact:
        if (self.source == "memory") != (self.checked == FROM_MEMORY):
            raise ValueError("a fact from memory has source 'memory' and checked 'from memory', any other has neither")
        if self.verified and not self.locator:
            raise ValueError("a checked fact names the place in its source")
        return self

    @property
    def verified(self) -> bool:
        """True when the text of its source was read."""
        return self.checked != FROM_MEMORY


class Dose(_Fact):
    """How much of a drug, for what, for whom, how often."""

    kind: Literal["dose"]
    drug: str
    condition: str
    group: Group
    detail: str = ""
    """Age or weight band, or another circumstance the dose depends on."""
    route: str
    amount: str = Field(pattern=r"^\d+(\.\d+)?(-\d+(\.\d+)?)?$")
    unit: str
    form: str = ""
    """Strength of the tablet or solution, where the amount counts those."""
    interval: str
    duration: str = ""
    maximum: str = ""

    @property
    def name(self) -> str:
        return self.drug

    @property
    def who(self) -> str:
        """The patient, as in "child, 4 to under 10 kg"."""
        return f"{self.group}, {self.detail}" if self.detail else self.group

    @property
    def quantity(self) -> str:
        """Value, unit and interval: "15 mg/kg every 6 hours"; what a dose answer must have exactly."""
        unit = self.unit
        if self.amount == "1" and unit in ("tablets", "drops", "puffs", "capsules", "sachets"):
            unit = unit.removesuffix("s")
        interval = "as a single dose" if self.interval == "single dose" else self.interval
        amount = self.amount.replace("-", " to ")
        return f"{amount} {unit} {interval}"

    def sentence(self) -> str:
        """The answer in plain words."""
        head = f"{capital(self.drug)} for {self.condition}, {self.who}, {self.route}: {self.quantity}"
        form = f" ({self.form})" if self.form else ""
        duration = f", {self.duration}" if self.duration else ""
        maximum = f" Maximum {self.maximum}." if self.maximum else ""
        return f"{head}{form}{duration}.{maximum}{_mark(self)}"


class Statement(_Fact):
    """One thing worth knowing about a drug, a sign, an emergency or a vaccine."""

    kind: StatementKind
    subject: str
    about: str
    statement: str = Field(min_length=8)

    @property
    def name(self) -> str:
        return self.subject

    def sentence(self) -> str:
        """The answer in plain words, after the heading that says what it is about."""
        return f"{capital(self.subject)}, {self.about}: {self.statement}{_mark(self)}"


Fact = Annotated[Dose | Statement, Field(discriminator="kind")]


class FactFile(Record):
    """The content of one file of `facts/`."""

    source: tuple[Source, ...] = ()
    fact: Annotated[tuple[Fact, ...], BeforeValidator(tuple)]


class FactTable(Record):
    """All facts, and the sources they name."""

    sources: dict[str, Source]
    facts: tuple[Fact, ...]

    def doses(self) -> Iterator[Dose]:
        """The dose facts, in order."""
        return (fact for fact in self.facts if isinstance(fact, Dose))

    def statements(self) -> Iterator[Statement]:
        """All other facts, in order."""
        return (fact for fact in self.facts if isinstance(fact, Statement))


@cache
def fact_table() -> FactTable:
    """The shipped table. Raises UsageError with file and field when a file is damaged or facts collide."""
    sources: dict[str, Source] = {}
    facts: list[Dose | Statement] = []
    for file in sorted(resources.files("edgemed.demo").joinpath("facts").iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".toml"):
            continue
        try:
            content = FactFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, ValidationError) as error:
            raise UsageError(f"The table of facts {file.name} is damaged: {error}.") from error
        sources |= {source.id: source for source in content.source}
        facts += content.fact
    _refuse_collisions(facts, sources)
    return FactTable(sources=sources, facts=tuple(facts))


def _refuse_collisions(facts: list[Dose | Statement], sources: dict[str, Source]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for fact in facts:
        if fact.verified and fact.source not in sources:
            raise UsageError(f"The fact {fact.id} names the unknown source {fact.source!r}.")
        if isinstance(fact, Dose):
            question: tuple[str, ...] = (fact.drug, fact.condition, fact.group, fact.detail, fact.route)
        else:
            question = (fact.kind, fact.subject, fact.about)
        for key in (("id", fact.id), question):
            if key in seen:
                raise UsageError(f"The facts {seen[key]} and {fact.id} answer the same question.")
            seen[key] = fact.id


def _mark(fact: _Fact) -> str:
    return "" if fact.verified else " (From memory, unverified.)"


def capital(text: str) -> str:
    """The text with its first letter large, the rest as it is."""
    return text[:1].upper() + text[1:]
