"""`edgemed serve` as a process, with the real engine: its words, its exit codes, and that nothing leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
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

pytest.importorskip("llama_cpp", reason="the engine's binding is not installed")
pytest.importorskip("gguf", reason="makes the model")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

COMMAND = [sys.executable, "-m", "edgemed.cli.app", "serve"]


@dataclass
class Served:
    """A running `edgemed serve --json` and what it said of itself."""

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.said["url"])

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "What is the dose of zinc?"}], "max_tokens": 8, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)

    def stream(self, **fields: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "Tell me all"}], "stream": True, **fields}
        return httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)

    def end(self) -> tuple[int, str]:
        """SIGTERM; exit code and what is left of stderr. Fails after 5 seconds."""
        self.process.send_signal(signal.SIGTERM)
        _, stderr = self.process.communicate(timeout=5)
        return self.process.returncode, stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, so that the machine is measured once for all."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_models import write_tiny_qwen2

    return write_tiny_qwen2(tmp_path_factory.mktemp("model") / "tiny.gguf")


@contextmanager
def serving(home: Path, *words: str | Path, before: tuple[str, ...] = ()) -> Iterator[Served]:
    """A server process, ready; killed with the block if it still lives."""
    command = [*before, *COMMAND, *map(str, words), "--port", "0", "--json"]
    environment = {**os.environ, "EDGEMED_HOME": str(home)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=home
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line == "}\n":
                    break
            assert lines, process.stderr.read() if process.stderr else ""
            yield Served(process, json.loads("".join(lines)))
        finally:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                child.kill()
            process.kill()


def after_first_word(response: httpx.Response) -> Iterator[str]:
    """The lines of a stream that follow its first text."""
    lines = response.iter_lines()
    for line in lines:
        if re.search(r'"content": "[^"]', line):
            break
    return lines


def refused(home: Path, *words: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a start that must fail."""
    environment = {**os.environ, "EDGEMED_HOME": str(home)}
    done = subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, env=environment, cwd=home, timeout=60
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_real_model_answers_over_http_and_the_process_ends_in_mid_stream(home: Path, model: Path) -> None:
    with serving(home, model, "--offline") as served:
        assert served.said["model"] == "tiny"
        assert served.said["offline"] is True
        answer = served.chat().json()
        assert answer["usage"]["completion_tokens"] == 8
        assert answer["choices"][0]["finish_reason"] == "length"
        assert served.chat().json()["choices"][0]["message"] == answer["choices"][0]["message"]
        long = served.chat(messages=[{"role": "user", "content": "x " * 60_000}])
        assert long.json()["error"]["code"] == "context_length_exceeded"
        with served.stream(max_tokens=3000) as response:
            lines = after_first_word(response)
            began = time.monotonic()
            code, stderr = served.end()
            last = [line for line in lines if line.startswith("data: ")][-2:]
        assert time.monotonic() - began < 5
        assert last[1] == "data: [DONE]"
        assert "shutting_down" in last[0]
        assert code == 0
        assert f"Ready: open {served.url} in a browser" in stderr


def test_killed_worker_fails_what_runs_and_the_next_request_succeeds(home: Path, model: Path) -> None:
    with serving(home, model) as served:
        (worker,) = psutil.Process(served.process.pid).children()
        with served.stream(max_tokens=3000) as response:
            lines = after_first_word(response)
            worker.kill()
            last = [line for line in lines if line.startswith("data: ")][-2:]
        assert json.loads(last[0][6:])["error"]["code"] == "engine_lost"
        assert last[1] == "data: [DONE]"
        assert served.chat().status_code == 200
        health = httpx.get(f"{served.url}/health", trust_env=False).json()
        assert (health["status"], health["worker_restarts"]) == ("ok", 1)
        assert served.end()[0] == 0


