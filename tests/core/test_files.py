import subprocess
from pathlib import Path

import pytest

from edgemed.core.errors import EdgemedError
from edgemed.core.files import whole_file, write_text


def test_a_file_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "a.txt", "hello")
    assert (tmp_path / "sub" / "a.txt").read_text() == "hello"
    assert [entry.name for entry in (tmp_path / "sub").iterdir()] == ["a.txt"]


def test_an_error_in_the_middle_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail_half_way() -> None:
        with whole_file(target) as part:
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_leaves_no_half_file_and_names_the_next_step(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(mount)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs is refused here")
    try:
        with pytest.raises(EdgemedError, match="free space"), whole_file(mount / "big") as part:
            part.write_bytes(bytes(2 * 2**20))
        assert list(mount.iterdir()) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("name", ["file/a.txt", "file/sub/a.txt", "n" * 300, "folder"])
def test_an_impossible_place_is_refused_with_a_next_step(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(EdgemedError, match="could not be written") as caught:
        write_text(tmp_path / name, "hello")
    assert "another place" in caught.value.next_step
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]
