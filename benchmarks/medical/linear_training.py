"""Learns the weights of a linear classifier (`edgemed.medical.matching.linear`) by logistic regression.

For development only: it needs scikit-learn (`pip install -e '.[dev]'`), which the product never imports. What is
written holds features and numbers, no text: a feature that fewer than `DOCUMENTS` texts hold is left out, so that
nobody's own words can be put together again.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemed.medical.matching.linear import LinearWeights

DOCUMENTS = 3
"""Texts that must hold a feature before it is given a weight."""
FOLDS, SEED = 5, 20261121

Features = Mapping[str, float]


@dataclass(frozen=True)
class Learning:
    """How weights are learned."""

    strength: float = 1.0
    """scikit-learn's C: the greater, the closer the weights follow the texts."""
    most_features: int = 4_000
    """Features kept, by the greatest weight; the regression is then run again on them alone."""
    places: int = 2
    """Decimal places of a weight."""
    documents: int = DOCUMENTS
    strengths: Mapping[str, float] | None = None
    """By a feature's beginning: what its values are multiplied by, so that L2 holds it back less (or more)."""
    balanced: bool = False
    """Whether a rare class weighs as much as a common one."""

    def scale_of(self, feature: str) -> float:
        """The factor of a feature; the longest beginning that fits decides."""
        fitting = [start for start in (self.strengths or {}) if feature.startswith(start)]
        return self.strengths[max(fitting, key=len)] if fitting and self.strengths else 1.0


def learn(
    rows: Sequence[Features],
    labels: Sequence[str],
    learning: Learning,
    about: str,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
) -> LinearWeights:
    """The weights for `labels`; two labels "no" and something give one class, its score the log odds of it.

    `weights`: how much each text counts. `groups`: texts of one group count once towards `documents`.
    """
    names = _frequent(rows, learning.documents, groups)
    fitted, classes = _fit(rows, labels, names, learning, weights)
    if len(names) > learning.most_features:
        greatest = np.abs(fitted[:, :-1]).max(axis=0)
        names = [names[place] for place in sorted(np.argsort(-greatest)[: learning.most_features])]
        fitted, classes = _fit(rows, labels, names, learning, weights)
    scales = np.array([learning.scale_of(name) for name in names] + [1.0])
    fitted = np.round(fitted * scales, learning.places) + 0.0
    kept = [place for place in range(len(names)) if fitted[:, place].any()]
    return LinearWeights(
        about=about,
        version=1,
        classes=classes,
        bias=tuple(fitted[:, -1].tolist()),
        weights={names[place]: tuple(fitted[:, place].tolist()) for place in kept},
    )


def cross_validated(
    rows: Sequence[Features],
    labels: Sequence[str],
    learning: Learning,
    *,
    held_out: Sequence[int] | None = None,
    groups: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    seed: int = SEED,
) -> dict[int, dict[str, float]]:
    """For each text the probabilities by weights that were learned without it and its group.

    `held_out`: numbers of the texts that are to be judged; the others only teach.
    """
    judged = list(held_out if held_out is not None else range(len(rows)))
    of = list(groups or map(str, range(len(rows))))
    parts = folds([of[place] for place in judged], [labels[place] for place in judged], seed)
    found: dict[int, dict[str, float]] = {}
    for part in range(FOLDS):
        out = {of[place] for place, its in zip(judged, parts, strict=True) if its == part}
        kept = [place for place in range(len(rows)) if of[place] not in out]
        learned = learn(
            [rows[place] for place in kept],
            [labels[place] for place in kept],
            learning,
            "a fold",
            weights=[weights[place] for place in kept] if weights else None,
            groups=[of[place] for place in kept],
        )
        found |= {
            place: learned.probabilities(rows[place]) for place, its in zip(judged, parts, strict=True) if its == part
        }
    return found


def folds(groups: Sequence[str], labels: Sequence[str], seed: int = SEED) -> list[int]:
    """The fold of each text: groups stay together, each label is spread evenly over the folds."""
    rng = np.random.default_rng(seed)
    first = dict(zip(reversed(groups), reversed(labels), strict=True))
    fold: dict[str, int] = {}
    offset = 0
    for label in sorted(set(first.values())):
        ours = sorted(group for group, its in first.items() if its == label)
        for place, number in enumerate(rng.permutation(len(ours))):
            fold[ours[number]] = (place + offset) % FOLDS
        offset += len(ours)
    return [fold[group] for group in groups]


def write_weights(learned: LinearWeights, path: Path) -> None:
    """Writes the weights as JSON, one feature a line, in order."""
    head = {name: getattr(learned, name) for name in ("about", "version", "classes", "bias")}
    lines = [
        f"{json.dumps(feature)}: {json.dumps([_short(w) for w in weights], separators=(',', ':'))}"
        for feature, weights in sorted(learned.weights.items())
    ]
    fields = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items())
    path.write_text(f'{{\n{fields},\n"weights": {{\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


def _short(weight: float) -> float | int:
    return int(weight) if weight == int(weight) else weight


def _frequent(rows: Sequence[Features], documents: int, groups: Sequence[str] | None) -> list[str]:
    """The features that enough texts, of different groups, hold; in order."""
    if groups is None:
        counts = Counter(feature for row in rows for feature in row)
    else:
        counts = Counter(
            feature for feature, _ in {(f, group) for row, group in zip(rows, groups, strict=True) for f in row}
        )
    return sorted(feature for feature, count in counts.items() if count >= documents)


def _fit(
    rows: Sequence[Features],
    labels: Sequence[str],
    names: Sequence[str],
    learning: Learning,
    weights: Sequence[float] | None,
) -> tuple[Any, tuple[str, ...]]:
    """Weights, float64 [n_classes, n_features + 1] with the bias last, of the scaled features; and the classes."""
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    number = {name: place for place, name in enumerate(names)}
    scales = [learning.scale_of(name) for name in names]
    values: list[float] = []
    columns: list[int] = []
    ends = [0]
    for row in rows:
        for feature, value in row.items():
            if (place := number.get(feature)) is not None:
                columns.append(place)
                values.append(value * scales[place])
        ends.append(len(columns))
    table = csr_array(
        (np.array(values), np.array(columns, dtype=np.int32), np.array(ends)), shape=(len(rows), len(names))
    )
    model = LogisticRegression(
        C=learning.strength, max_iter=1_000, tol=1e-5, class_weight="balanced" if learning.balanced else None
    )
    with warnings.catch_warnings(), threadpool_limits(1):  # several threads only wait for each other on so few texts
        warnings.simplefilter("ignore")
        model.fit(table, list(labels), sample_weight=None if weights is None else np.array(weights))
    fitted = np.hstack([model.coef_, model.intercept_[:, None]])
    classes = tuple(map(str, model.classes_))
    if len(classes) == 2:  # scikit-learn gives the log odds of the second
        if classes[0] == "no":
            return fitted, classes[1:]
        if classes[1] == "no":
            return -fitted, classes[:1]
        return np.vstack([-fitted / 2, fitted / 2]), classes
    return fitted, classes
