"""The report on stderr."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from seats_cli.report.answer_table import print_report
from seats_cli.report.columns import columns, table
from seats_cli.selection.alike_units import CarriedFacts
from tests.report.sample import CHOICES, FACTS, MODEL, sample_answer, sample_trace


def shown(answer, *, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_report(answer, console)
    return console.file.getvalue()


def test_says_everything_the_issue_of_a_slow_run_needs():
    lines = [" ".join(line.split()) for line in shown(sample_answer()).splitlines()]
    text = "\n".join(lines)
    assert "Clip talk.mp4, 12.0 s, 24 frames 448x252 at 2 fps, 12.0 s of sound" in text
    one_line = " ".join(lines)
    assert "Plan seats, 20.0 % of video and 55.0 % of audio requested, drops" in one_line
    assert "after layers 16, 18, 20, late block from layer 24, reference allocation" in one_line
    assert "offered 1,000 300 50 1,350" in lines
    assert "after Stage I, before the LLM 500 (50 %) 150 (50 %) 50 700 (52 %)" in lines
    assert "drop after layer 16 250 (25 %) 75 (25 %) 50 375 (28 %)" in lines
    assert "late block, from layer 24 0 (0 %) 0 (0 %) 50 50 (4 %)" in lines
    assert "mean over layers 34.8 % 34.8 % 100.0 % 34.8 % a+v" in lines
    assert "FLOPs 20.0 T 4.00 T 20.0 %" in lines
    assert "paper's count 10.0 T 2.50 T 25.0 %" in lines
    assert "KV cache 80.0 MiB 20.0 MiB 25.0 %" in lines
    assert "2 per multiply-add" in text
    assert "first token 0.77 s, decode 0.10 s, total 1.18 s, 20.0 tokens/s" in text
    assert "Peak memory host 3.00 GiB, GPU 18.0 GiB" in lines
    assert "cuda:0, bfloat16, sdpa" in text


def test_what_choosing_took_is_told_where_it_is_much():
    answer = sample_answer()
    for flops, told in ((3e12, True), (0.9e12, False)):
        cost = dataclasses.replace(answer.cost, selection_flops=flops)
        text = shown(dataclasses.replace(answer, cost=cost))
        lines = [" ".join(line.split()) for line in text.splitlines()]
        whole = "FLOPs 20.0 T 7.00 T 35.0 %" if told else "FLOPs 20.0 T 4.90 T 24.5 %"
        assert whole in lines
        assert ("of it selection 3.00 T 15.0 %" in lines) is told
        assert ("of it selection" in text) is told


def test_what_an_earlier_question_has_left_is_told():
    answer = sample_answer()
    assert "Executed" not in shown(answer)
    alone = answer.cost.encoder_flops + answer.cost.prefill_and_selection_flops
    for executed, told in ((alone, False), (1.5e12, True)):
        cost = dataclasses.replace(answer.cost, executed_flops=executed)
        text = " ".join(shown(dataclasses.replace(answer, cost=cost)).split())
        assert ("Executed 1.50 T of" in text) is told


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    big = sample_trace(video=123_456, audio=45_678)
    answer = sample_answer(trace=big, choices=CHOICES)
    assert max(map(len, shown(answer, width=width).splitlines())) <= width


def test_numbers_are_whole_at_80_columns():
    text = shown(sample_answer(trace=sample_trace(video=123_456, audio=45_678)))
    assert "…" not in text
    assert "123,456" in text


def test_plain_without_a_terminal_and_without_colour(monkeypatch):
    assert "\x1b" not in shown(sample_answer())
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = shown(sample_answer(), force_terminal=True)
    assert "\x1b[3" not in coloured  # bold may stay, colours may not


def test_unpruned_sound_only():
    trace = sample_trace(video=0)
    trace.stages.clear()
    media = dataclasses.replace(FACTS, frames_used=0, width=None, height=None, video_codec=None)
    text = shown(
        sample_answer(config=None, plan=None, trace=trace, media=media, effective_fps=None)
    )
    assert "no video" in text
    assert "unpruned" in text
    assert "None" not in text


def test_sound_that_ends_a_moment_later_is_no_cut():
    media = dataclasses.replace(FACTS, end_s=12.0107)
    assert "used" not in shown(sample_answer(media=media))


def test_part_of_a_file_and_cpu():
    media = dataclasses.replace(FACTS, start_s=2.0, end_s=7.5, audio_used_s=0.0)
    answer = sample_answer(media=media, model=dataclasses.replace(MODEL, revision=None))
    answer = dataclasses.replace(answer, cost=dataclasses.replace(answer.cost, peak_gpu_bytes=None))
    text = " ".join(shown(answer).split())
    assert "used 2 s to 7.5 s" in text
    assert "no sound" in text
    assert "GPU" not in text


def test_markup_in_names_is_text():
    media = dataclasses.replace(FACTS, path="[red]x.mp4")
    assert "[red]x.mp4" in shown(sample_answer(media=media))


def test_choices_come_with_their_probability():
    lines = [line.split() for line in shown(sample_answer(choices=CHOICES)).splitlines()]
    assert ["red", "90.0", "%"] in lines


@pytest.mark.parametrize("width", [20, 32, 40, 56, 80, 120])
def test_labels_and_numbers_are_whole_in_any_width(width):
    headers = columns("Tokens", "video", "audio", "total", wraps=True)
    rows = [
        ("offered", "12,345", "300", "12,645"),
        ("after Stage I, before the LLM", "90 (50 %)", "198 (66 %)", "317 (62 %)"),
    ]
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(table(headers, rows))
    printed = console.file.getvalue()
    assert "…" not in printed
    for label, *numbers in rows:
        assert all(word in printed for word in label.split())
        assert all(number in printed for number in numbers)
    lines = printed.splitlines()
    assert all(len(line.rstrip()) <= width for line in lines) or width < 30
    # Wide enough for a table: a line for each row.
    assert (sum("90 (50 %)" in line and "317" in line for line in lines) == 1) == (width >= 56)


@pytest.mark.parametrize(
    ("threshold", "share", "words"),
    [
        (0.99, None, "encoder, cosine 0.99, encoder"),
        (None, 0.35, "encoder, 35.0 % asked, encoder"),
        (0.99, 0.35, "encoder, cosine 0.99, 35.0 % asked, encoder"),
    ],
)
def test_encoder_reuse_says_what_was_asked(threshold, share, words):
    carried = CarriedFacts(
        threshold=threshold, share=share, start_block=2, blocks=4, tokens=100, compared_tokens=90,
        carried_tokens=30, saved_flops=5,
    )  # fmt: skip
    answer = sample_answer()
    answer = dataclasses.replace(answer, cost=dataclasses.replace(answer.cost, carried=carried))
    assert words in " ".join(shown(answer).split())
