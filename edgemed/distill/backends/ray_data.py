"""A teacher on many machines: Ray Data hands texts to replicas of vLLM (`ray.data.llm`).

    [teacher]
    backend = "ray"
    replicas = 4            # engines
    tensor_parallel = 8     # GPUs of each
    batch = 64              # texts that an engine is handed at a time

Ray starts the engines for every call, which takes minutes for a large model, so choose teach.shard_examples so that a
shard is worth it: 50,000 or more. All machines find the model and edgemed under the same paths. Start Ray on them
first (`ray start --head`, `ray start --address=...`); without a cluster this machine alone is used.

Written from Ray's documentation and the source of its vLLM stage; the flow of rows is tested with a stand-in for the
engine; never run on GPUs by us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from edgemed.core.errors import EngineFailed, MissingExtra
from edgemed.core.progress import Progress
from edgemed.core.settings import OFFLINE_ENVIRONMENT, set_environment
from edgemed.distill.backends.base import AnswerTokens, Generated, ToScore, Wanted, weights_digest
from edgemed.distill.backends.vllm_engine import (
    QUIET_ENVIRONMENT,
    engine_settings,
    sampling_settings,
    scored_from,
    scoring_settings,
)
from edgemed.distill.config import TeacherConfig
from edgemed.distill.shards import ScoredAnswer

Row = dict[str, Any]
Build = Callable[[dict[str, Any], Callable[[Row], Row], Callable[[Row], Row]], Callable[[Any], Any]]
"""From the processor's settings, what to do before the engine and after it: a data set to a data set."""


class RayTeacher:
    """See Teacher."""

    hidden_size = 0
    starts_slowly = True

    def __init__(
        self,
        folder: Path,
        tokenizer: Path,
        config: TeacherConfig,
        wanted: Wanted,
        *,
        build: Build | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`build` stands in for Ray's own processor.

        Raises MissingExtra without Ray, ModelRefused for a folder that is no checkpoint.
        """
        if find_spec("ray") is None:
            raise MissingExtra("ray", "cluster")
        self._wanted = wanted
        self._settings = processor_settings(folder, tokenizer, config, wanted)
        self._build = build or _processor
        self._tokens = AnswerTokens(tokenizer)
        self.digest = weights_digest(folder, progress)

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        """See Teacher. One pass of the data set through all replicas."""
        top_k = self._wanted.top_k
        rows = [
            {
                "number": number,
                "prompt_ids": list(item.prompt),
                "answer_ids": list(item.answer),
                "places": item.places.tolist(),
                "settings": scoring_settings(item, top_k),
            }
            for number, item in enumerate(items)
        ]
        found = self._passed(rows, partial(_scored_row, top_k=top_k))
        return [
            ScoredAnswer(
                np.asarray(item.answer, np.int32),
                np.asarray(row["log_probs"], np.float32),
                np.asarray(item.places, np.int32),
                np.asarray(row["top_ids"], np.int32).reshape(-1, top_k),
                np.asarray(row["top_log_probs"], np.float16).reshape(-1, top_k),
            )
            for item, row in zip(items, found, strict=True)
        ]

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        """See Teacher."""
        asked = [(prompt, sample) for prompt in prompts for sample in range(first, first + n)]
        rows = [
            {
                "number": number,
                "prompt_ids": list(prompt),
                "answer_ids": [],
                "places": [],
                "settings": sampling_settings(
                    self._wanted.seed, prompt, sample, temperature, max_new_tokens, self._tokens
                ),
            }
            for number, (prompt, sample) in enumerate(asked)
        ]
        written = [self._tokens.generated(list(map(int, row["written"]))) for row in self._passed(rows, _written_row)]
        return [written[at : at + n] for at in range(0, len(written), n)]

    def close(self) -> None:
        """See Teacher. Ray itself belongs to whoever started it."""

    def _passed(self, rows: Sequence[Row], behind: Callable[[Row], Row]) -> list[Row]:
        """The rows as they come out of the engines, in the order in which they went in."""
        set_environment(OFFLINE_ENVIRONMENT | QUIET_ENVIRONMENT)
        import ray
        import ray.data

        processor = self._build(self._settings, _asked_row, behind)
        try:
            found = list(processor(ray.data.from_items(list(rows))).iter_rows())
        except ray.exceptions.RayError as error:
            raise EngineFailed(
                f"Ray did not finish a shard: {str(error).strip().splitlines()[-1][:200]}.",
                next_step="run the same command again; what is finished is kept",
            ) from error
        if len(found) != len(rows):
            raise EngineFailed(
                f"Ray gave {len(found)} of {len(rows)} rows back.",
                next_step="look into Ray's log for the engine's fault",
            )
        return sorted(found, key=lambda row: int(row["number"]))


def processor_settings(folder: Path, tokenizer: Path, config: TeacherConfig, wanted: Wanted) -> dict[str, Any]:
    """Of ray.data.llm.vLLMEngineProcessorConfig: texts come as tokens and leave as tokens."""
    return {
        "model_source": str(folder),
        "engine_kwargs": engine_settings(tokenizer, config, wanted),
        "concurrency": (config.replicas, config.replicas),  # a lone number would be the most of a growing pool
        "batch_size": config.batch,
        "runtime_env": {"env_vars": OFFLINE_ENVIRONMENT | QUIET_ENVIRONMENT},
        "chat_template_stage": False,
        "tokenize_stage": False,
        "detokenize_stage": False,
    }


def _processor(
    settings: dict[str, Any], before: Callable[[Row], Row], behind: Callable[[Row], Row]
) -> Callable[[Any], Any]:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    processor: Callable[[Any], Any] = build_processor(
        vLLMEngineProcessorConfig(**settings), preprocess=before, postprocess=behind
    )
    return processor


def _asked_row(row: Row) -> Row:
    """What the engine's stage reads; all other columns travel beside it."""
    settings = {name: _plain(value) for name, value in row["settings"].items()}
    text = [*_plain(row["prompt_ids"]), *_plain(row["answer_ids"])]
    return {**row, "tokenized_prompt": text, "sampling_params": settings}


def _scored_row(row: Row, top_k: int) -> Row:
    """Runs beside the engines: what travels back is a few numbers a token, not a mapping for each."""
    item = ToScore(_plain(row["prompt_ids"]), _plain(row["answer_ids"]), np.asarray(row["places"], np.int32))
    scored = scored_from(item, row["prompt_logprobs"], top_k)
    return {
        "number": int(row["number"]),
        "log_probs": scored.log_probs.tolist(),
        "top_ids": scored.top_ids.ravel().tolist(),
        "top_log_probs": scored.top_log_probs.astype(np.float32).ravel().tolist(),
    }


def _written_row(row: Row) -> Row:
    return {"number": int(row["number"]), "written": [int(token) for token in row["generated_tokens"]]}


def _plain(value: Any) -> Any:
    """Rows hold arrays where lists went in."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
