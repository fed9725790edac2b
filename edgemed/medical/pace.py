"""How much time a question is given: length of the answer, sampling and thinking, by class and danger.

The values and the reason for each lie in `pace.toml`. What a caller asks for explicitly goes before them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.medical.language import Category

PaceName = Literal["danger", "emergency", "medication", "diagnosis", "treatment", "prevention", "general"]
_NAMES: tuple[PaceName, ...] = (
    *("danger", "emergency", "medication", "diagnosis"),
    *("treatment", "prevention", "general"),
)


class Pace(Record):
    """The limits for one answer."""

    max_tokens: int = Field(ge=1, le=8192)
    """Of the answer, thinking not counted."""
    temperature: float = Field(ge=0, le=2)
    """0 is greedy."""
    top_p: float = Field(gt=0, le=1)
    reasoning_tokens: int = Field(ge=0, le=8192)
    """Of thinking before the answer; 0 is none."""
    reason: str = Field(min_length=1)

    def asked(
        self, *, max_tokens: int | None = None, temperature: float | None = None, top_p: float | None = None
    ) -> Pace:
        """These limits with the caller's own values in the place of ours; the engine checks the caller's bounds."""
        own = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        return self.model_copy(update={name: value for name, value in own.items() if value is not None})


class PaceChange(Record):
    """What settings replace in the pace of one class; None leaves the value as it is."""

    max_tokens: int | None = Field(default=None, ge=1, le=8192)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    reasoning_tokens: int | None = Field(default=None, ge=0, le=8192)


class PaceTable(Record):
    """`pace.toml`: one pace for each class, and one for danger."""

    pace: dict[PaceName, Pace]

    @model_validator(mode="after")
    def _complete(self) -> PaceTable:
        if missing := [name for name in _NAMES if name not in self.pace]:
            raise ValueError(f"no pace for {', '.join(missing)}")
        return self


def pace_of(category: Category, danger: bool, changes: Mapping[PaceName, PaceChange] | None = None) -> Pace:
    """The pace of a question: that of `danger` when a danger sign was found, else its category's.

    `changes` are the settings' own values by class. Raises UsageError when the shipped file is damaged.
    """
    name: PaceName = "danger" if danger else category.value
    pace = shipped_pace().pace[name]
    change = (changes or {}).get(name)
    if change is None:
        return pace
    update = change.model_dump(exclude_none=True)
    return pace.model_copy(update={**update, "reason": "Set in this clinic's settings."}) if update else pace


@cache
def shipped_pace() -> PaceTable:
    """The table of `pace.toml`; raises UsageError with the field at fault when it is damaged."""
    text = resources.files("edgemed.medical").joinpath("pace.toml").read_text(encoding="utf-8")
    return read_pace(text, "pace.toml")


def read_pace(text: str, name: str) -> PaceTable:
    """The table in a TOML text; raises UsageError with file and line or field."""
    try:
        return PaceTable.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"The table of limits {name} cannot be read: {error}.", next_step="mend it") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"The table of limits {name} is malformed: {faults}.", next_step="mend it") from error
