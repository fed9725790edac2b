"""Which engine runs a model: a name for each, imported only when asked for."""

from __future__ import annotations

from edgemed.core.progress import Progress
from edgemed.engines.base import Engine, EngineConfig


def open_engine(config: EngineConfig, progress: Progress | None = None) -> Engine:
    """A started engine for `config`, in a process of its own; the caller closes it.

    Raises ModelRefused for a file that is damaged, EngineFailed when loading fails, MissingExtra.
    """
    from edgemed.engines.supervisor import EngineProcess

    engine = EngineProcess(config)
    engine.start(progress)
    return engine
