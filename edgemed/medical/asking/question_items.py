"""A question cut into items, each with what it does there: terms, quantities, intents, closed-list words, the rest."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from edgemed.medical.asking.question_words import Phrase, QuestionWords, Role, question_words
from edgemed.medical.asking.same_meaning import singular, value_of_term
from edgemed.medical.entities import parse
from edgemed.medical.mentions import Entities, Quantity, QuantityKind, Term, TermKind
from edgemed.medical.reading import Reading, read
from edgemed.medical.terms.lexicon import Lexicon, shipped_lexicon

_WORD = re.compile(r"[^\W_]+?(?=n't\b)|n't\b|[^\W_]+|[^\w\s]|_")
_WORD_KINDS = frozenset([TermKind.ACTION, TermKind.RELATION, TermKind.SEVERITY])
"""Terms of these kinds mean what their words mean: "again" is not "second dose"."""
_PERSON_KINDS = frozenset([TermKind.AGE_BAND, TermKind.SEX, TermKind.PREGNANCY, TermKind.LACTATION])
_SILENT = frozenset(".,;:()[]{}\"'!?-_*\u2026")
_CLITICS = frozenset(["s", "ve", "re", "m", "ll", "d"])
_STOPS = frozenset(".?!;:,")
_AFTER_END = _STOPS | {"for", "in", "when", "if"}
_SHORTENED = {"ca": "can", "wo": "will", "sha": "shall"}
_GIVES = frozenset(["give", "gives", "prescribe", "prescribes", "administer", "administers"])
_AROUND_PERSON = frozenset("old of age aged weighing weight weigh".split())  # noqa: SIM905
_NEAR = frozenset("than at of age aged to or and old between".split())  # noqa: SIM905
_MORE = _NEAR | frozenset("over above more greater higher older heavier longer beyond least from up plus +".split())  # noqa: SIM905
_LESS = _NEAR | frozenset("under below less lower younger lighter fewer shorter most up".split())  # noqa: SIM905
_ROUGHLY = frozenset("about around approximately approx roughly nearly almost".split())  # noqa: SIM905
_SAID_BY = {">": _MORE, ">=": _MORE, "<": _LESS, "<=": _LESS, "~": _ROUGHLY}
"""Words beside a number that its comparator already says."""
_TELLING = frozenset("more other further additional extra another long short small large new next last first f".split())  # noqa: SIM905
"""Words inside a quantity that its value does not say: "3 more days", "38 F" read as degrees Celsius."""


@dataclass(slots=True)
class Item:
    """One piece of a question."""

    role: str
    """A Role of the closed lists, or "term", "number", "word", "wh", "unparsed"."""
    name: str
    """Its value: equal names mean the same."""
    start: int
    end: int
    """Place in the plain text."""
    kinds: tuple[TermKind, ...] = ()
    values: dict[TermKind, str] = field(default_factory=dict)
    quantity: Quantity | None = None
    gives: bool = False
    """A verb of handing over in a form that has a giver: "gives", "prescribe"."""
    stops: str = ""
    """"." when a new clause begins with it, "," after a comma or a bracket, "" else."""


def items_of(question: str, language: str = "en", lexicon: Lexicon | None = None) -> tuple[list[Item], Entities]:
    """The items of a question in order, without fillers; and what the parser found. Linear, never raises on text."""
    lexicon = lexicon or shipped_lexicon()
    reading = read(question)
    entities = parse(question, language, lexicon)
    words = question_words(language)
    plain = reading.plain if words else question.casefold()
    if words is None:
        return [Item("word", m[0], m.start(), m.end()) for m in _WORD.finditer(plain) if _says(m, plain)], entities
    placed = _placed(reading, entities, lexicon)
    tokens = _tokens(plain)
    items = _with_phrases(reading, plain, tokens, placed, words)
    return _without_comparators(items), entities


def _says(token: re.Match[str], plain: str) -> bool:
    """Whether a word or mark of a language without lists counts: marks do when they are glued to a digit."""
    beside = plain[max(0, token.start() - 1) : token.end() + 1]
    return token[0] not in _SILENT or (token[0] in ".,-" and any(character.isdigit() for character in beside))


@dataclass(slots=True)
class _Token:
    text: str
    start: int
    end: int


def _tokens(plain: str) -> list[_Token]:
    tokens = [_Token(match.group(), match.start(), match.end()) for match in _WORD.finditer(plain)]
    for token, following in pairwise(tokens):
        if following.text == "n't":
            token.text = _SHORTENED.get(token.text, token.text)
    return tokens


def _placed(reading: Reading, entities: Entities, lexicon: Lexicon) -> list[Item]:
    """Terms, quantities and unparsed digits as items, by characters of the plain text; terms at one place are one."""
    place_of = _places(reading)
    items: dict[tuple[int, int], Item] = {}
    for term in entities.terms:
        if term.kind in _WORD_KINDS:
            continue
        start, end = place_of(term.start), place_of(term.end)
        if end - start < 2:  # a letter alone names nothing for sure
            continue
        if term.kind is TermKind.DRUG_CLASS and "treatment" in reading.plain[start:end]:
            continue  # what is treated is a problem, not a medicine
        value = value_of_term(term.kind, term.name, reading.plain[start:end], lexicon)
        item = items.setdefault((start, end), Item("term", value, start, end))
        _add_term(item, term, value)
    for quantity in entities.quantities:
        start, end = place_of(quantity.start), place_of(quantity.end)
        name = quantity_name(quantity, reading.plain[start:end])
        items[start, end] = Item("number", name, start, end, quantity=quantity)
    for rest in entities.unparsed:
        start, end = place_of(rest.start), place_of(rest.end)
        items[start, end] = Item("unparsed", reading.plain[start:end], start, end)
    return sorted(items.values(), key=lambda item: (item.start, -item.end))


def _add_term(item: Item, term: Term, value: str) -> None:
    item.kinds = (*item.kinds, term.kind)
    item.values[term.kind] = value
    item.name = " = ".join(sorted(set(item.values.values())))


def _places(reading: Reading) -> Callable[[int], int]:
    if reading.places is None and reading.text.isascii():
        return lambda offset: offset
    offsets = reading.byte_offsets(range(len(reading.plain) + 1))
    starts = [offsets[place] for place in range(len(reading.plain) + 1)]
    return lambda offset: bisect_right(starts, offset) - 1


def quantity_name(quantity: Quantity, written: str) -> str:
    """A quantity's exact value, unit and comparator; dates and long numbers as they are written."""
    unit = quantity.unit
    if not unit and (quantity.kind is QuantityKind.TIME or quantity.low > 999_999):
        return " ".join(written.split())
    value = str(quantity.low) if quantity.low == quantity.high else f"{quantity.low} to {quantity.high}"
    telling = "".join(f" {word}" for word in _WORD.findall(written) if word in _TELLING)
    return f"{quantity.comparator}{value} {unit}".strip() + telling


