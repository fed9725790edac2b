"""A teacher in vLLM, in this process: one GPU or several that share the model.

Written from vLLM's documentation and tested against objects shaped like its own; never run on a GPU by us. What it
rests on: `LLM.generate` takes {"prompt_token_ids": ...}; with `SamplingParams(prompt_logprobs=k)` a RequestOutput has
`prompt_logprobs`, one entry for each token of the prompt, None for the first, else a mapping from token id to Logprob
(`logprob`, `rank`) of the k likeliest and the actual one; k may not exceed the engine's `max_logprobs`;
`logprobs_mode="raw_logprobs"` means before temperature and penalties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgemed.core.errors import EngineFailed, MissingExtra, ModelRefused
from edgemed.core.progress import Progress
from edgemed.core.settings import OFFLINE_ENVIRONMENT, set_environment
from edgemed.distill.backends.base import (
    AnswerTokens,
    Generated,
    ToScore,
    Wanted,
    rival_arrays,
    seed_of,
    weights_digest,
)
from edgemed.distill.config import TeacherConfig
from edgemed.distill.shards import ScoredAnswer

QUIET_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_CONFIGURE_LOGGING": "0",  # its log goes to standard output, which is the report's alone
}
"""vLLM and Ray report their use to their authors unless told not to."""


class VllmTeacher:
    """See Teacher."""

    hidden_size = 0
    starts_slowly = False

    def __init__(
        self, folder: Path, tokenizer: Path, config: TeacherConfig, wanted: Wanted, progress: Progress | None = None
    ) -> None:
        """Raises MissingExtra without vLLM, ModelRefused for a folder that is no checkpoint."""
        if find_spec("vllm") is None:
            raise MissingExtra("vllm", "cluster")
        self._folder, self._tokenizer, self._config, self._wanted = folder, tokenizer, config, wanted
        self._tokens = AnswerTokens(tokenizer)
        self._engine: Any = None
        self.digest = weights_digest(folder, progress)

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        """See Teacher. vLLM makes its own batches."""
        self._load()
        from vllm import SamplingParams

        settings = [SamplingParams(**scoring_settings(item, self._wanted.top_k)) for item in items]
        outputs = self._asked([[*item.prompt, *item.answer] for item in items], settings)
        return [
            scored_from(item, output.prompt_logprobs, self._wanted.top_k)
            for item, output in zip(items, outputs, strict=True)
        ]

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        """See Teacher. Each sample is a request of its own, with its own seed: the prompt's keys are read again."""
        self._load()
        from vllm import SamplingParams

        asked = [(prompt, sample) for prompt in prompts for sample in range(first, first + n)]
        settings = [
            SamplingParams(
                **sampling_settings(self._wanted.seed, prompt, sample, temperature, max_new_tokens, self._tokens)
            )
            for prompt, sample in asked
        ]
        outputs = self._asked([prompt for prompt, _ in asked], settings)
        found = [self._tokens.generated(list(output.outputs[0].token_ids)) for output in outputs]
        return [found[at : at + n] for at in range(0, len(found), n)]

    def close(self) -> None:
        """See Teacher."""
        self._engine = None

    def _asked(self, texts: Sequence[list[int]], settings: Sequence[Any]) -> list[Any]:
        try:
            outputs = self._engine.generate(
                [{"prompt_token_ids": text} for text in texts], sampling_params=list(settings), use_tqdm=False
            )
        except (RuntimeError, ValueError) as error:
            raise EngineFailed(
                f"vLLM refused a request: {str(error)[:200]}.",
                next_step="run the same command again; what is finished is kept",
            ) from error
        found: list[Any] = list(outputs)
        return found

    def _load(self) -> None:
        if self._engine is not None:
            return
        set_environment(OFFLINE_ENVIRONMENT | QUIET_ENVIRONMENT)
        from vllm import LLM

        try:
            self._engine = LLM(model=str(self._folder), **engine_settings(self._tokenizer, self._config, self._wanted))
        except (OSError, RuntimeError, ValueError) as error:
            raise ModelRefused(
                f"vLLM does not load {self._folder}: {str(error)[:200]}.",
                next_step="check the folder, data.max_tokens, and teacher.tensor_parallel against the GPUs here",
            ) from error


def engine_settings(tokenizer: Path, config: TeacherConfig, wanted: Wanted) -> dict[str, Any]:
    """What an engine is started with, here and on other machines."""
    return {
        "tokenizer": str(tokenizer),
        "dtype": config.dtype,
        "tensor_parallel_size": config.tensor_parallel,
        "max_model_len": wanted.max_tokens,
        "max_logprobs": wanted.top_k,
        "logprobs_mode": "raw_logprobs",
        "trust_remote_code": False,
        "enable_prefix_caching": False,  # a prefix that is not computed again has no log-probabilities
        "seed": wanted.seed,
    }


def scoring_settings(item: ToScore, top_k: int) -> dict[str, Any]:
    """Of SamplingParams: one token is written and thrown away; what is wanted is the text before it."""
    k = top_k if len(item.places) else 1
    return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": k, "detokenize": False}


def sampling_settings(
    seed: int, prompt: Sequence[int], sample: int, temperature: float, max_new_tokens: int, tokens: AnswerTokens
) -> dict[str, Any]:
    """Of SamplingParams. Tokens that end an answer come back with it, so that one that was cut is known."""
    return {
        "n": 1,
        "temperature": temperature,
        "max_tokens": max_new_tokens,
        "seed": seed_of(seed, prompt, sample),
        "stop_token_ids": sorted(tokens.ends),
        "detokenize": False,
    }


def scored_from(item: ToScore, given: Sequence[Mapping[int, Any] | None] | None, top_k: int) -> ScoredAnswer:
    """The scores of an answer from its text's prompt_logprobs.

    Raises EngineFailed when they are not those of the text.
    """
    start, n = len(item.prompt), len(item.answer)
    if given is None or len(given) != start + n:
        raise EngineFailed(
            f"vLLM gave {0 if given is None else len(given)} log-probabilities for a text of {start + n} tokens.",
            next_step="take a version of vLLM that gives prompt_logprobs",
        )
    rows = given[start:]
    log_probs = [
        _value(row[token]) if row and token in row else np.nan for row, token in zip(rows, item.answer, strict=True)
    ]
    rivals = [
        [(int(token), _value(one)) for token, one in (rows[place] or {}).items()] for place in item.places.tolist()
    ]
    return ScoredAnswer(
        np.asarray(item.answer, np.int32),
        np.asarray(log_probs, np.float32),
        np.asarray(item.places, np.int32),
        *rival_arrays(rivals, top_k),
    )


def _value(logprob: Any) -> float:
    """Of a Logprob, or of the mapping that it becomes on its way between machines."""
    return float(logprob["logprob"] if isinstance(logprob, Mapping) else logprob.logprob)
