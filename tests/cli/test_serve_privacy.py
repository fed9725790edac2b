"""A real `edgemed serve -v` with the demonstration model: marked words in, the engine killed in mid-answer, and no word
of them left in a file, on an output or in a route that tells of the server. Then `--forget` leaves nothing at all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from edgemed.serve.memory import kept_files
from edgemed.serve.unfinished import UNFINISHED_FOLDER

pytest.importorskip("llama_cpp", reason="the engine's binding is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")

MARK = "quopzil"
KEPT = "What is the dose of paracetamol for fever in a child?"
COMMAND = [sys.executable, "-m", "edgemed.cli.app"]


@dataclass
class Clinic:
    """The folders of one machine."""

    home: Path
    project: Path
    temporary: Path

    def environment(self) -> dict[str, str]:
        mine = {"EDGEMED_HOME": str(self.home), "TMPDIR": str(self.temporary), "PYTHONASYNCIODEBUG": "1"}
        return {**os.environ, **mine, "EDGEMED_CACHE_PASSPHRASE_FILE": str(self.project / "words")}

    @contextmanager
    def serving(self) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
        """A server, ready; killed with the block if it still lives."""
        command = [*COMMAND, "serve", "demo", "-v", "--json", "--port", "0"]
        with (
            (self.project / "stderr").open("w") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=self.environment(), cwd=self.project
            ) as process,
        ):
            try:
                assert process.stdout is not None
                lines = list(iter(process.stdout.readline, "}\n"))
                yield process, json.loads("".join(lines) + "}")
            finally:
                process.kill()

    def files(self) -> dict[str, str]:
        """Everything that lies in the folders, by its name, in small letters."""
        found = [path for folder in (self.home, self.project, self.temporary) for path in folder.rglob("*")]
        return {str(path): path.read_bytes().decode("latin-1").lower() for path in found if path.is_file()}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    clinic = Clinic(*(tmp_path_factory.mktemp(name) for name in ("home", "project", "temporary")))
    (clinic.project / "words").write_text("five words that nobody guesses\n")
    (clinic.project / "words").chmod(0o600)
    return clinic


def ask(http: httpx.Client, question: str, **fields: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": question}], **fields}
    return http.post("/v1/chat/completions", json=body, headers={"user-agent": f"{MARK}agent"})


def engine_of(server: subprocess.Popen[str]) -> psutil.Process:
    """The engine's process; waits for it up to 20 seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for child in psutil.Process(server.pid).children():
            if "worker" in " ".join(child.cmdline()):
                return child
    raise AssertionError("there is no engine's process")


def core_limit(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


def break_off(http: httpx.Client, server: subprocess.Popen[str], number: int) -> str:
    """What a stream says whose engine is ended by a signal after its first words."""
    session = http.post("/api/sessions").json()["id"]
    question = {"role": "user", "content": f"Tell {MARK}stream about malaria"}
    body = {"messages": [question], "stream": True, "session": session}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = response.iter_text()
        first = next(chunks)
        engine_of(server).send_signal(number)
        return first + "".join(chunks)


def look_around(http: httpx.Client) -> str:
    routes = ("/metrics", "/api/live", "/health", "/api/status", "/openapi.json", "/v1/models")
    return "\n".join(http.get(route).text for route in routes).lower()


def test_no_word_of_a_question_is_left_anywhere_and_forget_leaves_nothing(clinic: Clinic) -> None:
    with clinic.serving() as (server, said), httpx.Client(base_url=said["url"], timeout=60, trust_env=False) as http:
        assert core_limit(server.pid) == core_limit(engine_of(server).pid) == ["0", "0"]
        assert ask(http, f"What helps {MARK}patient against fever?", user=f"{MARK}user").status_code == 200
        assert ask(http, "Hello?", model=f"{MARK}model").status_code == 404
        assert ask(http, "Hello?", **{f"{MARK}field": 1}).status_code == 400
        assert ask(http, f"{MARK}long " * 20_000).status_code == 400
        bad = http.post("/v1/chat/completions", content=f"{{{MARK}", headers={"content-type": "application/json"})
        assert (bad.status_code, http.get(f"/{MARK}path?q={MARK}").status_code) == (400, 404)
        for number in (signal.SIGABRT, signal.SIGKILL):
            assert ask(http, KEPT).status_code == 200
            told = break_off(http, server, number)
            assert told.count("data: [DONE]") == 1
            told = look_around(http)
            assert MARK not in told
        assert ask(http, KEPT).json()["medical"]["cached"]
        server.send_signal(signal.SIGTERM)
        assert server.stdout is not None
        assert MARK not in server.stdout.read().lower()
        assert server.wait(10) == 0
    files = clinic.files()
    assert [name for name, text in files.items() if MARK in text] == []
    stderr = files[str(clinic.project / "stderr")]
    assert "ended by signal" in stderr
    assert "traceback" not in stderr
    kept = {file.name: files[str(file)] for file in kept_files(clinic.home) if str(file) in files}
    assert {"journal.jsonl", "answers.sqlite3"} <= set(kept)
    assert any("sealed" in text for text in kept.values()), "the interrupted questions were not kept"
    assert not [name for name, text in kept.items() if "paracetamol" in text]
    done = subprocess.run(
        [*COMMAND, "serve", "--forget"], env=clinic.environment(), cwd=clinic.project, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not [file for file in kept_files(clinic.home) if file.exists()]
    assert not (clinic.home / UNFINISHED_FOLDER).exists()
    assert not [name for name in clinic.files() if "paracetamol" in Path(name).read_text(errors="replace")]
