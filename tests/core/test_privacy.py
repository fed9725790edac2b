import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")
def test_a_crash_of_the_process_writes_no_memory_image() -> None:
    script = (
        "import resource, ctypes\n"
        "from edgemed.core.privacy import forbid_core_dumps\n"
        "forbid_core_dumps()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3))"  # PR_GET_DUMPABLE
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "(0, 0) 0", done.stderr


def test_an_uncaught_error_of_a_thread_is_told_by_its_place_alone() -> None:
    script = (
        "import threading\n"
        "from edgemed.core.privacy import forbid_tracebacks\n"
        "forbid_tracebacks()\n"
        "class Dropped:\n"
        "    def __del__(self): raise KeyError('Marijke')\n"
        "def run(): raise ValueError('Marijke has a fever')\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        "Dropped()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Marijke" not in done.stderr
    assert "ValueError at threading.py" in done.stderr
    assert "KeyError at <string>:5" in done.stderr


def test_core_dumps_are_known_to_be_off_only_when_they_are() -> None:
    script = (
        "from edgemed.core.privacy import core_dumps_are_off, forbid_core_dumps\n"
        "before = core_dumps_are_off(); forbid_core_dumps(); print(before, core_dumps_are_off())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ("False True" if sys.platform == "linux" else done.stdout.strip()), done.stderr
