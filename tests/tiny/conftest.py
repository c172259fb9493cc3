"""Shared parts of the tiny model's tests: a fresh processor and a micro model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from seats_cli.training.build import build_config, build_model, build_processor, build_tokenizer
from seats_cli.training.forward import Thinker


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model mostly wait for each other, for minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def processor() -> Any:
    """Processor with a freshly trained tokenizer."""
    return build_processor(build_tokenizer())


@pytest.fixture(scope="session")
def micro_model(processor: Any) -> Thinker:
    """Random weights, four layers; big enough to tell right from wrong wiring."""
    torch.manual_seed(0)
    config = build_config(processor.tokenizer, width=64, layers=4, mlp=96, encoder_layers=2)
    return build_model(config).eval()
