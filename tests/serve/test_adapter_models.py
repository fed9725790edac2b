"""`model` in a request selects an adapter; what is saved of one is never another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, serving

from edgemed.engines.fake import FakeEngine
from edgemed.serve.journal import JOURNAL_FILE, Journal
from edgemed.serve.response_cache import ResponseCache

DIGESTS = {"heart": "1" * 64, "skin": "2" * 64}
QUESTION = "What is the dose of paracetamol in an adult?"


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Running]:
    engine = FakeEngine(answer="Ask a clinician about it.")
    with serving(engine, cache=ResponseCache(), journal=Journal(tmp_path), adapters=DIGESTS) as server:
        yield server


def base_name(clinic: Running) -> str:
    return str(clinic.http.get("/v1/models").json()["data"][0]["id"])


def test_models_lists_the_base_first_and_every_adapter(clinic: Running) -> None:
    listed = [model["id"] for model in clinic.http.get("/v1/models").json()["data"]]
    assert listed[1:] == ["heart", "skin"]
    for name in listed:
        assert clinic.http.get(f"/v1/models/{name}").json()["id"] == name
    missing = clinic.http.get("/v1/models/liver")
    assert missing.status_code == 404
    assert "'heart', 'skin'" in missing.json()["error"]["message"]


def test_the_name_reaches_the_engine_and_stands_in_the_answer(clinic: Running) -> None:
    base = base_name(clinic)
    for asked, adapter, answered in (("heart", "heart", "heart"), (base, "", base), (None, "", base)):
        body = clinic.chat(QUESTION, cache="off", **({} if asked is None else {"model": asked})).json()
        assert body["model"] == answered
        assert clinic.engine.requests[-1].adapter == adapter
    with clinic.stream(QUESTION, cache="off", model="skin") as response:
        models = {json.loads(line[6:])["model"] for line in response.iter_lines() if line.startswith("data: {")}
    assert models == {"skin"}


def test_an_unknown_name_is_a_404_with_those_that_are_served(clinic: Running) -> None:
    response = clinic.chat(QUESTION, model="liver")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "'heart'" in response.json()["error"]["message"]


def test_a_saved_answer_is_given_to_its_own_adapter_alone(clinic: Running, tmp_path: Path) -> None:
    for name in ("heart", "skin", base_name(clinic)):
        assert clinic.chat(QUESTION, model=name).json()["medical"]["cached"] is None
    n_asked = len(clinic.engine.requests)
    for name in ("heart", "skin", base_name(clinic)):  # one adapter's answers do not push out another's
        assert clinic.chat(QUESTION, model=name).json()["medical"]["cached"] is not None
    assert len(clinic.engine.requests) == n_asked
    rows = [json.loads(line) for line in (tmp_path / JOURNAL_FILE).read_text().splitlines()]
    lines = [row for row in rows if row["kind"] == "ended"]
    assert [(line["model"], line["adapter_digest"]) for line in lines[:2]] == [("heart", "1" * 16), ("skin", "2" * 16)]
    assert lines[2]["adapter_digest"] == ""


def test_another_file_under_the_same_name_has_no_saved_answer() -> None:
    cache = ResponseCache()
    for digest, saved in (("1" * 64, False), ("1" * 64, True), ("3" * 64, False)):
        with serving(FakeEngine(answer="Ask a clinician."), cache=cache, adapters={"heart": digest}) as server:
            answer = server.chat(QUESTION, model="heart").json()
            assert (answer["medical"]["cached"] is not None) is saved
