"""Numbers as people write them, to exact fractions: 1,000; 2,5; ½; 1/2; "one and a half"; 2.4 million; 3 x 10^9.

English words. A comma followed by exactly three digits groups thousands, any other comma is a decimal one. A normal
blank groups only "000", because "2 500 mg" may be two tablets of 500 mg. Texts that were cut into words ("0 . 5",
"40 , 000") are read as if they were not.
"""

from __future__ import annotations

import re
from fractions import Fraction

ONES = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "  # noqa: SIM905
        "seventeen eighteen nineteen".split()
    )
}
TENS = {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)  # noqa: SIM905
}
_SCALES = {"hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "billion": 10**9, "crore": 10**7}
_VULGAR = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅕": "1/5", "⅜": "3/8"}
VULGAR = "".join(_VULGAR)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")

WORDS = (*ONES, *TENS, "hundred", "half", "quarter", "dozen", "couple")
"""Words a number may begin with."""

MAX_DIGITS = 30
"""Longer runs of digits are no quantity of a clinical text."""


def joined(pattern: str) -> str:
    """A pattern written over several lines: line breaks and indents go, blanks within a line are blanks."""
    return re.sub(r"\n\s*", "", pattern)


_PART_VALUE = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5}
_TEN_WORD = "|".join(TENS)
_SMALL = (
    rf"(?:(?:{_TEN_WORD})(?: ?- ?| )?(?:one|two|three|four|five|six|seven|eight|nine)\b|{_TEN_WORD}|{'|'.join(ONES)})"
)
_SCALE = r"(?: hundred thousand| hundred| thousand| million| lakhs?| dozen)"
_AND_PART = r"(?: and (?:an? |one[ -])?(?:half|quarter|third)\b| and 1/[2-4])"
WORD_NUMBER = joined(
    rf"""(?:
    (?:(?:(?:one|two|three|four|a)[ -])(?:half|halves|thirds?|quarters?|fourths?|fifths?)|half|quarter)\b
    (?:[ -]a\b dozen\b)?(?:[ -]an?\b)?(?: of)?(?: (?:an?|one|the)\b)?
    |{_SMALL}(?:{_SCALE}(?:(?: and)? {_SMALL})?)?\b{_AND_PART}?
    |(?:an? )?(?:hundred|thousand|dozen|couple)(?: of)?\b
    )"""
)
_FRACTION = r"(?:1/(?:[2-8]|10)|2/[35]|3/[458])(?![\d/])"
_POWER = joined(
    r""" ?x ?10 ?(?:(?:\^|\*\*?) ?\d{1,2}
    |\( ?(?:- ?)?\d{1,2} ?\)
    |\^ ?- ?\d{1,2}
    |e\d{1,2}
    |[⁰¹²³⁴⁵⁶⁷⁸⁹]+
    | ?(?:9|12|[36])(?= ?/))"""
)
DIGIT_NUMBER = joined(
    rf"""(?:
    \d{{1,3}}(?:,\d{{3}}){{1,8}}(?![\d])(?:\.\d+)?
    |\d{{1,2}}(?:,\d{{2}}){{1,5}},\d{{3}}(?!\d)
    |\d{{1,3}}(?:[\u2009']\d{{3}}){{1,8}}(?!\d)(?:[.,]\d+)?
    |\d{{1,3}}(?: \d{{3}}){{2,8}}(?!\d)
    |\d{{1,3}}(?: 000){{1,4}}(?!\d)
    |[1-9]\d{{0,2}}(?: , \d{{3}}){{1,4}}(?!\d)(?! ,| (?:and|or|to) \d)(?! ?[mµ][gl]\b)
    |[1-9]\d{{1,2}} \d{{3}}(?= ?(?:\+ ?/ ?-|±)| (?:patient|person|on\b|cases|people|participants|women|men\b|subjects))
    |\d{{1,3}} , 000(?!\d)
    |[1-9] , \d{{3}}(?= ?(?:mg|ml|mcg|iu|units|g)\b)
    |\d+(?:[ -]| and ){_FRACTION}
    |\d{{1,2}} 1 / [2-4](?= (?:years?|months?|weeks?|hours?|h|times|tablets?)\b)
    |{_FRACTION}
    |\d* ?[{VULGAR}]
    |10(?:\^ ?-? ?\d{{1,2}}|[⁰¹²³⁴⁵⁶⁷⁸⁹]+| ?\( ?- ?\d{{1,2}} ?\)| ?- ?(?:[3-9]|1[0-2])(?= ?m\b(?! ?/)))
    |\d+[.,\u00b7]\d+
    |\d+ \. \d+(?! \. \d)
    |\d+
    |\. ?\d+
    )
    (?:{_POWER}
    | ?(?:hundred thousand|million|thousand|billion|lakhs?|crores?)\b
    |k(?![a-z0-9/])
    |k(?= ?/)
    )?{_AND_PART}?"""
)
NUMBER = rf"(?:{DIGIT_NUMBER}|{WORD_NUMBER})"

