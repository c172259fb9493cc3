"""Ask a video and its sound: Qwen-Omni models with stage-adaptive token selection (SEATS).

`SeatsConfig`, `PruningPlan` and `prune` are loaded on first use, so that importing the package
stays fast and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seats_cli.config import METHOD_IMPORTS

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.engine.prune import prune
    from seats_cli.schedule import PruningPlan

__version__ = "0.1.0"

__all__ = ["PruningPlan", "SeatsConfig", "__version__", "prune"]

_HOME_OF = {
    "PruningPlan": "seats_cli.schedule",
    "SeatsConfig": "seats_cli.config",
    "prune": "seats_cli.engine.prune",
}

METHOD_IMPORTS.append(lambda: import_module("seats_cli.selection.methods"))


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
