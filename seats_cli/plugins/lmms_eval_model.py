"""The model `seats` of lmms-eval, and what its task files in `tasks/` name.

    lmms-eval --model seats --model_args pretrained=Qwen/Qwen2.5-Omni-7B,retain=0.1 --tasks videomme

Tasks are asked with their messages, one clip each, read with its sound. `tasks/` has the benchmarks
that lmms-eval lacks; they are read, asked and scored as by `seats eval`.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from seats_cli.config import ModelOptions
from seats_cli.errors import MediaError, ResourceError, UsageError
from seats_cli.evaluate.benchmarks import read_benchmark
from seats_cli.evaluate.questions import Item
from seats_cli.evaluate.runner import MAX_SEED
from seats_cli.evaluate.scoring import prompt_for, score
from seats_cli.media.clip import ReadOptions
from seats_cli.plugins.clip_model import ClipModel, ClipSource, config_from
from seats_cli.results import Turn

_log = logging.getLogger(__name__)

Document = Mapping[str, Any]


class SeatsModel(lmms):
    """A Qwen-Omni model with token pruning; parameters are those of `--model_args`.

    Parameters
    ----------
    pretrained : str or None
        Hub id or folder; None for the bundled demonstration model.
    retain, method, kv, full
        What to keep, as `seats_cli.plugins.clip_model.config_from` takes it.
    device, dtype, attn, revision, quantize, adapter
        How the model is loaded, as on the command line of `seats`.
    fps, max_frames, max_pixels, audio
        How clips are read. A task's `generation_kwargs` may say `fps`, `max_frames` and
        `min_tokens_per_grid` and `max_tokens_per_grid`; what is given here wins.
    max_new_tokens : int or None
        In place of the task's own. A model that thinks has the length and the sampling that its
        checkpoint asks for, whatever the task says.
    system : str or None
        System turn of tasks that have none.
    seed : int
        Of methods that draw at random, and of sampling.
    batch_size, max_batch_size
        Given by lmms-eval; prompts are asked one at a time whatever they say.

    Raises
    ------
    UsageError
        In one of several processes: `accelerate launch -m seats_cli eval` spreads a run.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        retain: str | float | None = None,
        method: str | None = None,
        kv: str | None = None,
        full: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        attn: str = "sdpa",
        revision: str | None = None,
        quantize: str | None = None,
        adapter: str | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        audio: bool = True,
        max_new_tokens: int | None = None,
        system: str | None = None,
        seed: int = 0,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "The model runs in one process; `accelerate launch -m seats_cli eval` spreads "
                "benchmarks over several."
            )
        if str(batch_size) not in ("1", "auto"):
            _log.warning("Clips are asked one at a time; batch_size %s is ignored.", batch_size)
        self._config = config_from(retain, method, kv, full=full)
        self._reading = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels}
        self._audio, self._max_new_tokens = audio, max_new_tokens
        self._system, self._seed = system, seed
        options = ModelOptions(
            model=pretrained,
            device=device,
            dtype=dtype,
            attention=attn,
            revision=revision,
            quantize=quantize,
            adapter=adapter,
        )
        self._clips = ClipModel(options, talks=False)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer for each request, "" for a clip that cannot be read (which is logged).

        Those about one clip are asked one after the other.
        """
        prompts, settings = [], []
        for request in requests:
            prompt, kwargs = self._prompt(request)
            prompts.append(prompt)
            settings.append(kwargs)
        first: dict[Any, int] = {}
        for number, prompt in enumerate(prompts):
            first.setdefault(prompt.source.identity, number)
        order = sorted(range(len(prompts)), key=lambda at: first[prompts[at].source.identity])
        answers = [""] * len(prompts)
        questions: dict[Any, list[str]] = defaultdict(list)
        for prompt in prompts:
            questions[prompt.source.identity, prompt.read].append(prompt.question)
        for at in tqdm(order, desc="seats"):
            asked, kwargs = prompts[at], settings[at]
            try:
                others = questions[asked.source.identity, asked.read]
                answers[at] = self._answer(asked, kwargs, others)
            except (MediaError, ResourceError) as error:
                _log.error("%s: %s", asked.source.name, error)
            self.cache_hook.add_partial(
                "generate_until", (requests[at].args[0], kwargs), answers[at]
            )
        return answers

    def _prompt(self, request: Instance) -> tuple[ReadPrompt, dict[str, Any]]:
        """What a request asks, and its task's `generation_kwargs`."""
        context, second, third, doc_id, task, split = request.args
        document = self.task_dict[task][split][doc_id]
        if callable(second):
            messages, kwargs = second(document), third
        else:
            # A task that is given by the path of its file has no messages, whatever the model
            # says, but a text and what `doc_to_visual` returns.
            parts = [{"type": _kind(media), "url": media} for media in third(document) or ()]
            text = {"type": "text", "text": context}
            messages, kwargs = [{"role": "user", "content": [*parts, text]}], second
        prompt = read_prompt(messages)
        own = document.get("id") if isinstance(document, Mapping) else None
        # As `seats eval` seeds an item.
        seed = self._seed if own is None else zlib.crc32(f"{self._seed}:{own}".encode()) % MAX_SEED
        return replace(prompt, seed=seed), dict(kwargs)

    def _answer(
        self, asked: ReadPrompt, kwargs: Mapping[str, Any], questions: Sequence[str]
    ) -> str:
        """One answer; `questions` are all about its clip, the longest of which has to fit."""
        if int(kwargs.get("num_beams") or 1) > 1:
            raise UsageError("`num_beams` above 1 is not possible with pruning.")
        reading = {name: kwargs.get(name) for name in ("fps", "max_frames")}
        reading |= {name: value for name, value in self._reading.items() if value is not None}
        read = replace(
            asked.read, **{name: value for name, value in reading.items() if value is not None}
        )
        how: dict[str, Any] = {"max_new_tokens": self._max_new_tokens}
        # A task's length and greediness are meant for an answer without reasoning before it: a
        # model that thinks has its own, as in `seats eval`.
        if not self._clips.loaded.thinks:
            if self._max_new_tokens is None:
                how["max_new_tokens"] = kwargs.get("max_new_tokens")
            greedy = kwargs.get("do_sample") is False
            warmth = kwargs.get("temperature")
            if warmth is None:  # transformers' own, where a task only says that it draws
                warmth = 1.0 if kwargs.get("do_sample") else 0.0
            how["temperature"] = 0.0 if greedy else float(warmth)
            how["top_p"] = kwargs.get("top_p") or None
        answer = self._clips.ask(
            asked.source,
            asked.question,
            config=self._config,
            read=replace(read, audio=read.audio and self._audio),
            grid_tokens=(kwargs.get("min_tokens_per_grid"), kwargs.get("max_tokens_per_grid")),
            system=self._system if asked.system is None else asked.system,
            history=asked.history,
            others=questions,
            seed=asked.seed,
            evidence=False,
            **how,
        )
        for warning in answer.warnings:
            _log.warning("%s: %s", asked.source.name, warning)
        return _until(answer.text, kwargs.get("until"))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not possible: tasks of this kind score texts that the model has not written."""
        raise NotImplementedError("The model `seats` generates; choose a generate_until task.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not possible: the prompts of later rounds are made by each task in a way of its own."""
        raise NotImplementedError("The model `seats` has no multi-round tasks.")


