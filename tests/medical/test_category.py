import json
import random
from functools import partial
from importlib import resources
from pathlib import Path

import pytest
from cpu_time import fastest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.medical.category import (
    PRIORITY,
    READ_HEAD,
    category_by_count,
    category_of,
    category_scores,
    classify,
    weights_of,
)
from edgemed.medical.language import Category, language_data
from edgemed.medical.matching.category_features import category_features
from edgemed.medical.matching.category_keywords import read_question
from edgemed.medical.mentions import TermKind
from edgemed.medical.reading import read
from edgemed.medical.terms.lexicon import find_terms

WORDS = sorted({word for words in language_data().keywords.values() for word in words if " " not in word})


@pytest.mark.parametrize(
    ("question", "category"),
    [
        ("What is the dose of amoxicillin for a child?", Category.MEDICATION),
        ("The child is convulsing and unconscious", Category.EMERGENCY),
        ("Which symptoms suggest meningitis, and which test confirms it?", Category.DIAGNOSIS),
        ("How do I treat a wound and manage the dressing?", Category.TREATMENT),
        ("When is the measles vaccine booster due in the schedule?", Category.PREVENTION),
        ("Who are you?", Category.GENERAL),
        ("", Category.GENERAL),
    ],
)
def test_questions_fall_into_their_class(question: str, category: Category) -> None:
    assert category_of(question) is category
    assert category_by_count(question) is category


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.randoms(use_true_random=False))
def test_order_of_single_words_does_not_matter(words: list[str], rng: random.Random) -> None:
    shuffled = words.copy()
    rng.shuffle(shuffled)
    assert category_scores(" . ".join(words)) == category_scores(" . ".join(shuffled))


@given(st.text(max_size=200), st.sampled_from(PRIORITY))
def test_adding_a_keyword_of_a_class_never_lowers_its_score(text: str, category: Category) -> None:
    assert_word_adds(text, language_data().keywords[category][0], category)


@given(st.lists(st.sampled_from([*WORDS, "the", "and", "leg"]), max_size=8))
def test_score_of_single_words_equals_a_count_by_hand(words: list[str]) -> None:
    keywords, asked = language_data().keywords, language_data().asked
    by_hand = {c: sum(word in keywords[c] or word in asked.of(c) for word in words) for c in PRIORITY}
    assert category_scores(" . ".join(words)) == by_hand


def test_a_tie_of_counts_goes_to_the_more_urgent_class() -> None:
    assert category_by_count("syrup, seizure") is Category.EMERGENCY
    assert category_by_count("which dose, which symptoms?") is Category.MEDICATION


def test_words_inside_other_words_do_not_count() -> None:
    assert category_by_count("burnt sienna, attestation, giveaway") is Category.GENERAL


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    assert isinstance(category_of(text), Category)


def test_a_denied_keyword_does_not_count() -> None:
    assert category_of("no convulsions, which tablets?") is Category.MEDICATION


def test_words_that_ask_go_before_words_that_name() -> None:
    assert category_by_count("Had a biopsy, a scan, a blood culture. Are there home remedies?") is Category.TREATMENT
    assert category_by_count("seizures, stroke: what are the causes?") is Category.DIAGNOSIS


def test_a_sentence_that_asks_goes_before_one_that_tells() -> None:
    assert (
        category_by_count("The cause was a fall, the diagnosis a fracture. What is the treatment?")
        is Category.TREATMENT
    )
    assert (
        category_by_count("The treatment was long and the surgery hard. I want to know the symptoms.")
        is Category.DIAGNOSIS
    )


def test_a_longer_phrase_takes_the_sense_of_the_word_in_it() -> None:
    assert category_by_count("How do I treat a rash caused by nettles?") is Category.TREATMENT
    assert category_by_count("Who can find a doctor to treat it?") is Category.GENERAL


