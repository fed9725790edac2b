"""How many doses of a checkpoint's own answers files made of it change.

    python benchmarks/quantize/bench_doses.py CHECKPOINT FILE.gguf ... [--work DIR]

One line a file: bytes, doses and intervals in the parent's answers to the questions of set B, how many the file
changes and how (edgemed.evaluate.doses), the one-sided 95 % upper bound, mean KL on the answers, CPU seconds. The
parent is the 16-bit export, asked once and kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

from edgemed.core.progress import SilentProgress
from edgemed.evaluate.engine_scorer import EngineScorer
from edgemed.export.gguf import export_gguf
from edgemed.quantize.clinical_report import ReportSubject
from edgemed.quantize.gate import Judge


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description="Count the doses that quantized files change.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgemed-doses-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        parent = work / "parent-f16.gguf"
        if not parent.is_file():
            export_gguf(arguments.checkpoint, parent, recipe="f16")
        judge = Judge(arguments.checkpoint, work, lambda: EngineScorer(parent), SilentProgress())
        for file in arguments.files:
            _report(judge, file)


def _report(judge: Judge, file: Path) -> None:
    before = _cpu_seconds()
    report = judge.report(lambda: EngineScorer(file), ReportSubject(parent="parent", child=file.name))
    row = {
        "file": file.name,
        "bytes": file.stat().st_size,
        "doses": report.gate.n_amounts,
        "intervals": report.gate.n_intervals,
        "changed": report.gate.n_changed,
        "by_kind": {kind: count for kind, count in report.changes_by_kind.items() if count},
        "upper_bound": report.gate.upper_bound,
        "verdict": report.gate.verdict,
        "kl": report.answers.kl_mean,
        "cpu_s": _cpu_seconds() - before,
    }
    print(json.dumps(row), flush=True)
    print(f"{file.name}: {report.gate.n_changed} changed", file=sys.stderr)


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    main()