def _until(text: str, stops: str | Iterable[str] | None) -> str:
    """The text up to the first of the strings at which a task wants it to end."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop:
            text = text.split(stop)[0]
    return text


# ------------------------------------------------ messages


@dataclass(frozen=True)
class ReadPrompt:
    """What a task's messages come to: one clip, the turns before, and a question."""

    source: ClipSource
    question: str
    read: ReadOptions
    system: str | None = None
    history: tuple[Turn, ...] = ()
    seed: int = 0


def read_prompt(messages: Sequence[Mapping[str, Any]]) -> ReadPrompt:
    """Read messages as lmms-eval's `ChatMessages` have them.

    Texts of a message follow each other without anything between them, as in a chat template.

    Raises
    ------
    UsageError
        If there is not exactly one video, sound or picture, or it is given in a way that is not
        known.
    """
    clips: list[tuple[ClipSource, ReadOptions]] = []
    system, question = None, ""
    history: list[Turn] = []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        clips += [_clip(part) for part in parts if part["type"] != "text"]
        if message["role"] == "system":
            system = text
        elif message["role"] == "user":
            question = text
        else:
            history.append(Turn(question, text))
    if len(clips) != 1:
        raise UsageError(
            f"The model `seats` is asked about one clip at a time; this prompt has {len(clips)}."
        )
    source, read = clips[0]
    return ReadPrompt(source, question, read, system, tuple(history))


