"""A teacher behind a server: what it gives is read, and what is no score is refused with the next step."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_byte_level_tokenizer

from edgemed.core.errors import EdgemedError, UsageError
from edgemed.distill.backends.base import AnswerTokens, ToScore, Wanted
from edgemed.distill.backends.server import ServerTeacher
from edgemed.distill.config import TeacherConfig
from edgemed.distill.shards import NO_TOKEN

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
ITEM = ToScore([70, 71, 72], [80, 81, 82, 83], np.array([1, 3], np.int32))


class Stub:
    """A server on loopback that answers as it is told; `asked` are the bodies it got."""

    def __init__(self) -> None:
        self.answer: Answer = scores
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        self.seen: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.asked.append(body)
                stub.seen.append(dict(self.headers))
                status, said = stub.answer(body)
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in stub.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def log_prob(ids: list[int], place: int) -> float:
    return -math.log(2 + (ids[place] * 7 + ids[place - 1] * 3) % 11)


def scores(body: dict[str, Any]) -> tuple[int, Any]:
    """As vLLM answers: one token more than was sent, rivals by their numbers."""
    ids = body["prompt"]
    numbers = [None, *(log_prob(ids, place) for place in range(1, len(ids))), -0.5]
    rivals = [
        None,
        *({f"token_id:{ids[place]}": numbers[place], "token_id:5": -9.0} for place in range(1, len(ids))),
        {},
    ]
    return 200, {"choices": [{"text": "", "logprobs": {"token_logprobs": numbers, "top_logprobs": rivals}}]}


def changed(change: Callable[[list[Any]], list[Any]]) -> Answer:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        status, said = scores(body)
        given = said["choices"][0]["logprobs"]
        given["token_logprobs"] = change(given["token_logprobs"])
        return status, said

    return answer


@pytest.fixture
def stub() -> Iterator[Stub]:
    found = Stub()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_byte_level_tokenizer(folder)
    return folder


def teacher_at(url: str, tokenizer: Path, waits: list[float] | None = None, **settings: Any) -> ServerTeacher:
    config = TeacherConfig(model="big", backend="server", url=url, tokenizer=str(tokenizer), batch=3, **settings)
    return ServerTeacher(config, tokenizer, Wanted(3, seed=1), wait=(waits if waits is not None else []).append)


def test_scores_and_rivals_are_read_at_their_places(stub: Stub, tokenizer: Path) -> None:
    items = [ITEM, ToScore([90], [91, 92], np.array([], np.int32))]
    first, second = teacher_at(stub.url, tokenizer).score(items)
    ids = [*ITEM.prompt, *ITEM.answer]
    np.testing.assert_allclose(first.log_probs, [log_prob(ids, place) for place in range(3, 7)], rtol=1e-6)
    assert first.top_ids.tolist() == [[81, 5, NO_TOKEN], [83, 5, NO_TOKEN]]
    assert first.top_log_probs[:, 0] == pytest.approx([log_prob(ids, 4), log_prob(ids, 6)], rel=1e-3)
    assert second.top_ids.shape == (0, 3)
    assert second.log_probs[0] == pytest.approx(log_prob([90, 91, 92], 1))
    asked = next(body for body in stub.asked if body["prompt"] == ids)
    assert (asked["model"], asked["echo"], asked["logprobs"], asked["max_tokens"]) == ("big", True, 3, 1)


def test_rivals_that_are_named_by_their_text_are_found_where_one_token_is_written_so(
    stub: Stub, tokenizer: Path
) -> None:
    tokens = AnswerTokens(tokenizer)
    several = "\ufffd"

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        status, said = scores(body)
        named = {tokens.generated([80]).text: -1.0, several: -2.0, "no such token": -0.1}
        said["choices"][0]["logprobs"]["top_logprobs"] = [None, *[named] * len(body["prompt"])]
        return status, said

    stub.answer = answer
    (found,) = teacher_at(stub.url, tokenizer).score([ITEM])
    assert several not in tokens.id_of_text
    assert found.top_ids[0].tolist() == [80, NO_TOKEN, NO_TOKEN]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda body: (200, {"choices": [{"text": "fine"}]}), "log-probabilities of a prompt"),
        (lambda body: (200, {"choices": [{"text": "", "logprobs": {"token_logprobs": [-0.5]}}]}), "of a prompt"),
        (lambda body: (200, {"choices": []}), "in the form of /completions"),
        (changed(lambda numbers: [None, *[0.0] * (len(numbers) - 1)]), "all are 0"),
        (changed(lambda numbers: [None, *[-11.9] * (len(numbers) - 1)]), "all are -11.9"),
        (changed(lambda numbers: [None] * len(numbers)), "for every token"),
        (changed(lambda numbers: [None, 0.7, *numbers[2:]]), "some of its numbers are none"),
        (changed(lambda numbers: [None, *(-float(n) for n in range(1, len(numbers)))]), "depend on the text"),
        (lambda body: (400, {"error": {"message": "echo is not supported"}}), "echo is not supported"),
        (lambda body: (401, {}), "wants a key"),
        (lambda body: (404, {}), "no such path or model"),
    ],
)
def test_what_is_no_score_is_refused_by_one_probe(answer: Answer, words: str, stub: Stub, tokenizer: Path) -> None:
    stub.answer = answer
    with pytest.raises(UsageError, match=words) as refused:
        teacher_at(stub.url, tokenizer).score([ITEM])
    assert refused.value.next_step
    assert ITEM.prompt not in [body["prompt"][:3] for body in stub.asked]


def test_numbers_that_differ_for_the_same_text_are_refused(stub: Stub, tokenizer: Path) -> None:
    random = np.random.default_rng(0)
    stub.answer = changed(lambda numbers: [None, *(-5 * random.random(len(numbers) - 1)).tolist()])
    with pytest.raises(UsageError, match="same log-probabilities for the same text"):
        teacher_at(stub.url, tokenizer).score([ITEM])


def test_faults_that_pass_are_waited_for(stub: Stub, tokenizer: Path) -> None:
    faults = [(429, {}), (503, {}), (500, b"<html>"), (200, b"no json")]
    stub.answer = lambda body: faults.pop(0) if faults else scores(body)
    waits: list[float] = []
    assert len(teacher_at(stub.url, tokenizer, waits).score([ITEM])) == 1
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_says_how_long_is_believed_within_reason(stub: Stub, tokenizer: Path) -> None:
    stub.answer, stub.headers = (lambda body: (429, {})), {"Retry-After": "7000"}
    waits: list[float] = []
    with pytest.raises(EdgemedError, match="after 6 tries: HTTP 429"):
        teacher_at(stub.url, tokenizer, waits).score([ITEM])
    assert waits == [60.0] * 5


def test_nobody_there_is_told_with_the_next_step(tokenizer: Path, stub: Stub) -> None:
    stub.server.shutdown()
    stub.server.server_close()
    with pytest.raises(EdgemedError, match="did not answer after 6 tries"):
        teacher_at(stub.url, tokenizer).score([ITEM])


def test_a_redirect_is_not_followed(stub: Stub, tokenizer: Path) -> None:
    stub.answer, stub.headers = (lambda body: (302, {})), {"Location": f"{stub.url}/elsewhere"}
    with pytest.raises(UsageError, match="another address"):
        teacher_at(stub.url, tokenizer).score([ITEM])
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://10.1.2.3:8000/v1", "without encryption"),
        ("ftp://127.0.0.1/v1", "no server's address"),
        ("127.0.0.1:8000", "no server's address"),
    ],
)
def test_texts_go_encrypted_or_stay_here(url: str, words: str, tokenizer: Path) -> None:
    with pytest.raises(UsageError, match=words):
        teacher_at(url, tokenizer)


def test_an_own_network_may_be_trusted_and_https_always(tokenizer: Path) -> None:
    teacher_at("http://10.1.2.3:8000/v1", tokenizer, insecure=True)
    teacher_at("https://teacher.example/v1", tokenizer)


def test_answers_are_asked_for_with_their_own_seeds(
    stub: Stub, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        reason = "stop" if body["prompt"] == [70] else "length"
        return 200, {"choices": [{"text": f" {body['seed']} ", "finish_reason": reason}]}

    stub.answer = answer
    monkeypatch.setenv("EDGEMED_TEACHER_API_KEY", "secret")
    teacher = teacher_at(stub.url, tokenizer)
    found = teacher.generate([[70], [71]], 2, 0.6, 20)
    assert [[one.finished for one in samples] for samples in found] == [[True, True], [False, False]]
    assert len({one.text for samples in found for one in samples}) == 4
    assert teacher.generate([[70]], 1, 0.6, 20, first=1)[0] == [found[0][1]]
    assert all(0 <= body["seed"] < 2**31 for body in stub.asked)
    assert stub.seen[0]["Authorization"] == "Bearer secret"
    assert "secret" not in teacher.digest


def test_another_model_of_a_server_is_another_teacher(stub: Stub, tokenizer: Path) -> None:
    config = TeacherConfig(model="other", backend="server", url=stub.url, tokenizer=str(tokenizer))
    assert ServerTeacher(config, tokenizer, Wanted(3)).digest != teacher_at(stub.url, tokenizer).digest
