"""What compressing a model did to its medicine: the record that a quantized model is written with, or not written for.

The parent answers the questions of a set that bit allocation has not seen; the child is then asked what it would have
said at each token. The gate is clinical: one dose or interval changed, and the child does not stand in for its parent.
What it does not know: whether the parent was right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import NotAvailable, Record
from edgemed.evaluate.choices import ChoiceResult, compared, demo_choices
from edgemed.evaluate.comparison import (
    ANSWER_TOKENS,
    N_FREE,
    AnswerComparison,
    ParentPart,
    Predictions,
    Questions,
    choices_of,
    compare_answers,
    compare_texts,
    general_texts,
    medical_texts,
    parent_part,
    spread,
)
from edgemed.evaluate.divergence import Divergence, DivergenceSummary, summary
from edgemed.evaluate.doses import ChangeKind, DoseChange, Gate, dose_spans, gate
from edgemed.evaluate.entity_tokens import GROUPS
from edgemed.evaluate.prompts import SetName, demo_prompts, general_text, generic_prompts, medical_text
from edgemed.evaluate.scorer import Scorer
from edgemed.evaluate.token_text import TokenText
from edgemed.models.spec import ModelSpec

KL_EDGES = tuple(10.0**power for power in range(-8, 2))
"""Of the histogram's bins, in nats; the first bin holds all below, the last all above."""


class RoleSize(Record):
    """What the tensors of one role take, in both models."""

    role: str
    parent_bytes: int
    child_bytes: int
    child_types: tuple[str, ...]


class ReportSubject(Record):
    """Which models are compared, as the caller knows them."""

    parent: str
    child: str
    recipe: str = ""
    sizes: tuple[RoleSize, ...] = ()
    raise_first: tuple[str, ...] = ()
    """Tensors that would gain most from more bits, best first."""


class FreeAnswer(Record):
    """Two whole greedy answers to one prompt."""

    prompt: str
    question: str
    parent: str
    child: str
    same_text: bool
    same_doses: bool
    """The same amounts and intervals in the same order."""


class GroupResult(Record):
    """The divergence at the tokens of one group."""

    group: str
    at: DivergenceSummary


class ClinicalReport(Record):
    """One parent and one child. Divergences are KL(parent || child) in nats per token."""

    schema_version: Literal[1] = 1
    subject: ReportSubject
    questions: str
    questions_digest: str
    n_prompts: dict[str, int]
    """By kind."""
    answers: DivergenceSummary
    """At every token of the parent's answers."""
    groups: tuple[GroupResult, ...]
    kl_histogram: tuple[int, ...]
    """Tokens of the answers by KL: below KL_EDGES[0], then between edges, then above the last."""
    medical_text: DivergenceSummary
    general_text: DivergenceSummary
    choices: ChoiceResult | NotAvailable
    changes_by_kind: dict[ChangeKind, int]
    changes: tuple[DoseChange, ...]
    free: tuple[FreeAnswer, ...]
    gate: Gate


def demo_questions(name: SetName = "B") -> Questions:
    """What a report asks the demonstration model."""
    return Questions(
        name=f"demonstration, set {name}",
        prompts=demo_prompts(name),
        choices=demo_choices(name),
        general_text=general_text(),
    )


def generic_questions(name: SetName = "B") -> Questions:
    """What a report asks any other model."""
    return Questions(
        name=f"general, set {name}",
        prompts=generic_prompts(name),
        medical_text=medical_text(),
        general_text=general_text(),
    )


def clinical_report(
    parent: Scorer,
    child: Scorer,
    tokens: TokenText,
    questions: Questions,
    subject: ReportSubject,
    progress: Progress | None = None,
) -> ClinicalReport:
    """The report on two models that are both open.

    Cost: per prompt, one answer of the parent and one reading of it by each model. Raises what scorers raise,
    UsageError when the two have vocabularies of different sizes, ModelRefused when one computes NaN or infinity.
    """
    progress = progress or SilentProgress()
    part = parent_part(parent, tokens, questions, progress)
    return report_on_child(parent, part, child, tokens, questions, subject, progress)


