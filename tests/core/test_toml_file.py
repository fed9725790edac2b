"""A TOML file's faults, all at once, by key and line, in words that a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from edgemed.core.errors import UsageError
from edgemed.core.records import Record
from edgemed.core.toml_file import read_toml


class Wheel(Record):
    size: int = Field(ge=1)
    kind: Literal["wood", "iron"] = "wood"
    loads: tuple[float, ...] = ()


class Cart(Record):
    name: str
    path: Path | None = None
    wheel: Wheel | None = None

    @model_validator(mode="after")
    def _named(self) -> Cart:
        if self.name == "nobody":
            raise ValueError("a cart needs a real name")
        return self


def fault_of(folder: Path, content: bytes | str) -> str:
    path = folder / "cart.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as refused:
        read_toml(path, Cart)
    assert refused.value.next_step
    return refused.value.what


def test_a_good_file_is_the_record(tmp_path: Path) -> None:
    (tmp_path / "cart.toml").write_text('name = "a"\npath = "b"\n[wheel]\nsize = 2\nloads = [1, 2.5]\n')
    assert read_toml(tmp_path / "cart.toml", Cart) == Cart(
        name="a", path=Path("b"), wheel=Wheel(size=2, loads=(1.0, 2.5))
    )


def test_a_file_with_an_editors_mark_before_its_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "cart.toml").write_bytes(b'\xef\xbb\xbfname = "a"\n')
    assert read_toml(tmp_path / "cart.toml", Cart).name == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[wheel]\nsize = 1\n", "name is missing"),
        ('name = "a"\n\n[wheel]\n', "wheel.size is missing in [wheel] (line 3)"),
        ('name = "a"\n[wheel]\nsizes = 1\nsize = 1\n', "wheel.sizes (line 3) is not known; use one of the keys kind"),
        ('name = "a"\n[wheel]\nsize = "1"\n', "wheel.size (line 3) must be a whole number"),
        ('name = "a"\n[wheel]\nsize = true\n', "wheel.size (line 3) must be a whole number"),
        ('name = "a"\n[wheel]\nsize = nan\n', "wheel.size (line 3) must be a number"),
        ('name = "a"\n[wheel]\nsize = 1\nloads = [1, nan]\n', "wheel.loads[1] (line 4) must be a number"),
        ('name = "a"\n[wheel]\nsize = 1\nloads = [inf]\n', "wheel.loads[0] (line 4) must be a number"),
        ('name = "a"\n[wheel]\nsize = 1\nloads = 3\n', "wheel.loads (line 4) must be a list in brackets"),
        ('name = "a"\n[wheel]\nsize = 1\nkind = "stone"\n', "wheel.kind (line 4) must be 'wood' or 'iron'"),
        ('name = "a"\nwheel = 3\n', "wheel (line 2) must be a table: [wheel]"),
        ('name = "a"\npath = 3\n', "path (line 2) must be a path in quotes"),
        ('name = "nobody"\n', "cannot be used: a cart needs a real name"),
        ('name = "a"\nname = "b"\n', "cart.toml cannot be read"),
        (b'name = "a"\n# caf\xe9\n', "byte 0xe9 on line 2 is no UTF-8"),
    ],
)
def test_a_fault_is_named_by_key_and_line(tmp_path: Path, content: bytes | str, said: str) -> None:
    assert said in fault_of(tmp_path, content)


def test_all_faults_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    said = fault_of(tmp_path, 'nam = "a"\n[wheel]\nsize = nan\nkind = 3\n')
    assert said.index("nam (line 1)") < said.index("wheel.size") < said.index("wheel.kind") < said.index("name is miss")


def test_a_folder_in_place_of_the_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_toml(tmp_path, Cart)
