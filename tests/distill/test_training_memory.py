"""What a training is said to need, held against what torch allocates for a real step of a tiny student."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="distillation needs torch")
pytest.importorskip("peft")

from checkpoints import write_checkpoint  # noqa: E402

from edgemed.core.errors import PlanInfeasible  # noqa: E402
from edgemed.core.units import GIB, MIB, format_bytes  # noqa: E402
from edgemed.distill.config import (  # noqa: E402
    AdapterConfig,
    DataConfig,
    DistillConfig,
    LossConfig,
    NewStudent,
    StageConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from edgemed.distill.training_memory import (  # noqa: E402
    Machine,
    require_training_memory,
    student_spec,
    this_machine,
    training_memory,
    ways_out,
)
from edgemed.models.spec import ModelSpec  # noqa: E402

pytestmark = [
    pytest.mark.needs_torch,
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),  # peft asks it by an older name
]

SMALL = NewStudent(hidden_size=128, ffn_size=384, n_layers=4, n_heads=4, n_kv_heads=2)
HALF_B = NewStudent(hidden_size=896, ffn_size=4864, n_layers=3, n_heads=14, n_kv_heads=2)
SEVEN_B = NewStudent(hidden_size=3584, ffn_size=18944, n_layers=28, n_heads=28, n_kv_heads=4)
PLENTY = Machine(free=1 << 60)


def config(
    new: NewStudent,
    adapter: AdapterConfig | None = None,
    *,
    rows: int = 4,
    tokens: int = 128,
    loss: LossConfig | None = None,
    **training: Any,
) -> DistillConfig:
    """`rows` texts of `tokens` in a micro-batch."""
    stage = StageConfig(steps=1, examples_per_step=rows * training.get("micro_batches", 1))
    return DistillConfig(
        teacher=TeacherConfig(model="demo"),
        student=StudentConfig(new=new),
        data=DataConfig(examples="demo", max_tokens=tokens),
        loss=loss or LossConfig(),
        adapter=adapter,
        sft=stage,
        kd=stage,
        training=TrainingConfig(**training),
    )


def spec_of(asked: DistillConfig, vocabulary: int) -> ModelSpec:
    return student_spec(asked.student, vocabulary)


def made(asked: DistillConfig, vocabulary: int) -> tuple[Any, Any, Any]:
    """The student, ready to train, its optimizer, and a step."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from edgemed.distill.lora import wrap
    from edgemed.distill.losses import log_probs_of
    from edgemed.distill.vocabulary import over_vocabulary

    new, training = asked.student.new, asked.training
    assert new is not None
    half = training.dtype == "bfloat16"
    shape = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=new.hidden_size,
        intermediate_size=new.ffn_size,
        num_hidden_layers=new.n_layers,
        num_attention_heads=new.n_heads,
        num_key_value_heads=new.n_kv_heads,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(shape)
    if asked.adapter is not None:
        model = wrap(model.to(torch.bfloat16) if half else model, asked.adapter)
    whole = model if asked.adapter is None else model.get_base_model()
    if training.gradient_checkpointing:
        whole.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], fused=True)
    rows = asked.sft.examples_per_step // training.micro_batches
    ids = torch.randint(0, vocabulary, (rows, asked.data.max_tokens))

    def step() -> None:
        for _ in range(training.micro_batches):
            with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
                hidden = whole.base_model(input_ids=ids, use_cache=False)[0].flatten(0, 1)
                states = hidden[torch.arange(len(hidden))]
                head = whole.get_output_embeddings().weight
                found = over_vocabulary(states, head, log_probs_of, ids.flatten()[:, None])
            (-found.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def allocated(asked: DistillConfig, vocabulary: int) -> int:
    """Bytes of all tensors at the peak of a second step, as torch's profiler tells of them."""
    from torch.profiler import ProfilerActivity, profile

    model, optimizer, step = made(asked, vocabulary)
    step()
    kept = [*model.parameters(), *(one for state in optimizer.state.values() for one in state.values())]
    now = most = sum(one.numel() * one.element_size() for one in kept)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return int(most)


@pytest.mark.filterwarnings("ignore::UserWarning:torch.*")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"micro_batches": 2},
        {"adapter": AdapterConfig(rank=8)},
        {"adapter": AdapterConfig(rank=8), "gradient_checkpointing": True},
        {"adapter": AdapterConfig(rank=8, modules=("q_proj", "v_proj"))},
        {"adapter": AdapterConfig(rank=8), "dtype": "bfloat16"},
    ],
    ids=["all", "checkpointing", "two parts", "adapter", "adapter, checkpointing", "few modules", "16 bits"],
)
def test_the_estimate_is_what_torch_allocates_for_a_step(settings: dict[str, Any]) -> None:
    asked = config(SMALL, **settings)
    told = training_memory(asked, spec_of(asked, 1000), PLENTY)
    real = allocated(asked, 1000)
    assert 0.98 * real < told.peak - told.runtime < 1.2 * real, (told, real)


def test_many_positions_cost_no_more_than_one_chunk_of_logits() -> None:
    few, many = (config(SMALL, rows=rows, tokens=512, gradient_checkpointing=True) for rows in (4, 64))
    one, other = (training_memory(asked, spec_of(asked, 152_064), PLENTY) for asked in (few, many))
    assert one.head == other.head
    assert one.activations * 15 < other.activations


def test_a_checkpoint_is_counted_by_its_headers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "base", "qwen2")
    asked = config(SMALL).model_copy(update={"student": StudentConfig(model=str(folder))})
    spec = student_spec(asked.student, 0)
    told = training_memory(asked, spec, PLENTY)
    assert told.weights == 4 * spec.n_parameters
    assert told.moments == 2 * told.weights
    assert student_spec(StudentConfig(model="demo"), 0).hidden_size == 256


