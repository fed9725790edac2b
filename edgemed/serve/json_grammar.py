"""From a JSON schema to a grammar (GBNF) of the answers that satisfy it, made by the server and never by a client.

The subset, by keyword
    type (one or several), enum, const, anyOf, allOf of one, $ref to "#/$defs/NAME" or "#/definitions/NAME" without
    cycles; object: properties, required, additionalProperties; array: items, minItems, maxItems; string: minLength,
    maxLength; integer and number: minimum, maximum, exclusiveMinimum, exclusiveMaximum (of a number, whole ones).
    title, description, default, examples, deprecated, readOnly, writeOnly, $schema, $comment say nothing of the form.
Every other keyword is refused by name: an answer must not look as if it had been held to what nobody looked at.

Answers are a subset of what a schema allows: properties in the schema's order and no others, numbers without an
exponent, no blanks but one behind "," and ":", JSON of unknown form to a depth of 6.
The engine package's own converter is not used: it fetches remote references, forgets to escape backslashes, lets
control characters into strings, and leaves out numeric bounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgemed.serve.number_grammar import Bounds, integer_grammar, number_grammar

LONGEST_SCHEMA = 32 * 1024
"""Characters of its JSON."""
_LONGEST_GRAMMAR = 60 * 1024
"""Characters; the engine takes a little more."""
_DEEPEST = 16
_MOST_PARTS = 200
_MOST_VALUES = 128
"""Of all enumerations together. Each part and value may be one more way to go on, and to ask a grammar with 200 of them
about a vocabulary of 152,000 takes 0.15 s, in which every stream waits."""
_MOST_REPEATED = 1000
"""The longest that maxLength or maxItems may be; all together may be four times as long."""
_FREE_DEPTH = 6
_FREE_ENTRIES = 64

_ANNOTATIONS = frozenset(
    ["title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$comment"]
)
_DEFINITIONS = frozenset(["$defs", "definitions"])
_BOUNDS = frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
_OF_TYPE: dict[str, frozenset[str]] = {
    "object": frozenset(["properties", "required", "additionalProperties"]),
    "array": frozenset(["items", "minItems", "maxItems"]),
    "string": frozenset(["minLength", "maxLength"]),
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_CHAR = r'[^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))'
"""One character of a string: no control characters, no half surrogate."""


class SchemaRefused(Exception):
    """A schema that answers cannot be held to: where, and why."""

    def __init__(self, place: str, words: str) -> None:
        super().__init__(f"{place.lstrip('.') or 'the schema'}: {words}")


def json_grammar() -> str:
    """The grammar of any JSON object."""
    writer = _Writer({})
    return writer.text(writer.free_object(_FREE_DEPTH))


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of a schema's answers. Raises SchemaRefused. The schema must be well-formed by its metaschema."""
    check_size(schema)
    writer = _Writer(schema)
    text = writer.text(writer.value(schema, "", 0))
    if len(text) > _LONGEST_GRAMMAR:
        raise SchemaRefused("", "is too large; split the question")
    return text


def check_size(schema: Mapping[str, Any]) -> None:
    """Raises SchemaRefused for one that is too large, or holds a number that is."""
    try:
        length = len(json.dumps(schema, allow_nan=False))
    except ValueError:  # 1e400 is read as an infinity
        raise SchemaRefused("", "holds a number that is too large") from None
    if length > LONGEST_SCHEMA:
        raise SchemaRefused("", f"has more than {LONGEST_SCHEMA} characters")


