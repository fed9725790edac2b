"""A TOML file as a record, with every fault told at once: its key and line, what is wrong, which names are known."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edgemed.core.errors import UsageError
from edgemed.core.records import Record

R = TypeVar("R", bound=Record)

_MAX_BYTES = 1024 * 1024
_MOST_NAMED = 5
"""Faults of one file that are told; the others are counted."""

_RULES = {
    "path_type": "must be a path in quotes",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "tuple_type": "must be a list in brackets",
    "too_long": "must be a list of at most {max_length} values",
    "too_short": "must be a list of at least {min_length} values",
    "dict_type": "must be a table: [{name}]",
    "model_type": "must be a table: [{name}]",
    "missing": "is missing",
    "literal_error": "must be {expected}",
    "value_error": "cannot be used: {error}",
}
"""The validator's kinds of fault, without its jargon."""


def read_toml(path: Path, record: type[R]) -> R:
    """The file's content as a `record`.

    Raises UsageError for a file that cannot be read, is no UTF-8 or no TOML, or holds unknown keys or wrong values, and
    FileNotFoundError when it is not there.
    """
    text = _text_of(path)
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} cannot be read: {error}.", next_step="mend that line") from error
    faults = [_Fault(steps, "finite_number") for steps in _not_finite(content)]
    try:
        # As JSON, because its strict form takes lists for tuples and text for paths, and takes no text for numbers.
        found = record.model_validate_json(json.dumps(content, default=str), strict=True)
        if not faults:
            return found
    except ValidationError as error:
        known = {fault.steps for fault in faults}
        faults += [fault for fault in map(_fault_of, error.errors()) if fault.steps not in known]
    lines = {fault: _line_of(fault.steps, text) for fault in faults}
    faults.sort(key=lambda fault: lines[fault] or len(text))
    said = "; ".join(_said_of(fault, lines[fault], text, record) for fault in faults[:_MOST_NAMED])
    more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
    raise UsageError(f"{path}: {said}{more}.", next_step="mend that, or remove it")


class _Fault:
    """What is wrong with one key."""

    def __init__(self, steps: tuple[str | int, ...], kind: str, details: dict[str, Any] | None = None) -> None:
        self.steps, self.kind, self.details = steps, kind, details or {}


def _fault_of(error: ErrorDetails) -> _Fault:
    return _Fault(error["loc"], error["type"], dict(error.get("ctx", {})))


def _text_of(path: Path) -> str:
    """The file's text, without the mark that some editors put before it."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", next_step="check the path") from error
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{path} is larger than {_MAX_BYTES} bytes.", next_step="check the path")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path} cannot be read: byte 0x{raw[error.start]:02x} on line {line} is no UTF-8.",
            next_step="save the file as UTF-8",
        ) from error


def _not_finite(value: object, steps: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where TOML's nan and inf stand: they pass comparisons that a number must not pass."""
    if isinstance(value, float) and not math.isfinite(value):
        yield steps
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_finite(inner, (*steps, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _not_finite(inner, (*steps, number))


def _said_of(fault: _Fault, line: int, text: str, record: type[BaseModel]) -> str:
    """One fault in words."""
    named = [step for step in fault.steps if isinstance(step, str)]
    where = ".".join(named)
    entry = next((step for step in fault.steps if isinstance(step, int)), None)
    if entry is not None:
        where += f"[{entry}]"
    if line:
        where += f" (line {line})"
    if fault.kind == "extra_forbidden":
        fields = _record_at(record, named[:-1])
        tables = all(_record_in(field.annotation) for field in fields.values())
        names = "one of the tables" if tables else "one of the keys"
        return f"{where} is not known; use {names} {', '.join(sorted(fields))}"
    if fault.kind == "missing":
        header = _line_of(tuple(named[:-1]), text)
        place = f" in [{'.'.join(named[:-1])}] (line {header})" if header else ""
        return f"{where} is missing{place}"
    kind = fault.kind
    if kind == "string_type" and named and _is_path(record, named):
        kind = "path_type"
    rule = _RULES.get(kind, "cannot be used")
    return f"{where} {rule.format_map({**fault.details, 'name': named[-1] if named else ''})}".strip()


def _is_path(record: type[BaseModel], steps: Sequence[str]) -> bool:
    field = _record_at(record, steps[:-1]).get(steps[-1])
    return field is not None and Path in (field.annotation, *get_args(field.annotation))


def _record_at(record: type[BaseModel], steps: Sequence[str]) -> dict[str, Any]:
    """The fields of the table that `steps` lead to."""
    for step in steps:
        field = record.model_fields.get(step)
        inner = _record_in(field.annotation) if field else None
        if inner is None:
            return {}
        record = inner
    return dict(record.model_fields)


def _record_in(annotation: Any) -> type[BaseModel] | None:
    """The record that an annotation such as `Record | None` speaks of."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _line_of(steps: tuple[str | int, ...], text: str) -> int:
    """The line that names a key or its table, from 1; 0 where it is written in a way that is not looked for."""
    wanted = ".".join(step for step in steps if isinstance(step, str))
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([\w.-]+)\s*\]", line)
        table = header[1] if header else table
        key = re.match(r"\s*([\w.-]+)\s*=", line)
        named = f"{table}.{key[1]}".lstrip(".") if key else table if header else ""
        if named and named == wanted:
            return number
    return 0
