"""Plans agree with what the bundled model really does, and take no weights."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seats_cli.config import SeatsConfig
from seats_cli.cost.context import Need
from seats_cli.cost.estimate import find_model, plan_file, plan_run
from seats_cli.cost.fit import ClipRequest, fit, fit_file
from seats_cli.engine.answer import ask
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.base import FrameSizing
from seats_cli.families.registry import named_config
from seats_cli.media.clip import MediaFacts, ReadOptions
from seats_cli.media.frame_sampling import frame_size
from seats_cli.media.inspection import ClipOutline, outline_clip
from seats_cli.media.reader import read_clip
from seats_cli.models import LoadedModel, load_model, need_of
from tests.long_media import write_film

CLIP = Path(__file__).parents[1] / "assets" / "cards_words_beeps_12s.mp4"


def outline(seconds: float, *, frames: int = 0, side: int = 280, audio: bool = True) -> ClipOutline:
    facts = MediaFacts(
        "clip.mp4",
        "mp4",
        seconds,
        0.0,
        seconds,
        frames_used=frames,
        width=side if frames else None,
        height=side if frames else None,
        audio_used_s=seconds if audio else 0.0,
    )
    return ClipOutline(facts, 2.0 if frames else None)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("bundled", device="cpu")


@pytest.mark.parametrize("retain", [0.25, 0.10])
def test_prediction_is_what_happens(loaded: LoadedModel, retain: float) -> None:
    model = find_model("bundled")
    assert model.architecture == loaded.architecture
    assert model.sizing == loaded.sizing
    config = SeatsConfig(retain=retain)
    clip = read_clip(CLIP, sizing=loaded.sizing)
    answer = ask(loaded, clip, "What?", config=config, max_new_tokens=1)
    text = answer.trace.offered[2]
    planned = plan_run(
        outline_clip(CLIP, sizing=model.sizing), model, config, text_tokens=text, bytes_per_value=4
    )
    assert planned.offered == answer.trace.offered
    assert planned.alive[0] == answer.trace.alive_per_layer()[0]
    # The decoded sound is a few samples longer than its packets say: one more chunk of mel.
    assert planned.encoder_flops == pytest.approx(answer.cost.encoder_flops, rel=0.02)
    assert planned.full_prefill_flops == answer.cost.full_prefill_flops
    # The published allocation may miss a drop's total by a few tokens.
    assert planned.prefill_flops == pytest.approx(answer.cost.prefill_flops, rel=0.02)
    assert planned.kv_bytes == pytest.approx(answer.cost.kv_bytes, rel=0.02)
    assert planned.selection_flops == pytest.approx(answer.cost.selection_flops, rel=0.02)


def test_unpruned_plan() -> None:
    model = find_model("qwen2.5-omni-7b")
    planned = plan_run(outline(8.0, frames=16), model, None)
    assert planned.offered == (8 * 100, 200, 40)
    assert planned.prefill_flops == planned.full_prefill_flops
    assert planned.selection_flops == 0
    assert planned.average_retention == 1.0


def test_sound_alone_and_picture_alone() -> None:
    model = find_model("qwen3-omni-30b-a3b")
    sound = plan_run(outline(10.0), model, SeatsConfig(retain=0.25))
    assert sound.offered == (0, 130, 40)
    assert sound.video_windows == ()
    picture = plan_run(outline(4.0, frames=8, side=320, audio=False), model, SeatsConfig())
    assert picture.offered == (400, 0, 40)
    assert picture.audio_windows == ()


def test_context_overflow_is_told() -> None:
    model = find_model("Qwen/Qwen2.5-Omni-7B")
    full = plan_run(outline(600.0, frames=768), model, None)
    assert full.offered[0] > full.context.limit
    assert any("made for 32,768" in sentence for sentence in full.warnings)
    pruned = plan_run(outline(600.0, frames=768), model, SeatsConfig())
    assert pruned.context.entering == pruned.alive[0]
    assert pruned.context.fits
    assert not pruned.warnings
    assert not plan_run(outline(8.0, frames=16), model, SeatsConfig()).warnings


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Little sound with much picture, and the other way round."""
    folder = tmp_path_factory.mktemp("films")
    made = {}
    for name, seconds, width, height in (("wide", 16, 640, 360), ("long", 120, 160, 96)):
        made[name] = folder / f"{name}.mp4"
        write_film(made[name], seconds, width, height)
    return made


LIMITS = (None, 450)  # the bundled model's context, and what it would be with less
TAGS = 2  # tokens around a sound, in every prompt that has one


