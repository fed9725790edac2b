"""A teacher in vLLM, by objects shaped like vLLM's: what it is asked, and how its answers are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checkpoints import write_byte_level_tokenizer, write_safetensors

from edgemed.core.errors import EngineFailed, MissingExtra, ModelRefused
from edgemed.distill.backends.base import ToScore, Wanted, seed_of
from edgemed.distill.backends.vllm_engine import VllmTeacher, scored_from
from edgemed.distill.config import TeacherConfig
from edgemed.distill.shards import NO_TOKEN

ITEM = ToScore([70, 71, 72], [80, 81, 82], np.array([1], np.int32))
PLAIN = ToScore([70], [90], np.array([], np.int32))


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class Completion:
    token_ids: tuple[int, ...]


@dataclass
class RequestOutput:
    outputs: list[Completion]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


class SamplingParams:
    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(settings)
        self.settings = settings


class LLM:
    """Log-probability of a token: -token / 100. The likeliest beside it: tokens 1, 2, 3, ..."""

    def __init__(self, model: str, **settings: Any) -> None:
        self.model, self.settings = model, settings
        self.asked: list[dict[str, Any]] = []
        engines.append(self)

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams], use_tqdm: bool
    ) -> list[RequestOutput]:
        found = []
        for prompt, wanted in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            if len(ids) > self.settings["max_model_len"] - 1:
                raise ValueError("The prompt is too long")
            self.asked.append({"ids": ids, **wanted.settings})
            k = wanted.settings.get("prompt_logprobs")
            rows = None
            if k is not None:
                assert k <= self.settings["max_logprobs"]
                best = {token: Logprob(-token / 100, token) for token in range(1, k + 1)}
                rows = [None, *({**best, token: Logprob(-token / 100, token)} for token in ids[1:])]
            answer = (65, 66, sorted(wanted.settings["stop_token_ids"])[0]) if k is None else (1,)
            found.append(RequestOutput([Completion(answer[: wanted.settings["max_tokens"]])], rows))
        return found


engines: list[LLM] = []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    vllm = ModuleType("vllm")
    vllm.__spec__ = ModuleSpec("vllm", None)
    vllm.__dict__.update(LLM=LLM, SamplingParams=SamplingParams)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    engines.clear()
    write_byte_level_tokenizer(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"a": ("F32", [1], b"1234")})
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def teacher_in(folder: Path, max_tokens: int = 50) -> VllmTeacher:
    config = TeacherConfig(model=str(folder), backend="vllm", tensor_parallel=4)
    return VllmTeacher(folder, folder, config, Wanted(3, seed=5, max_tokens=max_tokens))


def test_an_answer_is_scored_as_part_of_its_text(folder: Path) -> None:
    first, second = teacher_in(folder).score([ITEM, PLAIN])
    assert first.log_probs == pytest.approx([-0.8, -0.81, -0.82])
    assert first.top_ids.tolist() == [[1, 2, 3]]
    assert first.top_log_probs[0] == pytest.approx([-0.01, -0.02, -0.03], rel=1e-2)
    assert second.log_probs == pytest.approx([-0.9])
    (engine,) = engines
    assert [asked["prompt_logprobs"] for asked in engine.asked] == [3, 1]
    assert engine.asked[0]["ids"] == [70, 71, 72, 80, 81, 82]
    wanted = {"tensor_parallel_size": 4, "max_logprobs": 3, "trust_remote_code": False, "max_model_len": 50}
    assert engine.settings.items() >= wanted.items()


def test_the_weights_are_loaded_when_they_are_needed(folder: Path) -> None:
    teacher = teacher_in(folder)
    assert len(teacher.digest) == 64
    assert engines == []
    teacher.score([PLAIN])
    teacher.score([PLAIN])
    assert len(engines) == 1


def test_samples_have_seeds_of_their_own(folder: Path) -> None:
    found = teacher_in(folder).generate([[70], [71]], 2, 0.6, 3)
    assert [len(samples) for samples in found] == [2, 2]
    assert found[0][0].finished
    seeds = [asked["seed"] for asked in engines[0].asked]
    assert seeds == [seed_of(5, prompt, sample) for prompt in ([70], [71]) for sample in (0, 1)]
    (cut,) = teacher_in(folder).generate([[70]], 1, 0.6, 2)
    assert not cut[0].finished


def test_a_text_that_the_engine_refuses_is_told(folder: Path) -> None:
    with pytest.raises(EngineFailed, match="too long"):
        teacher_in(folder, max_tokens=5).score([ITEM])


@pytest.mark.parametrize("given", [None, [None, {}]])
def test_scores_that_are_not_there_are_refused(given: Any) -> None:
    with pytest.raises(EngineFailed, match="text of 6 tokens"):
        scored_from(ITEM, given, 3)


def test_a_missing_token_is_no_number_and_missing_rivals_are_none() -> None:
    given = [None, {}, {}, {80: Logprob(-1.0)}, {81: {"logprob": -2.0}}, {5: Logprob(-1.0)}]
    found = scored_from(ITEM, given, 3)
    assert found.log_probs[:2].tolist() == [-1, -2]
    assert np.isnan(found.log_probs[2])
    assert found.top_ids.tolist() == [[81, NO_TOKEN, NO_TOKEN]]


def test_a_model_that_does_not_load_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: LLM, model: str, **settings: Any) -> None:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(LLM, "__init__", fails)
    with pytest.raises(ModelRefused, match="no GPU"):
        teacher_in(folder).score([ITEM])


def test_without_vllm_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.distill.backends.vllm_engine.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"edgemed\[cluster\]"):
        teacher_in(folder)
