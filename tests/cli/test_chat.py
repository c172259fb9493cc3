"""`seats chat`: lines in a pipe, commands, saved conversations, Ctrl-C and Ctrl-D on a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from seats_cli.cli import chat as chat_module
from seats_cli.cli.chat_commands import COMMANDS
from seats_cli.cli.conversation import (
    ClipFacts,
    Conversation,
    SavedTurn,
    load_conversation,
    save_conversation,
)
from seats_cli.cli.runtime import Stopped, deferring_interrupts, forget_interrupts
from seats_cli.config import SeatsConfig
from seats_cli.engine import session_file
from seats_cli.errors import UsageError
from seats_cli.report.phrases import evidence_lines
from tests.cli import fakes
from tests.cli.fakes import CALLS
from tests.report.sample import sample_answer

ROOT = Path(__file__).parents[2]
FACTS = ClipFacts("talk.mp4", "ab" * 32, 12.0, 0.0, 8.0)


def talk(run, clip, *lines: str, flags: Sequence[str] = ()):
    return run("chat", clip, *flags, input="".join(f"{line}\n" for line in lines))


def test_every_question_in_a_pipe_gets_one_line(run, clip):
    result = talk(run, clip, "What?", "", "long", "//etc?", "/retain 10%", "Who?")
    assert result.stdout.split("\n") == ["a red card", "", "a red card", "a red card", ""]
    assert "holds 32,768" in result.stderr
    assert "1 of 5 lines failed." in result.stderr
    assert result.exit_code == 6
    assert CALLS["ask"]["question"] == "Who?"
    assert CALLS["ask"]["config"].retain == 0.1
    asked = [(turn.question, turn.answer) for turn in CALLS["ask"]["history"]]
    assert asked == [("What?", "a red card"), ("/etc?", "a red card")]


def test_the_text_layer_does_not_lose_a_line(run, clip):
    result = run("chat", clip, input=b"What?\n\xff\xfe?\n\nWho?\r\n")
    assert result.stdout == "a red card\n\na red card\n"
    assert "not UTF-8" in result.stderr
    assert result.exit_code == 6


def test_line_breaks_of_an_answer_are_blanks_in_a_pipe(run, clip, monkeypatch):
    monkeypatch.setattr(fakes, "PIECES", (" Red,\n", "\n - blue\u2028", "and\r\ngreen "))
    result = talk(run, clip, "What?")
    assert result.stdout == "Red, - blue and green\n"
    (line,) = talk(run, clip, "What?", flags=["--json"]).stdout.splitlines()
    assert json.loads(line)["answer"] == " Red,\n\n - blue\u2028and\r\ngreen "


def test_json_has_one_document_a_line_with_the_keys_of_ask(run, clip):
    alone = json.loads(run("ask", clip, "What?", "--json").stdout)
    result = talk(run, clip, "What?", "gpu oom", "And then?", flags=["--json"])
    first, failed, last = map(json.loads, result.stdout.splitlines())
    assert list(first) == list(last) == list(alone)
    assert [first["history_turns"], last["history_turns"]] == [0, 1]
    assert failed["question"] == "gpu oom"
    assert failed["error"].startswith("Out of memory on the GPU.")
    assert "history_turns" not in failed
    assert result.exit_code == 6


def test_no_history_asks_each_question_by_itself(run, clip):
    talk(run, clip, "What?", "Who?", flags=["--no-history"])
    assert CALLS["ask"]["history"] == []


def test_a_clean_end(run, clip):
    assert talk(run, clip).exit_code == 0
    result = talk(run, clip, "What?", "/quit", "Who?")
    assert (result.exit_code, result.stdout) == (0, "a red card\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/retian 5%", "did you mean /retain?"),
        ("/xyzzy", "/xyzzy is not a command. /help"),
        ("/retain", "/retain needs SHARE."),
        ("/retain 5", "'5' is not a share of the tokens"),
        ("/method magic", "'magic' is not a method: choose from full,"),
        ("/full now", "/full stands alone."),
        ("/map", "There is no answer yet"),
        ("/report", "There is no answer yet"),
        ("/evidence", "There is no answer yet"),
        ("/load missing.json", "missing.json cannot be read"),
        ("/save no/where.json", "/save no/where.json: the folder does not exist."),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_the_chat_goes_on(run, clip, line, said):
    result = talk(run, clip, line, "What?", flags=["-q"])
    errors = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert said in errors[0]
    assert errors[1:] == ["Error: 1 of 2 lines failed."]
    assert result.stdout == "a red card\n"
    assert result.exit_code == 6


def test_settings_hold_from_the_next_question_on(run, clip):
    def kept(*lines: str, flags: Sequence[str] = ()) -> SeatsConfig | None:
        assert talk(run, clip, *lines, "What?", flags=flags).exit_code == 0
        return CALLS["ask"]["config"]

    assert kept().retain == 0.25
    assert kept("/full") is None
    assert kept("/full", "/retain 15%") == SeatsConfig(retain=0.15)
    assert kept("/retain 50%", "/method FastV") == SeatsConfig(retain=0.5, method="fastv")
    assert kept("/method full") is None
    given = kept("/retain 20%", flags=["--retain-video", "0.1", "--skip-still", "2"])
    assert given == SeatsConfig(retain=0.2, still_tolerance=2.0)
    assert kept("/full", flags=["--skip-still", "2"]).method == "full"


def test_a_full_context_names_what_empties_it(run, clip):
    result = talk(run, clip, "What?", "full", "/clear", "Who?")
    assert "Error: The model holds 32,768: /clear the earlier turns, or ask less." in result.stderr
    assert result.stdout == "a red card\n\na red card\n"


def test_commands_show_on_stderr(run, clip):
    result = talk(run, clip, "What?", "/report", "/evidence", "/help", "/clear", "Who?")
    assert result.stdout == 2 * "a red card\n"
    assert "Tokens" in result.stderr
    for line in evidence_lines(sample_answer()):
        assert f"\n{line}\n" in result.stderr
    for name in COMMANDS:
        assert f"\n{name}" in result.stderr
    assert "Forgot 1 turn." in result.stderr
    assert CALLS["ask"]["history"] == []


def test_a_conversation_goes_on_from_its_file(run, clip, tmp_path):
    start = ("What?", "/method random", "Who?", "/save talk.json")
    first = talk(run, clip, *start, flags=["--system", "Be brief."])
    assert "Saved 2 turns to talk.json." in first.stderr
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert (saved["clip"]["name"], saved["system"]) == (clip, "Be brief.")
    assert [turn["config"].get("method") for turn in saved["turns"]] == ["seats", "random"]
    result = talk(run, clip, "/load talk.json", "And then?", "/save talk.json", flags=["--full"])
    assert result.exit_code == 0
    assert "was held with another system turn" in result.stderr
    assert [turn.question for turn in CALLS["ask"]["history"]] == ["What?", "Who?"]
    assert CALLS["ask"]["config"].method == "random"
    again = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert len(again["turns"]) == 3
    (tmp_path / "notes.json").write_text("{}")
    assert "not overwritten" in talk(run, clip, "/save notes.json").stderr
    assert (tmp_path / "notes.json").read_text() == "{}"
    other = tmp_path / "other.mp4"
    other.write_bytes(fakes.tiny_wav() + b"\0\0")
    refused = talk(run, str(other), "/load talk.json", "What?")
    assert f"is about another clip, {clip!r}." in refused.stderr
    assert refused.stdout == "a red card\n"


def test_a_conversation_survives_the_file(tmp_path):
    turns = (
        SavedTurn("Was?\n„Ä“", 'So "<|im_end|>"\n', SeatsConfig().to_dict()),
        SavedTurn("", ""),
    )
    saved = Conversation(FACTS, "bundled", None, None, turns)
    save_conversation(saved, tmp_path / "talk.json")
    assert load_conversation(tmp_path / "talk.json", FACTS) == saved
    with pytest.raises(UsageError, match="another part of the clip, 0 s to 8 s"):
        load_conversation(tmp_path / "talk.json", ClipFacts("x", "ab" * 32, 12.0, 2.0, None))


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "not a saved conversation": lambda document: [document],
    "not a saved conversation.": lambda document: {**document, "kind": "seats-trace"},
    "schema version 2, and this program reads 1": lambda document: {
        **document,
        "schema_version": 2,
    },
    "lacks 'turns'": lambda document: {k: v for k, v in document.items() if k != "turns"},
    "unknown 'more'": lambda document: {**document, "more": 1},
    "turns[0].question must be str": lambda document: {
        **document,
        "turns": [{"question": 1, "answer": "", "config": None}],
    },
    "config is not an object": lambda document: {**document, "config": 3},
    "retain": lambda document: {**document, "config": {"retain": 7}},
    "not text": lambda document: {
        **document,
        "turns": [{"question": "\ud800", "answer": "", "config": None}],
    },
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_conversation_is_refused(tmp_path, said):
    path = tmp_path / "talk.json"
    save_conversation(Conversation(FACTS, "bundled", None, None, ()), path)
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(DAMAGE[said](document)), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load_conversation(path, FACTS)
    assert said in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "talk.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"talk\.json is not a saved conversation"):
        load_conversation(tmp_path / "talk.json", FACTS)


def test_the_video_cannot_come_through_the_pipe_of_the_questions(run):
    result = run("chat", "-", input="What?\n")
    assert result.exit_code == 2
    assert "The questions come from stdin" in result.stderr
    assert "load_model" not in CALLS


def interrupting(action: Callable[..., None]) -> Callable[..., None]:
    """An action with a Ctrl-C in the middle of it."""

    def interrupted(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        action(*arguments)

    return interrupted


@pytest.mark.parametrize("name", ["/report", "/evidence", "/help", "/clear", "/save", "/retain"])
def test_ctrl_c_in_a_command_ends_a_pipe(run, clip, monkeypatch, name):
    wanted, text, action = COMMANDS[name]
    monkeypatch.setitem(COMMANDS, name, (wanted, text, interrupting(action)))
    line = f"{name} {'10%' if name == '/retain' else 'talk.json'}" if wanted else name
    result = talk(run, clip, "What?", line, "Who?")
    assert (result.exit_code, result.stdout) == (130, "a red card\n")
    assert result.stderr.endswith("Interrupted.\n")


def test_ctrl_c_behind_the_answer_or_an_error_ends_a_pipe(run, clip, monkeypatch):
    printed = chat_module.print_document
    monkeypatch.setattr(chat_module, "print_document", interrupting(printed))
    for question, answer in (("What?", "a red card\n"), ("long", "\n")):
        result = talk(run, clip, question, "Who?")
        assert (result.exit_code, result.stdout) == (130, answer)


def test_ctrl_c_stops_a_large_file_from_being_read_to_the_end(run, clip, monkeypatch, tmp_path):
    path = tmp_path / "large.wav"
    path.write_bytes(fakes.tiny_wav() + bytes(3 << 20))
    digest, pieces = hashlib.sha256, []

    class Digest:
        def __init__(self) -> None:
            self.update = interrupting(pieces.append)
            self.hexdigest = digest().hexdigest

    monkeypatch.setattr(session_file.hashlib, "sha256", Digest)
    result = talk(run, str(path), "/save talk.json")
    assert (result.exit_code, len(pieces)) == (130, 1)
    assert not (tmp_path / "talk.json").exists()


# On a terminal


class Terminal:
    """`seats chat` on a pseudo-terminal of its own, which turns Ctrl-C into a signal."""

    def __init__(self, path: Path) -> None:
        self.master, slave = pty.openpty()
        self.shown, self.seen = b"", 0
        program = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "python = sys.executable; "
            "os.execv(python, [python, '-m', 'tests.cli.fakes', 'chat', sys.argv[1]])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=path.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "100"},
        )
        os.close(slave)

    def until(self, words: bytes) -> None:
        """Wait until some words are shown, behind those of the call before."""
        end = time.monotonic() + 40
        while words not in self.shown[self.seen :] and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.master, 4096)
                except OSError:  # how Linux says that the other side is closed
                    break
        place = self.shown.find(words, self.seen)
        assert place >= 0, self.shown.decode(errors="replace")
        self.seen = place + len(words)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        code = self.process.wait(20)
        os.close(self.master)
        return code


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_chat(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(fakes.tiny_wav())
    terminal = Terminal(path)
    try:
        terminal.until(b"/help lists the commands, Ctrl-D leaves.")
        terminal.until(b"> ")
        terminal.type(b"What?\n")
        terminal.until(b"a red card")
        terminal.until(b"> ")
        for question, shown in ((b"prefill\n", b"prefill"), (b"endless talk\n", b"on on ")):
            terminal.type(question)
            terminal.until(shown)
            time.sleep(0.2)
            began = time.monotonic()
            terminal.type(b"\x03")
            terminal.until(b"Stopped; the question and this answer are forgotten.")
            terminal.until(b"> ")
            assert time.monotonic() - began < 15  # of 30
        terminal.type(b"not what I m")
        terminal.until(b"not what I m")
        time.sleep(0.2)  # until the line is waited for again: readline loses what comes before
        terminal.type(b"\x03")  # clears the line
        terminal.until(b"> ")
        terminal.type(b"/save talk.json\n")
        terminal.until(b"Saved 1 turn to talk.json.")
        terminal.until(b"> ")
        terminal.type(b"\x04")
        assert terminal.end() == 0
    finally:
        terminal.process.kill()
    assert b"Traceback" not in terminal.shown
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert [turn["question"] for turn in saved["turns"]] == ["What?"]


def test_a_second_ctrl_c_ends_a_chat_that_does_not_stop():
    def interrupted_twice() -> None:
        with deferring_interrupts() as check:
            check()
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(Stopped):
                check()
            with pytest.raises(KeyboardInterrupt) as raised:
                signal.raise_signal(signal.SIGINT)
            assert not isinstance(raised.value, Stopped)

    with pytest.raises(Stopped):  # also where something has swallowed the first
        interrupted_twice()
    forget_interrupts()
