"""The parts of a question and their inner order, for the clinical key.

A run of words on the medicine, on the problem or on the person is a part. Words that lead from one part to the next
("for", "in") fall away at its border and stay inside it. With one part of each sort the parts are a set; with two of
a sort, or with words that put things in order, the question counts word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from edgemed.medical.asking.question_items import Item
from edgemed.medical.asking.question_words import Role, question_words
from edgemed.medical.asking.what_is_asked import Asked
from edgemed.medical.mentions import QuantityKind, TermKind

_DRUG = frozenset([TermKind.DRUG, TermKind.DRUG_CLASS])
_PERSON = frozenset([TermKind.AGE_BAND, TermKind.SEX, TermKind.PREGNANCY, TermKind.LACTATION])
_FLOATING = frozenset([QuantityKind.AGE, QuantityKind.WEIGHT])
_GIVEN = frozenset([QuantityKind.DOSE, QuantityKind.FREQUENCY])
"""What a drug is given in; after a problem it may be the problem's: "vomits three times a day"."""
_UNSAID = frozenset(["on", "about"])
"""Inside a part these are no more than a comma: "burn, on cooling"."""
_NEUTRAL = frozenset(["for", "in", "with", "if", "when", "and", "who", "of", "about", "because of", "against"])
"""Between a drug and a problem, these say only that it is given for it or in it."""


def order_of(asked: Asked) -> tuple[str, ...]:
    """The parts of a question, sorted; or one part with every item in order where the order counts."""
    if asked.open_language:
        return (" ".join(item.name for item in asked.everything),)
    parts, joints = _parts(asked.rest, alone=sum(map(_is_person, asked.rest)) < 2)
    sorts = [sort for sort, _ in parts]
    simple = (
        len(sorts) == len(set(sorts))
        and len(asked.intents) < 2
        and ("dose" in asked.intents or not _names_allergen(asked.rest))
    )
    if not simple and asked.intents == ("dose",) and sum(map(_is_drug, asked.rest)) < 2:
        return _dose_order(asked.rest)
    if not simple:
        return ("in this order: " + " / ".join(item.name for item in asked.everything),)
    loose = [] if "dose" in asked.intents else [*joints, *_sides(asked, sorts)]
    return tuple(sorted([f"{sort}: {' / '.join(names)}" for sort, names in parts] + loose))


def _dose_order(items: Sequence[Item]) -> tuple[str, ...]:
    """For the dose of one drug: it may stand anywhere, everything else in one order, with the words that lead on."""
    drug = [item.name for item in items if _is_drug(item)]
    rest: list[Item] = []
    for item in items:
        if item.role == Role.INTENT or _is_drug(item):
            while rest and rest[-1].role == Role.CONNECTOR and rest[-1].name not in ("on", "or"):
                rest.pop()
        elif rest or item.role != Role.CONNECTOR or item.name == "on":
            rest.append(item)
    leading = [item.name for item in rest if _sort_of(item) not in ("", "-")]
    return (f"drug: {' / '.join(drug)}", f"in this order: {' / '.join(leading)}")


def _sides(asked: Asked, sorts: Sequence[str]) -> list[str]:
    """What stands before an intent whose side matters, and an intent that is glued to what follows: "safe abortion"."""
    sides: list[str] = []
    words = question_words()
    before: list[str] = []
    for item, following in zip_longest(asked.rest, asked.rest[1:]):
        if item.role != Role.INTENT:
            before.append(_sort_of(item))
            continue
        sided = words.intents[item.name].sided if words else ""
        if sided == "always" or (sided and "drug" in sorts):
            sides.append(
                f"{item.name} after {' '.join(sort for sort in ('drug', 'person', 'problem') if sort in before)}"
            )
        elif not sided and following and not following.stops and _sort_of(following) == "problem":
            sides.append(f"{item.name} beside")
    return sides


def _names_allergen(items: Sequence[Item]) -> bool:
    return any(TermKind.ALLERGY in item.kinds for item in items) and any(map(_is_drug, items))


def _is_person(item: Item) -> bool:
    return bool({TermKind.AGE_BAND, TermKind.SEX}.intersection(item.kinds))


def _is_drug(item: Item) -> bool:
    return bool(_DRUG.intersection(item.kinds))


def _sort_of(item: Item) -> str:
    """Which part an item belongs to: "drug", "person" or "problem"; "" for what floats, "-" for what breaks a run.

    "beside" goes with the part before it, "given" with a problem before it, "next" with what follows.
    """
    if item.role == Role.INTENT:
        return "-"
    if item.quantity is not None:
        return "" if item.quantity.kind in _FLOATING else "given" if item.quantity.kind in _GIVEN else "beside"
    if item.role == Role.CONNECTOR or item.role == Role.NEGATION:
        return "next"
    if _is_drug(item):
        return "drug"
    if item.kinds and set(item.kinds) <= {TermKind.ROUTE}:
        return "route"
    return "person" if _PERSON.intersection(item.kinds) else "problem"


