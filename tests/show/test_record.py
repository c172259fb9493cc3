"""The record of a run: the same as the trace, saved and read back exactly, or refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seats_cli.errors import UsageError
from seats_cli.selection.methods import weightless_methods
from seats_cli.show.page import clip_facts, plan_words
from seats_cli.show.record import AUDIO, VIDEO
from seats_cli.show.strip import strip
from seats_cli.show.trace_file import (
    MisfitError,
    from_document,
    load_record,
    save_record,
    to_document,
)


@pytest.mark.parametrize("method", [None, *sorted(weightless_methods())])
def test_the_record_counts_as_the_trace_does(ask, method):
    run = ask(method=method)
    trace, record = run.answer.trace, run.record
    assert record.alive_per_layer() == trace.alive_per_layer()
    assert record.offered == trace.offered
    for stage, recorded in zip(trace.stages, record.stages, strict=True):
        text, video, audio = np.bincount(record.modality[recorded.kept], minlength=3)
        assert (video, audio, text) == (stage.video, stage.audio, stage.text)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("method", [None, "seats", "omnidrop"])
def test_saved_and_read_back(ask, tmp_path, suffix, method):
    record = ask(method=method).record
    path = tmp_path / f"trace{suffix}"
    save_record(record, path)
    found = load_record(path)
    assert to_document(found) == to_document(record)
    for stage, again in zip(record.stages, found.stages, strict=True):
        np.testing.assert_array_equal(stage.kept, again.kept)
        if stage.scores is not None:
            np.testing.assert_array_equal(stage.scores, again.scores)
    assert (found.media, found.model, found.architecture) == (
        record.media,
        record.model,
        record.architecture,
    )
    assert (found.read, found.sizing) == (record.read, record.sizing)
    assert found.grid == record.grid


def test_scores_that_are_no_numbers_survive(cards, tmp_path):
    path = tmp_path / "trace.json"
    document = to_document(cards.record)
    document["stages"][1]["scores"][3] = None
    path.write_text(json.dumps(document))
    assert np.isnan(load_record(path).stages[1].scores[3])


def test_a_trace_from_before_there_were_video_tracks_to_choose(cards, tmp_path):
    document = to_document(cards.record)
    del document["model"]["quantization"], document["model"]["adapter"]
    del document["reading"]["video_track"]
    del document["media"]["video_track"], document["media"]["video_tracks"]
    del document["evidence"]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document))
    record = load_record(path)
    assert record.read == cards.record.read
    assert record.media.video_track is None
    assert record.evidence == () != cards.record.evidence


@pytest.mark.parametrize(
    "change", [{"modality": "smell"}, {"share": 1.5}, {"start_s": -1.0}, {"end_s": 0.5}]
)
def test_impossible_evidence_is_refused(cards, tmp_path, change):
    document = to_document(cards.record)
    document["evidence"] = [
        {"start_s": 1.0, "end_s": 2.0, "modality": "video", "share": 0.5, **change}
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="impossible evidence"):
        load_record(path)


def _set(*keys):
    """A change of the value at `keys[:-1]` to `keys[-1]`."""

    def change(document):
        for key in keys[:-2]:
            document = document[key]
        document[keys[-2]] = keys[-1]

    return change


def _drop(key):
    return lambda document: document.pop(key)


def _unsorted(document):
    document["stages"][0]["kept"].reverse()


def _resurrected(document):
    gone = set(range(len(document["stages"][0]["kept"]))) - set(document["stages"][0]["kept"])
    kept = document["stages"][1]["kept"]
    kept.append(min(gone))
    kept.sort()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("schema_version", "0"), "schema_version is '0'"),
        (_set("schema_version", 1), "schema_version is '1' and"),
        (_set("format", "other"), "seats did not save it"),
        (_set("question", 3), "question must be str"),
        (_set("more", 1), "unknown 'more'"),
        (_drop("media"), "lacks 'media'"),
        (_set("media", "frames_used", "24"), "media.frames_used must be int"),
        (_set("media", "frames_used", True), "media.frames_used must be int"),
        (_set("architecture", "vision", "depth", None), "architecture.vision.depth"),
        (_set("grid", "rows", 4), "the grid does not hold the"),
        (_set("grid", None), "the grid does not hold the"),
        (_set("grid", "seconds", 0), "takes an impossible time"),
        (_set("pixel_shape", 1000), "impossible shape"),
        (_set("prompt", [["smell", 3]]), "something other"),
        (_set("prompt", [["text", -3]]), "impossible length"),
        (_set("prompt", [["text", 10**9]]), "impossible length"),
        (_set("stages", 0, "after_layer", 12), "out of order"),
        (_set("stages", 0, "kept", 0, -1), "dropped before"),
        (_set("stages", 0, "kept", 0, 0.5), "not a number"),
        (_set("stages", 0, "kept", None), "not a list of numbers"),
        (_set("stages", 1, "scores", [0.1]), "1 scores for"),
        (_set("stages", 0, "windows", 0, "video", "kept", 9999), "impossible video window"),
        (_set("warnings", "none"), "warnings is not a list"),
        (_unsorted, "out of order"),
        (_resurrected, "dropped before"),
    ],
)
def test_what_does_not_fit_is_refused(cards, tmp_path, change, words):
    document = json.loads(json.dumps(to_document(cards.record)))
    change(document)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError) as caught:
        load_record(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def _places(value, path=()):
    """Every place in a document, of lists the first two entries only."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value[:2]):
            yield from _places(item, (*path, at))


ODD = [0, -1, 10**30, -2.5, 1e308, "", "x", None, True, [], [[]], {}, [10**30], [1e39], ["a"]]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("grid", "seconds"), 1e308),
        (("grid", "seconds"), 5e-324),
        (("audio_tokens_per_s",), 1e308),
        (("architecture", "num_layers"), 10**30),
    ],
)
def test_impossible_sizes_are_refused(cards, path, value):
    document = json.loads(json.dumps(to_document(cards.record)))
    *above, last = path
    place = document
    for key in above:
        place = place[key]
    assert last in place
    place[last] = value
    with pytest.raises(MisfitError, match="impossible"):
        from_document(document)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_stands_anywhere_is_taken_or_refused(cards, data):
    document = json.loads(json.dumps(to_document(cards.record)))
    *above, last = data.draw(st.sampled_from([path for path in _places(document) if path]))
    place = document
    for key in above:
        place = place[key]
    place[last] = data.draw(st.sampled_from(ODD))
    with contextlib.suppress(MisfitError):
        record = from_document(document)
        strip(record, 80, unicode=True)
        clip_facts(record)
        plan_words(record)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]", b"{", b"[" * 100_000, b"null"])
def test_other_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"trace{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is not a (saved )?trace"):
        load_record(path)


def test_a_cut_safetensors_file_is_refused(cards, tmp_path):
    path = tmp_path / "trace.safetensors"
    save_record(cards.record, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="damaged"):
        load_record(path)


def test_missing_file_and_other_extension(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_record(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"\.json or \.safetensors"):
        load_record(Path("trace.txt"))


def test_layers_lived_follow_the_stages(cards):
    record = cards.record
    lived = record.layers_lived()
    for stage in record.stages:
        survivors = np.zeros(len(lived), bool)
        survivors[stage.kept] = True
        np.testing.assert_array_equal(lived > stage.after_layer, survivors)
    assert lived[record.modality == VIDEO].max() < record.num_layers  # the late block
    assert lived[record.modality == AUDIO].max() < record.num_layers
