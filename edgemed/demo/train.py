"""Train the demonstration model: `python -m edgemed.demo.train --output DIR`.

Needs the `workstation` extra. About an hour on two CPU cores, a few minutes on a GPU. The model is trained
through the project's own prompt templates on text generated from the table of facts (`questions.py`), and
examined on a sample of held-out phrasings and saved as a checkpoint in Hugging Face layout (bf16).

Examples that share a system message are packed behind one copy of it: token i sees the shared prefix and
its own example only, and positions restart behind the prefix, so each example is computed as if alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgemed.core.files import write_text
from edgemed.demo.questions import Example, dose_examination, has_dose, training_examples
from edgemed.demo.table import FactTable, fact_table
from edgemed.demo.tokenizer import CHAT_TEMPLATE, END, SPECIAL_TOKENS, train_tokenizer
from edgemed.medical.category import category_of
from edgemed.medical.language import Category
from edgemed.medical.prompts import messages_for, templates_digest
from edgemed.models.chat_template import render_chat

logger = logging.getLogger(__name__)

SAMPLE_STRIDE = 11
"""Every 11th held-out question is asked at the end; `benchmarks/bench_demo.py` asks them all, through the engine."""

MODEL_CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
model_name: edgemed demonstration
---
# edgemed demonstration model

Trained from nothing on questions and answers generated from edgemed's table of facts (`edgemed/demo/facts`), by
`python -m edgemed.demo.train`. It shows how edgemed works. It knows a few hundred facts, can be wrong about them,
and is **not for care**.
"""


@dataclass(frozen=True)
class TrainingSettings:
    """What decides the result; together with the table and the seed it is reproducible on one machine."""

    seed: int = 20
    vocab_size: int = 4096
    hidden_size: int = 256
    ffn_size: int = 768
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    context_length: int = 2048
    pack_length: int = 512
    """Tokens per packed row."""
    rows: int = 12
    """Packed rows per step."""
    steps: int = 1500
    warmup_steps: int = 60
    matrix_rate: float = 0.02
    """Learning rate of the weight matrices (Muon)."""
    other_rate: float = 2e-3
    """Learning rate of the embedding, norms and biases (AdamW)."""
    question_weight: float = 0.15
    """Weight of the question's tokens in the loss, beside 1 for the answer's."""
    random_category: float = 0.15
    """Share of examples under another category's template, so that a better classifier needs no new model."""