def _with_phrases(
    reading: Reading, plain: str, tokens: Sequence[_Token], placed: Sequence[Item], words: QuestionWords
) -> list[Item]:
    """Placed items and, in the gaps, phrases of the lists and single words; a phrase wins over a term inside it."""
    shouted = not any(character.islower() for character in reading.text)
    items: list[Item] = []
    place, done, stopped = 0, 0, "."
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.start < done:
            index += 1
            continue
        while place < len(placed) and placed[place].end <= token.start:
            place += 1
        here = placed[place] if place < len(placed) and placed[place].start < token.end else None
        phrase, last = _phrase(tokens, index, words)
        if phrase and (_emphatic(reading, token, shouted, phrase) or _is_label(tokens, index, placed, place)):
            phrase = None
        end = tokens[last].end if phrase else token.end
        if phrase and _wins(phrase, end, here, placed, place):
            if phrase.role is not Role.FILLER:
                gives = token.text in _GIVES
                items.append(Item(phrase.role, phrase.name, token.start, end, gives=gives, stops=stopped))
            done, index = end, last + 1
            stopped = stopped if phrase.role is Role.FILLER else ""
            continue
        if here is not None:
            here.stops = stopped
            items.append(here)
            done, stopped = max(here.end, token.end), ""
            index += 1
            continue
        index += 1
        if token.text in _SILENT:
            if mark := _silent_mark(plain, token):
                items.append(Item("word", mark, token.start, token.end))
            stopped = "." if token.text in ".?!;:" else stopped or ("," if token.text in ",()[]" else "")
            continue
        if token.text in _CLITICS and plain[token.start - 1 : token.start] == "'":
            if items and items[-1].end == token.start - 1 and _PERSON_KINDS.intersection(items[-1].kinds):
                items.append(Item("word", "'s", token.start, token.end))  # the baby's mother is not the mother's baby
            continue
        items.append(Item("word", _word(reading, token, shouted), token.start, token.end, stops=stopped))
        stopped = ""
    return items