def _kind(media: Any) -> str:
    """The type of what a task gives without one; of files, what is in them decides."""
    if hasattr(media, "save"):
        return "image"
    return "audio" if isinstance(media, Mapping) and "array" in media else "video"


def _clip(part: Mapping[str, Any]) -> tuple[ClipSource, ReadOptions]:
    """The clip of a part of a message, and which of it to read."""
    media, start, end = part["url"], part.get("start_time"), part.get("end_time")
    sound = part["type"] == "audio"
    if isinstance(media, Mapping):
        start = media.get("video_start", start)
        end = media.get("video_end", end)
        if "array" in media:
            media = _wav(media["array"], media["sampling_rate"])
        else:
            media = media.get("bytes") or media.get("path") or media.get("url")
    read = ReadOptions(start=start, end=end, video=not sound)
    if isinstance(media, (str, os.PathLike)):
        name = os.fspath(media)
        remote = name.startswith(("http://", "https://"))
        return (ClipSource(url=name) if remote else ClipSource(path=name)), read
    if isinstance(media, bytes):
        return ClipSource(content=media), read
    if part["type"] == "image" and hasattr(media, "save"):
        buffer = BytesIO()
        media.convert("RGB").save(buffer, "PNG")
        return ClipSource(content=buffer.getvalue()), read
    raise UsageError(f"A {part['type']} given as {type(media).__name__} cannot be read.")


def _wav(samples: Any, rate: int) -> bytes:
    """Samples in [-1, 1] as a file, none of them rounded."""
    import soundfile

    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


# ------------------------------------------------ the benchmarks of `tasks/`


def read_documents(index: Iterable[Document]) -> Any:
    """The questions of the benchmarks that a task's own data file names.

    Parameters
    ----------
    index : iterable of mapping
        "benchmark", as `seats eval` calls it, and "root", the environment variable with the folder
        of its annotations and videos.

    Returns
    -------
    datasets.Dataset
        One row for each question.

    Raises
    ------
    UsageError
        If the variable is not set, or as `read_benchmark`.
    """
    import datasets

    rows = []
    for entry in index:
        root = os.environ.get(entry["root"])
        if not root:
            raise UsageError(
                f"Set {entry['root']} to the folder with the annotations and videos of "
                f"{entry['benchmark']}."
            )
        found = read_benchmark(entry["benchmark"], root)
        for item in found.items:
            rows.append(
                {
                    "id": item.id,
                    "media": item.media,
                    "prompt": prompt_for(item, found.protocol),
                    "question": item.question,
                    "choices": list(item.choices),
                    "answer": item.answer,
                    "family": item.family,
                    "kind": item.kind,
                }
            )
    return datasets.Dataset.from_list(rows)


def doc_to_text(document: Document, lmms_eval_specific_kwargs: Any = None) -> str:
    """The prompt."""
    return str(document["prompt"])


def doc_to_visual(document: Document, lmms_eval_specific_kwargs: Any = None) -> list[str]:
    """The clip, for models that are not asked with messages."""
    return [str(document["media"])]


def doc_to_messages(document: Document, lmms_eval_specific_kwargs: Any = None) -> list[Any]:
    """The clip and the prompt."""
    clip = {"type": "video", "url": document["media"]}
    return [{"role": "user", "content": [clip, {"type": "text", "text": document["prompt"]}]}]


def process_results(document: Document, results: Sequence[str]) -> dict[str, float]:
    """Whether the answer is right, and whether none can be read from it."""
    asked = (document["id"], document["media"], document["question"], document["answer"])
    verdict = score(Item(*asked, tuple(document["choices"])), results[0])
    return {"accuracy": float(verdict.correct), "unparsed": float(verdict.unparsed)}
