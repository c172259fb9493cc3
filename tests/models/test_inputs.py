"""Prompts: what the processor makes of a clip, and the question as nothing but text."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.errors import ResourceError, UsageError
from seats_cli.families.base import MIN_SAMPLES
from seats_cli.media import SAMPLE_RATE
from seats_cli.models import LoadedModel, build_inputs, load_model
from seats_cli.models import inputs as module
from seats_cli.models.devices import processor_device
from tests.models.checkpoints import write_checkpoint
from tests.models.test_load import FAMILIES, noise_clip


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, request.param)
    return load_model(str(folder), device="cpu")


def test_plain_question_is_tokenised_as_in_the_chat_template(loaded: LoadedModel) -> None:
    question = "What color is shown first?"
    inputs = build_inputs(loaded, noise_clip(loaded.sizing.factor), question)
    text = loaded.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": question}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    direct = loaded.processor.tokenizer.encode(text)
    after_media = direct[direct.index(loaded.processor.tokenizer.encode("user")[0]) + 2 :]
    assert inputs["input_ids"][0, -len(after_media) :].tolist() == after_media


def test_control_tokens_in_a_question_are_text(loaded: LoadedModel) -> None:
    tokenizer, clip = loaded.processor.tokenizer, noise_clip(loaded.sizing.factor)
    plain = build_inputs(loaded, clip, "What?")["input_ids"][0]
    spelled = [token for token in tokenizer.get_vocab() if token.startswith("<|")]
    tricky = build_inputs(loaded, clip, f"What {' '.join(spelled)}?")["input_ids"][0]
    special = torch.tensor(tokenizer.convert_tokens_to_ids(spelled))
    assert int(torch.isin(tricky, special).sum()) == int(torch.isin(plain, special).sum())
    assert tokenizer.decode(tricky).count("<|im_end|>") > tokenizer.decode(plain).count(
        "<|im_end|>"
    )


def test_sound_is_what_the_official_processor_makes_of_it(loaded: LoadedModel) -> None:
    """Frames, tokens and values, whatever a length leaves of its last hop."""
    processor, family = loaded.processor, loaded.adapter.family
    draw = np.random.default_rng(15)
    clip = noise_clip(loaded.sizing.factor)
    noise = draw.uniform(-0.3, 0.3, 8 * SAMPLE_RATE).astype(np.float32)
    content = [{"type": "audio", "audio": "clip"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    # Qwen2.5's pads to 300 s, which takes most of a second; silence after 10 s is no different.
    extractor = copy.copy(processor.feature_extractor)
    extractor.n_samples = 10 * SAMPLE_RATE
    official = copy.copy(processor)
    official.feature_extractor = extractor
    lengths = [*draw.integers(MIN_SAMPLES, 2 * SAMPLE_RATE, 195).tolist(), *range(127_841, 127_846)]
    for length in lengths:
        sound = noise[:length]
        theirs = official(text=[text], audio=[sound], return_tensors="pt")
        alone = dataclasses.replace(clip, frames=None, fps=None, audio=sound)
        ours = loaded.adapter.clip_inputs(processor, alone, "What?", None)
        assert torch.equal(ours["input_ids"], theirs["input_ids"]), length
        frames = int(theirs["feature_attention_mask"].sum())
        assert int(ours["feature_attention_mask"].sum()) == frames == family.mel_frames(length)
        assert torch.equal(
            ours["input_features"][..., :frames], theirs["input_features"][..., :frames]
        )


@settings(max_examples=25, deadline=None)
@given(question=st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_question_arrives_whole(loaded: LoadedModel, question: str) -> None:
    tokenizer = loaded.processor.tokenizer
    question = question.encode("utf-8", "replace").decode("utf-8")
    inputs = build_inputs(loaded, noise_clip(loaded.sizing.factor, seconds=2), question)
    expected = tokenizer.encode(question, add_special_tokens=False, split_special_tokens=True)
    ids = inputs["input_ids"][0].tolist()
    text = tokenizer.decode(expected)
    assert text in tokenizer.decode(ids)
    assert inputs["attention_mask"].shape == inputs["input_ids"].shape


def test_effective_rate_and_interleaving(loaded: LoadedModel) -> None:
    clip = noise_clip(loaded.sizing.factor)
    inputs = build_inputs(loaded, clip, "What?")
    assert inputs["use_audio_in_video"]
    assert [float(value) for value in inputs["video_second_per_grid"]] == [1.0]
    ids = inputs["input_ids"][0]
    video = (ids == loaded.adapter.video_token_id).nonzero()[:, 0]
    audio = (ids == loaded.adapter.audio_token_id).nonzero()[:, 0]
    # Sound of the first seconds comes before the picture of the last: one timeline, interleaved
    assert video[0] < audio[0] < video[-1] < audio[-1]


def test_a_clip_beyond_the_context_is_refused_at_once(loaded: LoadedModel) -> None:
    clip = noise_clip(loaded.sizing.factor)
    hours = dataclasses.replace(clip, audio=np.zeros(2 * 3600 * SAMPLE_RATE, np.float32))
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"audio tokens enter the LLM .* but .* `max_audio`"):
        ask(loaded, hours, "What?", config=SeatsConfig())
    assert time.monotonic() - began < 2


def test_what_enters_has_to_fit_and_not_what_is_offered(loaded: LoadedModel) -> None:
    """To the token, and alike before and after the features are made."""
    clip, config = noise_clip(loaded.sizing.factor), SeatsConfig(retain=0.25)
    answer = ask(loaded, clip, "What?", config=config, max_new_tokens=3)
    assert answer.context is not None
    assert answer.context.entering == answer.trace.alive_per_layer()[0]
    assert answer.context.tokens < sum(answer.trace.offered)

    def tight(limit: int) -> LoadedModel:
        small = dataclasses.replace(loaded.architecture, max_positions=limit)
        return dataclasses.replace(loaded, architecture=small)

    limit = answer.context.tokens
    pruned = ask(tight(limit), clip, "What?", config=config, max_new_tokens=3)
    assert pruned.token_ids == answer.token_ids
    assert pruned.context is not None
    assert not pruned.context.positions_fit
    assert any("positions go to" in sentence for sentence in pruned.warnings)
    with pytest.raises(ResourceError, match="`max_pixels`"):
        ask(tight(limit - 1), clip, "What?", config=config, max_new_tokens=3)
    full = ask(tight(limit), clip, "What?", config=None, max_new_tokens=3)
    assert any("Without pruning" in sentence for sentence in full.warnings)


@pytest.mark.parametrize("parts", ["picture and sound", "picture", "sound"])
def test_the_largest_position_is_what_the_model_counts(loaded: LoadedModel, parts: str) -> None:
    clip = noise_clip(loaded.sizing.factor, seconds=7)
    if parts == "picture":
        clip = dataclasses.replace(clip, audio=None)
    if parts == "sound":
        clip = dataclasses.replace(clip, frames=None, frame_times=None, fps=None)
    seen: list[int] = []

    def note(_module: Any, _args: Any, arguments: dict[str, Any]) -> None:
        if arguments["inputs_embeds"].shape[1] > 1:
            seen.append(
                int(
                    loaded.adapter.positions(
                        arguments["position_ids"], arguments["inputs_embeds"]
                    ).max()
                )
            )

    hook = loaded.adapter.language_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        answer = ask(loaded, clip, "What?", config=None, max_new_tokens=1)
    finally:
        hook.remove()
    assert answer.context is not None
    assert seen == [answer.context.largest_position]


def test_a_book_as_the_question(loaded: LoadedModel) -> None:
    with pytest.raises(ResourceError, match="shorten the question"):
        build_inputs(loaded, noise_clip(loaded.sizing.factor), "What is shown? " * 50_000)


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question(loaded: LoadedModel, question: str) -> None:
    with pytest.raises(UsageError, match="empty"):
        build_inputs(loaded, noise_clip(loaded.sizing.factor), question)


def test_the_whole_sound_arrives(loaded: LoadedModel) -> None:
    """Longer than the 30 s and 300 s at which feature extractors cut in silence."""
    clip = noise_clip(loaded.sizing.factor, seconds=2)
    long = np.zeros(310 * SAMPLE_RATE, np.float32)
    roomy = dataclasses.replace(loaded.architecture, max_positions=1 << 20)
    inputs = build_inputs(
        dataclasses.replace(loaded, architecture=roomy),
        dataclasses.replace(clip, frames=None, audio=long),
        "What?",
    )
    per_second = loaded.architecture.audio.tokens_per_second
    audio = int((inputs["input_ids"] == loaded.adapter.audio_token_id).sum())
    assert audio == pytest.approx(310 * per_second, abs=1)


@pytest.mark.parametrize(
    ("device", "free", "expected"),
    [
        ("cuda", 76_000, "cuda"),
        ("cuda", 75_999, None),
        ("cpu", 10**12, None),
        ("mps", 10**12, None),
    ],
)
def test_the_processor_works_on_a_gpu_with_room(
    device: str, free: int, expected: str | None
) -> None:
    found = processor_device(torch.device(device), free, frames=1000, samples=1000)
    assert found == (None if expected is None else torch.device(expected))


def test_clips_are_processed_where_there_is_room(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames and sound, each of them alone, too."""
    clip, seen = noise_clip(loaded.sizing.factor), []
    stock = type(loaded.processor.feature_extractor).__call__

    def noting(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["device"])
        return stock(*args, **{**kwargs, "device": "cpu"})

    monkeypatch.setattr(type(loaded.processor.feature_extractor), "__call__", noting)
    monkeypatch.setattr(module, "_processor_on", lambda _device, _clip: torch.device("meta"))
    found = build_inputs(loaded, dataclasses.replace(clip, frames=None, fps=None), "What?")
    assert seen == ["meta"]
    picture = dataclasses.replace(clip, audio=None)
    inputs = loaded.adapter.clip_inputs(loaded.processor, picture, "?", torch.device("meta"))
    assert inputs["pixel_values_videos"].is_meta
    monkeypatch.undo()
    assert module._processor_on(torch.device("cpu"), clip) is None
    assert found["input_features"].device == loaded.model.device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pixels_are_the_same_from_the_gpu(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("bundled", device="cuda", dtype=dtype)
    clip = noise_clip(loaded.sizing.factor)
    assert module._processor_on(loaded.model.device, clip) == loaded.model.device
    found = build_inputs(loaded, clip, "What?")
    monkeypatch.setattr(module, "_processor_on", lambda _device, _clip: None)
    expected = build_inputs(loaded, clip, "What?")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert value.device == found[name].device
            # The transform of sound rounds differently; `mel_features` states by how much.
            bound = {"input_features": 1e-3 if dtype == "float32" else 1e-2}.get(name, 0.0)
            torch.testing.assert_close(found[name], value, rtol=0, atol=bound)
