"""Questions of two public sets that were given a category by hand; the text itself is not shipped.

    python benchmarks/medical/category_questions.py DATA --split dev

prints one JSON line a question: id, split, sha, text. The labels of each split lie beside this file, by the same ids,
and `CATEGORIES.md` holds the guide they follow; "sha" (the first 12 hex digits of the question's SHA-256) tells whether
the data here are those that were labelled. The texts of the split "test" are for the examination alone.

DATA is a folder with `meqsum/meqsum.jsonl.gz` (MeQSum) and `rqe-amia2016/rqe.jsonl.gz` (RQE, AMIA 2016), both
CC BY 4.0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from public_sentences import records_of, sha

FILES = {"dev": "category_labels.jsonl", "train": "category_train.jsonl", "test": "category_test.jsonl"}
"""The labels of each split."""


class Labelled(NamedTuple):
    """A question with its labels."""

    id: str
    text: str
    category: str
    subclass: str


class Questions:
    """The texts of both sets by the ids of the label files.

    `meqsum:<id>:question` is a message as somebody wrote it, `meqsum:<id>:summary` its one-line question, and
    `rqe:<id>:q1` the first question of a training pair.
    """

    def __init__(self, data: Path) -> None:
        records = records_of(data / "meqsum" / "meqsum.jsonl.gz")
        self._meqsum = {str(record["id"]): record for record in records}
        pairs = [record for record in records_of(data / "rqe-amia2016" / "rqe.jsonl.gz") if record["split"] == "train"]
        self._rqe = {record["id"]: record["q1"] for record in pairs}
        self._short: dict[str, str] = {}
        for record in pairs:
            if record["label"] == 1:
                self._short.setdefault(same_text(record["q1"]), record["q2"])

    def text(self, id_: str) -> str:
        """The text of an id; raises KeyError for one that these data do not hold."""
        source, number, field = id_.split(":")
        return str(self._meqsum[number][field] if source == "meqsum" else self._rqe[number])

    def like(self, id_: str) -> list[str]:
        """The texts that mean the same: the message and its summary, the question and its short form."""
        source, number, _ = id_.split(":")
        if source == "meqsum":
            return [str(self._meqsum[number][field]) for field in ("question", "summary")]
        text = self._rqe[number]
        return [text, *filter(None, [self._short.get(same_text(text))])]

    def group_of(self, id_: str) -> str:
        """The same for all ids whose texts mean the same."""
        source, number, _ = id_.split(":")
        return f"{source}:{number}" if source == "meqsum" else same_text(self.like(id_)[-1])


def same_text(text: str) -> str:
    """What two texts have in common that differ in capitals and blanks alone."""
    return " ".join(text.casefold().split())


def labelled(questions: Questions, split: str) -> list[Labelled]:
    """The questions of a split with their labels; other data than those labelled are refused."""
    lines = (Path(__file__).parent / FILES[split]).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = [Labelled(row["id"], questions.text(row["id"]), row["category"], row["subclass"]) for row in rows]
    if any(sha(each.text) != row["sha"] for each, row in zip(found, rows, strict=True)):
        raise SystemExit("The questions in this folder are not those that were labelled.")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the labelled questions of the public sets as JSON lines.")
    parser.add_argument("data", type=Path, help="folder that holds meqsum/ and rqe-amia2016/")
    parser.add_argument("--split", choices=FILES, default="dev")
    arguments = parser.parse_args()
    for row in labelled(Questions(arguments.data), arguments.split):
        line = {"id": row.id, "split": arguments.split, "sha": sha(row.text), "text": row.text}
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
