"""What must be equal for two questions to deserve one answer: the clinical key of the method's equation (8).

Every word of a question is a filler of a closed list, or it goes into the key: as a field (drug, condition, number,
what is asked ...) or, read by no list, as residue. The parts of a simple question (one run of words on the drug, one on
the problem, one on the person) may change places, for people ask "dose of X for Y in Z" and "Z with Y: how much X";
inside a part the order counts. In any other question the order of everything counts: "A after B" is not "B after A".
Similar is not enough: equal keys are needed for a cached answer, and a missed chance costs seconds only.
"""

from __future__ import annotations

from edgemed.core.records import Record
from edgemed.medical.asking.question_items import Item, items_of
from edgemed.medical.asking.question_order import order_of
from edgemed.medical.asking.question_words import Role
from edgemed.medical.asking.what_is_asked import Asked, what_is_asked
from edgemed.medical.mentions import QuantityKind, TermKind
from edgemed.medical.terms.lexicon import Lexicon

MAX_QUESTION = 2000
"""Characters; longer texts are cases of their own and are not answered from a cache."""


class ClinicalKey(Record):
    """The fields of a question; questions with equal keys may share an answer when the keys are `cacheable`."""

    language: str
    intents: tuple[str, ...] = ()
    """What is asked for: "dose", "side_effect"; () for a subject alone ("tell me about ...")."""
    which_dose: tuple[str, ...] = ()
    """"starting", "loading", "missed" ..."""
    asks: tuple[str, ...] = ()
    """"when", "why", "which" and the like, where no intent says it."""
    modality: tuple[str, ...] = ()
    """"may" (can I) or "should" (must I), where no intent says it."""
    drugs: tuple[str, ...] = ()
    drug_classes: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    procedures: tuple[str, ...] = ()
    body_sites: tuple[str, ...] = ()
    organisms: tuple[str, ...] = ()
    doses: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()
    durations: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    ages: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    age_bands: tuple[str, ...] = ()
    sex: tuple[str, ...] = ()
    pregnancy: tuple[str, ...] = ()
    lactation: tuple[str, ...] = ()
    renal: tuple[str, ...] = ()
    hepatic: tuple[str, ...] = ()
    allergy: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    laterality: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()
    """Words of negation, each with what follows it."""
    standing: tuple[str, ...] = ()
    """Words that say past, of the family, or possible, each with what follows it."""
    residue: tuple[str, ...] = ()
    """Words that no field took, sorted; actions, relations and severity stand here by their own words."""
    order: tuple[str, ...] = ()
    """The parts, sorted, each in its own order; of a question that is not simple one part with everything."""
    not_cacheable: str = ""
    """Why no answer to this question may be kept or reused; "" when it may."""

    @property
    def cacheable(self) -> bool:
        """True when equal keys may share an answer."""
        return not self.not_cacheable


def clinical_key(question: str, language: str = "en", lexicon: Lexicon | None = None) -> ClinicalKey:
    """The key of a question; never raises on text. What holds unread numbers, is too long or empty is not cacheable."""
    if len(question) > MAX_QUESTION:
        return ClinicalKey(language=language, not_cacheable=f"longer than {MAX_QUESTION} characters")
    items, entities = items_of(question, language, lexicon)
    asked = what_is_asked(items, language)
    fields: dict[str, list[str]] = {}
    several = len({item.name for item in asked.rest if TermKind.DRUG in item.kinds}) > 1
    for item in asked.rest:
        for name, value in _fields_of(item, owned=several):
            fields.setdefault(name, []).append(value)
    if fields.get("pregnancy") and fields.get("sex") == ["female"]:
        del fields["sex"]
        if fields.get("age_bands") == ["adult"]:  # "a woman who is pregnant" and "a pregnant woman"
            del fields["age_bands"]
    return ClinicalKey(
        language=language,
        intents=asked.intents,
        which_dose=asked.which_dose,
        asks=asked.asks,
        modality=asked.modality,
        negations=_negations(asked),
        standing=_standing(asked),
        residue=tuple(sorted(item.name for item in asked.rest if item.role == "word")),
        order=order_of(asked),
        not_cacheable=_obstacle(asked, [rest.reason for rest in entities.unparsed]),
        **{name: tuple(values if name in _ORDERED else sorted(values)) for name, values in fields.items()},
    )


