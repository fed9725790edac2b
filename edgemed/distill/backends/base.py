"""What a teacher can be asked, wherever it runs: what it thinks of a text, and its own answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import ModelRefused
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.records import digest_of
from edgemed.distill.shards import NO_TOKEN, ScoredAnswer
from edgemed.engines.thinking import CLOSE, OPEN
from edgemed.evaluate.torch_scorer import ends_of
from edgemed.models.tokenizer import open_tokenizer

_READ_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class ToScore:
    """One answer behind its question, in the teacher's tokens."""

    prompt: Sequence[int]
    answer: Sequence[int]
    places: npt.NDArray[np.int32]
    """(m,): tokens of the answer, rising, at which the likeliest tokens are wanted as well."""


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer of the teacher's own."""

    text: str
    finished: bool
    """False where it was cut for its length: it must not be taught, its end is none."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of every teacher of one corpus."""

    top_k: int
    """Likeliest tokens at a place."""
    seed: int = 0
    hidden: bool = False
    max_tokens: int = 4096
    """Of prompt and answer."""


class Teacher(Protocol):
    """A model that knows. Opening one is quick: weights are loaded when it is first asked."""

    digest: str
    """SHA-256 of its weights; of its name, where they are on another machine."""
    hidden_size: int
    """Of the hidden states that it can give; 0 where it gives none."""
    starts_slowly: bool
    """True where every call costs minutes: all samples of all questions are then asked for at once."""

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        """Log-probabilities of each answer's tokens, with the likeliest at its places; in the order of the items."""

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        """n answers to each prompt, those numbered from `first` on.

        What is drawn follows from the seed, the prompt and the number alone; temperature 0 takes the likeliest.
        """

    def close(self) -> None:
        """Let go of the model."""


class AnswerTokens:
    """Between a teacher's own tokens and the text of an answer."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds the tokenizer. Raises ModelRefused when it is broken."""
        self._tokenizer = open_tokenizer(folder)
        tags = {self._tokenizer.token_to_id(tag) for tag in (OPEN, CLOSE)}
        self.ends = frozenset(ends_of(folder) - tags)
        """Any special token ends an answer, but for those of thinking."""

    def generated(self, ids: Sequence[int]) -> Generated:
        """The answer of some tokens, up to the first that ends it."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), len(ids))
        text: str = self._tokenizer.decode(list(ids[:end]), skip_special_tokens=False)
        return Generated(text.strip(), end < len(ids))

    def ids_of(self, text: str) -> list[int]:
        """Tokens of a plain text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    @cached_property
    def id_of_text(self) -> dict[str, int]:
        """The token that is written so; what several are written as is left out."""
        found: dict[str, int] = {}
        several: set[str] = set()
        for token in range(self._tokenizer.get_vocab_size(with_added_tokens=True)):
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            if text in found:
                several.add(text)
            found[text] = token
        return {text: token for text, token in found.items() if text not in several}


def rival_arrays(
    rows: Sequence[Sequence[tuple[int, float]]], top_k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float16]]:
    """Tokens and log-probabilities (rows, top_k) of the likeliest, falling; -1 and -inf where there are fewer."""
    ids = np.full((len(rows), top_k), NO_TOKEN, np.int32)
    values = np.full((len(rows), top_k), -np.inf, np.float16)
    least = float(np.finfo(np.float16).min)
    for row, found in enumerate(rows):
        for column, (token, value) in enumerate(sorted(found, key=lambda pair: -pair[1])[:top_k]):
            ids[row, column], values[row, column] = token, max(value, least)
    return ids, values


def seed_of(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one sample, 60 bits: equal in every run, whatever else is asked beside it."""
    return int(digest_of([seed, list(prompt), sample])[:15], 16)


def weights_digest(folder: Path, progress: Progress | None = None) -> str:
    """SHA-256 over the weights' files and the configuration; reads every byte once.

    Raises ModelRefused for a folder without safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise ModelRefused(
            f"{folder} holds no teacher: config.json or *.safetensors are missing.",
            next_step="name a Hugging Face folder with both",
        )
    files.append(folder / "config.json")
    total = sum(path.stat().st_size for path in files)
    content = hashlib.sha256()
    with (progress or SilentProgress()).task("Reading the teacher's weights", total, "B") as task:
        for path in files:
            content.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    content.update(block)
                    task.advance(len(block))
    return content.hexdigest()
