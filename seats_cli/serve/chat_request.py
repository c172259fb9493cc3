"""What a chat request asks: its JSON, read strictly, as plain data.

Keys are those of OpenAI's chat completions and what servers of multimodal models have added to them
(`video_url`, `audio_url`, `uuid`, `mm_processor_kwargs`, `media_io_kwargs`). What would change the
answer and is not supported is refused; other unknown keys are ignored and named in a warning.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from seats_cli.config import SeatsConfig
from seats_cli.engine.stop_strings import check_stop
from seats_cli.errors import RequestError
from seats_cli.families.generation import Sampling
from seats_cli.media.clip import ReadOptions
from seats_cli.results import Turn
from seats_cli.serve import ServeOptions

MAX_MEDIA = 16  # parts of a request
MAX_CHARACTERS = 1_000_000  # of all texts together, as of a question on the command line
_UUID_CHARACTERS = 256
# Keys without an effect on what is answered here.
_HARMLESS = {"user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key"}
_HARMLESS |= {"safety_identifier", "max_completion_tokens", "max_tokens", "tool_choice"}
_KNOWN = {"model", "messages", "stream", "stream_options", "temperature", "top_p", "top_k", "seed"}
_KNOWN |= {"stop", "seats", "mm_processor_kwargs", "media_io_kwargs"}
# Keys of messages, of their parts and in these, and of `stream_options`; the format of a sound is
# found out, a name belongs to nobody here, and reasoning (as we send it) is no part of a history.
_OF_MESSAGE = {"role", "content", "name", "reasoning_content"}
_OF_PART = {"type", "uuid"}
_OF_MEDIUM = {"url"}
_OF_SOUND = {"data", "format"}
_OF_STREAM = {"include_usage", "include_obfuscation"}
# What the body may hold at most: the texts' own commas, and a part for each medium. It bounds what
# reading it takes, which for many small values is a hundred times their bytes.
_MAX_VALUES = MAX_CHARACTERS + 100_000
# Keys that would change the answer, and the only values under which they don't.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": ({},),
}
_MEDIA = {"video_url": "video", "audio_url": "audio", "image_url": "image"}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class MediaPart:
    """A clip, sound or picture that a message holds."""

    kind: str  # "video", "audio" or "image"
    url: str  # http(s):, data: or file:; "" where only its uuid names it
    uuid: str | None = None  # the client's name for it


@dataclass(frozen=True)
class Message:
    """One message: its role, and texts and media in their order."""

    role: str  # "system", "user" or "assistant"
    parts: tuple[str | MediaPart, ...]

    @property
    def text(self) -> str:
        """All of its texts."""
        return "\n".join(part for part in self.parts if isinstance(part, str)).strip()


@dataclass(frozen=True)
class Talk:
    """Questions about one clip, as `ClipSession.ask` takes them."""

    media: MediaPart
    system: str | None
    history: tuple[Turn, ...]
    question: str


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered; plain data for other processes, too."""

    messages: tuple[Message, ...]
    config: SeatsConfig | None  # None prunes nothing
    read: ReadOptions
    generation: Mapping[str, Any] = field(default_factory=dict)  # parameters of `seats_cli.ask`
    stream: bool = False
    usage_chunk: bool = False  # whether a stream ends with a chunk of usage
    warnings: tuple[str, ...] = ()

    @property
    def media(self) -> tuple[MediaPart, ...]:
        """All media in their order."""
        parts = (part for message in self.messages for part in message.parts)
        return tuple(part for part in parts if isinstance(part, MediaPart))

    @property
    def talk(self) -> Talk | None:
        """The request as a conversation about one clip; None for any other."""
        messages = list(self.messages)
        system = messages.pop(0).text if messages[0].role == "system" else None
        roles = [message.role for message in messages]
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            return None
        found = self.media
        if len(found) != 1 or found[0] not in messages[0].parts:
            return None
        texts = [message.text for message in messages]
        pairs = zip(texts[:-1:2], texts[1::2], strict=True)
        return Talk(found[0], system, tuple(Turn(*pair) for pair in pairs), texts[-1])


def parse_request(body: bytes, options: ServeOptions, model: str) -> ChatRequest:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
        JSON in UTF-8.
    options : ServeOptions
        What holds where the request says nothing.
    model : str
        The id of the model that answers.

    Raises
    ------
    RequestError
        If it is not such a request: one sentence, with status 400, or 404 for another model.
    ConfigError, UsageError
        If a pruning or reading setting is impossible.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise RequestError("The body has too many values.", 413, "too_large")
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RequestError("The body is not JSON in UTF-8.") from None
    asked = _object(found, "The body")
    wanted = asked.get("model", model)
    if wanted != model:
        raise RequestError(
            f"There is no model {_shown(wanted)} here; this server has {model}.",
            404,
            "model_not_found",
            "model",
        )
    for name, neutral in _NEUTRAL.items():
        if asked.get(name) is not None and asked[name] not in neutral:
            only = f"leave it out, or send {json.dumps(neutral[0])}"
            raise RequestError(f"`{name}` is not supported: {only}.", 400, "unsupported", name)
    ignored = _Ignored()
    ignored.note(asked, _KNOWN | _HARMLESS | _NEUTRAL.keys())
    stream = _stream(asked)
    streaming = _object(asked.get("stream_options"), "`stream_options`", optional=True)
    ignored.note(streaming, _OF_STREAM, "stream_options.")
    return ChatRequest(
        messages=_messages(asked.get("messages"), ignored),
        config=_config(asked.get("seats"), options),
        read=_read(asked, options, ignored),
        generation=_generation(asked, options),
        stream=stream,
        usage_chunk=bool(streaming.get("include_usage")),
        warnings=ignored.warnings(),
    )


