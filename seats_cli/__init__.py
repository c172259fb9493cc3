"""Ask a video and its sound: Qwen-Omni models with stage-adaptive token selection (SEATS).

Everything in `__all__` is loaded on first use: importing the package imports neither torch nor
PyAV, and `from seats_cli import prune` no PyAV.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seats_cli.config import METHOD_IMPORTS

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.engine.answer import ask
    from seats_cli.engine.encoder_cache import EncoderCache
    from seats_cli.engine.prune import prune
    from seats_cli.engine.session import ClipSession, load_model
    from seats_cli.media.reader import read_clip
    from seats_cli.results import Answer, Turn
    from seats_cli.schedule import PruningPlan
    from seats_cli.selection.method import Method, register_method

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ClipSession",
    "EncoderCache",
    "Method",
    "PruningPlan",
    "SeatsConfig",
    "Turn",
    "__version__",
    "ask",
    "load_model",
    "prune",
    "read_clip",
    "register_method",
]

_HOME_OF = {
    "Answer": "seats_cli.results",
    "ClipSession": "seats_cli.engine.session",
    "EncoderCache": "seats_cli.engine.encoder_cache",
    "Method": "seats_cli.selection.method",
    "PruningPlan": "seats_cli.schedule",
    "SeatsConfig": "seats_cli.config",
    "Turn": "seats_cli.results",
    "ask": "seats_cli.engine.answer",
    "load_model": "seats_cli.engine.session",
    "prune": "seats_cli.engine.prune",
    "read_clip": "seats_cli.media.reader",
    "register_method": "seats_cli.selection.method",
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
