"""The clinical report as one page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from importlib import resources

from edgemed.core.units import format_bytes
from edgemed.quantize.clinical_report import ClinicalReport
from edgemed.quantize.clinical_report_plots import plots


def report_page(report: ClinicalReport) -> str:
    """The page. Everything that a model, a person or a file name says in it is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["size"] = format_bytes
    environment.filters["short"] = _short
    environment.filters["percent"] = _percent
    text = resources.files("edgemed.quantize").joinpath("clinical_report.html.j2").read_text(encoding="utf-8")
    drawn = {name: Markup(picture) for name, picture in plots(report).items()}  # our own drawing, see there
    return environment.from_string(text).render(report=report, pictures=drawn)


def _short(value: float) -> str:
    """Three digits that count: 0.000123, 1.05, 12.3."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float) -> str:
    """A share, never rounded up to all."""
    return f"{100 * share:.4g} %" if share in (0, 1) else f"{min(100 * share, 99.99):.2f} %"
