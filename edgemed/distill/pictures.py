"""What a training looked like: loss terms, learning rate, ranks and dose accuracy, as one picture of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgemed.core.files import whole_file
from edgemed.core.progress import Progress, SilentProgress
from edgemed.distill.step_log import StepLine, StepLog

TERM_NAMES = {
    "ce": "cross-entropy",
    "kd": "distillation (KD)",
    "mse": "hidden states (MSE)",
    "med_kl": "entities (MedKL)",
    "retention": "retention",
}
_MOST_POINTS = 400
"""A long training is drawn as means of so many parts."""


def draw(
    folder: Path,
    stages: Mapping[str, Path],
    *,
    ranks: Mapping[str, int] | None = None,
    doses: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """SVG files in `folder`: loss.svg and rate.svg; ranks.svg and doses.svg where those are given.

    `stages` are folders with a log of steps, by name and in order; `ranks` those of an adapter's modules; `doses` the
    share of dose questions that each student answered exactly, by name. Without matplotlib nothing is drawn, and a note
    says so.
    """
    progress = progress or SilentProgress()
    if find_spec("matplotlib") is None:
        progress.note("No pictures: matplotlib is not installed (pip install 'edgemed[workstation]').")
        return []
    lines = {name: StepLog(path).lines() for name, path in stages.items()}
    lines = {name: found for name, found in lines.items() if found}
    drawn = []
    if lines:
        drawn += [_saved(_losses(lines), folder / "loss.svg"), _saved(_rates(lines), folder / "rate.svg")]
    if ranks:
        drawn.append(_saved(_bars(ranks, "rank of the adapter", None), folder / "ranks.svg"))
    if doses:
        drawn.append(_saved(_bars(doses, "dose questions answered exactly", 1.0), folder / "doses.svg"))
    return drawn


def ranks_of(model: Any) -> dict[str, int]:
    """The rank of each module's adapter in a PeftModel, by the module's name from its layer on."""
    factors = ".lora_A.default.weight"
    found = ((name, one) for name, one in model.named_parameters() if name.endswith(factors))
    return {name.removesuffix(factors).rpartition("layers.")[2]: int(one.shape[0]) for name, one in found}


def _losses(lines: Mapping[str, Sequence[StepLine]]) -> Any:
    """One panel for each term: their sizes have nothing to do with each other."""
    terms = [term for term in TERM_NAMES if any(term in stage[0].terms for stage in lines.values())]
    figure = _figure(7, 1.9 * len(terms))
    panels = figure.subplots(len(terms), 1, sharex=True, squeeze=False)[:, 0]
    for panel, term in zip(panels, terms, strict=True):
        start = 0
        for name, stage in lines.items():
            if term in stage[0].terms:
                steps, values = _means([line.terms[term] for line in stage])
                panel.plot([start + step for step in steps], values, label=name)
            start += len(stage)
        panel.set_ylabel(TERM_NAMES[term])
        panel.grid(alpha=0.3)
    panels[0].legend()
    panels[-1].set_xlabel("step")
    return figure


def _rates(lines: Mapping[str, Sequence[StepLine]]) -> Any:
    figure = _figure(7, 3)
    panel, start = figure.subplots(), 0
    for name, stage in lines.items():
        panel.plot([start + line.step for line in stage], [line.rate for line in stage], label=name)
        start += len(stage)
    panel.set_xlabel("step")
    panel.set_ylabel("learning rate")
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


def _bars(values: Mapping[str, float], what: str, most: float | None) -> Any:
    figure = _figure(7, 1 + 0.22 * len(values))
    panel = figure.subplots()
    panel.barh(list(values), list(values.values()))
    panel.invert_yaxis()
    panel.set_xlabel(what)
    if most:
        panel.set_xlim(0, most)
    panel.tick_params(axis="y", labelsize=7)
    return figure


def _means(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps and means of parts: a line of 20,000 noisy points shows nothing."""
    size = max(1, len(values) // _MOST_POINTS)
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [n * size + (len(part) + 1) / 2 for n, part in enumerate(parts)], [sum(part) / len(part) for part in parts]


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)  # without pyplot there is neither a window nor anything to close
    return figure


def _saved(figure: Any, path: Path) -> Path:
    with whole_file(path) as part:
        figure.savefig(part, format="svg", metadata={"Date": None})
    return path