def test_a_new_student_has_the_tensors_that_transformers_makes() -> None:
    asked = config(SMALL)
    model = made(asked, 500)[0]
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    assert {tensor.name: tensor.shape for tensor in spec_of(asked, 500).tensors} == shapes


def test_a_7b_needs_what_is_known_of_it() -> None:
    gpu = Machine(device="cuda", free=1 << 60)
    asked = config(SEVEN_B, rows=1, tokens=2048, gradient_checkpointing=True)
    spec = spec_of(asked, 152_064)
    full = training_memory(asked, spec, gpu)
    assert full.moments == pytest.approx(8 * 7.07e9, rel=0.02)
    adapter = training_memory(asked.model_copy(update={"adapter": AdapterConfig()}), spec, gpu)
    assert 14 * GIB < adapter.peak < 24 * GIB
    four = training_memory(asked.model_copy(update={"adapter": AdapterConfig(base_bits=4)}), spec, gpu)
    assert 6 * GIB < four.peak < 14 * GIB
    eight = training_memory(asked, spec, Machine(device="cuda", free=1 << 60, processes=8, sharded=True))
    assert full.moments == 8 * eight.moments
    assert eight.peak < full.peak / 4


def test_retention_of_a_fully_trained_student_keeps_a_copy_and_of_an_adapter_none() -> None:
    loss = LossConfig(retention=0.5)
    plain, kept = (
        training_memory(config(SMALL, loss=one), spec_of(config(SMALL), 1000), PLENTY) for one in (None, loss)
    )
    assert (plain.reference, kept.reference) == (0, plain.weights)
    adapted = config(SMALL, AdapterConfig(), loss=loss)
    assert training_memory(adapted, spec_of(adapted, 1000), PLENTY).reference == 0


def needs(asked: DistillConfig, free: int, device: Any = "cpu", **more: Any) -> str:
    with pytest.raises(PlanInfeasible) as refused:
        require_training_memory(asked, spec_of(asked, 152_064), Machine(device=device, free=free), **more)
    return str(refused.value)


def test_what_does_not_fit_names_the_first_of_the_ways_out_that_does() -> None:
    asked, gpu = config(SEVEN_B, rows=4, tokens=2048), Machine(device="cuda", free=1 << 60)
    spec = spec_of(asked, 152_064)
    told = require_training_memory(asked, spec, gpu)
    assert needs(asked, told.peak - 1, "cuda").startswith(f"Training needs {format_bytes(told.peak)} (activations ")
    ways = [(training_memory(changed, spec, gpu).peak, said) for changed, said in ways_out(asked, gpu)]
    least = told.peak
    named = []
    for peak, said in ways:
        if peak < least:
            assert needs(asked, peak, "cuda").endswith(f"Next: with {said} it needs {format_bytes(peak)}")
            named.append(said)
            least = peak
    assert named[0] == "training.gradient_checkpointing = true"
    assert named[-1].startswith("an [adapter] of rank 16 with base_bits = 4 and training.gradient_checkpointing = true")
    assert needs(asked, least - 1, "cuda").endswith("or a machine with more memory")


def test_ways_out_stand_in_the_order_of_what_they_cost() -> None:
    asked = config(SMALL, rows=3)
    said = [said for _, said in ways_out(asked, Machine(device="cuda", free=0))]
    plain = [
        "training.gradient_checkpointing = true",
        "training.micro_batches = 2",
        "training.micro_batches = 3",
        "training.gradient_checkpointing = true and training.micro_batches = 2",
        "training.gradient_checkpointing = true and training.micro_batches = 3",
    ]
    assert said[:5] == plain
    assert said[5:11] == ["an [adapter] of rank 16", *(f"an [adapter] of rank 16 and {way}" for way in plain)]
    assert said[11] == "an [adapter] of rank 16 with base_bits = 4"
    on_two = [said for _, said in ways_out(config(SMALL, AdapterConfig(), rows=5), Machine(free=0, processes=2))]
    assert on_two == [
        plain[0],
        "training.micro_batches = 2",
        "training.micro_batches = 4",
        f"{plain[0]} and training.micro_batches = 2",
        f"{plain[0]} and training.micro_batches = 4",
    ]


def test_the_longest_lesson_counts_where_it_is_known() -> None:
    asked = config(SMALL, tokens=1024)
    spec = spec_of(asked, 1000)
    whole = training_memory(asked, spec, PLENTY)
    assert training_memory(asked, spec, PLENTY, longest=64).activations * 16 == whole.activations
    assert training_memory(asked, spec, PLENTY, teacher=5 * MIB).peak == whole.peak + 5 * MIB


def test_this_machine_has_some_memory_and_processes_share_it() -> None:
    alone, two = this_machine("cpu"), this_machine("cpu", 2)
    assert 64 * MIB < two.free < alone.free


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True], ids=["all", "adapter"])
def test_the_estimate_is_what_a_process_takes_for_a_model_of_true_shape(adapted: bool) -> None:
    asked = config(HALF_B, AdapterConfig() if adapted else None, rows=2, tokens=512)
    told = training_memory(asked, spec_of(asked, 151_936), PLENTY)
    done = subprocess.run(
        [sys.executable, __file__, "all" if not adapted else "adapter"], capture_output=True, check=True
    )
    real = int(done.stdout.split()[-1])
    assert 0.9 * real < told.peak < 1.2 * real, (told, real)


if __name__ == "__main__":  # one process of the test above: its peak resident set in bytes
    asked = config(HALF_B, AdapterConfig() if sys.argv[1] == "adapter" else None, rows=2, tokens=512)
    *_, step = made(asked, 151_936)
    step()
    step()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
