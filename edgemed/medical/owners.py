"""What each number of a text belongs to: a dose to its drug, a value to the vital sign or test it is of.

By rules of order within a sentence: "500 mg of amoxicillin", "amoxicillin 500 mg", "20 units of oxytocin in 1 L of
saline at 60 drops per minute", "amoxicillin and metronidazole 500 mg and 400 mg respectively".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgemed.medical.mentions import QuantityKind, TermKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.numbers import joined
from edgemed.medical.terms.lexicon import FoundTerm

LINKED = (QuantityKind.DOSE, QuantityKind.FREQUENCY, QuantityKind.DURATION)
"""Kinds that belong to a drug."""
REACH = 200
"""How many characters back a sentence without a drug looks for the one that the text is about."""

_SENTENCE_END = re.compile(r"(?<![ \d][a-z])[.!?](?=[ \n]+(?!\d)|$)|(?<=\d)\. (?=[a-z])|\n")
_TO_DRUG = re.compile(
    joined(
        r"""(?:[ \u2009-]| \([a-z ]{1,12}\) )?
        (?:(?:of|the|a|an|oral|orally|iv|i\.v\.|im|i\.m\.|sc|po|intravenous|intramuscular|tablets?|tabs?|capsules?
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
_OF_OTHER = re.compile(
    joined(
        r""" ?(?:of )?(?:(?:clean|sterile|boiled|cooled|distilled|drinking|warm|plain|safe|tap|cold|expressed|fresh
            |packed|whole|red|breast|some|the|a|dry
        |fresh-frozen|fresh - frozen|cow's) )*(?:water|milk|juice|blood|urine|food|feed|plasma|platelets
        |cryoprecipitate|cells|tea|breastmilk|alcohol
        |fiber|fibre|protein|fat|sugar|coffee|soup|porridge|formula)\b"""
    )
)
_OTHER_BEFORE = re.compile(r"\b(?:blood|water|milk|feeds?|formula|prbcs?|packed cells|fluids?)(?: of)? $")
_CODE_BEFORE = re.compile(r"\b(?:[a-z]+(?: - |-)?|[a-z]{2,4} )\d{3,}[a-z]? ?\( ?(?:[\d. ]+(?:,|and|or) )*$")
_CODE_AFTER = re.compile(r" (?:dose )?of [a-z]+(?: - |-)?\d{3,}")
_ASIDE = re.compile(
    r"\b(?:without|instead of|rather than|unlike|allergic to|allergy to|avoid|than|no|not with|in place of"
    r"|replace[sd]?|placebo or)(?: any)? $"
)
_DILUENTS = frozenset(
    [
        "sodium chloride",
        "glucose",
        "ringer's lactate",
        "ringer lactate",
        "compound sodium lactate",
        "water for injections",
    ]
)
_RESPECTIVELY = re.compile(r"\brespectively\b")
_SOLUTION_BEFORE = re.compile(
    r"(?:[ ,(-]|eye|ear|nasal|drops?|ointment|cream|gel|lotion|solution|injection|spray|suspension|drops|syrup|vial"
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
_VALUE_GAP = re.compile(
    joined(
        r"""(?:[ :=~<>≤≥(,-]|\b(?:count|level|levels|rate|was|is|are|were|of|now|at|to|today|score|value|up|down|only
            |still|from|came|back|reading|stable
        |about|around|over|under|above|below|more|less|than|greater|equal|or|between|and|the|on|a|approximately|has
        |had|been|fell|rose|dropped|remains
        |measured|currently|yesterday|result|results|last|month|week|this|morning|her|his|with|be|stays|if|it|exceeds
        |reaches|within|range|normal
        |fasting|random|concentration|test|reads|showed|by|least|high|low)\b)*"""
    )
)


@dataclass(frozen=True, slots=True)
class _Sentence:
    start: int
    end: int
    drugs: list[FoundTerm]
    said_before: FoundTerm | None
    """The last drug of the text before it, if near."""


def owned(
    plain: str, amounts: Sequence[Amount], found: Sequence[FoundTerm], measures: frozenset[str]
) -> list[tuple[Amount, str]]:
    """Each amount, its kind corrected by its neighbours among the terms, with what it belongs to or ""."""
    drugs = [term for term in found if term.kind is TermKind.DRUG]
    tests = [term for term in found if term.kind is TermKind.TEST or term.name in measures]
    drug_starts = [drug.start for drug in drugs]
    test_starts = [test.start for test in tests]
    amounts = [_with_drug_kind(plain, amount, drugs, drug_starts) for amount in amounts]
    amounts = _in_pairs(plain, amounts)
    owners = [""] * len(amounts)
    for sentence, members in _sentences(plain, amounts, drugs, drug_starts):
        for place, owner in zip(members, _owners(plain, sentence, [amounts[m] for m in members]), strict=True):
            owners[place] = owner
    pairs = list(zip(amounts, owners, strict=True))
    return [
        _with_test(plain, amount, owner, amounts[place - 1].end if place else 0, tests, test_starts)
        for place, (amount, owner) in enumerate(pairs)
    ]


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
            and after.start - amount.end <= 5
            and plain[amount.end : after.start].strip() in ("", "w/v", "-")
        ):
            return replace(amount, kind=QuantityKind.DOSE)
        if gap is not None and len(gap) < 30 and not gap.startswith(" (") and _SOLUTION_BEFORE.fullmatch(gap):
            return replace(amount, kind=QuantityKind.DOSE)
    elif amount.unit == "" and amount.kind is QuantityKind.COUNT and after and plain[amount.end : after.start] == " ":
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
        in_pair = left.kind is QuantityKind.DOSE and right.kind is QuantityKind.COUNT and not left.unit + right.unit
        if in_pair and plain[left.end : right.start].strip() in ("/", "+"):
            amounts[place] = replace(right, kind=QuantityKind.DOSE)
    return amounts


def _sentences(
    plain: str, amounts: Sequence[Amount], drugs: Sequence[FoundTerm], starts: Sequence[int]
) -> list[tuple[_Sentence, list[int]]]:
    """The sentences that hold amounts of a linked kind, with the places of these among the amounts."""
    sentences: list[tuple[_Sentence, list[int]]] = []
    members = [place for place, amount in enumerate(amounts) if amount.kind in LINKED]
    if not members or not drugs:
        return []
    ends = [match.end() for match in _SENTENCE_END.finditer(plain)] + [len(plain)]
    for place in members:
        end = ends[min(bisect_left(ends, amounts[place].start + 1), len(ends) - 1)]
        if sentences and sentences[-1][0].end == end:
            sentences[-1][1].append(place)
            continue
        number = bisect_left(ends, end)
        start = ends[number - 1] if number else 0
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        earlier = drugs[first - 1] if first and start - drugs[first - 1].end < REACH else None
        sentences.append((_Sentence(start, end, list(drugs[first:last]), earlier), [place]))
    return sentences


def _owners(plain: str, sentence: _Sentence, amounts: Sequence[Amount]) -> list[str]:
    drugs = sentence.drugs
    if not drugs:
        earlier = sentence.said_before
        return [
            earlier.name
            if earlier and amount.kind is not QuantityKind.DURATION and not _is_of_other(plain, amount)
            else ""
            for amount in amounts
        ]
    if _RESPECTIVELY.search(plain, sentence.start, sentence.end) and (zipped := _zipped(drugs, amounts)):
        return zipped
    starts = [drug.start for drug in drugs]
    return [_owner(plain, drugs, starts, amount) for amount in amounts]


def _is_of_other(plain: str, amount: Amount) -> bool:
    if amount.kind is not QuantityKind.DOSE:
        return False
    before = plain[max(0, amount.start - 24) : amount.start]
    return bool(_OF_OTHER.match(plain, amount.end) or _OTHER_BEFORE.search(before))


def _is_of_code(plain: str, amount: Amount) -> bool:
    """ "SC-48334 (1000 mg", "10 mg of LY274614": of a test compound that no list has, not of the drug further off."""
    before = plain[max(0, amount.start - 50) : amount.start]
    return bool(_CODE_BEFORE.search(before) or _CODE_AFTER.match(plain, amount.end))


def _owner(plain: str, drugs: Sequence[FoundTerm], starts: Sequence[int], amount: Amount) -> str:
    if _is_of_other(plain, amount) or _is_of_code(plain, amount):
        return ""
    following = bisect_left(starts, amount.start)
    after = drugs[following] if following < len(drugs) else None
    before = _subject(plain, drugs, following, amount) if following else None
    if amount.kind is QuantityKind.DOSE and after is not None and after.start - amount.end < 80:
        gap = plain[amount.end : after.start]
        touching = before is not None and amount.start - before.end <= 2
        if _leads_to(gap) and (not touching or " of " in gap):
            return after.name
    if before is not None:
        return before.name
    return after.name if after is not None and amount.kind is not QuantityKind.DURATION else ""


_STRENGTH_BETWEEN = re.compile(r"\d[\d.,/ ]*(?:%|mg|mcg|g|ml)?(?:/\d* ?ml)?")


def _leads_to(gap: str) -> bool:
    """Whether only words that join an amount to its drug stand between them."""
    rest = _STRENGTH_BETWEEN.sub("", gap, count=1) if any(map(str.isdigit, gap)) else gap
    rest = re.sub(" +", " ", rest)
    return bool(_TO_DRUG.fullmatch(rest)) and "," not in rest


def _subject(plain: str, drugs: Sequence[FoundTerm], following: int, amount: Amount) -> FoundTerm | None:
    """The drug before the amount that it is most likely of: no diluent, none that is only named to be avoided."""
    for place in range(following - 1, max(-1, following - 6), -1):
        drug = drugs[place]
        if drug.end > amount.start or place == 0:
            return drug if drug.end <= amount.start else None
        if amount.start - drug.end <= 2:
            return drug
        lead = plain[max(0, drug.start - 40) : drug.start]
        if plain.count(")", drug.end, amount.start) > plain.count("(", drug.end, amount.start):
            continue
        if drug.name == "epinephrine" and lead.endswith(("with ", "plus ", "and ", "without ")):
            continue
        is_vehicle = drug.name in _DILUENTS and re.search(
            r"\b(?:in|with)(?: [\d.,]+ ?(?:ml|l|litres?|liters?|%))*(?: of)?[ \d.%a]*$", lead
        )
        if not is_vehicle and not _ASIDE.search(lead):
            return drug
    return drugs[following - 1]


def _zipped(drugs: Sequence[FoundTerm], amounts: Sequence[Amount]) -> list[str]:
    """ "X and Y 500 mg and 400 mg respectively": the n-th dose is of the n-th drug; [] when the counts differ."""
    doses = [amount for amount in amounts if amount.kind is QuantityKind.DOSE]
    before = [drug for drug in drugs if doses and drug.end <= doses[0].start]
    after = [drug for drug in drugs if doses and drug.start >= doses[-1].end]
    in_order = before if len(before) == len(doses) else after if len(after) == len(doses) else []
    if len(doses) < 2 or len(in_order) != len(doses):
        return []
    names = {dose.start: drug.name for dose, drug in zip(doses, in_order, strict=True)}
    return [names.get(amount.start, "") for amount in amounts]


def _with_test(
    plain: str, amount: Amount, owner: str, reached: int, tests: Sequence[FoundTerm], starts: Sequence[int]
) -> tuple[Amount, str]:
    """A value with the name of what was measured; a bare number after such a name is a measure."""
    is_free_dose = amount.kind is QuantityKind.DOSE and not owner and amount.unit in ("mL", "mg", "IU", "mmol")
    if amount.kind not in (QuantityKind.MEASURE, QuantityKind.COUNT, QuantityKind.WEIGHT) and not is_free_dose:
        return amount, owner
    following = bisect_left(starts, amount.start)
    test = tests[following - 1] if following else None
    if test is None or test.end > amount.start or amount.start - test.end > 40:
        return amount, owner
    if test.end < reached and plain[reached : amount.start].strip(" ,/-") not in ("", "and", "to", "or", "now", "then"):
        return amount, owner
    gap = plain[max(test.end, reached) : amount.start]
    if not _VALUE_GAP.fullmatch(gap):
        return amount, owner
    if is_free_dose:
        return replace(amount, kind=QuantityKind.MEASURE), test.name
    if amount.kind is QuantityKind.COUNT and not amount.unit and not _counts_something(plain, amount):
        return replace(amount, kind=QuantityKind.MEASURE), test.name
    return (amount, test.name) if amount.kind is not QuantityKind.COUNT else (amount, owner)


_COUNTED_NOUN = re.compile(
    r" (?:patients|people|children|times|cases|women|men|tablets|drugs|days|weeks|episodes|tests|samples|of the)\b"
)


def _counts_something(plain: str, amount: Amount) -> bool:
    return bool(_COUNTED_NOUN.match(plain, amount.end))
