"""Sentences of two public sets in which drugs and quantities were labelled by hand; the text itself is not shipped.

    python benchmarks/medical/public_sentences.py DATA [--second]

prints one JSON line a sentence: id, split, sha, text. `entities_public.jsonl` beside this file holds the labels of the
first sample by the same ids, `entities_public_test.jsonl` those of the second; their "sha" (the first 12 hex digits of
the sentence's SHA-256) tells whether the data here are those that were labelled.

DATA is a folder with `medquad/medquad.jsonl.gz` (MedQuAD) and `ner-bc5cdr/bc5cdr-iob.jsonl.gz` (BC5CDR); both are
CC BY 4.0.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """How many sentences are drawn of each kind; the two strata "dose" come before the others of their set."""

    seed: int
    medquad_dose: int
    medquad_amount: int
    medquad_unit: int
    medquad_digit: int
    bc5cdr_dose: int
    bc5cdr_digit: int


FIRST = Sample(20261121, 0, 60, 60, 80, 0, 200)
SECOND = Sample(20261125, 40, 20, 40, 50, 110, 40)
SHORTEST, LONGEST = 20, 400
DEV_EVERY = 4

_BOUNDARY = re.compile(r"\n+|(?<=[.!?])\s+(?=[A-Z0-9(\"-])")
_AMOUNT = (
    r"(?:mg|mcg|µg|g|kg|ng|grams?|milligrams?|micrograms?|mL|ml|L|dL|cc|lit(?:er|re)s?|milliliters?|IU|units?|mEq|mmol"
    r"|mmHg|mm Hg|tablets?|capsules?|pills?|drops?|doses?|puffs?|teaspoons?|tablespoons?|ounces?|cups?"
    r"|times (?:a|per))\b"
)
_TIME_OR_SHARE = r"%|(?:minutes?|hours?|days?|weeks?|months?|years?|percent|times|pounds?|degrees)\b"
_DIGIT_AND_AMOUNT = re.compile(rf"\d[^\d]{{0,12}}?(?<![A-Za-z])(?:{_AMOUNT})")
_DIGIT_AND_UNIT = re.compile(rf"\d[^\d]{{0,12}}?(?<![A-Za-z])(?:{_AMOUNT}|{_TIME_OR_SHARE})")
_DOSE = (
    r"(?:mg|mcg|[µμ]g|ug|microg|g|ml|mL|(?:milli|micro)?grams?|[Uu]nits?|IU|[Tt]ablets?)(?![A-Za-z])"
    r"(?!\s?/\s?[dm]?[lL]\b)"
)
_DIGIT_AND_DOSE = re.compile(rf"\d\S*?(?:\s*|(?:\s+\S+){{1,2}}\s+)(?<![A-Za-z]){_DOSE}")


def public_sentences(data: Path) -> dict[str, str]:
    """400 sentences that hold a digit, by id, in sample order; the same wherever the data are the same.

    `medquad:<source>/<record id>:<sentence number>`: 60 in which the unit of an amount begins within 12 characters
    after a digit, 60 with any unit there, 80 drawn from all; at most one of each document.
    `bc5cdr:<row>`: 200, tokens joined by single spaces.
    """
    return _drawn(data, FIRST, without=())


def second_sentences(data: Path) -> dict[str, str]:
    """300 sentences more, none of them among the first 400, by id, in sample order; all of them "test".

    150 of each set. 150 are drawn among the sentences in which the unit of a dose is one of the three words after a
    digit (40 of MedQuAD, 110 of BC5CDR), the others as before (MedQuAD: 20, 40 and 50; BC5CDR: 40).
    """
    return _drawn(data, SECOND, without=set(public_sentences(data).values()))


def split_of(ids: list[str]) -> dict[str, str]:
    """The split by id: "dev" for every fourth in sample order, "test" for the others."""
    return {id_: "dev" if n % DEV_EVERY == DEV_EVERY - 1 else "test" for n, id_ in enumerate(ids)}


def sha(sentence: str) -> str:
    """The first 12 hex digits of the sentence's SHA-256 in UTF-8."""
    return hashlib.sha256(sentence.encode()).hexdigest()[:12]


