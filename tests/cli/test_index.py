"""`seats index`, and an index in place of a clip, with the bundled model."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app

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
    result = seats(command, index, *rest, "--device", "cpu", "-q")
    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


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
