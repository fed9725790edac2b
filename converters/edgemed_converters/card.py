"""Name, licence and source of a checkpoint, from its model card, for the GGUF's metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemed.models.gguf_values import Value, text

_MAX_CARD = 200_000
_FIELD = re.compile(r"^([A-Za-z_]+):[ \t]*(.*?)[ \t]*$")
_ITEM = re.compile(r"^[ \t]*-[ \t]+(.+?)[ \t]*$")
_LICENCES = (
    ("Apache License", "apache-2.0"),
    ("MIT License", "mit"),
    ("Permission is hereby granted, free of charge", "mit"),
    ("LLAMA 3", "llama3"),
    ("Gemma Terms of Use", "gemma"),
)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is said of a model's origin; empty where nothing is."""

    name: str
    licence: str
    licence_link: str
    source: str


def read_card(folder: Path, config: dict[str, Any]) -> ModelCard:
    """The card of the checkpoint in `folder`: front matter of README.md, else its LICENSE file and config.json."""
    fields = _front_matter(folder / "README.md")
    name = str(fields.get("model_name") or config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2]
    licence = fields.get("license", "")
    if licence == "other" and fields.get("license_name"):
        licence = fields["license_name"]
    source = fields.get("source") or fields.get("base_model") or str(config.get("_name_or_path") or "")
    return ModelCard(
        name=name or folder.resolve().name,
        licence=licence or _licence_of_file(folder),
        licence_link=fields.get("license_link", ""),
        source=source,
    )


def card_metadata(card: ModelCard) -> dict[str, Value]:
    """The `general.*` keys of a card."""
    values = {"name": card.name, "license": card.licence, "license.link": card.licence_link, "source.url": card.source}
    return {f"general.{key}": text(value) for key, value in values.items() if value}


def _front_matter(path: Path) -> dict[str, str]:
    """Top-level scalars of the YAML between the first two lines of dashes; of a list, its first item."""
    lines = _head(path).splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    fields: dict[str, str] = {}
    last = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return fields
        if match := _FIELD.match(line):
            last = match[1]
            fields[last] = match[2].strip("'\"")
        elif (match := _ITEM.match(line)) and fields.get(last) == "":
            fields[last] = match[1].strip("'\"")
    return {}


def _licence_of_file(folder: Path) -> str:
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        head = _head(folder / name)
        for words, licence in _LICENCES:
            if words in head:
                return licence
    return ""


def _head(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_MAX_CARD).decode("utf-8", errors="replace")
