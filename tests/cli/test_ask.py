"""`edgemed ask`: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import serving
from tiny_models import write_tiny_qwen2

from edgemed.cli import ask as command
from edgemed.core.errors import EdgemedError, EngineLost, UsageError
from edgemed.engines.base import EngineConfig
from edgemed.engines.fake import FakeEngine
from edgemed.medical.language import language_data
from edgemed.serve.options import CARE_NOTICE

ANSWER = "Give 15 mg/kg by mouth every 6 hours."


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `ask` opens instead of a real model."""
    fake = FakeEngine(ANSWER, context_length=4096)
    plan = SimpleNamespace(engine_config=EngineConfig(model_path=tmp_path / "m.gguf"))
    monkeypatch.setattr("edgemed.models.gguf.check_gguf", lambda path: None)
    monkeypatch.setattr("edgemed.cli.models.resolve_model", lambda model: tmp_path / "m.gguf")
    monkeypatch.setattr("edgemed.plan.store.plan_for", lambda path, progress, n_slots: plan)
    monkeypatch.setattr("edgemed.engines.registry.open_engine", lambda config, progress: fake)
    return fake


def test_the_answer_alone_is_on_stdout(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("What is the dose of paracetamol?")
    out, err = capsys.readouterr()
    assert out == ANSWER + "\n"
    assert CARE_NOTICE in err
    assert engine.health().state == "closed"


def test_json_prints_the_record_alone(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("What is the dose of paracetamol?", json=True)
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] == ANSWER
    assert (record["finish_reason"], record["model"], record["category"]) == ("stop", "m", "medication")
    assert record["notice"] == CARE_NOTICE


def test_a_cut_answer_is_said_to_be_cut(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("What is the dose of paracetamol?", max_tokens=3)
    out, err = capsys.readouterr()
    assert ANSWER.startswith(out.strip())
    assert "cut after 3 tokens" in err


def test_one_token_is_no_tokens(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("What is the dose of paracetamol?", max_tokens=1)
    assert "cut after 1 token." in capsys.readouterr().err


def test_a_question_too_long_for_the_context_is_refused_with_both_numbers(engine: FakeEngine) -> None:
    with pytest.raises(UsageError, match=r"\d{4,} tokens.*4096"):
        command.ask("why " * 5000)
    assert engine.health().state == "closed"


def test_an_engine_that_is_lost_ends_with_its_error(engine: FakeEngine) -> None:
    engine.fail_next(after_tokens=2)
    with pytest.raises(EngineLost):
        command.ask("What is the dose of paracetamol?")


def test_the_language_chooses_template_and_danger_signs(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("Le nourrisson convulse, que faire ?", language="fr", json=True)
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (record["language"], bool(record["danger_signs"])) == ("fr", True)
    assert "Possible danger sign (" in err
    prompt = engine.text_of(engine.requests[-1].prompt)
    assert language_data("fr").templates.emergency in prompt


def test_an_unknown_language_is_refused_with_those_that_are_there(engine: FakeEngine) -> None:
    with pytest.raises(UsageError, match=r"en, .*fr"):
        command.ask("What is the dose of zinc?", language="xx")
    assert engine.requests == []


def test_notes_on_words_and_unsupported_numbers_are_on_stderr(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    command.ask("Is Panadol 500 mg safe in an adult with headache?")
    out, err = capsys.readouterr()
    assert out == ANSWER + "\n"
    assert "Note: 'Panadol' stands for paracetamol." in err
    assert "Check '15 mg/kg'" in err


def test_the_askers_own_doubtful_dose_is_told_on_stderr(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    command.ask("Is 500 mg/kg of paracetamol ok for a child?")
    err = capsys.readouterr().err
    assert "Your '500 mg/kg' is not what " in err
    assert "15 mg/kg" in err


def test_ask_and_the_server_ask_the_engine_for_the_same(engine: FakeEngine) -> None:
    question = "What are the likely causes of a chronic cough?"
    command.ask(question)
    server_engine = FakeEngine(ANSWER, context_length=4096)
    with serving(server_engine) as server:
        server.chat(question)
        served, asked = server_engine.requests[-1], engine.requests[-1]
        assert server_engine.text_of(served.prompt) == engine.text_of(asked.prompt)
    assert (served.max_tokens, served.reasoning_limit) == (asked.max_tokens, asked.reasoning_limit)
    assert served.sampling.temperature == asked.sampling.temperature


def test_thinking_is_no_part_of_the_answer(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    thinking = FakeEngine(ANSWER, thought="The child is dry.", context_length=4096)
    monkeypatch.setattr("edgemed.engines.registry.open_engine", lambda config, progress: thinking)
    command.ask("What are the likely causes of a chronic cough?")
    assert capsys.readouterr().out == ANSWER + "\n"


def test_an_answer_without_a_word_is_an_error(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.engines.registry.open_engine", lambda config, progress: FakeEngine(""))
    with pytest.raises(EdgemedError, match="no answer"):
        command.ask("What is the dose of zinc?")


def test_bytes_that_are_no_text_do_not_end_it_with_a_fault(engine: FakeEngine) -> None:
    command.ask("Dose of zinc \udcff?")
    assert "zinc \ufffd?" in engine.text_of(engine.requests[-1].prompt)


@pytest.mark.parametrize("question", ["", "  \n", "\u200b\x07"])
def test_an_empty_question_is_refused_before_anything_is_loaded(question: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgemed.engines.registry.open_engine", None)
    with pytest.raises(UsageError, match="empty"):
        command.ask(question)


def edgemed(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEMED_HOME": str(home)}
    line = [sys.executable, "-m", "edgemed.cli.app", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=100, check=False, env=environment)


def test_a_real_model_answers(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = write_tiny_qwen2(tmp_path / "tiny.gguf")
    asked = ["ask", "What is the dose?", "--model", str(model), "--max-tokens", "12", "--json"]
    done = edgemed(*asked, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["answer"]
    assert (record["completion_tokens"], record["finish_reason"]) == (12, "length")


def test_a_damaged_model_ends_with_code_5_before_anything_slow(tmp_path: Path) -> None:
    model = tmp_path / "damaged.gguf"
    model.write_bytes(b"GGUF" + b"\xff" * 500)
    done = edgemed("ask", "What is the dose?", "--model", str(model), home=tmp_path / "home")
    assert done.returncode == 5
    assert done.stderr.startswith("error:")
    assert "Traceback" not in done.stderr
