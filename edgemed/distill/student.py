"""The model that learns: opened from a folder or made from nothing, and saved as any checkpoint is."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Literal

from edgemed.core.errors import MissingExtra, ModelRefused, UsageError
from edgemed.core.files import sync_folder, whole_folder
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.demo import demo_checkpoint_path
from edgemed.distill.config import DEMO, DistillConfig, NewStudent, TrainingConfig
from edgemed.models.config import read_json
from edgemed.models.tokenizer import open_tokenizer
from edgemed.quantize.torch_folder import bitsandbytes_library

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""What goes along with weights, as far as a folder has it."""


def require_training() -> None:
    """Raises MissingExtra where a package that training needs is not installed; keeps those there are offline."""
    for package in ("torch", "transformers", "accelerate", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtra(package, "workstation")
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    if find_spec("bitsandbytes") is not None:
        bitsandbytes_library()  # accelerate imports it; so it neither fetches code nor prints
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours is shown
    logging.set_verbosity_error()
    # It warns at its import that a kernel of a hub is missing, which nothing here asks for.
    getLogger("bitsandbytes.backends.cpu.ops").setLevel(ERROR)


def device_of(training: TrainingConfig) -> Device:
    """Where it is computed. Raises UsageError when a GPU is asked for and torch sees none."""
    import torch

    there = torch.cuda.is_available()
    if training.device == "cuda" and not there:
        raise UsageError(
            'training.device is "cuda", and torch sees no GPU.',
            next_step='set it to "auto" or "cpu", or install a torch that fits the GPU',
        )
    return "cpu" if training.device == "cpu" or not there else "cuda"


def computes_in(training: TrainingConfig) -> Dtype:
    """The format of the computation; weights that are trained are float32 beside it."""
    if training.dtype != "auto":
        return training.dtype
    return "bfloat16" if device_of(training) == "cuda" else "float32"


def open_student(config: DistillConfig, seed: int) -> tuple[Any, Path]:
    """The student on the CPU, and a folder with its tokenizer and chat template.

    Weights below an adapter come in the format of the computation, all others in float32. A new student's weights
    follow from `seed`. Raises ModelRefused for a folder that transformers does not load, MissingExtra without torch.
    """
    require_training()
    from edgemed.distill.lora import quantization

    four_bits = quantization(config.adapter, device_of(config.training))
    if config.student.new is not None:
        folder = _tokenizer_folder(config)
        return _new(config.student.new, folder, seed), folder
    folder = demo_checkpoint_path() if config.student.model == DEMO else Path(config.student.model)
    return open_checkpoint(folder, computes_in(config.training) if config.adapter else "float32", four_bits), folder


def open_checkpoint(folder: Path, dtype: str, quantization: Any = None) -> Any:
    """A causal language model of a Hugging Face folder, on the CPU, never with the folder's own code.

    `dtype` is a name of torch's. With `quantization`, a setting of transformers', it is on the GPU instead. Raises
    ModelRefused when transformers does not load it.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    faults = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            quantization_config=quantization,
            trust_remote_code=False,
            local_files_only=True,
        )
    except faults as error:
        raise ModelRefused(
            f"transformers does not load {folder}: {str(error)[:200]}.", next_step="check that the folder is complete"
        ) from error


def save_student(model: Any, tokenizer_folder: Path, folder: Path, dtype: Dtype = "bfloat16") -> None:
    """The whole model in Hugging Face layout, with the tokenizer and the chat template of another folder.

    `model` is a transformers model, an adapter merged into it beforehand. The folder appears whole or not at all.
    """
    import torch

    to = getattr(torch, dtype)
    # One copy of each tensor: save_pretrained leaves out those that are tied, which it tells by their address.
    copies: dict[int, Any] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        key = tensor.data_ptr()
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", to if tensor.is_floating_point() else tensor.dtype)
        state[name] = copies[key]
    with whole_folder(folder) as part:
        model.save_pretrained(part, state_dict=state)
        _set_dtype(part, dtype)
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file() and not (part / name).exists():
                shutil.copyfile(tokenizer_folder / name, part / name)
        sync_folder(part)


def _set_dtype(folder: Path, dtype: Dtype) -> None:
    import json

    path = folder / "config.json"
    settings = read_json(path) | {"dtype": dtype, "use_cache": True}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _tokenizer_folder(config: DistillConfig) -> Path:
    assert config.student.new is not None
    named = config.student.new.tokenizer or config.teacher.tokenizer or config.teacher.model
    folder = demo_checkpoint_path() if named == DEMO else Path(named)
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(
            f"{folder} has no tokenizer.json, which the new student needs.",
            next_step="name a folder with a tokenizer and a chat template as student.new.tokenizer",
        )
    return folder


def _new(shape: NewStudent, folder: Path, seed: int) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if shape.hidden_size % shape.n_heads or shape.n_heads % shape.n_kv_heads:
        raise UsageError(
            f"A student of hidden_size {shape.hidden_size} cannot have {shape.n_heads} heads over {shape.n_kv_heads}.",
            next_step="choose n_heads as a divisor of hidden_size, and n_kv_heads as one of n_heads",
        )
    if shape.hidden_size // shape.n_heads % 2:
        raise UsageError(
            f"Heads of {shape.hidden_size // shape.n_heads} units cannot turn in pairs.",
            next_step="choose hidden_size / n_heads even",
        )
    tokenizer = open_tokenizer(folder)
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    config = Qwen2Config(
        vocab_size=max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.context_length,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=_id_of(tokenizer, settings.get("bos_token")),
        eos_token_id=_id_of(tokenizer, settings.get("eos_token")),
        pad_token_id=_id_of(tokenizer, settings.get("pad_token")),
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def _id_of(tokenizer: Any, token: object) -> int | None:
    text = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(text) if isinstance(text, str) else None
    return found if found is None else int(found)
