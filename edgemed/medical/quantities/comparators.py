"""The comparator that the words around a number say: "up to", "or more", "maximum", "<".

Only the nearest words count: `before` is the BEFORE characters left of the number, at most.
"""

from __future__ import annotations

import re

from edgemed.medical.mentions import QuantityKind
from edgemed.medical.quantities.numbers import joined

BEFORE = 60
"""Characters left of a number that are looked at."""

_SIGNS = {
    ">=": (
        "as early as|as few as|as little as|as low as|as young as|> / =|> or =|>/=|a minimum of|at least"
        "|at or above|at or over|equal to or greater than|"
        "equal to or more than|from age|greater than or equal to|higher than or equal to|min.|minimally|"
        "minimum|minimum of|more than or equal to|no fewer than|no less than|not below|not fewer than|"
        "not less than|not under|upwards of"
    ),
    "<=": (
        "< / =|< or =|</=|as long as|as many as|as much as|at most|at or below|at or under|cap at|"
        "cap of|as high as|as great as|as large as|capped at|ceiling|ceiling of|equal to or less than|exceed"
        "|exceed a total of|"
        "exceed more than|exceeding|exceeds|fewer than or equal to|give more than|giving more than|"
        "go above|go over|have more than|less than or equal to|limit|limit it to|limit of|limit to|"
        "limited at|limited to|lower than or equal to|max|max.|maximum|maximum of|mx|"
        "by age|no greater than|no higher than|no longer than|no more than|no older than|not above|"
        "not exceeding|not greater than|not longer than|not more than|not over|take more than|up to|"
        "up to a max of|up to a maximum of|upper limit|upper limit of|upto|use more than|within"
    ),
    ">": (
        "above|beyond|bigger than|exceeded|greater than|heavier than|higher than|in excess of|"
        "larger than|later than|longer than|more than|older than|over|worse than"
    ),
    "<": (
        "below|better than|earlier than|fewer than|less than|lighter than|lower than|not yet|"
        "short of|shorter than|smaller than|under|younger than"
    ),
    "~": (
        "about|almost|an estimated|approx|approx.|approximately|around|c.|ca|ca.|circa|close to|"
        "estimated|in the region of|nearly|roughly|some"
    ),
}
_PHRASES = tuple((sign, tuple(f" {phrase}" for phrase in phrases.split("|"))) for sign, phrases in _SIGNS.items())
_SYMBOLS = {"<": "<", ">": ">", "≤": "<=", "≥": ">=", "~": "~", "≈": "~", "≦": "<=", "≧": ">=", "∼": "~"}
_NEVER_MORE = re.compile(
    r"\b(?:not|n't|never|without|cannot|avoid|to) (?:to )?(?:be )?(?:exceed|go over|go above|give|giving|take|use|have)"
    r"(?: more than| over| above| a total of| the)?$"
)
_MAXIMUM = re.compile(
    joined(
        r"""\b(?<!was )(?<!were )(?<!is )(?<!are )(?<!be )(?:max(?:imum|imal|\.)?|ceiling|upper limit|largest
                |highest|capped|cap|never exceed|limit)
        (?: ?[:=]| (?:total|single|daily|adult|safe|recommended|oral|iv|im|cumulative|lifetime|individual|initial
        |possible|allowed
        |per day|a day|each day|dose|doses|dosage|rate|volume|amount|limit|speed|is|was|of|be|at|to|the|a|in adults
        |in children))*
        ,? ?[:=]? ?$"""
    )
)
_FILLERS = re.compile(r"(?: (?:the|age|ages|aged|a|an|of|only|be|another|total|first|last|equal to)|,)$")
AFTER_SIGN = re.compile(
    joined(
        r"""(?P<plus>\+(?! ?[\d/(]))
        |(?: old| of age|-old)?(?:,? ?(?:
        (?P<ge>(?:or|and|&) (?:more|older|above|over|greater|higher|longer|heavier|up|upwards?|onwards?|beyond)\b
        |or at least|plus\b(?! [a-z]))
        |(?P<le>(?:or|and) (?:less|younger|below|under|fewer|lower|shorter|lighter)\b)
        )|(?P<most> (?:maximum|max|at (?:the )?most|tops)\b(?!\.?:? ?(?:dose|rate|speed|daily|single|of|is|\d))))"""
    )
)
_AGE_SIGN = re.compile(
    r"\b(before|after) (?:(?:the )?ages?(?: of)?|(?:the|your|an?|he|she|they)\b[a-z ]{0,20} (?:is|are|was|turns?"
    r"|reach\w*)) $"
)
_INFUSED = re.compile(r"\b(?:made|make|diluted?|filled|topped|brought|made it) (?:it )?up to $")


_COUNTED_RATE = re.compile(r"\d|times|hours?$|x ")


def comparator_of(before: str, plain: str, end: int, kind: QuantityKind) -> str:
    """ "<", "<=", ">", ">=", "~" or "" for the number between `before` and `end`."""
    if kind is QuantityKind.FREQUENCY and plain[end - 1].isalpha() and not _COUNTED_RATE.search(plain, end - 24, end):
        return ""
    after = AFTER_SIGN.match(plain, end)
    if after and not (after["plus"] and kind is QuantityKind.FREQUENCY):
        return "<=" if after["le"] or after["most"] else ">="
    tail = before.rstrip(" ([-\u2009").replace("(", " ")
    if not tail:
        return ""
    if tail.endswith(("->", "- >")):
        return ""  # an arrow
    if sign := _SYMBOLS.get(tail[-1]):
        return sign
    if tail.endswith(("<=", "=<", "< =")):
        return "<="
    if tail.endswith((">=", "=>", "> =")):
        return ">="
    if _MAXIMUM.search(before):
        return "<="
    return _sign_in_words(before, " " + tail.lstrip(), kind)


def _sign_in_words(before: str, tail: str, kind: QuantityKind) -> str:
    if kind is QuantityKind.AGE and (order := _AGE_SIGN.search(before)):
        return "<" if order[1] == "before" else ">"
    for _ in range(5):
        if sign := _phrase_sign(tail, kind):
            return sign
        shorter = _FILLERS.sub("", tail)
        if shorter == tail:
            return ""
        tail = shorter
    return ""


def _phrase_sign(tail: str, kind: QuantityKind) -> str:
    for sign, phrases in _PHRASES:
        if not tail.endswith(phrases):
            continue
        if sign == ">" and tail.endswith(" over") and kind in (QuantityKind.DURATION, QuantityKind.TIME):
            return (
                sign if tail.endswith((" for over", " lasting over", " lasts over", " last over", " just over")) else ""
            )
        if sign == "<=" and _INFUSED.search(tail + " "):
            return ""
        if sign == "<=" and tail.endswith((" than", " over", " above", " exceed", " exceeds", " exceeding")):
            negated = re.search(r"\b(?:not|n't|never|no|nor|without|cannot|avoid|don't|dont|shouldn't)\b", tail[-40:])
            return sign if negated else ">"
        if sign in (">", "<") and tail.endswith((" than", " over", " above")) and _NEVER_MORE.search(tail):
            return "<="
        return sign
    return ""
