"""A thousand strings on which an exported tokenizer must agree with the original: always the same ones.

They mix what breaks tokenizers (spaces in rows, CRLF, digits, accents, emoji with joiners, scripts without spaces,
special tokens in the middle) with what this project is about: drug names, doses, units.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

N_STRINGS = 1000

_EDGES = (
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \t \n", "\r", "a", "A", "0",
    ".", "Hello", " Hello", "  Hello", "Hello ", "Hello\r\nworld\r\n", "don't", "DON'T",
    "I'll we've they're it's I'M", "1", "12", "123", "1234", "12345678901234567890", "3.14", "1,000,000",
    "1e-5", "0.5-1 mg", "\u00bd tablet", "10\u00b2", "\u00e9t\u00e9 na\u00efve Z\u00fcrich",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u65e5\u672c\u8a9e\u3067\u3059", "\ud55c\uad6d\uc5b4 \uc785\ub2c8\ub2e4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u1780\u17b6\u1793\u17cb\u178f\u17c2", "\u03b1-\u03b2 \u03bcg", "\U0001f600",
    "\U0001f468\u200d\u2695\ufe0f", "\U0001f1f0\U0001f1ea", "\U0001f44d\U0001f3fd ok", "\u26a0\ufe0f stop",
    "\u00a0\u00a0nbsp", "\u200b", "\u2028line", "a\u0000b", "\ufeffbom", "cafe\u0301", "\u212b",
    "\u1112\u1161\u11ab", "<html>&amp;</html>", "{\"dose\": \"5 mg/kg\"}", "def f(x):\n    return x  # y\n",
    "https://example.org/a?b=c&d=%20", "-----", "======", "......", "!!!???", "'''```\"\"\"", "\\n\\t\\\\",
    "_a_b__c",
)  # fmt: skip

_PIECES = (
    "amoxicillin", "paracetamol", "acetaminophen", "artemether-lumefantrine", "Co-trimoxazole", "oxytocin",
    "gentamicin", "ceftriaxone", "isoniazid", "rifampicin", "metformin", "salbutamol", "ibuprofen",
    "hydrochlorothiazide", "magnesium sulfate", "ORS", "zinc", "misoprostol", "dexamethasone", "phenobarbital",
    "epinephrine", "warfarin", "500 mg", "5 mg/kg", "0.01 mL/kg", "20 mg/120 mg", "1 g IV", "37.5 \u00b0C",
    "15-20 drops", "q8h", "b.i.d.", "x3", "every 6 hours", "for 5 days", "max. 4 g per day", "10\u20139 mol",
    "1:1000", "120/80 mmHg", "SpO2 < 90%", "HbA1c 7.2 %", "The patient", "a child of 2 years", "pregnant",
    "do NOT give", "fever", "What is the dose of", "Refer at once", "?", ".", ",", ";", ":", "!", " - ", "(",
    ")", "[", "]", "/", "\u2014", "\u201cquoted\u201d", "\u2019s", "\u2264", "\u00b1", "%", "\n", "\n\n",
    "\r\n", "\r\n\r\n", "\t", "  ", "    ", "\n  ", " \n", "\U0001f48a", "\U0001f469\u200d\u2695\ufe0f",
    "\U0001f921\U0001f912", "\u00e9", "\u00fc", "\u4e2d\u6587", "\u0643", "\u0915\u094d\u0937", "\u0439",
    "Mg2+", "\u03bcg", "7", "42", "2026", "100000", "3.5", "00", "A1", "x", "I", "'ll", "'S", "ing", "tion",
    "un", "Pre", "CAPITALS", "camelCase",
)  # fmt: skip


def verification_texts(special_tokens: Sequence[str], *, inside: bool = True) -> list[str]:
    """N_STRINGS strings; about a third hold some of `special_tokens`, at the end only unless `inside`."""
    chance = random.Random(1729)
    texts = list(_EDGES)
    for token in special_tokens[: N_STRINGS // 4]:
        texts.append(f"Give zinc.{token}")
        if inside:
            texts.append(f"{token}user\nGive zinc.{token}\r\n{token} 5 mg")
    while len(texts) < N_STRINGS:
        text = _mix(chance)
        if special_tokens and chance.random() < 0.33:
            text += chance.choice(special_tokens) + (_mix(chance) if inside else "")
        texts.append(text)
    return texts[:N_STRINGS]


def _mix(chance: random.Random) -> str:
    joint = chance.choice((" ", " ", " ", "", "\n"))
    return joint.join(chance.choice(_PIECES) for _ in range(chance.randint(1, 14)))
