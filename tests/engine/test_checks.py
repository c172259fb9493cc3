"""An output that is not a number ends in a sentence, not in an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.errors import ModelError
from seats_cli.models import load_model
from tests.models.checkpoints import write_checkpoint
from tests.models.test_load import noise_clip


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("choices", [(), ("red", "green")])
def test_not_a_number(tmp_path: Path, value: float, choices: tuple[str, ...]) -> None:
    write_checkpoint(tmp_path, "qwen2_5_omni")
    loaded = load_model(str(tmp_path), device="cpu")
    clip = noise_clip(loaded.sizing.factor)
    ask(loaded, clip, "What?", config=SeatsConfig(), max_new_tokens=2, choices=choices)
    with torch.no_grad():
        loaded.model.lm_head.weight[7] = value
    said: list[str] = []
    with pytest.raises(ModelError, match="not a number") as caught:
        ask(
            loaded,
            clip,
            "What?",
            config=SeatsConfig(),
            max_new_tokens=2,
            choices=choices,
            on_text=said.append,
        )
    assert caught.value.exit_code == 4
    assert said == []
    assert not loaded.model.lm_head._forward_hooks
