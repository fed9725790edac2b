"""The import contracts hold, and each of them fails when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BREAKS = {
    "Rooms import downward only": ("edgemed/core/units.py", "import edgemed.medical.category"),
    "Converters know only core, models and formats": (
        "converters/edgemed_converters/__init__.py",
        "import edgemed.medical.category",
    ),
    "Core needs only the standard library and pydantic": ("edgemed/core/units.py", "import numpy"),
    "The medical layer is pure text in, records out": ("edgemed/medical/category.py", "import socket"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    script = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder / 'converters')!r}]\n"
        "from importlinter.cli import lint_imports\n"
        f"sys.exit(lint_imports(config_filename={str(folder / 'pyproject.toml')!r}, no_cache=True))"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=100)


def test_every_contract_holds() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("contract", BREAKS)
def test_a_broken_contract_is_seen(contract: str, tmp_path: Path) -> None:
    for name in ("edgemed", "converters"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("model", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file, line = BREAKS[contract]
    broken = tmp_path / file
    broken.write_text(broken.read_text() + f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout
