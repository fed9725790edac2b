"""Learns the weights of the question categories: edgemed/medical/weights/category_en.json.

    python benchmarks/medical/train_category.py DATA            # learn and write
    python benchmarks/medical/train_category.py DATA --check    # five-fold cross-validation, nothing written

DATA is the folder that `category_questions.py` describes. Four sources teach:

- the labelled questions of `category_labels.jsonl` and `category_train.jsonl`;
- the same questions in other words where the sets hold them (a message and its one-line summary, a question and its
  short form), with the same label and in the same fold; never where a question of the blind test is meant;
- the sentences of `danger_en.jsonl` that need help at once, as emergencies;
- questions of the demonstration model's training with the category that counting gives them, since its answers were
  trained under those prompts.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from category_questions import Questions, labelled, same_text
from linear_training import Features, Learning, cross_validated, learn, write_weights

from edgemed.demo.questions import training_examples
from edgemed.demo.table import fact_table
from edgemed.medical.category import category_by_count, read_part
from edgemed.medical.language import Category
from edgemed.medical.matching.category_features import category_features
from edgemed.medical.matching.category_keywords import read_question
from edgemed.medical.reading import read

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "edgemed" / "medical" / "weights" / "category_en.json"
ABOUT = (
    "Logistic regression with L2 over 2,409 public questions (MeQSum, RQE of AMIA 2016; both CC BY 4.0) with categories"
    " by hand, sentences in danger and questions of the demonstration; benchmarks/medical/train_category.py."
)
LEARNING = Learning(strength=0.08, most_features=4_000)
DANGER_WEIGHT, DEMO_WEIGHT, DEMO_QUESTIONS = 0.5, 1.0, 3_000
SEED = 20261121


@dataclass(frozen=True)
class Taught:
    """A question that teaches."""

    text: str
    category: str
    group: str
    """Questions of one group fall into one fold."""
    weight: float
    judged: bool
    """Whether its category was given by hand to this very text."""


def taught(data: Path) -> Iterator[Taught]:
    """All questions that teach, the judged ones first."""
    questions = Questions(data)
    rows = [*labelled(questions, "dev"), *labelled(questions, "train")]
    blind = {same_text(text) for id_, *_ in labelled(questions, "test") for text in questions.like(id_)}
    rows = [row for row in rows if same_text(row[1]) not in blind]
    for id_, text, category, _ in rows:
        yield Taught(text, category, questions.group_of(id_), 1.0, True)
    for id_, text, category, _ in rows:
        for other in questions.like(id_):
            if same_text(other) != same_text(text) and same_text(other) not in blind:
                yield Taught(other, category, questions.group_of(id_), 1.0, False)
    for line in (HERE / "danger_en.jsonl").read_text("utf-8").splitlines():
        if (row := json.loads(line))["danger"]:
            yield Taught(row["text"], Category.EMERGENCY.value, row["id"], DANGER_WEIGHT, False)
    rng = random.Random(SEED)
    examples = training_examples(fact_table(), rng)
    for number in range(DEMO_QUESTIONS):
        text = next(examples).question
        yield Taught(text, category_by_count(text).value, f"demo:{number}", DEMO_WEIGHT, False)


def features_of(text: str) -> Features:
    """The features by which `edgemed.medical.category` judges a text."""
    return category_features(read_question(read(read_part(text)), "en", None), "en", None).values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--check", action="store_true", help="cross-validate, write nothing")
    arguments = parser.parse_args()
    rows = list(taught(arguments.data))
    features, labels = [features_of(row.text) for row in rows], [row.category for row in rows]
    groups, weights = [row.group for row in rows], [row.weight for row in rows]
    print(f"{len(rows)} questions, {sum(row.judged for row in rows)} with a category by hand")
    if not arguments.check:
        learned = learn(features, labels, LEARNING, ABOUT, weights=weights, groups=groups)
        write_weights(learned, WEIGHTS)
        print(f"{len(learned.weights)} features, {WEIGHTS.stat().st_size:,} bytes: {WEIGHTS.name}")
        return
    judged = [place for place, row in enumerate(rows) if row.judged]
    found = cross_validated(features, labels, LEARNING, held_out=judged, groups=groups, weights=weights)
    given = {place: max(shares, key=shares.__getitem__) for place, shares in found.items()}
    counted = {place: category_by_count(rows[place].text).value for place in judged}
    for title, answers in (("learned weights", given), ("counting", counted)):
        right = sum(answers[place] == labels[place] for place in judged)
        print(f"{title:<18}{right:>6} of {len(judged)}  {right / len(judged):.1%}")
    table = Counter((labels[place], given[place]) for place in judged)
    print(f"{'labelled / given':<18}" + "".join(f"{category.value[:10]:>12}" for category in Category))
    for category in Category:
        print(f"{category.value:<18}" + "".join(f"{table[category.value, other.value]:>12}" for other in Category))


if __name__ == "__main__":
    main()