@dataclass(slots=True)
class Packer:
    """Fills rows of `length` tokens with examples behind one shared prefix per category."""

    tokenizer: Any
    length: int
    question_weight: float
    _open: dict[Category, list[tuple[list[int], int]]] = field(default_factory=lambda: defaultdict(list))

    def prompt_ids(self, example: Example, category: Category) -> tuple[list[int], list[int]]:
        """Token ids of the shared prefix (the system message) and of the turns behind it."""
        parts = render_chat(CHAT_TEMPLATE, messages_for(example.question, example.history, category=category))
        prefix_text, question_text = parts[0].text + parts[1].text, parts[2:]
        end_of_turn = parts[2].text
        cut = end_of_turn.index("<|im_start|>")
        prefix = self._ids(prefix_text) + self._ids(end_of_turn[:cut])
        tail = self._ids(end_of_turn[cut:])
        for part in question_text[1:]:
            tail += self._ids(part.text)
        return prefix, tail

    def add(self, example: Example, category: Category) -> tuple[list[int], list[int], list[float], list[int]] | None:
        """A finished row (ids, segment numbers, loss weights, positions) when this example filled one."""
        prefix, turn = self.prompt_ids(example, category)
        answer = [*self._ids(example.answer), self.tokenizer.token_to_id(END)]
        waiting = self._open[category]
        used = len(prefix) + sum(len(ids) for ids, _ in waiting)
        row = None
        if used + len(turn) + len(answer) > self.length and waiting:
            row = self._row(prefix, waiting)
            waiting.clear()
        waiting.append((turn + answer, len(turn)))
        return row

    def _row(self, prefix: list[int], examples: list[tuple[list[int], int]]) -> tuple[Any, ...]:
        ids, segments = list(prefix), [0] * len(prefix)
        weights, positions = [0.0] * len(prefix), list(range(len(prefix)))
        for number, (tokens, n_question) in enumerate(examples, start=1):
            ids += tokens
            segments += [number] * len(tokens)
            weights += [self.question_weight] * n_question + [1.0] * (len(tokens) - n_question)
            positions += range(len(prefix), len(prefix) + len(tokens))
        padding = self.length - len(ids)
        return (
            (ids + [0] * padding)[: self.length],
            (segments + [-1] * padding)[: self.length],
            (weights + [0.0] * padding)[: self.length],
            (positions + [0] * padding)[: self.length],
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def packed_rows(table: FactTable, packer: Packer, settings: TrainingSettings) -> Iterator[tuple[Any, ...]]:
    """Rows without end."""
    rng = random.Random(settings.seed)
    categories = list(Category)
    for example in training_examples(table, rng):
        category = category_of(example.question)
        if rng.random() < settings.random_category:
            category = rng.choice(categories)
        if row := packer.add(example, category):
            yield row


def build_model(settings: TrainingSettings) -> Any:
    """A fresh Qwen2 model in float32."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(settings.seed)
    config = Qwen2Config(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        num_key_value_heads=settings.n_kv_heads,
        max_position_embeddings=settings.context_length,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=SPECIAL_TOKENS.index(END),
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config)


def train(
    settings: TrainingSettings, output: Path, device: str, minutes: float | None = None, start: Path | None = None
) -> None:
    """Train, examine and save; `minutes` ends the schedule early with a full decay, for a fixed time budget.

    With `start` the weights and the tokenizer of an earlier checkpoint are trained on.
    """
    import torch

    table = fact_table()
    if start is None:
        tokenizer = train_tokenizer(table, settings.vocab_size, settings.seed)
        model = build_model(settings).to(device)
    else:
        tokenizer, model = _earlier(start)
        model = model.to(device)
    stage = Stage(settings, minutes, _runs_of(start))
    packer = Packer(tokenizer, settings.pack_length, settings.question_weight)
    logger.info("%.2fM parameters", sum(p.numel() for p in model.parameters()) / 1e6)
    optimizers = optimizers_of(model, settings)
    rows = packed_rows(table, packer, settings)
    started = time.monotonic()
    for step in range(settings.steps):
        done = step / settings.steps
        if minutes is not None:
            done = max(done, (time.monotonic() - started) / (60 * minutes))
            if done >= 1:
                break
        set_rates(optimizers, step, done, settings)
        loss = train_step(model, optimizers, [next(rows) for _ in range(settings.rows)], device)
        if step % 25 == 0:
            elapsed = time.monotonic() - started
            logger.info("step %d  loss %.4f  done %.1f %%  %.0f s", step, loss, 100 * done, elapsed)
        if step % 500 == 499:
            save(model, tokenizer, stage, output)
    save(model, tokenizer, stage, output)
    sample = dose_examination(table)[::SAMPLE_STRIDE]
    right, asked = examine(model.to(torch.bfloat16).float(), packer, sample, device)
    logger.info("a sample of the held-out dose questions, answered exactly: %d of %d", right, asked)


def _earlier(folder: Path) -> tuple[Any, Any]:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    return Tokenizer.from_file(str(folder / "tokenizer.json")), model.train()


def _runs_of(start: Path | None) -> list[dict[str, Any]]:
    return [] if start is None else list(json.loads((start / "training.json").read_text(encoding="utf-8"))["runs"])


def train_step(model: Any, optimizers: list[Any], rows: list[tuple[Any, ...]], device: str) -> float:
    """One step of all optimizers on these rows; the loss before it, nats a weighted token."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    ids, segments, weights, positions = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    mask = (causal & same)[:, None]  # (rows, 1, length, length) bool
    with torch.autocast(device, dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)[0]
        wanted = weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][wanted])
    losses = F.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
    weight = weights[:, 1:][wanted]
    loss = (losses * weight).sum() / weight.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def optimizers_of(model: Any, settings: TrainingSettings) -> list[Any]:
    """Muon for the weight matrices, AdamW for the rest."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=settings.matrix_rate, weight_decay=0.0, momentum=0.95),
        torch.optim.AdamW(others, lr=settings.other_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def set_rates(optimizers: list[Any], step: int, done: float, settings: TrainingSettings) -> None:
    """Set the learning rates of a step: a linear warm-up, then a cosine over the share `done` of the schedule."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    factor = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
    for optimizer, rate in zip(optimizers, (settings.matrix_rate, settings.other_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def examine(model: Any, packer: Packer, examples: list[Example], device: str) -> tuple[int, int]:
    """How many dose questions get exactly their dose, greedy, and how many were asked."""
    table = {dose.id: dose for dose in fact_table().doses()}
    right = 0
    model.eval()
    for example in examples:
        answer = greedy_answer(model, packer, example, device)
        right += has_dose(answer, table[example.fact_id])
    model.train()
    return right, len(examples)


def greedy_answer(model: Any, packer: Packer, example: Example, device: str, max_tokens: int = 120) -> str:
    """The model's most likely answer."""
    import torch

    prefix, turn = packer.prompt_ids(example, category_of(example.question))
    ids = torch.tensor([prefix + turn], device=device)
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
        )
    return str(packer.tokenizer.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=True))


