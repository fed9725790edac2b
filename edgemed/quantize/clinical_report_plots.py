"""The report's pictures, drawn by matplotlib where it is installed: SVG that stands inside the page.

Text stays text, and black is the page's own colour, so that a picture follows the page into the dark.
"""

from __future__ import annotations

import io
import re
from importlib.util import find_spec
from typing import Any

from edgemed.quantize.clinical_report import KL_EDGES, ClinicalReport

_TEXT = "#010203"
"""Stands for the page's text colour until the picture is finished."""
_PARENT, _CHILD = "#7d8b97", "#0f8296"
"""Readable on a light and on a dark ground."""


def plots(report: ClinicalReport) -> dict[str, str]:
    """SVG elements by name: "kl", "groups" and "sizes"; none without matplotlib."""
    if find_spec("matplotlib") is None:
        return {}
    drawn = {"kl": _kl(report), "groups": _groups(report)}
    if report.subject.sizes:
        drawn["sizes"] = _sizes(report)
    return drawn


def _kl(report: ClinicalReport) -> str:
    figure, axes = _axes(3.0)
    counts = report.kl_histogram
    names = [f"<{KL_EDGES[0]:.0e}", *(f"{edge:.0e}" for edge in KL_EDGES)]
    axes.bar(range(len(counts)), counts, color=_CHILD)
    axes.set_yscale("symlog")
    axes.set_xticks(range(len(counts)), names, rotation=45, ha="right")
    axes.set_xlabel("KL of a token from, in nats")
    axes.set_ylabel("tokens")
    return _svg(figure, "How many tokens of the answers have how large a divergence")


def _groups(report: ClinicalReport) -> str:
    figure, axes = _axes(2.6)
    rows = [("all tokens", report.answers), *((row.group, row.at) for row in report.groups)][::-1]
    axes.barh([name for name, _ in rows], [at.kl_mean for _, at in rows], color=_CHILD)
    axes.set_xlabel("mean KL in nats")
    return _svg(figure, "Mean divergence by kind of token")


def _sizes(report: ClinicalReport) -> str:
    rows = report.subject.sizes[::-1]
    figure, axes = _axes(0.9 + 0.36 * len(rows))
    places = range(len(rows))
    axes.barh([n + 0.2 for n in places], [row.parent_bytes / 1e6 for row in rows], 0.4, color=_PARENT, label="parent")
    axes.barh([n - 0.2 for n in places], [row.child_bytes / 1e6 for row in rows], 0.4, color=_CHILD, label="child")
    axes.set_yticks(places, [row.role for row in rows])
    axes.set_xlabel("MB")
    axes.legend(frameon=False, labelcolor=_TEXT)
    return _svg(figure, "Size by role of the tensors")


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, title: str) -> str:
    import matplotlib

    for axes in figure.axes:
        axes.tick_params(colors=_TEXT, labelsize=9)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(_TEXT)
        for spine in axes.spines.values():
            spine.set_edgecolor(_TEXT)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_TEXT, "currentColor")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawn, count=1)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
