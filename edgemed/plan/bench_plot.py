"""Draws a BenchReport as one SVG that needs nothing else: predicted bars beside measured ones, with their spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from edgemed.core.records import MaybeFigure
from edgemed.core.units import format_bytes
from edgemed.plan.bench import BenchReport, Compared, WorkloadReport
from edgemed.plan.record import Difference

_WIDTH, _LABEL_WIDTH, _VALUE_WIDTH = 760, 190, 190
_BAR_WIDTH = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH - 20
_BAR, _GAP, _HEADING = 14, 16, 34
_TOP, _BOTTOM = 84, 46

_STYLE = """
.sheet { fill: #ffffff; } svg { font: 13px system-ui, "Segoe UI", Roboto, sans-serif; }
text { fill: #1c1c1c; } .quiet { fill: #5a5a5a; } .title { font-size: 17px; font-weight: 600; }
.heading { font-weight: 600; } .value { font-size: 12px; }
.measured { fill: #3f8fdc; } .planned { fill: #c97600; } .spread { stroke: #1c1c1c; stroke-width: 1.5; }
.axis { stroke: #9a9a9a; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  .sheet { fill: #16181b; } text { fill: #ececec; } .quiet { fill: #a9adb3; }
  .measured { fill: #2f7fcc; } .planned { fill: #b56f00; } .spread { stroke: #ececec; } .axis { stroke: #6a6f76; }
}
"""
"""Blue and orange are told apart by colour-blind eyes as well; each bar also stands in its own row, with its words."""


@dataclass(frozen=True, slots=True)
class _Bar:
    kind: str
    """"measured" or "planned"."""
    value: float
    low: float | None
    high: float | None
    words: str


@dataclass(frozen=True, slots=True)
class _Group:
    """Bars on one scale of their own, which begins at 0."""

    label: str
    bars: tuple[_Bar, ...]
    missing: str = ""
    """Said where there is no bar."""

    @property
    def height(self) -> int:
        return _GAP + _BAR * max(1, len(self.bars))


@dataclass(frozen=True, slots=True)
class _Section:
    heading: str
    groups: tuple[_Group, ...]

    @property
    def height(self) -> int:
        return _HEADING + sum(group.height for group in self.groups)


def bench_plot(report: BenchReport) -> str:
    """The SVG's text, legible on light and on dark; names of files and devices in it are escaped."""
    sections = list(_sections(report))
    height = _TOP + sum(section.height for section in sections) + _BOTTOM
    title = f"{report.model.path.name} on this machine"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        ' role="img" aria-labelledby="title">',
        f'<title id="title">{_escaped(title)}: measured against planned</title>',
        f"<style>{_STYLE}</style>",
        f'<rect class="sheet" width="{_WIDTH}" height="{height}"/>',  # not every viewer paints an svg's background
        _text(20, 32, title, "title"),
        _text(20, 52, f"{report.engine}; {report.recipe}", "quiet"),
        *_legend(20, 70),
    ]
    y = _TOP
    for section in sections:
        parts += _draw_section(section, y)
        y += section.height
    parts.append(_text(20, height - 18, _footer(report), "quiet"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _sections(report: BenchReport) -> Iterator[_Section]:
    places = [_memory_group(one.place, one) for one in report.memory.places]
    if report.memory.resident is not None:
        places.append(_memory_group("engine's process", report.memory.resident))
    if places:
        yield _Section("Memory: weights, KV cache and compute of each place", tuple(places))
    for found in report.workloads:
        lengths = found.timed
        heading = f"{found.name}: {lengths.prompt_tokens} tokens read, {lengths.answer_tokens} written"
        yield _Section(heading, tuple(_workload_groups(found)))


def _memory_group(label: str, one: Difference) -> _Group:
    measured = _Bar("measured", one.real_bytes, None, None, format_bytes(one.real_bytes))
    planned = _Bar("planned", one.predicted_bytes, None, None, format_bytes(one.predicted_bytes))
    return _Group(label, (measured, planned))


def _workload_groups(found: WorkloadReport) -> Iterator[_Group]:
    for label, compared in (
        ("seconds a question", found.question_s),
        ("time to first token", found.ttft_ms),
        ("tokens per second", found.tokens_per_s),
        ("joules per token", found.joules_per_token),
    ):
        yield _figure_group(label, compared)


def _figure_group(label: str, compared: Compared) -> _Group:
    bars = [*_bars("measured", compared.measured), *_bars("planned", compared.planned)]
    missing = "" if compared.measured.available else f"not available: {compared.measured.reason}"
    return _Group(label, tuple(bars), missing)


def _bars(kind: str, figure: MaybeFigure) -> list[_Bar]:
    if not figure.available:
        return []
    words = f"{figure.value:.3g} {figure.unit}" if figure.value < 1000 else f"{figure.value:,.0f} {figure.unit}"
    return [_Bar(kind, figure.value, figure.low, figure.high, words)]


def _legend(x: int, y: int) -> list[str]:
    return [
        _rectangle(x, y - 10, 12, 12, "measured"),
        _text(x + 18, y, "measured here", "value"),
        _rectangle(x + 120, y - 10, 12, 12, "planned"),
        _text(x + 138, y, "planned", "value"),
        _text(x + 210, y, "lines: lowest to highest, or the interval predicted", "value quiet"),
    ]


def _draw_section(section: _Section, y: int) -> Iterator[str]:
    yield _text(20, y + 24, section.heading, "heading")
    y += _HEADING
    for group in section.groups:
        yield from _draw_group(group, y)
        y += group.height


def _draw_group(group: _Group, y: int) -> Iterator[str]:
    yield _text(20, y + _BAR - 3, group.label)
    if group.missing:
        yield _text(_LABEL_WIDTH, y + _BAR - 3, _short(group.missing), "value quiet")
        return
    top = max((bar.high or bar.value for bar in group.bars), default=0.0) or 1.0
    top = max([top, *(bar.value for bar in group.bars)])
    for number, bar in enumerate(group.bars):
        yield from _draw_bar(bar, y + number * _BAR, _BAR_WIDTH / top)
    bottom = y + _BAR * len(group.bars)
    yield f'<line class="axis" x1="{_LABEL_WIDTH}" y1="{y - 3}" x2="{_LABEL_WIDTH}" y2="{bottom + 1}"/>'


def _draw_bar(bar: _Bar, y: int, scale: float) -> Iterator[str]:
    height, middle = _BAR - 3, y + (_BAR - 3) / 2
    yield _rectangle(_LABEL_WIDTH, y, bar.value * scale, height, bar.kind)
    end = max(bar.value, bar.high or 0.0) * scale
    if bar.low is not None and bar.high is not None:
        low, high = (_LABEL_WIDTH + edge * scale for edge in (bar.low, bar.high))
        yield _line(low, middle, high, middle)
        yield from (_line(edge, middle - 3, edge, middle + 3) for edge in (low, high))
    yield _text(_LABEL_WIDTH + end + 8, y + height - 1, f"{bar.words}, {bar.kind}", "value")


def _footer(report: BenchReport) -> str:
    load = report.load_average
    words = f"{report.created}; median of {report.n_repetitions} repetitions"
    words += f"; load before {load.value:g}" if load.available else ""
    return words + ("; NOISY" if report.noisy else "")


def _short(text: str, most: int = 85) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _text(x: float, y: float, content: str, style: str = "") -> str:
    styled = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}"{styled}>{_escaped(content)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{max(0.5, width):.1f}" height="{height:g}"/>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="spread" x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}"/>'


def _escaped(content: str) -> str:
    """Text for XML: what XML cannot hold, such as control characters of a file's name, becomes a question mark."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in content))