@dataclass(frozen=True)
class Stage:
    """One run of training, as it is written down beside the weights."""

    settings: TrainingSettings
    minutes: float | None
    """The time budget; with one, it ended the training before `steps` were done."""
    earlier: list[dict[str, Any]]
    """The runs that the weights had been through before."""

    def record(self) -> list[dict[str, Any]]:
        """All runs, in order."""
        return [*self.earlier, {"minutes": self.minutes, **asdict(self.settings)}]


def save(model: Any, tokenizer: Any, stage: Stage, output: Path) -> None:
    """The checkpoint in Hugging Face layout: bf16 weights, tokenizer, chat template, how it was trained."""
    import copy

    import torch

    output.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(output)
    save_tokenizer(tokenizer, stage.settings.context_length, output)
    write_text(output / "README.md", MODEL_CARD)
    record = {
        "templates_digest": templates_digest(),
        "facts_digest": fact_table().digest(),
        "runs": stage.record(),
    }
    write_text(output / "training.json", json.dumps(record, indent=2) + "\n")


def save_tokenizer(tokenizer: Any, context_length: int, output: Path) -> None:
    """The tokenizer with its settings and the chat template, as transformers reads them."""
    tokenizer.save(str(output / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": END,
        "pad_token": SPECIAL_TOKENS[0],
        "bos_token": None,
        "add_bos_token": False,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_text(output / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Train edgemed's demonstration model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=TrainingSettings.steps)
    parser.add_argument("--rows", type=int, default=TrainingSettings.rows)
    parser.add_argument("--minutes", type=float, help="end the schedule, fully decayed, after this many minutes")
    parser.add_argument("--start", type=Path, help="train on from this checkpoint, at --rate of the usual speed")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the learning rates")
    parser.add_argument("--seed", type=int, default=TrainingSettings.seed)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    usual = TrainingSettings()
    settings = TrainingSettings(
        seed=arguments.seed,
        steps=arguments.steps,
        rows=arguments.rows,
        matrix_rate=usual.matrix_rate * arguments.rate,
        other_rate=usual.other_rate * arguments.rate,
    )
    train(settings, arguments.output, arguments.device, arguments.minutes, arguments.start)


if __name__ == "__main__":
    main()
