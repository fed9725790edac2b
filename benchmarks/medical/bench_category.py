"""The category of hand-labelled public questions, beside the majority class and a ten-line regular expression.

    python benchmarks/medical/bench_category.py DATA --split dev
    python benchmarks/medical/bench_category.py DATA --split test

DATA is the folder that `category_questions.py` describes, with `medquad/medquad.jsonl.gz` for the second table.
The lists were mended on "dev" and the weights learned from "dev" and "train", so that their figures flatter;
`train_category.py --check` gives cross-validated ones. "test" has been read by nobody who mends either: run it once.
MedQuAD's question types are mapped to the six categories by `QTYPES`; types that fit none are left out and counted.
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
from category_questions import FILES, Questions, labelled

from edgemed.medical.category import category_by_count, classify
from edgemed.medical.language import Category

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


def by_edgemed(question: str) -> Category:
    """The category that edgemed gives."""
    return classify(question).category


def report(title: str, classified: Callable[[str], Category], rows: Sequence[tuple[str, Category]]) -> None:
    """Prints the accuracy with its interval."""
    print(share_line(f"{title:<28}", sum(classified(text) is category for text, category in rows), len(rows)))


def confusion(rows: Sequence[tuple[str, Category]]) -> None:
    """Prints how often each labelled category (rows) was given each category (columns)."""
    counts = Counter((category, by_edgemed(text)) for text, category in rows)
    print(f"{'labelled / given':<18}" + "".join(f"{given.value[:10]:>12}" for given in Category))
    for truth in Category:
        print(f"{truth.value:<18}" + "".join(f"{counts[truth, given]:>12}" for given in Category))


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
    report("edgemed", by_edgemed, rows)
    report("edgemed, counting alone", category_by_count, rows)
    report("regular expression", by_expression, rows)
    confusion(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=FILES, default="dev")
    arguments = parser.parse_args()
    questions = labelled(Questions(arguments.data), arguments.split)
    rows = [(question.text, Category(question.category)) for question in questions]
    print(f"category, {arguments.split}: {len(rows)} questions of MeQSum and RQE")
    report("edgemed", by_edgemed, rows)
    report("edgemed, counting alone", category_by_count, rows)
    report("regular expression", by_expression, rows)
    (most, number), *_ = Counter(category for _, category in rows).most_common()
    print(share_line(f"{'always ' + most.value:<28}", number, len(rows)))
    confusion(rows)
    right = [each for each in questions if each.subclass and by_edgemed(each.text).value == each.category]
    named = sum(classify(each.text).subclass == each.subclass.replace("other", "") for each in right)
    print(share_line("subclass where the category is right", named, len(right)))
    medquad(arguments.data)


if __name__ == "__main__":
    main()
