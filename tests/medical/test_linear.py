"""The linear classifier adds up weights as equation (1) counts words, refuses damaged files, and reads any text."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemed.core.errors import UsageError
from edgemed.medical.matching.linear import (
    LinearWeights,
    letter_grams,
    read_weights,
    shipped_weights,
    softmax,
    weights_in,
    word_grams,
)

FILE = {
    "about": "by hand",
    "version": 1,
    "classes": ["dose", "test", "rest"],
    "bias": [0.0, -0.5, 1.0],
    "weights": {"mg": [2, 0, -1], "blood": [0, 1.5, 0]},
}
FEATURES = st.dictionaries(st.sampled_from(["mg", "blood", "new"]), st.floats(0, 10))
WEIGHTS = LinearWeights.model_validate(FILE)
YES = LinearWeights(about="by hand", version=1, classes=("danger",), bias=(-1.0,), weights={"snake": (3.0,)})


def test_a_score_is_the_bias_and_the_weights_times_the_values():
    assert WEIGHTS.scores({"mg": 2.0, "blood": 1.0, "new": 5.0}) == (4.0, 1.0, -1.0)
    assert WEIGHTS.scores({}) == WEIGHTS.bias


@given(FEATURES)
def test_scores_equal_a_sum_by_hand(features):
    by_hand = [
        bias + sum(value * FILE["weights"].get(name, [0, 0, 0])[place] for name, value in features.items())
        for place, bias in enumerate(FILE["bias"])
    ]
    assert WEIGHTS.scores(features) == pytest.approx(by_hand)


@given(FEATURES, st.floats(0.1, 5))
def test_more_of_a_feature_never_lowers_the_probability_of_the_class_it_speaks_for_most(features, more):
    before = WEIGHTS.probabilities(features)["dose"]
    raised = features | {"mg": features.get("mg", 0.0) + more}
    assert WEIGHTS.probabilities(raised)["dose"] >= before - 1e-12


@given(FEATURES)
def test_the_order_of_features_does_not_matter(features):
    assert WEIGHTS.scores(dict(reversed(features.items()))) == pytest.approx(WEIGHTS.scores(features))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_shares_are_those_of_the_exponentials_and_sum_to_one(scores):
    shares = softmax(scores)
    assert math.isclose(sum(shares), 1)
    assert shares[scores.index(max(scores))] == max(shares)


@pytest.mark.parametrize("value", [0.0, 1.0, -1e9, 1e9])
def test_a_single_class_has_the_logistic_of_its_score(value):
    share = YES.probabilities({"snake": value})["danger"]
    assert 0 <= share <= 1
    if abs(value) < 2:
        assert share == pytest.approx(1 / (1 + math.exp(1 - 3 * value)))


def test_contributions_say_what_speaks_for_a_class_against_the_others():
    found = WEIGHTS.contributions({"mg": 1.0, "blood": 1.0, "new": 1.0}, "dose")
    assert found == pytest.approx({"mg": 2 - 1 / 3, "blood": -0.5})
    assert YES.contributions({"snake": 2.0}, "danger") == {"snake": 6.0}


def test_word_grams_name_runs_and_their_places():
    grams = list(word_grams(["dose", "of", "x"], longest=2, mark="asked:", first=7))
    assert [(gram.feature, gram.start, gram.end) for gram in grams] == [
        ("asked:dose", 7, 8),
        ("asked:dose of", 7, 9),
        ("asked:of", 8, 9),
        ("asked:of x", 8, 10),
        ("asked:x", 9, 10),
    ]


def test_letter_grams_mark_the_ends_of_a_word_and_stay_inside_it():
    names = [gram.feature for gram in letter_grams(["bite", "a"], 4, 5)]
    assert names == ["#<bit", "#<bite", "#bite", "#bite>", "#ite>"]


@given(st.lists(st.text(max_size=60), max_size=20), st.integers(1, 4))
def test_grams_lie_in_the_text_and_are_linear_in_number(forms, longest):
    grams = list(word_grams(forms, longest))
    assert len(grams) <= longest * len(forms)
    assert all(0 <= gram.start < gram.end <= len(forms) for gram in grams)
    assert len(list(letter_grams(forms))) <= 2 * 42 * len(forms)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"bias": [0, 0]}, "2 biases for 3 classes"),
        ({"weights": {"mg": [1, 2]}}, "weights.mg"),
        ({"weights": {"mg": [1, 2, "many"]}}, r"weights\.mg\.2"),
        ({"classes": ["dose", "dose", "rest"]}, "named twice"),
        ({"more": 1}, "more"),
        ({"about": ""}, "about"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name_and_field(change, field):
    with pytest.raises(UsageError, match=rf"own\.json.*{field}"):
        read_weights(json.dumps(FILE | change), "own.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"bias": [NaN]}', "\x00"])
def test_a_file_that_is_no_record_is_refused(text):
    with pytest.raises(UsageError, match=r"own\.json"):
        read_weights(text, "own.json")


def test_a_weight_that_is_no_number_is_refused():
    with pytest.raises(UsageError, match=r"weights\.mg\.0"):
        read_weights(json.dumps(FILE | {"weights": {"mg": [math.nan, 0, 0]}}), "own.json")


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "own.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"own\.json cannot be read"):
        weights_in(tmp_path / "own.json")


def test_without_a_file_there_are_no_weights():
    assert shipped_weights("category_xx") is None
