"""What the answer cache shares and what it must not: `python benchmarks/bench_cache.py [--data DATA] [--show]`.

One run, one setting (the clinical key and CacheOptions as shipped), no model's answers:

* false hits on the minimal pairs and on twins that differ in a name (benchmarks/medical/minimal_pairs.py): goal 0;
* the share of numbers typed in two ways that are found to be the same;
* hits on paraphrases: each fact of the demonstration is kept as asked in one training wording, drawn by the seed, and
  asked in every held-out wording. "same content": both name the same drug name, route and patient; "drawn anew": each
  wording draws them again (two in three then name the route alike). "whole cache" also counts what the cache refuses
  to meet at all: emergencies, and what may name somebody;
* with DATA: pairs of MedQuAD (made by rule; label 0 is "other question"), RQE (train part) and MeQSum (a message and
  its summary; all pairs of two summaries). Their texts are not shipped and are shown only on request.

Beside it a cache by cosine alone at thresholds usual elsewhere, with the demonstration model's embeddings, or (--words)
with counts of words as vectors; the first line says which.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tomllib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent / "medical"))
from minimal_pairs import equal_pairs, minimal_pairs, name_twins

from edgemed.demo.questions import Split, dose_example, statement_example
from edgemed.demo.table import Dose, FactTable, Statement, fact_table
from edgemed.medical.category import category_of
from edgemed.medical.clinical_key import ClinicalKey, clinical_key
from edgemed.medical.danger import danger_signs
from edgemed.medical.language import Category
from edgemed.serve.cache_entry import CacheContext, jaccard, words_of
from edgemed.serve.response_cache import Answered, Asked, CachedAnswer, CacheOptions, NotStored, ResponseCache

SHOWN = 8
"""Pairs of a group that --show prints."""
COSINES = (0.80, 0.90, 0.95)
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """Two questions, the group they are counted in, and whether sharing an answer is right."""

    group: str
    one: str
    two: str
    right: bool


class Gates:
    """Whether each kind of cache would answer the second question of a case from the first."""

    def __init__(self, embed: Callable[[str], Vector] | None) -> None:
        self._by_model = embed is not None
        self._embed = embed or word_counts
        self._options = CacheOptions()
        self._keys: dict[str, ClinicalKey] = {}
        self._vectors: dict[str, Vector] = {}

    def key(self, question: str) -> ClinicalKey:
        if question not in self._keys:
            self._keys[question] = clinical_key(question)
        return self._keys[question]

    def vector(self, question: str) -> Vector:
        if question not in self._vectors:
            self._vectors[question] = self._embed(question)
        return self._vectors[question]

    def shared(self, one: str, two: str) -> bool:
        """The clinical key is the gate; similarity (equation 8) only turns away what has nothing in common."""
        first = self.key(one)
        if not first.cacheable or first != self.key(two):
            return False
        alike = jaccard(words_of(one), words_of(two))
        if not self._by_model:
            return alike >= self._options.word_threshold
        weight = self._options.word_weight
        return weight * alike + (1 - weight) * self.cosine(one, two) >= self._options.threshold

    def cosine(self, one: str, two: str) -> float:
        return float(self.vector(one) @ self.vector(two))


def word_counts(question: str) -> Vector:
    """Counts of a question's words at 1,024 places by checksum, length 1: a vector without any model."""
    vector = np.zeros(1024, np.float32)
    for word in re.findall(r"\w+", question.casefold()):
        vector[zlib.crc32(word.encode()) % len(vector)] += 1
    return vector / (np.linalg.norm(vector) or 1.0)


def model_embedding() -> Callable[[str], Vector]:
    """Embeddings by the demonstration model, as the cache uses them."""
    from edgemed.demo import demo_model_path
    from edgemed.engines.base import EngineConfig
    from edgemed.engines.embedding import embed_text
    from edgemed.engines.registry import open_engine

    engine = open_engine(EngineConfig(model_path=demo_model_path()))

    def embed(question: str) -> Vector:
        return np.asarray(embed_text(engine, question or " "), np.float32)

    return embed


def minimal_cases(seed: int) -> Iterator[Case]:
    """Every pair that must not share, by field, then the pairs that must."""
    for pair in [*minimal_pairs(seed), *name_twins(seed)]:
        yield Case(pair.field, pair.one, pair.two, right=False)
    for pair in equal_pairs(seed):
        yield Case(pair.field, pair.one, pair.two, right=True)


def paraphrases(table: FactTable, seed: int, *, same_content: bool) -> Iterator[Case]:
    """Each fact in one training wording and in each held-out one."""
    rng = random.Random(seed)
    doses = list(table.doses())
    wordings = tomllib.loads(resources.files("edgemed.demo").joinpath("phrasings.toml").read_text(encoding="utf-8"))
    for fact in table.facts:
        trained, content = rng.choice(wordings[fact.kind]["train"]), rng.random()
        for held_out in wordings[fact.kind]["held_out"]:
            first, second = (random.Random(content), random.Random(content)) if same_content else (rng, rng)
            one = _question(fact, doses, first, "train", trained)
            yield Case(fact.kind, one, _question(fact, doses, second, "held_out", held_out), right=True)


def _question(fact: Dose | Statement, doses: list[Dose], rng: random.Random, split: Split, pattern: str) -> str:
    if isinstance(fact, Dose):
        return dose_example(fact, doses, rng, split, pattern).question
    return statement_example(fact, rng, split, pattern).question