def _phrase(tokens: Sequence[_Token], index: int, words: QuestionWords) -> tuple[Phrase | None, int]:
    """The longest phrase that begins at a token, and its last token."""
    form = tokens[index].text
    if form not in words.phrases:
        return None, index
    found, last = words.phrases[form], index
    for following in range(index + 1, len(tokens)):
        token = tokens[following]
        if token.text in ("-", "'", "/") and form in words.phrases:
            continue
        form = f"{form} {token.text}"
        if form not in words.phrases:
            break
        if longer := words.phrases[form]:
            found, last = longer, following
    if found and found.role is Role.USUAL_END and last + 1 < len(tokens) and tokens[last + 1].text not in _AFTER_END:
        return words.phrases.get(tokens[index].text), index
    return found, last


def _wins(phrase: Phrase, end: int, here: Item | None, placed: Sequence[Item], place: int) -> bool:
    """A phrase counts when it covers whatever was found at its place, and that is no drug, number or body site."""
    if here is None:
        following = placed[place] if place < len(placed) else None
        return following is None or following.start >= end or (following.end <= end and following.role == "term")
    if here.role != "term" or TermKind.DRUG in here.kinds or here.end > end:
        return False
    return phrase.role in (Role.INTENT, Role.USUAL_END, Role.NEGATION, Role.CONNECTOR) or here.end <= end


def _emphatic(reading: Reading, token: _Token, shouted: bool, phrase: Phrase) -> bool:
    """True for a closed-list word that stands as a name or an abbreviation: "Mrs An", "WHO", "US"."""
    if reading.places is not None or phrase.role in (Role.INTENT, Role.NEGATION) or shouted:
        return False
    written = reading.text[token.start : token.end]
    if written == "I" or written.islower():
        return False
    if len(written) > 1 and written.isupper():
        return True
    before = reading.text[max(0, token.start - 3) : token.start].rstrip(" \"'(")
    at_start = not before or before[-1] in ".?!:;-\n" or not reading.text[: token.start].strip()
    if at_start:
        return written == "An" and not _AFTER_AN.match(reading.plain, token.end)
    return written[0].isupper()


_AFTER_AN = re.compile(r" (?:[aeiou]|hour|heir|honest|[hlmnrsx]\w{0,3}\b)")
_NO_NOUN = frozenset("a an the do does can may could might should must is are be am have".split())  # noqa: SIM905
_ITS_VERB = frozenset("has is was had needs gets takes weighs feels asks wants have".split())  # noqa: SIM905
_BEFORE_PRONOUN = frozenset(
    "do does did can could may might should shall must would will am have had and or if when how what which that why "  # noqa: SIM905
    "where whether dose dosage much drug treatment often long".split()
)
_AFTER_PRONOUN = frozenset(
    "am have had give use need want treat dose prescribe take start stop should can must may would could do will "  # noqa: SIM905
    "wonder think know see was want we ve m d ll".split()
)
_LABELLED = frozenset(
    "hepatitis influenza flu group type vitamin haemophilia hemophilia factor protein class stage grade plan virus "  # noqa: SIM905
    "strain immunoglobulin child pugh category bipolar phase schedule cyclosporin amphotericin botulinum toxin".split()
)


