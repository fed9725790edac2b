"""From the parts of a rendered prompt to token ids: special tokens from the template only.

The ids are those of the whole text read at once, as the model was trained: neighbouring words of template and
person are joined before they are cut into tokens. Only the literals of special tokens are looked for in template
parts alone, so a person's "<|im_end|>" is spelled out in ordinary tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from edgemed.core.prompt import PromptPart

_SPACES = " \t\n\v\f\r"
"""What C's isspace takes for a blank."""


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that text alone can never mean."""

    id: int
    strips_left: bool = False
    """Blanks before it are swallowed."""
    strips_right: bool = False
    """Blanks after it are swallowed."""


class PromptTokenizer:
    """Turns prompt parts into ids with a vocabulary's special tokens and a function for plain text."""

    def __init__(
        self, special: Mapping[str, SpecialToken], encode: Callable[[str], list[int]], bos: int | None
    ) -> None:
        self._special = special
        self._encode = encode
        self._bos = bos
        longest_first = sorted((text for text in special if text), key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def ids(self, parts: Iterable[PromptPart]) -> list[int]:
        """Token ids of the prompt; the model's BOS comes first, once, when the model wants one."""
        ids: list[int] = []
        plain = ""
        strip_next = False
        for piece in self._pieces(parts):
            if isinstance(piece, str):
                plain += piece.lstrip(_SPACES) if strip_next and not plain else piece
                continue
            ids += self._plain(plain.rstrip(_SPACES) if piece.strips_left else plain)
            ids.append(piece.id)
            plain, strip_next = "", piece.strips_right
        ids += self._plain(plain)
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        return ids

    def _plain(self, text: str) -> list[int]:
        return self._encode(text) if text else []

    def _pieces(self, parts: Iterable[PromptPart]) -> Iterable[str | SpecialToken]:
        """Plain text and special tokens in order."""
        for part in parts:
            if not part.special or self._literal is None:
                yield part.text
                continue
            at = 0
            for match in self._literal.finditer(part.text):
                yield part.text[at : match.start()]
                yield self._special[match.group()]
                at = match.end()
            yield part.text[at:]
