"""A request's body as a checked record: each fault is named in plain words, never with the value that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from edgemed.serve.body import parsed_json
from edgemed.serve.errors import ApiError

_WORDS = {
    "extra_forbidden": "not a field edgemed knows",
    "missing": "is missing",
    "too_short": "must hold at least one entry",
    "too_long": "may hold at most {max_length} entries",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "may hold letters, digits, - and _ alone",
    "literal_error": "must be one of {expected}",
    "dict_type": "must be a JSON object",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "list_type": "must be a list",
    "model_type": "must be a JSON object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
}
"""The validator's kinds of fault, without its jargon."""


class Strict(BaseModel):
    """Takes no value of another type, and no unknown field."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Strict)


def read_request(body: bytes, model: type[Model], neutral: Mapping[str, tuple[Any, ...]]) -> Model:
    """The checked request. Raises ApiError 400 that names every fault.

    `neutral` are options that edgemed lacks, with the values (besides null) that ask for nothing.
    """
    content = parsed_json(body)
    if not isinstance(content, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type")
    _refuse_unsupported(content, neutral)
    known = {key: value for key, value in content.items() if key not in neutral}
    try:
        return model.model_validate(known)
    except ValidationError as error:
        raise explained(error) from None


def explained(error: ValidationError) -> ApiError:
    """One message that names every fault, never the value that was sent."""
    faults = error.errors(include_input=False, include_url=False)
    names = [_place(fault["loc"]) for fault in faults]
    lines = [f"{name}: {_in_plain_words(fault)}" for name, fault in zip(names, faults, strict=True)]
    shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}.get(
        faults[0]["type"], "invalid_type" if faults[0]["type"].endswith("_type") else "invalid_value"
    )
    return ApiError(400, shown + ".", code=code, param=names[0])


def _refuse_unsupported(content: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    wanted = [
        name
        for name, values in neutral.items()
        if content.get(name) is not None and not any(_same(content[name], value) for value in values)
    ]
    if wanted:
        raise ApiError(
            400,
            f"Not supported by edgemed: {', '.join(wanted)}. Leave {'it' if len(wanted) == 1 else 'them'} out.",
            code="unsupported_parameter",
            param=wanted[0],
        )


def _same(value: Any, neutral: Any) -> bool:
    # 1 == True in Python; JSON's true is no number
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _place(loc: tuple[int | str, ...]) -> str:
    name = ""
    for step in loc:
        name += f"[{step}]" if isinstance(step, int) else f".{str(step)[:64]}" if name else str(step)[:64]
    return name


def _in_plain_words(fault: ErrorDetails) -> str:
    if words := _WORDS.get(fault["type"]):
        return words.format_map(fault.get("ctx", {}))
    message = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
