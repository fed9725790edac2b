"""Between text and token ids, exactly: the prompt of a question, and the bytes that each token stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from edgemed.core.prompt import Message, PromptPart
from edgemed.engines.prompt_tokens import PromptTokenizer, SpecialToken
from edgemed.engines.thinking import CLOSE, CLOSING, OPEN, is_reasoning
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat
from edgemed.models.config import read_json
from edgemed.models.tokenizer import chat_template_of, eos_of, open_tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"
"""SentencePiece writes a space as this block."""


@dataclass(frozen=True)
class TokenizedText:
    """Tokens and the bytes they stand for."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]

    @cached_property
    def text(self) -> str:
        """The text, in which each byte that is no UTF-8 became "?": byte offsets stay true."""
        found = b"".join(self.pieces).decode("utf-8", "surrogateescape")
        return re.sub("[\udc80-\udcff]", "?", found)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The byte at which each token starts, and the end of the text."""
        return (0, *accumulate(map(len, self.pieces)))

    def tokens_of(self, start: int, end: int) -> range:
        """The tokens that hold any of the bytes from `start` to `end`, also those cut by either."""
        inside = [
            n for n, piece in enumerate(self.pieces) if piece and self.starts[n] < end and self.starts[n + 1] > start
        ]
        return range(inside[0], inside[-1] + 1) if inside else range(0)


class TokenText:
    """The tokenizer and the chat template of a checkpoint's folder. Raises ModelRefused when either is broken."""

    def __init__(self, checkpoint: Path) -> None:
        self._tokenizer = open_tokenizer(checkpoint)
        self._template = chat_template_of(checkpoint)
        self._eos = eos_of(checkpoint)
        content = read_json(checkpoint / "tokenizer.json")
        self._byte_level = "ByteLevel" in _kinds(content.get("decoder"))
        added = [token for token in content.get("added_tokens") or [] if isinstance(token, dict)]
        self._added = {int(token["id"]): str(token["content"]) for token in added}
        special = {
            str(token["content"]): SpecialToken(int(token["id"]), bool(token.get("lstrip")), bool(token.get("rstrip")))
            for token in added
            if token.get("special")
        }
        self._special = {token.id for token in special.values()}
        self._tokenizer.encode_special_tokens = True  # a special token is one in the template's own text only
        tags = [self._tokenizer.token_to_id(tag) is not None for tag in (OPEN, CLOSE)]
        self.reasons = self._template is not None and is_reasoning(self._template[0], both_are_tokens=all(tags))
        """Whether the model thinks between tags before it answers."""
        self._prompts = PromptTokenizer(special, self.ids, self._bos())

    def prompt(self, question: str, opening: str = "", *, thinks: bool = False) -> list[int]:
        """Token ids of the question in the project's template and the model's own, and of the answer's `opening`.

        A reasoning model finds its thinking ended before it began; one that `thinks` finds it not yet begun.
        """
        return self.prompt_of(messages_for(question), opening, thinks=thinks)

    def prompt_of(self, messages: Sequence[Message], opening: str = "", *, thinks: bool = False) -> list[int]:
        """`prompt` of a conversation."""
        if self._template is None:
            parts = [PromptPart("\n\n".join(message["content"] for message in messages) + "\n\n", special=True)]
        else:
            template, bos, eos = self._template
            parts = render_chat(template, messages, bos_token=bos, eos_token=eos)
            opened = parts[-1].text.rstrip().endswith(OPEN)
            if self.reasons and not thinks:
                parts.append(PromptPart(CLOSING if opened else f"{OPEN}\n{CLOSING}", special=True))
            elif opened:
                parts[-1] = PromptPart(parts[-1].text.rstrip().removesuffix(OPEN), special=True)
        return self._prompts.ids([*parts, PromptPart(opening, special=False)] if opening else parts)

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a text that is no conversation, with the model's BOS where it wants one."""
        return self._prompts.ids([PromptPart(text, special=False)])

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text; the text of a special token is spelled out."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def tokenized(self, ids: Sequence[int]) -> TokenizedText:
        """The tokens with their bytes; special ones, and numbers that name no token, stand for none."""
        return TokenizedText(tuple(ids), tuple(self._piece(token) for token in ids))

    def special_ids(self, text: str) -> list[int]:
        """The token that this text is in the template, a tag or an end; its spelling where it is no token."""
        token: int | None = self._tokenizer.token_to_id(text)
        return self.ids(text) if token is None else [token]

    def end_of_turn(self) -> int | None:
        """The token behind an assistant's turn in the model's template, else EOS; None without either."""
        behind = self._eos
        if self._template is not None:
            template, bos, eos = self._template
            turns: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
            parts = render_chat(template, turns, bos_token=bos, eos_token=eos, add_generation_prompt=False)
            if parts[-1].special and not parts[-2].special and parts[-2].text == "!":
                behind = parts[-1].text.lstrip()
        found = [token for token, text in self._added.items() if text and behind.startswith(text)]
        longest = max(found, key=lambda token: len(self._added[token]), default=None)
        return self._tokenizer.token_to_id(self._eos) if longest is None and self._eos else longest

    @property
    def n_tokens(self) -> int:
        """Tokens of the vocabulary, added ones among them."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def _piece(self, token: int) -> bytes:
        if token in self._special:
            return b""
        if token in self._added:
            return self._added[token].encode()
        text: str | None = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            letters = _byte_of_letter()
            return b"".join(bytes([letters[letter]]) if letter in letters else letter.encode() for letter in text)
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()

    def _bos(self) -> int | None:
        plain, whole = (self._tokenizer.encode("a", add_special_tokens=adds).ids for adds in (False, True))
        return int(whole[0]) if whole[:1] != plain[:1] and whole[0] in self._special else None


def _kinds(decoder: Any) -> set[str]:
    """The kinds of a decoder and of all within it."""
    if not isinstance(decoder, dict):
        return set()
    inner = decoder.get("decoders")
    return {str(decoder.get("type"))}.union(*map(_kinds, inner if isinstance(inner, list) else []))


@cache
def _byte_of_letter() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others for the letters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
