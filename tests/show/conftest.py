"""Runs of the bundled model on the assets' clips, made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.media.clip import Clip, ReadOptions
from seats_cli.media.reader import read_clip
from seats_cli.results import Answer
from seats_cli.show.record import RunRecord

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "assets" / "cards_words_beeps_12s.mp4"
SPEECH = ROOT / "assets" / "jfk.wav"
QUESTION = "What color is shown first?"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """An answer, the clip it is about, and the record of it."""

    answer: Answer
    clip: Clip
    record: RunRecord


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The bundled model."""
    from seats_cli.models import load_model

    return load_model("bundled")


@pytest.fixture(scope="session")
def ask(bundled: Any) -> Callable[..., Run]:
    """Ask the bundled model about a file, by SEATS unless told otherwise."""
    from seats_cli.engine.answer import ask as ask_model
    from seats_cli.show.capture import record_of

    @cache
    def run(path: Path = CARDS, question: str = QUESTION, method: str | None = "seats") -> Run:
        clip = read_clip(path, sizing=bundled.sizing)
        config = None if method is None else SeatsConfig(method=method)
        answer = ask_model(bundled, clip, question, config=config, max_new_tokens=8)
        return Run(answer, clip, record_of(answer, ReadOptions(), bundled.sizing))

    return run


@pytest.fixture(scope="session")
def cards(ask: Callable[..., Run]) -> Run:
    """Cards with speech and beeps."""
    return ask(CARDS)


@pytest.fixture(scope="session")
def speech(ask: Callable[..., Run]) -> Run:
    """Sound alone."""
    return ask(SPEECH)
