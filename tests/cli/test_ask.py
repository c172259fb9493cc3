"""`seats ask`: what goes where, with which exit code."""

from __future__ import annotations

import json

import pytest

from tests.cli.fakes import CALLS, PIECES, WARNINGS

ANSWER = "".join(PIECES) + "\n"


def test_answer_on_stdout_and_everything_else_on_stderr(run, clip):
    result = run("ask", clip, "What?")
    assert result.exit_code == 0
    assert result.stdout == ANSWER
    assert "Tokens" in result.stderr
    assert f"Warning: {WARNINGS[0]}" in result.stderr
    assert result.stderr.count(WARNINGS[0]) == 1
    assert "Warning: The model guessed." in result.stderr
    assert "--model Qwen/Qwen2.5-Omni-7B" in result.stderr


def test_streams_unless_told_not_to(run, clip):
    run("ask", clip, "What?")
    assert CALLS["ask"]["on_text"] is not None
    for flag in ("--no-stream", "--json"):
        assert run("ask", clip, "What?", flag).exit_code == 0
        assert CALLS["ask"]["on_text"] is None
    assert run("ask", clip, "What?", "--no-stream").stdout == ANSWER


def test_json_is_one_document_with_all_warnings(run, clip):
    result = run("ask", clip, "What?", "--json")
    document = json.loads(result.stdout)
    assert document["schema_version"] == "1"
    assert document["answer"] == "a red card"
    assert document["warnings"] == [*WARNINGS, "The model guessed."]
    assert WARNINGS[0] in result.stderr
    assert "Tokens" not in result.stderr


def test_evidence_goes_below_the_answer_and_into_every_document(run, clip):
    lines = ["0:05.0 to 0:06.0 (sound, 41 %)", "0:09.5 to 0:10.5 (picture, 20 %)"]
    result = run("ask", clip, "What?", "--evidence", "--quiet")
    assert result.stdout == ANSWER
    assert [line for line in result.stderr.splitlines() if " to 0:" in line] == lines
    assert "0:05.0" not in run("ask", clip, "What?").stderr
    both = run("ask", clip, "What?", "--also", "Who?", "--evidence")
    assert [line for line in both.stderr.splitlines() if " to 0:" in line] == 2 * lines
    wanted = [
        {"start_s": 5.0, "end_s": 6.0, "modality": "audio", "share": 0.412},
        {"start_s": 9.5, "end_s": 10.5, "modality": "video", "share": 0.2},
    ]
    assert json.loads(run("ask", clip, "What?", "--json").stdout)["evidence"] == wanted
    document = json.loads(run("ask", clip, "What?", "--also", "Who?", "--json").stdout)
    assert [answer["evidence"] for answer in document["answers"]] == [wanted, wanted]


def test_several_questions_about_one_clip(run, clip):
    result = run("ask", clip, "What?", "--also", "Who?", "--also", " When? ")
    assert result.exit_code == 0
    assert result.stdout == 3 * ANSWER
    asked = [line for line in result.stderr.splitlines() if line.startswith("Question: ")]
    assert asked == ["Question: What?", "Question: Who?", "Question: When?"]
    assert CALLS["session"]
    assert result.stderr.count(WARNINGS[0]) == 1


def test_several_questions_in_one_document(run, clip):
    result = run("ask", clip, "What?", "--also", "Who?", "--json")
    document = json.loads(result.stdout)
    assert document["schema_version"] == "1"
    assert [answer["answer"] for answer in document["answers"]] == ["a red card"] * 2
    assert "Question:" not in result.stderr


def test_an_empty_second_question(run, clip):
    result = run("ask", clip, "What?", "--also", " ")
    assert result.exit_code == 2
    assert "The question is empty." in result.stderr
    assert "load_model" not in CALLS


def test_quiet_keeps_only_warnings(run, clip):
    result = run("ask", clip, "What?", "-q")
    assert result.stdout == ANSWER
    assert result.stderr.splitlines() == [
        f"Warning: {WARNINGS[0]}",
        "Warning: The model guessed.",
    ]


def test_no_notice_with_a_real_model(run, clip):
    result = run("ask", clip, "What?", "-m", "Qwen/Qwen2.5-Omni-7B")
    assert "demonstration" not in result.stderr


def test_says_when_the_answer_was_cut(run, clip):
    assert "cut at 7 tokens" in run("ask", clip, "endless", "--max-new-tokens", "7").stderr


def test_choices_print_the_best_and_report_the_probability(run, clip):
    result = run("ask", clip, "Which?", "--choices", "red, green")
    assert result.stdout == "red\n"
    assert "90.0 %" in result.stderr
    assert CALLS["ask"]["choices"] == ("red", "green")


@pytest.mark.parametrize("text", ["red", "red,", "red,red", "", ","])
def test_bad_choices(run, clip, text):
    assert run("ask", clip, "Which?", "--choices", text).exit_code == 2


