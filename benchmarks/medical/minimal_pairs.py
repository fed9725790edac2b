"""Pairs of questions that differ in one clinical thing, made by a seed: a cache must never give one the other's answer.

`minimal_pairs(seed)` gives pairs with the field in which they differ; `equal_pairs(seed)` the same question with its
number typed in another way, which must stay equal; `name_twins(seed)` questions that differ only in a person's name.
The words are in minimal_pairs.toml; minimal_pairs_second.toml adds whole pairs that another reader wrote by hand.
`python benchmarks/medical/minimal_pairs.py` prints how many there are of each field, with an example.
"""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FRAMES_PER_CLAUSE = 12
FILLS_PER_QUESTION = 12
REWORDED_PER_CLAUSE = 6


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions and what differs between them."""

    field: str
    one: str
    two: str


def minimal_pairs(seed: int = 0) -> list[Pair]:
    """Some thousand pairs; neither question of a pair may get the other's answer."""
    rng = random.Random(seed)
    made = [*_clauses(rng), *_swaps(rng), *_whole("intents", "intent", rng), *_whole("orders", "order", rng)]
    by_hand = [Pair("written by hand", one, two) for one, two in _words()["by_hand"]]
    return [pair for pair in dict.fromkeys([*made, *by_hand, *second_pairs()]) if pair.one != pair.two]


def second_pairs() -> list[Pair]:
    """The pairs of the second reader, all of them written by hand."""
    file = Path(__file__).with_name("minimal_pairs_second.toml")
    pairs = tomllib.loads(file.read_text(encoding="utf-8"))
    return [Pair(f"second: {field}", one, two) for field, written in pairs.items() for one, two in written]


def equal_pairs(seed: int = 0) -> list[Pair]:
    """Pairs that say the same with their number typed in another way."""
    rng = random.Random(seed)
    pairs = []
    for one, two in _words()["equal_numbers"]:
        for frame in _words()["equal_frames"]:
            fill = _fill(rng)
            pairs.append(Pair("number typed otherwise", _filled(frame, fill, x=one), _filled(frame, fill, x=two)))
    return pairs


def name_twins(seed: int = 0, n_twins: int = 400) -> list[Pair]:
    """Pairs that differ only in a person's name."""
    rng = random.Random(seed)
    twins: dict[Pair, None] = {}
    while len(twins) < n_twins:
        one, two = rng.sample(_words()["names"], 2)
        frame, fill = rng.choice(_words()["twin_frames"]), _fill(rng)
        twins[Pair("name", _filled(frame, fill, name=one), _filled(frame, fill, name=two))] = None
    return list(twins)


def _clauses(rng: random.Random) -> Iterator[Pair]:
    for field, clauses in _words()["clauses"].items():
        for one, two in clauses:
            for frame in rng.sample(_words()["frames"], FRAMES_PER_CLAUSE):
                fill = _fill(rng)
                yield Pair(field, _filled(frame, fill, x=one), _filled(frame, fill, x=two))
            for frame, other in _two_wordings(rng):
                fill = _fill(rng)
                yield Pair(field, _filled(frame, fill, x=one), _filled(other, fill, x=two))


def _two_wordings(rng: random.Random) -> Iterator[list[str]]:
    """Two frames that ask the same, for one pair each."""
    for _ in range(REWORDED_PER_CLAUSE):
        yield rng.sample(_words()[rng.choice(["dose_frames", "leave_frames"])], 2)


def _swaps(rng: random.Random) -> Iterator[Pair]:
    for slot, fields in _words()["swaps"].items():
        for field, swaps in fields.items():
            for one, two in swaps:
                for frame in rng.sample(_words()["frames"], FRAMES_PER_CLAUSE):
                    fill = {**_fill(rng), "x": ""}
                    yield Pair(field, _filled(frame, {**fill, slot: one}), _filled(frame, {**fill, slot: two}))
                for frame, other in _two_wordings(rng):
                    fill = {**_fill(rng), "x": ""}
                    yield Pair(field, _filled(frame, {**fill, slot: one}), _filled(other, {**fill, slot: two}))


def _whole(table: str, field: str, rng: random.Random) -> Iterator[Pair]:
    for one, two in _words()[table]:
        for _ in range(FILLS_PER_QUESTION):
            fill = _fill(rng)
            yield Pair(field, _filled(one, fill), _filled(two, fill))


def _fill(rng: random.Random) -> dict[str, str]:
    """One drug, condition and person; a and b are two drugs, c and d two conditions."""
    words = _words()
    a, b = rng.sample(words["drugs"], 2)
    c, d = rng.sample(words["conditions"], 2)
    return {"drug": a, "condition": c, "who": rng.choice(words["people"]), "a": a, "b": b, "c": c, "d": d}


def _filled(frame: str, fill: dict[str, str], **more: str) -> str:
    text = frame.format(**{**fill, **more})
    return text[:1].upper() + text[1:]


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    made = [*minimal_pairs(), *name_twins(), *equal_pairs()]
    for field, count in Counter(pair.field for pair in made).most_common():
        example = next(pair for pair in made if pair.field == field)
        print(f"{count:5} {field}: {example.one} | {example.two}")