@pytest.mark.parametrize(
    ("film", "read"),
    [
        ("wide", {}),
        ("wide", {"max_frames": 24, "total_pixels": 40_000}),
        ("wide", {"start": 5.0, "end": 16.0, "fps": 1.0}),
        ("wide", {"audio": False}),
        ("long", {"max_frames": 30}),
    ],
)
@pytest.mark.parametrize("retain", [0.10, None])
def test_plan_says_what_ask_does(
    loaded: LoadedModel,
    films: dict[str, Path],
    film: str,
    read: dict[str, Any],
    retain: float | None,
) -> None:
    """Frames, sizes, sound, tokens and positions, number for number."""
    model = find_model("bundled")
    config = None if retain is None else SeatsConfig(retain=retain)
    options, question, new = ReadOptions(**read), "What is shown?", 2
    for limit in LIMITS:
        most = limit or loaded.architecture.max_positions
        shape = dataclasses.replace(loaded.architecture, max_positions=most)
        tight = dataclasses.replace(loaded, architecture=shape)
        planned_model = dataclasses.replace(model, architecture=shape)
        need = need_of(tight, [question], [config], new)
        fitted, warnings = fit_file(str(films[film]), options, loaded.sizing, shape, need)
        clip = read_clip(films[film], fitted, sizing=loaded.sizing)
        answer = ask(tight, clip, question, config=config, max_new_tokens=new)
        planned = plan_file(
            str(films[film]),
            options,
            planned_model,
            config,
            text_tokens=answer.trace.offered[2],
            max_new_tokens=new,
        )
        assert planned.context == answer.context
        assert planned.offered == answer.trace.offered
        assert planned.alive[0] == answer.trace.alive_per_layer()[0]
        names = ("frames_used", "width", "height")
        for name in names:
            assert getattr(planned.media, name) == getattr(clip.facts, name)
        if config is not None:
            assert planned.context.fits
        # Before a clip is read, it is taken to have a sound.
        assert need.text == answer.trace.offered[2] + (0 if clip.facts.audio_used_s else TAGS)
        exact = dataclasses.replace(need, text=answer.trace.offered[2])
        _, told = fit_file(str(films[film]), options, loaded.sizing, shape, exact)
        assert len(warnings) == len(told)
        assert set(told) <= set(planned.warnings)
        assert set(answer.context.warnings()) <= set(planned.warnings)


def test_a_smaller_picture_before_a_shorter_sound() -> None:
    """The picture shrinks to what fits, but not below half of it while there is sound to cut."""
    shape = find_model("qwen2.5-omni-7b").architecture
    sizing, read = FrameSizing(), ReadOptions()
    everything = Need(40, 128)

    def fitted(seconds: float, frames: int, audio: bool) -> tuple[MediaFacts, tuple[str, ...]]:
        height, width = frame_size(720, 1280, frames, sizing)
        given = outline(seconds, frames=frames, audio=audio)
        facts = dataclasses.replace(
            given.facts, height=height, width=width, source_height=720, source_width=1280
        )
        wanted = ClipRequest(dataclasses.replace(given, facts=facts), read, sizing)
        found = fit([wanted], shape, everything)
        return found.clips[0].outline.facts, found.warnings

    facts, warnings = fitted(20.0, 40, True)
    assert (facts.width, facts.height, facts.audio_used_s) == (1008, 560, 20.0)
    assert not warnings
    facts, (sentence,) = fitted(60.0, 120, True)  # 43,200 + 1,500 tokens
    assert facts.height is not None
    assert facts.width is not None
    assert facts.audio_used_s == 60.0
    assert 30_000 - 1_500 < facts.frames_used // 2 * facts.height * facts.width // 784 < 32_768
    assert "44,700" in sentence
    assert "1008 x 560" in sentence
    facts, (sentence,) = fitted(3600.0, 768, True)  # 90,000 of sound alone
    assert facts.audio_used_s < 1000
    assert facts.frames_used == 768


def test_models_from_a_folder_and_unknown_ones(tmp_path: Path) -> None:
    values = {"thinker_config": named_config("cpu-0.5b"), "model_type": "qwen2_5_omni"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert find_model(str(tmp_path)).architecture == find_model("cpu-0.5b").architecture
    for name in ("no/such-model", "no such model"):
        with pytest.raises(ModelError, match=r"qwen2\.5-omni-7b"):
            find_model(name)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ModelError, match=r"config\.json"):
        find_model(str(tmp_path))


def test_other_methods_are_refused() -> None:
    with pytest.raises(UsageError, match="seats compare"):
        plan_run(outline(4.0), find_model("cpu-0.5b"), SeatsConfig(method="random"))


def test_needs_no_torch() -> None:
    code = (
        "import sys\nfrom seats_cli.cost.estimate import find_model, plan_run\n"
        "from seats_cli.media.inspection import outline_clip\n"
        f"plan_run(outline_clip({str(CLIP)!r}), find_model('bundled'), None)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
