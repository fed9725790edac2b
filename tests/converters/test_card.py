from pathlib import Path

import pytest
from edgemed_converters.card import card_metadata, read_card


def test_front_matter_gives_licence_and_source(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nlicense: apache-2.0\nlicense_link: https://example.org/licence\nbase_model:\n- some/base\n---\n# Model\n"
    )
    card = read_card(tmp_path, {"_name_or_path": "org/tiny"})
    assert (card.name, card.licence, card.source) == ("tiny", "apache-2.0", "some/base")
    assert card_metadata(card)["general.license"].value == "apache-2.0"
    assert card_metadata(card)["general.license.link"].value == "https://example.org/licence"


def test_a_licence_of_its_own_goes_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\n---\n")
    assert read_card(tmp_path, {}).licence == "gemma"


@pytest.mark.parametrize(
    ("text", "licence"),
    [("MIT License\n\nCopyright", "mit"), ("  Apache License\n  Version 2.0", "apache-2.0"), ("Ask me", "")],
)
def test_without_a_card_the_licence_file_speaks(tmp_path: Path, text: str, licence: str) -> None:
    (tmp_path / "LICENSE").write_text(text)
    assert read_card(tmp_path, {}).licence == licence


@pytest.mark.parametrize("text", ["", "---\nlicense: mit\n", "no card", "---\n- a\n- b\n---\n"])
def test_a_card_without_front_matter_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    card = read_card(tmp_path, {})
    assert (card.licence, card.source, card.name) == ("", "", tmp_path.name)
    assert "general.license" not in card_metadata(card)
