"""The engine is installed from a wheel if one works, from source if none does, and never left broken."""

from collections.abc import Sequence

import pytest

from edgemed.hardware import binding, install_engine
from edgemed.hardware.binding import Gpu
from edgemed.hardware.install_engine import main

NVIDIA = Gpu("nvidia", "NVIDIA GPU", "PCI")


class World:
    """A machine on which pip and the engine do as they are told."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.index_works = False
        self.source_works = True
        self.loads = True
        """Whether a wheel from the index loads here; what is built here always does."""
        self.installed: str | None = None
        self.from_index = False
        self.missing_tools: dict[str, str] = {}

    def pip(self, arguments: Sequence[str], show_failure: bool = False) -> int:
        words = " ".join(arguments)
        self.calls.append(words)
        if words.startswith("uninstall"):
            self.installed = None
            return 0
        if "--index-url" in words:
            if self.index_works:
                variant = words.split("/whl/")[1].split()[0]
                self.installed, self.from_index = ("cuda" if variant.startswith("cu1") else variant), True
            return 0 if self.index_works else 1
        if self.installed is not None and "--force-reinstall" not in words:
            return 0  # only what the wheel needs
        if self.source_works:
            flags = words.partition("-DGGML_")[2].partition("=")[0].lower()
            self.installed, self.from_index = flags or "cpu", False
        return 0 if self.source_works else 1

    def works(self, backend: str) -> bool:
        return self.installed == backend and (self.loads or not self.from_index)

    def ran(self, word: str) -> bool:
        return any(word in call for call in self.calls)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(install_engine, "_pip", world.pip)
    monkeypatch.setattr(install_engine, "_works", world.works)
    monkeypatch.setattr(install_engine, "_already_there", world.works)
    monkeypatch.setattr(install_engine, "_pip_has_wheel", lambda: False)
    monkeypatch.setattr(install_engine.os, "putenv", lambda name, value: None)
    monkeypatch.setattr(binding, "gpus_in_machine", lambda: ())
    monkeypatch.setattr(binding, "cuda_driver_version", lambda: (12, 4))
    monkeypatch.setattr(binding, "build_tools_missing", lambda backend: world.missing_tools.get(backend, ""))
    return world


def test_an_engine_that_works_is_left_alone(world: World) -> None:
    world.installed = "cpu"
    assert main([]) == 0
    assert world.calls == []


def test_an_unreachable_index_is_no_failure(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert world.installed == "cpu"
    assert "--timeout 5 --retries 0" in world.calls[0]
    said = capsys.readouterr().err
    assert "not reachable" in said
    assert "5-14 minutes on 2 cores" in said


def test_a_prebuilt_wheel_that_works_is_kept(world: World) -> None:
    world.index_works = True
    assert main([]) == 0
    assert world.from_index
    assert not world.ran("uninstall")


def test_a_prebuilt_wheel_that_does_not_load_is_replaced(world: World) -> None:
    world.index_works, world.loads = True, False
    assert main([]) == 0
    assert world.ran("uninstall")
    assert world.installed == "cpu"
    assert not world.from_index


def test_a_gpu_gets_the_wheel_of_its_driver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "gpus_in_machine", lambda: (NVIDIA,))
    world.index_works = True
    assert main([]) == 0
    assert world.installed == "cuda"
    assert world.ran("/whl/cu124 ")


def test_a_gpu_build_never_comes_from_pips_cache(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "gpus_in_machine", lambda: (NVIDIA,))
    assert main([]) == 0
    assert world.installed == "cuda"
    assert world.ran("--no-cache-dir --no-binary llama-cpp-python")


def test_without_a_way_to_a_gpu_backend_the_processor_serves(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(binding, "gpus_in_machine", lambda: (NVIDIA,))
    world.missing_tools = {"cuda": "the CUDA toolkit (nvcc)", "vulkan": "the Vulkan development files"}
    assert main([]) == 0
    assert world.installed == "cpu"
    assert "the CUDA toolkit (nvcc)" in capsys.readouterr().err


def test_a_machine_without_compiler_is_told_what_to_install(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.missing_tools = {"cpu": "a C++ compiler"}
    assert main([]) == 1
    assert "needs a C++ compiler" in capsys.readouterr().err


def test_an_earlier_build_in_pips_cache_needs_no_compiler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.missing_tools = {"cpu": "a C++ compiler"}
    monkeypatch.setattr(install_engine, "_pip_has_wheel", lambda: True)
    assert main([]) == 0


def test_a_failed_build_ends_with_an_error(world: World) -> None:
    world.source_works = False
    assert main(["--backend", "cpu"]) == 1


def test_the_real_pip_gives_up_quickly_on_a_dead_index() -> None:
    dead = "http://127.0.0.1:9/simple"
    arguments = ["download", "--no-deps", "--index-url", dead, "--timeout", "5", "--retries", "0", "no-such-package"]
    assert install_engine._pip(arguments) != 0


def test_the_engine_of_this_environment_works() -> None:
    pytest.importorskip("llama_cpp.llama_cpp", reason="no engine is installed")
    assert install_engine._works("cpu")
    assert not install_engine._works("metal")
