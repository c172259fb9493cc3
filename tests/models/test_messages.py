"""Conversations with several media parts, through `process_mm_info` and our reader."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.errors import MediaError, ResourceError, UsageError
from seats_cli.media.reader import read_clip
from seats_cli.models import LoadedModel, build_inputs, inputs_from_messages, load_model
from seats_cli.world.clips import write_mp4
from tests.long_media import write_film
from tests.models.checkpoints import write_checkpoint
from tests.models.test_load import FAMILIES

ASSETS = Path(__file__).parents[2] / "assets"
CARDS, JFK = str(ASSETS / "cards_words_beeps_12s.mp4"), str(ASSETS / "jfk.wav")
QUESTION = {"type": "text", "text": "Which <|im_end|> comes first?"}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, request.param)
    return load_model(str(folder), device="cpu")


def video(**settings: Any) -> dict[str, Any]:
    small = {"fps": 1, "video_end": 4, "max_pixels": 128 * 128}
    return {"type": "video", "video": CARDS, **small, **settings}


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, QUESTION]}]


def counts(loaded: LoadedModel, inputs: dict[str, Any]) -> tuple[int, int]:
    ids = inputs["input_ids"]
    return tuple(
        int((ids == token).sum())
        for token in (loaded.adapter.video_token_id, loaded.adapter.audio_token_id)
    )


@pytest.mark.parametrize("heard", [True, False])
def test_one_video_is_a_clip_with_a_question(loaded: LoadedModel, heard: bool) -> None:
    side = 4 * loaded.sizing.factor  # two tokens are rounded to: these frames need no rounding
    part = video(max_pixels=side * side)
    found = inputs_from_messages(loaded, user(part), use_audio_in_video=heard)
    sizing = loaded.sizing.for_factor(2 * loaded.sizing.factor, max_pixels=side * side)
    clip = read_clip(CARDS, fps=1, end=4, audio=heard, sizing=sizing)
    expected = build_inputs(loaded, clip, QUESTION["text"])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, msg=name)
        else:
            assert found[name] == value


@torch.no_grad()
def test_many_parts_in_one_pruned_prompt(loaded: LoadedModel) -> None:
    pixels = np.linspace(0, 255, 112 * 84 * 3).reshape(84, 112, 3).astype(np.uint8)
    parts = [
        {"type": "text", "text": "A picture, two videos, a speech:"},
        {"type": "image", "image": Image.fromarray(pixels), "max_pixels": 112 * 112},
        video(),
        video(video_start=6, video_end=9),
        {"type": "audio", "audio": JFK, "audio_start": 1, "audio_end": 3.5},
    ]
    messages = [{"role": "system", "content": "Answer briefly."}, *user(*parts)]
    inputs = inputs_from_messages(loaded, messages)
    sizes = loaded.adapter.media_sizes(inputs)
    assert [grid[0] for grid in sizes.grids] == [2, 2]
    assert [round(frames / 100, 1) for frames in sizes.mel_frames] == [4.0, 3.0, 2.5]
    # Each video by its own effective rate: 4 s and 3 s in 4 frames.
    assert inputs["video_second_per_grid"].tolist() == pytest.approx([2.0, 1.5], rel=0.02)
    merge = loaded.architecture.vision.merge_size**2
    offered = (
        sum(t * h * w // merge for t, h, w in sizes.grids),
        sum(map(loaded.adapter.family.audio_tokens, sizes.mel_frames)),
    )
    assert counts(loaded, inputs) == offered
    with prune(loaded.model, SeatsConfig(retain_video=0.5, retain_audio=0.5)) as run:
        output = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2
    assert run.trace.offered[:2] == offered
    assert run.trace.stages[0].video < offered[0]
    assert run.trace.stages[0].audio < offered[1]


def test_spelled_control_tokens_are_text(loaded: LoadedModel) -> None:
    tokenizer = loaded.processor.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    turns = [
        {"role": "user", "content": "What is <|im_end|>?"},
        {"role": "assistant", "content": "A token."},
        {"role": "user", "content": "Thanks<|im_end|>"},
    ]
    ids = inputs_from_messages(loaded, turns)["input_ids"][0]
    assert int((ids == end).sum()) == 4  # the system's turn, and these
    assert tokenizer.decode(ids).count("<|im_end|>") == 6


def test_what_cannot_be_read_is_named(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'table'"):
        inputs_from_messages(loaded, user({"type": "table"}))
    with pytest.raises(UsageError, match=r"download https://x\.org/a\.mp4"):
        inputs_from_messages(loaded, user(video(video="https://x.org/a.mp4")))
    with pytest.raises(UsageError, match="has no pictures"):
        inputs_from_messages(loaded, user(video(video=JFK)))
    with pytest.raises(MediaError):
        inputs_from_messages(loaded, user(video(video=str(tmp_path / "none.mp4"))))
    with pytest.raises(ResourceError, match="context holds"):
        inputs_from_messages(loaded, [{"role": "user", "content": "word " * 9_000}])


def test_videos_of_a_conversation_are_fitted_together(loaded: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_film(path, 8, 320, 180)
    turns = user({"type": "video", "video": str(path)}, {"type": "video", "video": str(path)})
    config = SeatsConfig(retain=0.25)
    whole = inputs_from_messages(loaded, turns, config=config)
    limit = whole["input_ids"].shape[1] // 3  # about 35 % enter
    shape = dataclasses.replace(loaded.architecture, max_positions=limit)
    tight = dataclasses.replace(loaded, architecture=shape)
    with pytest.warns(UserWarning, match="would enter the LLM"):
        inputs = inputs_from_messages(tight, turns, config=config, max_new_tokens=8)
    assert inputs["input_ids"].shape[1] < whole["input_ids"].shape[1]
    with prune(loaded.model, config) as run:
        loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert sum(run.trace.alive_per_layer()[0]) + 8 <= limit


@pytest.mark.parametrize("first", ["heard", "silent"])
def test_a_silent_video_beside_one_with_sound_keeps_its_positions(
    loaded: LoadedModel, tmp_path: Path, first: str
) -> None:
    silent = tmp_path / "silent.mp4"
    write_mp4(silent, np.full((8, 112, 112, 3), 90, np.uint8), 4.0, None)
    quiet = {"type": "video", "video": str(silent)}
    parts = [video(), quiet] if first == "heard" else [quiet, video()]
    both = inputs_from_messages(loaded, user(*parts), use_audio_in_video=None)
    alone = inputs_from_messages(loaded, user(quiet), use_audio_in_video=None)

    def of_silent(inputs: dict[str, Any], *, last: bool) -> torch.Tensor:
        """Positions of the silent video's tokens, from its first."""
        grids = inputs["video_grid_thw"]
        count = int(alone["video_grid_thw"].prod()) // loaded.adapter.merge_unit
        with torch.inference_mode():
            found = loaded.adapter.model.get_rope_index(
                inputs["input_ids"],
                None,
                grids,
                inputs["attention_mask"],
                inputs["use_audio_in_video"],
                inputs["feature_attention_mask"].sum(1) if "input_features" in inputs else None,
                inputs["video_second_per_grid"],
            )[0][:, 0]
        places = (inputs["input_ids"][0] == loaded.adapter.video_token_id).nonzero()[:, 0]
        own = found[:, places[-count:] if last else places[:count]]
        return own - own[:, :1]

    assert torch.equal(of_silent(both, last=first == "heard"), of_silent(alone, last=False))
