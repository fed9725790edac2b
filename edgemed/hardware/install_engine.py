"""Installs the engine: a prebuilt wheel where upstream has one, else a build from source.

    python -m edgemed.hardware.install_engine [--backend auto|cpu|cuda|vulkan|metal]

    1  An engine of the right version that loads and has the backend stays as it is.
    2  Upstream's wheel index is tried with a short time-out; unreachable is no failure.
    3  A wheel that does not load here (an older processor, a missing driver library) is taken out again.
    4  pip builds from source, with every core; pip keeps the wheel and uses it again next time.
    5  When a GPU backend can be had neither way, the CPU engine is installed and the reason is said.

Only the standard library and pip: it runs before anything else is installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgemed.engines.pinned import ENGINE_PACKAGE, ENGINE_VERSION
from edgemed.hardware import binding
from edgemed.hardware.binding import Backend

_REQUIREMENT = f"{ENGINE_PACKAGE}=={ENGINE_VERSION}"
_INDEX_TIMEOUT_S = 5
_HEARTBEAT_S = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Install, and return the exit code: 0 when an engine that loads is there in the end."""
    parser = argparse.ArgumentParser(prog="install_engine", description="Install the inference engine.")
    parser.add_argument("--backend", choices=["auto", "cpu", "cuda", "vulkan", "metal"], default="auto")
    chosen = parser.parse_args(arguments).backend
    gpus = binding.gpus_in_machine()
    for gpu in gpus:
        _say(f"Found {gpu.name}.")
    backends = binding.suited_backends(gpus) if chosen == "auto" else (chosen,)
    for backend in backends:
        if _already_there(backend) or _from_wheel(backend) or _from_source(backend):
            _say(f"The engine is ready ({backend}).")
            return 0
    _say("The engine could not be installed; the lines above say why.")
    return 1


def _already_there(backend: Backend) -> bool:
    try:
        version = importlib.metadata.version(ENGINE_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return version == ENGINE_VERSION and _works(backend)


def _works(backend: Backend) -> bool:
    """True when the installed engine has `backend` and loads."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else None
    if backend not in binding.installed_backends(folder):
        return False
    good, said = binding.loads()
    if not good:
        _say(f"The installed engine does not load here: {said}")
    return good


def _from_wheel(backend: Backend) -> bool:
    """Try upstream's prebuilt wheels; leaves nothing broken behind."""
    variants = binding.wheel_variants(backend, binding.cuda_driver_version())
    if not variants:
        _say("No NVIDIA driver answers, so no prebuilt CUDA wheel is tried.")
    for variant in variants:
        index = f"{binding.WHEEL_INDEX}/{variant}"
        _say(f"Looking for a prebuilt wheel in {index} ...")
        options = ["--index-url", index, "--only-binary", ":all:", "--no-deps", "--force-reinstall"]
        patience = ["--timeout", str(_INDEX_TIMEOUT_S), "--retries", "0"]
        if _pip(["install", *options, *patience, _REQUIREMENT]) != 0:
            _say("None there, or not reachable.")
            continue
        if _works(backend) and _pip(["install", _REQUIREMENT]) == 0:  # now what the wheel itself needs
            return True
        _say("The prebuilt wheel is of no use here; it is taken out again.")
        _pip(["uninstall", "--yes", ENGINE_PACKAGE])
    return False


def _from_source(backend: Backend) -> bool:
    """Build with every core, unless pip still has the wheel of an earlier build."""
    missing, cores = binding.build_tools_missing(backend), os.cpu_count() or 1
    if backend == "cpu" and _pip_has_wheel():
        _say("Installing the engine from the wheel of an earlier build, which pip kept.")
    elif missing:
        _say(f"Building the {backend} engine from source needs {missing}.")
        return False
    else:
        _say(
            f"Building the {backend} engine from source with {cores} cores: 5-14 minutes on 2 cores, longer with a GPU "
            "backend. pip keeps the CPU build, so the next time it takes seconds."
        )
    # Through the C environment: pip's children inherit it, and no variable needs to be read here.
    os.putenv("CMAKE_BUILD_PARALLEL_LEVEL", str(cores))
    options = []
    if flags := binding.cmake_flags(backend):
        # pip's cache does not know build options: without this it would hand back a CPU build.
        options = ["--no-cache-dir", "--no-binary", ENGINE_PACKAGE, "--force-reinstall", "--no-deps"]
        options += [f"--config-settings=cmake.args={flags}"]
    if _pip(["install", *options, _REQUIREMENT], show_failure=True) != 0:
        return False
    return (not options or _pip(["install", _REQUIREMENT]) == 0) and _works(backend)


def _pip_has_wheel() -> bool:
    """True when pip's cache holds an earlier build, which needs no compiler."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "cache", "list", "llama_cpp_python"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return f"llama_cpp_python-{ENGINE_VERSION}" in done.stdout


def _pip(arguments: Sequence[str], *, show_failure: bool = False) -> int:
    """pip's exit code. It works in silence; a line every half minute says that it still does."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        while True:
            try:
                code = process.wait(_HEARTBEAT_S)
                break
            except subprocess.TimeoutExpired:
                _say(f"... still at it after {time.monotonic() - start:.0f} s")
            except KeyboardInterrupt:
                process.wait()  # pip got the same Ctrl-C and tidies up
                raise
        if code != 0 and show_failure:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
            _say("\n".join(lines[-25:]))
    return code


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
