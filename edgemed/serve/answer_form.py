"""The form an answer was asked for (`response_format`): the grammar it is held to, and whether it came out right.

The grammar makes a wrong form impossible while the answer is written; an answer may still end too early (its length,
the context, its time), and the library may have a fault. So the ended answer is read and checked against the schema by
code that knows nothing of the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from edgemed.serve.errors import ApiError
from edgemed.serve.json_grammar import SchemaRefused, check_size, json_grammar, schema_grammar
from edgemed.serve.request_faults import Strict

_PARAM = "response_format"


class JsonSchemaForm(Strict):
    """A JSON schema under a name; `strict` changes nothing: an answer is always held to it."""

    name: str = Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")
    description: str | None = None
    form: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaForm | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema goes with {"type": "json_schema"}, and with no other')
        return self


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """A form of JSON that an answer must have."""

    grammar: str
    schema: Mapping[str, Any]

    def check(self, text: str) -> None:
        """Raises ApiError 500 for an ended answer that has another form."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise _not_met("is no complete JSON") from None
        if not _validator(self.schema).is_valid(value):
            raise _not_met("does not satisfy the schema")


def bare_numbers(text: str) -> int:
    """How many numbers a JSON text holds outside of its strings: no unit stands with them, so the guard sees none."""
    found = 0

    def count(_: str) -> float:
        nonlocal found
        found += 1
        return 0.0

    try:
        json.loads(text, parse_int=count, parse_float=count)
    except (ValueError, RecursionError):
        return found  # cut: those before the end
    return found


def form_of(wish: ResponseFormat | None) -> AnswerForm | None:
    """The form a request asks for; None for free text. Raises ApiError 400 for a schema that cannot be held."""
    if wish is None or wish.type == "text":
        return None
    if wish.json_schema is None:
        return AnswerForm(json_grammar(), {"type": "object"})
    schema = wish.json_schema.form
    try:
        _check_well_formed(schema)
        return AnswerForm(schema_grammar(schema), schema)
    except SchemaRefused as refusal:
        raise ApiError(
            400,
            f"Answers cannot be held to this JSON schema. {refusal}. docs/http.md lists what is supported.",
            code="unsupported_schema",
            param=f"{_PARAM}.json_schema.schema",
        ) from None


def _check_well_formed(schema: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    check_size(schema)
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as error:
        place = ".".join(str(step)[:60] for step in getattr(error, "path", ()))
        raise SchemaRefused(place, "is no JSON schema") from None


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())  # an empty registry fetches nothing


def _not_met(words: str) -> ApiError:
    return ApiError(
        500, f"The answer {words} that was asked for; do not use it. Ask again, or ask for less.", code="form_not_met"
    )
