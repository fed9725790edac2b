"""A checkpoint's own tokenizer, and its chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemed.core.errors import ModelRefused
from edgemed.models.config import as_list, read_json

_MAX_TEMPLATE = 1_000_000


def open_tokenizer(checkpoint: Path) -> Any:
    """The checkpoint's own tokenizer, of the `tokenizers` library. Raises ModelRefused when that refuses its file."""
    from tokenizers import Tokenizer

    path = checkpoint / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelRefused(
            f"{path} is refused by the tokenizers library: {str(error)[:120]}.", next_step="copy the file again"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def chat_template_of(checkpoint: Path) -> tuple[str, str, str] | None:
    """Chat template, BOS and EOS of a checkpoint's folder; None without a template."""
    path = checkpoint / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    template = chat_templates(checkpoint, settings).get("default")
    if template is None:
        return None
    return template, _token(settings.get("bos_token")), _token(settings.get("eos_token"))


def eos_of(checkpoint: Path) -> str:
    """The text of the token that ends a text, as the checkpoint's settings name it; empty where they do not."""
    path = checkpoint / "tokenizer_config.json"
    return _token(read_json(path).get("eos_token")) if path.is_file() else ""


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a checkpoint by name, the usual one as "default": its own file before the settings'.

    `settings` is the content of tokenizer_config.json. Raises ModelRefused for a file that is too large or no text.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > _MAX_TEMPLATE:
            raise ModelRefused(f"{path} is larger than {_MAX_TEMPLATE} bytes.", next_step="check that file")
        try:
            return {"default": path.read_text(encoding="utf-8")}
        except UnicodeDecodeError as error:
            raise ModelRefused(f"{path} is no UTF-8 text.", next_step="copy that file again") from error
    template = settings.get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    named = as_list(template)
    return {str(t.get("name")): str(t.get("template")) for t in named if isinstance(t, dict) and t.get("template")}


def _token(value: object) -> str:
    """A special token's text: a string, or an object that holds it."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else ""
