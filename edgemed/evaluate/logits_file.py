"""Logits of a model kept on the disk, so that parent and child need not be in memory together.

Two files: the rows in float32, one after the other (a report over 164 prompts of a 7B model needs some 10 GB), and an
index, written last. Float16 would not do: its steps near 20, a usual logit, are 0.016.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.files import write_text
from edgemed.core.records import digest_of
from edgemed.core.units import format_bytes


class LogitsFile:
    """Rows of logits by the question they answer, see Scorer.logits; a context manager.

    A path without an index is a new file to `put` rows in; one with an index is read. Raises UsageError for an index
    that does not belong to its rows, EdgemedError for a disk that is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index_path = path.with_name(f"{path.name}.json")
        self._places: dict[str, tuple[int, int]] = {}
        """Digest of a question: first row, number of rows."""
        self._n_rows = 0
        self._n_vocab = 0
        self._writes = not self._index_path.is_file()
        if not self._writes:
            self._read_index()
        self._file = path.open("wb" if self._writes else "rb")

    def require_room(self, n_rows: int, n_vocab: int) -> None:
        """Raise EdgemedError, with the sizes, unless the disk has room for so many rows."""
        needed, free = 4 * n_rows * n_vocab, shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise EdgemedError(
                f"The parent's predictions need {format_bytes(needed)} at {self._path.parent}; {format_bytes(free)} "
                "is free.",
                next_step="free space on that disk, or name another place",
            )

    def put(self, ids: Sequence[int], first: int, rows: npt.NDArray[np.float32]) -> None:
        """Keep the answer to one question."""
        if not self._writes:
            raise UsageError(f"{self._path} is finished.", next_step="name another file")
        if self._n_vocab not in (0, rows.shape[1]):
            raise ValueError(f"rows of {rows.shape[1]} logits after rows of {self._n_vocab}")
        try:
            self._file.write(np.ascontiguousarray(rows, np.float32).data)
        except OSError as error:
            raise EdgemedError(
                f"{self._path} could not be written: {error.strerror}.", next_step="free space on that disk"
            ) from error
        self._places[_key(ids, first)] = (self._n_rows, len(rows))
        self._n_rows += len(rows)
        self._n_vocab = rows.shape[1]

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """The answer that was kept. Raises UsageError for a question that was not asked."""
        if self._writes:
            raise ValueError(f"{self._path} is still being written")
        place = self._places.get(_key(ids, first))
        if place is None:
            raise UsageError(
                f"{self._path} holds no logits for a text of {len(ids)} tokens that is asked for.",
                next_step="delete it, and let the parent be measured again with these questions",
            )
        start, n_rows = place
        self._file.seek(4 * start * self._n_vocab)
        rows = np.fromfile(self._file, np.float32, n_rows * self._n_vocab)
        return rows.reshape(n_rows, self._n_vocab)

    def close(self) -> None:
        """Write the index, where this is a new file."""
        self._file.close()
        if self._writes:
            index = {"n_rows": self._n_rows, "n_vocab": self._n_vocab, "places": self._places}
            write_text(self._index_path, json.dumps(index))
            self._writes = False

    def __enter__(self) -> LogitsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _read_index(self) -> None:
        try:
            index = json.loads(self._index_path.read_text(encoding="utf-8"))
            self._n_rows, self._n_vocab = int(index["n_rows"]), int(index["n_vocab"])
            self._places = {str(key): (int(start), int(n)) for key, (start, n) in index["places"].items()}
            whole = self._path.stat().st_size == 4 * self._n_rows * self._n_vocab
            inside = all(start >= 0 and n >= 0 and start + n <= self._n_rows for start, n in self._places.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = inside = False
        if not (whole and inside):
            raise UsageError(
                f"{self._index_path} does not belong to the logits beside it.", next_step="delete both files"
            )


def _key(ids: Sequence[int], first: int) -> str:
    return digest_of([list(ids), first])
