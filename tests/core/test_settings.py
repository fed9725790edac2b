from pathlib import Path

import pytest

from edgemed.core.errors import UsageError
from edgemed.core.settings import data_dir, environment_of_engine, project_settings


def test_without_a_project_file_the_defaults_hold(tmp_path: Path) -> None:
    assert project_settings(tmp_path).serve.port == 8080


def test_the_project_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "edgemed.toml").write_text('[model]\npath = "m.gguf"\n[serve]\nport = 9000\n')
    settings = project_settings(tmp_path)
    assert (settings.model.path, settings.serve.port) == (Path("m.gguf"), 9000)


def test_adapters_have_a_table_of_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "edgemed.toml").write_text('[serve]\nport = 9000\n[serve.adapters]\nheart = "heart.gguf"\n')
    assert project_settings(tmp_path).serve.adapters == {"heart": Path("heart.gguf")}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[modell]\n", r"modell \(line 1\) is not known; use one of the tables cache, medical, model, serve"),
        ("[serve]\n\nprot = 1\n", r"serve.prot \(line 3\) is not known; use one of the keys .*host, "),
        ("serve = {prot = 1}\n", "serve.prot is not known; use one of the keys .*host, "),
        ("[serve]\nport = 'x'\n", r"serve.port \(line 2\) must be a whole number"),
        ("[serve]\nport = 99999\n", r"edgemed.toml: serve.port \(line 2\) must be at most 65535"),
        ("[cache]\ndays = 0\n", r"cache.days \(line 2\) must be more than 0"),
        ("[cache]\ndays = [1]\n", "cache.days .line 2. must be a number"),
        ("[cache]\non_disk = 'perhaps'\n", "cache.on_disk .line 2. must be true or false"),
        ("cache = 3\n", r"cache \(line 1\) must be a table: \[cache\]"),
        ("[serve]\nhost = 1\n", "serve.host .line 2. must be text in quotes"),
        ("[serve]\nprot = 1\n[cache]\ndays = nan\n", "serve.prot .*; cache.days"),
        ("[model]\npath = 1\n", r"model.path \(line 2\) must be a path in quotes"),
        ("[serve\n", "edgemed.toml"),
    ],
)
def test_a_mistake_in_the_project_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "edgemed.toml").write_text(text)
    with pytest.raises(UsageError, match=named):
        project_settings(tmp_path)


def test_no_mistake_is_told_in_the_validators_own_words(tmp_path: Path) -> None:
    serve = "[serve]\nport = 1.5\nx = 1\n"
    cache = "[cache]\nmemory_mib = -1\nword_weight = 2\nthreshold = inf\ndays = 'x'\non_disk = 3\n"
    for text in (serve, cache, "[medical]\nlanguages = 2\n[model]\npath = [1]\n", "serve = [1]\ncache = 'x'\n"):
        (tmp_path / "edgemed.toml").write_text(text)
        with pytest.raises(UsageError) as refused:
            project_settings(tmp_path)
        for word in ("Input", "Extra inputs", "valid", "permitted", "cannot be used"):
            assert word not in refused.value.what


def test_the_data_directory_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEMED_HOME", str(tmp_path))
    assert data_dir() == tmp_path


def test_an_engine_asks_for_large_pages_unless_somebody_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in (
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ):
        monkeypatch.setenv("GLIBC_TUNABLES", before)
        assert environment_of_engine()["GLIBC_TUNABLES"] == after
    assert environment_of_engine()["PATH"]
