"""What the documentation says holds: the tests it names exist, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.engine.test_outside_method import registry_restored
from tests.shapes import video_tokens

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_every_case_of_hard_media_names_a_test() -> None:
    text = (ROOT / "docs" / "hard-media.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "| exit |" not in row]
    assert len(rows) > 50
    for row in rows:
        found = re.fullmatch(r".*\| ([\w/]+\.py)::(test_\w+) \|", row)
        assert found, row
        code = (TESTS / found[1]).read_text(encoding="utf-8")
        assert re.search(rf"def {found[2]}\b", code), row


def test_every_repository_names_a_test_that_rebuilds_it() -> None:
    from tests.models.broken_layouts import BROKEN
    from tests.models.hub_layouts import LAYOUTS
    from tests.models.test_broken_layouts import LOADED, REFUSED
    from tests.models.test_lora import LAYOUTS as ADAPTED

    rebuilt = {
        "test_hub_layouts.py::test_every_weight_arrives": {*LAYOUTS},
        "test_broken_layouts.py::test_what_loads_is_what_was_written": {*LOADED},
        "test_broken_layouts.py::test_what_does_not_load_says_what_helps": {*REFUSED},
        "test_lora.py::test_an_adapter_answers": {*ADAPTED},
    }
    assert {*LOADED, *REFUSED} == BROKEN.keys()
    named: dict[str, set[str]] = {test: set() for test in rebuilt}
    text = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\|.*::test_.*\|$", text, re.MULTILINE):
        _, _, happens, test, layouts, _ = (cell.strip() for cell in row.split("|"))
        assert test in named, row
        loads = any(part in test for part in ("every_weight_arrives", "what_loads", "answers"))
        assert happens.startswith("loads" if loads else "refused"), row
        named[test] |= set(layouts.split(", "))
    assert named == rebuilt
    for test in rebuilt:
        file, _, function = test.partition("::")
        assert f"def {function}(" in (TESTS / "models" / file).read_text(encoding="utf-8")


def test_the_example_of_the_readme_prints_what_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert '"assets/' in example
    monkeypatch.chdir(tmp_path)
    code = example.replace('"assets/', f'"{ROOT.as_posix()}/assets/')
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    # Words must agree, answers among them. Counts may move by a token between machines.
    assert _without_numbers(printed) == _without_numbers(shown)


def test_the_method_of_contributing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    from seats_cli.selection import method

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    cards = (ROOT / "assets" / "cards_words_beeps_12s.mp4").as_posix()
    code = f"""{example}
from seats_cli import SeatsConfig, ask, load_model, read_clip
loaded = load_model("bundled", device="cpu")
clip = read_clip({cards!r}, sizing=loaded.sizing)
config = SeatsConfig(method="every-nth", options={{"stride": 3}})
print(*clip.frames.shape[:3])
print(*ask(loaded, clip, "What color is shown first?", config=config).trace.alive_per_layer()[0])
"""
    # The method is known here alone.
    with registry_restored():
        exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "example"})
    assert "every-nth" not in method.METHODS
    frames, height, width, video, audio, _ = map(int, capsys.readouterr().out.split())
    assert (video, audio) == (video_tokens(frames, height, width) // 3, 300 // 3)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":  # tells of what was
        return
    for name in re.findall(r"`((?:seats_cli|tests|docs|assets)/[\w./-]+)`", text):
        assert (ROOT / name).exists() or name.endswith("/x.py"), name
    for name in re.findall(r"-m (seats_cli[\w.]+|tests[\w.]+)", text):
        path = ROOT / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _links(page):
        assert target.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name} links to #{anchor} in {target.name}"


def _without_numbers(text: str) -> list[str]:
    return re.sub(r"\d+(\.\d+)?", "N", text).split()


def _links(page: Path) -> list[tuple[Path, str]]:
    """Files of this repository that a page links to, with the anchor in them."""
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    links = []
    for link in found:
        if not re.match(r"\w+:", link):
            path, _, anchor = link.partition("#")
            links.append(((page.parent / path).resolve() if path else page, anchor))
    return links


def _anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, spelled as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
