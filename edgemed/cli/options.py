"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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
