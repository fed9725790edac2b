"""A transformers model as a scorer: the 16-bit parent, and folders that only torch reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemed.core.errors import MissingExtra, ModelRefused, UsageError
from edgemed.core.settings import ENGINE_ENVIRONMENT, OFFLINE_ENVIRONMENT, set_environment
from edgemed.evaluate.scorer import settled
from edgemed.models.config import read_json


class TorchScorer:
    """A Scorer on a loaded causal language model; `ends` are the tokens that end an answer.

    Answers are the same for equal questions. Unlike the engine's, a prediction may depend a little, as sums do on their
    order, on what follows in the same text.
    """

    def __init__(self, model: Any, ends: Collection[int], *, context_length: int = 1024) -> None:
        self._model = model.eval()
        self._ends = frozenset(ends)
        self.context_length = context_length

    def greedy(self, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
        """See Scorer."""
        self._require(len(prompt_ids) + max_tokens, first=len(prompt_ids))

        def judge(answer: Sequence[int]) -> list[int]:
            found: list[int] = self._rows([*prompt_ids, *answer], len(answer) + 1).argmax(axis=1).tolist()
            return found

        def guess(answer: list[int]) -> list[int]:
            return self._guess([*prompt_ids], answer, max_tokens)

        return settled(judge, guess, self._ends.__contains__, max_tokens)

    def logits(self, ids: Sequence[int], first: int) -> npt.NDArray[np.float32]:
        """See Scorer."""
        self._require(len(ids), first)
        if len(ids) <= first:
            return np.empty((0, int(self._model.config.vocab_size)), np.float32)
        return self._rows(list(ids[:-1]), len(ids) - first)

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _rows(self, ids: list[int], n_rows: int) -> npt.NDArray[np.float32]:
        """Logits (n_rows, n_vocab) after the last `n_rows` of `ids`."""
        import torch

        with torch.inference_mode():
            given = torch.tensor([ids], device=self._model.device)
            found = self._model(input_ids=given, use_cache=False, logits_to_keep=n_rows).logits[0, -n_rows:]
            rows: npt.NDArray[np.float32] = found.float().cpu().numpy()
        return rows

    def _guess(self, prompt: list[int], answer: list[int], max_tokens: int) -> list[int]:
        import torch

        with torch.inference_mode():
            given, cache = torch.tensor([prompt + answer], device=self._model.device), None
            while len(answer) < max_tokens:
                out = self._model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                token = int(out.logits[0, -1].argmax())
                if token in self._ends:
                    break
                answer = [*answer, token]
                given = torch.tensor([[token]], device=self._model.device)
        return answer

    def _require(self, n_tokens: int, first: int) -> None:
        if first < 1:
            raise ValueError("the first token of a text has no prediction")
        if n_tokens > self.context_length:
            raise UsageError(
                f"A text of {n_tokens} tokens was to be measured; {self.context_length} fit.",
                next_step="measure shorter texts, or open the scorer with a longer context",
            )


def open_folder(folder: Path, *, context_length: int = 1024, dtype: str = "float32") -> TorchScorer:
    """A scorer on a Hugging Face folder, never with the folder's own code.

    `dtype` is that of weights which are not packed. Raises ModelRefused when transformers does not load it,
    MissingExtra without torch and transformers.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtra(package, "workstation")
    set_environment(ENGINE_ENVIRONMENT | OFFLINE_ENVIRONMENT)
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours is shown
    logging.set_verbosity_error()
    faults = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=False, local_files_only=True
        )
    except faults as error:
        raise ModelRefused(
            f"transformers does not load {folder}: {str(error)[:200]}.", next_step="check that the folder is complete"
        ) from error
    return TorchScorer(model, ends_of(folder), context_length=context_length)


def ends_of(folder: Path) -> frozenset[int]:
    """The tokens that end an answer: those of the folder's settings, and any other special one, as in the engine."""
    ends: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        found = read_json(path).get("eos_token_id") if path.is_file() else None
        ends |= {token for token in (found if isinstance(found, list) else [found]) if isinstance(token, int)}
    path = folder / "tokenizer.json"
    added = read_json(path).get("added_tokens") if path.is_file() else None
    return frozenset(ends | {int(token["id"]) for token in added or [] if token.get("special")})
