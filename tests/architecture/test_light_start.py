import subprocess
import sys

HEAVY = ("torch", "transformers", "onnxruntime", "llama_cpp", "numpy")


def test_help_loads_no_heavy_library() -> None:
    script = (
        "import sys; sys.argv = ['edgemed', '--help']\n"
        "from edgemed.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert "Usage" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "[]"
