"""The teacher's side of a corpus on disk: scored once, read in every epoch, resumed where it was cut.

    FOLDER/manifest.json            which teacher, tokenizer, templates, examples; how many shards
    FOLDER/shard-00007.safetensors  the answers of its examples, one behind the other
    FOLDER/shard-00007.json         its digest: written last, so a shard without it, or of another digest, is torn

Of every answer: its tokens with the log-probability of each, float32; at places where a mistake would hurt (drugs,
numerals) also the k likeliest tokens, float16. The log-probability of all other tokens together follows from those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from edgemed.core.errors import UsageError
from edgemed.core.files import whole_file, write_text
from edgemed.core.records import Record

MANIFEST = "manifest.json"
_Digest = Field(pattern=r"^[0-9a-f]{64}$")


class CorpusIdentity(Record):
    """All that scores depend on: a folder made for another one is not gone on with."""

    teacher: str = _Digest
    """Of the model's weights."""
    tokenizer: str = _Digest
    templates: str = _Digest
    examples: str = _Digest
    top_k: int = Field(ge=1)


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


class _ShardState(Record):
    identity: str = _Digest
    sha256: str = _Digest


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
    """(m, k)."""
    top_log_probs: npt.NDArray[np.float16]
    """(m, k), falling."""


_FIELDS = ("ids", "log_probs", "places", "top_ids", "top_log_probs")


class Shards:
    """One corpus folder."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Begins the folder, or goes on with it. Raises UsageError when it was made of something else."""
        self.folder = folder
        self.manifest = manifest
        self._identity = manifest.identity.digest()
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
        return [number for number in range(self.manifest.n_shards) if not self._is_whole(number)]

    def write(self, number: int, answers: Sequence[ScoredAnswer]) -> None:
        """Put one shard in its place, its digest last. `answers` are those of its examples, in their order."""
        if len(answers) != len(self.manifest.examples_of(number)):
            raise ValueError(f"{len(answers)} answers for {len(self.manifest.examples_of(number))} examples")
        from safetensors.numpy import save_file

        self._state_path(number).unlink(missing_ok=True)
        arrays = {name: np.concatenate([getattr(answer, name) for answer in answers]) for name in _FIELDS}
        for name in ("ids", "places"):
            arrays[f"{name}_ends"] = np.cumsum([len(getattr(answer, name)) for answer in answers], dtype=np.int64)
        with whole_file(self._path(number)) as part:
            save_file(arrays, part)
        state = _ShardState(identity=self._identity, sha256=_sha256(self._path(number)))
        write_text(self._state_path(number), state.model_dump_json() + "\n")

    def read(self, number: int) -> list[ScoredAnswer]:
        """The answers of one shard. Raises UsageError for one that is missing or torn."""
        if not self._is_whole(number):
            raise UsageError(
                f"{self._path(number)} is missing or damaged.",
                next_step="run the teacher's stage again: it makes only what is missing",
            )
        from safetensors.numpy import load_file

        arrays = load_file(self._path(number))
        tokens, places = (list(_spans(arrays[f"{name}_ends"])) for name in ("ids", "places"))
        return [
            ScoredAnswer(
                arrays["ids"][text],
                arrays["log_probs"][text],
                arrays["places"][at],
                arrays["top_ids"][at],
                arrays["top_log_probs"][at],
            )
            for text, at in zip(tokens, places, strict=True)
        ]

    def _check_same(self, other: Manifest) -> None:
        mine, theirs = self.manifest.model_dump(), other.model_dump()
        mine |= mine.pop("identity")
        theirs |= theirs.pop("identity")
        if changed := [name for name in mine if mine[name] != theirs[name]]:
            raise UsageError(
                f"The corpus in {self.folder} was made with another {', '.join(changed)}.",
                next_step="name another folder, or remove that one",
            )

    def _is_whole(self, number: int) -> bool:
        try:
            state = _ShardState.model_validate_json(self._state_path(number).read_bytes())
            return state.identity == self._identity and state.sha256 == _sha256(self._path(number))
        except (OSError, ValidationError):
            return False

    def _path(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.safetensors"

    def _state_path(self, number: int) -> Path:
        return self._path(number).with_suffix(".json")


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
