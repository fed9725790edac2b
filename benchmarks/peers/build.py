"""Builds llama.cpp's own tools from the source package of the engine that edgemed pins, once.

    python benchmarks/peers/build.py [--jobs N] [--only rpc]

prints the folder that holds llama-quantize, llama-imatrix, llama-perplexity, llama-bench, llama-server,
llama-fit-params and ggml-rpc-server. They are kept in $XDG_CACHE_HOME (~/.cache) under edgemed-peers, by version, so
that the same llama.cpp is compared with itself and nothing is built twice. Takes 15 to 30 minutes on two cores; with
`--only rpc`, which tests need for a second device without a GPU, ggml-rpc-server and libggml-rpc.so alone.
Needs cmake and a C++ compiler; the source comes from the package index or pip's own cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

TOOLS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-bench",
    "llama-server",
    "llama-fit-params",
    "ggml-rpc-server",
)
RPC_TOOLS = ("ggml-rpc-server",)
"""What the tests' second device needs; its library, libggml-rpc.so, is built with it."""
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DGGML_RPC=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DBUILD_SHARED_LIBS=ON",
)


def peers_folder() -> Path:
    """Where the tools of the installed engine's version are, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "edgemed-peers" / version("llama-cpp-python") / "bin"


def peer(tool: str) -> Path:
    """The path of one tool. Raises SystemExit, with the command that builds it, where it is not built."""
    path = peers_folder() / tool
    if not path.is_file():
        raise SystemExit(f"{tool} is not built: python benchmarks/peers/build.py")
    return path


def build(jobs: int, tools: Sequence[str] = TOOLS) -> Path:
    """The folder of the tools, built where they are missing. Raises CalledProcessError when a step fails."""
    folder = peers_folder()
    if all((folder / tool).is_file() for tool in tools):
        return folder
    made = folder.parent / "build"
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    with tempfile.TemporaryDirectory(prefix="edgemed-peers-") as work:
        # CMake remembers where the source was; a later build of other tools has it in another folder.
        (made / "CMakeCache.txt").unlink(missing_ok=True)
        source = _source(Path(work))
        subprocess.run(["cmake", "-S", source, "-B", made, *generator, *_OPTIONS], check=True, stdout=sys.stderr)
        targets = [argument for tool in tools for argument in ("--target", tool)]
        subprocess.run(["cmake", "--build", made, "-j", str(jobs), *targets], check=True, stdout=sys.stderr)
    if not folder.exists():
        folder.symlink_to(made / "bin")
    return folder


def _source(work: Path) -> Path:
    """llama.cpp's source as the engine's package carries it."""
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", wanted]
    subprocess.run([*command, "-d", work], check=True, stdout=sys.stderr)
    with tarfile.open(next(work.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    return next(work.glob("llama_cpp_python-*/vendor/llama.cpp"))


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Build llama.cpp's own tools, to measure against.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--only", choices=("rpc",), help="nothing but what the tests' second device needs")
    asked = parser.parse_args()
    print(build(asked.jobs, RPC_TOOLS if asked.only == "rpc" else TOOLS))


if __name__ == "__main__":
    main()
