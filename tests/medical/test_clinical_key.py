"""The clinical key: what must differ differs, what asks the same is equal, and no text breaks it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cpu_time import fastest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.medical.asking.question_words import Role, question_words
from edgemed.medical.asking.same_meaning import same_meaning
from edgemed.medical.clinical_key import MAX_QUESTION, ClinicalKey, clinical_key, compare
from edgemed.medical.mentions import TermKind
from edgemed.medical.terms.lexicon import shipped_lexicon

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "medical"))
from minimal_pairs import equal_pairs, minimal_pairs, name_twins, second_pairs

SILENT = (Role.FILLER, Role.CONNECTOR, Role.GIVE, Role.USUAL_END)
WORD_KINDS = (TermKind.ACTION, TermKind.RELATION)

OTHER = [
    # who does what to whom
    ("What causes fever?", "What does fever cause?", "order"),
    ("Does asthma cause cough?", "Does cough cause asthma?", "order"),
    ("Can I give warfarin to a patient on aspirin?", "Patient on warfarin: can I give aspirin?", "order"),
    (
        "Can I give amoxicillin to a patient allergic to penicillin?",
        "Patient allergic to amoxicillin: can I give penicillin?",
        "order",
    ),
    ("How do I treat asthma in a child with pneumonia?", "Child with asthma: how do I treat pneumonia?", "order"),
    ("Switch from enalapril to losartan?", "Switch from losartan to enalapril?", "order"),
    (
        "Dose of amoxicillin for a child vomiting 3 times a day?",
        "Dose of amoxicillin 3 times a day for a child vomiting?",
        "",
    ),
    ("How do I stop bleeding with tranexamic acid?", "How do I stop tranexamic acid in bleeding?", "order"),
    ("Is ibuprofen safe in rectal pain?", "Is rectal ibuprofen safe in pain?", "order"),
    ("Fever on warfarin: what to do?", "Fever, warfarin: what to do?", "order"),
    ("ibuprofen rash treatment", "treatment of rash with ibuprofen", "order"),
    ("Side effects of treatment with isoniazid", "Treatment of side effects of isoniazid", "intents"),
    ("How does aspirin treat pain?", "Does aspirin treat pain?", "asks"),
    ("Is malaria treated with quinine?", "How is malaria treated with quinine?", "asks"),
    # a small word
    ("Is ibuprofen safe in asthma?", "Is ibuprofen dangerous in asthma?", "intents"),
    ("Is ibuprofen safe in asthma?", "Is ibuprofen not safe in asthma?", "negations"),
    ("Should I give ibuprofen in asthma?", "Shouldn't I give ibuprofen in asthma?", "negations"),
    ("Which antibiotics are safe in pregnancy?", "Are antibiotics safe in pregnancy?", "asks"),
    ("How much paracetamol can I give?", "How much paracetamol should I give?", ""),
    ("Dose of zinc in diarrhoea with some dehydration", "Dose of zinc in diarrhoea with dehydration", ""),
    ("Amlodipine dose in treated hypertension", "Amlodipine dose in hypertension", "intents"),
    ("What causes weight loss?", "What causes hair loss?", ""),
    ("What is the risk of stroke?", "Who is at risk of stroke?", "intents"),
    ("Is abortion safe?", "What is safe abortion?", "order"),
    ("Who gets hepatitis a vaccine?", "Who gets hepatitis vaccine?", ""),
    ("treatment of influenza a", "treatment of influenza", ""),
    ("Treatment of stage I breast cancer", "Treatment of stage breast cancer", "residue"),
    ("Give zinc for 3 more days?", "Give zinc for 3 days?", "durations"),
    ("Is 38 F a fever?", "Is 38 C a fever?", "measures"),
    ("Zinc dose over 6 months and under 10 kg", "Zinc dose under 6 months and under 10 kg", ""),
    ("Treatment of ALL in children", "Treatment of all in children", "residue"),
    ("Ceftriaxone dose for ?meningitis", "Ceftriaxone dose for meningitis", ""),
    ("BCG for an HIV- infant?", "BCG for an HIV infant?", ""),
    ("Dose if conscious?", "Dose unless conscious?", "residue"),
    # the same generic name is not the same medicine
    ("Dose of Ambisome in cryptococcal meningitis", "Dose of Fungizone in cryptococcal meningitis", "drugs"),
    ("Dose of MS Contin for pain", "Dose of morphine for pain", "drugs"),
    ("Dose of low-dose aspirin", "Dose of aspirin", "drugs"),
    ("Dose of levoleucovorin", "Dose of leucovorin", "drugs"),
    ("Schedule of inactivated je vaccine", "Schedule of live attenuated je vaccine", ""),
    ("How much F-75 in severe malnutrition?", "How much F-100 in severe malnutrition?", ""),
    ("Dose of metoprolol succinate", "Dose of metoprolol tartrate", "drugs"),
    # dates and long numbers
    ("Seen on 1/12/2026: fever. Dose of paracetamol?", "Seen on 11/2/2026: fever. Dose of paracetamol?", ""),
    ("Patient 0712345678 has malaria. Treatment?", "Patient 712345678 has malaria. Treatment?", ""),
]

SAME = [
    ("What is the dose of quinine for malaria in a child?", "How much quinine for malaria in children?"),
    ("What is the dose of quinine for malaria in a child?", "Child with malaria: how should I dose quinine?"),
    ("What is the dose of quinine for malaria in a child?", "What amount of quinine is right for malaria in a child?"),
    (
        "amoxicillin dosing: a child, pneumonia.",
        "Can you remind me how amoxicillin is dosed in a child with pneumonia?",
    ),
    ("Dose of Coartem for malaria in adults", "Dose of artemether-lumefantrine for malaria in adults"),
    ("Dose of acyclovir in herpes zoster", "Dose of Zovirax in shingles"),
    ("Dose of adrenaline in anaphylaxis", "Dose of epinephrine in anaphylaxis"),
    ("Dose of magnesium sulphate in eclampsia", "How is MgSO4 dosed in eclampsia?"),
    ("Can I give ibuprofen in asthma?", "Is ibuprofen allowed in asthma?"),
    ("Is ibuprofen safe in asthma?", "In asthma, is it all right to prescribe ibuprofen?"),
    ("Should ibuprofen be avoided in asthma?", "Is asthma a contraindication to ibuprofen?"),
    ("What are the symptoms of malaria?", "malaria symptoms"),
    ("What is the treatment of hypertension?", "How is high blood pressure treated?"),
    ("Side effects of isoniazid?", "What are the adverse effects of isoniazid?"),
    ("Tell me about dengue.", "What is dengue?"),
    ("How often do I give paracetamol to an infant?", "Paracetamol for a baby: how often?"),
    ("Gentamicin 5 mg/kg IM once daily: safe in a newborn?", "Is gentamicin IM 5 mg per kg daily safe in a newborn?"),
]


@pytest.mark.parametrize(("one", "two", "field"), OTHER)
def test_questions_with_other_answers_have_other_keys(one: str, two: str, field: str) -> None:
    differing = compare(clinical_key(one), clinical_key(two))
    assert differing
    if field:
        assert field in differing


@pytest.mark.parametrize(("one", "two"), SAME)
def test_other_wordings_of_one_question_have_one_key(one: str, two: str) -> None:
    assert compare(clinical_key(one), clinical_key(two)) == ()
    assert clinical_key(one).cacheable


def test_no_minimal_pair_shares_a_key() -> None:
    shared = [pair for pair in minimal_pairs(seed=7)[::4] if _same(pair.one, pair.two)]
    assert shared == []


def test_twins_that_differ_only_in_a_name_never_share_a_key() -> None:
    assert [pair for pair in name_twins(seed=7) if _same(pair.one, pair.two)] == []


def test_a_number_typed_in_another_way_gives_the_same_key() -> None:
    assert [pair for pair in equal_pairs(seed=7) if not _same(pair.one, pair.two)] == []


def _same(one: str, two: str) -> bool:
    return clinical_key(one) == clinical_key(two)


def test_what_was_not_read_is_not_cacheable_and_says_why() -> None:
    key = clinical_key("Dose of amoxicillin in a child with code 12x34q7?")
    assert not key.cacheable
    assert key.not_cacheable.startswith("not read: ")


@pytest.mark.parametrize("question", ["", "   ", "?!", "How much?", "Can I?", "Is it safe?"])
def test_a_question_that_names_nothing_is_not_cacheable(question: str) -> None:
    assert clinical_key(question).not_cacheable == "the question names nothing"


def test_a_long_text_is_not_cacheable() -> None:
    assert not clinical_key("fever " * MAX_QUESTION).cacheable


def test_a_language_without_lists_compares_word_by_word() -> None:
    one = clinical_key("Quelle est la dose de paracétamol chez l'enfant ?", "fr")
    assert compare(one, clinical_key("quelle est la dose de paracétamol chez l'enfant", "fr")) == ()
    assert compare(one, clinical_key("Dose de paracétamol chez l'enfant ?", "fr"))
    assert compare(one, clinical_key("Quelle est la dose de paracétamol chez l'enfant ?", "es")) == ("language",)


def test_equal_keys_have_equal_digests_and_other_keys_other_ones() -> None:
    one, two = (clinical_key(question) for question in SAME[0])
    other = clinical_key(OTHER[0][0])
    assert one.digest() == two.digest() != other.digest()
    assert ClinicalKey.model_validate_json(one.model_dump_json()) == one


WORDS = st.sampled_from(
    "what is the dose of amoxicillin in a child with no fever 5 mg/kg twice daily left ear on warfarin not before "  # noqa: SIM905
    "after pregnant allergic to penicillin ? , how much can I give stop start max 2 years IV".split()
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=14).map(" ".join), st.lists(WORDS, max_size=14).map(" ".join))
def test_comparing_is_symmetric_and_a_key_equals_itself(one: str, two: str) -> None:
    first, second = clinical_key(one), clinical_key(two)
    assert compare(first, second) == compare(second, first)
    assert compare(first, clinical_key(one)) == ()
    assert (compare(first, second) == ()) == (first == second)


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec=None), max_size=200))  # type: ignore[arg-type]
def test_no_text_raises(text: str) -> None:
    assert compare(clinical_key(text), clinical_key(text)) == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(WORDS, min_size=1, max_size=10),
    st.sampled_from(["zorblat", "again", "not", "7 mg", "left", "morphine"]),
    st.data(),
)
def test_one_more_word_is_another_key(words: list[str], more: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(words)))
    longer = [*words[:place], more, *words[place:]]
    assert clinical_key(" ".join(words)) != clinical_key(" ".join(longer))


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "5 mg " * 20_000,
        "no " * 33_000,
        "\ud800" * 1000,
        "\u202e\u0661\u0662 mg",
        "9" * 1999,
        "not a " * 330,
        "i' " * 600,
    ],
    ids=lambda text: text[:8].encode("ascii", "backslashreplace").decode(),
)
def test_hostile_texts_take_little_time(text: str) -> None:
    clinical_key("warm up 5 mg")
    assert fastest(lambda: clinical_key(text), 0.1) < 0.1


def test_no_closed_list_word_names_something_clinical() -> None:
    words = question_words()
    assert words is not None
    silent = [form for form, phrase in words.phrases.items() if phrase and phrase.role in SILENT]
    absorbed = [word for intent in words.intents.values() for word in intent.absorbs]
    named = {
        form: entries
        for form in [*silent, *absorbed]
        if (entries := [entry for entry in shipped_lexicon().entries(form) if entry.kind not in WORD_KINDS])
    }
    assert named == {}


@pytest.mark.parametrize(
    "word",
    "not no never without before after more less left right start stop again already other only alone each "  # noqa: SIM905
    "both some all was had been he she first second last until unless except instead but from by than".split(),
)
def test_words_with_a_clinical_sense_are_never_left_out(word: str) -> None:
    words = question_words()
    assert words is not None
    phrase = words.phrases.get(word)
    assert phrase is None or phrase.role is Role.NEGATION


def test_a_damaged_list_is_refused_with_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    question_words.cache_clear()
    monkeypatch.setattr("edgemed.medical.asking.question_words._read", lambda name: {"dose": {"phrases": []}})
    with pytest.raises(UsageError, match="fillers"):
        question_words()
    monkeypatch.undo()
    question_words.cache_clear()


def test_a_local_list_of_terms_gives_its_fields() -> None:
    widened = shipped_lexicon().widened([(TermKind.CONDITION, "kwashi fever", ())])
    assert clinical_key("Dose of quinine in kwashi fever", lexicon=widened).conditions == ("kwashi fever",)


def test_the_list_of_plain_brands_names_only_brands_that_the_lexicon_has() -> None:
    lexicon = shipped_lexicon()
    unknown = [
        brand for brand in same_meaning().plain_brands if brand not in getattr(lexicon.drug(brand), "brands", ())
    ]
    assert unknown == []


def test_no_pair_of_the_second_reader_shares_a_key_that_may_be_kept() -> None:
    pairs = second_pairs()
    assert len(pairs) >= 400
    assert [pair for pair in pairs if _same(pair.one, pair.two) and clinical_key(pair.one).cacheable] == []


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("Paracetamol 1,500 mg ?", "Paracetamol 1.500 mg ?", False),
        ("Amoxicilina 5-10 mg", "Amoxicilina 5 10 mg", False),
        ("Amoxicilina 500 mg.", "amoxicilina 500 mg", True),
    ],
)
def test_a_language_without_lists_keeps_the_marks_inside_numbers(one: str, two: str, same: bool) -> None:
    assert (clinical_key(one, "es") == clinical_key(two, "es")) is same
