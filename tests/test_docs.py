"""The tests that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_case_of_hard_media_names_a_test() -> None:
    text = (TESTS.parent / "docs" / "hard-media.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "| exit |" not in row]
    assert len(rows) > 50
    for row in rows:
        found = re.fullmatch(r".*\| ([\w/]+\.py)::(test_\w+) \|", row)
        assert found, row
        code = (TESTS / found[1]).read_text(encoding="utf-8")
        assert re.search(rf"def {found[2]}\b", code), row
