"""No garbage collection while a command starts.

Importing torch and transformers makes about a million objects that stay. Looking through them
again and again for garbage, and once more at the end, takes a third of the time of a short
command.
"""

from __future__ import annotations

import gc


def pause() -> None:
    """Collect no garbage until `resume`."""
    gc.disable()


def resume() -> None:
    """Collect garbage from now on, but leave alone what is there; nothing without a `pause`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
