"""The calculators over HTTP."""

from __future__ import annotations

import pytest
from serving import Running


def test_every_form_can_be_fetched(running: Running) -> None:
    forms = running.http.get("/api/calculators").json()["calculators"]
    assert {"weight_based_dose", "drip_rate", "due_date"} <= {form["name"] for form in forms}
    assert all(form["formula"] and form["source"] and form["inputs"] for form in forms)


def test_a_result_carries_value_unit_formula_and_source(running: Running) -> None:
    inputs = {"group": "adult", "height_cm": 170, "weight_kg": 70}
    response = running.http.post("/api/calculators/body_surface_area", json={"inputs": inputs})
    assert response.status_code == 200, response.text
    result = response.json()
    assert result["values"][0]["value"] == pytest.approx(1.82, abs=0.01)
    assert result["source"]
    assert result["formula"]
    assert result["notice"]


def test_all_faulty_fields_are_named_at_once(running: Running) -> None:
    response = running.http.post("/api/calculators/body_surface_area", json={"inputs": {"height_cm": -1, "shoe": 42}})
    assert response.status_code == 400
    error = response.json()["error"]
    assert {"height_cm", "weight_kg", "shoe"} <= {fault["name"] for fault in error["faults"]}
    assert error["code"] == "inputs_refused"


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"inputs": 1}', '{"inputs": {}, "more": 1}', '{"inputs": {"a": NaN}}']
)
def test_a_body_of_another_form_is_refused(running: Running, body: str) -> None:
    headers = {"content-type": "application/json"}
    response = running.http.post("/api/calculators/body_surface_area", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_an_unknown_calculator_is_a_404_that_names_the_known(running: Running) -> None:
    response = running.http.post("/api/calculators/horoscope", json={"inputs": {}})
    assert response.status_code == 404
    assert "drip_rate" in response.json()["error"]["message"]
