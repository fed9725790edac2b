"""The memory that is forecast is the memory that the engine takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.engines.base import EngineConfig
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.engines.pinned import ENGINE_VERSION
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan import memory, projection
from edgemed.plan.memory import estimate_memory, formula_sizes
from edgemed.plan.projection import Projection, ProjectionFailed, parse_answer, project

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the projection is read on Linux only")
SHAPE = TinyShape(n_layers=4, hidden_size=256, ffn_size=1024, n_heads=8, n_kv_heads=4)

# What the engine says when it really allocates: an oracle that shares no code with the breakdown's reader.
REAL_LOAD = """
import json, os, re, sys
from edgemed.engines.base import EngineConfig
from edgemed.engines.llama_cpp import context_parameters, load_api, model_parameters
api, said = load_api(), []
log = api.llama_log_callback(lambda level, text, data: said.append(text.decode(errors="replace")))
api.llama_log_set(log, None)
config = EngineConfig.model_validate(json.load(sys.stdin))
model = api.llama_model_load_from_file(os.fsencode(config.model_path), model_parameters(api, config))
context = api.llama_init_from_model(model, context_parameters(api, config))
def total(what):
    return sum(float(size) for size in re.findall(rf"{what} buffer size\\s*=\\s*([\\d.]+) MiB", "".join(said)))
print(json.dumps([total("model"), total("KV"), total("compute"), total("output")]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf", shape=SHAPE)


@pytest.fixture(scope="module")
def spec(model: Path) -> ModelSpec:
    return spec_from_gguf(check_gguf(model))


def config(model: Path, **changes: object) -> EngineConfig:
    return EngineConfig(model_path=model).model_copy(update=changes)


@linux_only
@pytest.mark.parametrize(
    "changes",
    [
        {"context_length": 8192},
        {"context_length": 4096, "n_slots": 4, "n_ubatch": 512},
        {"context_length": 16384, "kv_type": "q8_0", "n_ubatch": 256},
    ],
)
def test_the_projection_is_what_a_real_load_allocates(model: Path, spec: ModelSpec, changes: dict[str, object]) -> None:
    wanted = config(model, **changes)
    done = subprocess.run(
        [sys.executable, "-c", REAL_LOAD], input=wanted.model_dump_json(), capture_output=True, text=True, check=True
    )
    allocated = [size * 2**20 for size in json.loads(done.stdout)]
    (estimate,) = estimate_memory(spec, [wanted])
    found = {need.part: need for need in estimate.needs}
    assert all(need.basis == "projected" for part, need in found.items() if part not in ("logits", "process"))
    for part, real in zip(("weights", "kv_cache", "compute"), allocated, strict=False):
        assert found[part].n_bytes == pytest.approx(real, rel=0.005), part
    assert found["logits"].n_bytes == pytest.approx(allocated[3], abs=0.006 * 2**20)  # the log has two decimals


@linux_only
def test_the_formula_equals_the_projection(model: Path, spec: ModelSpec) -> None:
    configs = [
        config(model, context_length=context, n_slots=slots, kv_type=kv_type, n_ubatch=ubatch)
        for context in (300, 2048, 16384)
        for slots in (1, 3)
        for kv_type in ("f16", "q8_0", "q4_0")
        for ubatch in (32, 128)
    ]
    for wanted, found in zip(configs, project(configs), strict=True):
        assert found is not None
        formula, engine = formula_sizes(spec, wanted), found.places[RAM]
        assert formula.kv_cache == engine.kv_cache, wanted
        assert formula.weights == pytest.approx(engine.weights, rel=0.005), wanted
        if wanted.kv_type == "f16":
            assert formula.compute == pytest.approx(engine.compute, rel=0.005), wanted
        else:  # the formula may say too much here, never too little
            assert 0.995 * engine.compute <= formula.compute <= 1.07 * engine.compute, wanted


@linux_only
def test_a_header_alone_is_enough(model: Path, tmp_path: Path) -> None:
    header = check_gguf(model)
    sparse = tmp_path / "header-only.gguf"
    with model.open("rb") as source:
        sparse.write_bytes(source.read(header.data_offset))
    os.truncate(sparse, model.stat().st_size)
    (whole,), (alone,) = project([config(model)]), project([config(sparse)])
    assert whole is not None
    assert alone is not None
    assert whole.places == alone.places
    assert alone.process_bytes > 0


@linux_only
def test_a_configuration_that_the_engine_refuses_is_computed(model: Path, spec: ModelSpec) -> None:
    missing = config(model.with_name("absent.gguf"))
    (estimate,) = estimate_memory(spec, [missing])
    assert {need.basis for need in estimate.needs if need.part == "weights"} == {"computed"}
    assert "refuses" in estimate.note


def test_another_version_of_the_engine_is_not_asked(
    model: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "installed_version", lambda: "0.3.99")
    (estimate,) = estimate_memory(spec, [config(model)])
    assert f"needs llama-cpp-python {ENGINE_VERSION}; 0.3.99 is installed" in estimate.note
    assert estimate.total_bytes > spec.weight_bytes
    assert {need.basis for need in estimate.needs if need.n_bytes} == {"computed", "assumed"}


def test_an_engine_that_dies_is_replaced_by_the_formula(
    model: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(configs: object) -> list[object]:
        raise ProjectionFailed("the engine's process ended with -11: Segmentation fault")

    monkeypatch.setattr(memory, "project", dies)
    (estimate,) = estimate_memory(spec, [config(model)])
    assert "-11" in estimate.note
    assert estimate.total_bytes > 0


@pytest.mark.parametrize("share", [0.0, 0.4, 3.0])
def test_weights_that_cannot_be_the_files_are_not_believed(
    model: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    strange = Projection({RAM: Sizes(int(spec.weight_bytes * share), 5, 5)}, 5)
    monkeypatch.setattr(memory, "project", lambda configs: [strange])
    (estimate,) = estimate_memory(spec, [config(model)])
    assert "cannot be right" in estimate.note
    assert estimate.bytes_in(RAM) > spec.weight_bytes


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"ggml_abort",
        b"[]",
        b'{"process_bytes": 1, "projections": []}',
        b'{"process_bytes": 1, "projections": [{"RAM": [1, 2]}, null]}',
        b'{"process_bytes": 1, "projections": [{"RAM": [-1, 2, 3]}]}',
        b'{"process_bytes": 1, "projections": [{"RAM": [1, 2, 1e30]}]}',
    ],
)
def test_a_senseless_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ProjectionFailed):
        parse_answer(answer, 1)


def test_sizes_of_two_places_add_up() -> None:
    assert Sizes(1, 2, 3).plus(Sizes(10, 20, 30)) == Sizes(11, 22, 33)


@pytest.mark.parametrize(("n_gpu_layers", "layers"), [(0, 0), (1, 0), (2, 1), (4, 3), (5, 4), (99, 4)])
def test_the_head_is_the_first_layer_on_the_gpu(model: Path, spec: ModelSpec, n_gpu_layers: int, layers: int) -> None:
    wanted = config(model, n_gpu_layers=n_gpu_layers)
    assert memory.layers_on_gpu(spec, wanted) == layers
    estimate = memory._computed(spec, wanted, "", "CUDA0")
    kv_on_gpu = sum(need.n_bytes for need in estimate.needs if need.place == "CUDA0" and need.part == "kv_cache")
    assert kv_on_gpu == memory.kv_bytes(spec, wanted) * layers // spec.n_layers
