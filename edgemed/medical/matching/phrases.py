"""Words of a text and phrases found among them: the matcher under question categories and danger signs.

A phrase is a line of words: `snake bite`. A word that ends in `*` stands for all that begin so (`convuls*`), a `*`
alone for up to four words, a `?` alone for up to one, `#` for a number, `{year}` for a number from 1930 to 2039,
`{drug}` for a drug's name, and `^` before the first word binds it to the start of a clause. Hyphens and slashes between
words are blanks; a phrase never reaches across a comma or a full stop. In a language with verb prefixes `-vimb*` is the
stem after a prefix that affirms (`anavimba`, `amemvimbisha`), `=pumu*` after one that denies (`hapumui`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

GAP = 4
"""Most words that a `*` alone stands for."""
_GAPS = {"*": GAP, "?": 1}
MENDED_WORDS = 400
"""So many unknown words of a text are compared with the known ones letter by letter; bounds the time."""
_MENDABLE = 7  # letters: shorter words have too many neighbours
_MENDABLE_VERB = 5  # letters of a verb's stem after its prefix
DRUG = "{drug}"
"""Stands for the name of a drug, where a text's words were so marked (`category`)."""
VERB_SIGNS = ("-", "=")
"""Before a verb's stem: after a prefix that affirms, after one that denies."""

