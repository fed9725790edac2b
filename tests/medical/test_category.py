import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.medical.category import PRIORITY, category_of, category_scores, classify
from edgemed.medical.language import Category, language_data
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


def test_a_tie_goes_to_the_more_urgent_class() -> None:
    assert category_of("syrup, seizure") is Category.EMERGENCY
    assert category_of("which dose, which symptoms?") is Category.MEDICATION


def test_words_inside_other_words_do_not_count() -> None:
    assert category_of("burnt sienna, attestation, giveaway") is Category.GENERAL


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    assert isinstance(category_of(text), Category)


def test_a_denied_keyword_does_not_count() -> None:
    assert category_of("no convulsions, which tablets?") is Category.MEDICATION


def test_words_that_ask_go_before_words_that_name() -> None:
    assert category_of("Had a biopsy, a scan and a blood culture. Are there home remedies?") is Category.TREATMENT
    assert category_of("seizures, stroke: what are the causes?") is Category.DIAGNOSIS


def test_a_sentence_that_asks_goes_before_one_that_tells() -> None:
    assert category_of("The cause was a fall, the diagnosis a fracture. What is the treatment?") is Category.TREATMENT
    assert (
        category_of("The treatment was long and the surgery hard. I want to know the symptoms.") is Category.DIAGNOSIS
    )


def test_a_longer_phrase_takes_the_sense_of_the_word_in_it() -> None:
    assert category_of("How do I treat a rash caused by nettles?") is Category.TREATMENT
    assert category_of("Who can find a doctor to treat it?") is Category.GENERAL


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
    assert category_of(question) is category


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


@given(st.text(max_size=300))
def test_classify_raises_on_no_text_and_its_record_can_be_sent(text: str) -> None:
    classify(text).model_dump_json()


def test_a_hundred_kilobytes_are_classified_in_a_tenth_of_a_second() -> None:
    classify("")
    for piece in ("dose ", "no dose, ", "what is the treatment of x? ", "\ud800"):
        text = (piece * 100_000)[:100_000]
        spent = []
        for _ in range(3):
            start = time.process_time()
            classify(text)
            spent.append(time.process_time() - start)
        assert min(spent) < 0.1
        assert not classify(text).read_whole
