"""Danger signs against the labelled sentences: recall and false alarms, with Wilson intervals.

    python benchmarks/medical/bench_danger.py --language en --split dev --show
    python benchmarks/medical/bench_danger.py --language en --split test

"dev" are the sentences that rules and weights were fitted to (`danger_<language>.jsonl`): a figure on them says little.
"test" (`danger_<language>_test.jsonl`) is by other authors and stays unseen: only counts are printed. `--show` prints
the dev sentences that were missed or raised a false alarm. `--rules`: without the learned reader.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from edgemed.evaluate.paired import wilson
from edgemed.medical.danger import UNCLEAR, DangerSign, danger_signs
from edgemed.medical.matching.danger_findings import findings_of
from edgemed.medical.reading import read

FOLDER = Path(__file__).parent


def share_line(name: str, hits: int, tried: int) -> str:
    """ "recall 148/150 = 98.7 % (95.3 to 99.6)"."""
    found = wilson(hits, tried)
    share, low, high = (100 * value for value in (hits / max(1, tried), found.low, found.high))
    return f"{name} {hits}/{tried} = {share:.1f} % ({low:.1f} to {high:.1f})"


def rows_of(language: str, split: str) -> list[dict[str, Any]]:
    """The labelled sentences of a split."""
    name = f"danger_{language}.jsonl" if split == "dev" else f"danger_{language}_test.jsonl"
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def found_by_rules(text: str, language: str) -> tuple[DangerSign, ...]:
    """The signs that the rules find, without their words."""
    signs = findings_of(read(text).plain, language).signs
    return tuple(DangerSign(sign=sign, words="", start=0, end=0) for sign in signs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", default="en")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--rules", action="store_true")
    arguments = parser.parse_args()
    rows = rows_of(arguments.language, arguments.split)
    signs_of = found_by_rules if arguments.rules else danger_signs
    signs_of("he is ill", arguments.language)  # reads the lists and the weights
    start = time.process_time()
    found = {row["id"]: signs_of(row["text"], arguments.language) for row in rows}
    spent = time.process_time() - start
    true = [row for row in rows if row["danger"]]
    false = [row for row in rows if not row["danger"]]
    missed = [row for row in true if not found[row["id"]]]
    alarms = [row for row in false if found[row["id"]]]
    named = sum(row["sign"] in {sign.sign for sign in found[row["id"]]} for row in true)
    readers = "rules alone" if arguments.rules else "both readers"
    print(f"danger signs, {arguments.language}, {arguments.split}, {readers}: {len(rows)} sentences")
    print(share_line("recall", len(true) - len(missed), len(true)))
    print(share_line("false alarms", len(alarms), len(false)))
    print(share_line("the labelled sign among those found", named, len(true)))
    unclear = [signs for signs in found.values() if UNCLEAR in {sign.sign for sign in signs}]
    print(f"seen by the learned reader alone: {len(unclear)} sentences")
    print(f"{1000 * spent / len(rows):.2f} ms of CPU per sentence")
    for title, faults, field, all_rows in (("missed", missed, "sign", true), ("false alarms", alarms, "why", false)):
        count = Counter(row[field] for row in faults)
        of = Counter(row[field] for row in all_rows)
        if count:
            print(f"{title}: " + ", ".join(f"{name} {n} of {of[name]}" for name, n in count.most_common()))
    if arguments.show and arguments.split == "dev":
        for row in missed:
            print(f"MISSED {row['id']} {row['sign']}: {row['text']}")
        for row in alarms:
            signs = ", ".join(f"{sign.sign} ({sign.words})" for sign in found[row["id"]])
            print(f"ALARM {row['id']} {row['why']}: {row['text']}  <- {signs}")


if __name__ == "__main__":
    main()