def report_on_child(
    parent: Predictions,
    part: ParentPart,
    child: Scorer,
    tokens: TokenText,
    questions: Questions,
    subject: ReportSubject,
    progress: Progress | None = None,
) -> ClinicalReport:
    """The same, for a parent that has had its part: `parent` may then be the LogitsFile that was kept of it."""
    progress = progress or SilentProgress()
    if part.questions_digest != questions.digest():
        raise ValueError("the parent was asked other questions")
    at_answers = compare_answers(parent, child, tokens, questions, part, progress)
    texts = medical_texts(tokens, questions)
    medical = summary(compare_texts(parent, child, texts, progress, "Medical text"))
    texts = general_texts(tokens, questions)
    general = summary(compare_texts(parent, child, texts, progress, "General text"))
    free = _free_answers(child, tokens, questions, part, progress)
    changes = at_answers.changes
    by_kind = Counter(change.kind for change in changes)
    return ClinicalReport(
        subject=subject,
        questions=questions.name,
        questions_digest=part.questions_digest,
        n_prompts=dict(Counter(prompt.kind for prompt in questions.prompts)),
        answers=summary(at_answers.found),
        groups=tuple(_groups(at_answers)),
        kl_histogram=_histogram(at_answers.found),
        medical_text=medical,
        general_text=general,
        choices=_choices(child, tokens, questions, part, progress),
        changes_by_kind={kind: by_kind[kind] for kind in get_args(ChangeKind)},
        changes=changes,
        free=free,
        gate=gate(at_answers.n_amounts, at_answers.n_intervals, len(changes)),
    )


def role_sizes(parent: ModelSpec, child: ModelSpec) -> tuple[RoleSize, ...]:
    """Bytes per role of two models as stored, largest first."""
    before, after = _bytes_by_role(parent), _bytes_by_role(child)
    types: dict[str, set[str]] = {}
    for tensor in child.tensors:
        types.setdefault(tensor.role, set()).add(tensor.type)
    return tuple(
        RoleSize(
            role=role,
            parent_bytes=before.get(role, 0),
            child_bytes=after.get(role, 0),
            child_types=tuple(sorted(types.get(role, ()))),
        )
        for role in sorted(before.keys() | after.keys(), key=lambda role: (-before.get(role, 0), role))
    )


def _bytes_by_role(spec: ModelSpec) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for tensor in spec.tensors:
        found[tensor.role] += tensor.n_bytes
    return found


def _groups(at_answers: AnswerComparison) -> list[GroupResult]:
    """Each group of tokens, then whatever is in any of them."""
    masks = at_answers.groups
    every = np.logical_or.reduce([masks[group] for group in GROUPS])
    named = [*((str(group), masks[group]) for group in GROUPS), ("any of these", every)]
    return [GroupResult(group=name, at=summary(at_answers.found.only(mask))) for name, mask in named]


def _histogram(found: Divergence) -> tuple[int, ...]:
    places = np.searchsorted(KL_EDGES, found.kl, side="right")
    return tuple(np.bincount(places, minlength=len(KL_EDGES) + 1).tolist())


def _choices(
    child: Scorer, tokens: TokenText, questions: Questions, part: ParentPart, progress: Progress
) -> ChoiceResult | NotAvailable:
    if not questions.choices:
        return NotAvailable(reason="this set of questions has no multiple choice")
    chosen = choices_of(child, tokens, questions, progress, "The child chooses")
    return compared(questions.choices, part.choices, chosen)


def _free_answers(
    child: Scorer, tokens: TokenText, questions: Questions, part: ParentPart, progress: Progress
) -> tuple[FreeAnswer, ...]:
    """The child's own answers to some of the prompts beside the parent's."""
    rows = spread(list(zip(questions.prompts, part.answers, strict=True)), N_FREE)
    free = []
    with progress.task("The child answers", len(rows), "prompts") as task:
        for prompt, parents in rows:
            ids = child.greedy(tokens.prompt(prompt.question), ANSWER_TOKENS)
            free.append(
                FreeAnswer(
                    prompt=prompt.id,
                    question=prompt.question,
                    parent=tokens.tokenized(parents).text,
                    child=tokens.tokenized(ids).text,
                    same_text=tuple(ids) == parents,
                    same_doses=_doses(tokens, ids) == _doses(tokens, parents),
                )
            )
            task.advance()
    return tuple(free)


def _doses(tokens: TokenText, ids: Sequence[int]) -> list[tuple[object, ...]]:
    found = (span.quantity for span in dose_spans(tokens.tokenized(ids)))
    return [(q.kind, q.low, q.high, q.unit, q.comparator) for q in found]
