"""Danger signs against the labelled sentences: recall and false alarms, with Wilson intervals.

    python benchmarks/medical/bench_danger.py --language en --split dev --show
    python benchmarks/medical/bench_danger.py --language en --split test --half b

`--show` prints the sentences that were missed or raised a false alarm. The test lines are halved by their position: the
rules may be mended on half a (even places), so it may be shown; half b stays unseen, and only its counts are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

from edgemed.medical.danger import danger_signs

FOLDER = Path(__file__).parent


def wilson(hits: int, tried: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    if not tried:
        return 0.0, 1.0
    share = hits / tried
    middle = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z / (1 + z * z / tried) * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_line(name: str, hits: int, tried: int) -> str:
    """ "recall 148/150 = 98.7 % (95.3 to 99.6)"."""
    low, high = wilson(hits, tried)
    return f"{name} {hits}/{tried} = {100 * hits / max(1, tried):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def rows_of(language: str, split: str, half: str = "") -> list[dict[str, Any]]:
    """The labelled sentences of a split, or its half: "a" those at even places, "b" at odd ones."""
    lines = (FOLDER / f"danger_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == split]
    return {"": rows, "a": rows[::2], "b": rows[1::2]}[half]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", default="en")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--half", choices=("a", "b"), default="")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    rows = rows_of(arguments.language, arguments.split, arguments.half)
    danger_signs("", arguments.language)  # reads the lists
    start = time.process_time()
    found = {row["id"]: danger_signs(row["text"], arguments.language) for row in rows}
    spent = time.process_time() - start
    true = [row for row in rows if row["danger"]]
    false = [row for row in rows if not row["danger"]]
    missed = [row for row in true if not found[row["id"]]]
    alarms = [row for row in false if found[row["id"]]]
    named = sum(row["sign"] in {sign.sign for sign in found[row["id"]]} for row in true)
    half = f", half {arguments.half}" if arguments.half else ""
    print(f"danger signs, {arguments.language}, {arguments.split}{half}: {len(rows)} sentences")
    print(share_line("recall", len(true) - len(missed), len(true)))
    print(share_line("false alarms", len(alarms), len(false)))
    print(share_line("the labelled sign among those found", named, len(true)))
    print(f"{1000 * spent / len(rows):.2f} ms of CPU per sentence")
    for title, faults, field, all_rows in (("missed", missed, "sign", true), ("false alarms", alarms, "why", false)):
        count = Counter(row[field] for row in faults)
        of = Counter(row[field] for row in all_rows)
        if count:
            print(f"{title}: " + ", ".join(f"{name} {n} of {of[name]}" for name, n in count.most_common()))
    if arguments.show and (arguments.split == "dev" or arguments.half == "a"):
        for row in missed:
            print(f"MISSED {row['id']} {row['sign']}: {row['text']}")
        for row in alarms:
            signs = ", ".join(f"{sign.sign} ({sign.words})" for sign in found[row["id"]])
            print(f"ALARM {row['id']} {row['why']}: {row['text']}  <- {signs}")


if __name__ == "__main__":
    main()
