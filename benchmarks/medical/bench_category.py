"""The category of hand-labelled public questions, beside the majority class and a ten-line regular expression.

    python benchmarks/medical/bench_category.py DATA --split dev
    python benchmarks/medical/bench_category.py DATA --split test --half b

DATA is the folder that `category_questions.py` describes, with `medquad/medquad.jsonl.gz` for the second table.
MedQuAD's question types are mapped to the six categories by `QTYPES`; types that fit none are left out and counted. The
test lines are halved by their position: the lists were mended on half a (even places); half b stays unseen.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_danger import share_line
from category_questions import category_questions, sha

from edgemed.medical.category import classify
from edgemed.medical.language import Category

LABELS = Path(__file__).parent / "category_labels.jsonl"
MEDQUAD_SAMPLE, SEED = 3_000, 20261121

BASELINE = (  # plain words of each category; the first that is found decides
    (Category.EMERGENCY, r"emergency|unconscious|not breathing|poison|swallowed|overdose|bleeding heavily"),
    (Category.PREVENTION, r"prevent|vaccin|immuni[sz]|screening|prophyla"),
    (Category.MEDICATION, r"\bdos(e|age|ing)|\bmg\b|tablet|pill|side effect|contraindicat|interact|drug|medication"),
    (Category.TREATMENT, r"treat|therap|surgery|manage|cure|what should (i|you|we) do|remed|operation"),
    (Category.DIAGNOSIS, r"diagnos|symptom|cause|test|sign of|what could|why (do|does|is|am)|do i have"),
)

QTYPES = {
    "treatment": Category.TREATMENT,
    "symptoms": Category.DIAGNOSIS,
    "causes": Category.DIAGNOSIS,
    "exams and tests": Category.DIAGNOSIS,
    "prevention": Category.PREVENTION,
    "information": Category.GENERAL,
    "outlook": Category.GENERAL,
    "inheritance": Category.GENERAL,
    "genetic changes": Category.GENERAL,
    "frequency": Category.GENERAL,
    "complications": Category.GENERAL,
    "research": Category.GENERAL,
    "support groups": Category.GENERAL,
    "stages": Category.GENERAL,
}


def by_expression(question: str) -> Category:
    """The baseline's category."""
    text = question.lower()
    return next((category for category, pattern in BASELINE if re.search(pattern, text)), Category.GENERAL)


def by_lists(question: str) -> Category:
    """The category that edgemed gives."""
    return classify(question).category


def report(title: str, classified: Callable[[str], Category], rows: Sequence[tuple[str, Category]]) -> None:
    """Prints the accuracy with its interval."""
    print(share_line(f"{title:<28}", sum(classified(text) is category for text, category in rows), len(rows)))


def confusion(rows: Sequence[tuple[str, Category]]) -> None:
    """Prints how often each labelled category (rows) was given each category (columns)."""
    counts = Counter((category, by_lists(text)) for text, category in rows)
    print(f"{'labelled / given':<18}" + "".join(f"{given.value[:10]:>12}" for given in Category))
    for labelled in Category:
        print(f"{labelled.value:<18}" + "".join(f"{counts[labelled, given]:>12}" for given in Category))


def labelled_questions(data: Path, split: str, half: str = "") -> list[tuple[str, Category, str]]:
    """Text, category and subclass of each question of a split, or of its half: "a" at even places, "b" at odd ones.

    Other data than those labelled are refused.
    """
    questions = category_questions(data)
    labels = [row for row in map(json.loads, LABELS.read_text("utf-8").splitlines()) if row["split"] == split]
    labels = {"": labels, "a": labels[::2], "b": labels[1::2]}[half]
    if any(sha(questions[row["id"]]) != row["sha"] for row in labels):
        raise SystemExit("The questions in this folder are not those that were labelled.")
    return [(questions[row["id"]], Category(row["category"]), row["subclass"]) for row in labels]


def medquad(data: Path) -> None:
    """Prints the accuracy on a sample of MedQuAD by its question types."""
    path = data / "medquad" / "medquad.jsonl.gz"
    if not path.is_file():
        print("MedQuAD: not measured, medquad/medquad.jsonl.gz is missing")
        return
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        questions = {(row["question"], row["qtype"]) for row in map(json.loads, lines)}
    mapped = sorted((text, QTYPES[qtype]) for text, qtype in questions if qtype in QTYPES)
    rows = random.Random(SEED).sample(mapped, min(MEDQUAD_SAMPLE, len(mapped)))
    print(
        f"\nMedQuAD: {len(rows)} of {len(mapped)} questions with a mapped type, {len(questions) - len(mapped)} without"
    )
    report("edgemed", by_lists, rows)
    report("regular expression", by_expression, rows)
    confusion(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--half", choices=("a", "b"), default="")
    arguments = parser.parse_args()
    labelled = labelled_questions(arguments.data, arguments.split, arguments.half)
    rows = [(text, category) for text, category, _ in labelled]
    print(f"category, {arguments.split} {arguments.half}: {len(rows)} questions of MeQSum and RQE")
    report("edgemed", by_lists, rows)
    report("regular expression", by_expression, rows)
    (most, number), *_ = Counter(category for _, category in rows).most_common()
    print(share_line(f"{'always ' + most.value:<28}", number, len(rows)))
    confusion(rows)
    right = [(text, subclass) for text, category, subclass in labelled if subclass and by_lists(text) is category]
    named = sum(classify(text).subclass == ("" if subclass == "other" else subclass) for text, subclass in right)
    print(share_line("subclass where the category is right", named, len(right)))
    medquad(arguments.data)


if __name__ == "__main__":
    main()
