"""Which tokens of a text a mistake would hurt at: drugs, numbers, units, frequencies, negations."""

from __future__ import annotations

import re
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgemed.evaluate.token_text import TokenizedText
from edgemed.medical.entities import parse
from edgemed.medical.mentions import QuantityKind, TermKind

Group = Literal["drug", "number", "unit", "frequency", "negation"]
GROUPS: tuple[Group, ...] = get_args(Group)

_NUMBER = re.compile(rb"\d+(?:[.,]\d+)*")
_UNIT = re.compile(rb"[^\s\d.,()-][^\s\d,()-]*")
_NEGATION = re.compile(
    rb"(?i)\b(?:no|not|never|none|nor|neither|without|cannot|don't|avoid\w*|contraindicat\w*|stop|instead|unless)\b"
)


def token_groups(text: TokenizedText) -> dict[Group, npt.NDArray[np.bool_]]:
    """For each group the tokens (n_tokens,) that belong to it, in whole or in part.

    Drugs and quantities are those of the clinical parser: units are what a quantity says beside its numbers, a
    frequency is the whole of one. Negations are the English words that turn a statement round.
    """
    raw = text.text.encode("utf-8", "surrogatepass")
    entities = parse(text.text)
    spans: dict[Group, list[tuple[int, int]]] = {
        "drug": [(t.start, t.end) for t in entities.terms if t.kind in (TermKind.DRUG, TermKind.DRUG_CLASS)],
        "number": [found.span() for found in _NUMBER.finditer(raw)],
        "unit": [
            found.span()
            for quantity in entities.quantities
            if quantity.kind is not QuantityKind.FREQUENCY
            for found in _UNIT.finditer(raw, quantity.start, quantity.end)
        ],
        "frequency": [(q.start, q.end) for q in entities.quantities if q.kind is QuantityKind.FREQUENCY],
        "negation": [found.span() for found in _NEGATION.finditer(raw)],
    }
    masks = {group: np.zeros(len(text.ids), np.bool_) for group in GROUPS}
    for group, places in spans.items():
        for start, end in places:
            tokens = text.tokens_of(start, end)
            masks[group][tokens.start : tokens.stop] = True
    return masks
