"""Tiny LoRA adapters: as PEFT saves them, and as a GGUF beside a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def write_lora(folder: Path, base: Path, *, seed: int = 1, size: float = 0.2, **settings: Any) -> Path:
    """A random adapter on the checkpoint in `base`, saved by peft itself; both halves are far from zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    targets = FUSED if any("qkv_proj" in name for name, _ in model.named_modules()) else EVERY
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": targets, "lora_dropout": 0.0} | settings)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.copy_(torch.randn_like(weights) * size)
    adapted.save_pretrained(folder)
    return folder


def peft_logits(base: Path, adapter: Path, prompt: list[int]) -> Any:
    """What peft itself computes, float32 (n_prompt, vocabulary): the oracle."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    with torch.inference_mode():
        return adapted(torch.tensor([prompt])).logits[0].numpy()


def write_tiny_adapter(
    path: Path, *, seed: int = 1, rank: int = 4, size: float = 0.5, layers: int = 2, name: str = "", **metadata: Any
) -> Path:
    """An adapter on q and down of every layer of `tiny_models.write_tiny_qwen2`; `size` 0 changes nothing.

    `metadata` replaces keys of the file, given with _ for the dots; None leaves one out.
    """
    import numpy as np

    from edgemed.core.tensor_types import F32
    from edgemed.models.gguf_values import Value, f32, text
    from edgemed.models.gguf_writer import GgufWriter, OutputTensor, lay_out

    random = np.random.default_rng(seed)
    shapes = {"attn_q": (64, 64), "ffn_down": (64, 128)}
    tensors, values = [], []
    for layer in range(layers):
        for part, (n_out, n_in) in shapes.items():
            for half, shape in (("a", (rank, n_in)), ("b", (n_out, rank))):
                tensors.append(OutputTensor(f"blk.{layer}.{part}.weight.lora_{half}", F32, shape))
                values.append((random.standard_normal(shape) * size).astype(np.float32))
    keys: dict[str, Value | None] = {
        "general.architecture": text("qwen2"),
        "general.type": text("adapter"),
        "general.name": text(name or path.stem),
        "adapter.type": text("lora"),
        "adapter.lora.alpha": f32(float(rank)),
    }
    keys |= {key.replace("_", "."): value for key, value in metadata.items()}
    layout = lay_out({key: value for key, value in keys.items() if value is not None}, tensors)
    with GgufWriter(path, layout) as writer:
        for tensor, weights in zip(tensors, values, strict=True):
            writer.write(tensor, [weights.tobytes()])
        writer.finish()
    return path
