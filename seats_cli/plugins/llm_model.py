"""The model `seats` of the program llm: `llm -m seats "What is shown?" -a clip.mp4`.

Imported whenever llm starts, so nothing heavy is imported here before a question is asked.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import llm
from llm.parts import AttachmentPart, StreamEvent, TextPart
from pydantic import Field

if TYPE_CHECKING:
    from seats_cli.plugins.clip_model import ClipModel
    from seats_cli.results import Answer, Turn

# What llm finds in files that PyAV reads: by the first bytes, and by what others call them.
_TYPES = frozenset(
    f"{kind}/{name}"
    for kind, names in {
        "video": "mp4 x-m4v m4v quicktime webm x-matroska matroska x-msvideo avi msvideo mpeg mp2t "
        "ogg 3gpp 3gpp2 x-flv x-ms-wmv x-ms-asf",
        "audio": "mpeg mp3 mp4 m4a x-m4a wav x-wav wave vnd.wave ogg opus flac x-flac aac x-aac "
        "webm aiff x-aiff amr x-ms-wma",
        "image": "png jpeg webp gif bmp tiff avif heic",
    }.items()
    for name in names.split()
)
_REPORTED = ("finish_reason", "evidence", "tokens", "cost", "timing", "model", "warnings")


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell llm about the model."""
    register(SeatsModel())


class SeatsModel(llm.Model):
    """A Qwen-Omni model on this machine, asked about one clip with token pruning.

    A conversation is a `ClipSession`: the clip is read and encoded once, and earlier turns stand in
    front of each question. With `llm -c`, which is another process, the clip is read again.
    """

    model_id = "seats"
    can_stream = True
    attachment_types = _TYPES

    class Options(llm.Options):
        """What `-o NAME VALUE` sets; parameters of the same names as on our command line."""

        retain: str | float | None = Field(
            default=None,
            description="Share of audio and video tokens to keep: 0.1 or 10% (default: 25%).",
        )
        method: str | None = Field(default=None, description="Selection method (default: seats).")
        kv: str | None = Field(default=None, description="KV policy, layerwise or survivors.")
        full: bool = Field(default=False, description="Prune nothing.")
        model: str | None = Field(
            default=None,
            description="Hub id or folder of the checkpoint (default: SEATS_MODEL, or the bundled "
            "demonstration model).",
        )
        device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps or spread.")
        start: float | None = Field(default=None, description="Where to begin, in seconds.")
        end: float | None = Field(default=None, description="Where to stop, in seconds.")
        fps: float = Field(default=2.0, gt=0, description="Frames per second to sample.")
        max_frames: int = Field(default=768, ge=2, description="Most frames to read.")
        max_pixels: int | None = Field(default=None, description="Most pixels of a frame.")
        audio: bool = Field(default=True, description="Whether to read the sound.")
        max_new_tokens: int | None = Field(default=None, ge=1, description="Longest answer.")
        temperature: float | None = Field(default=None, ge=0, description="0 is greedy.")
        top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling.")
        top_k: int | None = Field(default=None, ge=0, description="0 draws from all tokens.")
        seed: int = Field(default=0, ge=0, description="Seed of sampling.")

    # By what a model is loaded with; of all instances, because llm makes one whenever it is asked
    # for its models.
    _clips: ClassVar[dict[Any, ClipModel]] = {}

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None,
    ) -> Iterator[str | StreamEvent]:
        """Answer, piece by piece; what the model reasons before it answers comes as such."""
        asked = read_messages(prompt.messages)
        pieces = _pieces(lambda say, think, check: self._ask(asked, prompt, say, think, check))
        with closing(pieces):
            for piece in pieces:
                if not isinstance(piece, (str, StreamEvent)):
                    if not stream:
                        yield piece.text
                    _report(piece, response)
                elif stream or isinstance(piece, StreamEvent):
                    yield piece

    def _ask(
        self,
        asked: AskedClip,
        prompt: llm.Prompt,
        say: Callable[[str], None],
        think: Callable[[str], None],
        check: Callable[[], None],
    ) -> Answer:
        from seats_cli.config import ModelOptions
        from seats_cli.media.clip import ReadOptions
        from seats_cli.plugins.clip_model import ClipModel, ClipSource, config_from

        options = prompt.options
        name = options.model or os.environ.get("SEATS_MODEL") or None
        model = ModelOptions(model=name, device=options.device)
        clips = self._clips.setdefault(model, ClipModel(model))
        clip = asked.attachment
        return clips.ask(
            ClipSource(path=clip.path, url=clip.url, content=clip.content),
            asked.question,
            config=config_from(options.retain, options.method, options.kv, full=options.full),
            read=ReadOptions(
                start=options.start,
                end=options.end,
                fps=options.fps,
                max_frames=options.max_frames,
                max_pixels=options.max_pixels,
                audio=options.audio,
            ),
            system=asked.system,
            history=asked.history,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=options.seed,
            on_text=say,
            on_thinking=think,
            check=check,
        )


