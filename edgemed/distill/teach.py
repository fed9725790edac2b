"""The teacher's stage: every example asked once, its answer scored, and kept as shards.

    1  the teacher, its tokenizer, the templates and the examples make the corpus's identity; another one is refused
    2  shards that are whole are left alone
    3  an answer is the example's own, or the first of the teacher's that agrees with it (agreement.py)
    4  it is scored: each token's log-probability, and the likeliest tokens where a mistake would hurt
    5  the shard is put in its place; a cut costs the shard that was being made, and never a generated answer twice

One shard is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.progress import Progress, SilentProgress, Task
from edgemed.core.records import Record
from edgemed.distill.agreement import agrees, final_answer
from edgemed.distill.backends import check_backend, open_teacher, tokenizer_folder
from edgemed.distill.backends.base import Teacher, ToScore
from edgemed.distill.config import DistillConfig
from edgemed.distill.corpus import keep_examples
from edgemed.distill.entity_spans import places_of
from edgemed.distill.examples import Example, examples_digest
from edgemed.distill.rendering import Rendered, Side, thinks
from edgemed.distill.shards import NO_TOKEN, CorpusIdentity, Manifest, ScoredAnswer, ShardCounts, Shards
from edgemed.engines.thinking import CLOSE, OPEN
from edgemed.medical.prompts import templates_digest

_MOST_NAMED = 10
_BATCHES_AT_ONCE = 8
"""Of like length, between two signs of progress."""
_Item = TypeVar("_Item")


class TeachReport(Record):
    """A finished corpus."""

    n_shards: int
    n_made: int
    """Of them in this run; the others were there."""
    n_examples: int
    n_kept: int
    """With an answer and its scores."""
    n_rejected: int
    """None of the teacher's answers agreed with the example's."""
    n_too_long: int
    n_tokens: int
    """Of the answers."""
    n_places: int
    """Tokens whose likeliest rivals were kept."""
    seconds: float


@dataclass(frozen=True, slots=True)
class _Work:
    """All that making a shard needs."""

    config: DistillConfig
    side: Side
    teacher: Teacher
    examples: Sequence[Example]
    shards: Shards
    task: Task

    @property
    def generates(self) -> bool:
        return self.config.teach.answers == "generated"

    @property
    def group(self) -> int:
        """Examples that the teacher is asked about at once."""
        return len(self.examples) if self.teacher.starts_slowly else self.config.teacher.batch * _BATCHES_AT_ONCE


@dataclass(slots=True)
class _Counted:
    kept: int = 0
    too_long: int = 0
    rejected: int = 0
    tokens: int = 0
    places: int = 0
    answers: list[ScoredAnswer | None] = field(default_factory=list)

    def counts(self) -> ShardCounts:
        return ShardCounts(
            kept=self.kept, too_long=self.too_long, rejected=self.rejected, tokens=self.tokens, places=self.places
        )


def teach(
    config: DistillConfig,
    examples: Sequence[Example],
    folder: Path,
    progress: Progress | None = None,
    teacher: Teacher | None = None,
) -> TeachReport:
    """What was made of the examples in `folder`; whole shards that are there are kept.

    `teacher` stands in for the one that the configuration names. Raises UsageError when the folder holds another
    corpus, or for settings that do not fit together; EdgemedError when the teacher gives no sound numbers.
    """
    begun = time.monotonic()
    progress = progress or SilentProgress()
    check_backend(config)
    _check_examples(examples)
    side = Side(tokenizer_folder(config.teacher))
    teacher = teacher or open_teacher(config, progress)
    try:
        manifest = Manifest(
            identity=_identity(config, side, teacher, examples),
            n_examples=len(examples),
            shard_examples=config.teach.shard_examples,
        )
        shards = Shards(folder, manifest)
        shards.remove_leftovers()
        keep_examples(shards, examples)
        missing = shards.missing()
        rounds = 1 + config.teach.samples * (config.teach.answers == "generated")
        total = rounds * sum(len(manifest.examples_of(number)) for number in missing)
        if len(missing) < manifest.n_shards:
            progress.note(f"{manifest.n_shards - len(missing)} of {manifest.n_shards} shards are there already")
        with progress.task("Asking the teacher", total, "answers") as task:
            work = _Work(config, side, teacher, examples, shards, task)
            for number in missing:
                task.describe(f"Asking the teacher, shard {number + 1} of {manifest.n_shards}")
                _make(work, number)
    finally:
        teacher.close()
    return _report(shards, len(missing), time.monotonic() - begun)


def _check_examples(examples: Sequence[Example]) -> None:
    """Raises UsageError for what no side could render: all of it, before hours are spent on the others."""
    if not examples:
        raise UsageError("There is no example to teach.", next_step="name a file with examples as data.examples")
    thinking = (example for example in examples if example.answer.lstrip().startswith(OPEN))
    if endless := [example.id for example in thinking if not final_answer(example.answer)]:
        named = ", ".join(endless[:_MOST_NAMED]) + (
            f" and {len(endless) - _MOST_NAMED} more" * (len(endless) > _MOST_NAMED)
        )
        raise UsageError(
            f"The answers of {named} hold reasoning and nothing behind it.",
            next_step=f"end the reasoning with {CLOSE} and give the answer, or leave those examples out",
        )


def _identity(config: DistillConfig, side: Side, teacher: Teacher, examples: Sequence[Example]) -> CorpusIdentity:
    wanted = config.teach
    own = {}
    if wanted.answers == "generated":
        own = {
            "answers": wanted.answers,
            "samples": wanted.samples,
            "temperature": wanted.temperature,
            "max_new_tokens": wanted.max_new_tokens,
            "seed": config.seed,
        }
    return CorpusIdentity.model_validate(
        {
            "teacher": teacher.digest,
            "tokenizer": side.digest,
            "templates": templates_digest(),
            "examples": examples_digest(examples),
            "top_k": wanted.top_k,
            "places": wanted.places,
            "hidden": wanted.hidden,
            "max_tokens": config.data.max_tokens,
            **own,
        }
    )


def _make(work: _Work, number: int) -> None:
    """One shard, from its examples to its place."""
    numbers = work.shards.manifest.examples_of(number)
    examples = [work.examples[n] for n in numbers]
    answers: Sequence[str | None] = [example.answer for example in examples]
    if work.generates:
        kept = work.shards.generated(number)
        if kept is None:
            kept = tuple(_own_answers(work, examples))
            work.shards.write_generated(number, kept)
        else:
            work.task.advance(len(examples) * work.config.teach.samples)
        answers = kept
    found = _scored(work, examples, answers)
    work.shards.write(number, found.answers, found.counts())


def _own_answers(work: _Work, examples: Sequence[Example]) -> list[str | None]:
    """The teacher's first answer to each example that agrees with the example's; what is replayed keeps its own."""
    teach = work.config.teach
    answers: list[str | None] = [example.answer if example.kind == "replay" else None for example in examples]
    limit = work.config.data.max_tokens
    prompts = [[*work.side.prompt(e.question, thinks=work.side.reasons), *work.side.opening] for e in examples]
    open_ones = [n for n, answer in enumerate(answers) if answer is None and len(prompts[n]) < limit]
    work.task.advance((len(examples) - len(open_ones)) * teach.samples)
    at_once = teach.samples if work.teacher.starts_slowly else 1
    for first in range(0, teach.samples, at_once):
        for group in _groups(open_ones, [len(prompts[n]) for n in open_ones], work.group):
            found = work.teacher.generate(
                [prompts[n] for n in group], at_once, teach.temperature, teach.max_new_tokens, first
            )
            for n, samples in zip(group, found, strict=True):
                texts = (work.side.opening_text + one.text for one in samples if one.finished)
                answers[n] = next((text for text in texts if _accepted(work.side, text, examples[n])), None)
                work.task.advance(at_once if answers[n] is None else teach.samples - first)
        open_ones = [n for n in open_ones if answers[n] is None]
    return answers


def _accepted(side: Side, text: str, example: Example) -> bool:
    if not agrees(text, example.answer, example.question):
        return False
    try:
        side.answer(text)
    except UsageError:
        return False  # what cannot be rendered cannot be taught
    return True


def _scored(work: _Work, examples: Sequence[Example], answers: Sequence[str | None]) -> _Counted:
    """The teacher's scores of the answers; none for those that are missing or too long."""
    found = _Counted(answers=[None] * len(examples))
    items: dict[int, ToScore] = {}
    for n, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        if answer is None:
            asked = len(work.side.prompt(example.question)) < work.config.data.max_tokens
            found.rejected += asked
            found.too_long += not asked
            continue
        item = _to_score(work, example, answer)
        if len(item.prompt) + len(item.answer) > work.config.data.max_tokens:
            found.too_long += 1
        else:
            items[n] = item
    work.task.advance(len(examples) - len(items))
    numbers = list(items)
    lengths = [len(items[n].prompt) + len(items[n].answer) for n in numbers]
    for group in _groups(numbers, lengths, work.group):
        scores = work.teacher.score([items[n] for n in group])
        for n, scored in zip(group, scores, strict=True):
            _require_sound(scored, items[n], examples[n])
            found.answers[n] = scored
            found.kept += 1
            found.tokens += len(scored.ids)
            found.places += len(scored.places)
        work.task.advance(len(group))
    return found


