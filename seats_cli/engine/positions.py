"""Quick positions while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from seats_cli.exchange import other_method

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter


@contextmanager
def quick_positions(adapter: Adapter) -> Iterator[None]:
    """Let a model find its prompt's positions quickly inside the block; results are the same.

    Which part of the model is asked for them depends on the version of transformers.
    """
    name, quick = adapter.quick_positions()
    with ExitStack() as stack:
        for part in {id(part): part for part in (adapter.thinker, adapter.core)}.values():
            stack.enter_context(other_method(part, name, quick))
        yield