@dataclass(frozen=True)
class AskedClip:
    """What a conversation comes to: one clip, the turns so far, and a question."""

    attachment: llm.Attachment
    question: str
    history: tuple[Turn, ...] = ()
    system: str | None = None


def read_messages(messages: Sequence[Any]) -> AskedClip:
    """Read llm's messages, of which the last one asks.

    Raises
    ------
    llm.ModelError
        If there is no clip, no question, or more than one clip.
    """
    from seats_cli.results import Turn

    clips: dict[str, llm.Attachment] = {}
    system, question = None, ""
    history: list[Turn] = []
    for message in messages:
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        for part in message.parts:
            if isinstance(part, AttachmentPart) and part.attachment is not None:
                clips.setdefault(part.attachment.id(), part.attachment)
        if message.role == "system":
            system = text
        elif message.role == "user":
            question = text
        elif message.role == "assistant" and question:
            history.append(Turn(question, text))
            question = ""
    if not clips:
        raise llm.ModelError("Attach a video, a sound or a picture: -a clip.mp4.")
    if len(clips) > 1:
        raise llm.ModelError(
            f"One clip at a time can be asked about, and here are {len(clips)}: begin another "
            "conversation for another clip."
        )
    if not question.strip():
        raise llm.ModelError("There is no question: llm -m seats 'What is shown?' -a clip.mp4.")
    return AskedClip(next(iter(clips.values())), question.strip(), tuple(history), system)


class _LeftError(Exception):
    """Nobody reads the answer any more."""


def _pieces(ask: Callable[..., Answer]) -> Generator[str | StreamEvent | Answer, None, None]:
    """Turn callbacks into an iterator: pieces of the answer, and then the answer.

    `ask` is called in a thread with what receives text, what receives reasoning, and what is
    called again and again. Where the iterator is given up, the thread ends within a layer, or a
    frame of the clip that it reads.
    """
    from seats_cli.errors import ADVICE, SeatsError, out_of_memory_on

    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left = threading.Event()

    def check() -> None:
        if left.is_set():
            raise _LeftError

    def say(piece: str) -> None:
        check()
        arrived.put(piece)

    def think(piece: str) -> None:
        check()
        arrived.put(StreamEvent(type="reasoning", chunk=piece))

    def work() -> None:
        try:
            arrived.put(ask(say, think, check))
        except BaseException as error:
            arrived.put(error)

    thread = threading.Thread(target=work, name="seats", daemon=True)
    thread.start()
    try:
        while True:
            piece = arrived.get()
            if isinstance(piece, SeatsError):
                raise llm.ModelError(str(piece)) from piece
            if isinstance(piece, BaseException):
                place = out_of_memory_on(piece)
                if place is None:
                    raise piece
                raise llm.ModelError(f"Out of memory on the {place}. {ADVICE}") from piece
            yield piece
            if not isinstance(piece, (str, StreamEvent)):
                return
    finally:
        left.set()
        thread.join()


def _report(answer: Answer, response: llm.Response) -> None:
    """Token counts and evidence for llm's log, and warnings on stderr."""
    from seats_cli.report.documents import answer_document

    document = answer_document(answer)
    response.response_json = {key: document[key] for key in _REPORTED}
    counts = document["tokens"]
    response.set_usage(
        input=counts["offered"]["total"],
        output=len(answer.token_ids),
        details={name: counts[name] for name in ("offered", "final", "average_retention")},
    )
    for warning in answer.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
