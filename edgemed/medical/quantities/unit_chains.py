"""Units after a number, with what they are divided by: "mg/kg per day", "mg kg(-1)", "mL in 24 hours"."""

from __future__ import annotations

import re
from functools import lru_cache

from edgemed.medical.quantities.numbers import NUMBER, joined, value_of
from edgemed.medical.quantities.units import CALENDAR, SPELLINGS, SYMBOL_OF


def _any_of(symbols: frozenset[str] | set[str]) -> str:
    words = [word for symbol in symbols for word in SPELLINGS[symbol]]
    return "(?:" + "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word))) + ")"


_END = r"(?![a-z0-9µ²³])"
_DIVISORS = {*CALENDAR, "kg", "g", "m2", "mL", "dL", "L", "mcL", "nL", "dose", "tablet", "puff", "kcal", "mmol", "mol"}
_NUMBERED = {"mL", "mcL", "nL", "dL", "L", "h", "day", "kg", "m2", "kcal", "tablet", "dose", "puff", "capsule", "g"}

CALENDAR_UNIT = _any_of(set(CALENDAR)) + _END
UNIT = _any_of(set(SPELLINGS)) + _END
_DIVISOR = _any_of(_DIVISORS) + _END
_NUMBERED_DIVISOR = rf"{NUMBER}[ -]?{_any_of(_NUMBERED)}{_END}"
_ONE_DAY = r"(?:(?:24|twenty[ -]?four)[ -]?(?:hours?|hrs?|h)|one day|a day)\b"
_BODY = r"(?: ?(?:of )?(?:(?:actual|ideal|lean|real|total) )?(?:body[ -]?(?:weight|mass|wt\b\.?)|bw\b|b\.w\.))?"
_SALT = r"(?: (?:of )?(?!per\b)[a-z]{2,14}(?= ?/ ?kg\b))?"
_PER = joined(
    rf"""(?:
    (?: ?/ ?| ?\. ?/ ?| ?\. per | per | per|/each )(?:{_NUMBERED_DIVISOR}|{_ONE_DAY}(?: period)?|{_DIVISOR}){_BODY}
    | an? (?={_any_of({"day", "week", "month", "year", "h", "min"})}{_END}){_DIVISOR}
    | each (?=dose|day|night){_DIVISOR}
    |(?<!%)(?<!hg)(?<!°c)(?<!kg) (?:in|within|over a) (?:any |each |a )?{_ONE_DAY}
    | ?/ ?%(?: ?(?:tbsa|bsa|burns?|burned|burnt)\b)?
    | ?[.\u00b7x*]? ?(?:kg|min|hr?|day|week|d|l|ml|dl|g|mmol|s)(?: ?\( ?- ?1 ?\)| ?\^? ?- ?1(?!\d)|\u207b¹)
    | ?[.\u00b7x*]? ?m(?: ?\( ?- ?2 ?\)| ?\^? ?- ?2(?!\d)|\u207b²)
    )"""
)
_EVENT = r"[a-z]{3,14}s(?<!days)(?<!hours)"
"""What happens so many times a minute: "73 jerks per min"."""
CHAIN = joined(
    rf"""(?:
    {CALENDAR_UNIT}
    |(?:mg|gms?|g) ?%
    |{UNIT}(?: ?\({UNIT}\))?{_SALT}{_BODY}{_PER}*
    |{_EVENT}(?: ?/ ?| per )(?:min(?:ute)?|sec(?:ond)?|hour){_END}
    |[bc]\.?p\.?m{_END}
    |(?:/ ?|per )(?:{_ONE_DAY}|{_DIVISOR}{_PER}?)
    )"""
)
"""A unit or a chain of them."""

_LINK = re.compile(
    r" ?/each | ?\.? ?/ ?| ?\.? per ?| an? | each | (?:in|within|over a) (?:any |each |a )?(?=24|twenty|one day"
    r"|a day)| "
)
_INVERSE = re.compile(
    r"(?P<unit>kg|min|hr?|day|week|d|ml|dl|l|g|mmol|s|m)(?: ?\( ?- ?[12] ?\)| ?\^? ?- ?[12](?!\d)|\u207b[¹²])"
)
_BODY_WORDS = re.compile(
    r" ?(?:of )?(?:(?:actual|ideal|lean|real|total) )?(?:body[ -]?(?:weight|mass|wt\b\.?)|bw\b|b\.w\.)"
)
_SALT_WORDS = re.compile(r"^(\w+) (?:of )?(?!per\b)[a-z]{2,14}(?= ?/ ?kg\b)")
_FIRST = re.compile(UNIT)
_SYMBOL = re.compile(rf" ?\({UNIT}\)")
"""The symbol behind a word: "milligrams (mg) a day"."""
_EVENTS = re.compile(_EVENT + r"(?= ?/| per )")
_BURN = re.compile(r" ?/ ?% ?(?:tbsa|bsa|burns?|burned|burnt)?")
_DAY = re.compile(_ONE_DAY + "(?: period)?")
_COUNTED = re.compile(rf"(?P<number>{NUMBER})[ -]?(?P<unit>{UNIT})")


@lru_cache(maxsize=4096)
def symbols(chain: str) -> str:
    """A match of CHAIN in the symbols of units.py: "mg per kg per day" as "mg/kg/day"; "" for an empty one."""
    text = _SYMBOL.sub("", chain) if "(" in chain else chain
    text = _SALT_WORDS.sub(r"\1", _BODY_WORDS.sub("", text), count=1)
    if text in ("bpm", "b.p.m", "cpm", "bp.m"):
        return "/min"
    if text.endswith("%") and len(text) > 1 and "/" not in text:
        return f"{SYMBOL_OF[text[:-1].rstrip()]}/dL"
    first = _FIRST.match(text)
    if first is None and (events := _EVENTS.match(text)):
        text = text[events.end() :]
    parts, place = ([SYMBOL_OF[first[0]]], first.end()) if first else ([""], 0)
    while place < len(text):
        if link := re.compile(r" ?[.\u00b7x*]? ?").match(text, place):
            inverse = _INVERSE.match(text, link.end())
            if inverse and first:
                parts.append("m2" if inverse["unit"] == "m" else SYMBOL_OF[inverse["unit"]])
                place = inverse.end()
                continue
        link = _LINK.match(text, place) or re.compile("(?:per )?").match(text, place)
        place = link.end() if link else place
        if link and (burn := _BURN.match(text, link.start())):
            parts.append("%")
            place = burn.end()
        elif day := _DAY.match(text, place):
            parts.append("day")
            place = day.end()
        elif counted := _COUNTED.match(text, place):
            parts.append(f"{float(value_of(counted['number']) or 1):g} {SYMBOL_OF[counted['unit']]}")
            place = counted.end()
        elif unit := _FIRST.match(text, place):
            parts.append(SYMBOL_OF[unit[0]])
            place = unit.end()
        else:
            break
    if parts[0] == "MIU" and len(parts) > 1:
        parts[0] = "mIU"
    return "/".join(parts)