@dataclass(slots=True)
class _Writer:
    """The rules of one grammar as they are written; equal rules are written once."""

    root: Mapping[str, Any]
    rules: dict[str, str] = field(default_factory=dict)
    """Name of each rule by its body."""
    open_references: list[str] = field(default_factory=list)
    n_parts: int = 0
    n_values: int = 0
    n_repeated: int = 0

    def text(self, root: str) -> str:
        """The whole grammar."""
        return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for body, name in self.rules.items())]) + "\n"

    def rule(self, body: str) -> str:
        """The name of a rule with this body."""
        return self.rules.setdefault(body, f"r{len(self.rules)}")

    def value(self, schema: Any, place: str, depth: int) -> str:
        """The rule of one schema."""
        self.n_parts += 1
        if depth > _DEEPEST or self.n_parts > _MOST_PARTS:
            raise SchemaRefused(place, f"it has more than {_DEEPEST} levels or {_MOST_PARTS} parts")
        if schema is True:
            return self.free_value(_FREE_DEPTH)
        if not isinstance(schema, Mapping):
            raise SchemaRefused(place, "no value would satisfy it")
        said = {name: value for name, value in schema.items() if name not in _ANNOTATIONS | _DEFINITIONS}
        for name, write in (("$ref", self._reference), ("anyOf", self._any_of), ("allOf", self._all_of)):
            if name in said:
                _refuse_others(said, {name}, place)
                return write(said[name], place, depth)
        if "enum" in said or "const" in said:
            return self._values(said, place)
        return self._typed(said, place, depth)

    def _typed(self, said: dict[str, Any], place: str, depth: int) -> str:
        types = _types_of(said)
        if not types:
            _refuse_others(said, (), place)
            return self.free_value(_FREE_DEPTH)
        _refuse_others(said, {"type"}.union(*(_OF_TYPE[name] for name in types)), place)
        writers: dict[str, Callable[[dict[str, Any], str, int], str]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": lambda said, place, _: self.rule(_number(said, place, integer_grammar)),
            "number": lambda said, place, _: self.rule(_number(said, place, number_grammar)),
            "boolean": lambda *_: self.rule('"true" | "false"'),
            "null": lambda *_: '"null"',
        }
        return self._either([writers[name](said, place, depth) for name in types])

    def _object(self, said: dict[str, Any], place: str, depth: int) -> str:
        properties, others = said.get("properties", {}), said.get("additionalProperties", True)
        others = True if others == {} else others
        required = set(said.get("required", ()))
        if unknown := sorted(required - set(properties)):
            raise SchemaRefused(place, f"required names {unknown[0][:60]!r}, which properties does not define")
        if not properties:
            if others is False:
                return '"{}"'
            if others is True:
                return self.free_object(_FREE_DEPTH)
            return self._map(self.value(others, f"{place}.additionalProperties", depth + 1))
        if isinstance(others, Mapping):
            raise SchemaRefused(place, "additionalProperties beside properties must be true or false")
        members = [
            (
                f"{_literal(name)} {self._colon()} {self.value(inner, f'{place}.{name[:60]}', depth + 1)}",
                name in required,
            )
            for name, inner in properties.items()
        ]
        return self.rule(f'"{{" {self._members(members)} "}}"')

    def _members(self, members: Sequence[tuple[str, bool]]) -> str:
        """Members in their order, those that may be missing left out or not; a comma between two that are there."""
        rest_first, rest_later = "", ""
        for member, is_required in reversed(members):
            first = f"{member} {rest_later}".strip()
            later = f"{self._comma()} {member} {rest_later}".strip()
            if not is_required:
                first = f"({first} | {rest_first})" if rest_first else f"({first})?"
                later = f"({later} | {rest_later})" if rest_later else f"({later})?"
            rest_first = self.rule(first)
            rest_later = self.rule(later)
        return rest_first

    def _map(self, value: str) -> str:
        member = self.rule(f"{self._string({}, '', 0)} {self._colon()} {value}")
        return self.rule(f'"{{" ({member} ({self._comma()} {member}){{0,{_FREE_ENTRIES - 1}}})? "}}"')

    def _array(self, said: dict[str, Any], place: str, depth: int) -> str:
        least, most = self._lengths(said, "Items", place)
        if most == 0:
            return '"[]"'
        item = self.value(said.get("items", True), f"{place}[]", depth + 1)
        more = _times(f"({self._comma()} {item})", max(0, least - 1), None if most is None else most - 1)
        inside = f"{item} {more}".strip()
        return self.rule(f'"[" {inside} "]"' if least else f'"[" ({inside})? "]"')

    def _string(self, said: dict[str, Any], place: str, _depth: int) -> str:
        least, most = self._lengths(said, "Length", place)
        inside = _times(self.rule(_CHAR), least, most)
        return self.rule(f'"\\"" {inside} "\\""'.replace("  ", " "))

    def _lengths(self, said: dict[str, Any], of: str, place: str) -> tuple[int, int | None]:
        least, most = int(said.get(f"min{of}", 0)), said.get(f"max{of}")
        longest = least if most is None else int(most)
        self.n_repeated += longest
        if longest > _MOST_REPEATED or self.n_repeated > 4 * _MOST_REPEATED:
            raise SchemaRefused(place, f"min{of} and max{of} may be at most {_MOST_REPEATED}")
        if most is not None and least > most:
            raise SchemaRefused(place, f"min{of} is greater than max{of}")
        return least, None if most is None else int(most)

    def _reference(self, to: Any, place: str, depth: int) -> str:
        _, _, path = str(to).partition("#/")
        where, _, name = path.partition("/")
        name = name.replace("~1", "/").replace("~0", "~")
        if where not in _DEFINITIONS or name not in self.root.get(where, {}) or not str(to).startswith("#/"):
            raise SchemaRefused(place, "$ref must name an entry of $defs, such as #/$defs/Dose")
        if to in self.open_references:
            raise SchemaRefused(place, f"$ref leads back to itself ({str(to)[:60]}); cycles are not supported")
        self.open_references.append(to)
        try:
            return self.value(self.root[where][name], place, depth + 1)
        finally:
            self.open_references.pop()

    def _any_of(self, schemas: Any, place: str, depth: int) -> str:
        return self._either([self.value(one, f"{place}.anyOf[{n}]", depth + 1) for n, one in enumerate(schemas)])

    def _all_of(self, schemas: Any, place: str, depth: int) -> str:
        if len(schemas) != 1:
            raise SchemaRefused(place, "allOf is supported with one entry alone")
        return self.value(schemas[0], place, depth + 1)

    def _values(self, said: dict[str, Any], place: str) -> str:
        _refuse_others(said, {"enum", "const", "type"}, place)
        values = said.get("enum", [said.get("const")])
        if "const" in said:
            values = [value for value in values if _same(value, said["const"])]
        if types := _types_of({"type": said["type"]} if "type" in said else {}):
            values = [value for value in values if any(_is_a(value, name) for name in types)]
        self.n_values += len(values)
        if not values or self.n_values > _MOST_VALUES:
            raise SchemaRefused(place, f"enumerations must leave 1 to {_MOST_VALUES} values, all of them together")
        return self._either([_literal(value) for value in values])

    def _either(self, alternatives: Iterable[str]) -> str:
        different = list(dict.fromkeys(alternatives))
        return different[0] if len(different) == 1 else self.rule(" | ".join(different))

    def free_value(self, depth: int) -> str:
        """Any JSON, objects and lists to a depth."""
        scalars = [self._string({}, "", 0), self.rule(number_grammar(Bounds())), '"true"', '"false"', '"null"']
        return self._either([*scalars, self.free_object(depth - 1), self._free_list(depth - 1)] if depth else scalars)

    def free_object(self, depth: int) -> str:
        """Any JSON object of a depth."""
        return self._map(self.free_value(depth - 1)) if depth > 0 else '"{}"'

    def _free_list(self, depth: int) -> str:
        if depth <= 0:
            return '"[]"'
        item = self.free_value(depth - 1)
        return self.rule(f'"[" ({item} ({self._comma()} {item}){{0,{_FREE_ENTRIES - 1}}})? "]"')

    def _comma(self) -> str:
        return self.rule('"," " "?')

    def _colon(self) -> str:
        return self.rule('":" " "?')


