"""A linear classifier: score_c = bias_c + the sum of value times weight_c over a text's features, softmax over c.

It is equation (1) of the method paper (arXiv 2505.00025), argmax over c of a sum over the words of c in q, with learned
weights in the place of ones. The weights are learned before a release (`benchmarks/medical/linear_training.py`) and lie
in `edgemed/medical/weights/<name>.json`; here they are read, checked and added up, in plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

LONGEST_WORD = 40
"""Letters of a word that are looked at; a longer one is no word of a question."""


class Gram(NamedTuple):
    """A run of words or letters as a feature, and the words [start:end] that it lies in."""

    feature: str
    start: int
    end: int


def word_grams(forms: Sequence[str], longest: int = 3, mark: str = "", first: int = 0) -> Iterator[Gram]:
    """All runs of one to `longest` words, named "<mark>dose of", in the order of their starts; linear.

    `forms`: the words of one clause or sentence, since a run crosses no bound that the caller knows of. `mark` keeps
    apart where the words stand ("asked:"). `first`: the number of the first word in the whole text.
    """
    for start in range(len(forms)):
        name = mark
        for end in range(start, min(start + longest, len(forms))):
            name = f"{name}{' ' if end > start else ''}{forms[end][:LONGEST_WORD]}"
            yield Gram(name, first + start, first + end + 1)


def letter_grams(
    forms: Sequence[str], shortest: int = 4, longest: int = 5, mark: str = "#", first: int = 0
) -> Iterator[Gram]:
    """All runs of `shortest` to `longest` letters within each word, its ends written as "<" and ">"; linear."""
    for place, form in enumerate(forms, first):
        word = f"<{form[:LONGEST_WORD]}>"
        for start in range(len(word) - shortest + 1):
            for end in range(start + shortest, min(start + longest, len(word)) + 1):
                yield Gram(f"{mark}{word[start:end]}", place, place + 1)


class LinearWeights(Record):
    """What was learned: for each class a bias, and for each feature a weight for each class."""

    about: str = Field(min_length=1)
    """From what it was learned, how, and by what terms."""
    version: int = Field(ge=1)
    classes: tuple[str, ...] = Field(min_length=1)
    """One class alone: a yes or no, its score the log odds of yes."""
    bias: tuple[FiniteFloat, ...]
    """In log odds, in the order of the classes."""
    weights: dict[str, tuple[FiniteFloat, ...]]
    """For each feature the weights in the order of the classes, in log odds for a value of 1."""

    @model_validator(mode="after")
    def _fits(self) -> LinearWeights:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        if len(self.bias) != len(self.classes):
            raise ValueError(f"{len(self.bias)} biases for {len(self.classes)} classes")
        for feature, weights in self.weights.items():
            if len(weights) != len(self.classes):
                raise ValueError(f"weights.{feature}: {len(weights)} weights for {len(self.classes)} classes")
        return self

    def scores(self, features: Mapping[str, float]) -> tuple[float, ...]:
        """The log odds of each class; features without weights count nothing; linear in their number."""
        scores = list(self.bias)
        for feature, value in features.items():
            if (weights := self.weights.get(feature)) is not None:
                for place, weight in enumerate(weights):
                    scores[place] += value * weight
        return tuple(scores)

    def probabilities(self, features: Mapping[str, float]) -> dict[str, float]:
        """The probability of each class, by softmax; of a single class by the logistic function."""
        scores = self.scores(features)
        if len(scores) == 1:
            return {self.classes[0]: _logistic(scores[0])}
        return dict(zip(self.classes, softmax(scores), strict=True))

    def contributions(self, features: Mapping[str, float], name: str) -> dict[str, float]:
        """What each feature adds to a class beyond what it adds to the classes on average; for one class, its score."""
        place, several = self.classes.index(name), len(self.classes) > 1
        return {
            feature: value * (weights[place] - (sum(weights) / len(weights) if several else 0.0))
            for feature, value in features.items()
            if (weights := self.weights.get(feature)) is not None
        }


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    """The shares exp(score) / sum of exp(score); safe for great scores."""
    most = max(scores)
    shares = [math.exp(score - most) for score in scores]
    total = sum(shares)
    return tuple(share / total for share in shares)


def _logistic(score: float) -> float:
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    share = math.exp(max(score, -700.0))
    return share / (1 + share)


@cache
def shipped_weights(name: str) -> LinearWeights | None:
    """The weights of weights/<name>.json, read once; None when none are shipped.

    Raises UsageError with the field at fault when the file is damaged.
    """
    file = resources.files("edgemed.medical") / "weights" / f"{name}.json"
    return weights_in(file) if file.is_file() else None


def weights_in(file: Traversable) -> LinearWeights:
    """The weights in a file; raises UsageError with the file and the field at fault."""
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"The file of weights {file} cannot be read: {error}.", next_step=_MEND) from error
    return read_weights(text, str(file))


def read_weights(text: str, name: str) -> LinearWeights:
    """The weights in a JSON text; raises UsageError with the name of the file and the field at fault."""
    try:
        return LinearWeights.model_validate_json(text)
    except ValidationError as error:
        first, *others = error.errors()
        field = ".".join(map(str, first["loc"]))
        fault = f"{field}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
        more = f" ({len(others)} more faults)" if others else ""
        raise UsageError(f"The file of weights {name} is malformed: {fault}{more}.", next_step=_MEND) from error


_MEND = "install edgemed again, or remove the file if it is your own"