def sentences_of(answer: str) -> list[str]:
    """The answer cut at line breaks and at blanks between [.!?] and a capital, digit, bracket, quote or dash."""
    pieces = (" ".join(piece.split()) for piece in _BOUNDARY.split(answer))
    return [piece for piece in pieces if piece]


def _drawn(data: Path, sample: Sample, without: Collection[str]) -> dict[str, str]:
    rng = random.Random(sample.seed)
    return {**_from_medquad(data, sample, rng, without), **_from_bc5cdr(data, sample, rng, without)}


def _from_medquad(data: Path, sample: Sample, rng: random.Random, without: Collection[str]) -> dict[str, str]:
    candidates: list[tuple[str, str, str]] = []  # id, document, sentence
    seen = set(without)
    for record in records_of(data / "medquad" / "medquad.jsonl.gz"):
        source = record["source"].split("_")[0]
        for number, sentence in enumerate(sentences_of(record["answer"])):
            if _is_wanted(sentence) and sentence not in seen:
                seen.add(sentence)
                candidates.append((f"medquad:{source}/{record['id']}:{number}", record["url"], sentence))
    rng.shuffle(candidates)
    documents: set[str] = set()
    chosen: dict[str, str] = {}
    with_dose = [candidate for candidate in candidates if _DIGIT_AND_DOSE.search(candidate[2])]
    with_amount = [candidate for candidate in candidates if _DIGIT_AND_AMOUNT.search(candidate[2])]
    with_unit = [candidate for candidate in candidates if _DIGIT_AND_UNIT.search(candidate[2])]
    size = 0
    for pool, more in (
        (with_dose, sample.medquad_dose),
        (with_amount, sample.medquad_amount),
        (with_unit, sample.medquad_unit),
        (candidates, sample.medquad_digit),
    ):
        size += more
        for id_, document, sentence in pool:
            if len(chosen) < size and document not in documents:
                documents.add(document)
                chosen[id_] = sentence
    return chosen


def _from_bc5cdr(data: Path, sample: Sample, rng: random.Random, without: Collection[str]) -> dict[str, str]:
    candidates: dict[str, str] = {}  # sentence to its first row
    for row, record in enumerate(records_of(data / "ner-bc5cdr" / "bc5cdr-iob.jsonl.gz")):
        sentence = " ".join(record["tokens"])
        if _is_wanted(sentence) and sentence not in without:
            candidates.setdefault(sentence, f"bc5cdr:{row}")
    with_dose = [sentence for sentence in candidates if _DIGIT_AND_DOSE.search(sentence)]
    chosen = rng.sample(with_dose, sample.bc5cdr_dose)
    chosen += rng.sample([sentence for sentence in candidates if sentence not in chosen], sample.bc5cdr_digit)
    return {candidates[sentence]: sentence for sentence in chosen}


def _is_wanted(sentence: str) -> bool:
    return SHORTEST <= len(sentence) <= LONGEST and any("0" <= character <= "9" for character in sentence)


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the labelled sentences of the public sets as JSON lines.")
    parser.add_argument("data", type=Path, help="folder that holds medquad/ and ner-bc5cdr/")
    parser.add_argument("--second", action="store_true", help="the second sample instead of the first")
    options = parser.parse_args()
    sentences = second_sentences(options.data) if options.second else public_sentences(options.data)
    splits = dict.fromkeys(sentences, "test") if options.second else split_of(list(sentences))
    for id_, text in sentences.items():
        print(json.dumps({"id": id_, "split": splits[id_], "sha": sha(text), "text": text}, ensure_ascii=False))


if __name__ == "__main__":
    main()
