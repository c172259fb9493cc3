"""The rooms of docs/architecture.md: arrows point down, none in a circle, files are topics."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seats_cli
from tests.structure import (
    ENTRANCES,
    MAX_FILES,
    MAX_LINES,
    MAX_SMALL_FILES,
    ROOMS,
    SMALL,
    Import,
    imports,
    lines_of,
    modules,
    repeated_names,
    room_of,
)


def test_every_module_stands_in_a_known_room() -> None:
    strangers = {room_of(module) for module in modules()} - {*ROOMS, *ENTRANCES}
    assert not strangers


def test_no_import_points_upward() -> None:
    upward = [
        edge
        for edge in imports()
        if room_of(edge.source) not in ENTRANCES
        and (
            room_of(edge.target) in ENTRANCES
            or ROOMS.index(room_of(edge.target)) > ROOMS.index(room_of(edge.source))
        )
    ]
    assert not [_words(edge) for edge in upward]


def test_no_imports_form_a_circle() -> None:
    waiting = {module: set[str]() for module in modules()}
    for edge in imports():
        waiting[edge.source].add(edge.target)
    # Whatever needs nothing that is still waiting leaves; a circle is what can never leave.
    while free := {module for module, needs in waiting.items() if not needs & waiting.keys()}:
        for module in free:
            del waiting[module]
    assert not waiting, f"in circles, or above one: {sorted(waiting)}"


def test_selection_needs_torch_alone() -> None:
    # Plain numbers below it: a method counts its own FLOPs in the words of `cost`.
    allowed = {"errors", "families", "schedule", "config", "cost", "selection"}
    rooms = {room_of(edge.target) for edge in imports() if room_of(edge.source) == "selection"}
    assert rooms <= allowed


def test_files_are_topics() -> None:
    sizes = {module: lines_of(path) for module, path in modules().items()}
    assert len(sizes) <= MAX_FILES
    assert len([module for module, lines in sizes.items() if lines < SMALL]) <= MAX_SMALL_FILES
    assert not {module: lines for module, lines in sizes.items() if lines > MAX_LINES}


def test_no_file_name_has_two_meanings() -> None:
    assert not repeated_names()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import seats_cli", {"torch", "transformers", "numpy", "av"}),
        ("from seats_cli import SeatsConfig, PruningPlan", {"torch", "transformers", "av"}),
        ("from seats_cli import read_clip", {"torch", "transformers"}),
        ("from seats_cli import Method, register_method", {"transformers", "av"}),
        ("from seats_cli import prune, load_model", {"av"}),
    ],
)
def test_exports_load_no_more_than_they_need(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())


def test_every_export_is_there_and_listed() -> None:
    for name in seats_cli.__all__:
        assert getattr(seats_cli, name) is not None
    assert set(seats_cli.__all__) <= set(dir(seats_cli))


@pytest.mark.parametrize("room", ["families", "media"])
def test_rooms_below_the_model_import_no_torch(room: str) -> None:
    for module, path in modules().items():
        if room_of(module) == room:
            assert "import torch" not in path.read_text(encoding="utf-8"), module


def _words(edge: Import) -> str:
    return f"{edge.source}:{edge.line} imports {edge.target}"


def _fixtures(path: Path) -> set[str]:
    """Name, parameters and body of each fixture of a file."""
    return {
        f"{node.name}({', '.join(arg.arg for arg in node.args.args)}): {ast.unparse(node.body)}"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and any("fixture" in ast.unparse(mark) for mark in node.decorator_list)
    }


def test_no_file_defines_a_fixture_of_its_conftest_again() -> None:
    again = [
        (path.name, found)
        for conftest in Path(__file__).parent.rglob("conftest.py")
        for path in conftest.parent.rglob("*.py")
        if path != conftest and (found := _fixtures(path) & _fixtures(conftest))
    ]
    assert not again
