"""Chemical and disease mentions beyond the lists, by how such names are made; for weights and warnings, not for keys.

"nephrotoxicity", "left ventricular dysfunction" and "dichloroacetate" stand in no list, and a loss over tokens or a
guard still wants to know that they name a disease or a chemical. What comes from a rule is marked `listed=False`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import Lexicon, find_terms
from edgemed.medical.terms.term_forms import JOINS, WORD, forms_of

Label = Literal["chemical", "disease"]

_LABELS: dict[TermKind, Label] = {
    TermKind.DRUG: "chemical",
    TermKind.CONDITION: "disease",
    TermKind.FINDING: "disease",
    TermKind.RENAL: "disease",
    TermKind.HEPATIC: "disease",
    TermKind.ALLERGY: "disease",
}
_SAFE_CHEMICAL = re.compile(
    r"(?:[bcdfghjklmnpqrstvwxz]ine|ines|oxide|amide|imide|azide|chloride|bromide|iodide|ulfide|onide|uside|oside|phosphate"
    r"|sulfate|sulphate|acetate|nitrate|nitrite|citrate|glutamate|benzoate|folate|azole|idazole|dione|azolone|olone|enone"
    r"|isone|azone|erone|ibrate|idol|amol|anol|enol|erol|opram|epam|olam|ythrin|toxin|oxan|oxane|ylene|ethane|methane"
    r"|butane|hydrazine|thiazide|etin|idin|ilin|abine|adine|arine|astine|atine|azine|ylate|onate|idate)$"
)
_DISEASE_ENDING = re.compile(
    r"(?:itis|itides|pathy|pathies|[aeiou]emia|[a-z]aemia|[a-z]emias?|oma|omas|omata|osis|oses|algia|plegia|paresis|rrhagia"
    r"|penia|megaly|toxicity|toxicities|edema|oedema|ectasis|lepsy|phobia|mania|kinesia|kinesias|plasia|trophy|uria|rrhea"
    r"|rrhoea|sclerosis|stenosis|philia|dystonia|taxia|phasia|arthria|ptysis|cephaly|esthesia|hypoxia)$"
)
_BEFORE_DISEASE = re.compile(
    r"(?:[a-z]+[ -](?:induced|related|associated|dependent) |(?:severe|mild|moderate|metastatic|persistent) )(?=[a-z])"
    r"|[a-z]+ (?=(?:toxicity|intoxication|overdose|poisoning)$)"
)
_LOCANTS = re.compile(
    r"(?:^|(?<=[\s(/]))((?:(?:\d[\d,']*|alpha|beta|gamma|delta|omega|[dlnopsr]|cis|trans|tert|iso|methyl|ethyl|[a-z]{2,9}yl"
    r"|amino|hydroxy|methoxy|chloro|fluoro|nitro|bromo|oxo|di|tri|bis|all|nor|deoxy|acetyl)-)+)$"
)
_CODE = re.compile(r"(?<![\w-])(?:[a-z]{2,4}-?\d{3,6}[a-z]{0,2}|[a-z]{2,4}\d{2}[a-z]\d)(?![\w-])")
"""Research codes: "ly274614", "mk-801"."""
_ABBREVIATION = re.compile(r" ?\(([A-Za-z][A-Za-z0-9-]{1,8})\)")


class MorphologyList(Record):
    """lists/substances.toml."""

    source: str = Field(min_length=1)
    substances: tuple[str, ...]
    not_chemical: tuple[str, ...]
    disease_heads: tuple[str, ...]
    disease_sites: tuple[str, ...]
    disease_modifiers: tuple[str, ...]
    not_disease: tuple[str, ...]
    not_mentioned: tuple[str, ...]
    """Canonical names and words of listed terms that name no disease or chemical."""
    disease_adjectives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mention:
    """A mention at its place in the characters of the text."""

    label: Label
    start: int
    end: int
    listed: bool
    """False where a rule, and no list, says what it is."""


@dataclass(frozen=True)
class _Words:
    """The lists as they are looked up."""

    substances: frozenset[str]
    beginnings: frozenset[str]
    """The first words of the substances."""
    not_chemical: frozenset[str]
    heads: frozenset[str]
    sites: frozenset[str]
    modifiers: frozenset[str]
    not_disease: frozenset[str]
    not_mentioned: frozenset[str]
    adjectives: frozenset[str]


def mentions_of(text: str, lexicon: Lexicon | None = None) -> list[Mention]:
    """The chemicals and diseases that a text names, in order and apart; never raises on text, linear.

    Abbreviations count where the text itself explains them: "cyclosporine (CsA)".
    """
    reading = read(text)
    plain, words = reading.plain, list(WORD.finditer(reading.plain))
    found: list[Mention] = []
    lists = _words()
    for term in find_terms(plain, lexicon):
        silent = term.name in lists.not_mentioned or plain[term.start : term.end] in lists.not_mentioned
        if (label := _LABELS.get(term.kind)) and not silent:
            found += _parts(plain, Mention(label, term.start, term.end, term.listed), lexicon)
    found += _by_rule(plain, words, lists)
    found += [Mention("chemical", match.start(), match.end(), False) for match in _CODE.finditer(plain)]
    kept = [_with_prefix(plain, mention) for mention in _apart(found)]
    kept = _apart([*kept, *_abbreviated(reading.text if reading.places is None else plain, kept)])
    if reading.places is not None:
        at = reading.places
        kept = [Mention(mention.label, at[mention.start], at[mention.end], mention.listed) for mention in kept]
    return kept


def _parts(plain: str, mention: Mention, lexicon: Lexicon | None) -> Iterator[Mention]:
    """A disease apart from what caused it and how severe it is: "heparin-induced thrombocytopenia", "severe pain"."""
    match = _BEFORE_DISEASE.match(plain, mention.start, mention.end) if mention.label == "disease" else None
    if match is None:
        yield mention
        return
    for term in find_terms(match.group(), lexicon):
        if term.kind is TermKind.DRUG:
            yield Mention("chemical", mention.start + term.start, mention.start + term.end, term.listed)
    yield replace(mention, start=match.end())


def _with_prefix(plain: str, mention: Mention) -> Mention:
    """A chemical with its locants: "2-chloroprocaine", "alpha-lipoic acid"."""
    if mention.label != "chemical":
        return mention
    match = _LOCANTS.search(plain, max(0, mention.start - 24), mention.start)
    return replace(mention, start=match.start(1)) if match else mention


def _by_rule(plain: str, words: list[re.Match[str]], lists: _Words) -> Iterator[Mention]:
    for place, match in enumerate(words):
        word = match.group()
        if word in lists.beginnings and (substance := _substance(plain, words, place, lists)):
            yield substance
        elif len(word) >= 7 and word.isalpha() and len(word) <= 60:
            if _DISEASE_ENDING.search(word) and word not in lists.not_disease:
                yield Mention("disease", match.start(), match.end(), False)
            elif _SAFE_CHEMICAL.search(word) and word not in lists.not_chemical:
                yield Mention("chemical", match.start(), match.end(), False)
        if word in lists.adjectives:
            yield Mention("disease", match.start(), match.end(), False)
        if word in lists.heads and (start := _site_before(plain, words, place, lists)) is not None:
            yield Mention("disease", start, match.end(), False)


def _substance(plain: str, words: list[re.Match[str]], place: int, lists: _Words) -> Mention | None:
    """The longest substance of the list that begins at a word."""
    form, found = "", None
    for following in range(place, min(place + 6, len(words))):
        if following > place and plain[words[following - 1].end() : words[following].start()] not in JOINS:
            break
        form = f"{form} {words[following].group()}".strip()
        if form in lists.substances:
            found = Mention("chemical", words[place].start(), words[following].end(), True)
    return found


def _site_before(plain: str, words: list[re.Match[str]], place: int, lists: _Words) -> int | None:
    """Where "acute renal" begins before "failure"; None when no site stands there."""
    start, seen = None, False
    for before in range(place - 1, max(-1, place - 5), -1):
        if plain[words[before].end() : words[before + 1].start()] not in (" ", "-", "/"):
            break
        word = words[before].group()
        pair = f"{words[before - 1].group()} {word}" if before else ""
        if word in lists.sites or pair in lists.sites:
            seen = True
        elif not (seen and word in lists.modifiers):
            break
        start = words[before].start()
    return start if seen else None


def _apart(mentions: list[Mention]) -> list[Mention]:
    """Mentions that do not overlap: the longest wins, and of equals the first given."""
    kept: list[Mention] = []
    for mention in sorted(mentions, key=lambda one: (one.start, -one.end)):
        if kept and mention.start < kept[-1].end:
            if mention.end - mention.start > kept[-1].end - kept[-1].start:
                kept[-1] = mention
            continue
        kept.append(mention)
    return kept


def _abbreviated(text: str, mentions: list[Mention]) -> Iterator[Mention]:
    """The short forms in brackets behind a mention, there and wherever the text uses them again."""
    short: dict[str, Label] = {}
    for mention in mentions:
        match = _ABBREVIATION.match(text, mention.end)
        if match and _is_short_for(match[1], text[mention.start : mention.end]):
            short.setdefault(match[1], mention.label)
    if short:
        for word in re.finditer(r"(?<![\w-])[A-Za-z][A-Za-z0-9-]*(?![\w-])", text):
            if label := short.get(word.group()):
                yield Mention(label, word.start(), word.end(), False)


def _is_short_for(short: str, name: str) -> bool:
    """Whether the letters of a short form stand in the name in their order, the first one first."""
    letters = [letter for letter in short.lower() if letter.isalnum()]
    rest = iter(name.lower())
    return name.lower().startswith(letters[0]) and len(short) < len(name) and all(letter in rest for letter in letters)


@cache
def _words() -> _Words:
    file = resources.files("edgemed.medical") / "lists" / "substances.toml"
    try:
        data = MorphologyList.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"The list substances.toml is damaged: {error}.", next_step="install edgemed again") from error
    substances = frozenset(form for name in data.substances for form in forms_of(name, plural=False))
    return _Words(
        substances=substances,
        beginnings=frozenset(form.partition(" ")[0] for form in substances),
        not_chemical=frozenset(data.not_chemical),
        heads=frozenset(data.disease_heads),
        sites=frozenset(form for name in data.disease_sites for form in forms_of(name, plural=False)),
        modifiers=frozenset(data.disease_modifiers),
        not_disease=frozenset(data.not_disease),
        not_mentioned=frozenset(data.not_mentioned),
        adjectives=frozenset(data.disease_adjectives),
    )
