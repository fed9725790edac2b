"""One side of a distillation, teacher or student: texts as its tokens, prompts as it was taught to read them.

A prompt goes through the project's template and the model's own. The answer does not: chat templates of reasoning
models drop what stands before "</think>", so the training string is the prompt and our own rendering of the answer:

    <think>\\nREASONING\\n</think>\\n\\nANSWER END        or        ANSWER END

with the tags as the model's own tokens where they are tokens, spelled out where they are not, and END the token that
ends an assistant's turn in the model's template. Both sides read one text, normalised here and nowhere else.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path

from edgemed.core.errors import UsageError
from edgemed.core.prompt import Message
from edgemed.distill.alignment import Piece
from edgemed.engines.thinking import CLOSE, OPEN
from edgemed.evaluate.token_text import TokenText
from edgemed.medical.prompts import messages_for
from edgemed.models.tokenizer import chat_template_of

END_ROLE, OPEN_ROLE, CLOSE_ROLE = "eos", "think", "/think"


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer as tokens, its end token among them."""

    ids: tuple[int, ...]
    pieces: tuple[Piece, ...]
    thinking: tuple[bool, ...]
    """True for the tokens of the reasoning and of its tags."""
    text: str
    """What the pieces' bytes spell: without tags and end."""

    def starts(self) -> list[int]:
        """The byte of the text at which each token starts, and the end of the text."""
        return [0, *accumulate(len(piece.data) for piece in self.pieces)]


class Side:
    """The tokenizer and the chat template of a checkpoint's folder.

    Raises ModelRefused when either is broken, UsageError when no token ends an answer.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokens = TokenText(folder)
        end = self._tokens.end_of_turn()
        if end is None:
            raise UsageError(
                f"The tokenizer in {folder} names no token that ends an answer.",
                next_step="give it a chat template, or name its eos_token in tokenizer_config.json",
            )
        self.end: int = end
        self._pieces: dict[int, Piece] = {}
        self._roles = {OPEN_ROLE: self._tokens.special_ids(OPEN), CLOSE_ROLE: self._tokens.special_ids(CLOSE)}
        self._roles[END_ROLE] = [end]

    @property
    def reasons(self) -> bool:
        """Whether the model thinks between tags before it answers."""
        return self._tokens.reasons

    @property
    def opening(self) -> list[int]:
        """What a reasoning model's answer begins with behind `prompt(question, thinks=True)`; empty for others."""
        return [*self._roles[OPEN_ROLE], *self._tokens.ids("\n")] if self.reasons else []

    @property
    def opening_text(self) -> str:
        """`opening` as text."""
        return f"{OPEN}\n" if self.reasons else ""

    def prompt(self, question: str, *, thinks: bool = False) -> list[int]:
        """Tokens of everything before the answer; `thinks` where that begins with reasoning."""
        return self._tokens.prompt_of(_messages(question), thinks=thinks)

    def answer(self, text: str) -> Rendered:
        """The answer in its normal form.

        Raises UsageError when it is no answer, or when the tokenizer cannot spell it.
        """
        ids: list[int] = []
        pieces: list[Piece] = []
        thinking: list[bool] = []
        said: list[str] = []
        reasoning = thinks(text)
        for role, part in _parts(text):
            if role:
                found = self._roles[role]
                pieces += [Piece(b"", role)] * len(found)
            else:
                found, cut = self._spelled(part)
                pieces += cut
                said.append(part)
            ids += found
            thinking += [reasoning] * len(found)
            reasoning = reasoning and role != CLOSE_ROLE
        return Rendered(tuple(ids), tuple(pieces), tuple(thinking), "".join(said))

    def role_ids(self) -> dict[str, int]:
        """The token of each role that is one token here."""
        return {role: ids[0] for role, ids in self._roles.items() if len(ids) == 1}

    def vocabulary(self) -> tuple[bytes, ...]:
        """The bytes of every token by its number; empty for special tokens, tags, and numbers without a token."""
        return self._vocabulary

    @cached_property
    def _vocabulary(self) -> tuple[bytes, ...]:
        found = list(self._tokens.tokenized(range(self._tokens.n_tokens)).pieces)
        for token in self.role_ids().values():
            found[token] = b""
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tokenizer's file and the chat template with its tokens."""
        found = hashlib.sha256((self.folder / "tokenizer.json").read_bytes())
        found.update(repr((chat_template_of(self.folder), self.end)).encode())
        return found.hexdigest()

    def _spelled(self, text: str) -> tuple[list[int], list[Piece]]:
        ids = self._tokens.ids(text)
        pieces = [self._piece(token) for token in ids]
        spelled, wanted = b"".join(piece.data for piece in pieces), text.encode()
        if spelled == b" " + wanted:  # SentencePiece begins every text with a blank of its own
            first = next(number for number, piece in enumerate(pieces) if piece.data)
            pieces[first] = Piece(pieces[first].data[1:])
        elif spelled != wanted:
            raise UsageError(
                f"The tokenizer in {self.folder} cannot spell a text that is taught.",
                next_step="leave such texts out, or take a tokenizer that has every byte",
            )
        return ids, pieces

    def _piece(self, token: int) -> Piece:
        found = self._pieces.get(token)
        if found is None:
            (data,) = self._tokens.tokenized([token]).pieces
            found = self._pieces[token] = Piece(data)
        return found


@lru_cache(maxsize=8192)
def _messages(question: str) -> list[Message]:
    """Kept for a while: to find a question's category takes longer than all else about a lesson of some lines."""
    return messages_for(question)


def thinks(answer: str) -> bool:
    """Whether an answer begins with reasoning."""
    reasoning, _ = _split(answer)
    return bool(reasoning)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Role and text of each part of an answer, one of both empty."""
    reasoning, answer = _split(text)
    if not answer:
        raise UsageError("A text that is taught holds no answer.", next_step="leave it out")
    if reasoning:
        yield from ((OPEN_ROLE, ""), ("", f"\n{reasoning}\n"), (CLOSE_ROLE, ""), ("", f"\n\n{answer}"))
    else:
        yield "", answer
    yield END_ROLE, ""


def _split(text: str) -> tuple[str, str]:
    """Reasoning and answer, composed (NFC) and without blanks around; a reasoning that never ends has no answer."""
    whole = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()).strip()
    if not whole.startswith(OPEN):
        return "", whole
    reasoning, _, answer = whole.removeprefix(OPEN).partition(CLOSE)
    return reasoning.strip(), answer.strip()
