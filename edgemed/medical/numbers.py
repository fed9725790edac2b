"""Numbers as people write them, to exact fractions: 1,000; 2,5; ½; 1/2; "one and a half"; 2.4 million.

English words. A comma followed by exactly three digits groups thousands, any other comma is a decimal one;
a normal blank groups only "000", because "2 500 mg" may be two tablets of 500 mg.
"""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "  # noqa: SIM905
        "seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)  # noqa: SIM905
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1000000, "billion": 1000000000}
_PARTS = {"half": Fraction(1, 2), "third": Fraction(1, 3), "quarter": Fraction(1, 4)}
_VULGAR = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "⅛": "1/8", "⅕": "1/5"}

WORDS = (*_ONES, *_TENS, "hundred", "half", "quarter", "dozen", "couple")
"""Words a number may begin with."""

_UNIT_WORD = "|".join(_ONES)
_TEN_WORD = "|".join(_TENS)
_SMALL = rf"(?:(?:{_TEN_WORD})(?:[ -](?:{_UNIT_WORD}))?|{_UNIT_WORD})"
_FRACTION = r"(?:1/[2-8]|[23]/[345])(?![\d/])"

WORD_NUMBER = (
    rf"(?:(?:a )?half(?: of)?(?: an?\b)?|(?:a |one )?quarter(?: of)?(?: an?\b)?|three[ -]quarters(?: of)?(?: an?\b)?"
    rf"|(?:{_SMALL})(?: hundred(?: and {_SMALL})?| thousand| million)?(?:\b and a (?:half|quarter)\b)?"
    rf"|a (?:hundred|thousand|dozen|couple of)|hundred|dozen)\b"
)
DIGIT_NUMBER = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d])"
    r"|\d{1,3}(?:\u2009\d{3})+(?!\d)(?:[.,]\d+)?"
    r"|\d{1,3}(?: 000)+(?!\d)"
    rf"|\d+[ -]{_FRACTION}|{_FRACTION}|\d*[½¼¾⅓⅔⅛⅕]"
    r"|\d+[.,]\d+|\d+|\.\d+)"
    r"(?: ?(?:million|thousand|billion)\b| ?x ?10(?:\^|\*| )?[⁰¹²³⁴⁵⁶⁷⁸⁹]+| ?x ?10(?:\^|\*\*?)\d{1,2})?"
    r"(?: and a (?:half|quarter)\b)?"
)
NUMBER = rf"(?:{DIGIT_NUMBER}|{WORD_NUMBER})"

MAX_DIGITS = 30
"""Longer runs of digits are no quantity of a clinical text."""

_TAIL = re.compile(r"(?P<number>.*?) and a (?P<part>half|quarter)$", re.DOTALL)
_POWER = re.compile(r" ?x ?10(?:\^|\*\*?| )?(\d{1,2}|[⁰¹²³⁴⁵⁶⁷⁸⁹]+)$")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def value_of(text: str) -> Fraction | None:
    """The number that a match of NUMBER says; None for one that is too long to be meant."""
    if len(text) > MAX_DIGITS + 20 or sum(map(str.isdigit, text)) > MAX_DIGITS:
        return None
    if tail := _TAIL.match(text):
        whole = value_of(tail["number"])
        return None if whole is None else whole + _PARTS[tail["part"]]
    scale = Fraction(1)
    if power := _POWER.search(text):
        exponent = int(power[1].translate(_SUPERSCRIPTS))
        if exponent > MAX_DIGITS:
            return None
        scale, text = Fraction(10**exponent), text[: power.start()]
    return _of_words(text) if text[0].isalpha() else _of_digits(text, scale)


def _of_digits(text: str, scale: Fraction) -> Fraction:
    for word, factor in _SCALES.items():
        if text.endswith(word):
            text, scale = text.removesuffix(word).rstrip(), scale * factor
    if text[-1] in _VULGAR:
        text = f"{text[:-1]} {_VULGAR[text[-1]]}"
    if "/" in text:
        whole, _, part = text.replace("-", " ").rpartition(" ")
        return (Fraction(part) + (Fraction(whole.strip()) if whole.strip() else 0)) * scale
    text = text.replace("\u2009", "").replace(" ", "")
    if re.fullmatch(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?", text):
        text = text.replace(",", "")
    return Fraction(text.replace(",", ".")) * scale


def _of_words(text: str) -> Fraction:
    words = re.split(r"[ -]", text)
    if "half" in words:
        return Fraction(1, 2)
    if words[-1] in ("quarter", "a", "an", "of", "quarters") or "quarter" in words:
        return Fraction(3, 4) if "three" in words else Fraction(1, 4)
    if "dozen" in words or "couple" in words:
        return Fraction(12 if "dozen" in words else 2)
    total = current = 0
    for word in words:
        if word in _SCALES:
            current = (current or 1) * _SCALES[word]
        else:
            current += _ONES.get(word, _TENS.get(word, 0))
    return Fraction(total + current)
