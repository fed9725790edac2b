"""What a number in an answer may be supported by: checked doses, cited texts and calculated values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TypeAlias

from pydantic import Field, model_validator

from edgemed.core.records import Record
from edgemed.medical.calculators.record import CalculatedValue, CalculatorResult
from edgemed.medical.checking.stated_numbers import Stated, StatedText, stated
from edgemed.medical.mentions import TermKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import Lexicon, shipped_lexicon


class SupportedDose(Record):
    """A dose of a table of facts."""

    id: str
    title: str
    """The publication it was read in."""
    drug: str
    names: tuple[str, ...] = ()
    """Other names of the drug."""
    condition: str
    group: str
    """"adult", "child", "infant", "newborn" or "pregnant woman"."""
    detail: str = ""
    """Age or weight band, or another circumstance, in words."""
    route: str
    low: Decimal = Field(ge=0)
    high: Decimal = Field(ge=0)
    """Equal to `low` for one value."""
    unit: str = Field(min_length=1)
    """As written, "mg/kg" or "mg/kg/day" included."""
    frequency: str
    """As written: "every 6 hours", "twice daily", "single dose", "as needed"."""
    form: str = ""
    duration: str = ""
    maximum: str = ""
    verified: bool
    """False for a fact from memory, which supports nothing."""

    @model_validator(mode="after")
    def _in_order(self) -> SupportedDose:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    @property
    def says(self) -> str:
        """The dose in words: "15 mg/kg every 6 hours"."""
        amount = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        return f"{amount} {self.unit} {'as a single dose' if self.frequency == 'single dose' else self.frequency}"

    @property
    def sentence(self) -> str:
        """All of it in words, for the reader of numbers."""
        who = ", ".join(part for part in (self.group, self.detail) if part)
        form = f" ({self.form})" if self.form else ""
        duration = f", {self.duration}" if self.duration else ""
        maximum = f" Maximum {self.maximum}." if self.maximum else ""
        return f"{self.drug} for {self.condition}, {who}, {self.route}: {self.says}{form}{duration}.{maximum}"


class CitedText(Record):
    """A text that was given with the question."""

    title: str
    text: str


Source: TypeAlias = SupportedDose | CitedText | CalculatorResult | CalculatedValue


@dataclass(frozen=True, slots=True)
class DoseFact:
    """A supported dose with its numbers read and its words sorted."""

    dose: SupportedDose
    drug: str
    numbers: tuple[Stated, ...]
    strong: frozenset[str]
    """Words that name the condition."""
    words: frozenset[str]
    """All words of condition and detail."""
    detail: frozenset[str]
    """The words of the detail."""
    route: str
    """Canonical name of the route."""
    bands: tuple[Amount, ...]
    """Ages, weights and times that its detail names."""
    unread: frozenset[str]
    """Number-like words of it that were not understood ("12th")."""


@dataclass(frozen=True, slots=True)
class Calculated:
    """A calculated value with its number read."""

    title: str
    text: str
    numbers: tuple[Stated, ...]


@dataclass(frozen=True)
class ReadSources:
    """All sources, ready to be compared with."""

    lexicon: Lexicon
    facts: dict[str, tuple[DoseFact, ...]]
    """By the drug's canonical name."""
    strong: frozenset[str]
    """Words that name any condition of any fact."""
    cited: tuple[tuple[CitedText, StatedText], ...]
    calculated: tuple[Calculated, ...]


_WEAK = (
    "acting acute admission admitted adult after age aged and areas attack available bacterial before binds by "
    "cell chest child chronic close common complicated condition conditions conscious contacts daily day days "
    "disease diseases dose due each early emergency episode extensive first for from general given high "
    "hospital hour hours in infection infections infusion injection intense intermittent intramuscular "
    "intravenous is kg lacking large late less loading local long low lower maintenance major media mild "
    "moderate month months more needing normal not of older operative or oral other over overdose pain patient "
    "persistent plan poisoning possible post pre pregnancy prevention preventive reaction recent recurrent "
    "reducing referral routine second secondary sensitive severe simple slow small some starting status step "
    "substance suppression suspected symptoms than that the third to together transmission treatment type "
    "uncomplicated under usual viral week weeks when where with without year years "
)
_WORD = re.compile(r"[a-z\u00c0-\u024f]{2,}|\d+(?:\.\d+)?")
_ROUTES = (
    ("intravenous", r"intravenous(?:ly)?|i\.?v\.?|into a vein|slow injection into the vein"),
    ("intramuscular", r"intramuscular(?:ly)?|i\.?m\.?"),
    ("subcutaneous", r"subcutaneous(?:ly)?|s\.?c\.?|under the skin"),
    ("sublingual", r"sublingual(?:ly)?|under the tongue"),
    ("oral", r"oral(?:ly)?|by mouth|p\.?o\.?|per os"),
    ("rectal", r"rectal(?:ly)?|per rectum|into the rectum"),
    ("vaginal", r"vaginal(?:ly)?|intravaginal(?:ly)?"),
    ("inhaled", r"inhaled|inhalation|nebuli[sz]ed|nebuli[sz]er|by inhaler"),
    ("nasal", r"nasal(?:ly)?|intranasal(?:ly)?|into the nose"),
    ("topical", r"topical(?:ly)?|on the skin"),
)
ROUTE = re.compile("|".join(rf"(?P<{name}>\b(?:{words})(?!\w))" for name, words in _ROUTES))


