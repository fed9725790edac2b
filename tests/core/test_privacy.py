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