def compare(one: ClinicalKey, other: ClinicalKey) -> tuple[str, ...]:
    """The names of the fields in which two keys differ, the telling ones first; () when they are equal. Symmetric."""
    names = [name for name in ClinicalKey.model_fields if name not in ("order", "residue")]
    return tuple(name for name in (*names, "residue", "order") if getattr(one, name) != getattr(other, name))


_ORDERED = frozenset(["drugs", "doses", "frequencies", "durations", "measures", "times", "counts", "ages", "weights"])
"""Fields in the order of the text; the others are sorted, for `order` has theirs where it counts."""
_STANDING = frozenset(
    "history past previous previously former formerly prior ago had was family familial mother father parent sibling "  # noqa: SIM905
    "possible possibly probable suspected presumed maybe perhaps query confirmed".split()
)
_FIELD_OF_TERM = {
    TermKind.DRUG: "drugs",
    TermKind.DRUG_CLASS: "drug_classes",
    TermKind.CONDITION: "conditions",
    TermKind.FINDING: "findings",
    TermKind.TEST: "tests",
    TermKind.PROCEDURE: "procedures",
    TermKind.BODY_SITE: "body_sites",
    TermKind.ORGANISM: "organisms",
    TermKind.AGE_BAND: "age_bands",
    TermKind.SEX: "sex",
    TermKind.PREGNANCY: "pregnancy",
    TermKind.LACTATION: "lactation",
    TermKind.RENAL: "renal",
    TermKind.HEPATIC: "hepatic",
    TermKind.ALLERGY: "allergy",
    TermKind.ROUTE: "routes",
    TermKind.LATERALITY: "laterality",
}
_FIELD_OF_QUANTITY = {
    QuantityKind.DOSE: "doses",
    QuantityKind.FREQUENCY: "frequencies",
    QuantityKind.DURATION: "durations",
    QuantityKind.AGE: "ages",
    QuantityKind.WEIGHT: "weights",
    QuantityKind.MEASURE: "measures",
    QuantityKind.TIME: "times",
    QuantityKind.COUNT: "counts",
}


def _fields_of(item: Item, *, owned: bool) -> list[tuple[str, str]]:
    """The fields that an item goes into, with its value there; numbers with the drug they belong to when `owned`."""
    if item.quantity is not None:
        belongs = item.quantity.of and (owned or item.quantity.kind is QuantityKind.MEASURE)
        owner = f" of {item.quantity.of}" if belongs else ""
        return [(_FIELD_OF_QUANTITY[item.quantity.kind], item.name + owner)]
    if item.role != "term":
        return []
    names = {_FIELD_OF_TERM[kind]: item.values[kind] for kind in item.kinds}
    return list(names.items())


def _negations(asked: Asked) -> tuple[str, ...]:
    """Each word of negation with the next thing named. How far it reaches follows from the order, which is compared."""
    places = [place for place, item in enumerate(asked.rest) if item.role == Role.NEGATION]
    return tuple(sorted(_with_next(asked, place) for place in places))


def _standing(asked: Asked) -> tuple[str, ...]:
    """Each word that says past, family or possible, with the next thing named."""
    places = [place for place, item in enumerate(asked.rest) if item.name in _STANDING]
    return tuple(sorted(_with_next(asked, place) for place in places))


def _with_next(asked: Asked, place: int) -> str:
    following = next((other.name for other in asked.rest[place + 1 :] if other.role in ("term", "word")), "")
    return f"{asked.rest[place].name} {following}".strip()


def _obstacle(asked: Asked, unread: list[str]) -> str:
    if unread:
        return f"not read: {unread[0]}"
    if not any(item.role in ("term", "word", "number") for item in asked.rest):
        return "the question names nothing"
    return ""
