"""The server against requests made from its own OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serve" / "fuzz_api.py"


@pytest.mark.slow
def test_no_request_makes_the_server_fail_or_answer_otherwise_than_it_says() -> None:
    command = [sys.executable, str(SCRIPT), "--examples", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    told = json.loads(done.stdout)
    assert told["failures"] == [], done.stderr[-2000:]
    assert told["requests"] > 300
    assert all(int(status) < 500 for counts in told["statuses"].values() for status in counts)
    assert told["statuses"]["POST /v1/chat/completions (narrow)"]["200"] > 10
