"""Two settings of a run against each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.paired import compare_paired, main
from seats_cli.evaluate.run_folder import ItemRecord


def record(number: int, label: str, given: str, error: str | None = None) -> ItemRecord:
    return ItemRecord(
        str(number),
        f"clip {number // 2}",
        label,
        "seats",
        "red, blue",
        given=given,
        correct=given == "red, blue" and error is None,
        error=error,
        first_token_s=0.1,
        total_s=0.1 + (0.02 if label == "a" else 0.03),
    )


RECORDS = [
    *(record(n, "a", "red, blue") for n in range(8)),
    *(record(n, "b", "red, green" if n < 6 else "red, blue") for n in range(8)),
    record(8, "a", "red, blue"),
    record(8, "b", "red, blue", error="failed"),
    record(9, "a", "blue\u2028"),  # ends no line of the file
    record(9, "b", "red, blue"),
]


def test_counts_on_the_common_questions() -> None:
    found = compare_paired(RECORDS, "a", "b")
    assert (found.questions, found.right) == (9, (8, 3))
    assert (found.only_first, found.only_second) == (6, 1)
    assert found.difference.value == pytest.approx(5 / 9)
    assert found.difference.interval is None  # of nine questions
    more = [record(n, label, "red, blue") for n in range(10, 12) for label in "ab"]
    low, high = compare_paired([*RECORDS, *more], "a", "b").difference.interval
    assert -1 <= low <= 5 / 11 <= high <= 1
    assert (found.same_text, found.same_first_word) == (2, 8)
    assert found.p == pytest.approx(0.125)
    assert found.after_first_token_s == pytest.approx((0.02, 0.03))
    turned = compare_paired(RECORDS, "b", "a")
    assert turned.difference.value == pytest.approx(-5 / 9)


def test_nothing_in_common() -> None:
    with pytest.raises(UsageError, match="no common question"):
        compare_paired(RECORDS, "a", "c")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.jsonl").write_text(
        "".join(json.dumps(one.as_dict(), ensure_ascii=False) + "\n" for one in RECORDS)
    )
    main([str(tmp_path), "a", "b"])
    assert "9 questions: 88.9 and 33.3 % right, +55.56 points (-)," in capsys.readouterr().out
    for arguments in ([str(tmp_path / "gone"), "a", "b"], [str(tmp_path), "a", "c"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("Error: ")
