"""What the training for linear weights promises: nobody's words, groups kept together, files that are read back."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "medical"))

pytest.importorskip("sklearn")

from linear_training import FOLDS, Learning, cross_validated, folds, learn, write_weights

from edgemed.medical.matching.linear import weights_in

RNG = random.Random(1)
LABELS = [RNG.choice(["dose", "test", "rest"]) for _ in range(120)]
ROWS = [{f"word {label}": 1.0, f"noise {RNG.randrange(6)}": 1.0, f"name {n}": 1.0} for n, label in enumerate(LABELS)]


def test_what_decides_is_learned_and_a_feature_of_two_texts_is_not_kept():
    rows = [*ROWS, {"two": 1.0}, {"two": 1.0}]
    learned = learn(rows, [*LABELS, "dose", "dose"], Learning(), "a test")
    assert not any(feature.startswith(("name", "two")) for feature in learned.weights)
    for label in ("dose", "test", "rest"):
        found = learned.probabilities({f"word {label}": 1.0})
        assert max(found, key=found.__getitem__) == label


def test_texts_of_one_group_count_once():
    rows = [{"own": 1.0, "word": 1.0}] * 3 + [{"word": 1.0}] * 3
    learned = learn(rows, ["a"] * 3 + ["b"] * 3, Learning(), "a test", groups=["g"] * 3 + ["h", "i", "j"])
    assert "own" not in learned.weights


def test_only_so_many_features_are_kept():
    learned = learn(ROWS, LABELS, Learning(most_features=3), "a test")
    assert sorted(learned.weights) == ["word dose", "word rest", "word test"]


def test_no_and_another_label_give_one_class():
    for yes in ("danger", "zebra"):
        rows = [{"snake": 1.0, "bed": 1.0}] * 5 + [{"bed": 1.0}] * 5
        learned = learn(rows, [yes] * 5 + ["no"] * 5, Learning(), "a test")
        assert learned.classes == (yes,)
        assert learned.probabilities({"snake": 1.0, "bed": 1.0})[yes] > 0.5 > learned.probabilities({"bed": 1.0})[yes]


def test_two_other_labels_give_two_classes():
    learned = learn([{"x": 1.0}] * 5 + [{"y": 1.0}] * 5, ["a"] * 5 + ["b"] * 5, Learning(), "a test")
    assert learned.classes == ("a", "b")
    assert learned.probabilities({"x": 1.0})["a"] > 0.5


def test_a_greater_strength_gives_a_feature_more_weight():
    rows = [{f"x {label}": 1.0, f"y {label}": 1.0} for label in LABELS]
    learned = learn(rows, LABELS, Learning(strength=0.1, strengths={"x": 3.0}), "a test")
    assert learned.weights["x dose"][0] > 2 * learned.weights["y dose"][0] > 0


def test_a_written_file_reads_back_the_same(tmp_path):
    learned = learn(ROWS, LABELS, Learning(), "a test")
    write_weights(learned, tmp_path / "own.json")
    assert weights_in(tmp_path / "own.json") == learned


def test_folds_keep_groups_together_and_spread_labels():
    groups = [f"g{place // 2}" for place in range(100)]
    labels = ["a" if place < 80 else "b" for place in range(100)]
    found = folds(groups, labels)
    assert all(found[place] == found[place + 1] for place in range(0, 100, 2))
    for label, each in (("a", 16), ("b", 4)):
        counts = Counter(fold for fold, its in zip(found, labels, strict=True) if its == label)
        assert set(counts.values()) == {each}
        assert len(counts) == FOLDS


def test_cross_validation_judges_each_text_by_others_alone():
    rows = [
        {f"own {place // 5}": 1.0, "text": 1.0} for place in range(100)
    ]  # what decides lies within groups of five texts
    labels = ["a" if place // 5 % 2 else "b" for place in range(100)]
    groups = [str(place // 5) for place in range(100)]
    found = cross_validated(rows, labels, Learning(), groups=groups, held_out=range(0, 100, 5))
    assert sorted(found) == list(range(0, 100, 5))
    assert all(abs(each["a"] - 0.5) < 0.2 for each in found.values())
