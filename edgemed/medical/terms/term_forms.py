"""The forms in which a written term may stand in a text: plurals, American spelling, possessives, sounds.

A form is the words of the term in plain letters with one blank between, which is how lexicon.py looks words up;
so "artemether-lumefantrine" and "artemether / lumefantrine" are one form already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WORD = re.compile(r"[^\W_]+")
JOINS = frozenset(
    [" ", "-", "/", "'", "+", "  ", "\n", "\u2009", " -", "- ", " - ", " / ", " ' ", "' ", " + ", "\r\n", "\n ", " \n"]
)
"""What may stand between two words of one term."""
AFTER_LETTER = (JOINS | {".", ". "}) - {"'", "' ", " ' "}
"""... when the first is a single letter: "H. influenzae", but not "I'm" for i.m."""

_AMERICAN = (
    ("haem", "hem"), ("aemi", "emi"), ("oedem", "edem"), ("rrhoe", "rrhe"), ("dyspnoe", "dyspne"), ("apnoe", "apne"),
    ("oesoph", "esoph"), ("foet", "fet"), ("coelia", "celia"), ("anaesth", "anesth"), ("gynaec", "gynec"),
    ("orthopaed", "orthoped"), ("paed", "ped"), ("caesar", "cesar"), ("tumour", "tumor"), ("sulph", "sulf"),
    ("leukaem", "leukem"), ("ischaem", "ischem"), ("faec", "fec"), ("oestr", "estr"), ("amoeb", "ameb"),
    ("colour", "color"), ("behaviour", "behavior"), ("odour", "odor"), ("haw", "haw"), ("litre", "liter"),
    ("fibre", "fiber"), ("goitre", "goiter"), ("centre", "center"), ("isation", "ization"), ("ised", "ized"),
    ("ising", "izing"), ("aetiol", "etiol"), ("paraes", "pares"), ("dysaes", "dyses"), ("caec", "cec"),
    ("lysed", "lyzed"), ("diarrhoe", "diarrhe"), ("homoeo", "homeo"), ("phaeo", "pheo"), ("archae", "arche"),
    ("plough", "plow"), ("mould", "mold"), ("grey", "gray"), ("labour", "labor"), ("tumoral", "tumoral"),
    ("aneurysm", "aneurism"), ("practice", "practise"), ("coeliac", "celiac"), ("menorrhoea", "menorrhea"),
)  # fmt: skip
_NO_PLURAL = re.compile(r"\d$|ss$|sis$|ness$|[^a-z]")
_SOUND = (
    ("ph", "f"), ("th", "t"), ("rh", "r"), ("ch", "k"), ("ck", "k"), ("ae", "e"), ("oe", "e"), ("qu", "k"),
    ("x", "ks"), ("y", "i"), ("z", "s"), ("c", "k"),
)  # fmt: skip
_DOUBLE = re.compile(r"([a-z])\1+")


def words_of(plain: str) -> tuple[str, ...]:
    """The words of a plain text, without what stands between them."""
    return tuple(WORD.findall(plain))


def forms_of(term: str, *, plural: bool) -> Iterator[str]:
    """Every form of a plain term, its own first; with the plural of its last word when asked."""
    own = " ".join(words_of(term))
    seen: set[str] = set()
    for spelled in (own, american(own)):
        for form in (*_possessives(spelled), *(plurals(spelled) if plural else ())):
            if form and form not in seen:
                seen.add(form)
                yield form


def american(form: str) -> str:
    """The form in American spelling."""
    for british, other in _AMERICAN:
        if british in form:
            form = form.replace(british, other)
    return form


def plurals(form: str) -> tuple[str, ...]:
    """The plural forms of the last word of a form; none where it has none."""
    if form.endswith("sis") and len(form) > 6:
        return (form[:-2] + "es",)
    if len(form) < 4 or _NO_PLURAL.search(form[-4:]):
        return ()
    if form.endswith(("s", "x", "ch", "sh")):
        return (form + "es",) if not form.endswith(("us", "is", "as", "es", "bs", "ts", "ns", "ds", "gs", "ms")) else ()
    if form.endswith("y") and form[-2] not in "aeiou":
        return (form[:-1] + "ies",)
    if form.endswith("oma"):
        return (form + "s", form + "ta")
    return (form + "s",)


def _possessives(form: str) -> tuple[str, ...]:
    """ "parkinson s disease" is written without its s and without its apostrophe too."""
    if " s " not in form:
        return (form,)
    return (form, form.replace(" s ", " "), form.replace(" s ", "s "))


def sound_of(word: str) -> str:
    """A word as it is misspelt by ear: doubled letters once, ph as f, y as i, th as t, c as k, z as s.

    Look-alike drugs (prednisone and prednisolone, hydroxyzine and hydralazine) keep different sounds.
    """
    for letters, sound in _SOUND:
        if letters in word:
            word = word.replace(letters, sound)
    return _DOUBLE.sub(r"\1", word)
