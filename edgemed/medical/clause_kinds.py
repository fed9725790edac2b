"""Corrections of an amount's kind by the drugs around it: "Augmentin 625" is a dose, 20 g beside food none.

A strength is a dose beside its drug. An amount of a clause that speaks of food or of blood, and of no drug, is a
measure, and so is what is compared with one.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.found_values import is_excreted, is_food_or_level
from edgemed.medical.quantities.numbers import joined
from edgemed.medical.terms.lexicon import FoundTerm

REACH = 200
"""How many characters back a sentence without a drug looks for the one that the text is about."""

SENTENCE_END = re.compile(r"(?<![ \d][a-z])[.!?](?=[ \n]+(?!\d)|$)|(?<=\d)\. (?=[a-z])|\n")
_TO_DRUG = re.compile(
    joined(
        r"""(?: \.(?= ))?(?:[ \u2009-]| ?\) (?=of |oral|intravenous|iv )| \([a-z .]{1,14}\) )?
        (?:for )?(?:(?:\( \+ / - \) -|of|the|a|an|oral|orally|iv|i\.v\.|im|i\.m\.|sc|po|intravenous|intramuscular
        |tablets?|tabs?|capsules?
        |caps|pills?|doses?|dose|bolus
        |elemental|single|daily|each|injectable|inhaled|nebuli[sz]ed|topical|syrup|suspension|solution|infusion|drops?
        |ampoules?|vials?|puffs?
        |w/v|strength|normal|extra|more|per day|a day|sachets?|supplements?|recombinant|human|generic|liquid|cream
        |ointment|gel|injection|base
        |additional|further|once|twice|three times|bd|tds|od|bid|tid|worth|both|either|plain|soluble|regular
        |dispersible|loading|maintenance
        |anti-?[a-z]+|medication|drug|medicine|their|his|her|my|your|,)[ -])*"""
    )
)
_OF_MASS_OR_VOLUME = frozenset(["mg", "mg/day", "mL", "mL/day", "mmol", "mmol/day", "mmol/mL", "mg/mL", "mL/min"])
_CONCENTRATIONS = frozenset(["mg/mL", "mmol/mL"])
_GIVEN_GAP = re.compile(
    joined(
        r"""[ (,:=-]*(?:(?:at|in|doses?|dosages?|of|an?|the|was|is|were|are|given|administered|received|taken|to
                |daily|by|i ?\. ?v ?\.
            |p ?\. ?o ?\.|s ?\. ?c ?\.|i ?\. ?p ?\.|i ?\. ?m ?\.|iv|im|sc|ip|po|orally|oral|intake|supplements?|tablets?
            |infusion|injections?|treatment|therapy|should|be|from|between|about|up|than|more|less|increased|reduced
            |each|single|starting|maintenance|recommended|usual|per|day|mg|g)[ (,:=-]*)*"""
    )
)
"""Between a drug and the dose that is surely its own."""
_LEVEL_BEFORE = re.compile(
    r"\b(?:levels?|concentrations? (?!of )|plasma|serum|urine|blood|contain(?:s|ed|ing)?|measured|found|samples?)\b"
)
_IN_VITRO = re.compile(
    r"\b(?:cells|cultures?d?|incubat\w+|perfus\w+|medium|bath|in vitro|slices|strips|exposed|membranes|isolated"
    r"|binding)\b"
)
_SHARED_BY = re.compile(r" (?:of\b|had|have|were|was|in\b|[a-z]*men\b|patients|people|children|subjects|cases)")
_BARE = (QuantityKind.COUNT, QuantityKind.MEASURE)
_BETWEEN_STRENGTH = frozenset(
    ["", "w/v", "-", "heavy", "plain", "hyperbaric", "isobaric", "viscous", "topical", "aqueous"]
)
DILUENTS = frozenset(
    [
        "sodium chloride",
        "glucose",
        "ringer's lactate",
        "ringer lactate",
        "compound sodium lactate",
        "water for injections",
    ]
)
_SOLUTION_BEFORE = re.compile(
    r"(?:[ ,(*-]|eye|ear|nasal|drops?|ointment|cream|gel|lotion|solution|injection|spray|suspension|drops|syrup|vial"
    r"|mouthwash|shampoo|paint|diluted|\d+%|w/v"
    r"|infusion|topical|paste|is)*"
)
NEXT_DOSE = 60
"""How many characters after a dose a bare number may be the next one."""
_NEXT_BEFORE = re.compile(r"(?:\b(?:and|then|plus|now|to)|,|/|\+) ?$")
_NEXT_AFTER = re.compile(
    r" (?:(?:before|with|after) (?:breakfast|lunch|dinner|supper|tea|bed|sleep)|at (?:night|bed|noon|lunch|supper"
    r"|dinner"
    r"|breakfast|midday)|in the (?:morning|evening|afternoon)|nocte|mane|o\.?d|b\.?d|tds|qds|daily|every \d|for \d|once"
    r"|twice|three times|[68]-? ?hourly|12-? ?hourly|pm\b|am\b|next day)\b"
)
_ALONE_AFTER = re.compile(
    r" ?$| ?[.,;?!)]| (?:[obq]d|[bt]id|tds|qid|daily|twice|once|every|stat|now|too|before|after|at|this|last|yesterday"
    r"|an hour|instead)\b"
)
"""After a drug that is counted itself: "two Brufen too many"."""
_STRENGTH_AFTER = re.compile(
    r"(?= ?$| ?[.,;:)?!/+]| (?:\d|x\b|mg|in\b|for\b|[obq]d\b|[bt]id\b|tds\b|qid\b|daily|twice|once|three|tab|cap|and"
    r"|or\b|per|every|by\b|po\b|iv\b|im\b"
    r"|to\b|with|at\b|is\b|was\b|stat|after|before|if\b|mane|nocte|plus|then|until|when|on\b|but|a day|each|safe|ok"
    r"|during|while|from|since|can|should))"
)


def with_kinds_of_clauses(plain: str, amounts: Sequence[Amount], drugs: Sequence[FoundTerm]) -> list[Amount]:
    """The amounts, each with the kind that the drugs of the text give it; both in order."""
    starts = [drug.start for drug in drugs]
    amounts = [_with_drug_kind(plain, amount, drugs, starts) for amount in amounts]
    amounts = [_with_clause_kind(plain, amount, drugs, starts) for amount in amounts]
    return _in_pairs(plain, _after_measures(plain, amounts, starts))


_STRENGTH_BETWEEN = re.compile(r"\d[\d.,/ ]*(?:%|mg|mcg|g|ml)?(?:/\d* ?ml)?")


def leads_to(gap: str) -> bool:
    """Whether only words that join an amount to its drug stand between them."""
    rest = _STRENGTH_BETWEEN.sub("", gap, count=1) if any(map(str.isdigit, gap)) else gap
    rest = re.sub(" +", " ", rest)
    return bool(_TO_DRUG.fullmatch(rest)) and "," not in rest


def _with_drug_kind(plain: str, amount: Amount, drugs: Sequence[FoundTerm], starts: Sequence[int]) -> Amount:
    """ "0.9% saline", "lidocaine 1%", "adrenaline 1:1000" and "Augmentin 625" are doses."""
    following = bisect_left(starts, amount.start)
    before = drugs[following - 1] if following else None
    after = drugs[following] if following < len(drugs) else None
    low_is_decimal = amount.low == amount.high and amount.low.denominator > 1
    gap = plain[before.end : amount.start] if before and before.end <= amount.start else None
    if amount.unit in ("%", "ratio", "IU/mL") and amount.kind is QuantityKind.MEASURE:
        is_share = amount.unit == "ratio" and ":" not in plain[amount.start : amount.end] and amount.high < 1000
        if is_share or (amount.unit == "IU/mL" and not plain.startswith("/ml", amount.end - 3)):
            return amount
        if (
            after is not None
            and after.start - amount.end <= 14
            and plain[amount.end : after.start].strip() in _BETWEEN_STRENGTH
        ):
            return replace(amount, kind=QuantityKind.DOSE)
        in_brackets = gap is not None and gap.startswith(" (") and before is not None and before.name not in DILUENTS
        if "," in (gap or "") and _SHARED_BY.match(plain, amount.end):
            return amount
        if gap is not None and len(gap) < 30 and not in_brackets and _SOLUTION_BEFORE.fullmatch(gap):
            return replace(amount, kind=QuantityKind.DOSE)
    elif amount.unit == "" and amount.kind in _BARE and after and plain[amount.end : after.start] == " ":
        is_dose = plain[amount.start].isalpha() or amount.low < 5
        if is_dose and _ALONE_AFTER.match(plain, after.end):
            return replace(amount, kind=QuantityKind.DOSE)
    elif (
        amount.unit == ""
        and (amount.kind is QuantityKind.COUNT or (amount.kind is QuantityKind.MEASURE and low_is_decimal))
        and gap in (" ", "-", "", " dose ")
        and (amount.low >= 5 or plain[amount.start] in ".0")
        and _STRENGTH_AFTER.match(plain, amount.end)
    ):
        return replace(amount, kind=QuantityKind.DOSE)
    return amount


def _with_clause_kind(plain: str, amount: Amount, drugs: Sequence[FoundTerm], starts: Sequence[int]) -> Amount:
    """The amount as a measure in a clause about food or levels, as a dose where its drug touches it."""
    following = bisect_left(starts, amount.start)
    before = drugs[following - 1] if following else None
    after = drugs[following] if following < len(drugs) and drugs[following].start - amount.end < 80 else None
    if amount.kind is QuantityKind.DOSE:
        is_linked = _is_linked(plain, amount, before, after)
        is_found = not is_linked and is_food_or_level(amount.unit, amount.start, amount.end, plain)
        if is_found or (not _touches(plain, amount, before, after) and is_excreted(amount.unit, amount.start, plain)):
            return replace(amount, kind=QuantityKind.MEASURE)
        return amount
    if amount.kind is QuantityKind.MEASURE and _is_given(plain, amount, before, after):
        return replace(amount, kind=QuantityKind.DOSE)
    return amount


def _is_linked(plain: str, amount: Amount, before: FoundTerm | None, after: FoundTerm | None) -> bool:
    """Whether a drug is named for a dose: right behind it or, unless it may be a level, before it in the sentence."""
    if after is not None and leads_to(plain[amount.end : after.start]):
        return True
    if before is None:
        return False
    if amount.unit.startswith("mmol/mL"):
        return amount.start - before.end < 50 and _GIVEN_GAP.fullmatch(plain, before.end, amount.start) is not None
    return _is_same_sentence(plain, before.end, amount.start)


def _touches(plain: str, amount: Amount, before: FoundTerm | None, after: FoundTerm | None) -> bool:
    if after is not None and leads_to(plain[amount.end : after.start]):
        return True
    return before is not None and _GIVEN_GAP.fullmatch(plain, before.end, amount.start) is not None


def _is_given(plain: str, amount: Amount, before: FoundTerm | None, after: FoundTerm | None) -> bool:
    """Whether a drug touches what looks like a measure: "caffeine 100 mg", cells with "30 ng/ml ritonavir"."""
    between = plain[before.end : amount.start] if before is not None and amount.start - before.end < 4 else ""
    if amount.unit in ("mg", "mg/day") and between == " ":
        return True
    if amount.unit not in ("mg", *_CONCENTRATIONS) or _LEVEL_BEFORE.search(
        plain, max(0, amount.start - 80), amount.start
    ):
        return False
    gap = plain[amount.end : after.start] if after is not None else ""
    if amount.unit == "mg":
        return after is not None and gap in (" ", " of ") and after.name not in ("ethanol", "glucose")
    if between.strip() == "(" and _IN_VITRO.search(plain, max(0, amount.start - 200), amount.end + 200):
        return True
    return gap.startswith(" ") and leads_to(gap)


def _after_measures(plain: str, amounts: list[Amount], starts: Sequence[int]) -> list[Amount]:
    """ "albuminuria of 40 mg/day ... in contrast to 0.8 mg/day": no drug between, so the second is no dose either."""
    measured: Amount | None = None
    for place, amount in enumerate(amounts):
        if amount.kind is QuantityKind.MEASURE and amount.unit in _OF_MASS_OR_VOLUME:
            measured = amount
        elif amount.kind is QuantityKind.DOSE and measured is not None and measured.unit == amount.unit:
            has_drug = bisect_left(starts, measured.end) < bisect_left(starts, amount.end + 4)
            if not has_drug and _is_same_sentence(plain, measured.end, amount.start):
                amounts[place] = measured = replace(amount, kind=QuantityKind.MEASURE)
    return amounts


def _is_same_sentence(plain: str, start: int, end: int) -> bool:
    return end - start < REACH and SENTENCE_END.search(plain, start, end) is None


def _in_pairs(plain: str, amounts: list[Amount]) -> list[Amount]:
    """ "Seretide 250/50", "18 units at breakfast and 10 at supper": the second number is a dose as well."""
    reached = -1
    for place in range(1, len(amounts)):
        left, right = amounts[place - 1], amounts[place]
        reached = left.end if left.kind is QuantityKind.DOSE else reached
        if right.kind is QuantityKind.COUNT and not right.unit and 0 <= right.start - reached < NEXT_DOSE:
            between = plain[reached : right.start]
            if _NEXT_BEFORE.search(between) and _NEXT_AFTER.match(plain, right.end) and "." not in between:
                amounts[place] = replace(right, kind=QuantityKind.DOSE)
                continue
        is_strength = left.kind is QuantityKind.DOSE and left.unit == "mL" and right.unit == "%"
        if is_strength and plain[left.end : right.start].strip() == ",":
            amounts[place] = replace(right, kind=QuantityKind.DOSE)  # "20 microL, 0.01 %"
        in_pair = left.kind is QuantityKind.DOSE and right.kind is QuantityKind.COUNT and not left.unit + right.unit
        if in_pair and plain[left.end : right.start].strip() in ("/", "+"):
            amounts[place] = replace(right, kind=QuantityKind.DOSE)
    return amounts
