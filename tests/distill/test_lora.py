"""LoRA around a student: what it computes before, while and after it is trained, and where its ranks go."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("peft")

from checkpoints import write_checkpoint  # noqa: E402

from edgemed.core.errors import EdgemedError, UsageError  # noqa: E402
from edgemed.distill.adapters import Factors, stable_svd  # noqa: E402
from edgemed.distill.config import MODULES, AdapterConfig  # noqa: E402
from edgemed.distill.gradient_scores import GradientScores, leading  # noqa: E402
from edgemed.distill.lora import (  # noqa: E402
    Pass,
    StableSvdCallback,
    adapted_modules,
    merged,
    quantization,
    save_adapter,
    stabilise,
    with_adapter,
    wrap,
)

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),  # peft asks it by an older name
]

IDS = torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(5))


def student(dtype: torch.dtype = torch.float32, seed: int = 3) -> Any:
    """A tiny model of two layers."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def first_step(model: Any, parts: int = 1) -> Any:
    """Runs one step's passes, in so many parts."""

    def gradients() -> None:
        for ids in IDS.chunk(parts):
            logits = model(ids).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            (loss / IDS[:, 1:].numel()).backward()

    return gradients


def trained(model: Any, seed: int = 0, size: float = 0.05) -> Any:
    """Both halves away from zero."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_" in name:
                weights.copy_(torch.randn(weights.shape, generator=made) * size)
    return model


def layers(model: Any) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def cost(model: Any) -> int:
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


@pytest.mark.parametrize("allocation", ["uniform", "gradient"])
def test_a_new_adapter_changes_no_logit_and_everything_else_is_frozen(allocation: Any) -> None:
    model = student()
    with torch.no_grad():
        before = model(IDS).logits
    adapted = wrap(model, AdapterConfig(rank=4, allocation=allocation), first_step(model), seed=1)
    with torch.no_grad():
        assert torch.equal(adapted(IDS).logits, before)
    assert all(("lora_" in name) == weights.requires_grad for name, weights in adapted.named_parameters())
    assert all(weights.grad is None for weights in adapted.parameters())
    assert len(layers(adapted)) == 2 * len(MODULES)


def test_one_seed_makes_one_adapter_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (wrap(student(), AdapterConfig(rank=2), seed=seed) for seed in (1, 1, 2))
    name = "model.layers.1.mlp.up_proj"
    a = [layers(one)[name].lora_A["default"].weight for one in (first, again, other)]
    assert torch.equal(a[0], a[1])
    assert not torch.equal(a[0], a[2])
    torch.manual_seed(11)
    wrap(one := student(), AdapterConfig(rank=2), seed=5)
    assert one is not None
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), expected)


def test_what_is_trained_is_float32_on_a_16_bit_student() -> None:
    adapted = wrap(student(dtype=torch.bfloat16), AdapterConfig(rank=2))
    kinds = {weights.dtype for weights in adapted.parameters() if weights.requires_grad}
    assert kinds == {torch.float32}


def test_modules_that_the_student_lacks_are_named_with_those_it_has() -> None:
    with pytest.raises(UsageError, match=r"names qkv_proj, lm_head,.*Next: name some of down_proj, gate_proj, k_proj"):
        wrap(student(), AdapterConfig(modules=("q_proj", "qkv_proj", "lm_head")))


@pytest.mark.parametrize("stabilised", [True, False])
def test_ranks_follow_the_gradient_within_the_budget_and_the_scale_stays(stabilised: bool) -> None:
    model = student()
    uniform = wrap(student(), AdapterConfig(rank=4, stabilised=stabilised))
    allocated = wrap(model, AdapterConfig(rank=4, stabilised=stabilised, allocation="gradient"), first_step(model))
    ranks = {name: layer.r["default"] for name, layer in layers(allocated).items()}
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 12
    assert 0.9 * cost(uniform) < cost(allocated) <= cost(uniform)
    scales = {layer.scaling["default"] for layer in [*layers(allocated).values(), *layers(uniform).values()]}
    assert max(scales) == pytest.approx(min(scales), rel=1e-12)


def test_modules_with_equal_gradients_get_equal_ranks() -> None:
    class Alike(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(12, 8) for _ in range(3))

        def forward(self, x: Any) -> Any:
            return self.q_proj(x) + self.k_proj(x) + self.v_proj(x)

    torch.manual_seed(0)
    model, x = Alike(), torch.randn(20, 12)
    adapter = AdapterConfig(rank=2, modules=("q_proj", "k_proj", "v_proj"), allocation="gradient")
    adapted = wrap(model, adapter, lambda: model(x).square().sum().backward())
    assert {layer.r["default"] for layer in layers(adapted).values()} == {2}


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_are_the_singular_values_of_the_dense_gradient_over_all_parts(parts: int, checkpointing: bool) -> None:
    reference = student()
    first_step(reference)()
    model = student()
    for weights in model.parameters():
        weights.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    modules = adapted_modules(model, MODULES)
    found = GradientScores(modules, 40, seed=0).measure(first_step(model, parts))
    for name, values in found.items():
        dense = torch.linalg.svdvals(reference.get_submodule(name).weight.grad)[:40]
        assert torch.allclose(torch.tensor(values), dense, atol=1e-4 * float(dense[0])), name


def test_leading_values_of_a_large_product_are_those_of_the_dense_matrix() -> None:
    made = torch.Generator().manual_seed(0)
    falling = torch.logspace(0, -2, 120)
    left, right = torch.randn(120, 300, generator=made) * falling[:, None], torch.randn(120, 200, generator=made)
    u, s, v = leading(left, right, 24, seed=1)
    dense = torch.linalg.svdvals(left.T @ right)
    assert torch.allclose(s[:16], dense[:16], rtol=0.01)
    assert torch.allclose((u * s) @ v.T @ v, u * s, atol=1e-3 * float(s[0]))
    assert float((s - dense[:24]).max()) < 1e-3 * float(dense[0])  # never more than there is


def test_a_gradient_that_is_no_number_stops_before_training() -> None:
    model = student()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(EdgemedError, match="is no number"):
        wrap(model, AdapterConfig(rank=2, allocation="gradient"), first_step(model))


def test_a_merged_student_computes_what_the_adapter_did_and_says_what_rounding_cost() -> None:
    errors = {}
    for dtype in (torch.float32, torch.bfloat16):
        adapted = trained(wrap(student(dtype=dtype), AdapterConfig(rank=4)))
        with torch.no_grad():
            before = adapted.eval()(IDS).logits.float()
        plain, errors[dtype] = merged(adapted)
        assert not any("lora" in name for name, _ in plain.named_parameters())
        with torch.no_grad():
            after = plain(IDS).logits.float()
        assert float((after - before).abs().max() / before.std()) < 3 * max(errors[dtype].logits, 1e-6)
    exact, rounded = errors[torch.float32], errors[torch.bfloat16]
    assert exact.weights < 1e-4
    assert exact.logits < 1e-4
    assert 1e-4 < rounded.weights < 0.3
    assert 1e-4 < rounded.logits < 0.3


def test_stable_svd_runs_every_few_steps_tells_what_it_found_and_leaves_the_scale() -> None:
    adapted = trained(wrap(student(), AdapterConfig(rank=4)))
    name = "model.layers.0.self_attn.q_proj"
    layer = layers(adapted)[name]
    with torch.no_grad():  # two of its directions are the same
        layer.lora_A["default"].weight[3] = layer.lora_A["default"].weight[0]
    before = Factors(layer.lora_B["default"].weight.detach().clone(), layer.lora_A["default"].weight.detach().clone())
    scale = dict(layer.scaling)
    passes: list[Pass] = []
    callback = StableSvdCallback(5, passes.append)
    state = SimpleNamespace(global_step=4, log_history=[])
    callback.on_step_end(None, state, None, model=adapted)
    assert not passes
    state.global_step = 10
    callback.on_step_end(None, state, None, model=torch.nn.ModuleDict({"model": adapted}))  # as a trainer may hold it
    assert [one.step for one in passes] == [10]
    assert passes[0].modules[name].rank == 3
    assert {one.rank for other, one in passes[0].modules.items() if other != name} == {4}
    assert state.log_history[0]["step"] == 10
    assert state.log_history[0]["stable_svd_smallest_rank"] == 3
    expected = stable_svd(before)
    assert expected is not None
    assert torch.equal(layer.lora_B["default"].weight, expected.factors.b)
    assert torch.allclose(layer.lora_B["default"].weight @ layer.lora_A["default"].weight, before.product, atol=1e-5)
    assert layer.scaling == scale
    assert layer.lora_A["default"].weight.requires_grad
    assert Pass.model_validate_json(passes[0].model_dump_json()) == passes[0]


def test_stable_svd_leaves_an_untrained_adapter_and_its_optimizer_alone() -> None:
    adapted = wrap(student(), AdapterConfig(rank=4))
    weights = {name: value.clone() for name, value in adapted.state_dict().items()}
    state = SimpleNamespace(global_step=5, log_history=[])
    StableSvdCallback(5).on_step_end(None, state, None, model=adapted)
    assert state.log_history == []
    assert all(torch.equal(value, weights[name]) for name, value in adapted.state_dict().items())


def test_the_optimizer_begins_anew_for_what_stable_svd_changed_and_for_nothing_else() -> None:
    adapted = wrap(student(), AdapterConfig(rank=2, modules=("q_proj", "v_proj")))
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(2):
        torch.nn.functional.cross_entropy(adapted(IDS).logits.flatten(0, 1), IDS.flatten()).backward()
        optimizer.step()
    untouched = layers(adapted)["model.layers.1.self_attn.v_proj"]
    with torch.no_grad():
        untouched.lora_B["default"].weight.zero_()
    found = stabilise(adapted, optimizer)
    assert len(found) == 3
    assert "model.layers.1.self_attn.v_proj" not in found
    for layer in layers(adapted).values():
        for half in (layer.lora_A, layer.lora_B):
            state = optimizer.state[half["default"].weight]
            anew = float(state["step"]) == 0 and not state["exp_avg"].any() and not state["exp_avg_sq"].any()
            assert anew == (layer is not untouched)
    before = {name: one.detach().clone() for name, one in adapted.named_parameters() if one.requires_grad}
    torch.nn.functional.cross_entropy(adapted(IDS).logits.flatten(0, 1), IDS.flatten()).backward()
    optimizer.step()  # its first step is a first step: no larger than the rate
    after = {name: one.detach() for name, one in adapted.named_parameters()}
    moved = [float((after[name] - one).abs().max()) for name, one in before.items()]
    assert max(moved) < 1.2e-2


def test_stable_svd_does_the_same_to_sharded_factors(tmp_path: Path) -> None:
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole, sharded = (trained(wrap(student(), AdapterConfig(rank=3))) for _ in range(2))
    expected = stabilise(whole)
    init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        optimizer = torch.optim.AdamW([one for one in sharded.parameters() if one.requires_grad])
        assert stabilise(sharded, optimizer) == expected
        values = {name: one.full_tensor() for name, one in sharded.named_parameters() if one.requires_grad}
        assert all(torch.equal(values[name], one) for name, one in whole.named_parameters() if one.requires_grad)
    finally:
        destroy_process_group()


def test_an_adapter_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student()
    adapted = trained(wrap(model, AdapterConfig(rank=3, allocation="gradient"), first_step(model)))
    save_adapter(adapted, tmp_path / "adapter")
    again = with_adapter(student(), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(again.eval()(IDS).logits, adapted.eval()(IDS).logits)
    kept = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert kept["use_rslora"] is True
    assert len(kept["rank_pattern"]) == 14

    def full(folder: Path, **settings: Any) -> None:
        (Path(folder) / "adapter_config.json").write_text("{}", "utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapted, "save_pretrained", full)
    with pytest.raises(EdgemedError, match="No space left"):
        save_adapter(adapted, tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text("utf-8")) == kept


def test_four_bits_need_a_gpu_and_a_student_that_was_loaded_so() -> None:
    adapter = AdapterConfig(base_bits=4)
    with pytest.raises(UsageError, match=r"needs an NVIDIA GPU; this training runs on the CPU.*base_bits = 16"):
        quantization(adapter, "cpu")
    asked = quantization(adapter, "cuda")
    assert (asked.bnb_4bit_quant_type, asked.load_in_4bit) == ("nf4", True)
    assert quantization(AdapterConfig(), "cuda") is None
    assert quantization(None, "cpu") is None
    with pytest.raises(UsageError, match="are not in 4 bits"):
        wrap(student(), adapter)


def test_ranks_of_every_size_become_an_adapter_that_the_engine_loads(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    import numpy as np
    from adapters import peft_logits
    from transformers import AutoModelForCausalLM

    from edgemed.core.tensor_types import F32
    from edgemed.export.adapter import export_adapter, fit_adapter
    from edgemed.export.engine_question import ask_engine
    from edgemed.export.gguf import export_gguf

    base = write_checkpoint(tmp_path / "base", "qwen2")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    adapted = trained(wrap(model, AdapterConfig(rank=4, allocation="gradient"), first_step(model)), size=0.2)
    save_adapter(adapted, tmp_path / "adapter")
    export_gguf(base, tmp_path / "base.gguf", recipe="f32")
    fitting = fit_adapter(base, tmp_path / "adapter")
    report = export_adapter(fitting, tmp_path / "base.gguf", tmp_path / "adapter.gguf", kind=F32)
    assert report.smallest_rank < 4 < report.largest_rank
    prompt = list(range(5, 21))
    place = tmp_path / "logits"
    question = {"path": str(tmp_path / "base.gguf"), "prompt": prompt, "logits": str(place)}
    answer = ask_engine(question | {"adapter": str(tmp_path / "adapter.gguf")})
    logits = np.fromfile(place, np.float32).reshape(len(prompt), answer["n_vocab"])
    expected = peft_logits(base, tmp_path / "adapter", prompt)
    assert float(np.abs(logits - expected).max() / expected.std()) < 1e-3
