"""What each number of a text belongs to: a dose to its drug, a value to the vital sign or test it is of.

By rules of order within a sentence: "500 mg of amoxicillin", "amoxicillin 500 mg", "20 units of oxytocin in 1 L of
saline at 60 drops per minute", "amoxicillin and metronidazole 500 mg and 400 mg respectively".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgemed.medical.clause_kinds import DILUENTS, REACH, SENTENCE_END, leads_to, with_kinds_of_clauses
from edgemed.medical.mentions import QuantityKind, TermKind
from edgemed.medical.quantities.amounts import Amount
from edgemed.medical.quantities.numbers import joined
from edgemed.medical.terms.lexicon import FoundTerm

LINKED = (QuantityKind.DOSE, QuantityKind.FREQUENCY, QuantityKind.DURATION)
"""Kinds that belong to a drug."""
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
_RESPECTIVELY = re.compile(r"\brespectively\b")
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
    plain: str, amounts: Sequence[Amount], found: Sequence[FoundTerm], measures: frozenset[str], written: str = ""
) -> list[tuple[Amount, str]]:
    """Each amount, its kind corrected by its neighbours among the terms, with what it belongs to or ""."""
    drugs = [term for term in found if term.kind is TermKind.DRUG]
    tests = [term for term in found if term.kind is TermKind.TEST or term.name in measures]
    drug_starts = [drug.start for drug in drugs]
    test_starts = [test.start for test in tests]
    amounts = with_kinds_of_clauses(plain, amounts, drugs)
    owners = [""] * len(amounts)
    for sentence, members in _sentences(plain, amounts, drugs, drug_starts):
        for place, owner in zip(members, _owners(plain, sentence, [amounts[m] for m in members]), strict=True):
            owners[place] = owner
    ends = {drug.end for drug in drugs}
    pairs = [
        (amount, "" if owner and _is_of_unlisted(written, amount, ends) else owner)
        for amount, owner in zip(amounts, owners, strict=True)
    ]
    return [
        _with_test(plain, amount, owner, amounts[place - 1].end if place else 0, tests, test_starts)
        for place, (amount, owner) in enumerate(pairs)
    ]


def _sentences(
    plain: str, amounts: Sequence[Amount], drugs: Sequence[FoundTerm], starts: Sequence[int]
) -> list[tuple[_Sentence, list[int]]]:
    """The sentences that hold amounts of a linked kind, with the places of these among the amounts."""
    sentences: list[tuple[_Sentence, list[int]]] = []
    members = [place for place, amount in enumerate(amounts) if amount.kind in LINKED]
    if not members or not drugs:
        return []
    ends = [match.end() for match in SENTENCE_END.finditer(plain)] + [len(plain)]
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
    owners = [_owner(plain, drugs, starts, amount) for amount in amounts]
    for place in range(len(amounts) - 2, -1, -1):  # "57.7 and 58.7 mg/kg for bupivacaine"
        left, right = amounts[place], amounts[place + 1]
        is_listed = left.unit == right.unit and plain[left.end : right.start].strip() in (
            "and",
            "or",
            ",",
            "/",
            ", and",
        )
        if is_listed and left.kind is right.kind is QuantityKind.DOSE and plain[left.end - 1].isdigit():
            owners[place] = owners[place + 1]
    return owners


def _is_of_other(plain: str, amount: Amount) -> bool:
    if amount.kind is not QuantityKind.DOSE:
        return False
    before = plain[max(0, amount.start - 24) : amount.start]
    return bool(_OF_OTHER.match(plain, amount.end) or _OTHER_BEFORE.search(before))


_OF_UNLISTED = re.compile(
    r" of (?!(?:the|an?|this|that|these|each|it|them|his|her|your|their|body|both|either|drugs?|medic\w+"
    r"|treatment|therapy|total"
    r"|solution|doses?|one|all|oral)\b)[a-z][a-z-]{4,}(?: [a-z][a-z-]{3,})?"
)
"""After "15 mg": " of beta-carotene", whoever else is named."""


def _is_of_code(plain: str, amount: Amount) -> bool:
    """ "SC-48334 (1000 mg", "10 mg of LY274614": of a test compound that no list has, not of the drug further off."""
    before = plain[max(0, amount.start - 50) : amount.start]
    return bool(_CODE_BEFORE.search(before) or _CODE_AFTER.match(plain, amount.end))


_UNLISTED_BEFORE = re.compile(
    r"(?<![\w-])(?!(?:IV|IM|SC|PO|IP|PR|SL|BD|OD|TDS|PRN|NG|ICU|WHO|Group|DAY|HCl|SR|XR|ER|LA|MR|CR|XL|EC|LAR)\b)"
    r"(?:[A-Za-z]*[A-Z]{2}[A-Za-z]*\d*|[A-Z]+\d+)(?P<rest>(?: ?- ?| )\d{2,})?(?: \(| ?;)? ?$"
)


def _is_of_unlisted(written: str, amount: Amount, drug_ends: set[int]) -> bool:
    """ "MPEP (5 mg/kg)", "AMN082 (10 mg/kg": of a compound that no list has, though a listed one stands further off."""
    if amount.kind is not QuantityKind.DOSE or not written:
        return False
    match = _UNLISTED_BEFORE.search(written, max(0, amount.start - 40), amount.start)
    if match is None or (
        match["rest"] is None and not written[match.start() : amount.start].rstrip().endswith(("(", ";"))
    ):
        return False
    return not any(match.start() < end <= amount.start for end in drug_ends)


def _owner(plain: str, drugs: Sequence[FoundTerm], starts: Sequence[int], amount: Amount) -> str:
    if _is_of_other(plain, amount) or _is_of_code(plain, amount):
        return ""
    following = bisect_left(starts, amount.start)
    after = drugs[following] if following < len(drugs) else None
    if amount.kind is QuantityKind.DOSE and (of := _OF_UNLISTED.match(plain, amount.end)):
        is_listed = after is not None and (after.start < of.end() or leads_to(plain[amount.end : after.start]))
        if not is_listed:
            return ""
    before = _subject(plain, drugs, following, amount) if following else None
    if amount.kind is QuantityKind.DOSE and after is not None and after.start - amount.end < 80:
        gap = plain[amount.end : after.start]
        touching = before is not None and amount.start - before.end <= 2
        if leads_to(gap) and (not touching or " of " in gap):
            return after.name
    if before is not None:
        return before.name
    if after is None or amount.kind is QuantityKind.DURATION:
        return ""
    gap = plain[amount.end : min(after.start, amount.end + 24)]
    if ")" in gap.split("(", 1)[0] and "such as" not in gap:  # in brackets behind a name that no list has
        return ""
    return after.name


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
        is_vehicle = drug.name in DILUENTS and re.search(
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
