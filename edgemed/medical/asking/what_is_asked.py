"""What a question asks for, from its items: intents, which dose, leave or duty; and what else it holds.

"How should I dose X", "how much X do I give" and "X dosing" ask the same; the words that say no more once that is
known ("give", "recommended") are taken out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemed.medical.asking.question_items import Item
from edgemed.medical.asking.question_words import Intent, QuestionWords, Role, question_words
from edgemed.medical.mentions import TermKind

_DRUG = frozenset([TermKind.DRUG, TermKind.DRUG_CLASS])
_WH = frozenset(["how", "when", "why", "where", "who", "whom", "whose"])

_RELATED = frozenset(
    "after before during without while since until following failed fails failing failure completed completing "  # noqa: SIM905
    "finished previous prior repeat despite".split()
)
"""With one of these beside a dose, "treatment" says which point of time or whom is meant."""
_SPOKEN = frozenset([Role.MAY, Role.SHOULD, Role.GIVE, Role.USUAL_END])


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, and the items that this does not explain."""

    intents: tuple[str, ...]
    which_dose: tuple[str, ...]
    asks: tuple[str, ...]
    modality: tuple[str, ...]
    rest: tuple[Item, ...]
    """The items that remain; what breaks a run of words (an intent) stays as an item of role INTENT."""
    everything: tuple[Item, ...]
    """All items in their order, for questions whose order counts."""
    open_language: bool
    """True for a language without lists: nothing was taken out."""


def what_is_asked(items: Sequence[Item], language: str = "en") -> Asked:
    """What the items of a question ask for."""
    words = question_words(language)
    if words is None:
        return Asked((), (), (), (), tuple(items), tuple(items), open_language=True)
    work = _Work(list(items), words)
    work.find_questions()
    work.take_which_dose()
    work.take_absorbed()
    work.take_modality()
    return Asked(
        intents=tuple(work.intents()),
        which_dose=tuple(work.which_dose),
        asks=tuple(work.asks),
        modality=tuple(work.modality),
        rest=tuple(work.items),
        everything=tuple(items),
        open_language=False,
    )


