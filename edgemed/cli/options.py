"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemed.core.errors import UsageError

if TYPE_CHECKING:
    from edgemed.engines.base import AdapterFile

Json = Annotated[bool, typer.Option("--json", help="Print the record as JSON on stdout, and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Calibration = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|none",
        help="Texts to calibrate on (JSON lines, or paragraphs); without it medical questions of our own; "
        "none: round to nearest, and look at no dose.",
    ),
]
TargetSize = Annotated[
    str | None, typer.Option(metavar="SIZE", help="With --recipe auto: how large the weights may be, such as 4.6GB.")
]
TargetBpw = Annotated[float | None, typer.Option(metavar="X", help="With --recipe auto: bits per weight, such as 4.7.")]
AcceptChangedDoses = Annotated[
    bool, typer.Option("--accept-changed-doses", help="Write the model although it gives other doses than its parent.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FILE", help="A LoRA adapter (GGUF) to hold beside the model; may be given several times."
    ),
]


def adapter_files(given: Sequence[str] | None, configured: Mapping[str, Path], model: Path) -> tuple[AdapterFile, ...]:
    """The adapters of the command line, else those of edgemed.toml, as the engine wants them.

    Raises UsageError for a name that no request could say or that is taken, and ModelRefused, with the next step, for a
    file that is damaged or was made for another base.
    """
    from edgemed.engines.base import AdapterFile
    from edgemed.models.adapter import ADAPTER_NAME
    from edgemed.plan.make import check_adapters

    pairs = [_pair(one) for one in given] if given else list(configured.items())
    names = [name for name, _ in pairs]
    for name in names:
        if ADAPTER_NAME.fullmatch(name) is None:
            raise UsageError(
                f"An adapter cannot be called {name[:80]!r}: letters, digits, dots, - and _ only.",
                next_step="--adapter NAME=FILE",
            )
        if names.count(name) > 1 or name in (model.stem, "demo"):
            raise UsageError(f"The name {name!r} is taken.", next_step="give each adapter a name of its own")
    files = tuple(AdapterFile(name=name, path=path.absolute()) for name, path in pairs)
    check_adapters(model, files)
    return files


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise UsageError(f"--adapter {text[:80]!r} is not understood.", next_step="--adapter NAME=FILE")
    return name, Path(path)
