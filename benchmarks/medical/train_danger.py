"""Learns the weights of the second reader of danger signs: edgemed/medical/weights/danger_<language>.json.

    python benchmarks/medical/train_danger.py --language en            # cross-validated curve, then the weights
    python benchmarks/medical/train_danger.py --language en --curve    # the curve alone

A language learns from its own labelled sentences (`danger_<language>.jsonl`, `danger_<language>_train.jsonl`, the
sentences of the tests), and from the other languages' by the features that all share. English also learns from
questions of the demonstration's training that a dose or a fact asked for is no danger. The test sets are never read.

The rules were fitted to `danger_<language>.jsonl` and to the tests' sentences and hold there nearly always. So that the
reader does not trust them too much, each sentence is also given without what the rules found, and sentences that the
rules were fitted to count less. The curve is of sentences that the rules were not fitted to when it was last drawn.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from linear_training import SEED, Features, Learning, folds, learn, write_weights

from edgemed.medical.matching.danger_features import RULES, SHARED, pieces_of
from edgemed.medical.matching.danger_findings import findings_of
from edgemed.medical.matching.linear import LinearWeights
from edgemed.medical.reading import read

HERE = Path(__file__).parent
TESTS = HERE.parents[1] / "tests/medical/data"
WEIGHTS = HERE.parents[1] / "edgemed/medical/weights"
LANGUAGES = ("en", "fr", "es", "sw")
N_DEMO, DEMO_WEIGHT = 400, 0.5
FITTED, FITTED_BARE, FRESH_BARE, OTHERS = 0.4, 0.6, 0.3, 0.7
"""How much counts: sentences the rules were fitted to, these without finds, fresh ones without; other languages'."""
DOCUMENTS = 4
MOST = 12_000
LEARNING = Learning(
    strength=2.0,
    most_features=MOST,
    documents=1,  # counted here, before the copies are made
    strengths={mark + "#": 0.5 for mark in ("", "not:", "far:", "other:")},
)
RECALL = 0.96
"""Of fresh sentences held out; sets the threshold."""


@dataclass(frozen=True)
class Example:
    """A labelled sentence with its features; `fresh`: the rules were not fitted to it."""

    language: str
    danger: bool
    fresh: bool
    weight: float
    features: frozenset[str]
    found: bool
    """Whether the rules find a sign."""
    text: str


def features_of(text: str, language: str) -> tuple[frozenset[str], bool]:
    """The features of a short text, and whether the rules find a sign in it."""
    findings = findings_of(read(text).plain, language)
    features = {f for piece in pieces_of(findings, language) for f in (*piece.places, *piece.found)}
    return frozenset(features), bool(findings.signs)


