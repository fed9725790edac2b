"""Lessons and tiny students for the tests of training: made by hand, with everything a loss can ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgemed.distill.lesson import Lesson

VOCABULARY = 61
K = 4


def lesson(
    seed: int,
    *,
    n_prompt: int = 3,
    n_answer: int = 7,
    kind: str = "",
    specialty: str = "",
    teacher_hidden: int = 0,
    rivals: bool = True,
) -> Lesson:
    """Random, but consistent: chunks of one or two tokens, two entities, two places with rivals."""
    random = np.random.default_rng(seed)
    chunks = np.repeat(np.arange(n_answer), random.integers(1, 3, n_answer))[:n_answer].astype(np.int32)
    n_chunks = int(chunks.max()) + 1
    entities = np.full(n_chunks, -1, np.int32)
    entities[: min(2, n_chunks)] = 0
    entities[-1] = 1
    places = np.array([1, n_answer - 2] if rivals else [], np.int32)
    return Lesson(
        example=100 + seed,
        ids=random.integers(0, VOCABULARY, n_prompt + n_answer, dtype=np.int32),
        token_weights=random.uniform(0.5, 2, n_answer).astype(np.float32),
        chunks=chunks,
        teacher=-random.exponential(1.0, n_chunks).astype(np.float32),
        chunk_weights=random.uniform(0, 2, n_chunks).astype(np.float32),
        entities=entities,
        entity_weights=np.array([5, 1], np.float32),
        places=places,
        place_weights=random.uniform(0.5, 2, len(places)).astype(np.float32),
        rival_ids=np.array([random.choice(VOCABULARY, K, replace=False) for _ in places], np.int32).reshape(-1, K),
        rival_log_probs=np.log(np.full((len(places), K), 0.2, np.float32)),
        hidden=random.standard_normal((n_chunks if teacher_hidden else 0, teacher_hidden)).astype(np.float16),
        measures={"concepts": float(random.integers(0, 5)), "nll": float(random.random())},
        kind=kind,
        specialty=specialty,
    )


def lessons(n: int = 10, n_replay: int = 0, **settings: Any) -> list[Lesson]:
    """Lessons of different lengths; the last `n_replay` are replay."""
    return [
        lesson(
            seed,
            n_prompt=2 + seed % 3,
            n_answer=5 + seed % 4,
            kind="replay" if seed >= n - n_replay else "",
            **settings,
        )
        for seed in range(n)
    ]


def tiny_student(seed: int = 0, *, tied: bool = True) -> Any:
    """A Qwen 2 of two layers whose weights are not so small that all texts look alike."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    return Qwen2ForCausalLM(config)


def with_adapter(model: Any, *, begun: bool = False) -> Any:
    """PEFT's wrapper; with `begun` its B is not zero any more, as after some steps."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going
        found = get_peft_model(model, settings, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(7)
    for name, one in found.named_parameters():
        if "lora_" in name:  # PEFT draws A from the global generator
            values = torch.randn(one.shape, generator=generator) * 0.3
            one.data = (values if begun or "lora_A" in name else torch.zeros(one.shape)).to(one.dtype)
    return found
