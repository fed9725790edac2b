"""Two models side by side, on the parent's own answers.

The parent is asked first and alone (`parent_part`); with its logits in a LogitsFile it need not be in memory any more
when the child is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgemed.core.progress import Progress
from edgemed.core.records import Record
from edgemed.evaluate.choices import Choice, answers
from edgemed.evaluate.divergence import Divergence, divergence, joined
from edgemed.evaluate.doses import (
    DoseChange,
    DoseSpan,
    changed_words,
    differing_tokens,
    dose_spans,
    tokens_to_go_on,
    words_of,
)
from edgemed.evaluate.entity_tokens import GROUPS, Group, token_groups
from edgemed.evaluate.logits_file import LogitsFile
from edgemed.evaluate.prompts import EvaluationPrompt
from edgemed.evaluate.scorer import Scorer
from edgemed.evaluate.token_text import TokenizedText, TokenText

_T = TypeVar("_T")

ANSWER_TOKENS = 128
N_FREE = 50
_WINDOW = 256
"""Tokens of a plain text that are read together."""


class Predictions(Protocol):
    """What a parent must still be able to say when the child is asked: a Scorer, or its LogitsFile."""

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """See Scorer."""


class Questions(Record):
    """All that a report asks."""

    name: str
    prompts: tuple[EvaluationPrompt, ...]
    choices: tuple[Choice, ...] = ()
    medical_text: str = ""
    """For the perplexity, where the prompts come without right answers."""
    general_text: str = ""


class ParentPart(Record):
    """What the parent answered, which the child is measured against."""

    questions_digest: str
    answers: tuple[tuple[int, ...], ...]
    """Token ids of the greedy answer to each prompt."""
    choices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """Every token of the parent's answers, and the doses among them."""

    found: Divergence
    groups: dict[Group, npt.NDArray[np.bool_]]
    n_amounts: int
    n_intervals: int
    changes: tuple[DoseChange, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """One answer of the parent's."""

    prompt: EvaluationPrompt
    ids: list[int]
    """Of the prompt and of the answer."""
    first: int
    """Where the answer begins."""
    answer: TokenizedText


def parent_part(
    parent: Scorer, tokens: TokenText, questions: Questions, progress: Progress, keep: LogitsFile | None = None
) -> ParentPart:
    """The parent's greedy answers and choices; all logits that a comparison asks for go into `keep`."""
    given = []
    with progress.task("The parent answers", len(questions.prompts), "prompts") as task:
        for prompt in questions.prompts:
            given.append(tuple(parent.greedy(tokens.prompt(prompt.question), ANSWER_TOKENS)))
            task.advance()
    part = ParentPart(
        questions_digest=questions.digest(),
        answers=tuple(given),
        choices=choices_of(parent, tokens, questions, progress, "The parent chooses"),
    )
    if keep is not None:
        _keep_predictions(parent, tokens, questions, part, keep, progress)
    return part


def _keep_predictions(
    parent: Scorer, tokens: TokenText, questions: Questions, part: ParentPart, keep: LogitsFile, progress: Progress
) -> None:
    texts = [*_answer_texts(tokens, questions, part), *medical_texts(tokens, questions)]
    texts += general_texts(tokens, questions)
    n_rows = sum(len(ids) - first for ids, first in texts)
    with progress.task("The parent's predictions", len(texts), "texts") as task:
        for number, (ids, first) in enumerate(texts):
            rows = parent.logits(ids, first)
            if number == 0:
                keep.require_room(n_rows, rows.shape[1])
            keep.put(ids, first, rows)
            task.advance()


def choices_of(
    scorer: Scorer, tokens: TokenText, questions: Questions, progress: Progress, title: str
) -> tuple[int, ...]:
    """The scorer's choices."""
    if not questions.choices:
        return ()
    with progress.task(title, len(questions.choices), "questions") as task:
        return tuple(answers(scorer, tokens, questions.choices, task))


def compare_answers(
    parent: Predictions, child: Scorer, tokens: TokenText, questions: Questions, part: ParentPart, progress: Progress
) -> AnswerComparison:
    """Both models' predictions for each token of the parent's answers."""
    found: list[Divergence] = []
    changes: list[DoseChange] = []
    n_spans: Counter[str] = Counter()
    masks: dict[Group, list[npt.NDArray[np.bool_]]] = {group: [] for group in GROUPS}
    with progress.task("The child reads the answers", len(questions.prompts), "answers") as task:
        for prompt, (ids, first) in zip(questions.prompts, _answer_texts(tokens, questions, part), strict=True):
            given = _Given(prompt, ids, first, tokens.tokenized(ids[first:]))
            here = divergence(parent.logits(ids, first), child.logits(ids, first), given.answer.ids)
            found.append(here)
            for group, mask in token_groups(given.answer).items():
                masks[group].append(mask)
            spans = dose_spans(given.answer)
            n_spans.update(span.kind for span in spans)
            changes += _changes(child, tokens, given, spans, here)
            task.advance()
    none = np.empty(0, np.bool_)
    return AnswerComparison(
        joined(found),
        {group: np.concatenate([none, *parts]) for group, parts in masks.items()},
        n_spans["amount"],
        n_spans["interval"],
        tuple(changes),
    )


def compare_texts(
    parent: Predictions, child: Scorer, texts: Sequence[tuple[list[int], int]], progress: Progress, title: str
) -> Divergence:
    """Both models' predictions for the tokens of each text from its `first` on."""
    with progress.task(title, len(texts), "texts") as task:
        found = []
        for ids, first in texts:
            found.append(divergence(parent.logits(ids, first), child.logits(ids, first), ids[first:]))
            task.advance()
    return joined(found)


def medical_texts(tokens: TokenText, questions: Questions) -> list[tuple[list[int], int]]:
    """The right answers to some of the prompts, after those; without right answers the medical text in windows."""
    known = [prompt for prompt in questions.prompts if prompt.answer]
    if not known:
        return _windows(tokens, questions.medical_text)
    texts = []
    for prompt in spread(known, N_FREE):
        ids, first = tokens.prompt(prompt.question, prompt.answer), len(tokens.prompt(prompt.question))
        texts.append((ids, first))
    return texts


def general_texts(tokens: TokenText, questions: Questions) -> list[tuple[list[int], int]]:
    """The general text in windows."""
    return _windows(tokens, questions.general_text)


def spread(items: Sequence[_T], n: int) -> list[_T]:
    """`n` of the items, evenly spread; all of them when they are fewer."""
    return [items[place * len(items) // n] for place in range(n)] if len(items) > n else list(items)


def _answer_texts(tokens: TokenText, questions: Questions, part: ParentPart) -> Iterator[tuple[list[int], int]]:
    for prompt, answer in zip(questions.prompts, part.answers, strict=True):
        ids = tokens.prompt(prompt.question)
        yield [*ids, *answer], len(ids)


def _windows(tokens: TokenText, text: str) -> list[tuple[list[int], int]]:
    ids = tokens.text_ids(text) if text else []
    return [(ids[start : start + _WINDOW], 1) for start in range(0, len(ids) - 1, _WINDOW)]


def _changes(
    child: Scorer, tokens: TokenText, given: _Given, spans: Sequence[DoseSpan], here: Divergence
) -> Iterator[DoseChange]:
    """What the child makes of each span that it would not have said, from the first token that differs."""
    for span in spans:
        places = differing_tokens(span, here.parent_first, here.child_first)
        if not places:
            continue
        before = given.ids[: given.first + places[0]]
        after = child.greedy(before, tokens_to_go_on(span, places[0]))
        said = tokens.tokenized([*before[given.first :], *after])
        kind, words = changed_words(given.answer, span, places[0], said)
        yield DoseChange(
            prompt=given.prompt.id,
            question=given.prompt.question,
            span=span.kind,
            kind=kind,
            parent_words=words_of(given.answer, span),
            child_words=words,
            positions=places,
        )