_NO_NOUN_AFTER_A = frozenset(
    ["", *_STOPS, *"in of for with and or at to is are was has if when treatment treat dose vaccine infection".split()]  # noqa: SIM905
)
"""After "a" these show that it is the label of what stands before: "paratyphoid a in a child"."""


def _is_label(tokens: Sequence[_Token], index: int, placed: Sequence[Item], place: int) -> bool:
    """True for "a" and "i" as labels ("influenza a", "stage I"), for "An has fever", for "am" as the morning and for
    "12 mg it": as words they have other neighbours."""
    word = tokens[index].text
    before = tokens[index - 1].text if index else ""
    following = tokens[index + 1].text if index + 1 < len(tokens) else ""
    if word in _NO_NOUN and following in _ITS_VERB:
        return True
    if word == "a":
        return before in _LABELLED or (bool(before) and before not in _STOPS and following in _NO_NOUN_AFTER_A)
    if word == "am":
        return "i" not in (before, following)
    if word == "it":
        return place > 0 and placed[place - 1].role == "number" and placed[place - 1].end == tokens[index - 1].end
    if word != "i" or not before or before in _STOPS or before in _BEFORE_PRONOUN:
        return False
    return following not in _AFTER_PRONOUN and following != "'"


def _silent_mark(plain: str, token: _Token) -> str:
    """What a mark says of a word: "HIV-" and "RDT (-)" are negative, "?pneumonia" is a question of the diagnosis."""
    before = plain[token.start - 1 : token.start]
    following = plain[token.end : token.end + 1]
    if token.text == "-" and not following.isalnum() and (before.isalnum() or _ENDS.match(plain, token.end)):
        return "negative sign"
    asks = following.isalnum() or following == ")" or (not before.strip() and _GOES_ON.match(plain, token.end))
    return "possible" if token.text == "?" and not before.isalnum() and asks else ""


_ENDS = re.compile(r" *(?:[),;:.?!]|$)")
_GOES_ON = re.compile(r" +[a-z]")


def _word(reading: Reading, token: _Token, shouted: bool) -> str:
    if reading.places is None and not shouted and 1 < len(token.text) < 6:
        written = reading.text[token.start : token.end]
        if written.isupper() and token.text in ("all", "aids", "ms", "was", "had", "did"):
            return written
    return singular(token.text)


def _without_comparators(items: list[Item]) -> list[Item]:
    """The items without the words beside a quantity that its comparator or its kind already says."""
    drop: set[int] = set()
    for place, item in enumerate(items):
        quantity = item.quantity
        if quantity is None:
            continue
        if quantity.comparator:
            _drop_beside(items, place, -1, _SAID_BY[quantity.comparator], drop)
            _drop_beside(items, place, 1, _SAID_BY[quantity.comparator], drop)
        if quantity.kind in (QuantityKind.AGE, QuantityKind.WEIGHT):
            _drop_beside(items, place, -1, _AROUND_PERSON, drop)
            _drop_beside(items, place, 1, _AROUND_PERSON, drop)
    return [item for place, item in enumerate(items) if place not in drop]


def _drop_beside(items: Sequence[Item], place: int, step: int, words: frozenset[str], drop: set[int]) -> None:
    for _ in range(3):
        place += step
        if not 0 <= place < len(items) or items[place].role not in ("word", Role.CONNECTOR):
            return
        if items[place].name not in words:
            return
        drop.add(place)
