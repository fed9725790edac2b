"""Which engine runs a model: a name for each, imported only when asked for."""

from __future__ import annotations

from edgemed.core.progress import Progress
from edgemed.engines.balance import Balance
from edgemed.engines.base import Engine, EngineConfig


def open_engine(config: EngineConfig, progress: Progress | None = None, balance: Balance | None = None) -> Engine:
    """A started engine for `config`, in a process of its own; the caller closes it.

    A server gives a balance: the engine is then warmed up, watched, and moved to another configuration when it has to.
    Raises ModelRefused for a file that is damaged, EngineFailed when loading fails, MissingExtra.
    """
    from edgemed.engines.supervisor import EngineProcess

    engine = EngineProcess(config, balance=balance)
    engine.start(progress)
    return engine
