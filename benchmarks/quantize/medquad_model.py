"""Trains a small medical model on MedQuAD, so that quantization is measured on more than the demonstration model.

    python benchmarks/quantize/medquad_model.py DATA --output DIR [--minutes 45] [--device cuda]

DATA holds `medquad/medquad.jsonl.gz` (MedQuAD, CC BY 4.0; not shipped, neither is the model). The architecture, the
optimizers and the learning rate are the demonstration model's (Qwen2, 5.8M parameters, own vocabulary of 4096). Answers
about every tenth disease, by a hash of `focus`, are held out: no disease stands on both sides. `training.json` beside
the weights says what was trained and the loss on the held-out part.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgemed.core.files import write_text
from edgemed.demo.tokenizer import CHAT_TEMPLATE, byte_level_bpe
from edgemed.demo.train import TrainingSettings, build_model, optimizers_of, save_tokenizer, set_rates
from edgemed.models.chat_template import render_chat

logger = logging.getLogger(__name__)

HELD_OUT = 10
"""Every tenth disease is held out."""
ANSWER_CHARACTERS = 1600
"""Longer answers are cut at this length for training, so that a row holds a question and its answer."""


def medquad(data: Path, *, held_out: bool) -> list[tuple[str, str]]:
    """Questions and answers, in the file's order: those of held-out diseases, or all others."""
    with gzip.open(data / "medquad" / "medquad.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [
        (" ".join(record["question"].split()), record["answer"].strip())
        for record in records
        if (int(hashlib.sha256(record["focus"].casefold().encode()).hexdigest(), 16) % HELD_OUT == 0) is held_out
    ]


def conversation(question: str, answer: str) -> str:
    """One question and its answer in the chat template."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer[:ANSWER_CHARACTERS]}]
    return "".join(part.text for part in render_chat(CHAT_TEMPLATE, messages, add_generation_prompt=False))


def rows(texts: list[str], tokenizer: Any, length: int, seed: int) -> Iterator[list[int]]:
    """Rows of `length` tokens without end, conversations one behind the other, shuffled anew in each pass."""
    rng = random.Random(seed)
    waiting: list[int] = []
    while True:
        rng.shuffle(texts)
        for text in texts:
            waiting += tokenizer.encode(text, add_special_tokens=False).ids
            while len(waiting) >= length:
                yield waiting[:length]
                waiting = waiting[length:]


def train(data: Path, settings: TrainingSettings, output: Path, minutes: float, device: str) -> None:
    """Train for so many minutes, then save the checkpoint in bf16."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    texts = [conversation(*pair) for pair in medquad(data, held_out=False)]
    tokenizer = byte_level_bpe(texts, settings.vocab_size)
    model = build_model(settings).to(device)
    optimizers = optimizers_of(model, settings)
    stream = rows(texts, tokenizer, settings.pack_length, settings.seed)
    started, step = time.monotonic(), 0
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        set_rates(optimizers, step, done, settings)
        ids = torch.tensor([next(stream) for _ in range(settings.rows)], device=device)
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            logger.info("step %d  loss %.4f  done %.1f %%", step, float(loss.detach()), 100 * done)
        step += 1
    held = held_out_loss(model, tokenizer, data, settings, device)
    output.mkdir(parents=True, exist_ok=True)
    model.to("cpu", torch.bfloat16).save_pretrained(output)
    save_tokenizer(tokenizer, settings.context_length, output)
    tokens = step * settings.rows * settings.pack_length
    record = {"steps": step, "tokens": tokens, "minutes": minutes, "held_out_loss": held}
    write_text(output / "training.json", json.dumps(record, indent=2) + "\n")
    logger.info("held-out loss %.4f nats a token after %d steps", held, step)


def held_out_loss(model: Any, tokenizer: Any, data: Path, settings: TrainingSettings, device: str) -> float:
    """Mean negative log-likelihood, nats a token, on 100 rows of held-out conversations."""
    import torch

    texts = [conversation(*pair) for pair in medquad(data, held_out=True)]
    stream = rows(texts, tokenizer, settings.pack_length, 0)
    total = 0.0
    with torch.inference_mode():
        for _ in range(100):
            ids = torch.tensor([next(stream)], device=device)
            total += float(model(input_ids=ids, labels=ids).loss) / 100
    return total


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Train a small model on MedQuAD.")
    parser.add_argument("data", type=Path, help="folder that holds medquad/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(arguments.data, TrainingSettings(), arguments.output, arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
