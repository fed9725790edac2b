"""One process of a training, for tests that start several: python distill_process.py FOLDER SETTINGS.json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from distill_lessons import lessons, tiny_student, with_adapter

from edgemed.distill.config import DistillConfig


def main() -> None:
    """Train the stage kd of the tiny student; "adapted" in the settings is one with an adapter, "sharded" is FSDP."""
    import torch

    from edgemed.distill.student import require_training

    require_training()
    from edgemed.distill.trainer import train_stage

    torch.set_num_threads(1)
    folder, settings = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    if settings.pop("sharded", False):
        shard_on_the_processor()
    cut = settings.pop("cut", 0)
    student = with_adapter(tiny_student()) if settings.pop("adapted", False) else tiny_student()
    taught = lessons(10, n_replay=2, teacher_hidden=5)
    config = DistillConfig.model_validate(settings)
    train_stage("kd", config, student, taught, folder, pad=0, callbacks=[power_cut(cut)])


def power_cut(step: int) -> Any:
    """The process dies behind that step, without a word."""
    from transformers import TrainerCallback

    class PowerCut(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                os._exit(9)

    return PowerCut()


def shard_on_the_processor() -> None:
    """Let accelerate shard as its environment asks: it does so for every kind of device, only not for the processor."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    begin = PartialState.__init__

    def begun(self: PartialState, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = begun


if __name__ == "__main__":
    main()
