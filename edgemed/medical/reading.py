"""A text made readable for patterns: lower case, plain blanks, dashes, quotes, digits and accents.

Each character of the plain text stands for exactly one of the original, so that places are the same in both;
only a text with loose combining marks needs a table of places.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

THIN_BLANK = "\u2009"
"""Every blank that may stand between groups of digits and nowhere else."""

_SAME = {
    **dict.fromkeys("\u00a0\u2007\u2008\u2009\u200a\u202f", THIN_BLANK),
    **dict.fromkeys("\t\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u205f\u3000", " "),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u0060\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
    "\u03bc": "\u00b5",  # the Greek letter for the micro sign
    "\u2044": "/",
    "\u2215": "/",
    "\uff0f": "/",
    "\u00d7": "x",
    "\u2a7d": "\u2264",
    "\u2a7e": "\u2265",
    "\u00ba": "\u00b0",  # the ordinal sign, typed for degrees
    "\uff05": "%",
}


class _Table(dict[int, str]):
    """For str.translate: fills itself with the characters that it meets."""

    def __missing__(self, code: int) -> str:
        plain = self[code] = _plain_character(chr(code))
        return plain


def _plain_character(character: str) -> str:
    if (same := _SAME.get(character)) is not None:
        return same
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    if unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo"):
        base = unicodedata.normalize("NFD", character)[0].lower()
        return base if len(base) == 1 else character
    if "\uff01" <= character <= "\uff5e":  # full-width forms of ASCII
        return chr(ord(character) - 0xFEE0)
    return character


_TABLE = _Table()


@dataclass(frozen=True, slots=True)
class Reading:
    """A text and its plain form."""

    text: str
    plain: str
    places: tuple[int, ...] | None
    """Place in `text` of each character of `plain`, and its end; None when they are the same."""

    def byte_offsets(self, places: Iterable[int]) -> dict[int, int]:
        """For each place in `plain`, its offset in the text's UTF-8; linear in the text."""
        wanted = sorted(set(places))
        if self.places is None and self.text.isascii():
            return {place: place for place in wanted}
        offsets: dict[int, int] = {}
        before = done = 0
        for place in wanted:
            end = place if self.places is None else self.places[place]
            before += len(self.text[done:end].encode("utf-8", "surrogatepass"))
            offsets[place], done = before, end
        return offsets


def read(text: str) -> Reading:
    """The plain form of any text; never raises, linear in its length."""
    if text.isascii():
        return Reading(text, text.lower().replace("\t", " "), None)
    if not any(unicodedata.combining(character) for character in text if character > "\u02ff"):
        return Reading(text, text.translate(_TABLE), None)
    kept = [place for place, character in enumerate(text) if not unicodedata.combining(character)]
    plain = "".join(text[place] for place in kept).translate(_TABLE)
    return Reading(text, plain, (*kept, len(text)))