def public_cases(data: Path) -> Iterator[Case]:
    """Pairs of the public sets; a summary of another message is another question unless it says the same words."""
    for row in _rows(data / "medquad-pairs" / "medquad_pairs.jsonl.gz"):
        yield Case(f"medquad {row['kind']}", row["q1"], row["q2"], right=row["label"] == 1)
    for row in _rows(data / "rqe-amia2016" / "rqe.jsonl.gz"):
        if row["split"] == "train":
            yield Case(f"rqe train, label {row['label']}", row["q1"], row["q2"], right=row["label"] == 1)
    rows = list(_rows(data / "meqsum" / "meqsum.jsonl.gz"))
    for row in rows:
        yield Case("meqsum, message and summary", row["question"], row["summary"], right=True)
    for one, two in combinations(dict.fromkeys(row["summary"] for row in rows), 2):
        yield Case("meqsum, two summaries", one, two, right=False)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def whole_cache(cases: Sequence[Case]) -> Counter[str]:
    """What a ResponseCache in memory makes of each case: "hit", or why not; a fresh cache for each."""
    context = CacheContext(
        model_name="demo", model_digest="", templates_digest="", medical_version="", language="en", max_tokens=256
    )
    outcomes: Counter[str] = Counter()
    for case in cases:
        cache = ResponseCache(CacheOptions())
        one, two = (
            Asked(text, context, clinical_key(text), emergency=_is_emergency(text), has_history=False)
            for text in (case.one, case.two)
        )
        stored = cache.store(one, Answered("An answer of a few words.", "stop", numbers_clean=True))
        found = cache.lookup(two)
        outcomes["hit" if isinstance(found, CachedAnswer) else found.reason] += 1
        if isinstance(stored, NotStored):
            outcomes[f"(not kept: {stored.reason})"] += 1
    return outcomes


def _is_emergency(question: str) -> bool:
    return bool(danger_signs(question)) or category_of(question) is Category.EMERGENCY


@dataclass(slots=True)
class Count:
    """How many cases of a group each kind of cache shares."""

    cases: int = 0
    by_key: int = 0
    unread: int = 0
    """Cases of which one question is not cacheable."""
    by_cosine: Counter[float] = field(default_factory=Counter)
    shown: list[Case] = field(default_factory=list)


def count(cases: Iterable[Case], gates: Gates) -> dict[tuple[str, bool], Count]:
    """Counts by group and by whether sharing is right."""
    counts: dict[tuple[str, bool], Count] = {}
    for case in cases:
        entry = counts.setdefault((case.group, case.right), Count())
        entry.cases += 1
        entry.unread += not (gates.key(case.one).cacheable and gates.key(case.two).cacheable)
        shared = gates.shared(case.one, case.two)
        entry.by_key += shared
        alike = gates.cosine(case.one, case.two)
        entry.by_cosine.update(threshold for threshold in COSINES if alike >= threshold)
        if shared != case.right and len(entry.shown) < SHOWN:
            entry.shown.append(case)
    return counts


def print_counts(title: str, counts: dict[tuple[str, bool], Count], *, show: bool) -> None:
    """A table: the key beside cosine alone, sums last."""
    print(f"\n{title}\n{'':44}{'pairs':>8}{'key':>8}{'unread':>8}" + "".join(f"{f'cos {c}':>10}" for c in COSINES))
    for right in (False, True):
        groups = {name: entry for (name, is_right), entry in counts.items() if is_right is right}
        if not groups:
            continue
        print("  must not share: false hits" if not right else "  may share: hits")
        for name, entry in [*groups.items(), ("all", _sum(groups.values()))]:
            shares = "".join(f"{_share(entry.by_cosine[c], entry.cases):>10}" for c in COSINES)
            print(f"    {name:40}{entry.cases:>8}{_share(entry.by_key, entry.cases):>8}{entry.unread:>8}{shares}")
            for case in entry.shown if show else ():
                print(f"        {case.one} | {case.two}")


def _sum(entries: Iterable[Count]) -> Count:
    total = Count()
    for entry in entries:
        total.cases += entry.cases
        total.by_key += entry.by_key
        total.unread += entry.unread
        total.by_cosine += entry.by_cosine
    return total


def _share(hits: int, cases: int) -> str:
    """A count when it is small, else percent."""
    return str(hits) if hits < 10 else f"{100 * hits / cases:.1f} %"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the public sets (benchmarks/medical/public_sentences.py)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="word counts as vectors, without the model")
    parser.add_argument("--show", action="store_true", help="print pairs on which the key is wrong")
    options = parser.parse_args()
    embed = None if options.words else model_embedding()
    print("cosine: " + ("the demonstration model's embeddings" if embed else "word counts, no model's embeddings"))
    gates = Gates(embed)
    table = fact_table()
    same = list(paraphrases(table, options.seed, same_content=True))
    anew = list(paraphrases(table, options.seed, same_content=False))
    print_counts("Minimal pairs", count(minimal_cases(options.seed), gates), show=options.show)
    print_counts("Paraphrases, same content", count(same, gates), show=options.show)
    print_counts("Paraphrases, drawn anew", count(anew, gates), show=options.show)
    for name, cases in (("same content", same), ("drawn anew", anew)):
        print(f"whole cache, {name}: {dict(whole_cache(cases).most_common())} of {len(cases)}")
    if options.data:
        print_counts("Public pairs", count(public_cases(options.data), gates), show=options.show)


if __name__ == "__main__":
    main()