_TAIL = re.compile(r"(?P<number>.*?) and (?:an? |one[ -])?(?P<part>half|quarter|third|1/[2-4])$", re.DOTALL)
_POWER_TAIL = re.compile(r" ?x ?10 ?(?:\^|\*\*?|e|\( ?| )? ?(-? ?\d{1,2}|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)(?: ?\))?$")
_POWER_OF_TEN = re.compile(r"10(?:\^ ?\d{1,2}|(?:\^| ?\()? ?- ?\d{1,2}(?: ?\))?|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}")


def value_of(text: str) -> Fraction | None:
    """The number that a match of NUMBER says; None for one that is too long to be meant."""
    if len(text) > MAX_DIGITS + 30 or sum(map(str.isdigit, text)) > MAX_DIGITS:
        return None
    if tail := _TAIL.match(text):
        whole = value_of(tail["number"])
        part = tail["part"]
        return None if whole is None else whole + Fraction(1, int(part[-1]) if "/" in part else _PART_VALUE[part[:3]])
    if text[0].isalpha():
        return _of_words(text)
    scale = Fraction(1)
    if power := _POWER_TAIL.search(text):
        exponent = _exponent(power[1])
        if abs(exponent) > MAX_DIGITS:
            return None
        scale, text = Fraction(10) ** exponent, text[: power.start()]
    return _of_digits(text, scale)


def _exponent(text: str) -> int:
    return int(text.replace(" ", "").translate(_SUPERSCRIPTS))


def _of_digits(text: str, scale: Fraction) -> Fraction | None:
    if text.endswith("k"):
        text, scale = text[:-1], scale * 1000
    while text[-1].isalpha():
        word = re.split(rf"[ \d{VULGAR}⁰¹²³⁴⁵⁶⁷⁸⁹]", text)[-1]
        text, scale = text.removesuffix(word).rstrip(), scale * _SCALES[word.removesuffix("s")]
    if _POWER_OF_TEN.fullmatch(text):
        exponent = _exponent(text.removeprefix("10").strip(" ^()"))
        return Fraction(10) ** exponent * scale if abs(exponent) <= MAX_DIGITS else None
    if text[-1] in _VULGAR:
        text = f"{text[:-1].rstrip()} {_VULGAR[text[-1]]}"
    if "/" in text:
        text = text.replace(" / ", "/")
        whole, _, part = text.replace("-", " ").replace(" and ", " ").rpartition(" ")
        return (Fraction(part) + (Fraction(whole.strip()) if whole.strip() else 0)) * scale
    text = text.replace("\u2009", "").replace(" ", "").replace("'", "").replace("\u00b7", ".")
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    return Fraction(text.replace(",", ".")) * scale


def _of_words(text: str) -> Fraction:
    words = [word for word in re.split(r"[ -]+", text) if word not in ("of", "the", "and", "a", "an")]
    if len(words) > 1 and words[-1] == "one":  # "half of one tablet"
        words = words[:-1] if words[-2].startswith(("half", "third", "quarter", "fourth", "fifth")) else words
    total, current = Fraction(0), Fraction(0)
    for word in words:
        if word in ONES or word in TENS:
            current += ONES.get(word, TENS.get(word, 0))
        elif word == "couple":
            current = Fraction(2)
        elif word in ("dozen", "hundred"):
            current = (current or Fraction(1)) * (12 if word == "dozen" else 100)
        elif scale := _SCALES.get(word.removesuffix("s")):
            total, current = total + (current or Fraction(1)) * scale, Fraction(0)
        elif ten := next((ten for ten in TENS if word.startswith(ten)), ""):  # "fortytwo"
            current += TENS[ten] + ONES.get(word.removeprefix(ten), 0)
        else:
            current = (current or Fraction(1)) * Fraction(1, _PART_VALUE[word[:3]])
    return total + current
