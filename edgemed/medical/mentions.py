"""What the clinical parser finds in a text: terms, quantities, and what it could not read.

Spans count bytes of the text in UTF-8 (unpaired surrogates take the three bytes of "surrogatepass"), so that a
loss over tokens and a page over characters can both find them; `text.encode("utf-8", "surrogatepass")[start:end]`
is the mention. These are made by the ten thousand, hence slotted dataclasses and not records.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class TermKind(StrEnum):
    """What a term of the lists is."""

    DRUG = "drug"
    DRUG_CLASS = "drug_class"
    CONDITION = "condition"
    FINDING = "finding"
    TEST = "test"
    PROCEDURE = "procedure"
    BODY_SITE = "body_site"
    ORGANISM = "organism"
    AGE_BAND = "age_band"
    SEX = "sex"
    PREGNANCY = "pregnancy"
    LACTATION = "lactation"
    RENAL = "renal"
    HEPATIC = "hepatic"
    ALLERGY = "allergy"
    ROUTE = "route"
    LATERALITY = "laterality"
    ACTION = "action"
    """What is to be done with a treatment: start, stop, continue, repeat, miss, switch."""
    RELATION = "relation"
    """What orders two things: before, after, during, with, without, instead of, more, less."""
    SEVERITY = "severity"


class QuantityKind(StrEnum):
    """What a number says."""

    DOSE = "dose"
    """An amount of a drug or fluid, per kg or m2 or day too; its strength; its maximum."""
    FREQUENCY = "frequency"
    DURATION = "duration"
    AGE = "age"
    WEIGHT = "weight"
    MEASURE = "measure"
    """A vital sign, a laboratory value, a size, a percentage."""
    TIME = "time"
    """A date, a year, a time of day, a time before or after something."""
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the lists, where the text names it."""

    kind: TermKind
    name: str
    """Its canonical name: the INN of a drug, the plain clinical word of anything else; lower case."""
    start: int
    end: int
    negated: bool = False
    """Said not to be: "no fever", "denies", "not allergic to"."""
    status: str = ""
    """"past", "family" or "possible" where the text says so."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number or range with its unit."""

    kind: QuantityKind
    low: Fraction
    """In `unit`."""
    high: Fraction
    """Equal to `low` when it is one value; the diastolic value of a blood pressure."""
    unit: str
    """Canonical (units.py): mass in mg, volume in mL, calendar time as written, "mg/kg/day"; "" for none."""
    start: int
    end: int
    comparator: str = ""
    """"<", "<=", ">", ">=" or "~": "under 5 years", "maximum 4 g"."""
    of: str = ""
    """The drug, or the name of what was measured, that the number belongs to; "" when the text does not say."""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """Something number-like that was not understood."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class Entities:
    """All that was found in one text, each kind in the order of the text."""

    terms: tuple[Term, ...]
    quantities: tuple[Quantity, ...]
    unparsed: tuple[Unparsed, ...]
