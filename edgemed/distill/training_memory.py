"""What training a student will need in memory, from its shape and the settings alone, before anything is loaded.

    weights      float32 where they are trained; below an adapter in the computation's format, or in NF4
    gradients    float32, and AdamW's two moments, of what is trained
    activations  what the backward pass wants of the forward pass, per token and layer (or per layer's edge alone)
    head         one chunk of logits and what the loss makes of it (vocabulary.py)
    reference    the frozen copy that retention compares a fully trained student with; an adapter is switched off

Counted for decoders as Qwen 2 and Llama are, with torch's fused attention and fused AdamW. Held by tests against what
torch allocates on a CPU, and against the resident memory of a process; no GPU has been asked yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edgemed.core.errors import PlanInfeasible
from edgemed.core.records import Record
from edgemed.core.tensor_types import Role
from edgemed.core.units import MIB, format_bytes
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.config import DEMO, AdapterConfig, DistillConfig, NewStudent, StudentConfig
from edgemed.hardware.memory import read_ram
from edgemed.models.checkpoint import layer_of, open_checkpoint, role_of, spec_from_checkpoint
from edgemed.models.spec import ModelSpec, TensorSpec

Device = Literal["cpu", "cuda"]

RUNTIME: dict[Device, int] = {"cpu": 512 * MIB, "cuda": 1536 * MIB}
"""Python with torch, transformers and peft; on a GPU its context as well."""
_GAPS = 10
"""Of what comes and goes, a tenth on top: gaps between tensors, and the matrix routines' own buffers."""
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight: four bits, a byte for 64 of them, and a float32 for 256 of those."""
_CHUNK, _LOGITS = 512, 1 << 26
"""Positions of a chunk at least, and logits (objective.py, vocabulary.py)."""
_COPIES, _COPIES_OF_KL = 4, 8
"""Of a chunk's logits in float32 that live at once: for log-probabilities, and for two models' full KL."""
_MATRICES: tuple[Role, ...] = (
    "attention_q",
    "attention_k",
    "attention_v",
    "attention_qkv",
    "attention_output",
    "ffn_gate",
    "ffn_up",
    "ffn_gate_up",
    "ffn_down",
)


class TrainingMemory(Record):
    """Bytes of one process at its peak."""

    weights: int
    gradients: int
    moments: int
    activations: int
    head: int
    reference: int
    teacher: int
    """Of a teacher that is loaded beside the student."""
    runtime: int
    peak: int
    """Less than the sum where gradients grow while activations go."""

    def __str__(self) -> str:
        parts = {name: value for name, value in self.model_dump().items() if name != "peak" and value}
        largest = sorted(parts.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {format_bytes(value)}" for name, value in largest)


class Machine(Record):
    """Where it is trained."""

    device: Device = "cpu"
    free: int
    """Bytes of memory that can be had, of the GPU or of the machine."""
    processes: int = 1
    sharded: bool = False
    """FSDP2: weights, gradients and moments are spread over the processes."""


def this_machine(device: Device, processes: int = 1, *, sharded: bool = False) -> Machine:
    """What is free here now, for each process: of the current GPU's memory, or its part of the machine's."""
    if device == "cuda":
        import torch

        return Machine(device=device, free=torch.cuda.mem_get_info()[0], processes=processes, sharded=sharded)
    free = read_ram()[1]
    n_bytes = int(free.value) if free.available else 1 << 62  # where it cannot be read, nothing is refused
    return Machine(device=device, free=n_bytes // processes, processes=processes, sharded=sharded)


def student_spec(student: StudentConfig, vocab_size: int) -> ModelSpec:
    """The student's shape; `vocab_size` is a new student's. Raises ModelRefused for a folder that is no checkpoint."""
    if student.new is None:
        folder = demo_checkpoint_path() if student.model == DEMO else Path(student.model)
        return spec_from_checkpoint(open_checkpoint(folder))
    return _spec_of_new(student.new, vocab_size)


def require_training_memory(
    config: DistillConfig, spec: ModelSpec, machine: Machine, *, longest: int | None = None, teacher: int = 0
) -> TrainingMemory:
    """What the training needs, where it fits. Raises PlanInfeasible with the cheapest way out that does.

    `longest` is the tokens of the longest lesson (data.max_tokens by default), `teacher` the bytes of a teacher beside.
    """
    needed = training_memory(config, spec, machine, longest=longest, teacher=teacher)
    if needed.peak <= machine.free:
        return needed
    for changed, said in ways_out(config, machine):
        less = training_memory(changed, spec, machine, longest=longest, teacher=teacher)
        if less.peak <= machine.free:
            next_step = f"with {said} it needs {format_bytes(less.peak)}"
            break
    else:
        next_step = "shorten data.max_tokens, take a smaller student, or a machine with more memory"
    raise PlanInfeasible(
        f"Training needs {format_bytes(needed.peak)} ({needed}); {format_bytes(machine.free)} are free.",
        next_step=next_step,
    )


def ways_out(config: DistillConfig, machine: Machine) -> Iterator[tuple[DistillConfig, str]]:
    """Settings that need less memory, and how to say them, the cheapest first.

    By what they cost: gradient checkpointing (a third more time), more micro-batches, as few as may be, an adapter
    instead of all weights, a base of 4 bits. Of combinations, those with the dearest part come last.
    """
    stages = [stage.examples_per_step for stage in (config.sft, config.kd) if stage.steps] or [1]
    least, now = min(stages), config.training.micro_batches
    cuts = range((now // machine.processes + 1) * machine.processes, least + 1, machine.processes)
    checkpointing = () if config.training.gradient_checkpointing else ("gradient_checkpointing",)
    for base in _bases(config, machine):
        for cut_too in ((0,), cuts):
            for names in dict.fromkeys(((), checkpointing)):
                for cut in cut_too:
                    yield from _with_training(base, names, cut)


def _bases(config: DistillConfig, machine: Machine) -> Iterator[tuple[DistillConfig, str]]:
    """The same student trained as it is, through an adapter, and through one on a base of 4 bits."""
    yield config, ""
    adapter = config.adapter or AdapterConfig()
    asked = "" if config.adapter else "an [adapter] of rank 16"
    if asked:
        yield config.model_copy(update={"adapter": adapter}), asked
    if adapter.base_bits == 16 and machine.device == "cuda":
        four = config.model_copy(update={"adapter": adapter.model_copy(update={"base_bits": 4})})
        yield four, f"{asked} with base_bits = 4" if asked else "adapter.base_bits = 4"


def _with_training(
    base: tuple[DistillConfig, str], names: tuple[str, ...], micro_batches: int = 0
) -> Iterator[tuple[DistillConfig, str]]:
    config, said = base
    changed: dict[str, int | bool] = dict.fromkeys(names, True)
    if micro_batches:
        changed["micro_batches"] = micro_batches
    parts = [said] if said else []
    parts += [f"training.{name} = {str(value).lower()}" for name, value in changed.items()]
    if parts:
        yield config.model_copy(update={"training": config.training.model_copy(update=changed)}), " and ".join(parts)


def training_memory(
    config: DistillConfig, spec: ModelSpec, machine: Machine, *, longest: int | None = None, teacher: int = 0
) -> TrainingMemory:
    """Bytes at the peak of a step of the larger stage, in one process."""
    steps = [stage.examples_per_step for stage in (config.sft, config.kd) if stage.steps] or [1]
    rows = -(-max(steps) // config.training.micro_batches)
    tokens = rows * (longest or config.data.max_tokens)
    width = _width(config, machine)
    over = machine.processes if machine.sharded else 1
    trained = _trained(config.adapter, spec)
    gradients, moments = 4 * trained // over, 8 * trained // over
    weights = _weights(config, spec, width) // over + _gathered(spec, width, over)
    activations, work = _activations(config, spec, tokens, width)
    head = _head(config, spec, tokens, width)
    full = config.adapter is None
    reference = 4 * spec.n_parameters if full and config.loss.retention > 0 and config.kd.steps else 0
    kept = weights + moments + reference + teacher
    moving = activations + max(head, work)
    if full and config.training.micro_batches <= machine.processes:
        moving = max(moving, gradients + work)  # gradients come while activations go; the head's is the first
    else:
        moving += gradients
    runtime = RUNTIME[machine.device] + moving // _GAPS
    return TrainingMemory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        activations=activations + work,
        head=head,
        reference=reference,
        teacher=teacher,
        runtime=runtime,
        peak=kept + moving + runtime,
    )


def _width(config: DistillConfig, machine: Machine) -> int:
    """Bytes of a number in the computation."""
    dtype = config.training.dtype
    return 2 if dtype == "bfloat16" or (dtype == "auto" and machine.device == "cuda") else 4


def _weights(config: DistillConfig, spec: ModelSpec, width: int) -> int:
    matrices = sum(_size(tensor) for tensor in spec.tensors if tensor.role in _MATRICES)
    rest = spec.n_parameters - matrices
    if config.adapter is None:
        # autocast holds 16-bit copies of the matrices through a pass
        return 4 * spec.n_parameters + (width * matrices if width < 4 else 0)
    if config.adapter.base_bits == 4:
        return int(_NF4 * matrices) + 4 * rest + 4 * _trained(config.adapter, spec)
    return width * spec.n_parameters + 4 * _trained(config.adapter, spec)


def _gathered(spec: ModelSpec, width: int, over: int) -> int:
    """Of a sharded student: what is whole at a time, the embedding and the head beside two layers."""
    if over == 1:
        return 0
    ends = sum(_size(tensor) for tensor in spec.tensors if tensor.role in ("embedding", "head"))
    return width * (ends + 2 * (spec.n_parameters - ends) // spec.n_layers)


def _trained(adapter: AdapterConfig | None, spec: ModelSpec) -> int:
    if adapter is None:
        return spec.n_parameters
    return adapter.rank * sum(sum(tensor.shape) for tensor in _targets(adapter, spec))


def _targets(adapter: AdapterConfig, spec: ModelSpec) -> list[TensorSpec]:
    endings = tuple(f".{name}.weight" for name in adapter.modules)
    return [tensor for tensor in spec.tensors if f".{tensor.name}".endswith(endings) and tensor.role in _MATRICES]


def _activations(config: DistillConfig, spec: ModelSpec, tokens: int, width: int) -> tuple[int, int]:
    """What lives when the backward pass begins, and what that makes on its way through one layer."""
    hidden, ffn, heads = spec.hidden_size, spec.ffn_size, spec.n_heads * spec.head_dim
    full = config.adapter is None
    attention = width * 2 * (heads + spec.n_kv_heads * spec.head_dim) + 4 * spec.n_heads
    norms = 4 * (4 if full else 2) * hidden  # float32 in any case; its product only where its weights are trained
    layer = norms + attention + width * 3 * ffn + _inputs(config.adapter, spec, width)
    edge = hidden * (2 if width < 4 and not full else 4)
    ends = hidden * (4 * (2 if full else 1) + 2 * width)  # the last norm, and the states that the head reads
    work = tokens * width * (3 * ffn + 2 * hidden)
    if config.training.gradient_checkpointing:
        return tokens * (spec.n_layers * edge + ends), work + tokens * layer
    return tokens * (spec.n_layers * layer + ends), work


def _inputs(adapter: AdapterConfig | None, spec: ModelSpec, width: int) -> int:
    """Bytes per token and layer of the modules' inputs that are kept for their gradients.

    In float32 modules share one; in 16 bits autocast makes each its own.
    """
    hidden, ffn, heads = spec.hidden_size, spec.ffn_size, spec.n_heads * spec.head_dim
    if adapter is None:
        return width * (2 * hidden + ffn if width == 4 else 5 * hidden + ffn)
    there = {name for name in adapter.modules if _targets(adapter.model_copy(update={"modules": (name,)}), spec)}
    low = 2 * width * adapter.rank * len(there)
    attention, gates = there & {"q_proj", "k_proj", "v_proj"}, there & {"gate_proj", "up_proj"}
    down = ffn if "down_proj" in there else 0
    if width == 4:
        return low + width * (hidden * (bool(attention) + bool(gates)) + down)
    out = heads if "o_proj" in there else 0
    return low + width * (hidden * (len(attention) + len(gates)) + out + down)


def _head(config: DistillConfig, spec: ModelSpec, tokens: int, width: int) -> int:
    vocabulary, hidden = spec.vocab_size, spec.hidden_size
    at_once = min(tokens, max(_CHUNK, _LOGITS // vocabulary))
    copies = _COPIES_OF_KL if config.loss.retention > 0 and config.kd.steps else _COPIES
    logits = at_once * vocabulary * 4
    alive = copies * logits + at_once * vocabulary * (2 * width if width < 4 else 0)
    matrix = vocabulary * hidden * (width if width < 4 else 0)
    if config.adapter is None:  # a further chunk's gradient of the head, beside that of those before
        gradient = 4 * vocabulary * hidden
        alive = max(alive, logits + gradient) + (gradient if tokens > at_once else 0)
    return alive + matrix


def _spec_of_new(new: NewStudent, vocab_size: int) -> ModelSpec:
    hidden, head_dim = new.hidden_size, new.hidden_size // new.n_heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(new.n_layers):
        at = f"model.layers.{layer}."
        for name, heads in (("q", new.n_heads), ("k", new.n_kv_heads), ("v", new.n_kv_heads)):
            shapes |= {f"{at}self_attn.{name}_proj.weight": (heads * head_dim, hidden)}
            shapes |= {f"{at}self_attn.{name}_proj.bias": (heads * head_dim,)}
        shapes |= {
            f"{at}self_attn.o_proj.weight": (hidden, hidden),
            f"{at}mlp.down_proj.weight": (hidden, new.ffn_size),
        }
        shapes |= {f"{at}mlp.{name}_proj.weight": (new.ffn_size, hidden) for name in ("gate", "up")}
        shapes |= {f"{at}{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    return ModelSpec(
        architecture="qwen2",
        n_layers=new.n_layers,
        hidden_size=hidden,
        n_heads=new.n_heads,
        n_kv_heads=new.n_kv_heads,
        head_dim=head_dim,
        ffn_size=new.ffn_size,
        vocab_size=vocab_size,
        context_length=new.context_length,
        tied_embeddings=True,
        tensors=tuple(_tensor(name, shape) for name, shape in shapes.items()),
    )


def _tensor(name: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(
        name=name, shape=shape, type="f32", role=role_of(name), layer=layer_of(name), n_bytes=4 * math.prod(shape)
    )


def _size(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape)
