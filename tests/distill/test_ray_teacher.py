"""A teacher on many machines: rows through a Ray of this machine, with a stand-in for the engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_byte_level_tokenizer, write_safetensors

from edgemed.core.errors import EngineFailed, MissingExtra
from edgemed.distill.backends.base import ToScore, Wanted
from edgemed.distill.backends.ray_data import RayTeacher, processor_settings
from edgemed.distill.config import TeacherConfig

TOP_K = 3


def items(n: int) -> list[ToScore]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(n):
        prompt, answer = (random.integers(10, 300, random.integers(1, 9)).tolist() for _ in range(2))
        found.append(ToScore(prompt, answer, np.flatnonzero(random.random(len(answer)) < 0.5).astype(np.int32)))
    return found


def config_of(folder: Path) -> TeacherConfig:
    return TeacherConfig(model=str(folder), backend="ray", replicas=2, tensor_parallel=4, batch=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("teacher")
    write_byte_level_tokenizer(found)
    write_safetensors(found / "model.safetensors", {"a": ("F32", [1], b"1234")})
    (found / "config.json").write_text("{}", encoding="utf-8")
    return found


def stand_in(
    settings: dict[str, Any], before: Callable[[Any], Any], behind: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """What Ray's vLLM stage gives: log-probability of a token is -token / 100, the likeliest are 1, 2, 3, ..."""

    def engine(row: dict[str, Any]) -> dict[str, Any]:
        ids = [int(token) for token in row.pop("tokenized_prompt")]
        wanted = row.pop("sampling_params")
        k = wanted.get("prompt_logprobs")
        rows = None
        if k is not None:
            best = {token: {"logprob": -token / 100, "rank": token} for token in range(1, k + 1)}
            rows = [None, *({**best, token: {"logprob": -token / 100, "rank": token}} for token in ids[1:])]
        return {**row, "prompt_logprobs": rows, "generated_tokens": [ids[0], 66, 0][: wanted["max_tokens"]]}

    return lambda rows: rows.map(before).map(engine).map(behind)


VLLM = {
    "__init__.py": """
import vllm.inputs, vllm.outputs
from types import SimpleNamespace

class SamplingParams:
    def __init__(self, structured_outputs=None, **settings):
        self.__dict__.update(settings)
        self.settings = settings

class AsyncEngineArgs:
    def __init__(self, **settings):
        self.settings = settings

    def create_engine_config(self):
        return SimpleNamespace(
            scheduler_config=SimpleNamespace(max_num_seqs=4), parallel_config=SimpleNamespace(pipeline_parallel_size=1)
        )

class AsyncLLMEngine:
    @classmethod
    def from_engine_args(cls, engine_args, stat_loggers=None):
        found = cls()
        found.settings = engine_args.settings
        return found

    async def generate(self, request_id, prompt, sampling_params, lora_request=None):
        ids, k = prompt["prompt_token_ids"], sampling_params.settings.get("prompt_logprobs")
        rows = None
        if k is not None:
            assert k <= self.settings["max_logprobs"]
            best = {token: vllm.outputs.Logprob(-token / 100, token) for token in range(1, k + 1)}
            rows = [None, *({**best, token: vllm.outputs.Logprob(-token / 100, token)} for token in ids[1:])]
        written = [ids[0], 66, 0][: sampling_params.max_tokens]
        yield vllm.outputs.RequestOutput(ids, [vllm.outputs.Completion(written)], rows)

    async def do_log_stats(self): ...
    def shutdown(self): ...
""",
    "inputs.py": "TokensPrompt = TextPrompt = dict",
    "outputs.py": """
from dataclasses import dataclass

@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str | None = None

@dataclass
class Completion:
    token_ids: list
    text: str = ""
    logprobs: None = None

@dataclass
class RequestOutput:
    prompt_token_ids: list
    outputs: list
    prompt_logprobs: list
    metrics: None = None
    finished: bool = True
    prompt: str = ""

class PoolingRequestOutput: ...
""",
    "v1/__init__.py": "",
    "v1/metrics/__init__.py": "",
    "v1/metrics/ray_wrappers.py": "RayPrometheusStatLogger = object",
}
"""A package of vLLM's names for Ray's own stage to import: the same model as `stand_in`."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgemed[cluster]'")
    packages = tmp_path_factory.mktemp("packages")
    for name, content in VLLM.items():
        path = packages / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    here = {"PYTHONPATH": os.pathsep.join([str(packages), *sys.path])}
    ray.init(
        num_cpus=2,
        num_gpus=1,  # a number only: nothing looks for it
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": here},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def test_without_ray_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgemed.distill.backends.ray_data.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"edgemed\[cluster\]"):
        RayTeacher(folder, folder, config_of(folder), Wanted(TOP_K))


def test_engines_are_configured_as_asked(folder: Path) -> None:
    settings = processor_settings(folder, folder, config_of(folder), Wanted(TOP_K, max_tokens=99))
    assert settings["concurrency"] == (2, 2)
    assert settings["batch_size"] == 16
    wanted = {"tensor_parallel_size": 4, "max_model_len": 99, "max_logprobs": TOP_K}
    assert settings["engine_kwargs"].items() >= wanted.items()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_rows_go_through_ray_and_come_back_in_their_order(folder: Path, cluster: Any) -> None:
    teacher = RayTeacher(folder, folder, config_of(folder), Wanted(TOP_K, seed=2), build=stand_in)
    asked = items(40)
    for item, scored in zip(asked, teacher.score(asked), strict=True):
        assert scored.ids.tolist() == list(item.answer)
        np.testing.assert_allclose(scored.log_probs, -np.array(item.answer) / 100, rtol=1e-6)
        assert scored.top_ids.tolist() == [[1, 2, 3]] * len(item.places)
        assert scored.places.tolist() == item.places.tolist()
    found = teacher.generate([[70], [71]], 2, 0.6, 3)
    assert [[one.finished for one in samples] for samples in found] == [[True, True], [True, True]]
    assert found[0][0] != found[1][0]
    assert not teacher.generate([[70]], 1, 0.6, 2)[0][0].finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rows_go_through_rays_own_stage_of_vllm(folder: Path, cluster: Any) -> None:
    pytest.importorskip("ray.data.llm", reason="Ray without ray.data.llm", exc_type=ImportError)
    config = TeacherConfig(model=str(folder), backend="ray", batch=4)
    teacher = RayTeacher(folder, folder, config, Wanted(TOP_K, seed=2))
    asked = items(9)
    for item, scored in zip(asked, teacher.score(asked), strict=True):
        np.testing.assert_allclose(scored.log_probs, -np.array(item.answer) / 100, rtol=1e-6)
        assert scored.top_ids.tolist() == [[1, 2, 3]] * len(item.places)
    ((answer,),) = teacher.generate([[70]], 1, 0.6, 3)
    assert answer.finished


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_fault_of_an_engine_is_told(folder: Path, cluster: Any) -> None:
    def broken(settings: Any, before: Any, behind: Any) -> Callable[[Any], Any]:
        def engine(row: dict[str, Any]) -> dict[str, Any]:
            raise RuntimeError("out of memory")

        return lambda rows: rows.map(before).map(engine)

    teacher = RayTeacher(folder, folder, config_of(folder), Wanted(TOP_K), build=broken)
    with pytest.raises(EngineFailed, match="Ray did not finish"):
        teacher.score(items(2))
