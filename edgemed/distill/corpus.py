"""What a teacher left behind, read again: the examples with the answers that are taught, and its scores of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import whole_file
from edgemed.distill.examples import Example, examples_digest
from edgemed.distill.shards import CorpusIdentity, ScoredAnswer, Shards

EXAMPLES = "examples.jsonl"


class Corpus:
    """One finished corpus. One shard is in memory at a time: go through the numbers in their order."""

    def __init__(self, shards: Shards, examples: Sequence[Example]) -> None:
        """`examples` as they were given to the teacher's stage. See `open`."""
        self._shards = shards
        self._held: tuple[int, list[ScoredAnswer]] = (-1, [])
        self.examples = tuple(_taught(shards, examples))
        """With the teacher's own answers where it was asked for them; an example without one keeps its reference."""

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """The corpus in `folder`. Reads every shard once, to compare digests.

        Raises UsageError for a folder that is no corpus, is not finished, or was damaged.
        """
        shards = Shards.open(folder)
        if missing := shards.missing():
            raise UsageError(
                f"The corpus in {folder} is not whole: {len(missing)} of {shards.manifest.n_shards} shards are missing"
                " or damaged.",
                next_step="run the teacher's stage again: it makes only what is missing",
            )
        return cls(shards, read_examples_of(shards))

    @property
    def identity(self) -> CorpusIdentity:
        """Which teacher, tokenizer, templates and settings made it."""
        return self._shards.manifest.identity

    def scored(self, number: int) -> ScoredAnswer | None:
        """The teacher's scores of one example's answer; None where it has none that is taught.

        Its arrays are views of the shard's: copy what is kept for long. Raises UsageError for a shard that was damaged.
        """
        shard = number // self._shards.manifest.shard_examples
        if self._held[0] != shard:
            self._held = (shard, self._shards.read(shard))
        found = self._held[1][number - self._shards.manifest.examples_of(shard).start]
        return found if len(found.ids) else None


def keep_examples(shards: Shards, examples: Sequence[Example]) -> None:
    """Write the examples beside their shards, where they are not there yet."""
    path = shards.folder / EXAMPLES
    if _read(path) == tuple(examples):
        return
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(example.model_dump_json() + "\n")


def read_examples_of(shards: Shards) -> tuple[Example, ...]:
    """The examples that a corpus was made of. Raises UsageError when their file is missing or another's."""
    found = _read(shards.folder / EXAMPLES)
    if found is None or examples_digest(found) != shards.manifest.identity.examples:
        raise UsageError(
            f"{shards.folder / EXAMPLES} is missing or damaged.",
            next_step="run the teacher's stage again: it mends that",
        )
    return found


def _read(path: Path) -> tuple[Example, ...] | None:
    try:
        with path.open("rb") as file:
            return tuple(Example.model_validate_json(line) for line in file)
    except (OSError, ValidationError):
        return None


def _taught(shards: Shards, examples: Sequence[Example]) -> list[Example]:
    if shards.manifest.identity.answers == "given":
        return list(examples)
    taught: list[Example] = []
    for shard in range(shards.manifest.n_shards):
        numbers = shards.manifest.examples_of(shard)
        answers = shards.generated(shard) or (None,) * len(numbers)
        for number, answer in zip(numbers, answers, strict=True):
            taught.append(examples[number].model_copy(update={"answer": answer}) if answer else examples[number])
    return taught