def examples_of(language: str) -> list[Example]:
    """All labelled sentences of a language but the test set."""
    labelled: list[tuple[str, bool, bool, float]] = []
    lines = (HERE / f"danger_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    second = {row["id"] for row in [row for row in rows if row["split"] == "test"][1::2]}
    labelled += [(row["text"], row["danger"], row["id"] in second, 1.0) for row in rows]
    lines = (HERE / f"danger_{language}_train.jsonl").read_text(encoding="utf-8").splitlines()
    labelled += [(row["text"], row["danger"], True, 1.0) for row in map(json.loads, lines)]
    for line in (TESTS / f"danger_{language}.tsv").read_text(encoding="utf-8").splitlines():
        kind, text = line.split("\t")[:2]
        labelled.append((text, kind == "danger", False, 1.0))
    if language == "en":
        from edgemed.demo.questions import training_examples
        from edgemed.demo.table import fact_table

        drawn = islice(training_examples(fact_table(), random.Random(SEED)), N_DEMO)
        labelled += [(example.question, False, False, DEMO_WEIGHT) for example in drawn]
    return [Example(language, danger, fresh, w, *features_of(t, language), t) for t, danger, fresh, w in labelled]


def learned_from(own: Sequence[Example], others: Sequence[Example], about: str) -> LinearWeights:
    """The weights of a language from its own examples and what the others share with it."""
    names = _useful(own)
    rows: list[Features] = []
    labels: list[str] = []
    weights: list[float] = []
    for example in own:
        bare = frozenset(f for f in example.features if not f.startswith(RULES))
        shares = (1.0, FRESH_BARE) if example.fresh else (FITTED, FITTED_BARE)
        for features, share in zip((example.features, bare), shares, strict=True):
            rows.append(dict.fromkeys(features & names, 1.0))
            labels.append("danger" if example.danger else "no")
            weights.append(share * example.weight)
    for example in others:
        rows.append(dict.fromkeys(frozenset(f for f in example.features & names if f.startswith(SHARED)), 1.0))
        labels.append("danger" if example.danger else "no")
        weights.append(OTHERS * example.weight * (1.0 if example.fresh else FITTED))
    return learn(rows, labels, LEARNING, about, weights=weights)


def _useful(own: Sequence[Example]) -> frozenset[str]:
    """The features of enough sentences that tell danger from none best by themselves, by their chi-squared."""
    true = Counter(f for example in own if example.danger for f in example.features)
    false = Counter(f for example in own if not example.danger for f in example.features)
    share = sum(example.danger for example in own) / len(own)

    def chi_squared(feature: str) -> float:
        n = true[feature] + false[feature]
        return (true[feature] - n * share) ** 2 / (n * share * (1 - share))

    frequent = [f for f in {*true, *false} if true[f] + false[f] >= DOCUMENTS]
    shared = {f for f in frequent if f.startswith(SHARED)}
    best = sorted((f for f in frequent if f not in shared), key=lambda f: (-chi_squared(f), f))
    return frozenset(shared | set(best[: max(0, MOST - len(shared))]))


def held_out_scores(own: Sequence[Example], others: Sequence[Example]) -> dict[int, float]:
    """The log odds of each fresh sentence by weights that were learned without it."""
    fresh = [place for place, example in enumerate(own) if example.fresh]
    parts = dict(zip(fresh, folds([str(p) for p in fresh], [str(own[p].danger) for p in fresh]), strict=True))
    scores: dict[int, float] = {}
    for part in sorted(set(parts.values())):
        learned = learned_from([e for p, e in enumerate(own) if parts.get(p) != part], others, "a fold")
        for place in (p for p in fresh if parts[p] == part):
            scores[place] = learned.scores(dict.fromkeys(own[place].features, 1.0))[0]
    return scores


def threshold_for(recall: float, scores: Sequence[float]) -> float:
    """The score that a share `recall` of the scores of dangerous sentences reach."""
    ordered = sorted(scores)
    return ordered[int((1 - recall) * len(ordered))]


def shifted(learned: LinearWeights, threshold: float) -> LinearWeights:
    """The same weights with the threshold at a score of 0."""
    return learned.model_copy(update={"bias": (round(learned.bias[0] - threshold, 2),)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=LANGUAGES, required=True)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--scores", type=Path, help="write label, find of the rules, score and text of each here")
    arguments = parser.parse_args()
    examples = [example for language in LANGUAGES for example in examples_of(language)]
    own = [example for example in examples if example.language == arguments.language]
    others = [example for example in examples if example.language != arguments.language]
    scores = held_out_scores(own, others)
    true = np.array([score for place, score in scores.items() if own[place].danger])
    false = np.array([score for place, score in scores.items() if not own[place].danger])
    found = [place for place in scores if own[place].found]
    print(f"{arguments.language}: {len(own)} sentences, {len(scores)} of them fresh ({len(true)} with danger)")
    n_true = sum(own[place].danger for place in found)
    print(f"rules alone: recall {n_true / len(true):.3f}, false alarms {(len(found) - n_true) / len(false):.3f}")
    for recall in (0.99, 0.98, 0.97, 0.96, 0.95, 0.925, 0.9):
        threshold = threshold_for(recall, list(true))
        alarms = (false >= threshold).mean()
        print(f"recall {(true >= threshold).mean():.3f}: false alarms {alarms:.3f} (score {threshold:.2f})")
    if arguments.scores:
        rows = [(own[p].danger, own[p].found, round(s, 2), own[p].text) for p, s in scores.items()]
        arguments.scores.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    if arguments.curve:
        return
    about = (
        f"Second reader of danger signs, language {arguments.language}: logistic regression over words, letters, "
        f"notions and finds of the rules, learned by benchmarks/medical/train_danger.py from {len(own)} labelled "
        f"sentences of this language and the shared features of {len(others)} of others; a score of 0 was reached by "
        f"{100 * RECALL:.1f} % of the sentences with danger that were held out."
    )
    learned = shifted(learned_from(own, others, about), threshold_for(RECALL, list(true)))
    write_weights(learned, WEIGHTS / f"danger_{arguments.language}.json")
    print(f"{len(learned.weights)} features")


if __name__ == "__main__":
    main()
