"""Questions of two public sets that were given a category by hand; the text itself is not shipped.

    python benchmarks/medical/category_questions.py DATA

prints one JSON line a question: id, split, sha, text. `category_labels.jsonl` beside this file holds the labels by the
same ids and `CATEGORIES.md` the guide they follow; "sha" (the first 12 hex digits of the question's SHA-256) tells
whether the data here are those that were labelled.

DATA is a folder with `meqsum/meqsum.jsonl.gz` (MeQSum) and `rqe-amia2016/rqe.jsonl.gz` (RQE, AMIA 2016), both
CC BY 4.0.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from public_sentences import records_of, sha, split_of

SEED = 20261121
MESSAGES, SUMMARIES, PAIRS = 100, 100, 200


def category_questions(data: Path) -> dict[str, str]:
    """400 questions by id, in sample order; the same on every machine with the same data.

    `meqsum:<id>:question`: 100 messages as people wrote them; `meqsum:<id>:summary`: the one-line questions of 100
    other records; `rqe:<id>:q1`: 200 first questions of training pairs, under the first pair that holds them. No text
    occurs twice, capitals and blanks apart.
    """
    rng = random.Random(SEED)
    records = list(records_of(data / "meqsum" / "meqsum.jsonl.gz"))
    rng.shuffle(records)
    messages = _take({f"meqsum:{record['id']}:question": record["question"] for record in records}, MESSAGES, {})
    others = [record for record in records if f"meqsum:{record['id']}:question" not in messages]
    summaries = _take({f"meqsum:{record['id']}:summary": record["summary"] for record in others}, SUMMARIES, messages)
    pairs = [record for record in records_of(data / "rqe-amia2016" / "rqe.jsonl.gz") if record["split"] == "train"]
    first = _take({f"rqe:{record['id']}:q1": record["q1"] for record in pairs}, len(pairs), {})
    drawn = {id_: first[id_] for id_ in rng.sample(list(first), len(first))}
    return {**messages, **summaries, **_take(drawn, PAIRS, {**messages, **summaries})}


def _take(candidates: dict[str, str], size: int, taken: dict[str, str]) -> dict[str, str]:
    """The first `size` candidates whose text is neither among `taken` nor earlier among the candidates."""
    seen = {_key(text) for text in taken.values()}
    chosen: dict[str, str] = {}
    for id_, text in candidates.items():
        if len(chosen) == size:
            break
        if _key(text) not in seen:
            seen.add(_key(text))
            chosen[id_] = text
    return chosen


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the labelled questions of the public sets as JSON lines.")
    parser.add_argument("data", type=Path, help="folder that holds meqsum/ and rqe-amia2016/")
    questions = category_questions(parser.parse_args().data)
    splits = split_of(list(questions))
    for id_, text in questions.items():
        print(json.dumps({"id": id_, "split": splits[id_], "sha": sha(text), "text": text}, ensure_ascii=False))


if __name__ == "__main__":
    main()
