"""The README's tree names every module, so that a stranger finds the way from it alone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_module_is_named_in_its_rooms_part_of_the_tree() -> None:
    tree = (ROOT / "README.md").read_text().split("## Where things are", 1)[1]
    rooms = re.split(r"\n  (?=\w+/ )|\n(?=converters/)", tree)
    by_room = {room.split("/", 1)[0]: room for room in rooms}
    for folder in (ROOT / "edgemed", ROOT / "converters"):
        for path in folder.rglob("*.py"):
            if path.name not in ("__init__.py", "__main__.py"):
                room = path.relative_to(folder).parts[0] if folder.name == "edgemed" else "converters"
                assert re.search(rf"\b{re.escape(path.name)}\b", by_room[room]), path.relative_to(ROOT)