def _types_of(said: Mapping[str, Any]) -> list[str]:
    """The types a schema names, or the one that its keywords imply."""
    named = said.get("type", [])
    types = [named] if isinstance(named, str) else list(named)
    if "number" in types:
        types = [name for name in types if name != "integer"]
    if not types:
        types = [name for name in ("object", "array") if _OF_TYPE[name] & set(said)]
    return types


def _refuse_others(said: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    if unknown := sorted(set(said) - set(known)):
        names = ", ".join(name[:60] for name in unknown[:5])
        raise SchemaRefused(place, f"not supported here: {names}")


def _number(said: Mapping[str, Any], place: str, grammar: Callable[[Bounds], str]) -> str:
    low, above = _tighter(said.get("minimum"), said.get("exclusiveMinimum"), max)
    high, below = _tighter(said.get("maximum"), said.get("exclusiveMaximum"), min)
    try:
        return grammar(Bounds(low, high, above, below))
    except ValueError as error:
        raise SchemaRefused(place, str(error)) from None


def _tighter(with_it: Any, without: Any, choose: Callable[[Any, Any], Any]) -> tuple[Any, bool]:
    """The bound that counts, and whether it is itself excluded."""
    if without is None:
        return with_it, False
    if with_it is None or choose(with_it, without) == without:
        return without, True
    return with_it, False


def _times(what: str, least: int, most: int | None) -> str:
    if most == 0:
        return ""
    if most is None:
        return f"{what}*" if least == 0 else f"{what}{{{least},}}"
    return f"{what}{{{least},{most}}}"


def _literal(value: Any) -> str:
    """A JSON value as a literal of the grammar, in ASCII."""
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    code = ord(letter)
    if 32 <= code < 127:
        return letter
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def _is_a(value: Any, name: str) -> bool:
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    if name in kinds:
        return isinstance(value, kinds[name])
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return not isinstance(value, bool) and (whole if name == "integer" else isinstance(value, int | float))


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