def _takes(item: Item, sort: str) -> bool:
    """ "on warfarin": somebody takes it already."""
    return sort == "drug" and item.name == "on"


def _leads(item: Item) -> str:
    return "with" if item.name == "who" else item.name


class _Runs:
    """The runs found so far, and the words that wait for what they lead to."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, list[str]]] = []
        self.joints: list[str] = []
        self.waiting: list[Item] = []
        self.open = False
        """True while the last part may go on."""

    def add(self, sort: str, item: Item) -> None:
        """An item of a part: it goes on with the last run of its sort, or begins one."""
        if self.goes_on(sort):
            self.parts[-1][1].extend(_leads(waiting) for waiting in self.waiting if waiting.name not in _UNSAID)
        else:
            self._join(sort, item)
            before = self.parts[-1][0] if self.open and self.parts else ""
            kept = [
                waiting.name
                for waiting in self.waiting
                if waiting.role != Role.CONNECTOR
                or waiting.name == "or"
                or _takes(waiting, sort)
                or (waiting.name == "to" and item.quantity is not None)
                or (waiting.name == "of" and (before, sort) == ("person", "problem") and item.quantity is None)
            ]
            self.parts.append((sort, kept))
        self.parts[-1][1].append(item.name)
        self.waiting.clear()
        self.open = True

    def leads_to_number(self) -> bool:
        """True when what waits says something of a number: "not 250 mg", "to 5 mg"."""
        return any(waiting.role == Role.NEGATION or waiting.name == "to" for waiting in self.waiting)

    def goes_on(self, sort: str) -> bool:
        """True when the last part is of this sort and may go on."""
        return self.open and bool(self.parts) and self.parts[-1][0] == sort

    def _join(self, sort: str, item: Item) -> None:
        """Notes what stands between a drug and a problem when it is more than a comma or "for"."""
        if not self.open or not self.parts or item.stops:
            return
        before = self.parts[-1][0]
        if {before, sort} != {"drug", "problem"}:
            return
        between = [waiting.name for waiting in self.waiting]
        if not between or any(name not in _NEUTRAL for name in between):
            self.joints.append(f"{before} {' '.join(between) or 'beside'} {sort}")

    def end(self) -> None:
        """Nothing leads on: what still waits and says something of its own closes the last part."""
        kept = [waiting.name for waiting in self.waiting if waiting.role != Role.CONNECTOR or waiting.name == "or"]
        if kept:
            if not self.parts:
                self.parts.append(("problem", []))
            self.parts[-1][1].extend(kept)
        self.waiting.clear()
        self.open = False


def _parts(items: Sequence[Item], *, alone: bool) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The parts and joints; `alone`: one person at most is named, so that every age and weight is that person's."""
    runs = _Runs()
    for item, following in zip_longest(items, items[1:]):
        sort = _sort_of(item)
        glued = following is not None and not following.stops and not following.quantity
        after = _sort_of(following) if glued and following else ""
        if item.quantity is not None and sort in ("", "given") and (runs.leads_to_number() or not (alone or sort)):
            sort = "beside"
        if sort == "route":  # of the drug, unless it stands before a problem: "rectal pain"
            sort = "problem" if after == "problem" else ""
        elif sort == "given":
            sort = "beside" if runs.goes_on("problem") and after != "drug" else ""
        if sort == "-":
            runs.end()
        elif sort == "next":
            runs.waiting.append(item)
        elif sort == "beside":
            runs.add(runs.parts[-1][0] if runs.open and runs.parts else "problem", item)
        elif sort:
            runs.add(sort, item)
    runs.end()
    return [(sort, _sorted_person(names) if sort == "person" else names) for sort, names in runs.parts], runs.joints


def _sorted_person(names: list[str]) -> list[str]:
    """ "pregnant woman" and "a woman who is pregnant": a person's plain attributes may change places."""
    woman = {"adult", "female", "pregnant", "adult = female", "adult = female = pregnant"}
    if not set(names) <= woman | {"with"} and not set(names) <= {"infant", "newborn", "with"}:
        return names  # a pregnant woman with a newborn is not a newborn with a pregnant woman
    words = {word for name in names for word in name.split(" = ")} - {"with"}
    return sorted(words - {"adult", "female"} if "pregnant" in words else words)
