"""From a clip and a question, or from chat messages, to the model's inputs.

The family's own processor does the work (`Adapter.clip_inputs`, `Adapter.message_inputs`), around
stand-ins for the texts that users wrote (`prompt_texts`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from seats_cli.config import SeatsConfig
from seats_cli.cost.context import DROP_TURNS, Entering, Need, seats_entering
from seats_cli.cost.token_counts import MediaSizes, token_counts
from seats_cli.errors import ConfigError, SeatsError, UsageError
from seats_cli.families.base import MIN_SAMPLES
from seats_cli.families.generation import USUAL
from seats_cli.models.devices import free_bytes, processor_device
from seats_cli.models.prompt_texts import (
    STAND_IN,
    check_length,
    text_tokens,
    with_texts,
    with_turns,
)
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import method_for

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture, FrameSizing
    from seats_cli.media.clip import Clip, ReadOptions
    from seats_cli.models.load import LoadedModel
    from seats_cli.results import Turn


# What parts of a message may say about their file, besides the range.
_READ_KEYS = (
    *("fps", "max_frames", "max_pixels", "total_pixels"),
    *("video_track", "audio_track", "max_audio"),
)


@dataclass(frozen=True, eq=False)
class PreparedClip:
    """A clip as the processor hands it to a model, ready for any number of questions."""

    clip: Clip
    template: torch.Tensor  # the prompt's ids (S,) on the CPU, stand-ins where users' texts go
    features: dict[str, Any]  # inputs that do not depend on the question, on the model's device
    system: str | None = None  # system turn that replaces the chat template's own


def prepare_clip(loaded: LoadedModel, clip: Clip, *, system: str | None = None) -> PreparedClip:
    """Features of a clip, through the family's own processor (`Adapter.clip_inputs`).

    Parameters
    ----------
    system : str or None
        System turn of every prompt about the clip, empty for an empty one; None leaves it to the
        chat template (Qwen2.5-Omni has a turn of its own then, Qwen3-Omni has none).

    Raises
    ------
    UsageError
        If the clip holds neither picture nor sound.
    """
    if clip.frames is None and clip.audio is None:
        raise UsageError("The clip has neither video nor audio to ask about.")
    inputs = loaded.adapter.clip_inputs(
        loaded.processor,
        clip,
        STAND_IN,
        _processor_on(loaded.model.device, clip),
        system=None if system is None else STAND_IN,
    )
    template = inputs.pop("input_ids")[0]
    inputs.pop("attention_mask")
    return PreparedClip(clip, template, _on_model(inputs, loaded.model), system)


def build_inputs(
    loaded: LoadedModel,
    clip: Clip | PreparedClip,
    question: str | None,
    *,
    system: str | None = None,
    history: Sequence[Turn] = (),
) -> dict[str, Any]:
    """Tokens and features for `model(**inputs)` or `model.generate(**inputs)`.

    Parameters
    ----------
    clip : Clip or PreparedClip
        Prepared by `prepare_clip`, where several questions are asked about it.
    question : str or None
        None asks nothing; an empty one does so of checkpoints that describe what they are given.
    system : str or None
        System turn, as for `prepare_clip`; a prepared clip has its own.
    history : sequence of Turn
        Earlier questions about the clip and their answers: the chat template has the clip in the
        first of these turns, and the question in the last one.

    Returns
    -------
    dict
        `input_ids` (1, S), `attention_mask`, and where present `pixel_values_videos`,
        `video_grid_thw`, `video_second_per_grid`, `input_features`,
        `feature_attention_mask`; `use_audio_in_video` for the model. On the model's device,
        floating point features in the model's dtype.

    Raises
    ------
    UsageError
        If the question is empty or the clip holds neither picture nor sound.
    ModelError
        If there is a history, and the model's chat template has no place for it.
    ResourceError
        If the question alone, or with the history, is more than the model's context holds.
    """
    if question is not None and not question.strip() and not loaded.captions:
        raise UsageError("The question is empty.")
    tokenizer = loaded.processor.tokenizer
    asked = text_tokens(tokenizer, question if question and question.strip() else "")
    said = [text for turn in history for text in (turn.question, turn.answer)]
    talk = [text_tokens(tokenizer, text) for text in said]
    limit = loaded.architecture.max_positions
    check_length(len(asked), limit)
    check_length(len(asked) + sum(map(len, talk)), limit, DROP_TURNS)
    if not isinstance(clip, PreparedClip):
        clip = prepare_clip(loaded, clip, system=system)
    elif system is not None:
        raise UsageError("The clip is prepared already: give `system` to `prepare_clip`.")
    texts = [] if clip.system is None else [text_tokens(tokenizer, clip.system)]
    template = with_turns(
        clip.template, loaded.adapter, loaded.processor, len(history), clip.system
    )
    ids = with_texts(template, tokenizer, [*texts, *talk, asked]).to(loaded.model.device)
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        **clip.features,
    }


def inputs_from_messages(
    loaded: LoadedModel,
    messages: Sequence[Mapping[str, Any]],
    *,
    use_audio_in_video: bool | None = True,
    config: SeatsConfig | None = None,
    max_new_tokens: int = 128,
    on_progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Tokens and features for a conversation with any number of pictures, videos and sounds.

    Videos and sounds are read by `read_clip`, which says what the readers of `qwen_omni_utils`
    would lose; the rest is that package's `process_mm_info`.

    Parameters
    ----------
    messages : sequence of dict
        `role`, and as `content` a text or a list of parts: `{"type": "text", "text": ...}`,
        `{"type": "image", "image": ...}` (a file, a PIL image or a data URL),
        `{"type": "audio", "audio": ...}` and `{"type": "video", "video": ...}` (files). Videos may
        have `fps`, `max_frames`, `max_pixels`, `video_track`, `video_start` and `video_end`, sounds
        `audio_start` and `audio_end`, both in seconds; both `audio_track`, and images `min_pixels`
        and `max_pixels`.
    use_audio_in_video : bool or None
        Whether the audio of videos is used too; then every video must have some. None uses that
        of those that have some: beside silent ones it stands behind its video, not woven into it.
    config : SeatsConfig, optional
        What the conversation will be pruned with, by default the default budget. Where even then
        more would enter the LLM than the context holds, frames are read smaller, with a warning.
    max_new_tokens : int
        Longest answer, which takes its part of the context.
    on_progress : callable, optional
        As for `read_clip`, for every file.

    Returns
    -------
    dict
        As from `build_inputs`.

    Raises
    ------
    UsageError
        If a part is of no known type or a video is silent, or the family takes no messages.
    MediaError
        If a file cannot be read.
    ResourceError
        If the text alone is more than the model's context holds.

    Examples
    --------
    >>> parts = [{"type": "video", "video": "a.mp4"}, {"type": "video", "video": "b.mp4"},
    ...          {"type": "text", "text": "Which of the two is louder?"}]
    >>> inputs = inputs_from_messages(loaded, [{"role": "user", "content": parts}])
    >>> with prune(loaded.model, SeatsConfig.preset("25%")):
    ...     loaded.model.generate(**inputs, max_new_tokens=64)
    """
    # 1. Texts by their tokens, and files by what of them fits beside these.
    tokenizer, texts, listed = loaded.processor.tokenizer, [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        said = [part["text"] for part in parts if part.get("type") == "text"]
        texts += [text_tokens(tokenizer, text) for text in said]
        listed.append(
            [
                {"type": "text", "text": STAND_IN}
                if part.get("type") == "text"
                else _checked(part, loaded, use_audio_in_video)
                for part in parts
            ]
        )
    files = [part for parts in listed for part in parts if isinstance(part, _File)]
    need = need_of(loaded, (), (config,), max_new_tokens)
    turns = need.text * len(messages) + sum(map(len, texts))
    check_length(turns, loaded.architecture.max_positions)
    fitted = iter(_fitted(files, loaded, replace(need, text=turns)))

    # 2. The files themselves, and the prompt around them.
    conversation = []
    for message, parts in zip(messages, listed, strict=True):
        content = []
        for part in parts:
            if isinstance(part, _File):
                part, told = next(fitted).content(on_progress)
                for sentence in told:
                    warnings.warn(sentence, stacklevel=2)
            content.append(part)
        conversation.append({"role": message["role"], "content": content})
    every = [part for message in conversation for part in message["content"]]
    if len({"sound" in part for part in every if part["type"] == "video"}) == 2:
        # With sound woven in, transformers gives positions to no video without any.
        conversation = [_sounds_behind(message) for message in conversation]
    inputs = loaded.adapter.message_inputs(loaded.processor, conversation)
    ids = with_texts(inputs.pop("input_ids")[0], tokenizer, texts)
    inputs |= {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    return _on_model(inputs, loaded.model)


def _sounds_behind(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose videos have their sound behind them, as a part of its own."""
    content: list[dict[str, Any]] = []
    for part in message["content"]:
        content.append({name: value for name, value in part.items() if name != "sound"})
        if "sound" in part:
            content.append({"type": "audio", "audio": part["sound"]})
    return {**message, "content": content}


@dataclass(frozen=True)
class _File:
    """A video or sound in a message."""

    kind: str
    path: Any
    read: ReadOptions
    sizing: FrameSizing
    silent: bool = False  # whether a video may be without the audio that is asked for

    def content(
        self, on_progress: Callable[[str, float], None] | None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The part with the file's frames or samples in place of the path, and what was lost."""
        from seats_cli.media.reader import read_clip

        clip = read_clip(self.path, self.read, sizing=self.sizing, on_progress=on_progress)
        if self.kind == "audio":
            return {"type": "audio", "audio": clip.audio}, clip.warnings
        use_audio = self.read.audio and not (self.silent and clip.audio is None)
        if clip.frames is None or (use_audio and clip.audio is None):
            lacks = "pictures" if clip.frames is None else "audio: set `use_audio_in_video=False`"
            raise UsageError(f"'{self.path}' has no {lacks}.")
        area = clip.frames.shape[1] * clip.frames.shape[2]
        found = {
            "type": "video",
            "video": [Image.fromarray(frame) for frame in clip.frames],
            "sample_fps": clip.fps,
            "min_pixels": area,
            "max_pixels": area,
            **({"sound": clip.audio} if use_audio else {}),
        }
        return found, clip.warnings


def _checked(part: Mapping[str, Any], loaded: LoadedModel, use_audio: bool | None) -> Any:
    """A part that is no text: what to read of a file, or an image, which stays as it is."""
    from seats_cli.media.clip import ReadOptions

    kind = part.get("type")
    if kind not in ("image", "audio", "video") or kind not in part:
        raise UsageError(f"A part of a message is text, image, audio or video, not {kind!r}.")
    if str(part[kind]).startswith(("http:", "https:")):
        raise UsageError(f"Parts of a message are local: download {part[kind]} and pass the file.")
    if kind == "image":
        own = loaded.adapter.own_settings()
        return {**{name: own[name] for name in ("min_pixels", "max_pixels") if name in own}, **part}
    given = {name: part[name] for name in _READ_KEYS if name in part}
    options = ReadOptions(
        start=part.get(f"{kind}_start"),
        end=part.get(f"{kind}_end"),
        video=kind == "video",
        audio=kind == "audio" or use_audio is not False,
        **given,
    )
    # `process_mm_info` rounds the sides of given frames to two tokens: read them like that.
    sizing = replace(loaded.sizing, factor=2 * loaded.sizing.factor)
    return _File(kind, part[kind], options, sizing, silent=use_audio is None)


def _fitted(files: Sequence[_File], loaded: LoadedModel, need: Need) -> list[_File]:
    """The files with what of them fits the context together; a warning says what does not."""
    from seats_cli.cost.fit import ClipRequest, fit
    from seats_cli.media.inspection import outline_clip

    wanted = []
    for file in files:
        try:
            outline = outline_clip(file.path, file.read, sizing=file.sizing)
        except SeatsError:
            return list(files)  # reading says what is wrong
        wanted.append(ClipRequest(outline, file.read, file.sizing))
    fitted = fit(wanted, loaded.architecture, need)
    for sentence in fitted.warnings:
        warnings.warn(sentence, stacklevel=3)
    return [replace(file, read=clip.read) for file, clip in zip(files, fitted.clips, strict=True)]


def need_of(
    loaded: LoadedModel,
    questions: Sequence[str | None],
    configs: Sequence[SeatsConfig | None],
    max_new_tokens: int | None,
    choices: Sequence[str] = (),
    system: str | None = None,
    history: Sequence[Turn] = (),
) -> Need:
    """What questions about one clip take of the context, for `seats_cli.cost.fit`.

    Settings that drop tokens before the LLM decide how large the clip may be, and the others (the
    unpruned model among them) get the same frames. If there are none that do, those that prune
    later have to fit with every token; the unpruned model alone gets what the default budget lets
    the pruned one have.
    """
    architecture, tokenizer = loaded.architecture, loaded.processor.tokenizer
    early: list[Entering] = []
    late = False
    for config in configs:
        try:
            plan = None if config is None else PruningPlan.resolve(config, architecture)
            method = None if plan is None or not plan.prunes else method_for(plan)
        except ConfigError:  # this setting will say so itself
            continue
        if method is not None and method.drops_before_llm:
            early.append(token_counts if method.refines else method.entering)
        late = late or method is not None
    if not early and not late:
        early.append(seats_entering(PruningPlan.resolve(SeatsConfig.preset("25%"), architecture)))

    def length(text: str | None) -> int:
        return len(text_tokens(tokenizer, text or ""))

    said = [system, *(text for turn in history for text in (turn.question, turn.answer))]
    return Need(
        text=_text_around(loaded, system, len(history))
        + sum(map(length, said))
        + max(map(length, questions), default=0),
        answer=longest_answer(loaded, max_new_tokens, choices),
        entering=tuple(early) or (token_counts,),
    )


def longest_answer(
    loaded: LoadedModel, max_new_tokens: int | None, choices: Sequence[str] = ()
) -> int:
    """Tokens to leave for an answer, with what the model thinks before it.

    Without a request it is what the checkpoint asks for, but at most a quarter of the context: a
    Thinking checkpoint allows itself half of it, and the picture would pay for what it rarely uses.
    """
    if max_new_tokens is None:
        quarter = max(USUAL.max_new_tokens, loaded.architecture.max_positions // 4)
        max_new_tokens = min(loaded.sampling.max_new_tokens, quarter)
    if not choices:
        return max_new_tokens
    tokenizer = loaded.processor.tokenizer
    longest = max(len(text_tokens(tokenizer, choice)) + 1 for choice in choices)  # with end of turn
    return longest + (max_new_tokens if loaded.thinks else 0)


def _text_around(loaded: LoadedModel, system: str | None, turns: int) -> int:
    """Tokens of the chat template around a clip with picture and sound, and around the texts."""
    from seats_cli.media.clip import Clip, MediaFacts

    side = loaded.sizing.factor
    clip = Clip(
        frames=np.zeros((2, side, side, 3), np.uint8),
        frame_times=np.zeros(2),
        fps=2.0,
        audio=np.zeros(MIN_SAMPLES, np.float32),
        facts=MediaFacts("", "", 1.0, 0.0, 1.0),
    )
    template = prepare_clip(loaded, clip, system=system).template
    ids = with_texts(
        with_turns(template, loaded.adapter, loaded.processor, turns, system),
        loaded.processor.tokenizer,
        [[]] * (2 * turns + (1 if system is None else 2)),
    )
    adapter = loaded.adapter
    return int(((ids != adapter.video_token_id) & (ids != adapter.audio_token_id)).sum())


def sizes_of_clip(architecture: Architecture, clip: Clip) -> MediaSizes:
    """What the encoders are given of a clip that has been read."""
    frames, height, width = (0, 0, 0) if clip.frames is None else clip.frames.shape[:3]
    samples = 0 if clip.audio is None else len(clip.audio)
    return MediaSizes.of_clip(architecture, frames, height, width, samples)


def _processor_on(device: torch.device, clip: Clip) -> torch.device | None:
    """The GPU on which the processor works, if it does on one."""
    if device.type != "cuda":
        return None
    frames = 0 if clip.frames is None else clip.frames.nbytes
    samples = 0 if clip.audio is None else len(clip.audio)
    return processor_device(device, free_bytes(device), frames=frames, samples=samples)


def _on_model(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Tensors on the model's device, floating point ones in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
