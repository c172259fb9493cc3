"""The official pipeline as a second path: what the READMEs of the models do, and nothing of ours.

`qwen_omni_utils.process_mm_info` chooses and scales the frames, transformers' processor makes
tokens and features, `generate` answers. Only decoding is done here, by a plain loop over PyAV: none
of the package's readers is among our dependencies. Where exact numbers are compared, that loop is
replaced by the frames and the sound that `read_clip` gave: decoders and scalers differ in the last
bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import soxr
import torch
import transformers
from PIL import Image
from qwen_omni_utils import process_mm_info
from qwen_omni_utils.v2_5 import audio_process, vision_process

from seats_cli.engine.answer import ask
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import Clip
from seats_cli.media.reader import read_clip
from seats_cli.models import LoadedModel, build_inputs, inputs_from_messages, load_model
from seats_cli.results import Turn

ASSETS = Path(__file__).parents[2] / "assets"
CARDS, SINTEL, JFK = "cards_words_beeps_12s.mp4", "sintel_15s_640.mp4", "jfk.wav"
QUESTION = "What is shown first?"


@dataclass(frozen=True)
class Case:
    """A file and what is read of it, in the words of either side."""

    file: str = CARDS
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    heard: bool = True

    @property
    def kind(self) -> str:
        return "audio" if self.file == JFK else "video"


CASES = {
    "whole": Case(),
    "film": Case(SINTEL),
    "silent": Case(ours={"audio": False, "end": 5.0}, theirs={"video_end": 5.0}, heard=False),
    "sound": Case(JFK),
    "slow": Case(ours={"fps": 0.7}, theirs={"fps": 0.7}),
    "few": Case(ours={"max_frames": 6}, theirs={"max_frames": 6}),
    "part": Case(ours={"start": 3.0, "end": 8.0}, theirs={"video_start": 3.0, "video_end": 8.0}),
}


@pytest.fixture(scope="module", params=["omni-7b", "omni3-instruct"])
def loaded(request: pytest.FixtureRequest, hub_repository: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(hub_repository(request.param)), device="cpu")


def conversation(case: Case) -> list[dict[str, Any]]:
    """As the READMEs write it."""
    media = {"type": case.kind, case.kind: str(ASSETS / case.file), **case.theirs}
    return [{"role": "user", "content": [media, {"type": "text", "text": QUESTION}]}]


def official_inputs(
    loaded: LoadedModel, case: Case = CASES["silent"], messages: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The README's steps; the true frame rate is passed on, which they leave to the default."""
    processor = transformers.AutoProcessor.from_pretrained(loaded.facts.id)
    messages = messages or conversation(case)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    audios, images, videos, sampled = process_mm_info(
        messages,
        use_audio_in_video=case.heard,
        return_video_kwargs=True,
        image_patch_size=loaded.architecture.vision.patch_size,
    )
    if videos:
        (sampled["fps"],) = sampled["fps"]  # of the one video
        if case.heard:
            sampled |= together(processor)
    return dict(
        processor(
            text=text,
            audio=audios,
            images=images,
            videos=videos,
            return_tensors="pt",
            padding=True,
            **(sampled if videos else {}),
        )
    )


def together(processor: Any) -> dict[str, Any]:
    """`use_audio_in_video` as the READMEs have it; renamed and by index since transformers 5.18."""
    if hasattr(processor, "_resolve_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}


def decoded_frames(request: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
    """A reader for `fetch_video`: every frame, and the package's own choice among them."""
    with av.open(request["video"]) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    start, end, total = vision_process.calculate_video_frame_range(request, len(frames), rate)
    count = vision_process.smart_nframes(request, total_frames=total, video_fps=rate)
    chosen = torch.linspace(start, end, count).round().long().tolist()
    video = torch.from_numpy(np.stack([frames[place] for place in chosen])).permute(0, 3, 1, 2)
    return video, {}, count / total * rate


def decoded_sound(
    path: str, *, sr: int, offset: float, duration: float | None
) -> tuple[npt.NDArray[np.float32], int]:
    """What `librosa.load` does: decode, take the mean of the channels, resample by soxr."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [*container.decode(stream), None]
        pieces = [piece.to_ndarray() for frame in frames for piece in to_float.resample(frame)]
    begin = round(offset * stream.rate)
    end = None if duration is None else begin + round(duration * stream.rate)
    mono = np.concatenate(pieces, axis=1).mean(0)[begin:end]
    return soxr.resample(mono, stream.rate, sr, quality="HQ"), sr


@pytest.fixture
def official_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what `process_mm_info` reads files with."""

    def set_reader(frames: Callable[..., Any], sound: Callable[..., Any]) -> None:
        monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "test")
        monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, "test", frames)
        # By ffmpeg, which need not be there, for the sound of videos
        opened = SimpleNamespace(ffdec=SimpleNamespace(FFmpegAudioFile=lambda path: path))
        monkeypatch.setattr(audio_process, "audioread", opened)
        monkeypatch.setattr(audio_process, "librosa", SimpleNamespace(load=sound))

    set_reader(decoded_frames, decoded_sound)
    return set_reader


