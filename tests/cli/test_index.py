"""`seats index`, and an index in place of a clip, with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app
from seats_cli.selection.method import Entry, Method, PromptTokens
from seats_cli.selection.methods import METHODS

CARDS = str(Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4")
QUESTION = "What color is shown first?"


def seats(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments], input=stdin)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("index") / "cards.seats"
    result = seats("index", CARDS, "-o", str(path), "--retain", "25%", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"Wrote {path}: " in result.stderr.replace("\n", "")
    assert "seats 25%" in result.stderr
    return str(path)


def test_ask_and_chat_take_it(index: str) -> None:
    for config in ("25%", "10%"):
        result = seats("ask", index, QUESTION, "--retain", config, "--device", "cpu", "-q")
        assert (result.exit_code, result.stdout) == (0, "red\n")
    result = seats("chat", index, "--device", "cpu", "-q", stdin=f"{QUESTION}\n")
    assert (result.exit_code, result.stdout) == (0, "red\n")


def test_full_is_no_pruning_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full.toml").write_text('method = "full"\n')
    for arguments, labels in (
        (("--methods", "full"), ["full"]),
        (("--config", "full.toml"), ["full"]),
        (("--methods", "random,full", "--retain", "10%"), ["random 10%", "full"]),
    ):
        command = ("index", CARDS, "-o", "cards.seats", *arguments, "--device", "cpu", "--json")
        result = seats(*command, "--end", "4")
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        settings = document["index"]["settings"]
        assert [one["label"] for one in settings] == labels
        assert min(one["bytes"] for one in settings) > 10_000
        assert (settings[-1]["config"], document["warnings"]) == (None, [])


class _First(Method):
    """The first half of the sound, the question unseen, of which it says nothing."""

    def before_llm(self, prompt: PromptTokens) -> Entry:
        keep = prompt.keep_all()
        keep[prompt.audio.positions[len(prompt.audio.positions) // 2 :]] = False
        return Entry(keep)


def test_a_method_that_shares_the_encoders_only_is_indexed_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "first", _First)
    path = str(tmp_path / "cards.seats")
    command = ("index", CARDS, "-o", path, "--end", "4", "--device", "cpu", "--json")
    for only, then in (((), "every question prefills"), (("--only",), "cannot be asked with")):
        result = seats(*command, "--methods", "first,random", "--retain", "10%", *only)
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        first, other = document["index"]["settings"]
        assert (first["label"], first["bytes"], other["bytes"] > 0) == ("first 10%", 0, True)
        (warning,) = document["warnings"]
        assert warning.startswith("first 10% shares the encoders' outputs only")
        assert then in warning
        asked = seats("ask", path, QUESTION, "--method", "first", "--retain", "10%", "-q")
        assert asked.exit_code == (2 if only else 0), asked.stderr


def test_a_conversation_has_the_system_turn_of_its_index(tmp_path: Path) -> None:
    path, saved = str(tmp_path / "cards.seats"), tmp_path / "talk.json"
    made = seats("index", CARDS, "-o", path, "--end", "4", "--system", "Be brief.", "--device=cpu")
    assert made.exit_code == 0, made.stderr
    for lines in (f"/save {saved}\n", f"/load {saved}\n"):
        result = seats("chat", path, "--device", "cpu", stdin=lines)
        assert result.exit_code == 0, result.stderr
        assert "another system turn" not in result.stderr
    assert json.loads(saved.read_text(encoding="utf-8"))["system"] == "Be brief."


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ask", QUESTION, "--fps", "1"), "--fps"),
        (("ask", QUESTION, "--start", "2"), "--start"),
        (("ask", QUESTION, "--html", "page.html"), "--save-trace"),
        (("ask", QUESTION, "--skip-still", "2"), "leave --skip-still out"),
        (("ask", QUESTION, "--system", "Be brief."), "leave --system out"),
        (("ask", QUESTION, "--dtype", "bfloat16"), "ask with --dtype float32"),
        (("show", QUESTION, "-o", "out"), "only answers questions"),
        (("compare", QUESTION), "only answers questions"),
        (("profile",), "only answers questions"),
        (("index", "-o", "again.seats"), "only answers questions"),
        (("plan",), "only answers questions"),
        (("batch", "-q", QUESTION), "only answers questions"),
        (("batch", "items.jsonl"), "items.jsonl, line 1: clip.seats is an indexed clip"),
        (("eval", "items.jsonl"), "items.jsonl, line 1: clip.seats is an indexed clip"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    index: str,
    arguments: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    item = {"id": "1", "media": "clip.seats", "question": QUESTION, "answer": "red"}
    if rest == ["items.jsonl"]:
        Path("items.jsonl").write_text(json.dumps(item))
    else:
        rest.insert(0, index)
    if command != "plan":  # which neither runs anything nor shows progress
        rest += ["--device", "cpu", "--quiet"]
    result = seats(command, *rest)
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == [n for n in rest if n == "items.jsonl"]


def test_targets_are_checked_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("diary.seats").write_text("Dear diary")
    for target, reason in (
        ("diary.seats", "not overwritten"),
        ("cards.mp4", "must end in .seats"),
        ("gone/cards.seats", "folder does not exist"),
    ):
        result = seats("index", CARDS, "-o", target, "--model", "./gone")
        assert (result.exit_code, reason in result.stderr) == (2, True)
    assert Path("diary.seats").read_text() == "Dear diary"