class _Ignored:
    """Keys that are not known here, each named once however often it comes."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def note(self, found: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
        """Keep what is not known of an object's keys; `where` are those that lead to it.

        What clients fill in without a meaning is not worth a word: null, and what is empty.
        """
        for name in sorted(set(found).difference(known)):
            if found[name] not in (None, [], {}):
                self._names[_shown(f"{where}{name}")] = None

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each."""
        return tuple(f"`{name}` is not known here and was ignored." for name in self._names)


def _refuse_constant(name: str) -> None:
    raise RequestError(f"The body is not JSON: {name} is not a number there.")


def _object(value: Any, what: str, *, optional: bool = False) -> dict[str, Any]:
    if value is None and optional:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{what} must be an object.")
    return value


def _shown(value: Any) -> str:
    return str(value)[:80]


def _stream(asked: Mapping[str, Any]) -> bool:
    stream = asked.get("stream") or False
    if not isinstance(stream, bool):
        raise RequestError("`stream` must be true or false.")
    return stream


# ---------------------------------------------------------- messages


def _messages(listed: Any, ignored: _Ignored) -> tuple[Message, ...]:
    if not isinstance(listed, list) or not listed:
        raise RequestError("`messages` must be a list with at least one message.")
    messages = tuple(_message(one, f"`messages[{at}]`", ignored) for at, one in enumerate(listed))
    if any(message.role == "system" for message in messages[1:]):
        raise RequestError("Only the first of `messages` may be a system message.")
    if messages[-1].role != "user":
        raise RequestError("The last of `messages` must be the user's: it asks.")
    parts = [part for message in messages for part in message.parts]
    if sum(len(part) for part in parts if isinstance(part, str)) > MAX_CHARACTERS:
        raise RequestError(f"The texts are longer than {MAX_CHARACTERS:,} characters.")
    if sum(isinstance(part, MediaPart) for part in parts) > MAX_MEDIA:
        raise RequestError(f"A request may have {MAX_MEDIA} clips, sounds and pictures at most.")
    return messages


def _message(value: Any, where: str, ignored: _Ignored) -> Message:
    found = _object(value, where)
    ignored.note(found, _OF_MESSAGE, "messages.")
    role = found.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise RequestError(f"The role of {where} must be one of {', '.join(_ROLES)}.")
    content = found.get("content")
    if isinstance(content, str):
        return Message(_ROLES[role], (_text(content, where),))
    if not isinstance(content, list):
        raise RequestError(f"The content of {where} must be a text or a list of parts.")
    parts = tuple(_part(part, where, ignored) for part in content)
    if _ROLES[role] != "user" and not all(isinstance(part, str) for part in parts):
        raise RequestError(f"{where} may hold text only: media belong to the user's messages.")
    return Message(_ROLES[role], parts)


def _part(value: Any, where: str, ignored: _Ignored) -> str | MediaPart:
    part = _object(value, f"Each part of {where}")
    kind = part.get("type")
    ignored.note(part, {*_OF_PART, str(kind)}, "messages.content.")
    if kind == "text":
        return _text(part.get("text"), where)
    uuid = part.get("uuid")
    if uuid is not None and not (isinstance(uuid, str) and 0 < len(uuid) <= _UUID_CHARACTERS):
        raise RequestError(f"A `uuid` is a text of 1 to {_UUID_CHARACTERS} characters.")
    if kind == "input_audio":
        sound = _object(part.get(kind), "`input_audio`", optional=True)
        ignored.note(sound, _OF_SOUND, f"{kind}.")
        data = sound.get("data") or ""
        if not isinstance(data, str):
            raise RequestError("The `data` of `input_audio` must be base64 or a URL.")
        # Qwen's own API takes URLs there, too. Base64 has no colon.
        whole = data if ":" in data[:16] else f"data:audio/any;base64,{data}"
        return _named(MediaPart("audio", data and whole, uuid), kind)
    if kind not in _MEDIA:
        known = ", ".join(("text", *_MEDIA, "input_audio"))
        raise RequestError(f"A part of {where} has the type {_shown(kind)}; known are {known}.")
    inner = part.get(kind) or {}
    medium = {"url": inner} if isinstance(inner, str) else _object(inner, f"`{kind}`")
    plain = {"detail"} if medium.get("detail") == "auto" else set()
    ignored.note(medium, _OF_MEDIUM | plain, f"{kind}.")
    url = medium.get("url") or ""
    if not isinstance(url, str):
        raise RequestError(f"The `url` of `{kind}` must be a text.")
    return _named(MediaPart(_MEDIA[kind], url, uuid), str(kind))


