"""The picture of a resource report: well-formed, self-contained, escaped, and every bar inside it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgemed.core.records import Figure, MaybeFigure, NotAvailable
from edgemed.engines.base import EngineConfig
from edgemed.hardware.record import TextFact
from edgemed.plan.bench import BenchReport, Compared, WorkloadReport
from edgemed.plan.bench_plot import bench_plot
from edgemed.plan.record import Difference, MemoryReadback, ModelIdentity, Workload

SVG = "{http://www.w3.org/2000/svg}"
NOTHING = NotAvailable(reason="no <counter> here & now")


def figure(value: float, unit: str) -> Figure:
    return Figure(value=value, unit=unit, basis="measured", low=0.9 * value, high=1.5 * value)


def compared(measured: MaybeFigure, planned: MaybeFigure) -> Compared:
    return Compared(measured=measured, planned=planned, predicted=NOTHING, difference_percent=None)


def report(name: str = "tiny.gguf", *, planned: bool = True) -> BenchReport:
    """A report that was never measured."""
    found = WorkloadReport(
        name="question",
        asked=Workload(),
        timed=Workload(),
        planned_by="trial" if planned else "nothing",
        question_s=compared(figure(3, "s"), figure(2.5, "s") if planned else NOTHING),
        ttft_ms=compared(figure(4000, "ms"), figure(5000, "ms") if planned else NOTHING),
        tokens_per_s=compared(figure(0.02, "tokens/s"), figure(0.03, "tokens/s") if planned else NOTHING),
        joules_per_token=compared(NOTHING, NOTHING),
        prompt_s=(1.0,),
        answer_s=(2.0,),
        step_s=(0.01,),
    )
    memory = Difference(
        place="RAM",
        part=None,
        predicted_bytes=0,
        real_bytes=10**10,
        difference_bytes=10**10,
        difference_percent=None,
    )
    path = Path(name)
    return BenchReport(
        created="2026-01-01T00:00:00+00:00",
        model=ModelIdentity(path=path, n_bytes=1, modified_ns=1, architecture="qwen2", spec_digest=""),
        recipe="q8_0 100 %",
        engine="llama.cpp",
        hardware_id="",
        engine_config=EngineConfig(model_path=path),
        plan_created="",
        plan_digest="",
        load_s=1.0,
        memory=MemoryReadback(parts=(), places=(memory,), resident=None),
        workloads=(found,),
        n_repetitions=5,
        load_average=NOTHING,
        power_source=TextFact(value="mains"),
        noisy=True,
        noise=("somebody was at work",),
    )


def words_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_measured_and_planned_stand_side_by_side_with_their_spread() -> None:
    svg = bench_plot(report())
    words = words_of(svg)
    for expected in ("3 s, measured", "2.5 s, planned", "4,000 ms, measured", "0.03 tokens/s, planned"):
        assert expected in words
    assert sum("spread" in (line.get("class") or "") for line in ElementTree.fromstring(svg).iter(f"{SVG}line")) == 18


def test_every_bar_stays_inside_the_picture() -> None:
    root = ElementTree.fromstring(bench_plot(report()))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for bar in root.iter(f"{SVG}rect"):
        assert float(bar.get("x", 0)) + float(bar.get("width", 0)) <= width
        assert float(bar.get("y", 0)) + float(bar.get("height", 0)) <= height
    for line in root.iter(f"{SVG}line"):
        assert 190 <= float(line.get("x1", 0)) <= float(line.get("x2", 0)) <= 550


def test_what_is_not_available_says_why() -> None:
    words = words_of(bench_plot(report(planned=False)))
    assert "not available: no <counter> here & now" in words
    assert not any(word.endswith(", planned") for word in words if "tokens/s" in word)


def test_names_cannot_break_out_of_the_picture() -> None:
    svg = bench_plot(report("<script>alert('x')</script>\x00\x1b&\udcff.gguf"))
    assert "<script" not in svg
    assert svg.encode("utf-8")
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"


def test_it_needs_nothing_from_elsewhere_and_knows_light_and_dark() -> None:
    svg = bench_plot(report())
    assert "prefers-color-scheme: dark" in svg
    assert not any(
        word in svg.replace("http://www.w3.org/2000/svg", "") for word in ("http", "href", "url(", "@import")
    )


def test_noise_is_said_in_the_picture() -> None:
    assert words_of(bench_plot(report()))[-1].endswith("NOISY")
