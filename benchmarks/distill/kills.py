"""SIGKILL of a training at random moments, again and again: does it end with the weights of one that was left alone?

    python benchmarks/distill/kills.py [--kills 20] [--steps 60] [--adapter] [--seed 1]

A tiny student on the CPU learns by all five terms of the loss, with a checkpoint every third step. One training is left
alone. Another is killed as often as asked, every fourth time while it still opens its checkpoint, else some steps
later, and begun again each time; when it ends before that, a further one begins. What each comes to is compared byte by
byte with the first: weights, and every line of the log but for its seconds. Trainings are forks of one process that has
imported torch, so a kill costs no import. Prints one JSON object; ends with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from distill_lessons import lessons, tiny_student, with_adapter

from edgemed.distill.checkpoints import TRAINED, WHOLE
from edgemed.distill.config import DistillConfig
from edgemed.distill.step_log import LOG, StepLog
from edgemed.distill.student import require_training

require_training()  # before transformers is imported
train_stage = importlib.import_module("edgemed.distill.trainer").train_stage

SAVE_EVERY = 3


def config_of(steps: int) -> DistillConfig:
    """All terms of the loss, the whole curriculum."""
    return DistillConfig.model_validate(
        {
            "teacher": {"model": "demo"},
            "student": {"model": "student"},
            "data": {"examples": "demo"},
            "sft": {"steps": 0},
            "kd": {"steps": steps, "examples_per_step": 4, "rate": 1e-2, "warmup_steps": 4},
            "loss": {"retention": 0.2, "mse": 0.1},
            "training": {"save_every": SAVE_EVERY, "device": "cpu", "micro_batches": 2},
        }
    )


def begin(folder: Path, steps: int, *, adapter: bool) -> int:
    """Train in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        student = with_adapter(tiny_student()) if adapter else tiny_student()
        train_stage("kd", config_of(steps), student, lessons(10, n_replay=2, teacher_hidden=5), folder, pad=0)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> bool:
    """Wait for a training. True when it was killed; raises SystemExit when it failed by itself."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        sys.exit("a training failed by itself; the lines above say why")
    return False


def kill(child: int, folder: Path, choose: random.Random, opening: float, *, early: bool) -> None:
    """Kill a training: `early` while it opens its checkpoint, else in the first steps behind that or while it saves."""
    if early:
        time.sleep(choose.uniform(0, opening))
    else:
        reached = max((int(path.parent.name.split("-")[1]) for path in folder.glob(f"*/{WHOLE}")), default=0)
        wanted = reached + choose.randint(1, 2 * SAVE_EVERY)
        while steps_in(folder / LOG) < wanted and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)
        time.sleep(choose.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)


def steps_in(log: Path) -> int:
    """Lines of a log, a few of which may be made again."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def outcome(folder: Path) -> tuple[bytes, list[str]]:
    """Weights, and the log without its times."""
    lines = [line.model_copy(update={"seconds": 0.0}).model_dump_json() for line in StepLog(folder).lines()]
    return (folder / "finished" / TRAINED).read_bytes(), lines


def main() -> None:
    """The command line of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--adapter", action="store_true", help="train an adapter instead of all weights")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    choose, counted, same = random.Random(arguments.seed), Counter[str](), True
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place) / "alone"
        started = time.monotonic()
        ended(begin(alone, arguments.steps, adapter=arguments.adapter))
        opening = time.monotonic() - started - sum(line.seconds for line in StepLog(alone).lines())
        expected = outcome(alone)
        while counted["kills"] < arguments.kills:
            counted["trainings"] += 1
            folder, alive = Path(place) / f"killed-{counted['trainings']}", True
            while alive:
                child = begin(folder, arguments.steps, adapter=arguments.adapter)
                if counted["kills"] < arguments.kills:
                    kill(child, folder, choose, opening, early=counted["kills"] % 4 == 3)
                alive = ended(child)
                counted["kills"] += alive
                counted["torn checkpoints"] += any(not (p / WHOLE).exists() for p in folder.glob("checkpoint-*"))
            same = same and outcome(folder) == expected
    print(json.dumps({**counted, "steps": arguments.steps, "same": same}))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