def hand_in(set_reader: Callable[..., None], clip: Clip) -> None:
    """Give the official pipeline a clip's frames and sound."""

    def frames(request: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any], float]:
        return torch.from_numpy(clip.frames).permute(0, 3, 1, 2), {}, clip.fps

    set_reader(frames, lambda path, **_: (clip.audio, SAMPLE_RATE))


def heard_frames(inputs: dict[str, Any]) -> torch.Tensor:
    """The mel frames that count, shape (bands, n): the official ones are padded to 300 s."""
    return inputs["input_features"][0][:, inputs["feature_attention_mask"][0].bool()]


def read(loaded: LoadedModel, case: Case) -> Clip:
    return read_clip(ASSETS / case.file, sizing=loaded.sizing, **case.ours)


@pytest.mark.parametrize("name", CASES)
def test_files_become_the_same_prompt(
    loaded: LoadedModel, name: str, official_reader: Callable[..., None]
) -> None:
    case = CASES[name]
    theirs = official_inputs(loaded, case)
    ours = build_inputs(loaded, read(loaded, case), QUESTION)
    for key in ("input_ids", "attention_mask", "video_grid_thw"):
        assert (key in ours) == (key in theirs)
        assert key not in ours or torch.equal(ours[key], theirs[key]), key
    if case.kind == "video":
        seconds = (list(map(float, side["video_second_per_grid"])) for side in (ours, theirs))
        assert next(seconds) == pytest.approx(next(seconds), rel=1e-6)
        # Colours are converted and frames scaled in another order, by another library.
        apart = (ours["pixel_values_videos"] - theirs["pixel_values_videos"]).abs()
        assert apart.mean() < 0.02
    if case.heard:
        mine, official = heard_frames(ours), heard_frames(theirs)
        assert (mine - official).abs().mean() < 2e-3


@pytest.mark.parametrize("name", CASES)
def test_the_same_frames_and_sound_become_the_same_numbers(
    loaded: LoadedModel, name: str, official_reader: Callable[..., None]
) -> None:
    case = CASES[name]
    clip = read(loaded, case)
    hand_in(official_reader, clip)
    theirs = official_inputs(loaded, case)
    ours = build_inputs(loaded, clip, QUESTION)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    if case.kind == "video":
        assert torch.equal(ours["video_grid_thw"], theirs["video_grid_thw"])
        assert torch.equal(ours["pixel_values_videos"], theirs["pixel_values_videos"])
    if case.heard:
        mine, official = heard_frames(ours), heard_frames(theirs)
        assert torch.equal(mine, official)


@pytest.mark.parametrize("name", ["part", "sound"])
@pytest.mark.parametrize("system", [None, "Answer in one word."])
def test_a_conversation_becomes_the_same_prompt(
    loaded: LoadedModel, name: str, system: str | None, official_reader: Callable[..., None]
) -> None:
    case = CASES[name]
    clip = read(loaded, case)
    hand_in(official_reader, clip)
    said = (("assistant", "A red card.\n\n- red"), ("user", "And then?"), ("assistant", "Blue."))
    messages = conversation(case) + [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (*said, ("user", "What is heard?"))
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    theirs = official_inputs(loaded, case, messages)
    history = [Turn(QUESTION, said[0][1]), Turn(said[1][1], said[2][1])]
    ours = build_inputs(loaded, clip, "What is heard?", system=system, history=history)
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert ours["attention_mask"].shape == theirs["attention_mask"].shape


def test_a_picture_becomes_the_same_prompt(loaded: LoadedModel) -> None:
    """A picture is part of a message; `ask` takes an image file as a very short video."""
    clip = read_clip(ASSETS / SINTEL, end=1.0, audio=False, sizing=loaded.sizing)
    picture = Image.fromarray(clip.frames[0])
    question = {"type": "text", "text": QUESTION}
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, question]}]
    theirs = official_inputs(loaded, messages=messages)
    ours = inputs_from_messages(loaded, messages)
    for key in ("input_ids", "image_grid_thw", "pixel_values"):
        assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", ["part", "silent", "sound"])
def test_the_unpruned_model_answers_as_generate_does(
    loaded: LoadedModel, name: str, official_reader: Callable[..., None]
) -> None:
    """The README's call of the class as it is, from the folder to the last token."""
    case, count = CASES[name], 8
    clip = read(loaded, case)
    hand_in(official_reader, clip)
    inputs = official_inputs(loaded, case)
    prefix = "Qwen3OmniMoe" if loaded.architecture.vision.patch_size == 16 else "Qwen2_5Omni"
    official = getattr(transformers, f"{prefix}ThinkerForConditionalGeneration")
    model = official.from_pretrained(loaded.facts.id, dtype=torch.float32).eval()
    end = loaded.processor.tokenizer.eos_token_id
    together = case.heard and case.kind == "video"
    found = model.generate(
        **inputs,
        use_audio_in_video=together,
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=end,
    )
    expected = tuple(found[0, inputs["input_ids"].shape[1] :].tolist())
    answer = ask(loaded, clip, QUESTION, config=None, max_new_tokens=count)
    assert answer.token_ids == expected[: len(answer.token_ids)]
    assert len(answer.token_ids) >= count - 1
