"""Counts of the package's structure: `python -m tests.structure` prints them.

The rooms and their order are those of docs/architecture.md. `tests/test_structure.py` holds the
code to them.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "seats_cli"

# From the ground up: a module imports from its own room and from rooms further up this list.
ROOMS = (
    "errors",
    "files",
    "families",
    "config",
    "schedule",
    "media",
    "cost",
    "selection",
    "results",
    "models",
    "engine",
    "world",
    "evaluate",
    "report",
    "show",
    "training",
    "bench",
    "batch",
    "serve",
    "plugins",
    "cli",
)
# The package itself (lazy exports) and `python -m seats_cli` stand above all rooms.
ENTRANCES = ("__init__", "__main__")

# 190 at the end of the structure work; the rooms that are added since (batch, and what serves and
# plugs in) have about ten files each. Above 220 because `chat` outgrew one file: its commands are
# a topic of their own. 252 leaves the server, the plugins and the
# trained methods their files.
MAX_FILES = 252
MAX_SMALL_FILES = 17  # under SMALL lines: registries and `__init__`
SMALL = 60
MAX_LINES = 450


@dataclass(frozen=True)
class Import:
    """One imported module of the package: `source` needs `target`, both without `seats_cli.`."""

    source: str
    target: str
    line: int


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `seats_cli.`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if len(parts) > 1 and parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def room_of(module: str) -> str:
    """The folder directly below the package, or the module's own name in the root."""
    return module.split(".")[0]


def imports() -> Iterator[Import]:
    """All imports between modules, also those in functions and for type checking."""
    known = modules()
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno} is a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                # The version stands before anything that the package loads, so all may read it.
                if name.split(".")[0] != "seats_cli" or name == "seats_cli.__version__":
                    continue
                inner = name.removeprefix("seats_cli").removeprefix(".")
                target = inner if inner in known else inner.rpartition(".")[0] or "__init__"
                if target != module and target in known:
                    yield Import(module, target, node.lineno)


def lines_of(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def repeated_names() -> dict[str, list[str]]:
    """File names that stand in more than one room, with the modules that have them.

    Family files are exempt, which are the same family in `families` and `models`, and so are
    `__init__` and `__main__` files.
    """
    families = {path.stem for path in (PACKAGE / "families").glob("*.py")}
    where: dict[str, list[str]] = {}
    for module, path in modules().items():
        if path.stem not in ENTRANCES:
            where.setdefault(path.stem, []).append(module)
    return {
        name: places
        for name, places in where.items()
        if len({room_of(place) for place in places}) > 1
        and not (
            name in families and {room_of(place) for place in places} == {"families", "models"}
        )
    }


def main() -> None:
    """Print the counts."""
    sizes = {module: lines_of(path) for module, path in modules().items()}
    rooms = Counter(room_of(module) for module in sizes)
    print(f"files             {len(sizes):6d}  (at most {MAX_FILES})")
    small = sorted(module for module, lines in sizes.items() if lines < SMALL)
    print(
        f"under {SMALL} lines    {len(small):6d}  (at most {MAX_SMALL_FILES}): {', '.join(small)}"
    )
    longest = max(sizes, key=lambda module: sizes[module])
    print(f"longest           {sizes[longest]:6d}  (at most {MAX_LINES}): {longest}")
    print(f"lines             {sum(sizes.values()):6d}")
    print(f"repeated names    {len(repeated_names()):6d}  {repeated_names() or ''}")
    for room, files in rooms.most_common():
        lines = sum(size for module, size in sizes.items() if room_of(module) == room)
        print(f"  {room:12s} {files:4d} files {lines:6d} lines")


if __name__ == "__main__":
    main()
