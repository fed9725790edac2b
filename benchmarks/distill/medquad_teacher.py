"""Makes what `edgemed distill medquad` needs: a teacher of 12M parameters and the files to teach, from MedQuAD.

    python benchmarks/distill/medquad_teacher.py DATA [--output medquad] [--minutes 40] [--device cuda]
    edgemed distill medquad

DATA holds `medquad/medquad.jsonl.gz` (MedQuAD, CC BY 4.0; neither it nor the model is shipped). Written are:

    OUTPUT/teacher/            the checkpoint; its tokenizer packs up to three digits into a token, as Llama 3's does
    OUTPUT/student-tokenizer/  another vocabulary, of single digits, as Qwen2's
    OUTPUT/taught.jsonl        questions and answers to teach
    OUTPUT/replay.jsonl        every tenth of them, to be kept
    OUTPUT/validation.jsonl    choices: which of four beginnings is about this disease
    OUTPUT/examination.jsonl   the same on other diseases; no disease is in both

Choices ask about diseases that are taught, in other words: what was never taught cannot be kept. A teacher that was
trained for minutes may know little; the report says so where its own interval does not exclude chance.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemed.core.files import write_text
from edgemed.demo.tokenizer import CHAT_TEMPLATE, QWEN2_SPLIT, byte_level_bpe
from edgemed.demo.train import TrainingSettings, build_model, optimizers_of, save_tokenizer, set_rates
from edgemed.distill.examples import Example, find_leaks, plain
from edgemed.distill.taught import shipped_questions
from edgemed.medical.prompts import messages_for
from edgemed.models.chat_template import render_chat

logger = logging.getLogger(__name__)

PACKED_DIGITS = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
ANSWER_CHARACTERS = 1200
OPTION_WORDS = 24
N_OPTIONS = 4
SETTINGS = TrainingSettings(vocab_size=8192, hidden_size=320, ffn_size=896, n_layers=8, n_heads=5, n_kv_heads=5)
"""About 12M parameters."""


def records(data: Path) -> list[dict[str, str]]:
    """Questions and answers of the set, each once, answers cut at a sentence."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    with gzip.open(data / "medquad" / "medquad.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            question, answer = " ".join(record["question"].split()), _cut(record["answer"])
            if plain(question) and plain(answer):
                one = {"id": f"{record['id']}-{number}", "question": question, "answer": answer}
                one |= {"specialty": record["qtype"], "focus": " ".join(record["focus"].split())}
                found.setdefault((plain(question), plain(answer)), one)
    return list(found.values())


def choices(taught: Sequence[dict[str, str]], *, part: int, n: int, seed: int = 5) -> Iterator[dict[str, Any]]:
    """Questions with options about diseases of one part (of two, by a hash of the name)."""
    rng = random.Random(seed + part)
    by_kind: dict[str, list[dict[str, str]]] = {}
    for one in taught:
        by_kind.setdefault(one["specialty"], []).append(one)
    own = [one for one in taught if _hash(one["focus"]) % 2 == part and len(by_kind[one["specialty"]]) > 50]
    rng.shuffle(own)
    asked: set[str] = set()
    for one in own:
        right = _begin(one)
        others = {_begin(other) for other in rng.sample(by_kind[one["specialty"]], 12)}
        options = [right, *sorted(others - {right})[: N_OPTIONS - 1]]
        if one["focus"] in asked or len(options) < N_OPTIONS or len(asked) == n:
            continue
        asked.add(one["focus"])
        rng.shuffle(options)
        question = f"Tell me on {one['specialty']}: {one['focus']}"
        yield {"id": one["id"], "concept": one["focus"], "question": question,
               "answer": right, "options": options}  # fmt: skip


def train(texts: list[str], tokenizer: Any, minutes: float, device: str) -> Any:
    """The teacher, after so many minutes."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    settings = replace(SETTINGS, vocab_size=tokenizer.get_vocab_size())
    model = build_model(settings).to(device)
    logger.info("%.1fM parameters", sum(one.numel() for one in model.parameters()) / 1e6)
    optimizers = optimizers_of(model, settings)
    stream = _rows(texts, tokenizer, settings.pack_length, settings.seed)
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
    return model


def make(data: Path, output: Path, minutes: float, device: str) -> None:
    """All files and the teacher."""
    import torch

    found = records(data)
    asked = {"validation": list(choices(found, part=0, n=300)), "examination": list(choices(found, part=1, n=600))}
    for name, lines in asked.items():
        _write(output / f"{name}.jsonl", lines)
    examples = [Example.model_validate(_example(one)) for one in found]
    questions = [*shipped_questions(), *(line["question"] for lines in asked.values() for line in lines)]
    leaked = {leak.example.id for leak in find_leaks(examples, questions)}  # long names of diseases, mostly
    taught = [_example(one) for one in found if one["id"] not in leaked]
    _write(output / "taught.jsonl", [one for n, one in enumerate(taught) if n % 10])
    _write(output / "replay.jsonl", taught[::10])
    texts = [conversation(one) for one in found]
    # Each learned from diseases of its own: two makers' tokenizers never come from one text.
    kinds = (("student-tokenizer", QWEN2_SPLIT, 0), ("teacher", PACKED_DIGITS, 1))
    for name, split, part in kinds:
        (output / name).mkdir(parents=True, exist_ok=True)
        own = [conversation(one) for one in found if _hash(one["focus"]) % 2 == part]
        tokenizer = byte_level_bpe(own, SETTINGS.vocab_size, split)
        save_tokenizer(tokenizer, SETTINGS.context_length, output / name)
    model = train(texts, tokenizer, minutes, device)
    model.to("cpu", torch.bfloat16).save_pretrained(output / "teacher")
    logger.info("next: edgemed distill medquad")


def conversation(one: dict[str, str]) -> str:
    """A question and its answer in the project's template."""
    messages = [*messages_for(one["question"]), {"role": "assistant", "content": one["answer"]}]
    return "".join(part.text for part in render_chat(CHAT_TEMPLATE, messages, add_generation_prompt=False))


def _rows(texts: list[str], tokenizer: Any, length: int, seed: int) -> Iterator[list[int]]:
    rng = random.Random(seed)
    waiting: list[int] = []
    while True:
        rng.shuffle(texts)
        for text in texts:
            waiting += tokenizer.encode(text, add_special_tokens=False).ids
            while len(waiting) >= length:
                yield waiting[:length]
                waiting = waiting[length:]


def _example(one: dict[str, str]) -> dict[str, str]:
    return {name: one[name] for name in ("id", "question", "answer", "specialty")}


def _cut(answer: str) -> str:
    text = answer.strip()
    if len(text) <= ANSWER_CHARACTERS:
        return text
    return text[: max(text.rfind(". ", 0, ANSWER_CHARACTERS), ANSWER_CHARACTERS // 2) + 1]


def _begin(one: dict[str, str]) -> str:
    """The answer's first words, without those of the disease's name: comparing letters is no knowledge."""
    name = set(plain(one["focus"]).split())
    words = [word if plain(word) not in name else "it" for word in one["answer"].split()[:OPTION_WORDS]]
    return " ".join(words)


def _hash(text: str) -> int:
    return int(hashlib.sha256(text.casefold().encode()).hexdigest(), 16)


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    logger.info("%s: %d lines", path, len(lines))


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Make the teacher and the files of `edgemed distill medquad`.")
    parser.add_argument("data", type=Path, help="folder that holds medquad/")
    parser.add_argument("--output", type=Path, default=Path("medquad"))
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    make(arguments.data, arguments.output, arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