def test_a_worker_that_the_memory_killer_ended_comes_back_smaller_and_health_says_why(home: Path, model: Path) -> None:
    with serving(home, model) as served:

        def health() -> dict[str, Any]:
            return dict(httpx.get(f"{served.url}/health", timeout=10, trust_env=False).json())

        before = health()
        assert (before["state"], before["rung"]) == ("normal", 0)
        assert before["warm_up_tokens"] == before["context_length"] == served.said["context_length"]
        (worker,) = psutil.Process(served.process.pid).children()
        worker.kill()
        assert served.chat().status_code == 200
        after = health()
        assert (after["status"], after["state"], after["rung"]) == ("ok", "reduced", 1)
        assert "SIGKILL" in after["reason"]
        assert "low on memory" in after["words"]
        size = after["context_length"] * after["n_slots"]
        assert size < before["context_length"] * before["n_slots"]


def test_no_process_is_left_behind(home: Path, model: Path) -> None:
    with serving(home, model) as served:
        (worker,) = psutil.Process(served.process.pid).children()
        served.process.kill()  # no chance to say goodbye
        served.process.wait(5)
        worker.wait(5)


def test_port_in_use_is_said_before_the_model_is_loaded(home: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr = refused(home, model, "--port", str(port))
    assert code == 2
    assert f"Port {port}" in stderr
    assert "--port" in stderr.partition("Next:")[2]
    assert "Loading" not in stderr


def test_host_that_is_no_address_of_this_machine_is_refused_before_the_model_is_loaded(
    home: Path, model: Path, tmp_path: Path
) -> None:
    for host, why in (("192.0.2.1", "no address of this machine"), ("example.org", "names are not looked up")):
        code, stderr = refused(tmp_path, model, "--host", host)
        assert code == 2
        assert why in stderr
        assert "Loading" not in stderr


def test_unknown_and_damaged_models_have_their_exit_codes(home: Path, tmp_path: Path) -> None:
    assert refused(home, "no-such-model", "--port", "0")[0] == 2
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    assert refused(home, damaged, "--port", "0")[0] == 5


def test_saved_plan_is_used_and_refused_for_a_changed_file(home: Path, model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    command = [sys.executable, "-m", "edgemed.cli.app", "plan", str(model), "--slots", "2", "--save", str(plan)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "EDGEMED_HOME": str(home)})
    with serving(home, "--plan", plan) as served:
        assert served.said["n_slots"] == 2
        assert served.end()[0] == 0
    other = tmp_path / "other.gguf"
    shutil.copy(model, other)
    with other.open("ab") as file:
        file.write(b"\0" * 32)
    code, stderr = refused(home, other, "--plan", plan, "--port", "0")
    assert code == 2
    assert "another file" in stderr
    assert refused(home, model, "--plan", plan, "--slots", "3", "--port", "0")[0] == 2


def test_adapters_are_served_beside_the_model_and_named_by_requests(home: Path, model: Path, tmp_path: Path) -> None:
    from adapters import write_tiny_adapter

    files = {
        name: write_tiny_adapter(tmp_path / f"{name}.gguf", seed=seed) for seed, name in enumerate(("heart", "skin"))
    }
    words = [word for name, path in files.items() for word in ("--adapter", f"{name}={path}")]
    with serving(home, model, "--slots", "2", *words) as served:
        listed = httpx.get(f"{served.url}/v1/models", timeout=20, trust_env=False).json()
        assert [one["id"] for one in listed["data"]] == ["tiny", "heart", "skin"]
        texts = {
            name: served.chat(model=name, cache="off").json()["choices"][0]["message"]["content"]
            for name in ("tiny", "heart", "skin")
        }
        assert len(set(texts.values())) == 3
        assert served.chat(model="liver").status_code == 404
        served.end()


def test_an_adapter_for_another_base_is_refused_at_the_start(home: Path, model: Path, tmp_path: Path) -> None:
    from adapters import write_tiny_adapter

    deep = write_tiny_adapter(tmp_path / "deep.gguf", layers=3)
    code, said = refused(home, model, "--adapter", f"deep={deep}")
    assert code == 5
    assert "made for another base" in said
    assert "Next:" in said
    for words in (["--adapter", "deep"], ["--adapter", f"tiny={deep}"], ["--adapter", f"a b={deep}"]):
        assert refused(home, model, *words)[0] == 2


def test_forget_alone_erases_and_ends_and_with_a_model_it_serves(tmp_path: Path, model: Path) -> None:
    def forget(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--forget", *words]
        environment = {**os.environ, "EDGEMED_HOME": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)

    (tmp_path / "edgemed.toml").write_text(f"[model]\npath = '{model}'\n")
    done = forget()
    assert (done.returncode, "nothing to erase" in done.stderr) == (0, True)
    with serving(tmp_path, model) as served:
        assert served.chat().status_code == 200
        refusal = forget()
        assert (refusal.returncode, "A server works on" in refusal.stderr) == (2, True)
        assert served.end()[0] == 0
    assert (tmp_path / "journal.jsonl").exists()
    done = forget("--json")
    assert (done.returncode, json.loads(done.stdout)["erased"]) == (0, ["journal.jsonl"])
    with serving(tmp_path, model, "--forget") as served:
        assert served.chat().status_code == 200
        assert served.end()[0] == 0
    assert not (tmp_path / "journal.jsonl").exists()


@pytest.mark.parametrize("stage", ["Asking the engine", "Measuring memory", "Loading", "Ready"])
def test_ctrl_c_during_the_start_leaves_with_130_and_no_child(
    home: Path, model: Path, tmp_path: Path, stage: str
) -> None:
    new = stage in ("Asking the engine", "Measuring memory")  # these come only on a machine never measured
    environment = {**os.environ, "EDGEMED_HOME": str(tmp_path if new else home)}
    with subprocess.Popen(
        [*COMMAND, str(model), "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(10) == 130
    assert "Traceback" not in said
    assert psutil.wait_procs(children, timeout=5)[1] == []


# Everything by which a process can reach another: what strace writes of it is searched for addresses.
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
FOREIGN = re.compile(r'sa_family=AF_INET6?.*?(?:inet_addr\("(?P<v4>[^"]+)"\)|inet_pton\(AF_INET6, "(?P<v6>[^"]+)")')


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-f", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _strace_works(), reason="strace is not installed, or this machine refuses tracing")
def test_offline_server_never_tries_to_reach_another_machine(tmp_path: Path, model: Path) -> None:
    """From the first start on an unmeasured machine to the end, parent and worker, with requests in between."""
    trace = tmp_path / "trace"
    before = ("strace", "-f", "-qq", "-e", CALLS, "-e", "signal=none", "-o", str(trace))
    with serving(tmp_path, model, "--offline", before=before) as served:
        assert served.chat().status_code == 200
        with served.stream(max_tokens=5) as response:
            assert response.read().endswith(b"data: [DONE]\n\n")
        os.kill(served.said["pid"], signal.SIGTERM)
        served.process.communicate(timeout=20)
    written = trace.read_text(errors="replace")
    assert "sendto(" in written  # it did look: the answers themselves were seen
    attempts = [match.group("v4") or match.group("v6") for match in FOREIGN.finditer(written)]
    assert [address for address in attempts if not address.startswith("127.") and address != "::1"] == []


def _namespaces_work() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _namespaces_work(), reason="network namespaces are refused here, or `ip` is not installed")
def test_server_works_where_there_is_no_network_at_all(home: Path, model: Path) -> None:
    ask = (
        "import sys, httpx; r = httpx.post(sys.argv[1] + '/v1/chat/completions', trust_env=False, timeout=60, "
        "json={'messages': [{'role': 'user', 'content': 'Dose?'}], 'max_tokens': 4}); print(r.status_code)"
    )
    inside = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    with serving(home, model, "--offline", before=inside) as served:
        enter = ["nsenter", "--net", "--target", str(served.said["pid"]), sys.executable, "-c", ask, served.url]
        done = subprocess.run(enter, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == "200", done.stderr
        assert served.end()[0] == 0


_ASK_AS_A_PHONE = """
import json, ssl, sys, httpx
url, token, certificate = sys.argv[1:]
tls = ssl.create_default_context(cafile=certificate)
ask = {"messages": [{"role": "user", "content": "Dose?"}], "max_tokens": 4}
with httpx.Client(base_url=url, verify=tls, trust_env=False, timeout=60) as http:
    codes = [http.get("/health").status_code, http.post("/v1/chat/completions", json=ask).status_code]
    codes.append(http.post("/api/login", json={"token": token}).status_code)
    codes += [http.get("/").status_code, http.post("/v1/chat/completions", json=ask).status_code]
    codes.append(http.get("/health", headers={"Host": "evil.example"}).status_code)
print(json.dumps(codes))
"""


@pytest.mark.skipif(not _namespaces_work(), reason="network namespaces are refused here, or `ip` is not installed")
def test_offline_server_on_a_network_lets_a_phone_in_by_tls_and_token_and_calls_nobody(home: Path, model: Path) -> None:
    """On an address of a network of its own, which leads nowhere."""
    up = "ip link set lo up && ip addr add 10.99.0.5/24 dev lo"
    inside = ("unshare", "--net", "sh", "-c", f'{up} && exec "$@"', "sh")
    with serving(home, model, "--offline", "--host", "0.0.0.0", before=inside) as served:
        assert served.url.startswith("https://10.99.0.5:")
        assert served.said["network"] is True
        token = Path(served.said["access_token_file"]).read_text().strip()
        certificate = str(home / "tls-certificate.pem")
        enter = ["nsenter", "--net", "--target", str(served.said["pid"]), sys.executable, "-c", _ASK_AS_A_PHONE]
        done = subprocess.run([*enter, served.url, token, certificate], capture_output=True, text=True, timeout=60)
        assert done.stdout, done.stderr
        assert json.loads(done.stdout) == [200, 401, 200, 200, 200, 403]
        code, stderr = served.end()
    assert code == 0
    assert stderr.count(token) == 1  # at this first start, and never again
    assert served.said["certificate_sha256"] in stderr
    assert served.url in stderr
    with serving(home, model, "--offline", "--host", "0.0.0.0", before=inside) as again:
        code, stderr = again.end()
    assert (code, token in stderr) == (0, False)
    assert again.said["certificate_sha256"] == served.said["certificate_sha256"]
    assert f"cat {home / 'access-token'}" in stderr


def test_faults_of_token_and_certificate_are_said_together_before_the_model_is_loaded(
    home: Path, model: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-everybody-may-read\n")
    token.chmod(0o644)
    code, stderr = refused(home, model, "--access-token-file", token, "--tls-cert", tmp_path / "none", "--port", "0")
    assert code == 2
    for words in ("its mode is 644", "go together", "chmod 600"):
        assert words in stderr
    assert "everybody" not in stderr
    assert "Loading" not in stderr


def test_settings_of_the_project_file_open_the_server_as_options_do(home: Path, model: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-the-clinic-itself\n")
    token.chmod(0o600)
    (home / "edgemed.toml").write_text(f"[serve]\naccess_token_file = '{token}'\nnames = ['in.clinic']\n")
    try:
        with serving(home, model) as served:
            assert served.said["access_token_file"] == str(token)
            assert served.chat().status_code == 401
            assert served.end()[0] == 0
    finally:
        (home / "edgemed.toml").unlink()


def test_server_that_requires_a_gpu_does_not_start_without(home: Path, model: Path) -> None:
    code, stderr = refused(home, model, "--require-gpu", "--port", "0")
    assert code == 4
    assert "no layer on a GPU" in stderr
    assert "edgemed plan" in stderr
    assert "Loading" not in stderr


def test_engine_that_began_without_the_gpu_it_was_planned_for_is_closed_with_the_reason() -> None:
    from edgemed.cli.serve import _check_devices
    from edgemed.core.errors import EngineFailed
    from edgemed.engines.fake import FakeEngine

    engine = FakeEngine()
    with pytest.raises(EngineFailed, match="no part of the model on a GPU"):
        _check_devices(engine)
    assert engine.health().state == "closed"
