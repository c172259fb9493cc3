"""The loop over clips, settings and questions, on the bundled model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.errors import ConfigError
from seats_cli.evaluate import runner
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import Item, QuestionSet, open_clip
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.runner import Shard, evaluate, places_to_ask, refusals
from seats_cli.models import LoadedModel, load_model
from seats_cli.results import Answer, RunSpec, Timing
from seats_cli.selection.methods.ablation import ModalityAblation

FULL = RunSpec("full", None)
SEATS = RunSpec("seats 25%", SeatsConfig(retain=0.25))
RANDOM = RunSpec("random 25%", SeatsConfig(method="random", retain=0.25))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("bundled", device="cpu")


@pytest.fixture(scope="module")
def questions() -> QuestionSet:
    return synthetic_set(6, seed=5)


def run(
    loaded: LoadedModel, questions: QuestionSet, *settings: RunSpec, **more: Any
) -> list[ItemRecord]:
    records: list[ItemRecord] = []
    evaluate(loaded, questions, settings, done=more.pop("done", ()), store=records.append, **more)
    return records


@pytest.fixture(scope="module")
def records(loaded: LoadedModel, questions: QuestionSet) -> list[ItemRecord]:
    return run(loaded, questions, FULL, SEATS, RANDOM)


def test_every_pair_once(questions: QuestionSet, records: list[ItemRecord]) -> None:
    assert sorted(record.key for record in records) == sorted(
        (item.id, setting.label) for item in questions.items for setting in (FULL, SEATS, RANDOM)
    )
    assert all(record.error is None for record in records)


def test_answers_are_those_of_ask(
    loaded: LoadedModel, questions: QuestionSet, records: list[ItemRecord]
) -> None:
    for item in (item for item in questions.items if not item.choices):
        clip = open_clip(item, questions.protocol, loaded.sizing)
        for setting in (FULL, SEATS):
            alone = ask(loaded, clip, item.question, config=setting.config)
            found = next(one for one in records if one.key == (item.id, setting.label))
            assert found.given == alone.text
            assert found.prefill_flops == alone.cost.prefill_flops


def test_the_first_question_about_a_clip_is_timed(
    questions: QuestionSet, records: list[ItemRecord]
) -> None:
    clips = {item.clip_key for item in questions.items}
    assert len(clips) < len(questions.items)  # or nothing would be shared
    for setting in (FULL, SEATS, RANDOM):
        of_setting = [record for record in records if record.label == setting.label]
        timed = [record for record in of_setting if record.total_s is not None]
        assert [record.clip_key for record in timed] == sorted(clips)
        assert of_setting[0].first_token_s is not None
        assert all(record.prefill_flops is not None for record in of_setting)


def test_no_setting_is_slower_for_having_encoded_the_clip(
    loaded: LoadedModel, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings: list[Timing] = []

    def noted(*args: Any, **how: Any) -> Answer:
        answer = ask(*args, **how)
        timings.append(answer.timing)
        return answer

    monkeypatch.setattr(runner, "ask", noted)
    one = replace(questions, items=questions.items[:1])
    records = run(loaded, one, SEATS, FULL)
    assert timings[0].vision_s > 0.0
    assert timings[1].vision_s < timings[0].vision_s  # it finds the encodings
    for record, timing in zip(records, timings, strict=True):
        encoding = timing.vision_s + timing.audio_s
        assert record.first_token_s == pytest.approx(timing.first_token_s - encoding)
        assert record.total_s == pytest.approx(timing.total_s - encoding)


def test_questions_about_a_clip_share_its_prefill(
    loaded: LoadedModel, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[PrefixStore] = []

    class Noted(PrefixStore):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.used = 0
            stores.append(self)

        def find(self, *args: Any) -> Any:
            found = super().find(*args)
            self.used += found is not None
            return found

    monkeypatch.setattr(runner, "PrefixStore", Noted)
    run(loaded, questions, FULL, SEATS)
    asked = Counter(item.clip_key for item in questions.items)
    assert len(stores) == 2 * sum(count > 1 for count in asked.values())
    assert all(len(store) == 1 and store.used for store in stores)
    stores.clear()
    run(loaded, replace(questions, items=questions.items[:1]), FULL, SEATS)
    assert not stores  # nothing is kept for questions that do not come


def test_what_is_done_is_not_repeated(
    loaded: LoadedModel, questions: QuestionSet, records: list[ItemRecord]
) -> None:
    again = run(loaded, questions, FULL, SEATS, RANDOM, done=records[:-2])
    assert [record.key for record in again] == [record.key for record in records[-2:]]
    assert [record.given for record in again] == [record.given for record in records[-2:]]


def test_shards_part_the_clips(
    loaded: LoadedModel, questions: QuestionSet, records: list[ItemRecord]
) -> None:
    parts = [run(loaded, questions, SEATS, shard=Shard(rank, 2)) for rank in (0, 1)]
    assert all(parts)
    assert {r.clip_key for r in parts[0]}.isdisjoint(r.clip_key for r in parts[1])
    whole = {record.key: record.given for record in records if record.label == SEATS.label}
    assert {record.key: record.given for part in parts for record in part} == whole


def test_a_clip_that_cannot_be_read(loaded: LoadedModel, questions: QuestionSet) -> None:
    missing = Item("gone", "nowhere/clip.mp4", "Which color?", "red")
    mixed = replace(questions, items=(missing, questions.items[0]))
    records = run(loaded, mixed, SEATS)
    assert records[0].error is not None
    assert "clip.mp4" in records[0].error
    assert not records[0].correct
    assert records[1].error is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Out of memory on the host."),
        (RuntimeError("odd\nshape"), "RuntimeError: odd shape"),
    ],
)
def test_a_failing_question_does_not_end_the_run(
    loaded: LoadedModel,
    questions: QuestionSet,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    real, first = runner.ask, questions.items[0]

    def failing(model: Any, clip: Any, question: str, **options: Any) -> Any:
        if question == first.question:
            raise error
        return real(model, clip, question, **options)

    monkeypatch.setattr(runner, "ask", failing)
    records = run(loaded, questions, SEATS)
    assert len(records) == len(questions)
    assert {record.error for record in records if record.item_id == first.id} == {words}
    assert any(record.error is None for record in records)


def test_interrupts_are_no_failures(
    loaded: LoadedModel, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(loaded, questions, SEATS)


def test_hidden_from_a_layer_on(loaded: LoadedModel, questions: QuestionSet) -> None:
    depth = loaded.architecture.num_layers
    everything = SeatsConfig(method="full")
    hidden = RunSpec("no video", everything, ModalityAblation(4, video=True, audio=False))
    (record, *_) = run(loaded, questions, hidden)
    assert record.method == "blind"
    assert record.video_tokens == pytest.approx(record.offered_video_tokens * 4 / depth)
    assert record.audio_tokens == record.offered_audio_tokens


def test_a_budget_out_of_reach_is_refused_once(loaded: LoadedModel, questions: QuestionSet) -> None:
    impossible = RunSpec("fastv-om 5%", SeatsConfig(method="fastv-om", retain=0.05))
    settled: list[int] = []
    records = run(loaded, questions, impossible, SEATS, on_progress=settled.append)
    assert len(settled) == len(records)
    assert sum(settled) == 2 * len(questions.items)  # a bar of them comes to its end
    refused = refusals(questions, records)
    assert "out of reach" in str(refused["fastv-om 5%"].error)
    assert [record.key for record in records if record.refused] == [
        (questions.items[0].id, "fastv-om 5%")
    ]
    assert {record.label for record in records if not record.refused} == {SEATS.label}
    assert run(loaded, questions, impossible, SEATS, done=records) == []


def test_what_stands_before_a_refusal_is_asked_still(
    loaded: LoadedModel, questions: QuestionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has met a later refusal than another one would."""
    clips = [items for _, items in questions.clips()]
    assert len(clips) >= 3
    refusing = {item.question for item in clips[1]}
    real = runner.ask

    def ask_or_refuse(model: Any, clip: Any, question: str, **options: Any) -> Any:
        if question in refusing:
            raise ConfigError("This budget is out of reach.")
        return real(model, clip, question, **options)

    monkeypatch.setattr(runner, "ask", ask_or_refuse)
    later = clips[2][0]
    known = ItemRecord(
        later.id, later.clip_key, SEATS.label, "seats", later.answer, error="No.", refused=True
    )
    left = places_to_ask(questions, [SEATS], [known], Shard())[SEATS.label]
    assert left == set(range(questions.items.index(later)))
    settled: list[int] = []
    records = run(loaded, questions, SEATS, done=[known], on_progress=settled.append)
    assert sum(settled) == len(left) > len(records)
    assert [record.item_id for record in records] == [
        *(item.id for item in clips[0]),
        clips[1][0].id,
    ]
    assert records[-1].refused
    first = refusals(questions, [known, *records])
    assert first == refusals(questions, [*records, known]) == {SEATS.label: records[-1]}
    assert refusals(replace(questions, items=clips[0]), [known, *records]) == {}
