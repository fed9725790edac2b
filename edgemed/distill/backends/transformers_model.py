"""A teacher in this process: a transformers model on the CPU or one GPU.

Texts go through in batches of like length. The body of the model runs on all of a batch, its head on one chunk of
positions at a time, so that a vocabulary of 152,000 costs some hundred MB and not tens of GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgemed.core.errors import MissingExtra, ModelRefused, PlanInfeasible
from edgemed.core.progress import Progress, SilentProgress
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.distill.backends.base import AnswerTokens, Generated, ToScore, Wanted, seed_of, weights_digest
from edgemed.distill.backends.teacher_memory import CHUNK, TeacherLoad, require_teacher_memory
from edgemed.distill.shards import NO_TOKEN, ScoredAnswer
from edgemed.hardware.memory import read_ram
from edgemed.models.config import read_json

if TYPE_CHECKING:
    from torch import Tensor


class TransformersTeacher:
    """See Teacher."""

    starts_slowly = False

    def __init__(
        self,
        folder: Path,
        wanted: Wanted,
        *,
        batch: int = 8,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        progress: Progress | None = None,
    ) -> None:
        """Raises ModelRefused for a folder that is no checkpoint, MissingExtra without torch and transformers."""
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                raise MissingExtra(package, "workstation")
        set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)  # read when torch is imported
        self._folder, self._wanted, self._batch = folder, wanted, batch
        self._device_name, self._dtype_name = device, dtype
        self._progress = progress or SilentProgress()
        self._tokens = AnswerTokens(folder)
        self._model: Any = None
        self.digest = weights_digest(folder, progress)
        self.hidden_size = int(read_json(folder / "config.json").get("hidden_size") or 0)

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        """See Teacher. Equal to one text at a time, but for rounding."""
        import torch

        self._load()
        found: dict[int, ScoredAnswer] = {}
        with torch.inference_mode(), self._told_when_full():
            for numbers in _by_length([len(item.prompt) + len(item.answer) for item in items], self._batch):
                states = self._states([[*items[n].prompt, *items[n].answer] for n in numbers])
                for row, number in enumerate(numbers):
                    found[number] = self._scored(items[number], states[row])
        return [found[number] for number in range(len(items))]

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        """See Teacher. The same draws give the same text as long as the batches are the same: sums round alike."""
        import torch

        self._load()
        rows = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(first, first + n)]
        found: dict[int, Generated] = {}
        with torch.inference_mode(), self._told_when_full():
            for numbers in _by_length([len(prompts[prompt]) for prompt, _ in rows], self._batch):
                chosen = [rows[number] for number in numbers]
                draws = _draws([(prompts[p], sample) for p, sample in chosen], self._wanted.seed, max_new_tokens)
                answers = self._written([prompts[p] for p, _ in chosen], draws, temperature)
                found.update(zip(numbers, map(self._tokens.generated, answers), strict=True))
        return [[found[prompt * n + sample] for sample in range(n)] for prompt in range(len(prompts))]

    def close(self) -> None:
        """See Teacher."""
        self._model = None

    @contextmanager
    def _told_when_full(self) -> Iterator[None]:
        """The estimate leaves out what libraries hold, and other programs come and go."""
        import torch

        try:
            yield
        except torch.OutOfMemoryError as error:
            raise PlanInfeasible(
                f"The GPU's memory did not last for {self._batch} texts at a time.",
                next_step=f"set teacher.batch = {self._batch // 2}; what is finished is kept"
                if self._batch > 1
                else "shorten data.max_tokens, or run the teacher on several GPUs",
            ) from error

    def _states(self, texts: Sequence[list[int]]) -> Tensor:
        """Last hidden states (texts, longest, hidden size); behind a text's end they mean nothing."""
        import torch

        longest = max(map(len, texts))
        ids = torch.zeros((len(texts), longest), dtype=torch.long)
        real = torch.zeros((len(texts), longest), dtype=torch.long)
        for row, text in enumerate(texts):  # padded behind: no token looks ahead, so none sees it
            ids[row, : len(text)] = torch.tensor(text)
            real[row, : len(text)] = 1
        body = self._model.get_decoder()
        device = self._model.device
        found: Tensor = body(
            input_ids=ids.to(device), attention_mask=real.to(device), use_cache=False
        ).last_hidden_state
        return found

    def _scored(self, item: ToScore, states: Tensor) -> ScoredAnswer:
        """Of one text's states (tokens, hidden size)."""
        import torch

        start, n = len(item.prompt), len(item.answer)
        ids = torch.tensor(list(item.answer), device=states.device)
        places = torch.as_tensor(item.places, dtype=torch.long, device=states.device)
        log_probs, top = [], []
        for at in range(0, n, CHUNK):
            part = states[start - 1 + at : start - 1 + min(at + CHUNK, n)]
            logits = self._model.get_output_embeddings()(part).float()
            total = logits.logsumexp(-1, keepdim=True)
            log_probs.append((logits.gather(-1, ids[at : at + len(part), None]) - total)[:, 0])
            within = places[(places >= at) & (places < at + len(part))] - at
            best = logits[within].topk(min(self._wanted.top_k, logits.shape[-1]), dim=-1)
            top.append((best.indices, best.values - total[within]))
        hidden = states[start : start + n] if self._wanted.hidden else states[:0, :0]
        best_ids, values = (torch.cat(parts).cpu().numpy() for parts in zip(*top, strict=True))
        width = ((0, 0), (0, self._wanted.top_k - best_ids.shape[1]))  # a vocabulary may have fewer
        least = np.finfo(np.float16).min
        return ScoredAnswer(
            np.asarray(item.answer, np.int32),
            torch.cat(log_probs).cpu().numpy(),
            np.asarray(item.places, np.int32),
            np.pad(best_ids.astype(np.int32), width, constant_values=NO_TOKEN),
            np.pad(np.maximum(values, least).astype(np.float16), width, constant_values=-np.inf),
            hidden.float().cpu().numpy().astype(np.float16),
        )

    def _written(self, prompts: Sequence[list[int]], draws: Tensor, temperature: float) -> list[list[int]]:
        """The tokens that follow each prompt, an end among them where one came; draws are (prompts, tokens)."""
        import torch

        device = self._model.device
        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.long)
        real = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):  # padded in front: all go on at the same column
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            real[row, longest - len(prompt) :] = 1
        ids, real, draws = ids.to(device), real.to(device), draws.to(device)
        answers: list[list[int]] = [[] for _ in prompts]
        going, cache = list(range(len(prompts))), None
        places = (real.cumsum(-1) - 1).clamp(min=0)
        for step in range(draws.shape[1]):
            out = self._model(
                input_ids=ids,
                attention_mask=real,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            tokens = _drawn(out.logits[:, -1].float(), draws[going, step], temperature)
            for row, token in zip(going, tokens.tolist(), strict=True):
                answers[row].append(token)
            kept = [n for n, row in enumerate(going) if answers[row][-1] not in self._tokens.ends]
            if not kept:
                break
            if len(kept) < len(going):  # whoever has finished no longer takes part
                index = torch.tensor(kept, device=device)
                cache.batch_select_indices(index)
                tokens, real, places = tokens[index], real[index], places[index]
                going = [going[n] for n in kept]
            ids, places = tokens[:, None], places[:, -1:] + 1
            real = torch.cat([real, torch.ones_like(ids)], dim=1)
        return answers

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # ours is shown
        logging.set_verbosity_error()
        device, dtype = self._device_name, self._dtype_name
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device == "cuda" else "float32"
        load = TeacherLoad(self._folder, dtype, self._batch, self._wanted.max_tokens, device)
        require_teacher_memory(load, torch.cuda.mem_get_info()[0] if device == "cuda" else _free_ram())
        self._progress.note(f"Loading the teacher ({dtype}, {device})")
        try:
            model = AutoModelForCausalLM.from_pretrained(
                str(self._folder), dtype=dtype, trust_remote_code=False, local_files_only=True
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            raise ModelRefused(
                f"transformers does not load {self._folder}: {str(error)[:200]}.",
                next_step="check that the folder is complete",
            ) from error
        self._model = model.eval().to(device)
        self._check_head()

    def _check_head(self) -> None:
        """Some models bend their logits behind the head; then scores as they are computed here would be wrong."""
        import torch

        ids = list(range(min(8, int(self._model.config.vocab_size))))
        with torch.inference_mode():
            plain = self._model(input_ids=torch.tensor([ids], device=self._model.device)).logits[0].float()
            ours = self._model.get_output_embeddings()(self._states([ids])[0]).float()
        if (plain - ours).abs().max() > 1e-2 * plain.abs().max().clamp(min=1):
            raise ModelRefused(
                f"{self._folder} changes its logits behind the head; it cannot be asked for scores here.",
                next_step='run this teacher with backend = "vllm" or on a server',
            )


def _free_ram() -> int:
    """Bytes; any number where the system does not say."""
    _, free = read_ram()
    return int(free.value) if free.available else 1 << 62


def _by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """All numbers in groups of at most `size`, the longest first: what does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _draws(samples: Sequence[tuple[list[int], int]], seed: int, n: int) -> Tensor:
    """(samples, n) numbers from 0 to 1 that follow from seed, prompt and the sample's number."""
    import torch

    rows = [
        np.random.Generator(np.random.Philox(key=seed_of(seed, prompt, sample))).random(n) for prompt, sample in samples
    ]
    return torch.from_numpy(np.stack(rows))


def _drawn(logits: Tensor, draws: Tensor, temperature: float) -> Tensor:
    """The token of each row (rows, vocabulary) that its draw falls on; the likeliest at temperature 0."""
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    heap = (logits / temperature).softmax(-1, dtype=torch.float64).cumsum(-1)
    return torch.searchsorted(heap, (draws * heap[:, -1])[:, None])[:, 0].clamp(max=logits.shape[-1] - 1)
