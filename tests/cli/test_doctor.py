"""`seats doctor`: complete, and never a failure itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from seats_cli.cli import doctor


@pytest.fixture
def cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    path = tmp_path / "hub"
    blobs = path / "models--Qwen--Qwen2.5-Omni-7B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "a").write_bytes(b"x" * 2048)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path))
    return path


def test_json_has_every_section(run, cache):
    result = run("doctor", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema_version"] == "1"
    for name in ("system", "packages", "gpu", "media", "hub", "settings", "model"):
        assert "error" not in document[name], document[name]
    assert document["hub"]["cache_size_bytes"] == 2048
    assert document["hub"]["cached_omni_models"] == ["Qwen/Qwen2.5-Omni-7B"]
    assert document["media"]["libavcodec"]
    assert document["system"]["ram_bytes"] > 0
    assert document["model"]["default"] == "bundled"


def test_text_can_be_pasted(run, cache):
    Path("seats.toml").write_text('model = "Qwen/Qwen2.5-Omni-7B"\n')
    text = run("doctor").stdout
    assert "### packages" in text
    assert "- cache size: 2.00 KiB" in text
    assert "- default: Qwen/Qwen2.5-Omni-7B" in text
    assert "(from seats.toml)" in text
    assert str(Path.home()) not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_broken_part_does_not_hide_the_others(run, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", ModuleType("av"))
    Path("seats.toml").write_text("nonsense = 1\n")
    result = run("doctor")
    assert result.exit_code == 0
    assert "AttributeError" in result.stdout
    assert "is not a setting" in result.stdout
    assert "### packages" in result.stdout


CARD = """---
license: mit
---
# Card

A small model.

## Training

It was trained on coloured
shapes and beeps.

More.
"""


def test_summary_of_a_card():
    assert doctor.training_summary(CARD) == "It was trained on coloured shapes and beeps."
    assert doctor.training_summary("# Card\n\nA small model.\n") == "A small model."
    assert doctor.training_summary("") == ""
