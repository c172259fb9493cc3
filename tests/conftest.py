"""Where there is no GPU, Triton interprets its kernels: their tests then run anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import typer.main
import typer.testing

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported


@pytest.fixture(scope="session", autouse=True)
def commands_are_built_once() -> Iterator[None]:
    """Typer's runner builds all commands anew for each call, which takes longer than most calls."""
    with pytest.MonkeyPatch.context() as patch:
        build = cache(typer.main.get_command)
        patch.setattr(typer.testing, "_get_command", build, raising=False)  # else only slower
        yield


@pytest.fixture(scope="session")
def hub_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a layout of tests/models/hub_layouts.py, written once; tests must not change it."""
    from tests.models.hub_layouts import write_repository

    written: dict[str, Path] = {}

    def repository(layout: str) -> Path:
        if layout not in written:
            folder = tmp_path_factory.mktemp("hub") / layout
            write_repository(folder, layout)
            written[layout] = folder
        return written[layout]

    return repository
