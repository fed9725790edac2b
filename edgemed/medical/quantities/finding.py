"""Quantities of a plain text: numbers with their units, ranges, frequencies, ages, dates; English grammar.

A number is tried against the most special form first (a frequency, a name, a date, a blood pressure) and ends as a
plain count. What holds digits and fits nothing is kept as unread, with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from fractions import Fraction

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities import special_quantities
from edgemed.medical.quantities.amounts import Amount, Unread
from edgemed.medical.quantities.calendar_times import time_at
from edgemed.medical.quantities.comparators import BEFORE, comparator_of
from edgemed.medical.quantities.frequencies import frequency_at, times_alone
from edgemed.medical.quantities.kinds import kind_of
from edgemed.medical.quantities.name_digits import name_at, written_at
from edgemed.medical.quantities.numbers import NUMBER, VULGAR, WORDS, joined, value_of
from edgemed.medical.quantities.shared_units import with_shared_units
from edgemed.medical.quantities.time_kinds import OLD
from edgemed.medical.quantities.unit_chains import CALENDAR_UNIT, CHAIN, symbols
from edgemed.medical.quantities.units import CALENDAR, FORMS, SPELLINGS, SYMBOL_OF, canonical

MAX_NUMBERS = 400
"""More in one text are reported as one unread rest, which bounds the time of a hostile text."""

_CANDIDATE = re.compile(
    joined(
        rf"""\d+|(?<![\w.])\.(?=\d)|(?<=[=<>(] )\.(?= \d)|(?<=than )\.(?= \d)|[{VULGAR}]
        |\b(?:{"|".join(WORDS)}|an? (?=(?:hour|day|week|month|year) and (?:a )?half\b|half\b|quarter\b|third\b
        |hundred\b|thousand\b|dozen\b|couple of\b)|once|twice
        |thrice
        |daily|dly|wkly|mthly|nightly|weekly|fortnightly|monthly|yearly|annually|hourly|every|each|alternate
        |alternating|q|qd|od|o
        |bds?|b|bid
        |tid|t|tds?|qid|qds|qhs|eod|qod|e|(?:twent|thirt|fort|fift|sixt|sevent|eight|ninet)ies)\b
        |\b(?:per|a) (?=(?:day|night|week|month)\b)|\bq(?=\d)|\bq(?=[dh]|am\b|pm\b|day\b|hour|week|month)"""
    )
)
_DIGIT_STARTS = frozenset("0123456789." + VULGAR)
_NUMBER = re.compile(NUMBER)
_ADJECTIVE = joined(
    r"""(?:(?:more|further|full|additional|extra|whole|consecutive|successive|straight|complete|completed|level|heaped
        |large|small
    |oral|single|separate|divided|equal|standard|calendar|adult|paediatric|pediatric|rescue|solid|short|other|entire
    |long|crushed
    |metered|booster|loading|equally divided|different|intravenous|iv|intact|film-coated)[ ])"""
)
_DESCRIBED = "|".join(word for symbol in (*CALENDAR, *FORMS) for word in SPELLINGS[symbol] if len(word) > 2)
_UNIT = re.compile(
    joined(
        rf"""(?:\+(?= ?[a-z]))?(?:[ \u2009]?- ?|[ \u2009]{{0,2}}|\n)
        (?:{_ADJECTIVE}(?={_DESCRIBED}))?(?P<chain>{CHAIN})"""
    )
)
_UNIT_BEHIND = re.compile(rf" ?\( ?{NUMBER}(?: ?- ?| to | , |\+/-){NUMBER} ?\)(?=[ -]?[a-z%])[ -]?(?P<chain>{CHAIN})")
"""Of "40.3 (32.2-62.0) mg/day"."""
_BEHIND_BRACKET = re.compile(rf" ?\) ?(?P<chain>{CHAIN})")
_VALUE_BEFORE = re.compile(r"\d ?\( ?$")
_SEVERAL = re.compile(rf" (?:or|to) (?:several|more|so)(?: more)? (?P<chain>{CALENDAR_UNIT})")
"""Of "1 to several hours"."""
_MINUS = re.compile(r"- ?(?=[\d.])")
_SPREAD = re.compile(rf"(?: ?\+ ?/ ?- ?| ?± ?| ?\+- ?)(?:{NUMBER})")
_JOIN = re.compile(
    r"(?P<to> - - ?|--| - to | to (?:younger|older|less|more|under|over) than |-? to |-to | ?- ?| up to |, up to "
    r"| through | till | until |-to-| ?~ ?)|(?P<or>-? ?,? or "
    r"|-or-| ?/ ?(?=\d)| and/or )|(?P<and> and | & )"
)
_BETWEEN = re.compile(r"\b(?:between|from|ranging|range[sd]?)(?: the)?(?: ages?| age)?(?: of| from| between)? ?$")
_CHANGED = re.compile(
    r"\b(?:increas|rais|ris|rose|fell|fall|drop|went|chang|switch|lower|taper|decreas|reduc|improv|mov|up|down"
    r"|step)\w*\b"
    r"[^.;]{0,40}\bfrom(?: [a-z]+){0,2} ?$"
)
_NOT_HIGH = re.compile(r"[:/]\d|,\d{3},| ?(?:in|of) \d")
_NO_UNIT_FOLLOWS = re.compile(r" in \d+ ?(?:ml|l)\b")
_ONE_COUNTS = re.compile(
    r"(?= or (?:more|two)\b| of (?:the )?(?:\d+|two|three|four|five|six|seven|eight|nine|ten)\b)|(?!-year| (?:of"
    r"|or|and|that|who|which|is|was|has|had|can|may|should|could|would|will|to|in|at|on|for|with|by|as"
    r"|from|another|must"
    r"|needs?|should|does|did|do|the|a|an|i|you|we|they|it|side|hand|way|reason|thing|more|such|day|time|if|when"
    r"|where|be|are|were)\b)"
    r" [a-z]{3,}"
)
_ONE_OF = re.compile(r" of (?:the )?\d")
_ONE_BEFORE = re.compile(
    r"\b(?:the|this|that|no|any|every|each|which|another|some|new|other|right|wrong|only the|good|little|loved|old) $"
)
_OF_MASS = re.compile(r"(?:g|mg|mcg|ng|mL|L|IU|mmol|mEq)\b|%")
_DAYS_AND_HOURS = {("min", "day"): Fraction(1440), ("day", "min"): Fraction(1, 1440)}
_OF_ONE = re.compile(r" of (?:an?|one|the)(?= )")
_MOLAR = re.compile(
    r" ?(?P<size>micro|[mµμunp]|(?<=\d[. ])|(?<=[.,]\d)|(?<=[.,]\d\d)|(?<=\d \))|(?<=\d \) )|(?<=\d\))|(?<=\d\) )"
    r"|(?<=[^\w.]\d)"
    r"|(?<=[^\w.]\d ))M(?![\w./-])"
)
_MOLES = {"": "mol", "micro": "mcmol", "m": "mmol", "µ": "mcmol", "μ": "mcmol", "u": "mcmol", "n": "nmol", "p": "pmol"}
_WARM_BEFORE = re.compile(
    r"\b(?:at|to|below|above|between|under|over|than|stor\w+|temp\w*|fever|of|and|is|was)\b[^a-z]*$"
)
_SMALLER = {
    larger: (re.compile(rf"(?: |, | and )?(?P<count>\d{{1,2}})[ -]?(?:{words})(?![a-z0-9])"), count)
    for larger, words, count in (
        ("h", "minutes?|mins?|m", 60),
        ("year", "months?|mths?|mos?|m", 12),
        ("week", "days?|d", 7),
        ("min", "seconds?|secs?|s", 60),
    )
}
"""The next smaller unit of a time, and how many of it make one."""
_NEEDLE = re.compile(r" (?:iv )?(?:cannulae?|needles?|catheters?|venflon|bore)\b")
_NOUN = re.compile(r" [a-z]{3,}|,? \d[\d.]*[ -][a-z]")
_OF_STRONG_FORM = re.compile(
    rf" ?(?:of )?(?:an? |the )?{NUMBER}[ -]?(?:mg|mcg|µg|g|grams?|milligrams?|micrograms?)(?: \([a-z ]+\))?[ -]"
    r"(?:[a-z]+ )?(?P<form>tablet|tab|pill|capsule|sachet|suppository|vial|ampoule)"
)
_SHARE_BEFORE = re.compile(r"\b(?:about|nearly|almost|approximately|roughly|more than|less than|over) $")
_PART_WORD = re.compile(r"(?:an? |one[ -]|two[ -]|three[ -])?(?:half|quarter|third|fourth|fifth)s?\b")
_DAY_BEFORE = re.compile(
    r"(?<!per )(?<!/)(?<!/ )(?<!a )(?<!each )(?<!every )(?<!next )(?<!first )(?<!same )(?<!that )(?<!one )(?<!last )"
    r"\b(?P<unit>days?|weeks?|months?|hours?|years?) (?:(?:about|around|no) )?$"
)
_ANIMAL_DAY_BEFORE = re.compile(r"\b(?:gds?|pnds?|pn(?: \))?|(?:gestation|gestational|postnatal|embryonic) days?) $")
"""Of an age in days: "GD 9", "gestational day 11", "PND 21"."""
_SPACED_SIGN = re.compile(r" (?:,|\)|\.)(?= |$)")


def amounts_of(
    plain: str, names: Sequence[tuple[int, int]] = (), drug_ends: Collection[int] = (), written: str = ""
) -> tuple[list[Amount], list[Unread]]:
    """All quantities of a plain text in order, and the digits that are none; linear in the text.

    `names` are the places of listed names, in order: digits in them are no numbers. `drug_ends` are the places where
    a drug's name ends: "250/50" right after one is a strength and no blood pressure. `written` is the text before it
    was made plain, with the same places: only there can "0.5 M" be told from "0.5 m".
    """
    found: list[Amount] = []
    unread: list[Unread] = []
    done = tried = name = 0
    written = "" if written.isupper() else written  # shouted: its capitals say nothing
    cut_in_words = bool(_SPACED_SIGN.search(plain))
    for candidate in _CANDIDATE.finditer(plain):
        start = candidate.start()
        while name < len(names) and names[name][1] <= start:
            name += 1
        if start < done or (name < len(names) and names[name][0] <= start):
            continue
        tried += 1
        if tried > MAX_NUMBERS:
            unread.append(Unread(start, len(plain), f"more than {MAX_NUMBERS} numbers"))
            break
        after_drug = _after_drug(plain, start, drug_ends)
        reader = _Reader(plain, start, cut_in_words=cut_in_words, after_drug=after_drug, written=written)
        outcome = reader.read()
        if isinstance(outcome, Unread):
            unread.append(outcome)
            done = outcome.end
        elif outcome:
            found += outcome
            done = outcome[-1].end
    return with_shared_units(plain, found), unread


def _after_drug(plain: str, start: int, drug_ends: Collection[int]) -> bool:
    if plain.endswith("(", 0, start):  # "Kaletra 2 tablets (200/50)"
        return any(start - gap in drug_ends for gap in range(1, 40))
    return any(start - gap in drug_ends for gap in (0, 1, 2) if not plain[start - gap : start].strip(" -"))


class _Reader:
    """Reads the one quantity that begins at a place."""

    def __init__(self, plain: str, start: int, *, cut_in_words: bool, after_drug: bool, written: str) -> None:
        self.plain = plain
        self.written = written
        self.start = start
        self.cut_in_words = cut_in_words
        self.after_drug = after_drug
        self.before = plain[max(0, start - BEFORE) : start]

    def read(self) -> list[Amount] | Unread | None:
        plain, start, before = self.plain, self.start, self.before
        digits = plain[start] in _DIGIT_STARTS
        if digits and (name := name_at(plain, start, before, cut_in_words=self.cut_in_words)):
            return name
        if digits and (code := written_at(plain, start, before, self.written, cut_in_words=self.cut_in_words)):
            return code
        if frequency := frequency_at(plain, start, before):
            return [replace(frequency, comparator=self._comparator(frequency))]
        if digits:
            if (time := time_at(plain, start, before)) is not None:
                return time if isinstance(time, Unread) else [replace(time, comparator=self._comparator(time))]
            special = special_quantities.special_at(plain, start, before, after_drug=self.after_drug)
            if special is not None:
                return [replace(special, comparator=self._comparator(special))]
        elif half := special_quantities.and_a_half_at(plain, start):
            unit, end = half
            return [self._kinded(Fraction(3, 2), Fraction(3, 2), unit, end)]
        elif ratio := special_quantities.word_ratio_at(plain, start):
            return [ratio]
        elif (decade := special_quantities.decade_at(plain, start)) is not None:
            return [decade]
        elif times := times_alone(plain, start):
            value = Fraction(times[1])
            return [Amount(QuantityKind.COUNT, value, value, "", start, times[0])]
        return self._plain_quantity()

    def _comparator(self, amount: Amount) -> str:
        return comparator_of(self.before, self.plain, amount.end, amount.kind)

    def _plain_quantity(self) -> list[Amount] | Unread | None:
        plain = self.plain
        match = _NUMBER.match(plain, self.start)
        if match is None:
            return None
        low = value_of(match[0])
        if low is None:
            return Unread(self.start, match.end(), "a number too long")
        end = match.end()
        if low < 1 and (of_one := _OF_ONE.match(plain, end)) and _UNIT.match(plain, of_one.end()):
            end = of_one.end()
        first = _UNIT.match(plain, end)
        chain = first["chain"] if first else ""
        end = first.end() if first else end
        if not chain:
            if bracket := _UNIT_BEHIND.match(plain, end):
                return [self._kinded(low, low, bracket["chain"], match.end())]
            if several := _SEVERAL.match(plain, end):
                chain, end = several["chain"], several.end()
        if chain and (more := self._smaller_unit(chain, end)):
            low, end = low + more[0], more[1]
        if spread := _SPREAD.match(plain, end):
            end = spread.end()
            if not chain and (unit := _UNIT.match(plain, end)):
                chain, end = unit["chain"], unit.end()
        if (joined_to := _JOIN.match(plain, end)) and (
            pair := self._range(low, chain, joined_to, is_spread=spread is not None)
        ):
            return pair
        if not chain and plain[self.start].isalpha() and not self._word_counts(match[0], end):
            return None
        amount = self._kinded(low, low, chain, end)
        is_share = low < 1 and plain[self.start].isalpha()  # "half of those affected"
        is_exact = spread is not None or ("." in match[0] and match[0][-1].isdigit())
        return [_as_value(amount) if is_share or is_exact else amount]

    def _smaller_unit(self, chain: str, end: int) -> tuple[Fraction, int] | None:
        """What "30 min" adds to "2 h 30 min", in the larger unit, and the end of it."""
        larger = symbols(chain)
        if larger not in _SMALLER or (match := _SMALLER[larger][0].match(self.plain, end)) is None:
            return None
        count, of_larger = int(match["count"]), _SMALLER[larger][1]
        return (Fraction(count, of_larger), match.end()) if count < of_larger else None

    def _range(self, low: Fraction, chain: str, join: re.Match[str], *, is_spread: bool) -> list[Amount] | None:
        plain = self.plain
        is_below = special_quantities.is_negative(plain, self.before, "", join.start())
        minus = _MINUS.match(plain, join.end()) if is_below else None
        match = _NUMBER.match(plain, minus.end() if minus else join.end())
        high = value_of(match[0]) if match else None
        high = -high if high is not None and minus else high
        if match is None or high is None or _NOT_HIGH.match(plain, match.end()):
            return None
        if join["and"] and not _BETWEEN.search(self.before):
            return None
        if join["or"] and (chain or high - low != 1 or low.denominator != 1) and not high < 1:
            return None
        end = match.end()
        if spread := _SPREAD.match(plain, end):
            if not is_spread or join["or"] or join["and"] or _CHANGED.search(self.before):
                return None
            end = spread.end()
        unit = _UNIT.match(plain, end)
        if (chain and not unit) or (join["or"] and unit and _OF_MASS.match(symbols(unit["chain"]))):
            return None
        if unit:
            end = unit.end()
        if not unit and high >= 1 and plain[self.start].isalpha() and not _NOUN.match(plain, end):
            return None
        if join["to"] and " - " in join[0] and high > 50 * low > 0 and not unit:
            return None
        is_below |= special_quantities.is_negative(plain, self.before, symbols(unit["chain"]) if unit else "", end)
        if (low > high and not chain and not is_below) or _CHANGED.search(self.before):
            return self._two(low, high, chain, unit["chain"] if unit else "", join, end)
        return self._one_range(low, high, chain, unit["chain"] if unit else "", end)

    def _two(
        self, low: Fraction, high: Fraction, chain: str, last: str, join: re.Match[str], end: int
    ) -> list[Amount] | None:
        """ "reduced from 40 to 20 mg": two amounts with one unit."""
        if not last:
            return None
        first = self._kinded(low, low, chain or last, join.start())
        other = _Reader(self.plain, join.end(), cut_in_words=self.cut_in_words, after_drug=False, written="")
        return [first, other._kinded(high, high, last, end)]

    def _one_range(self, low: Fraction, high: Fraction, chain: str, last: str, end: int) -> list[Amount] | None:
        is_in_brackets = not last and _VALUE_BEFORE.search(self.before)
        if is_in_brackets and (behind := _BEHIND_BRACKET.match(self.plain, end)):
            return [self._kinded(low, high, behind["chain"], behind.end())]
        amount = self._kinded(low, high, last, end)
        if chain and symbols(chain) != symbols(last):
            lower = self._kinded(low, low, chain, end)
            scale = _DAYS_AND_HOURS.get((lower.unit, amount.unit), Fraction(1))
            if lower.unit != amount.unit and scale == 1:
                return None
            amount = replace(amount, low=lower.low, high=amount.high * scale, unit=lower.unit)
        if low.denominator > 1 < high.denominator:
            amount = _as_value(amount)
        return None if chain and amount.low > amount.high else [amount]

    def _word_counts(self, word: str, end: int) -> bool:
        """Whether a number word without a unit counts something ("three children"): "one" is mostly a pronoun."""
        if word == "one" and _ONE_OF.match(self.plain, end):
            return True
        if word == "one":
            return bool(_ONE_COUNTS.match(self.plain, end)) and not _ONE_BEFORE.search(self.before)
        if _PART_WORD.match(word):
            if _SHARE_BEFORE.search(self.before) and not word.endswith(" a"):
                return True
            return " of" in word or word.endswith(" the") or bool(_OF_STRONG_FORM.match(self.plain, end))
        return not word.startswith(("couple", "the couple"))

    def _kinded(self, low: Fraction, high: Fraction, chain: str, end: int) -> Amount:
        """The amount with the kind that its unit and the words around it say, in canonical units."""
        plain, before, start = self.plain, self.before, self.start
        unit, reached = self._unit_meant(low, high, chain, end)
        if reached < end and (number := _NUMBER.match(plain, start)):
            reached = max(reached, number.end())  # the unit may stand behind a later number
        end = reached
        if not chain and not unit and _ANIMAL_DAY_BEFORE.search(before):
            return Amount(QuantityKind.AGE, low, high, "day", start, end)
        if not chain and not unit and (day := _DAY_BEFORE.search(before)):
            name, factor = canonical(day["unit"].removesuffix("s").replace("hour", "h"))
            return Amount(QuantityKind.TIME, low * factor, high * factor, name, start, end)
        is_molar = unit.endswith("mol/L") and len(chain) < 3
        kind = QuantityKind.DOSE if is_molar else kind_of(unit, float(low), before, plain, end)
        more = ">=" if "+" in plain[start:end] and low == high and "/" not in plain[start:end] else ""
        if more and unit in ("year", "month"):
            kind = QuantityKind.AGE
        if kind is QuantityKind.AGE and (old := OLD.match(plain, end)):
            end = old.end()
        name, low, high = _in_canonical(kind, unit, low, high)
        if special_quantities.is_negative(plain, before, unit, end):
            low, high, start = -low, -high if high == low else high, start - len(before) + before.rindex("-")
        return Amount(kind, low, high, name, start, end, more or comparator_of(before, plain, end, kind))

    def _unit_meant(self, low: Fraction, high: Fraction, chain: str, end: int) -> tuple[str, int]:
        """What a unit stands for here, in symbols of units.py, and the end of it."""
        plain = self.plain
        unit = symbols(chain) if chain else ""
        if unit in ("", "m", "mm") and (molar := _MOLAR.match(self.written, end - len(chain))):
            return f"{_MOLES[molar['size']]}/L", molar.end()
        if unit == "m" and OLD.match(plain, end):
            return "month", end
        if unit == "mcL" and chain.startswith(("mm", "cu", "cmm")):
            return "/mcL", end  # "CD4 above 100 mm3"
        if not unit and high < 1 and (form := _OF_STRONG_FORM.match(plain, end)):
            return SYMBOL_OF[form["form"]], end
        if chain == "c" and not 30 <= low <= 45 and not _WARM_BEFORE.search(self.before):
            return "", end - 1
        if chain == "g" and _NEEDLE.match(plain, end):
            return "", end - 1
        if unit == "IU" and plain.startswith((" area", " higher", " lower", " of alcohol"), end):
            return "", end - len(chain)
        if chain in ("c", "f") and plain[end - 2] in "- " and plain[end - 3 : end - 1].strip(" ") == "-":
            return "", end - 2
        if unit == "degree" or (chain == "f" and not 90 <= low <= 110):
            unit = "°C" if 30 <= low <= 45 else "°F" if 90 <= low <= 110 else unit if unit == "degree" else ""
            return unit, end if unit else end - 1
        return unit, end


def _as_value(amount: Amount) -> Amount:
    """A bare number that is too exact for a count as a measure."""
    is_count = amount.kind is QuantityKind.COUNT and not amount.unit
    return replace(amount, kind=QuantityKind.MEASURE) if is_count else amount


def _in_canonical(kind: QuantityKind, unit: str, low: Fraction, high: Fraction) -> tuple[str, Fraction, Fraction]:
    name, factor = canonical(unit) if unit else ("", Fraction(1))
    if kind is QuantityKind.AGE and not unit:
        name, factor = "month", Fraction(12)
    elif kind is QuantityKind.WEIGHT and unit in ("kg", "g"):
        name, factor = "kg", Fraction(1) if unit == "kg" else Fraction(1, 1000)
    low, high = low * factor, high * factor
    if unit == "°F":
        low, high, name = (low - 32) * 5 / 9, (high - 32) * 5 / 9, "°C"
    return name, low, high


__all__ = ["FORMS", "SPELLINGS", "Amount", "Unread", "amounts_of"]