@pytest.mark.parametrize(
    ("question", "category"),
    [
        ("Can amoxicillin cause a rash?", Category.MEDICATION),
        ("What can cause a rash?", Category.DIAGNOSIS),
        ("Which antibiotic should be used for pneumonia?", Category.TREATMENT),
        ("Should pneumonia be treated with amoxicillin?", Category.MEDICATION),
        ("Is metformin given to prevent diabetes?", Category.PREVENTION),
    ],
)
def test_a_drugs_name_is_a_word_of_phrases(question: str, category: Category) -> None:
    assert category_by_count(question) is category


@given(st.text(max_size=200), st.sampled_from(PRIORITY))
def test_adding_an_asking_keyword_never_lowers_a_score(text: str, category: Category) -> None:
    assert_word_adds(text, language_data().asked.of(category)[0], category)


def assert_word_adds(text: str, word: str, category: Category) -> None:
    """A word more is one more, or as many where it takes the place of a drug's name, which counts only without one."""
    before = category_scores(text)[category]
    drug = any(term.kind in (TermKind.DRUG, TermKind.DRUG_CLASS) for term in find_terms(read(text).plain))
    assert category_scores(f"{text} . {word}")[category] >= before + (not drug)


def test_a_word_that_takes_the_place_of_a_drugs_name_does_not_lower_the_score() -> None:
    assert_word_adds("lactase", "dose", Category.MEDICATION)


def test_a_danger_sign_is_a_flag_that_dose_words_do_not_outvote() -> None:
    found = classify("What dose, how many mg, how many tablets? The child is convulsing now")
    assert found.category is Category.MEDICATION
    assert [sign.sign for sign in found.danger] == ["convulsion"]
    assert found.prompt_category is Category.EMERGENCY


def test_reasons_are_the_words_as_written() -> None:
    assert classify("What is the DOSE in mg?").reasons == ("DOSE", "mg")
    assert classify("Qual é a DOSE? What is the dose for a ch\u0301ild?").reasons[0] == "DOSE"


@pytest.mark.parametrize(
    ("question", "category", "subclass"),
    [
        ("What is the dose of amoxicillin?", Category.MEDICATION, "dose"),
        ("Is there an interaction of aspirin with warfarin tablets?", Category.MEDICATION, "interaction"),
        ("What are the side effects of this drug?", Category.MEDICATION, "side_effect"),
        ("Which laboratory test confirms the diagnosis?", Category.DIAGNOSIS, "test"),
        ("What are the symptoms of malaria?", Category.DIAGNOSIS, "symptoms"),
        ("When is the measles vaccine due?", Category.PREVENTION, "vaccine"),
        ("Who are you?", Category.GENERAL, ""),
    ],
)
def test_subclasses(question: str, category: Category, subclass: str) -> None:
    found = classify(question)
    assert (found.category, found.subclass) == (category, subclass)


def test_a_drugs_name_alone_speaks_of_medication() -> None:
    assert category_of("Who makes cetirizine?") is Category.MEDICATION


@settings(deadline=None)  # the first text reads the other languages' danger signs
@given(st.text(max_size=300))
def test_classify_raises_on_no_text_and_its_record_can_be_sent(text: str) -> None:
    classify(text).model_dump_json()


def test_a_hundred_kilobytes_are_classified_in_a_tenth_of_a_second() -> None:
    classify("")
    for piece in ("dose ", "no dose, ", "what is the treatment of x? ", "\ud800"):
        text = (piece * 100_000)[:100_000]
        assert fastest(partial(classify, text), 0.1) < 0.1
        assert not classify(text).read_whole