def test_options_reach_the_engine(run, clip):
    arguments = (
        "--start 1:15 --end 90.5 --fps 1.5 --max-frames 64 --max-pixels 50176 --no-audio "
        "--video-track 1 --audio-track 1 --max-audio 1:00 -m some/model --device cuda:1 "
        "--dtype bfloat16 --attn eager --revision main --offline --max-new-tokens 5 "
        "--quantize 4bit --adapter some/lora --temperature 0.5 --top-p 0.9 --seed 3"
    )
    result = run("ask", clip, "What?", *arguments.split())
    assert result.exit_code == 0, result.stderr
    assert CALLS["load_model"] == {
        "model": "some/model",
        "device": "cuda:1",
        "dtype": "bfloat16",
        "attention": "eager",
        "revision": "main",
        "offline": True,
        "quantize": "4bit",
        "adapter": "some/lora",
    }
    assert CALLS["read_clip"].pop("sizing") is not None
    assert CALLS["read_clip"].pop("source").audio
    assert callable(CALLS["read_clip"].pop("on_progress"))
    assert CALLS["read_clip"] == {
        "path": clip,
        "start": 75.0,
        "end": 90.5,
        "fps": 1.5,
        "max_frames": 64,
        "max_pixels": 50176,
        "total_pixels": None,
        "video_track": 1,
        "audio": False,
        "audio_track": 1,
        "max_audio": 60.0,
        "video": True,
    }
    asked = CALLS["ask"]
    assert (asked["max_new_tokens"], asked["temperature"]) == (5, 0.5)
    assert (asked["top_p"], asked["seed"]) == (0.9, 3)
    assert asked["read_s"] >= 0


@pytest.mark.parametrize(
    ("question", "code", "words"),
    [
        ("crash", 1, "KeyError"),
        ("eof", 1, "EOFError"),
        ("gpu oom", 5, "GPU"),
        ("host oom", 5, "--max-frames"),
        ("cpu oom", 5, "host"),
        ("long", 5, "63,000"),
        ("ctrl-c", 130, "Interrupted."),
    ],
)
def test_trouble_is_one_sentence_and_a_code(run, clip, question, code, words):
    result = run("ask", clip, question, "-q")
    assert result.exit_code == code
    assert result.stdout == ""
    sentence = result.stderr.splitlines()[-1]
    assert words in sentence
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3  # an empty line after ^C, the warning


def test_a_closed_pipe_is_quiet(run, clip):
    result = run("ask", clip, "closed", "-q")
    assert result.exit_code == 1
    assert "Broken" not in result.stderr


def test_missing_file_is_noticed_before_the_model_is_loaded(run, tmp_path):
    for path in ("missing.mp4", str(tmp_path), "x" * 5000, "a\0b"):
        result = run("ask", path, "What?")
        assert result.exit_code == 3
        assert result.stderr.startswith("Error: ")
    assert "load_model" not in CALLS


def test_media_and_model_errors(run, tmp_path, clip):
    (tmp_path / "notes.txt").write_text("x")
    assert run("ask", "notes.txt", "What?").exit_code == 3
    result = run("ask", clip, "What?", "-m", "missing/model")
    assert result.exit_code == 4
    assert "hf download" in result.stderr


@pytest.mark.parametrize("how", ["flag", "variable", "global"])
def test_debug_shows_the_traceback(run, clip, monkeypatch, how):
    if how == "variable":
        monkeypatch.setenv("SEATS_DEBUG", "1")
    before = ["--debug"] if how == "global" else []
    after = ["--debug"] if how == "flag" else []
    result = run(*before, "ask", clip, "crash", *after)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "--start 10 --end 5",
        "--start 1:75",
        "--fps 0",
        "--fps nan",
        "--fps inf",
        "--max-frames 0",
        "--max-pixels 10",
        "--max-audio 0",
        "--max-audio x",
        "--temperature -1",
        "--top-p 0",
        "--top-p 1.1",
        "--seed -1",
        "--seed x",
        "--max-new-tokens 0",
        "--kv all",
        "--dtype int3",
        "--nonsense",
    ],
)
def test_bad_values_are_usage_errors_in_one_line(run, clip, arguments):
    result = run("ask", clip, "What?", *arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "ask" not in CALLS


def test_thinking_is_kept_from_stdout(run, clip):
    result = run("ask", clip, "think")
    assert result.stdout == ANSWER
    assert "It is a card." not in result.stderr
    shown = run("ask", clip, "think", "--show-thinking", "-q")
    assert shown.stdout == ANSWER
    assert "\nIt is a card.\n\n" in shown.stderr
    document = json.loads(run("ask", clip, "think", "--json").stdout)
    assert (document["thinking"], document["answer"]) == ("It is a card.", "a red card")
    assert json.loads(run("ask", clip, "What?", "--json").stdout)["thinking"] is None


def test_what_was_not_given_is_left_to_the_checkpoint(run, clip):
    run("ask", clip, "What?")
    names = ("max_new_tokens", "temperature", "top_p", "top_k")
    assert [CALLS["ask"][name] for name in names] == [None] * 4
    run("ask", clip, "What?", "--top-k", "5", "--temperature", "0")
    assert [CALLS["ask"][name] for name in names] == [None, 0.0, None, 5]
    assert run("ask", clip, "What?", "--top-k", "-1").exit_code == 2


CAPTIONER = "Qwen/Qwen3-Omni-30B-A3B-Captioner"


@pytest.mark.parametrize(
    "arguments",
    [["-m", CAPTIONER], ["", "-m", CAPTIONER], ["", "-m", "my/captioner-v2/"], ["--no-question"]],
)
def test_a_captioner_is_asked_nothing(run, clip, arguments):
    result = run("ask", clip, *arguments, input="not read")
    assert result.exit_code == 0, result.stderr
    assert CALLS["ask"]["question"] is None


def test_others_are_asked_something(run, clip):
    result = run("ask", clip, "", "-m", "Qwen/Qwen3-Omni-30B-A3B-Instruct")
    assert result.exit_code == 2
    assert "--no-question" in result.stderr
    for arguments in (["What?"], ["--also", "Who?"]):
        result = run("ask", clip, *arguments, "--no-question")
        assert (result.exit_code, "leave QUESTION" in result.stderr) == (2, True)
    assert run("ask", clip, "What?", "-m", CAPTIONER).exit_code == 0
    assert CALLS["ask"]["question"] == "What?"
