"""A teacher behind an OpenAI-compatible server that gives log-probabilities of a prompt: vLLM's and SGLang's can.

Scores come from /completions with the text as tokens, `echo` and `logprobs`. Many servers take such a request and
answer without numbers, or with zeros or one and the same number for every token; llama.cpp's and ours give none for a
prompt. So one short probe is asked first, and what could not come from a model that reads the text is refused.

Rivals at a place are named by a server as text, or as "token_id:N" where it understands `return_tokens_as_token_ids`.
A text that several tokens are written as names none of them: that rival is left out, and its probability with it goes
to all other tokens together.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.core.offline import is_loopback
from edgemed.core.records import digest_of
from edgemed.core.settings import teacher_api_key
from edgemed.distill.backends.base import AnswerTokens, Generated, ToScore, Wanted, rival_arrays, seed_of
from edgemed.distill.config import TeacherConfig
from edgemed.distill.shards import ScoredAnswer

_TRIES = 6
_LONGEST_WAIT_S = 60.0
_MOST_BYTES = 1 << 28
"""Of one answer: 2,000 tokens with 1,024 rivals each take some 100 MB as JSON."""
_PROBES = ("Fever in a child: give paracetamol, and look for danger signs.", "two two two two two two two two two two")
_TOLERANCE = 0.2
"""Between two readings of one text: servers add in another order for other neighbours, in 16 bits."""
_TOKEN_ID = re.compile(r"token_id:(\d+)")
_NO_SCORES_NEXT = (
    "serve the teacher with vLLM (its /v1/completions gives prompt log-probabilities), or score in process"
)


class ServerTeacher:
    """See Teacher. Weights cannot be seen from here: the digest is that of the model's name on the server."""

    hidden_size = 0
    starts_slowly = False

    def __init__(
        self, config: TeacherConfig, tokenizer: Path, wanted: Wanted, *, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """Asks nothing yet. Raises UsageError for an address that is none, or would send texts in the clear."""
        self._url = _checked_url(config)
        self._config, self._wanted, self._wait = config, wanted, wait
        self._tokens = AnswerTokens(tokenizer)
        self._opener = urllib.request.build_opener(_NoRedirect, *_without_proxy(self._url))
        self._probed = False
        self.digest = digest_of({"server's model": config.model})

    def score(self, items: Sequence[ToScore]) -> list[ScoredAnswer]:
        """See Teacher. `batch` requests are under way at a time."""
        self._probe()
        with ThreadPoolExecutor(self._config.batch) as pool:
            return list(pool.map(self._scored, items))

    def generate(
        self, prompts: Sequence[list[int]], n: int, temperature: float, max_new_tokens: int, first: int = 0
    ) -> list[list[Generated]]:
        """See Teacher: as far as the server keeps to a request's seed."""

        def one(asked: tuple[list[int], int]) -> Generated:
            prompt, sample = asked
            body = {"prompt": prompt, "max_tokens": max_new_tokens, "temperature": temperature}
            choice = self._choice(body | {"seed": seed_of(self._wanted.seed, prompt, sample) >> 32})
            if not isinstance(choice.get("text"), str):
                raise self._lacks("text in its answer")
            return Generated(choice["text"].strip(), choice.get("finish_reason") == "stop")

        asked = [(prompt, sample) for prompt in prompts for sample in range(first, first + n)]
        with ThreadPoolExecutor(self._config.batch) as pool:
            found = list(pool.map(one, asked))
        return [found[at : at + n] for at in range(0, len(found), n)]

    def close(self) -> None:
        """See Teacher."""

    def _probe(self) -> None:
        """Raises EdgemedError unless the server reads a text: numbers that differ, and are the same again."""
        if self._probed:
            return
        first, second = (self._tokens.ids_of(text) for text in _PROBES)
        rows = [self._read(ids, 2)[0] for ids in (first, first, second)]
        if not np.allclose(rows[0], rows[1], rtol=_TOLERANCE / 4, atol=_TOLERANCE):
            raise self._lacks("the same log-probabilities for the same text")
        n = min(len(rows[0]), len(rows[2]))
        if np.allclose(rows[0][:n], rows[2][:n], atol=1e-6):
            raise self._lacks("log-probabilities that depend on the text")
        self._probed = True

    def _scored(self, item: ToScore) -> ScoredAnswer:
        start, k = len(item.prompt), self._wanted.top_k
        log_probs, likeliest = self._read([*item.prompt, *item.answer], k if len(item.places) else 1)
        named = [self._rivals(likeliest[start + place - 1]) for place in item.places.tolist()]
        places = np.asarray(item.places, np.int32)
        return ScoredAnswer(np.asarray(item.answer, np.int32), log_probs[start - 1 :], places, *rival_arrays(named, k))

    def _rivals(self, named: Any) -> list[tuple[int, float]]:
        """The likeliest tokens of one position; what does not name one token is left out."""
        found = []
        for text, value in named.items() if isinstance(named, dict) else ():
            by_id = _TOKEN_ID.fullmatch(text)
            token = int(by_id[1]) if by_id else self._tokens.id_of_text.get(text)
            if token is not None and isinstance(value, int | float):
                found.append((token, float(value)))
        return found

    def _read(self, ids: Sequence[int], k: int) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[Any]]:
        """Log-probability of each token but the first, (n - 1,), and what the server names beside each."""
        choice = self._choice(
            {
                "prompt": list(ids),
                "max_tokens": 1,
                "temperature": 0,
                "echo": True,
                "logprobs": k,
                "return_tokens_as_token_ids": True,
            }
        )
        given = choice.get("logprobs")
        numbers = given.get("token_logprobs") if isinstance(given, dict) else None
        if not isinstance(numbers, list) or len(numbers) < len(ids):
            raise self._lacks("log-probabilities of a prompt's tokens")
        wanted = numbers[1 : len(ids)]
        if not all(isinstance(value, int | float) for value in wanted):
            raise self._lacks("a log-probability for every token of a prompt")
        found = np.asarray(wanted, np.float32)
        if not np.isfinite(found).all() or (found > 1e-3).any():
            raise self._lacks("log-probabilities: some of its numbers are none")
        if len(found) >= 4 and np.ptp(found) < 1e-6:
            raise self._lacks(f"log-probabilities of its own: all are {found[0]:.3g}")
        likeliest = given.get("top_logprobs") if isinstance(given, dict) else None
        likeliest = likeliest[1 : len(ids)] if isinstance(likeliest, list) else []
        return found, [*likeliest, *[None] * (len(found) - len(likeliest))]

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._post({"model": self._config.model, "n": 1, "stream": False, **body})
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._lacks("an answer in the form of /completions")
        return choices[0]

    def _post(self, body: dict[str, Any]) -> Any:
        """The server's answer, asked for again after faults that pass. Raises EdgemedError for those that do not."""
        headers = {"Content-Type": "application/json"}
        if key := teacher_api_key():
            headers["Authorization"] = f"Bearer {key}"
        for number in range(_TRIES):
            request = urllib.request.Request(f"{self._url}/completions", json.dumps(body).encode(), headers)
            try:
                with self._opener.open(request, timeout=self._config.timeout_s) as answer:
                    raw: bytes = answer.read(_MOST_BYTES + 1)
                if len(raw) > _MOST_BYTES:
                    raise self._lacks(f"an answer of fewer than {_MOST_BYTES} bytes")
                return json.loads(raw)
            except urllib.error.HTTPError as error:
                with error:
                    said = _said(error)
                    asked = error.headers.get("Retry-After", "")
                if error.code != 429 and error.code < 500:
                    raise self._refused(error.code, said) from error
                fault = f"HTTP {error.code}{said}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                fault, asked = str(error) or type(error).__name__, ""
            if number + 1 < _TRIES:
                self._wait(min(_LONGEST_WAIT_S, float(asked) if asked.isdigit() else 0.5 * 2**number))
        raise EdgemedError(
            f"The teacher's server at {self._url} did not answer after {_TRIES} tries: {fault}.",
            next_step="check the server, then run the same command again: what is finished is kept",
        )

    def _refused(self, code: int, said: str) -> EdgemedError:
        if 300 <= code < 400:
            what, then = "sends us to another address", "set teacher.url to the address that answers itself"
        elif code in (401, 403):
            what, then = "wants a key", "set EDGEMED_TEACHER_API_KEY"
        elif code == 404:
            what, then = "knows no such path or model", "check teacher.url (up to and with /v1) and teacher.model"
        else:
            what, then = "refuses a request", f"{_NO_SCORES_NEXT}; vLLM's takes more rivals with --max-logprobs"
        return UsageError(f"The teacher's server at {self._url} {what} (HTTP {code}{said}).", next_step=then)

    def _lacks(self, what: str) -> EdgemedError:
        return UsageError(f"The teacher's server at {self._url} gives no {what}.", next_step=_NO_SCORES_NEXT)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: texts go where the configuration says and nowhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _checked_url(config: TeacherConfig) -> str:
    parts = urlsplit(config.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{config.url!r} is no server's address.", next_step="set teacher.url, such as http://127.0.0.1:8000/v1"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not config.insecure:
        raise UsageError(
            f"Texts would go to {parts.hostname} without encryption.",
            next_step="take an https address, or set teacher.insecure = true where the network is your own",
        )
    return config.url.rstrip("/")


def _without_proxy(url: str) -> list[urllib.request.BaseHandler]:
    """This machine is never asked through a proxy."""
    return [urllib.request.ProxyHandler({})] if is_loopback(urlsplit(url).hostname or "") else []


def _said(error: urllib.error.HTTPError) -> str:
    """The first words of an error's message."""
    try:
        raw = error.read(2000).decode("utf-8", "replace")
    except OSError:
        return ""
    message = re.search(r'"message"\s*:\s*"([^"]{1,200})', raw)
    return f": {message[1]}" if message else ""
