"""The ground that every record stands on: frozen, versioned, with a digest that names its content."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Basis = Literal["measured", "datasheet", "assumed", "computed"]


class Record(BaseModel):
    """A record that crosses a file or a socket: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def digest(self) -> str:
        """SHA-256 in hexadecimal of the canonical JSON (sorted keys, no blanks) of this record."""
        return digest_of(self.model_dump(mode="json"))


def digest_of(value: Any) -> str:
    """SHA-256 in hexadecimal of `value` as canonical JSON (sorted keys, no blanks, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Figure(Record):
    """A number that can be trusted: its unit, where it comes from, and its spread."""

    available: Literal[True] = True
    value: float
    unit: str
    basis: Basis
    low: float | None = None
    """Smallest of the repetitions, in the same unit."""
    high: float | None = None
    """Largest of the repetitions, in the same unit."""
    note: str = ""


class NotAvailable(Record):
    """A figure that could not be had, and why."""

    available: Literal[False] = False
    reason: str


MaybeFigure = Annotated[Figure | NotAvailable, Field(discriminator="available")]
