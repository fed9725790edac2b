"""What a rendered prompt is made of: the template's own text, and a person's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation, in the field's usual shape."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A piece of a rendered prompt. Only the template's own text may hold special tokens."""

    text: str
    special: bool
    """True for template text; False for a person's words, whose "<|im_end|>" stays plain text."""