class _Work:
    """The items while what is explained is taken out of them."""

    def __init__(self, items: list[Item], words: QuestionWords) -> None:
        self.items = items
        self.words = words
        self.which_dose: list[str] = []
        self.asks: list[str] = []
        self.modality: list[str] = []

    def intents(self) -> list[str]:
        """The intents in their order, a dose once; those that another says too are left out."""
        named = [item.name for item in self.items if item.role == Role.INTENT]
        said = {other for name in named for other in self._intent(name).absorbs_intents}
        kept = [
            name
            for place, name in enumerate(named)
            if name not in said and (name != "dose" or name not in named[:place])
        ]
        return [name if "dose" in kept else self._means(name) for name in kept]

    def _means(self, name: str) -> str:
        """The intent that an intent comes to; "dangerous" of a medicine in something is a question of leave."""
        intent = self._intent(name)
        drugs = sum(1 for item in self.items if _DRUG.intersection(item.kinds))
        others = sum(1 for item in self.items if item.kinds and not _DRUG.intersection(item.kinds))
        return (
            intent.same_of_drug_in_something
            if intent.same_of_drug_in_something and drugs and others
            else (intent.same_as or name)
        )

    def _intent(self, name: str) -> Intent:
        return self.words.intents[name]

    def find_questions(self) -> None:
        """Question words at the head of a clause ask; inside one they lead on ("a woman who", "when there is")."""
        kept: list[Item] = []
        for place, item in enumerate(self.items):
            if item.role not in ("word", Role.CONNECTOR) or item.name not in (*_WH, "which", "what"):
                kept.append(item)
            elif item.name in ("which", "what"):
                following = self.items[place + 1] if place + 1 < len(self.items) else None
                if (
                    following is not None
                    and following.role in ("term", "word", "number")
                    and following.name not in self.words.usual
                ):
                    self.asks.append("which")
            elif item.stops == "." or item.name in ("how", "why", "where"):
                self.asks.append(item.name)
            else:
                kept.append(item)
        self.items = kept

    def take_which_dose(self) -> None:
        """Takes "starting", "usual" and the like from before a dose."""
        drop: set[int] = set()
        doses = 0
        related = any(item.name in _RELATED for item in self.items)  # "dose after X and second dose after Y"
        for place, item in enumerate(self.items):
            if item.role != Role.INTENT or item.name != "dose":
                continue
            doses += 1
            before = place - 1
            while before >= 0 and self.items[before].role in ("word", "term"):
                name = self.items[before].name
                if name in self.words.which_dose:
                    self.which_dose.append(f"{name} of dose {doses}" if related else name)
                elif name not in self.words.usual or self._has_site():
                    break
                drop.add(before)
                before -= 1
        self.items = [item for place, item in enumerate(self.items) if place not in drop]

    def _has_site(self) -> bool:
        return any(TermKind.BODY_SITE in item.kinds for item in self.items)

    def take_absorbed(self) -> None:
        """Takes out what the intents already say."""
        self._tell_relations_and_givers()
        named = self.intents()
        absorbed = self._absorbed()
        asks_dose = "dose" in named
        one_drug = sum(1 for item in self.items if _DRUG.intersection(item.kinds)) < 2
        takes_give = one_drug and any(self._intent(name).takes_give for name in named)
        self.asks = [word for word in self.asks if word not in absorbed]
        said = {other for name in named for other in self._intent(name).absorbs_intents}
        described = {other for name in named for other in self._intent(name).as_words}
        kept = []
        for item in self.items:
            if item.role == Role.INTENT and item.name in described:
                item = _as_word(item)
            if item.role == "word" and item.name in absorbed:
                continue
            if asks_dose and item.name == "sick" and self._stands_before_person(item):
                continue
            if takes_give and item.role in (Role.GIVE, Role.SHOULD):
                continue
            if item.role == Role.USUAL_END and asks_dose and not self._has_site():
                continue
            if item.role == Role.INTENT and item.name in said:
                continue
            kept.append(item)
        self.items = kept

    def _stands_before_person(self, item: Item) -> bool:
        """ "a sick child": whose dose is asked for is ill."""
        following = next((other for other in self.items if other.start >= item.end), None)
        return following is not None and TermKind.AGE_BAND in following.kinds

    def _tell_relations_and_givers(self) -> None:
        """ "after malaria treatment" is not "after malaria", and a nurse who gives does not take."""
        asks_dose = any(item.role == Role.INTENT and item.name == "dose" for item in self.items)
        related = False
        told: list[Item] = []
        for item in self.items:
            before = told[-1] if told else None
            related = related or item.name in _RELATED
            if asks_dose and related and item.role == Role.INTENT and item.name in ("treatment", "treated"):
                item = _as_word(item)
            elif item.gives and not item.stops and ("who" in self.asks or (before is not None and _may_act(before))):
                item = Item("word", "gives", item.start, item.end)
            told.append(item)
        self.items = told

    def _absorbed(self) -> set[str]:
        """The words that the intents say already; "how does X treat Y" asks more than "treatment of Y"."""
        has_drug = any(TermKind.DRUG in item.kinds for item in self.items)
        intents = [self._intent(item.name) for item in self.items if item.role == Role.INTENT]
        return {word for intent in intents if not (has_drug and intent.sided) for word in intent.absorbs}

    def take_modality(self) -> None:
        """ "can ... give" and "is it safe" ask for leave; what is left of can and must is the modality."""
        roles = {item.role for item in self.items}
        named = self.intents()
        takes = {Role.MAY, Role.SHOULD}
        if "may_give" in named and len(named) == 1:
            takes = {Role.MAY, Role.GIVE}
        elif Role.MAY in roles and Role.GIVE in roles and not named and not self.asks:
            place = next(place for place, item in enumerate(self.items) if item.role == Role.MAY)
            self.items[place] = Item(Role.INTENT, "may_give", self.items[place].start, self.items[place].end)
            takes = {Role.MAY, Role.GIVE}
        elif "avoid" in named:
            takes = {Role.SHOULD}
        else:
            self.modality = [item.name for item in self.items if item.role in takes]
        kept = [item for item in self.items if item.role not in takes]
        self.items = [_as_word(item) if item.role in _SPOKEN else item for item in kept]


def _may_act(item: Item) -> bool:
    """A person, or a word that no list knows: who stands before "give" may be the one who gives."""
    person = {TermKind.AGE_BAND, TermKind.SEX, TermKind.PREGNANCY, TermKind.LACTATION}
    return item.role == "word" or item.name == "who" or bool(person.intersection(item.kinds))


def _as_word(item: Item) -> Item:
    return Item("word", item.name, item.start, item.end, stops=item.stops)