@given(st.lists(st.sampled_from([*WORDS, "the", "leg", "aspirin"]), max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_sentences_does_not_change_what_counting_makes_of_them(
    words: list[str], rng: random.Random
) -> None:
    shuffled = words.copy()
    rng.shuffle(shuffled)
    assert category_by_count(" . ".join(words)) is category_by_count(" . ".join(shuffled))


@pytest.mark.parametrize("category", PRIORITY)
def test_a_keyword_that_asks_and_decides_speaks_most_for_its_own_class(category: Category) -> None:
    weights = weights_of("en")
    assert weights is not None
    features = {f"{role} keyword:{category.value}": 1.0 for role in ("asking", "deciding")}
    features[f"count:{category.value}"] = 1.0
    added = {name: sum(weights.contributions(features, name).values()) for name in weights.classes}
    assert added[category.value] == max(added.values()) > 0


def test_features_generalise_names_and_numbers_and_hold_no_data_sets_words() -> None:
    text = "SUBJECT: pills MESSAGE: Is amoxicillin 250 mg safe?"
    features = category_features(read_question(read(text), "en", None), "en", None)
    assert "asks:is {drug} #" in features.values
    assert "term:amoxicillin" in features.values
    assert not any("subject" in name or "message" in name for name in features.values)


@given(st.text(max_size=300))
def test_features_lie_in_the_text(text: str) -> None:
    reading = read(text)
    features = category_features(read_question(reading, "en", None), "en", None)
    for places in features.places.values():
        assert all(0 <= start <= end <= len(reading.plain) for start, end in places)
    assert set(features.places) <= set(features.values)


def test_an_empty_text_and_one_without_words_are_general() -> None:
    for text in ("", "   ", "?!", "\u202e"):
        assert classify(text).category is Category.GENERAL
        assert classify(text).reasons == ()


def test_a_language_without_weights_counts() -> None:
    assert weights_of("fr") is None
    question = "Quelle est la dose de paracétamol ?"
    assert category_of(question, "fr") is category_by_count(question, "fr") is Category.MEDICATION


def own_language(folder: Path) -> Path:
    shipped = resources.files("edgemed.medical") / "languages" / "en.toml"
    (folder / "en.toml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def test_a_language_file_of_the_clinics_own_does_not_take_the_shipped_weights(tmp_path: Path) -> None:
    assert weights_of("en", tmp_path) is weights_of("en")
    question = "Had a biopsy, a scan, a blood culture. Are there home remedies?"
    own = tmp_path / "own"
    own.mkdir()
    assert weights_of("en", own_language(own)) is None
    assert category_of(question, "en", own) is category_by_count(question)


def test_weights_of_the_clinics_own_lie_beside_its_language_file(tmp_path: Path) -> None:
    file = {"about": "ours", "version": 1, "classes": ["general", "treatment"], "bias": [0, 9], "weights": {}}
    (own_language(tmp_path) / "category_en.json").write_text(json.dumps(file))
    assert category_of("dose", "en", tmp_path) is Category.TREATMENT


@pytest.mark.parametrize(
    ("change", "fault"),
    [({"classes": ["general", "billing"]}, "'billing' is no category"), ({"bias": ["x", 0]}, r"bias\.0")],
)
def test_damaged_weights_are_refused_with_their_file_and_field(
    change: dict[str, object], fault: str, tmp_path: Path
) -> None:
    file = {"about": "ours", "version": 1, "classes": ["general", "treatment"], "bias": [0, 9], "weights": {}}
    (own_language(tmp_path) / "category_en.json").write_text(json.dumps(file | change))
    with pytest.raises(UsageError, match=rf"category_en\.json.*{fault}"):
        classify("dose", "en", tmp_path)


def test_where_two_classes_are_nearly_equal_counting_decides(tmp_path: Path) -> None:
    folder = own_language(tmp_path)
    for lead, category in ((0.04, Category.MEDICATION), (0.4, Category.TREATMENT)):
        place = folder / str(lead)
        place.mkdir()
        bias = [-9, 0, lead]
        classes = ["general", "medication", "treatment"]
        file = {"about": "ours", "version": 1, "classes": classes, "bias": bias, "weights": {}}
        (own_language(place) / "category_en.json").write_text(json.dumps(file))
        assert category_of("What is the dose?", "en", place) is category


def test_the_shipped_weights_name_no_rare_words() -> None:
    weights = weights_of("en")
    assert weights is not None
    assert set(weights.classes) == {category.value for category in Category}
    assert 1_000 < len(weights.weights) <= 5_000
    assert not any("\u0040" in feature or len(feature) > 120 for feature in weights.weights)


def test_a_long_question_is_read_at_its_head_and_its_tail() -> None:
    found = classify("word " * READ_HEAD + "What is the dose of amoxicillin?")
    assert found.category is Category.MEDICATION
    assert not found.read_whole
