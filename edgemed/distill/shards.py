"""The teacher's side of a corpus on disk: scored once, read in every epoch, resumed where it was cut.

    FOLDER/manifest.json            which teacher, tokenizer, templates, examples; how many shards
    FOLDER/shard-00007.safetensors  the answers of its examples, one behind the other
    FOLDER/shard-00007.answers      what the teacher answered, where it was asked: written before it is scored
    FOLDER/shard-00007.json         digests of both: written last, so a shard without it, or of others, is torn

Of every answer: its tokens with the log-probability of each, float32; at places where a mistake would hurt (drugs,
numerals) also the k likeliest tokens, float16. The log-probability of all other tokens together follows from those.
An example without an answer (none was accepted, or it is too long) holds no token.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import whole_file, write_text
from edgemed.core.records import Record, digest_of

MANIFEST = "manifest.json"
NO_TOKEN = -1
_Digest = Field(pattern=r"^[0-9a-f]{64}$")


class CorpusIdentity(Record):
    """All that scores depend on: a folder made for another one is not gone on with."""

    teacher: str = _Digest
    """Of the model's weights."""
    tokenizer: str = _Digest
    templates: str = _Digest
    examples: str = _Digest
    top_k: int = Field(ge=1)
    places: Literal["entities", "all"] = "entities"
    hidden: bool = False
    max_tokens: int = 0
    """Of prompt and answer, by the teacher's tokenizer; 0 is any number."""
    answers: Literal["given", "generated"] = "given"
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 0
    seed: int = 0
    """These four as the answers depend on them: as they are here for given ones."""


class Manifest(Record):
    """The whole corpus."""

    schema_version: Literal[1] = 1
    identity: CorpusIdentity
    n_examples: int = Field(ge=1)
    shard_examples: int = Field(ge=1)
    """Examples of a shard; the last may have fewer."""

    @property
    def n_shards(self) -> int:
        """Shards of the finished corpus."""
        return -(-self.n_examples // self.shard_examples)

    def examples_of(self, shard: int) -> range:
        """The numbers of a shard's examples."""
        start = shard * self.shard_examples
        return range(start, min(start + self.shard_examples, self.n_examples))


class ShardCounts(Record):
    """What a shard holds of its examples."""

    kept: int = Field(default=0, ge=0)
    too_long: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)
    """None of the teacher's answers agreed with the example's."""
    tokens: int = Field(default=0, ge=0)
    places: int = Field(default=0, ge=0)


class _ShardState(Record):
    identity: str = _Digest
    sha256: str = _Digest
    answers: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 of the file of generated answers; empty without one."""
    counts: ShardCounts = ShardCounts()


class _Generated(Record):
    """A file of answers, in the order of the shard's examples; None where none was accepted."""

    identity: str = _Digest
    shard: int
    answers: tuple[str | None, ...]
    sha256: str = _Digest
    """Of the answers, as a canonical list."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer as the teacher sees it, behind its question."""

    ids: npt.NDArray[np.int32]
    """(n,)."""
    log_probs: npt.NDArray[np.float32]
    """(n,), of each token given all before it."""
    places: npt.NDArray[np.int32]
    """(m,): tokens whose rivals are kept, rising."""
    top_ids: npt.NDArray[np.int32]
    """(m, k); NO_TOKEN where the teacher named fewer."""
    top_log_probs: npt.NDArray[np.float16]
    """(m, k), falling; -inf where there is no token."""
    hidden: npt.NDArray[np.float16] = field(default_factory=lambda: np.empty((0, 0), np.float16))
    """(n, teacher's hidden size): what the head reads once the token itself has been read; (0, 0) without."""


_FIELDS = ("ids", "log_probs", "places", "top_ids", "top_log_probs")
_HIDDEN = "hidden"


def no_answer(top_k: int) -> ScoredAnswer:
    """What stands for an example without an answer."""
    return ScoredAnswer(
        np.empty(0, np.int32),
        np.empty(0, np.float32),
        np.empty(0, np.int32),
        np.empty((0, top_k), np.int32),
        np.empty((0, top_k), np.float16),
    )