def _named(part: MediaPart, kind: str) -> MediaPart:
    for text in (part.url, part.uuid or ""):
        _text(text, f"`{kind}`")
    if not part.url and part.uuid is None:
        raise RequestError(f"`{kind}` needs a URL or data, or the `uuid` of what was sent before.")
    return part


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"A text of {where} must be a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"A text of {where} is not valid Unicode.") from None
    return value


# ---------------------------------------------------------- settings


def _config(value: Any, options: ServeOptions) -> SeatsConfig | None:
    """What to keep: the server's own settings, with those of the request on top."""
    given = dict(_object(value, "`seats`", optional=True))
    full = given.pop("full", None)
    if full not in (None, True, False):
        raise RequestError("`full` must be true or false.")
    if full and given:
        raise RequestError(f"`full` prunes nothing, so `{next(iter(given))}` has no meaning.")
    if full or (not given and options.config is None and full is None):
        return None
    for name in ("retain", "retain_video", "retain_audio"):
        if name in given:
            given[name] = _share(given[name])
    if "retain" in given:  # a target for both together replaces the server's split
        given = {"retain_video": None, "retain_audio": None, **given}
    from seats_cli.selection.methods import METHODS

    base = options.config or SeatsConfig.preset("25%")
    if isinstance(given.get("method"), str):  # what the server's own method has is not asked for
        base = replace(base, method=given["method"])
    merged = {**base.without_options(base.idle_options).to_dict(), **given}
    config = SeatsConfig.from_dict({k: v for k, v in merged.items() if v is not None})

    if config.method not in METHODS:
        raise RequestError(
            f"{_shown(config.method)!r} is not a method: choose from {', '.join(METHODS)}."
        )
    return config


def _share(value: Any) -> Any:
    """A share as JSON and the command line write it, 0.1 or "10%"; others are refused later."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


def _read(asked: Mapping[str, Any], options: ServeOptions, ignored: _Ignored) -> ReadOptions:
    """How clips are read: at most the server's number of frames and size."""
    found: dict[str, Any] = {}
    io = _object(asked.get("media_io_kwargs"), "`media_io_kwargs`", optional=True)
    processor = dict(
        _object(asked.get("mm_processor_kwargs"), "`mm_processor_kwargs`", optional=True)
    )
    use_audio = processor.pop("use_audio_in_video", True)
    if not isinstance(use_audio, bool):
        raise RequestError("`use_audio_in_video` must be true or false.")
    video = dict(_object(io.get("video"), "`media_io_kwargs.video`", optional=True))
    for name, kind in {"num_frames": "max_frames", "max_frames": "max_frames"}.items():
        if video.get(name) not in (None, -1):  # -1 is all of them
            found[kind] = _count(video[name], name, 2, options.read.max_frames)
        video.pop(name, None)
    for source in (processor, video):
        fps = source.pop("fps", None)
        if fps is not None:
            found["fps"] = _number(fps, "fps", 0, 1000, least_excluded=True)
    pixels = processor.pop("max_pixels", None)
    if pixels is not None:
        most = options.read.max_pixels or 1 << 32
        found["max_pixels"] = _count(pixels, "max_pixels", 1, most)
    ignored.note(io, {"video"}, "media_io_kwargs.")
    ignored.note(video, (), "media_io_kwargs.video.")
    ignored.note(processor, (), "mm_processor_kwargs.")
    return replace(options.read, audio=options.read.audio and use_audio, **found)


def _generation(asked: Mapping[str, Any], options: ServeOptions) -> dict[str, Any]:
    found = dict(options.generation)
    for name in ("max_tokens", "max_completion_tokens"):
        if asked.get(name) is not None:
            found["max_new_tokens"] = _count(asked[name], name, 1, 1 << 20)
    if asked.get("temperature") is not None:
        found["temperature"] = _number(asked["temperature"], "temperature", 0, 100)
        Sampling(temperature=found["temperature"]).checked()
    if asked.get("top_p") is not None:
        found["top_p"] = _number(asked["top_p"], "top_p", 0, 1, least_excluded=True)
    if asked.get("top_k") is not None:
        found["top_k"] = max(0, _count(asked["top_k"], "top_k", -1, 1 << 30))  # -1 is all
    if asked.get("seed") is not None:
        found["seed"] = _count(asked["seed"], "seed", -(1 << 63), 1 << 63) % (1 << 32)
    stop = asked.get("stop")
    if stop not in (None, [], ""):
        if not isinstance(stop, str | list):
            raise RequestError("`stop` must be a text or a list of texts.", param="stop")
        found["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        check_stop(found["stop"])
    return found


def _number(
    value: Any, name: str, least: float, most: float, *, least_excluded: bool = False
) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not least <= value <= most:
        raise RequestError(f"`{name}` must be a number from {least:g} to {most:g}.", param=name)
    if least_excluded and value == least:
        raise RequestError(f"`{name}` must be above {least:g}.", param=name)
    return float(value)


def _count(value: Any, name: str, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(
            f"`{name}` must be a whole number from {least:,} to {most:,}.", param=name
        )
    return value
