"""Conversations that are not about one clip: several clips, sounds and pictures, or none at all.

They are read as `qwen_omni_utils` reads conversations, and have no session.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from seats_cli.config import SeatsConfig
from seats_cli.cost.context import context_use
from seats_cli.cost.token_counts import token_counts
from seats_cli.engine.answer import fitted_length
from seats_cli.errors import MediaError, ResourceError
from seats_cli.families.generation import Sampling
from seats_cli.models import LoadedModel, inputs_from_messages
from seats_cli.models.inputs import longest_answer
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import acting_config, method_for
from seats_cli.serve.chat_request import ChatRequest
from seats_cli.serve.media_parts import LocalMedia

_UNKEPT = (
    "Only a clip in the first message, and no other, is kept open for further questions and has "
    "evidence: this request was worked out from its beginning."
)


@dataclass(frozen=True, eq=False)
class MessageInputs:
    """A conversation that is not about one clip, ready for the model."""

    inputs: dict[str, Any]  # of `model.generate`
    config: SeatsConfig | None
    sampling: Sampling
    seed: int
    stop: tuple[str, ...]
    warnings: tuple[str, ...]


def read_messages(
    loaded: LoadedModel,
    request: ChatRequest,
    files: tuple[LocalMedia, ...],
    check: Callable[[], None],
) -> MessageInputs:
    """Any number of clips, sounds and pictures, or none, in any of the user's messages.

    Parameters
    ----------
    files : tuple of LocalMedia
        Of the request's media, in their order.
    check : callable
        Is called while files are read; what it raises ends the reading.

    Raises
    ------
    MediaError
        If a file cannot be read.
    ResourceError
        If the conversation does not fit the model's context.
    """
    how = dict(request.generation)
    seed, stop = how.pop("seed", 0), tuple(how.pop("stop", ()))
    sampling = loaded.sampling.with_given(**how)
    if how.get("max_new_tokens") is None:
        longest = min(sampling.max_new_tokens, longest_answer(loaded, None))
        sampling = replace(sampling, max_new_tokens=longest)
    config = request.config if files else None  # without a clip there is nothing to prune
    idle = tuple[str, ...]()
    if config is not None:
        idle = tuple(config.idle_warnings())
        config = acting_config(replace(config, seed=seed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inputs = inputs_from_messages(
            loaded,
            _as_messages(request, files),
            use_audio_in_video=None if request.read.audio else False,
            config=config,
            max_new_tokens=sampling.max_new_tokens,
            on_progress=lambda _what, _done: check(),
        )
    # Other threads may warn meanwhile; these name the line that called.
    told = (*idle, *(str(one.message) for one in caught if one.filename == __file__))
    given = how.get("max_new_tokens") is not None
    sampling = _within_context(loaded, inputs, config, sampling, given=given)
    if files:
        told += (_UNKEPT,)
    return MessageInputs(inputs, config, sampling, seed, stop, told)


def _within_context(
    loaded: LoadedModel,
    inputs: dict[str, Any],
    config: SeatsConfig | None,
    sampling: Sampling,
    *,
    given: bool,
) -> Sampling:
    """The sampling with a length that the context has room for; refuse what has none."""
    architecture = loaded.architecture
    plan = None if config is None else PruningPlan.resolve(config, architecture)
    method = None if plan is None or not plan.prunes else method_for(plan)
    sizes = loaded.adapter.media_sizes(inputs)
    text = inputs["input_ids"].shape[1] - sum(token_counts(architecture, sizes))
    use = context_use(
        architecture,
        sizes,
        text,
        sampling.max_new_tokens,
        2.0,
        token_counts if method is None else method.entering,
    )
    if not given:
        sampling = fitted_length(sampling, sum(use.entering), architecture.max_positions)
        use = replace(use, answer=sampling.max_new_tokens)
    if not use.fits:
        raise ResourceError(use.refusal())
    return sampling


def _as_messages(request: ChatRequest, files: tuple[LocalMedia, ...]) -> list[dict[str, Any]]:
    """The messages as `inputs_from_messages` takes them, with local files."""
    at, read = iter(files), request.read
    listed = []
    for message in request.messages:
        parts: list[dict[str, Any]] = []
        for part in message.parts:
            if isinstance(part, str):
                parts.append({"type": "text", "text": part})
                continue
            path = next(at).path
            what = _picture(path) if part.kind == "image" else path
            found: dict[str, Any] = {"type": part.kind, part.kind: what}
            if part.kind == "video":
                found |= {"fps": read.fps, "max_frames": read.max_frames}
                found |= {"total_pixels": read.total_pixels, "video_track": read.video_track}
            if part.kind != "image":
                found |= {f"{part.kind}_start": read.start, f"{part.kind}_end": read.end}
                found |= {"audio_track": read.audio_track, "max_audio": read.max_audio}
            if part.kind != "audio" and read.max_pixels is not None:
                found["max_pixels"] = read.max_pixels
            parts.append(found)
        listed.append({"role": message.role, "content": parts})
    return listed


_PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # no format that starts a program
_MOST_OBLONG = 200  # `qwen_omni_utils` refuses more


def _picture(path: str) -> Image.Image:
    try:
        picture = Image.open(path, formats=_PICTURES)
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(
            f"A picture of the request is damaged, or none of {', '.join(_PICTURES)}."
        ) from error
    if max(picture.size) > _MOST_OBLONG * min(picture.size):
        raise MediaError(f"A picture of the request is over {_MOST_OBLONG} times as long as wide.")
    return picture
