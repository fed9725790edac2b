"""The engine's process takes the memory that the plan said, library and vocabulary included."""

import sys
import threading
from pathlib import Path

import pytest
from machines import machine
from tiny_models import TinyShape, write_tiny_qwen2

from edgemed.core.units import MIB
from edgemed.engines.base import DoneEvent, ErrorEvent, Event, GenerationRequest
from edgemed.engines.supervisor import EngineProcess
from edgemed.plan.make import make_plan


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a process's peak memory from /proc")
def test_the_engine_process_takes_what_was_planned(tmp_path: Path) -> None:
    shape = TinyShape(n_layers=8, hidden_size=256, ffn_size=1024, n_heads=4, n_kv_heads=4)
    plan = make_plan(write_tiny_qwen2(tmp_path / "tiny.gguf", shape=shape), machine())
    engine = EngineProcess(plan.engine_config)
    try:
        engine.start()
        ended = threading.Event()

        def on_event(event: Event) -> None:
            if isinstance(event, DoneEvent | ErrorEvent):
                ended.set()

        engine.submit(GenerationRequest(id="1", prompt=tuple(range(200)), max_tokens=4), on_event)
        assert ended.wait(60)
        status = Path(f"/proc/{engine.pid}/status").read_text()
    finally:
        engine.close()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    peak = int(line.split()[1]) * 1024
    # Seen within 2 %; the allowance is for Python's own growth between versions.
    assert peak == pytest.approx(plan.needed_bytes(), rel=0.05, abs=4 * MIB)
