"""The memory that is forecast is the memory that the engine takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import write_tiny_adapter
from machines import machine
from rpc_device import rpc_device
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.engines.base import AdapterFile, EngineConfig, TensorPlace
from edgemed.engines.memory_breakdown import RAM, Sizes
from edgemed.engines.pinned import ENGINE_VERSION
from edgemed.engines.stopwatch import Measurement, Stopwatch
from edgemed.hardware.synthetic_model import MIXES, SyntheticShape, write_synthetic
from edgemed.models.gguf import check_gguf, spec_from_gguf
from edgemed.models.spec import ModelSpec
from edgemed.plan import formula, memory, projection
from edgemed.plan.memory import estimate_memory, formula_sizes
from edgemed.plan.projection import Projection, ProjectionFailed, parse_answer, project
from edgemed.plan.readback import compare_memory

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the projection is read on Linux only")
MAPPED = SyntheticShape(3, 256, 512, 4, 2, 64, 2048, tied=False)
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
    assert found["embedding"].n_bytes > 0
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
        ours, engine = formula_sizes(spec, wanted), found.places[RAM]
        assert ours.kv_cache == engine.kv_cache, wanted
        assert ours.weights == pytest.approx(engine.weights, rel=0.005), wanted
        if wanted.kv_type == "f16":
            assert ours.compute == pytest.approx(engine.compute, rel=0.005), wanted
        else:  # the formula may say too much here, never too little
            assert 0.995 * engine.compute <= ours.compute <= 1.07 * engine.compute, wanted


LAYERS = SHAPE.n_layers
ON_ONE = {"devices": ("RPC0",), "n_gpu_layers": LAYERS + 1}
ON_TWO = {"devices": ("RPC0", "RPC1"), "n_gpu_layers": LAYERS + 1, "device_shares": (0.7, 0.3)}


def places(pattern: str, device: str = "CPU") -> dict[str, object]:
    return {"tensor_places": (TensorPlace(pattern=pattern, device=device),)}


@linux_only
def test_the_formula_finds_every_byte_of_several_devices(model: Path, spec: ModelSpec) -> None:
    changes: list[dict[str, object]] = [
        *({**ON_ONE, "n_gpu_layers": count} for count in range(LAYERS + 2)),
        *({**ON_TWO, "n_gpu_layers": count} for count in (1, 2, LAYERS, LAYERS + 1)),
        {**ON_TWO, "device_shares": (1.0, 3.0), "n_slots": 2},
        {**ON_TWO, **places(r"blk\.0\.ffn_down", "RPC1")},
        *({**ON_ONE, **places(pattern)} for pattern in ("ffn_(gate|up|down)", "ffn_down", "attn_", "token_embd")),
        {**ON_ONE, **places(r"blk\.[01]\.ffn_", "RPC0"), "n_gpu_layers": 0},
        {**ON_ONE, "kv_type": "q8_0", "n_ubatch": 32},
    ]
    configs = [config(model, context_length=512, n_ubatch=64).model_copy(update=change) for change in changes]
    with rpc_device(), rpc_device() as second:
        assert second.name == "RPC1"
        projections = project(configs)
    for wanted, found in zip(configs, projections, strict=True):
        assert found is not None, wanted
        computed = formula.sizes_by_place(spec, wanted)
        assert set(computed) == set(found.places), wanted
        for place, engine in found.places.items():
            assert computed[place][:2] == engine[:2], (place, wanted)
            assert computed[place].compute == pytest.approx(engine.compute, rel=0.3, abs=2**18), (place, wanted)


@linux_only
def test_a_device_that_is_not_here_is_refused_for_its_configuration_alone(model: Path, spec: ModelSpec) -> None:
    absent = config(model, n_gpu_layers=2, devices=("CUDA7",))
    here, refused = project([config(model), absent])
    assert here is not None
    assert refused is None
    (computed,) = estimate_memory(spec, [absent])
    assert "computed" in computed.note
    assert computed.bytes_in("CUDA7") > spec.weight_bytes // LAYERS // 2


@linux_only
def test_looking_at_many_placements_makes_the_process_no_larger(model: Path) -> None:
    (alone,) = project([config(model)])
    many = project([config(model), *(config(model, **places(f"blk.{layer}")) for layer in range(4))])
    assert alone is not None
    assert many[-1] is not None
    assert many[-1].process_bytes == pytest.approx(alone.process_bytes, rel=0.05)


@linux_only
def test_a_mapped_file_counts_its_pages_and_the_repacked_copies(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path / "mapped.gguf", MAPPED, MIXES["nf4-int8"])
    spec = spec_from_gguf(check_gguf(path))
    (whole,), (found,) = (estimate_memory(spec, [config(path, use_mmap=mapped)]) for mapped in (False, True))
    with Stopwatch(config(path, use_mmap=True)) as watch:
        assert compare_memory(found.needs, watch.loaded.memory).worst_percent() < 0.5
    weights = [next(need for need in one.needs if need.part == "weights") for one in (whole, found)]
    assert weights[0].n_bytes <= weights[1].n_bytes <= 2 * weights[0].n_bytes
    assert "repacked copies" in weights[1].note


@linux_only
def test_adapters_take_what_the_plan_counts(tmp_path: Path) -> None:
    base = write_tiny_qwen2(tmp_path / "base.gguf")
    files = tuple(
        AdapterFile(
            name=f"a{seed}", path=write_tiny_adapter(tmp_path / f"{seed}.gguf", seed=seed, rank=8192, size=0.01)
        )
        for seed in range(3)
    )
    taken = []
    for adapters in ((), files):
        with Stopwatch(config(base, adapters=adapters)) as watch:
            for name in ("", *(file.name for file in adapters)):
                watch.measure(Measurement(prompt_tokens=128, answer_tokens=2, repetitions=1, adapter=name))
            taken.append(watch.resident_bytes())
    counted = sum(
        need.n_bytes for need in memory.adapter_needs(spec_from_gguf(check_gguf(base)), config(base, adapters=files))
    )
    assert counted > 60 * 2**20
    # Whether memory that was freed goes back to the system is the allocator's mood: 15 MiB more were seen once.
    assert taken[1] - taken[0] == pytest.approx(counted, abs=20 * 2**20)


def test_adapters_add_their_tensors_each_where_its_matrix_lies(tmp_path: Path) -> None:
    base = write_tiny_qwen2(tmp_path / "base.gguf")
    spec = spec_from_gguf(check_gguf(base))
    files = tuple(
        AdapterFile(name=f"of-rank-{rank}", path=write_tiny_adapter(tmp_path / f"{rank}.gguf", rank=rank))
        for rank in (4, 16)
    )
    bytes_of_rank = 4 * 2 * ((64 + 64) + (64 + 128))  # rank * (in + out) of q and down in two layers, float32
    (estimate,) = estimate_memory(spec, [config(base, adapters=files)])
    found = {need.part: need.n_bytes for need in estimate.needs}["adapters"]
    beside = formula_sizes(spec, config(base)).compute + 2 * 8 * memory._HALF_NODES_BYTES
    assert found == (4 + 16) * bytes_of_rank + beside
    half = config(base, adapters=files, n_gpu_layers=2, devices=("RPC9",))  # the head and one of two layers
    places = {need.place: need.n_bytes for need in memory.adapter_needs(spec, half)}
    assert places == {RAM: 10 * bytes_of_rank + beside, "RPC9": 10 * bytes_of_rank}


def test_a_driver_takes_what_the_profile_measured_or_a_named_assumption() -> None:
    overheads = memory.driver_overheads(machine(free_vram=8e9), ("CUDA0",))
    assert [(need.place, need.part, need.basis) for need in overheads] == [("CUDA0", "overhead", "assumed")]
    assert "not measured" in overheads[0].note


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
        b'{"process_bytes": 1, "projections": [{"places": {"RAM": [1, 2, 3]}}]}',
        b'{"process_bytes": 1, "projections": [{"places": {"RAM": [1, 2]}, "embedding": {}, "repacked": 0}, null]}',
        b'{"process_bytes": 1, "projections": [{"places": {"RAM": [-1, 2, 3]}, "embedding": {}, "repacked": 0}]}',
        b'{"process_bytes": 1, "projections": [{"places": {"RAM": [1, 2, 1e30]}, "embedding": {}, "repacked": 0}]}',
        b'{"process_bytes": 1, "projections": [{"places": {}, "embedding": {}, "repacked": -1}]}',
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
