import pytest
from pydantic import TypeAdapter, ValidationError

from edgemed.core.records import Figure, MaybeFigure, NotAvailable, digest_of


def test_a_digest_names_the_content_not_the_order() -> None:
    assert digest_of({"a": 1, "b": [2, 3]}) == digest_of({"b": [2, 3], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_unknown_keys_and_changes_are_refused() -> None:
    figure = Figure(value=3, unit="GB/s", basis="measured")
    with pytest.raises(ValidationError):
        Figure.model_validate({"value": 1, "unit": "s", "basis": "measured", "guess": 2})
    with pytest.raises(ValidationError):
        figure.value = 4  # type: ignore[misc]


def test_not_available_is_a_value_with_a_reason() -> None:
    adapter: TypeAdapter[MaybeFigure] = TypeAdapter(MaybeFigure)
    for value in (NotAvailable(reason="no battery"), Figure(value=1.5, unit="W", basis="measured", low=1, high=2)):
        assert adapter.validate_json(value.model_dump_json()) == value
