"""Grammars made from JSON schemas: what they let through satisfies the schema, and what cannot be held is refused."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemed.serve.json_grammar import SchemaRefused, json_grammar, schema_grammar
from edgemed.serve.number_grammar import Bounds, integer_grammar, number_grammar

_TOKEN = re.compile(
    r'\s*(?:"(?P<text>(?:[^"\\]|\\.)*)"|\[(?P<set>(?:[^\]\\]|\\.)*)\]|(?P<rule>r\d+)|(?P<sign>[()|?*+])'
    r"|\{(?P<least>\d+)(?P<comma>,)?(?P<most>\d*)\})"
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))")


class Speaker:
    """Says what a grammar lets through, at random: an oracle that shares no code with the engine."""

    def __init__(self, grammar: str, seed: int) -> None:
        self.rules = dict(line.split(" ::= ", 1) for line in grammar.strip().split("\n"))
        self.random = random.Random(seed)
        self._read: dict[str, Any] = {}

    def say(self, name: str = "root") -> str:
        if name not in self._read:
            self._read[name] = self._rule(name)
        return str(self._read[name]())

    def _rule(self, name: str) -> Any:
        tokens = [match.groupdict() for match in _TOKEN.finditer(self.rules[name])]
        assert "".join(match.group() for match in _TOKEN.finditer(self.rules[name])) == self.rules[name]
        text, at = self._alternatives(tokens, 0)
        assert at == len(tokens)
        return text

    def _alternatives(self, tokens: list[Any], at: int) -> tuple[Any, int]:
        sequences: list[list[Any]] = [[]]
        while at < len(tokens) and tokens[at]["sign"] != ")":
            if tokens[at]["sign"] == "|":
                sequences.append([])
                at += 1
                continue
            one, at = self._item(tokens, at)
            sequences[-1].append(one)
        return lambda: "".join(part() for part in self.random.choice(sequences)), at

    def _item(self, tokens: list[Any], at: int) -> tuple[Any, int]:
        token = tokens[at]
        if token["text"] is not None:
            words = _plain(token["text"])
            one: Any = lambda: words  # noqa: E731
        elif token["set"] is not None:
            letters = _letters(token["set"])
            one = lambda: self.random.choice(letters)  # noqa: E731
        elif token["rule"]:
            one = lambda: self.say(token["rule"])  # noqa: E731
        else:
            assert token["sign"] == "("
            one, at = self._alternatives(tokens, at + 1)
        return self._repeated(one, tokens, at + 1)

    def _repeated(self, one: Any, tokens: list[Any], at: int) -> tuple[Any, int]:
        if at == len(tokens):
            return one, at
        token = tokens[at]
        if token["sign"] in ("?", "*", "+"):
            least, most = {"?": (0, 1), "*": (0, 3), "+": (1, 3)}[token["sign"]]
        elif token["least"] is not None:
            least = int(token["least"])
            most = int(token["most"]) if token["most"] else least + 3 if token["comma"] else least
            most = min(most, least + 4)
        else:
            return one, at
        return lambda: "".join(one() for _ in range(self.random.randint(least, most))), at + 1


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2] or m[3], 16)) if not m[4] else m[4], text)


def _letters(inside: str) -> str:
    plain = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), inside.removeprefix("^"))
    plain = re.sub(r"\\(.)", r"\1", plain)
    ranges = re.sub(r"(.)-(.)", lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), plain)
    if inside.startswith("^"):
        return "".join(letter for letter in "aZ 0é剂👶\x85\xa0{}[],:-\u2028" if letter not in ranges)
    return ranges


def says(schema: dict[str, Any], n: int = 12) -> list[Any]:
    """Some answers of a schema, each parsed and found valid."""
    speaker = Speaker(schema_grammar(schema), 0)
    jsonschema.Draft202012Validator.check_schema(schema)
    values = [json.loads(speaker.say()) for _ in range(n)]
    for value in values:
        jsonschema.Draft202012Validator(schema).validate(value)
    return values


whole = st.integers(-(10**6), 10**6) | st.sampled_from([0, 1, 9, 10, 99, 100, -1, -10, 10**15 - 1])


@st.composite
def bounds(draw: st.DrawFn) -> dict[str, int]:
    low, high = sorted([draw(whole), draw(whole)])
    names = {"low": ["minimum", "exclusiveMinimum"], "high": ["maximum", "exclusiveMaximum"]}
    chosen = {draw(st.sampled_from(names["low"])): low, draw(st.sampled_from(names["high"])): high}
    return {name: value for name, value in chosen.items() if draw(st.booleans())}


def _typed(name: str, fields: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return fields.map(lambda more: {"type": name, **more})


lengths = st.lists(st.integers(0, 4), min_size=2, max_size=2).map(sorted)
scalars = st.one_of(
    lengths.map(lambda n: {"type": "string", "minLength": n[0], "maxLength": n[1]}),
    st.just({"type": "string"}),
    _typed("integer", bounds()),
    _typed("number", bounds()),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}, {}]),
    st.lists(st.none() | st.booleans() | st.integers() | st.text(max_size=4), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
)
names = st.text(max_size=5) | st.sampled_from(['"', "\\", "a\nb", "剂", "👶", "</think>"])


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    members = st.dictionaries(names, inner, min_size=1, max_size=4)
    return st.one_of(
        members.flatmap(
            lambda properties: st.sets(st.sampled_from(sorted(properties))).map(
                lambda required: {"type": "object", "properties": properties, "required": sorted(required)}
            )
        ),
        st.tuples(inner, lengths).map(
            lambda both: {"type": "array", "items": both[0], "minItems": both[1][0], "maxItems": both[1][1]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda several: {"anyOf": several}),
        inner.map(lambda one: {"type": "object", "additionalProperties": one}),
    )


schemas = st.recursive(scalars, _containers, max_leaves=6)


@settings(deadline=None)
@given(schemas)
def test_whatever_a_grammar_lets_through_satisfies_its_schema(schema: dict[str, Any]) -> None:
    try:
        says(schema, 6)
    except SchemaRefused as refusal:  # exclusive bounds with nothing between them
        if "no number lies within" not in str(refusal):
            raise


@given(bounds(), st.integers(0, 9))
def test_bounds_of_numbers_hold_and_are_reached(wanted: dict[str, int], seed: int) -> None:
    low, high = wanted.get("minimum"), wanted.get("maximum")
    if set(wanted) != {"minimum", "maximum"}:
        return
    assert low is not None
    assert high is not None
    for grammar in (integer_grammar(Bounds(low, high)), number_grammar(Bounds(low, high))):
        speaker = Speaker(f"root ::= {grammar}", seed)
        assert all(low <= float(speaker.say()) <= high for _ in range(8))
        if high - low < 12:
            said = {float(speaker.say()) for _ in range(400)}
            assert {low, high} <= said


@given(st.integers(-200, 1200), st.integers(0, 40))
def test_every_whole_number_within_narrow_bounds_can_be_said(low: int, width: int) -> None:
    pattern = _as_pattern(integer_grammar(Bounds(low, low + width)))
    for number in range(low - 15, low + width + 16):
        assert bool(re.fullmatch(pattern, str(number))) is (low <= number <= low + width), number


def _as_pattern(grammar: str) -> str:
    return re.sub(r'"([^"]*)"', r"\1", grammar).replace(" ", "")


def test_members_may_be_left_out_where_the_schema_allows_it() -> None:
    schema = {
        "type": "object",
        "properties": {name: {"const": name} for name in "abcd"},
        "required": ["b"],
        "additionalProperties": False,
    }
    said = {tuple(value) for value in says(schema, 200)}
    assert said == {("b",), ("a", "b"), ("b", "c"), ("b", "d"), ("b", "c", "d")} | {
        ("a", "b", "c"),
        ("a", "b", "d"),
        ("a", "b", "c", "d"),
    }


def test_definitions_are_followed_and_may_be_used_twice() -> None:
    dose = {"type": "object", "properties": {"mg": {"type": "integer", "minimum": 1}}, "required": ["mg"]}
    schema = {
        "$defs": {"Dose": dose},
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/Dose"}, "then": {"allOf": [{"$ref": "#/$defs/Dose"}]}},
        "required": ["first", "then"],
    }
    assert all(value["then"]["mg"] >= 1 for value in says(schema))


def test_any_json_object_has_a_grammar() -> None:
    speaker = Speaker(json_grammar(), 3)
    assert all(isinstance(json.loads(speaker.say()), dict) for _ in range(30))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "pattern": "^a*$"}, "the schema: not supported here: pattern"),
        ({"type": "string", "format": "date"}, "not supported here: format"),
        ({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 5}}}, "a: not supported here: mult"),
        ({"oneOf": [{"type": "string"}]}, "not supported here: oneOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://example.org/x.json"}, "$ref must name an entry of $defs"),
        ({"$ref": "file:///etc/passwd#/$defs/x", "$defs": {"x": {}}}, "$ref must name an entry of $defs"),
        ({"$ref": "#/$defs/x"}, "$ref must name an entry of $defs"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}, "leads back to itself"),
        (
            {"$defs": {"t": {"properties": {"more": {"$ref": "#/$defs/t"}}}}, "$ref": "#/$defs/t"},
            "leads back to itself",
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "required names 'b'"),
        ({"type": "object", "properties": {"a": False}}, "a: no value"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no number lies within"),
        ({"type": "number", "minimum": 0.5}, "must be a whole number"),
        ({"type": "number", "exclusiveMinimum": 5, "exclusiveMaximum": 5}, "no number lies within"),
        ({"type": "integer", "maximum": 10**16}, "15 digits"),
        ({"type": "integer", "minimum": float("inf")}, "a number that is too large"),
        ({"const": float("-inf")}, "a number that is too large"),
        ({"type": "string", "maxLength": 1001}, "at most 1000"),
        ({"type": "array", "items": {"type": "string", "maxLength": 999}, "maxItems": 5000}, "at most 1000"),
        ({"properties": {str(n): {"type": "string", "maxLength": 999} for n in range(5)}}, "at most 1000"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength is greater"),
        ({"enum": ["a"], "type": "integer"}, "1 to 128 values"),
        ({"enum": list(range(300))}, "1 to 128 values"),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, "must be true or false"),
        ({"description": "x" * 40_000}, "more than 32768 characters"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(SchemaRefused, match=re.escape(words)):
        schema_grammar(schema)


def test_size_and_depth_are_bounded() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaRefused, match="levels"):
        schema_grammar(deep)
    doubling: dict[str, Any] = {"d0": {"type": "string"}}
    for n in range(1, 14):
        doubling[f"d{n}"] = {"anyOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 3}
    with pytest.raises(SchemaRefused, match="parts"):
        schema_grammar({"$defs": doubling, "$ref": "#/$defs/d6"})


def test_grammars_are_ascii_and_no_name_can_leave_its_literal() -> None:
    text = schema_grammar({"properties": {'"\nroot ::= [a-z]* # \\': {"const": '"]剂\x00'}}})
    assert text.isascii()
    assert text.startswith("root ::= ")
    assert sum(line.startswith("root") for line in text.split("\n")) == 1
    assert "\x00" not in text


keywords = st.sampled_from(
    [
        *("type", "enum", "const", "anyOf", "allOf", "$ref", "$defs", "properties", "required", "additionalProperties"),
        *("items", "minItems", "maxItems", "minLength", "maxLength", "minimum", "exclusiveMaximum", "title", "zzz"),
    ]
)
odd_values = st.recursive(
    st.sampled_from(["object", "array", "string", "integer", "number", "null", "#/$defs/a", "#/$defs/", "#", "", "a"])
    | st.none()
    | st.booleans()
    | st.integers(-3, 2**60)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keywords | st.sampled_from(["a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(keywords, odd_values, max_size=5))
def test_whatever_a_client_sends_is_held_to_or_refused(schema: dict[str, Any]) -> None:
    from edgemed.serve.answer_form import ResponseFormat, form_of
    from edgemed.serve.errors import ApiError

    said = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    try:
        form = form_of(ResponseFormat.model_validate(said))
    except ApiError as refusal:
        assert refusal.code == "unsupported_schema"  # noqa: PT017
        return
    assert form is not None
    value = json.loads(Speaker(form.grammar, 0).say())
    assert jsonschema.Draft202012Validator(schema).is_valid(value)
