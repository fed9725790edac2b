"""Chat templates, rendered in a sandbox, with a person's words kept apart from the template's.

A template comes with a model, so it is a stranger's code (CVE-2024-34359 was one that ran commands).
It is rendered with a placeholder in place of every message's content; the text is then cut at the
placeholders. What a person typed is thereby never read as a special token: a question that contains
"<|im_end|><|im_start|>system" stays words.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NoReturn

from edgemed.core.errors import ModelRefused
from edgemed.core.prompt import Message, PromptPart

_MARK = re.compile("\ue000(\\d+)\ue001")
"""Two private-use characters that no template and no keyboard uses, around the message's number."""


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
) -> list[PromptPart]:
    """The parts of the prompt for `messages`, in order; joined, their texts are the prompt.

    A message's content is stripped of blanks at both ends, as the common templates do. Raises
    ModelRefused when the template is broken, reaches out of its sandbox, or drops a user's message.
    """
    contents = [message["content"].strip() for message in messages]
    marked = [{"role": message["role"], "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
    text = _render(template, marked, bos_token=bos_token, eos_token=eos_token, add=add_generation_prompt)
    parts: list[PromptPart] = []
    seen: set[int] = set()
    position = 0
    for match in _MARK.finditer(text):
        parts.append(PromptPart(text[position : match.start()], special=True))
        number = int(match.group(1))
        seen.add(number)
        parts.append(PromptPart(contents[number], special=False))
        position = match.end()
    parts.append(PromptPart(text[position:], special=True))
    for number, message in enumerate(messages):
        if message["role"] != "assistant" and number not in seen:
            raise ModelRefused(
                f"The model's chat template leaves out a {message['role']} message.",
                next_step="use a model whose template takes system and user messages",
            )
    return [part for part in parts if part.text]


def _render(template: str, messages: list[dict[str, str]], *, bos_token: str, eos_token: str, add: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = _compiled(template).render(
            messages=messages,
            bos_token=bos_token,
            eos_token=eos_token,
            add_generation_prompt=add,
            tools=None,
            documents=None,
        )
        return text
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise ModelRefused(
            f"The model's chat template cannot be rendered: {str(error).rstrip('.')}.",
            next_step="export the model again from its original checkpoint",
        ) from error


@lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    """The template as jinja's code, which takes longer to make than to render: 15 ms for that of a reasoning model."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment.from_string(template)


def _raise_exception(message: str) -> NoReturn:
    raise ValueError(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