def _to_score(work: _Work, example: Example, answer: str) -> ToScore:
    try:
        rendered = work.side.answer(answer)
    except UsageError as error:  # the tokenizer cannot spell it
        raise UsageError(f"Example {example.id!r}: {error.what}", next_step=error.next_step) from error
    prompt = work.side.prompt(example.question, thinks=thinks(answer))
    return ToScore(prompt, rendered.ids, np.asarray(_places(work, rendered), np.int32))


def _places(work: _Work, rendered: Rendered) -> Sequence[int]:
    return range(len(rendered.ids)) if work.config.teach.places == "all" else places_of(rendered)


def _require_sound(scored: ScoredAnswer, item: ToScore, example: Example) -> None:
    """A teacher in too small a number format, or a broken server, must not be learned from."""
    right = list(scored.ids) == list(item.answer) and len(scored.log_probs) == len(item.answer)
    right = right and list(scored.places) == item.places.tolist() and len(scored.top_ids) == len(item.places)
    numbers = (scored.log_probs, scored.top_log_probs[scored.top_ids != NO_TOKEN], scored.hidden)
    if not right or not all(np.isfinite(values).all() for values in numbers) or (scored.log_probs > 1e-3).any():
        raise EdgemedError(
            f"The teacher's scores of example {example.id!r} are no log-probabilities.",
            next_step='check the teacher; with teacher.dtype = "float32" numbers cannot overflow',
        )


def _groups(items: Sequence[_Item], lengths: Sequence[int], size: int) -> Iterator[list[_Item]]:
    """All items, at most `size` at a time, the longest first."""
    order = sorted(range(len(items)), key=lambda n: -lengths[n])
    for start in range(0, len(order), size):
        yield [items[n] for n in order[start : start + size]]


def _report(shards: Shards, n_made: int, seconds: float) -> TeachReport:
    counts = [shards.counts(number) for number in range(shards.manifest.n_shards)]
    return TeachReport(
        n_shards=shards.manifest.n_shards,
        n_made=n_made,
        n_examples=shards.manifest.n_examples,
        n_kept=sum(one.kept for one in counts),
        n_rejected=sum(one.rejected for one in counts),
        n_too_long=sum(one.too_long for one in counts),
        n_tokens=sum(one.tokens for one in counts),
        n_places=sum(one.places for one in counts),
        seconds=round(seconds, 3),
    )
