"""A GGUF as a scorer: the real engine in a process of its own, so that a file that ends it does not end us."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from edgemed.core.errors import EngineFailed, MissingExtra, UsageError
from edgemed.models.gguf import check_gguf

_LONGEST_SECONDS = 3600
"""For one question. A 7B model reads a prompt of 1,000 tokens in minutes on two old cores."""


class EngineScorer:
    """A Scorer on a GGUF file; also a context manager. Its process ends with `close`, and with this process.

    `context_length` bounds prompt and answer together; the KV cache is float32. `n_threads` 0: one for each core.
    Raises ModelRefused for a file that must not be given to the engine, EngineFailed when its process ends,
    MissingExtra without the engine.
    """

    def __init__(
        self, path: Path, *, context_length: int = 1024, n_threads: int = 0, longest_seconds: float = _LONGEST_SECONDS
    ) -> None:
        if find_spec("llama_cpp") is None:
            raise MissingExtra("llama-cpp-python", "llama-cpp")
        check_gguf(path)
        n_threads = n_threads or psutil.cpu_count(logical=False) or 1
        self.path = path
        self.context_length = context_length
        self._longest_seconds = longest_seconds
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - read after the process has ended
        # -P: no module of the folder we happen to stand in can pass for one of ours
        command = [sys.executable, "-P", "-m", "edgemed.evaluate.engine_child"]
        self._process = subprocess.Popen(
            [*command, str(path), str(context_length), str(n_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,  # a Ctrl-C is ours to handle
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            with self._answered():
                self.n_vocab: int = self._line()["n_vocab"]
        except BaseException:
            self.close()
            raise

    def greedy(self, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
        """See Scorer."""
        self._require(len(prompt_ids) + max_tokens, first=len(prompt_ids))
        with self._answered():
            self._ask({"greedy": list(prompt_ids), "max_tokens": max_tokens})
            ids: list[int] = self._line()["ids"]
        return ids

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """See Scorer."""
        self._require(len(ids), first)
        rows = np.empty((max(0, len(ids) - first), self.n_vocab), np.float32)
        if not len(rows):
            return rows
        with self._answered():
            self._ask({"logits": list(ids), "first": first})
            if self._line()["rows"] != len(rows):
                raise EOFError
            self._fill(rows.data.cast("B"))
        return rows

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._words):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __enter__(self) -> EngineScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require(self, n_tokens: int, first: int) -> None:
        if first < 1:
            raise ValueError("the first token of a text has no prediction")
        if n_tokens > self.context_length:
            raise UsageError(
                f"A text of {n_tokens} tokens was to be measured; {self.context_length} fit.",
                next_step="measure shorter texts, or open the scorer with a longer context",
            )

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """A question that must have its answer in time; the process is ended when it has not, or when we are."""
        late = Timer(self._longest_seconds, self._process.kill)
        late.daemon = True
        late.start()
        try:
            yield
        except (OSError, EOFError, ValueError, KeyError) as error:
            self._process.kill()
            raise self._failure(timed_out=late.finished.is_set()) from error
        except BaseException:  # an answer that was not read to its end would be taken for that of the next question
            self._process.kill()
            raise
        finally:
            late.cancel()

    def _ask(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fill(self, room: memoryview) -> None:
        assert self._process.stdout is not None
        while room:
            n = self._process.stdout.readinto(room)  # type: ignore[attr-defined]
            if not n:
                raise EOFError
            room = room[n:]

    def _failure(self, *, timed_out: bool) -> EngineFailed:
        code = self._process.wait()
        if timed_out:
            return EngineFailed(
                f"The engine gave no answer about {self.path.name} in {self._longest_seconds:g} s.",
                next_step="measure fewer or shorter texts, or on a faster machine",
            )
        self._words.seek(0)
        said = self._words.read().decode("utf-8", "replace").strip().splitlines()[-1:] or ["it gave no reason"]
        end = f"signal {-code}" if code < 0 else f"exit {code}"
        return EngineFailed(
            f"The engine stopped while {self.path.name} was measured ({end}): {said[0][:200]}.",
            next_step="look for free memory, and check that `edgemed ask` runs with this file",
        )
