"""The folder of a run: one record per answer, appended, and read back to resume."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from seats_cli.errors import UsageError
from seats_cli.evaluate.questions import EvalProtocol, QuestionSet


@dataclass(frozen=True)
class ItemRecord:
    """An answer, or why there is none."""

    # `item_id`, `clip_key`, `family`, `kind`: of the item; see `seats_cli.evaluate.questions.Item`.
    item_id: str
    clip_key: str
    label: str  # of the setting, "full" or "seats 10%"; together with `item_id` it names the record
    method: str  # selection method, "full" for the unpruned model
    # Right answer and the model's text.
    expected: str
    given: str = ""
    # From `seats_cli.evaluate.scoring.score`; False where there is an error.
    correct: bool = False
    unparsed: bool = False
    thinking: str = ""  # what the model reasoned before it answered
    # Generated tokens, reasoning included, and whether their number ended the answer.
    answer_tokens: int | None = None
    cut_off: bool = False
    # What was said of the clip, the context or the reasoning.
    warnings: tuple[str, ...] = ()
    # Why there is no answer; such a record is counted separately, never as a wrong answer.
    error: str | None = None
    # Whether the error is the method's, which cannot reach the budget on this clip: the setting is
    # then left out of the results, and asked nothing that stands behind this question.
    refused: bool = False
    family: str = ""
    kind: str = ""
    retain: float | None = None  # overall share asked for; None for the unpruned model
    # Tokens alive, mean over the decoder layers.
    video_tokens: float | None = None
    audio_tokens: float | None = None
    # Tokens that the encoders give.
    offered_video_tokens: int | None = None
    offered_audio_tokens: int | None = None
    # Mean over the layers of the audio-visual share alive; None without such tokens.
    average_retention: float | None = None
    # Of the LLM's prefill, pruned and unpruned, and of choosing tokens; 2 per multiply-add.
    prefill_flops: float | None = None
    full_prefill_flops: float | None = None
    selection_flops: float | None = None
    # Of the encoders as executed, and without Stage 0 or encoder reuse.
    encoder_flops: float | None = None
    full_encoder_flops: float | None = None
    kv_bytes: int | None = None  # of the KV cache right after the prefill
    # Largest memory of the process or device.
    peak_host_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    # Seconds of the LLM's prefill, of the selection, to the first token, and altogether, without
    # the encoders, whose work settings share; None for a setting's further questions about a clip,
    # which find the work of the first one done.
    prefill_s: float | None = None
    select_s: float | None = None
    first_token_s: float | None = None
    total_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse an error that counts as a right answer."""
        if self.error is not None and self.correct:
            raise ValueError(f"{self.item_id}: a record with an error cannot be correct")

    @property
    def key(self) -> tuple[str, str]:
        """What names the record among all of a run."""
        return self.item_id, self.label

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ItemRecord:
        """A record from a line of JSON; keys that a newer version added are left out.

        Raises
        ------
        UsageError
            If something that every record has is missing.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        try:
            return cls(**{**known, "warnings": tuple(known.get("warnings", ()))})
        except (TypeError, ValueError) as error:
            raise UsageError(f"This is not a record of an evaluation: {error}.") from error


# Fields that are those of an answer's `Cost` and `Timing`.
COSTS = (
    *("prefill_flops", "full_prefill_flops", "selection_flops", "encoder_flops"),
    *("full_encoder_flops", "kv_bytes", "peak_host_bytes", "peak_gpu_bytes"),
)
TIMES = ("prefill_s", "select_s", "first_token_s", "total_s")

DESCRIPTION = "run.json"
ANSWERS = "answers.jsonl"
SCHEMA_VERSION = "1"


class RunFolder:
    """Where a run's answers are stored; an interrupted run is resumed from its folder.

    Every process appends to a file of its own ("answers-<rank>.jsonl"); `merge` brings them
    together in "answers.jsonl". A line that a kill cut short is dropped, and its question is
    asked again.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    description : mapping
        What was asked: question set, model, reading and, under "settings", the configuration of
        each label. Stored in "run.json".
    rank : int
        Number of this process.

    Raises
    ------
    UsageError
        If the folder holds another run, or something else.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], *, rank: int = 0) -> None:
        self.folder = folder
        self._own = folder / f"answers-{rank}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be a folder for results: {error.strerror}."
            ) from None
        self._describe(dict(description), write=rank == 0)
        self.records = self._read()
        self._file = self._own.open("a", encoding="utf-8")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, record: ItemRecord) -> None:
        """Store a record so that it survives whatever happens next."""
        self._file.write(_line(record))
        self._file.flush()

    def merge(self) -> list[ItemRecord]:
        """All records of all processes in one file; call it when all of them have finished."""
        self._file.close()
        records = self._read()
        self._rewrite(records)
        return records

    def forget_errors(self) -> None:
        """Drop the records of items that failed or were refused, so that they are asked again.

        Only one process may do this, before any has begun.
        """
        self._file.close()
        self.records = [record for record in self._read() if record.error is None]
        self._rewrite(self.records)
        self._file = self._own.open("a", encoding="utf-8")

    def check(self, questions: QuestionSet) -> None:
        """Refuse to resume if the questions have changed since.

        Raises
        ------
        UsageError
        """
        items = {item.id: item for item in questions.items}
        for record in self.records:
            item = items.get(record.item_id)
            if item is not None and (item.answer, item.clip_key) != (
                record.expected,
                record.clip_key,
            ):
                raise UsageError(
                    f"{self.folder} holds answers to another version of {questions.name}: item "
                    f"{record.item_id} has changed; choose another `out` folder."
                )

    def _describe(self, description: dict[str, Any], *, write: bool) -> None:
        path = self.folder / DESCRIPTION
        if not path.exists():
            strangers = [found.name for found in self.folder.iterdir() if found.name != path.name]
            if write and any(not name.startswith("answers") for name in strangers):
                raise UsageError(
                    f"{self.folder} is not empty and holds no results; choose another `out` folder."
                )
            if write:
                _write_json(path, {"schema_version": SCHEMA_VERSION, **description})
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            settings = dict(known["settings"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{path} cannot be read; choose another `out` folder.") from None
        # What a protocol has got since the folder was written acted as its default there.
        if isinstance(known.get("reading"), dict):
            known["reading"] = {**dataclasses.asdict(EvalProtocol()), **known["reading"]}
        for name, value in description.items():
            if name not in ("settings", "machine") and known.get(name) != value:
                if name == "reading" and known[name]["as_published"] != value["as_published"]:
                    raise UsageError(
                        f"{self.folder} holds results that were{' not' * value['as_published']} "
                        "measured with `as_published`, and the two do not mix; choose another "
                        "`out` folder."
                    )
                raise UsageError(
                    f"{self.folder} holds results with another {name}; choose another `out` folder."
                )
        for label, config in description["settings"].items():
            if label in settings and _acting(settings[label]) != _acting(config):
                raise UsageError(
                    f"{self.folder} holds results of another configuration called '{label}'; "
                    "choose another `out` folder."
                )
        if write and not set(description["settings"]) <= set(settings):
            _write_json(path, {**known, "settings": {**settings, **description["settings"]}})

    def _rewrite(self, records: Iterable[ItemRecord]) -> None:
        """Put these records, and no others, into one file."""
        new = self.folder / f"{ANSWERS}.new"
        with new.open("w", encoding="utf-8") as file:
            file.writelines(_line(record) for record in records)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / ANSWERS)
        for path in self.folder.glob("answers-*.jsonl"):
            path.unlink()

    def _read(self) -> list[ItemRecord]:
        """All records there are, the first of each pair; ends of lines cut short are removed."""
        found: dict[tuple[str, str], ItemRecord] = {}
        for path in sorted(self.folder.glob("answers*.jsonl")):
            for line in _whole_lines(path, repair=path == self._own):
                record = ItemRecord.from_dict(line)
                found.setdefault(record.key, record)
        return list(found.values())


def _acting(setting: Any) -> Any:
    """A stored setting as far as it acts: a folder may name options of methods that did not run."""
    from seats_cli.selection.methods import acting_settings

    if not isinstance(setting, dict) or not isinstance(setting.get("config"), dict):
        return setting
    return {**setting, "config": acting_settings(setting["config"])}


def _line(record: ItemRecord) -> str:
    return json.dumps(record.as_dict(), ensure_ascii=False, allow_nan=False) + "\n"


def _whole_lines(path: Path, *, repair: bool) -> list[Any]:
    """The lines of a file; of one that this process writes to, a last part line is cut off."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if repair and whole < len(content):
        os.truncate(path, whole)
    lines = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UsageError(f"{path}, line {number}, is damaged; remove that line.") from None
    return lines


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(path)
