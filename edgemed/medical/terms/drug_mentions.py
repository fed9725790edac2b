"""Mentions of drugs beyond the lists: short names that a text explains; and listed names that are no drug in it.

"sirolimus (SRL)" makes every later SRL sirolimus; the dopamine of "dopamine receptors" and the copper of "serum copper"
are not given to anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgemed.medical.mentions import TermKind
from edgemed.medical.terms.lexicon import FoundTerm

MAX_SHORT_NAMES = 50
"""More explained short names of one text are left out, which bounds the time of a hostile one."""

_SHORT_AFTER = re.compile(r" ?\( ?([A-Z][A-Za-z0-9-]{0,2}[A-Z][A-Za-z0-9-]{0,4}|[A-Z][a-z]?[A-Z0-9])(?= ?[);,])")
_WORD = re.compile(r"[A-Z][A-Za-z0-9-]+")
_NOT_SHORT = frozenset(
    ["IV", "IM", "SC", "PO", "II", "III", "USA", "UK", "WHO", "FDA", "IP", "OD", "BD", "IU", "CI", "SD", "SE"]
)
_OF_THE_BODY = frozenset(
    [
        *(
            "dopamine",
            "epinephrine",
            "norepinephrine",
            "adenosine",
            "histamine",
            "serotonin",
            "oxytocin",
            "vasopressin",
        ),
        *("estradiol", "progesterone", "testosterone", "calcium", "copper", "iron", "zinc", "magnesium", "potassium"),
        *("sodium", "glucose", "insulin", "glucagon", "hydrocortisone", "thiamine", "sodium bicarbonate", "selenium"),
        *("levothyroxine", "vitamin b12", "folic acid", "phosphate", "dinoprostone", "epoetin alfa", "melatonin"),
    ]
)
_OF_THE_LABORATORY = frozenset(["sodium bicarbonate", "calcium", "copper", "iron", "magnesium", "zinc", "phosphate"])
"""Also named by a value alone: "bicarb 9 mEq/L"."""
_MEASURED_BEFORE = re.compile(
    r"\b(?:serum|plasma|urin(?:ary|e)|tissue|brain|striatal|hepatic|endogenous|circulating|intracellular|extracellular"
    r"|responsiveness(?: of [a-z() -]{0,60})? to|depletion of|levels of|concentrations? of|release of|uptake of) $"
)
_PART_AFTER = re.compile(
    r"(?: |-| - )(?:d ?- ?|[a-z]?\d[a-z]? )?(?:\( ?[a-z]?\d ?\) )?(?:d[1-5] |a[12][ab]? "
    r"|h[1-4] )?(?:- )?(?:receptors?|transporters?|agonists?"
    r"|antagonists?|uptake|reuptake|neurons?|channels?|release|secretion|resistance|sensitivity|responsive|metabolism"
    r"|depletion|turnover|in the (?:body|blood|diet|digestive|striatum|brain|urine|intestine|stomach))\b"
    r"| - \d \(| d[1-5] and d[1-5]\b"
)
_LAB_VALUE_AFTER = re.compile(
    r" ?[:=]? ?\(?[<>]? ?\d+(?:\.\d+)? ?(?:(?:meq|mmol|[uµ]mol|mcmol) ?/ ?l|[mµu]g ?/ ?d?l)\b"
)


def mentions_of_drugs(written: str, plain: str, found: Sequence[FoundTerm]) -> list[FoundTerm]:
    """The found terms in order, without substances of the body and with the short names that the text explains.

    `written` is the text before it was made plain, with the same places, or "" where the places differ.
    """
    kept = [term for term in found if term.kind is not TermKind.DRUG or not _is_of_the_body(plain, term)]
    return _with_short_names(written[: len(plain)], kept) if "(" in written and not written.isupper() else kept


def _is_of_the_body(plain: str, term: FoundTerm) -> bool:
    if term.name not in _OF_THE_BODY:
        return False
    before = plain[max(0, term.start - 80) : term.start]
    is_part = _MEASURED_BEFORE.search(before) or _PART_AFTER.match(plain, term.end)
    return bool(is_part or (term.name in _OF_THE_LABORATORY and _LAB_VALUE_AFTER.match(plain, term.end)))


def _with_short_names(written: str, found: list[FoundTerm]) -> list[FoundTerm]:
    names: dict[str, FoundTerm] = {}
    for term in found:
        if term.kind is TermKind.DRUG and (match := _SHORT_AFTER.match(written, term.end)):
            short = match[1]
            if short not in _NOT_SHORT and len(names) < MAX_SHORT_NAMES:
                names.setdefault(short, term)
    if not names:
        return found
    taken = _taken(found)
    more = [
        FoundTerm(TermKind.DRUG, names[word[0]].name, word.start(), word.end())
        for word in _WORD.finditer(written)
        if word[0] in names and word.start() >= names[word[0]].end and word.start() not in taken
    ]
    return sorted([*found, *more], key=lambda term: term.start)


def _taken(found: Sequence[FoundTerm]) -> set[int]:
    """The places of characters that are a term's already."""
    return {place for term in found for place in range(term.start, term.end)}