_JOINED = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|%")
_SPLIT = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|%")
_BREAK = re.compile(r"[!?;\n\r\u061f\u3002]|\.(?=\s|\.|$)|[,:()\[\]\u2026]|\s[-/]\s")
_CLAUSE_BREAKS = ",:()[]\u2026-/ \t"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a plain text, each with its place, sentence and clause."""

    forms: list[str]
    starts: list[int]
    ends: list[int]
    sentences: list[int]
    clauses: list[int]

    def __len__(self) -> int:
        return len(self.forms)


def words_of(plain: str, *, joins: bool = True, clause_words: frozenset[str] = frozenset()) -> Words:
    """The words of a plain text (`reading.read`); linear.

    `joins`: "can't" is the one word "cant" (English); else "l'enfant" is two words (French).
    A word of `clause_words` ("but") begins a clause.
    """
    words = Words([], [], [], [], [])
    sentence = clause = end = 0
    for match in (_JOINED if joins else _SPLIT).finditer(plain):
        start = match.start()
        form = match.group().replace("'", "")
        if start - end > 1 or (end and plain[end] not in " -/'"):
            rank = _break_between(plain, end, start) if words.forms else 0
            if rank == 2 and plain[end] == "." and len(words.forms[-1]) == 1 and words.forms[-1].isalpha():
                rank = 0  # "y.o. with fever"
            sentence += rank == 2
            clause += rank > 0
        clause += form in clause_words
        end = match.end()
        words.forms.append(form)
        words.starts.append(start)
        words.ends.append(end)
        words.sentences.append(sentence)
        words.clauses.append(clause)
    return words


def _break_between(plain: str, start: int, end: int) -> int:
    """2 when a sentence ends between two words, 1 when a clause does, else 0."""
    rank = 0
    for match in _BREAK.finditer(plain, start, min(end, start + 40)):
        if match.group()[0] not in _CLAUSE_BREAKS:
            return 2
        rank = 1
    return 2 if end - start > 40 else rank


@dataclass(slots=True)
class _Node:
    """A state of the matcher: what may follow, and which values end here."""

    then: dict[str, _Node] = field(default_factory=dict)
    gaps: dict[int, _Node] = field(default_factory=dict)
    values: tuple[int, ...] = ()


class Found(NamedTuple):
    """A phrase found at words[start:end], with the number of its value."""

    start: int
    end: int
    value: int


class Phrases:
    """A matcher of many phrases, each with a number (its value); several phrases may share one."""

    def __init__(
        self,
        phrases: Mapping[str, Iterable[int]],
        *,
        joins: bool = True,
        number_words: Iterable[str] = (),
        not_typos: Iterable[str] = (),
        gap_stops: Iterable[str] = (),
        prefixes: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """`gap_stops`: words no `*` skips, such as "not"; `prefixes`: those of verbs, by the sign of their stems."""
        self._root = _Node()
        self._gap_stops = frozenset(gap_stops)
        self._numbers = frozenset(number_words)
        self._joins = joins
        self._literals: set[str] = set()
        self._stems: dict[str, str] = {}
        self._verbs: set[str] = set()
        self._prefixes = {sign: frozenset(starts) for sign, starts in (prefixes or {}).items()}
        self._prefix_lengths = sorted({len(start) for starts in self._prefixes.values() for start in starts})
        for phrase, values in phrases.items():
            self._add(phrase, tuple(values))
        self._verb_lengths = sorted({len(verb) - 2 for verb in self._verbs if verb.endswith("*")})
        self._stem_lengths = sorted({len(stem) for stem in self._stems})
        self._not_typos = frozenset(not_typos)
        self._deletes: dict[str, tuple[str, ...]] = {}
        for word in (*self._literals, *self._stems):
            if len(word) >= _MENDABLE and word.isalpha():
                for shorter in _deletes(word):
                    self._deletes[shorter] = (*self._deletes.get(shorter, ()), word)
        self._verb_deletes: dict[str, tuple[str, ...]] = {}
        for stem in {verb[1:-1] for verb in self._verbs if verb.endswith("*") and len(verb) > _MENDABLE_VERB + 1}:
            for shorter in _deletes(stem):
                self._verb_deletes[shorter] = (*self._verb_deletes.get(shorter, ()), stem)

    def _add(self, phrase: str, values: tuple[int, ...]) -> None:
        node = self._root
        for symbol in phrase_symbols(phrase, joins=self._joins):
            if symbol in _GAPS:
                node = node.gaps.setdefault(_GAPS[symbol], _Node())
                continue
            if symbol[0] in VERB_SIGNS:
                self._verbs.add(symbol)
            elif symbol.endswith("*"):
                self._stems[symbol[:-1]] = symbol
            elif symbol not in ("^", "#", "{year}"):
                self._literals.add(symbol)
            node = node.then.setdefault(symbol, _Node())
        if node is self._root:
            raise ValueError(f"the phrase {phrase!r} holds no word")
        node.values = (*node.values, *(value for value in values if value not in node.values))

    def symbols_of(self, words: Words, *, mend: bool = False) -> list[tuple[str, ...]]:
        """For each word, what it is to this matcher: itself, stems, a number; () for an unknown word."""
        known: dict[str, tuple[str, ...]] = {}
        mended = 0
        for form in words.forms:
            if form in known:
                continue
            symbols = self._symbols(form)
            if mend and not symbols and len(form) >= _MENDABLE - 1 and mended < MENDED_WORDS:
                mended += 1
                symbols = self._mended(form)
            known[form] = symbols
        return [known[form] for form in words.forms]

    def _symbols(self, form: str) -> tuple[str, ...]:
        stems = [self._stems[form[:n]] for n in self._stem_lengths if n <= len(form) and form[:n] in self._stems]
        number = ("#",) if form[0].isdigit() or form in self._numbers else ()
        year = ("{year}",) if len(form) == 4 and "1930" <= form <= "2039" else ()
        return (*((form,) if form in self._literals else ()), *stems, *self._verb_symbols(form), *number, *year)

    def _verb_symbols(self, form: str) -> Iterator[str]:
        """The verb stems of a word, each with its sign: "anavimba" is -vimb* (and "-vimba", if both are known)."""
        for sign, stem in self._cut(form):
            for symbol in (sign + stem, *(f"{sign}{stem[:n]}*" for n in self._verb_lengths if n <= len(stem))):
                if symbol in self._verbs:
                    yield symbol

    def _cut(self, form: str) -> Iterator[tuple[str, str]]:
        """The ways to part a word into a verb's prefix and the rest: the prefix's sign, the rest."""
        for n in self._prefix_lengths:
            for sign, starts in self._prefixes.items():
                if n < len(form) and form[:n] in starts:
                    yield sign, form[n:]

    def _mended(self, form: str) -> tuple[str, ...]:
        """The known words one slip of the finger away from an unknown one, with the same first letter."""
        if form in self._not_typos:
            return ()
        heads = {form, *(form[: n + more] for n in self._stem_lengths if n >= _MENDABLE for more in (-1, 0, 1))}
        found: dict[str, None] = {}
        for head in heads:
            for shorter in (head, *_deletes(head)):
                for word in self._deletes.get(shorter, ()):
                    whole = word in self._literals and head == form
                    if word[0] == form[0] and (whole or word in self._stems) and one_slip(head, word):
                        found[word if whole else self._stems[word]] = None
        for sign, rest in self._cut(form):
            found.update(dict.fromkeys(self._mended_verbs(sign, rest)))
        return tuple(found)

    def _mended_verbs(self, sign: str, rest: str) -> Iterator[str]:
        """The verb stems of five letters or more that one slip makes the head of the rest of a word."""
        for n in self._verb_lengths:
            for head in {rest[: n + more] for more in (-1, 0, 1)} if n >= _MENDABLE_VERB else ():
                for shorter in (head, *_deletes(head)):
                    for stem in self._verb_deletes.get(shorter, ()):
                        if f"{sign}{stem}*" in self._verbs and stem[0] == rest[0] and one_slip(head, stem):
                            yield f"{sign}{stem}*"

    def find(self, words: Words, *, mend: bool = False, most: int = 1_000_000) -> list[Found]:
        """All phrases at all places, by their start; linear in the number of words.

        `most`: so many finds of one phrase are given.
        """
        symbols = self.symbols_of(words, mend=mend)
        counts: dict[int, int] = {}
        found: list[Found] = []
        for start, known in enumerate(symbols):
            if known:
                for end, node in self._at(start, words, symbols):
                    counts[id(node)] = seen = counts.get(id(node), 0) + 1
                    if seen <= most:
                        found.extend([Found(start, end, value) for value in node.values])
        return found

    def _at(self, start: int, words: Words, symbols: list[tuple[str, ...]]) -> list[tuple[int, _Node]]:
        """Ends and last states of the phrases that begin at a word."""
        clauses, n_words = words.clauses, len(symbols)
        clause = clauses[start]
        begins = start == 0 or clauses[start - 1] != clause
        states = [(self._root, start)]
        if begins and "^" in self._root.then:
            states.append((self._root.then["^"], start))
        ends: dict[tuple[int, int], _Node] = {}
        while states:
            node, place = states.pop()
            if node.values:
                ends[place, id(node)] = node
            if place >= n_words or clauses[place] != clause:
                continue
            for symbol in symbols[place]:
                if (after := node.then.get(symbol)) is not None:
                    states.append((after, place + 1))
            for most, after in node.gaps.items():
                states.append((after, place))
                for skipped in range(place, min(place + most, n_words - 1)):
                    if words.forms[skipped] in self._gap_stops:
                        break
                    states.append((after, skipped + 1))
        return [(place, node) for (place, _), node in ends.items()]

    def longest(self, words: Words) -> list[Found]:
        """The leftmost longest phrases, none over another; all values of each."""
        kept: list[Found] = []
        free = 0
        symbols = self.symbols_of(words)
        for start, known in enumerate(symbols):
            if start < free or not known:
                continue
            found = self._at(start, words, symbols)
            if found:
                free = max(end for end, _ in found)
                longest = sorted({value for end, node in found if end == free for value in node.values})
                kept.extend(Found(start, free, value) for value in longest)
        return kept


def phrase_symbols(phrase: str, *, joins: bool = True) -> list[str]:
    """The symbols of a phrase of a language file: words as a text's words are cut, stems, `*`, `#`, `{year}`, `^`."""
    symbols: list[str] = []
    pattern = _JOINED if joins else _SPLIT
    for piece in phrase.split():
        if piece.startswith("^"):
            symbols.append("^")
            piece = piece[1:]
        if piece in ("*", "?", "#", "{year}", DRUG):
            symbols.append(piece)
            continue
        sign = piece[0] if piece[0] in VERB_SIGNS and len(piece) > 1 else ""
        stem = piece.endswith("*")
        forms = [match.group().replace("'", "") for match in pattern.finditer(piece)]
        if stem and forms:
            forms[-1] += "*"
        if sign and forms:
            forms[0] = sign + forms[0]
        symbols.extend(forms)
    return symbols


def _deletes(word: str) -> Iterator[str]:
    return (word[:place] + word[place + 1 :] for place in range(len(word)))


def one_slip(one: str, other: str) -> bool:
    """Whether one letter too many, too few, wrong, or two letters exchanged make one word the other."""
    if abs(len(one) - len(other)) > 1:
        return False
    if len(one) > len(other):
        one, other = other, one
    same = 0
    while same < len(one) and one[same] == other[same]:
        same += 1
    if len(one) < len(other):
        return one[same:] == other[same + 1 :]
    rest_one, rest_other = one[same:], other[same:]
    return rest_one[1:] == rest_other[1:] or (
        len(rest_one) > 1 and rest_one[:2] == rest_other[1::-1] and rest_one[2:] == rest_other[2:]
    )