class Shards:
    """One corpus folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Begins the folder, or goes on with it. Raises UsageError when it was made of something else."""
        self.folder = folder
        self.manifest = manifest
        self._identity = manifest.identity.digest()
        self._hashed: dict[Path, tuple[int, int, str]] = {}
        path = folder / MANIFEST
        if path.exists():
            self._check_same(_read_manifest(path))
        else:
            write_text(path, manifest.model_dump_json(indent=2) + "\n")

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """A folder that exists. Raises UsageError for one that is no corpus."""
        return cls(folder, _read_manifest(folder / MANIFEST))

    def missing(self) -> list[int]:
        """Shards that are not there or torn. Reads every shard once, to compare digests."""
        return [number for number in range(self.manifest.n_shards) if self._state(number) is None]

    def remove_leftovers(self) -> None:
        """Remove half-written files of a process that was killed. For the one process that writes here."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)

    def write(self, number: int, answers: Sequence[ScoredAnswer | None], counts: ShardCounts | None = None) -> None:
        """Put one shard in its place, its digest last. `answers` are those of its examples, in their order."""
        if len(answers) != len(self.manifest.examples_of(number)):
            raise ValueError(f"{len(answers)} answers for {len(self.manifest.examples_of(number))} examples")
        from safetensors.numpy import save_file

        self._state_path(number).unlink(missing_ok=True)
        with whole_file(self._path(number)) as part:
            save_file(_arrays(answers, self.manifest.identity.top_k), part)
        generated = self._answers_path(number)
        state = _ShardState(
            identity=self._identity,
            sha256=self._sha256(self._path(number)),
            answers=self._sha256(generated) if self.manifest.identity.answers == "generated" else "",
            counts=counts or ShardCounts(),
        )
        write_text(self._state_path(number), state.model_dump_json() + "\n")

    def read(self, number: int) -> list[ScoredAnswer]:
        """The answers of one shard. Raises UsageError for one that is missing or torn."""
        self._require(number)
        from safetensors.numpy import load_file

        arrays = load_file(self._path(number))
        tokens, places = (list(_spans(arrays[f"{name}_ends"])) for name in ("ids", "places"))
        hidden = arrays.get(_HIDDEN, np.empty((0, 0), np.float16))
        return [
            ScoredAnswer(
                arrays["ids"][text],
                arrays["log_probs"][text],
                arrays["places"][at],
                arrays["top_ids"][at],
                arrays["top_log_probs"][at],
                hidden[text] if len(hidden) else hidden,
            )
            for text, at in zip(tokens, places, strict=True)
        ]

    def counts(self, number: int) -> ShardCounts:
        """What was counted when the shard was made. Raises UsageError for one that is missing or torn."""
        return self._require(number).counts

    def write_generated(self, number: int, answers: Sequence[str | None]) -> None:
        """Keep what the teacher answered, before it is scored: a shard that is cut there never generates again."""
        found = tuple(answers)
        content = _Generated(identity=self._identity, shard=number, answers=found, sha256=digest_of(found))
        write_text(self._answers_path(number), content.model_dump_json() + "\n")

    def generated(self, number: int) -> tuple[str | None, ...] | None:
        """What the teacher answered to the examples of a shard; None where nothing whole was kept for this corpus."""
        try:
            found = _Generated.model_validate_json(self._answers_path(number).read_bytes())
        except (OSError, ValidationError):
            return None
        same = (found.identity, found.shard) == (self._identity, number) and digest_of(found.answers) == found.sha256
        return found.answers if same and len(found.answers) == len(self.manifest.examples_of(number)) else None

    def _check_same(self, other: Manifest) -> None:
        mine, theirs = self.manifest.model_dump(), other.model_dump()
        mine |= mine.pop("identity")
        theirs |= theirs.pop("identity")
        if changed := [name for name in mine if mine[name] != theirs[name]]:
            raise UsageError(
                f"The corpus in {self.folder} was made with another {', '.join(changed)}.",
                next_step="name another folder, or remove that one",
            )

    def _require(self, number: int) -> _ShardState:
        state = self._state(number)
        if state is None:
            raise UsageError(
                f"{self._path(number)} is missing or damaged.",
                next_step="run the teacher's stage again: it makes only what is missing",
            )
        return state

    def _state(self, number: int) -> _ShardState | None:
        """What is known of a whole shard; None for one that is missing, torn, or of another corpus."""
        try:
            state = _ShardState.model_validate_json(self._state_path(number).read_bytes())
            same = state.identity == self._identity and state.sha256 == self._sha256(self._path(number))
            if same and state.answers:
                same = state.answers == self._sha256(self._answers_path(number))
        except (OSError, ValidationError):
            return None
        return state if same else None

    def _sha256(self, path: Path) -> str:
        """Computed once for a file that stays as it is, by its size and time."""
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            size, time_ns, digest = self._hashed.get(path, (-1, -1, ""))
            if (size, time_ns) != (status.st_size, status.st_mtime_ns):
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._hashed[path] = (status.st_size, status.st_mtime_ns, digest)
        return digest

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def _state_path(self, number: int) -> Path:
        return self._path(number).with_suffix(".json")

    def _answers_path(self, number: int) -> Path:
        return self._path(number).with_suffix(".answers")


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"{path.parent} is no corpus of a teacher: {MANIFEST} cannot be read.",
            next_step="make one with the teacher's stage",
        ) from error


def _spans(ends: npt.NDArray[np.int64]) -> Iterator[slice]:
    start = 0
    for end in ends.tolist():
        yield slice(start, end)
        start = end


def _arrays(answers: Sequence[ScoredAnswer | None], top_k: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a shard, each answer's behind the last one's, and where each ends."""
    rows = [answer or no_answer(top_k) for answer in answers]
    arrays: dict[str, npt.NDArray[Any]] = {
        name: np.concatenate([getattr(answer, name) for answer in rows]) for name in _FIELDS
    }
    for name in ("ids", "places"):
        arrays[f"{name}_ends"] = np.cumsum([len(getattr(answer, name)) for answer in rows], dtype=np.int64)
    if hidden := [answer.hidden for answer in rows if len(answer.hidden)]:
        arrays[_HIDDEN] = np.concatenate(hidden)
        if len(arrays[_HIDDEN]) != len(arrays["ids"]):
            raise ValueError("hidden states of some answers only")
    return arrays