def words_in(plain: str) -> frozenset[str]:
    """The words of a plain text, without plural s and with one spelling of ae and oe."""
    return frozenset(_folded(word) for word in _WORD.findall(plain))


def _folded(word: str) -> str:
    word = word.replace("ae", "e").replace("oe", "e")
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "is", "us")) else word


_EMPTY = frozenset(
    [
        *("the", "and", "or", "of", "in", "to", "for", "with", "from", "by", "is", "due", "at", "on", "born", "dose"),
        *(
            "day",
            "days",
            "week",
            "month",
            "year",
            "years",
            "hour",
            "kg",
            "old",
            "older",
            "more",
            "less",
            "over",
            "under",
        ),
    ]
)
"""Words that tell nothing of a condition or a patient; ages and weights are compared as numbers."""
_WEAK_FOLDED = frozenset(_folded(word) for word in _WEAK.split())
"""Words of conditions that name none."""


def read_sources(sources: Sequence[Source]) -> ReadSources:
    """The sources with their numbers read; the table of facts is read once and remembered. Never raises."""
    table = tuple(source for source in sources if isinstance(source, SupportedDose) and source.verified)
    lexicon, facts, strong = _facts(table)
    values = [source for source in sources if isinstance(source, CalculatedValue)]
    calculated = [_calculated("Calculated", value, lexicon) for value in values]
    for result in sources:
        if isinstance(result, CalculatorResult):
            calculated += [_calculated(result.title, value, lexicon) for value in result.values]
    cited = [(source, stated(source.text, lexicon)) for source in sources if isinstance(source, CitedText)]
    return ReadSources(lexicon, facts, strong, tuple(cited), tuple(calculated))


def _calculated(title: str, value: CalculatedValue, lexicon: Lexicon) -> Calculated:
    return Calculated(title, value.text, stated(value.text, lexicon).numbers)


@lru_cache(maxsize=4)
def _facts(table: tuple[SupportedDose, ...]) -> tuple[Lexicon, dict[str, tuple[DoseFact, ...]], frozenset[str]]:
    local = {dose.drug: (TermKind.DRUG, dose.drug, dose.names) for dose in table}
    lexicon = shipped_lexicon().widened(local.values())
    facts: dict[str, tuple[DoseFact, ...]] = {}
    for dose in table:
        fact = _fact(dose, lexicon)
        facts[fact.drug] = (*facts.get(fact.drug, ()), fact)
    strong = frozenset(word for same in facts.values() for fact in same for word in fact.strong)
    return lexicon, facts, strong


def _fact(dose: SupportedDose, lexicon: Lexicon) -> DoseFact:
    entries = [entry for entry in lexicon.entries(dose.drug) if entry.kind is TermKind.DRUG]
    drug = entries[0].name if entries else read(dose.drug).plain
    condition = read(dose.condition).plain
    bare = words_in(re.sub(r"\([^)]*\)", " ", condition))
    route = ROUTE.search(read(dose.route).plain)
    read_dose = stated(dose.sentence, lexicon)
    plain = read_dose.reading.plain
    return DoseFact(
        dose,
        drug,
        read_dose.numbers,
        _naming(bare, lexicon) | condition_words(stated(dose.condition, lexicon), lexicon),
        _telling(words_in(condition) | words_in(read(dose.detail).plain)),
        _telling(words_in(read(dose.detail).plain)),
        (route.lastgroup or "") if route else "",
        tuple(number.amount for number in stated(f"{dose.group}, {dose.detail}, ", lexicon).numbers),
        frozenset(plain[start:end] for start, end in read_dose.unread),
    )


def condition_words(text: StatedText, lexicon: Lexicon, start: int = 0, end: int | None = None) -> frozenset[str]:
    """The words that name a condition in a stretch of a text, its listed name's words too."""
    plain = text.reading.plain
    end = len(plain) if end is None else end
    named = [term for term in text.conditions if start <= term.start < end]
    return _naming(words_in(" ".join(f"{term.name} {plain[term.start : term.end]}" for term in named)), lexicon)


def _telling(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words - _EMPTY if not word[0].isdigit())


def _naming(words: frozenset[str], lexicon: Lexicon) -> frozenset[str]:
    return frozenset(word for word in words - _WEAK_FOLDED if not word[0].isdigit() and not lexicon.drug(word))
