from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.settings import data_dir, project_settings


def test_without_a_project_file_the_defaults_hold(tmp_path: Path) -> None:
    assert project_settings(tmp_path).serve.port == 8080


def test_the_project_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "edgemed.toml").write_text('[model]\npath = "m.gguf"\n[serve]\nport = 9000\n')
    settings = project_settings(tmp_path)
    assert (settings.model.path, settings.serve.port) == (Path("m.gguf"), 9000)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[modell]\n", "modell"),
        ("[serve]\nport = 'x'\n", "serve.port"),
        ("[serve]\nport = 99999\n", "edgemed.toml: serve.port"),
        ("[model]\npath = 1\n", "model.path: it must be a path in quotes"),
        ("[serve\n", "edgemed.toml"),
    ],
)
def test_a_mistake_in_the_project_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "edgemed.toml").write_text(text)
    with pytest.raises(UsageError, match=named):
        project_settings(tmp_path)


def test_the_data_directory_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    assert data_dir() == tmp_path
