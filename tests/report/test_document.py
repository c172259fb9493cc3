"""The JSON document of an answer."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from seats_cli.report.documents import answer_document, dump_document
from seats_cli.results import jsonable
from tests.report.sample import CHOICES, FACTS, sample_answer, sample_trace


def test_round_trips_as_strict_json():
    document = answer_document(sample_answer(choices=CHOICES, warnings=("sound was cut",)))
    again = json.loads(dump_document(document))
    assert again == document
    assert again["schema_version"] == "1"
    assert again["answer"] == "a red card"
    assert again["answer_tokens"] == 3
    assert again["choices"][0] == {"text": "red", "probability": 0.9}
    assert again["warnings"] == ["sound was cut"]
    assert again["media"]["frames_used"] == 24
    assert again["media"]["effective_fps"] == 2.0
    assert again["plan"]["drop_layers"] == [16, 18, 20]
    assert again["config"]["method"] == "seats"


def test_tokens_and_retention():
    tokens = answer_document(sample_answer())["tokens"]
    assert tokens["offered"] == {"video": 1000, "audio": 300, "text": 50, "total": 1350}
    assert [stage["after_layer"] for stage in tokens["stages"]] == [0, 16, 23]
    assert tokens["stages"][0]["video"] == 500
    assert tokens["final"] == {"video": 0, "audio": 0, "text": 50, "total": 50}
    # 16 layers at 1/2, 7 at 1/4, 5 at 0
    assert tokens["average_retention"]["video"] == pytest.approx((16 / 2 + 7 / 4) / 28)


def test_ratios_are_fractions_of_the_full_prefill():
    cost = answer_document(sample_answer())["cost"]
    assert cost["prefill_flops_ratio"] == pytest.approx(0.2)
    assert cost["paper_prefill_macs_ratio"] == pytest.approx(0.25)
    assert cost["kv_bytes_ratio"] == pytest.approx(0.25)


def test_unpruned_has_null_plan_and_the_offered_tokens_at_the_end():
    trace = sample_trace()
    trace.stages.clear()
    document = answer_document(sample_answer(config=None, plan=None, trace=trace))
    assert document["plan"] is None
    assert document["config"] is None
    assert document["tokens"]["final"] == document["tokens"]["offered"]
    assert document["tokens"]["average_retention"]["overall"] == 1.0


def test_missing_modality_and_not_a_number_become_null():
    answer = sample_answer(trace=sample_trace(audio=0))
    answer = dataclasses.replace(
        answer, timing=dataclasses.replace(answer.timing, vision_s=math.nan, decode_tokens=0)
    )
    document = answer_document(answer)
    assert document["tokens"]["average_retention"]["audio"] is None
    assert document["timing"]["vision_s"] is None
    assert document["timing"]["decode_tokens_per_s"] is None
    dump_document(document)


def test_a_file_name_that_is_no_utf8_gives_valid_unicode():
    answer = sample_answer(media=dataclasses.replace(FACTS, path="caf\udce9.mp4"))
    text = dump_document(answer_document(answer))
    assert json.loads(text.encode("utf-8"))["media"]["path"] == "caf?.mp4"


def test_other_scripts_are_readable_unless_stdout_cannot():
    document = answer_document(sample_answer(text="红色"))
    assert "红色" in dump_document(document)
    assert dump_document(document, ascii_only=True).isascii()


def test_keys_carry_their_units():
    document = answer_document(sample_answer())
    counts = {"decode_tokens", "decode_tokens_per_s", "decoding"}
    assert all(key.endswith("_s") for key in document["timing"].keys() - counts)
    suffixes = ("_flops", "_macs", "_bytes", "_ratio", "_convention")
    assert all(key.endswith(suffixes) for key in document["cost"])


def test_jsonable_takes_scalars_of_numpy_and_torch():
    import numpy as np
    import torch

    assert jsonable({"a": np.float32(0.5), "b": torch.tensor(3), "c": (1, math.inf)}) == {
        "a": 0.5,
        "b": 3,
        "c": [1, None],
    }
