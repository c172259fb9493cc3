"""What `seats` says: documents, files and failures."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from seats_cli import SeatsConfig
from tests.surface.conftest import (
    CARDS,
    COMMANDS,
    FULL_CONFIG,
    QUESTION,
    ROOT,
    SNAPSHOTS,
    UPDATE,
    Run,
    check,
)

SPEECH = str(ROOT / "assets" / "jfk.wav")
Tree = dict[str, str]

# Runs that succeed. Everything is small; the device is named because a GPU leaves other marks.
SHORT = ("--end", "4", "--fps", "1")
ASK = ("ask", CARDS, QUESTION, *SHORT, "--device", "cpu", "--max-new-tokens", "4")
COMPARE = ("compare", CARDS, QUESTION, *SHORT, "--device", "cpu", "--max-new-tokens", "4")
EVAL = ("--device", "cpu", "-o", "run")
# The bundled model with all that a model may say of itself, for files that repeat it.
PAIRED = ("--model", "./paired")
RUNS: dict[str, tuple[str, ...]] = {
    "ask": (*ASK, *PAIRED, "--json", "--save-trace", "trace.json", "--html", "page.html"),
    "ask-also": (*ASK, "--also", "How many beeps are there?", "--json"),
    "ask-choices": (*ASK, "--choices", "red,green", "--json"),
    "ask-full": (*ASK, "--full", "--json"),
    "ask-skip-still": (*ASK, "--skip-still", "2", "--json"),
    "batch": ("batch", "short.jsonl", "--device", "cpu", "--fps", "1", "--json"),
    "compare": (*COMPARE, "--retain", "25%,1%", "--method", "seats,fastv", "--json"),
    "compare-csv": (*COMPARE, "--retain", "25%", "--skip-still", "off,2", "--format", "csv"),
    "doctor": ("doctor", "--json"),
    "eval": ("eval", "synthetic", *EVAL, "--limit", "3", "--retain", "25%", "--json"),
    "eval-find-layers": ("eval", "short.jsonl", *EVAL, "--fps", "1", "--find-layers", "--json"),
    "index": ("index", CARDS, *SHORT, "--device", "cpu", "-o", "cards.seats", "--full", "--json"),
    "plan": ("plan", CARDS, "--json"),
    "plan-memory": ("plan", CARDS, "--memory", "--json"),
    "plan-full": ("plan", CARDS, "--full", "--model", "qwen3-omni-30b-a3b", "--json"),
    "plan-sound": ("plan", SPEECH, "--config", "full.toml", "--json"),
    "profile": (
        *("profile", CARDS, *SHORT, "--device", "cpu", "--repeats", "1", "--warm-ups", "0"),
        *("--new-tokens", "2", "--skip-still", "off,2", "--csv", "profile.csv", "--json"),
    ),
    "profile-questions": (
        *("profile", CARDS, *SHORT, "--device", "cpu", "--repeats", "1", "--warm-ups", "0"),
        *("--new-tokens", "1", "--questions", "2", "--csv", "questions.csv", "--json"),
    ),
    "show": (
        *("show", CARDS, QUESTION, *SHORT, *PAIRED),
        *("--device", "cpu", "-o", "out", "--with-full"),
    ),
}

# Runs that fail, by exit code; 1 and 130 need a defect or a signal, which `tests/cli` has.
GONE = ("--model", "./gone", "--offline")
BUNDLED = ROOT / "seats_cli" / "models" / "bundled"
_TEXT = json.loads((BUNDLED / "config.json").read_text())["text_config"]
ENDLESS = "why " * _TEXT["max_position_embeddings"]  # each word is a token at least
FAILURES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (2, ("aks",)),
    (2, ("ask",)),
    (2, ("ask", CARDS)),
    (2, ("ask", CARDS, QUESTION, "--fpz", "1")),
    (2, ("ask", CARDS, QUESTION, "--fps", "0")),
    (2, ("ask", CARDS, QUESTION, "--retain", "2")),
    (2, ("ask", CARDS, QUESTION, "--kv", "none")),
    (2, ("ask", CARDS, QUESTION, "--start", "3", "--end", "2")),
    (2, ("ask", CARDS, QUESTION, "--choices", "red")),
    (2, ("ask", CARDS, QUESTION, "--config", "gone.toml")),
    (2, ("ask", CARDS, QUESTION, "--config", "unknown.toml")),
    (2, ("ask", CARDS, QUESTION, "--save-trace", "trace.txt")),
    (2, ("plan", CARDS, "--text-tokens", "0")),
    (2, ("profile",)),
    (2, ("profile", "--synthetic", "2", "--random-weights", "gpt")),
    (2, ("compare", CARDS, QUESTION, "--method", "best")),
    (2, ("compare", CARDS, QUESTION, "--format", "xml")),
    (2, ("show", CARDS, QUESTION)),
    (2, ("show", "--trace", "gone.json", "-o", "out")),
    (2, ("eval", "nowhere")),
    (2, ("index", CARDS, "-o", "cards.mp4")),
    (2, ("index", "-")),
    (2, ("batch", "gone.jsonl")),
    (2, ("batch", CARDS)),
    (2, ("serve", "--host", "0.0.0.0")),
    (3, ("ask", "gone.mp4", QUESTION)),
    (3, ("ask", "noise.mp4", QUESTION)),
    (3, ("ask", ".", QUESTION)),
    (3, ("plan", "noise.mp4")),
    (3, ("profile", "noise.mp4")),
    (3, ("compare", "noise.mp4", QUESTION)),
    (3, ("show", "noise.mp4", QUESTION, "-o", "out")),
    (4, ("ask", CARDS, QUESTION, *GONE)),
    (4, ("plan", CARDS, "--model", "./gone")),
    (4, ("profile", CARDS, *GONE)),
    (4, ("compare", CARDS, QUESTION, *GONE)),
    (4, ("show", CARDS, QUESTION, "-o", "out", *GONE)),
    (4, ("eval", "synthetic", "--limit", "1", *GONE)),
    (4, ("index", CARDS, *GONE)),
    (4, ("batch", CARDS, "-q", QUESTION, *GONE)),
    (5, ("ask", CARDS, ENDLESS, *SHORT, "--device", "cpu", "--quiet")),
    (6, ("eval", "broken.jsonl", "--device", "cpu", "--quiet", "--json")),
    (6, ("batch", "broken.jsonl", "--device", "cpu", "--quiet", "--json")),
)

# Keys whose values say what they are: compared by value.
CONSTANTS = ("schema_version", "kind", "format")
# Objects whose keys are the user's or the question set's words.
NAMED_BY_DATA = ("settings", "families", "clip_kinds")
# Values that depend on what is installed or on the machine.
VARYING = (
    *("cache_size_bytes", "cuda_build", "flash-attn", "peak_host_bytes", "ram_available_bytes"),
    *("ram_bytes", "triton"),
)


def test_every_snapshot_belongs_to_a_test() -> None:
    wanted = {
        *(f"commands/{name}.json" for name in ("seats", *COMMANDS)),
        *(f"json/{name}.json" for name in RUNS),
        *("config.json", "config.toml", "names.json", "settings.json"),
    }
    stored = {
        path.relative_to(SNAPSHOTS).as_posix()
        for path in SNAPSHOTS.rglob("*.*")
        if path.suffix != ".py" and path.parent.name != "__pycache__"
    }
    if UPDATE:
        for name in stored - wanted:
            (SNAPSHOTS / name).unlink()
    else:
        assert stored == wanted


# Documents and files


@dataclasses.dataclass
class Node:
    """What stands at one place of a document: types, the keys of objects, elements of lists."""

    types: dict[str, None] = dataclasses.field(default_factory=dict)
    keys: dict[str, Node] = dataclasses.field(default_factory=dict)
    element: Node | None = None
    visits: int = 0
    objects: int = 0

    def visit(self, value: Any, key: str = "") -> None:
        """Note a value that stands here."""
        self.visits += 1
        self.types[_type_of(value, key)] = None
        if key in VARYING:
            return
        if isinstance(value, dict):
            self.objects += 1
            own: dict[str, list[Any]] = {}
            for name, item in value.items():
                if not re.match(r"gpu\d", name):  # doctor has some for each GPU
                    own.setdefault(_general(name, item, key), []).append(item)
            for name, items in own.items():
                node = self.keys.setdefault(name, Node())
                before = node.visits
                for item in items:
                    node.visit(item, name)
                node.visits = before + 1  # in how many objects, however many keys share it
        elif isinstance(value, list):
            for item in value:
                self.element = self.element or Node()
                self.element.visit(item)

    def lines(self, path: str) -> Iterator[tuple[str, str]]:
        """Paths and types; of an object or a list that is always one, only what is inside."""
        inside = bool(self.keys) or self.element is not None
        if not inside or self.types.keys() not in ({"object"}, {"array"}):
            yield path, " | ".join(sorted(self.types))
        for key, node in self.keys.items():
            if node.visits < self.objects:
                node.types["absent"] = None
            yield from node.lines(f"{path}.{key}" if path else key)
        if self.element is not None:
            yield from self.element.lines(f"{path}[]")


def tree(document: Any) -> Tree:
    """Every path of a document with the types found there, in the document's order."""
    root = Node()
    root.visit(document)
    return dict(root.lines(""))


def _type_of(value: Any, key: str) -> str:
    if key in VARYING:
        return "varies"
    if isinstance(value, str) and key in CONSTANTS:
        return json.dumps(value)
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _general(key: str, value: Any, parent: str) -> str:
    """A key, or what it stands for where it is data or depends on the machine."""
    if parent in NAMED_BY_DATA and isinstance(value, dict):
        return "<name>"
    return re.sub(r"^(\d+$|.*(?=config\.toml$))", "<any>", key)


def _write_paired(folder: Path) -> None:
    shutil.copytree(BUNDLED, folder)
    values = json.loads((folder / "config.json").read_text())
    values["seats"]["retention_pairs"] = [[0.1, 0.16, 0.3], [0.25, 0.36, 0.47]]
    (folder / "config.json").write_text(json.dumps(values))


def _files(folder: Path) -> set[Path]:
    """All files, but for what libraries keep in the home folder."""
    found = {path for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if folder / "home" not in path.parents}


def _read(path: Path) -> Tree:
    """What is in a file that a command wrote; nothing about pictures and texts."""
    text = path.read_text(encoding="utf-8") if path.suffix not in (".png", ".mp4", ".seats") else ""
    if path.suffix == ".json":
        return tree(json.loads(text))
    if path.suffix == ".jsonl":
        return tree([json.loads(line) for line in text.splitlines()])
    if path.suffix == ".csv":
        return _columns(text)
    if path.suffix == ".toml":
        return tree(SeatsConfig.load(path).to_dict())
    assert text or path.stat().st_size
    return {}


def _columns(text: str) -> Tree:
    header, *rows = csv.reader(text.splitlines())
    assert rows
    assert all(len(row) == len(header) for row in rows)
    return dict.fromkeys(header, "column")


def _output(name: str, text: str) -> Tree:
    if "--json" in RUNS[name]:
        return tree(json.loads(text))
    return _columns(text) if "csv" in RUNS[name] else {}


@pytest.mark.parametrize("name", RUNS)
def test_keys_of_documents_and_files_stay(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    SeatsConfig.from_dict(FULL_CONFIG).dump("full.toml")
    _write_questions("short.jsonl", CARDS)
    if name == "doctor":
        # All that it reports; a GPU that is visible stays so.
        for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.setenv(variable, "1")
        monkeypatch.setenv("SEATS_DEBUG", "0")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
        Path("seats.toml").write_text('model = "bundled"\n')
    if PAIRED[1] in RUNS[name]:
        _write_paired(Path(PAIRED[1]))
    before = _files(tmp_path)
    result = run(*RUNS[name])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Tree | str] = {"stdout": _output(name, result.stdout)}
    for path in sorted(_files(tmp_path) - before):
        inside = _read(path)
        same = inside and inside == found["stdout"]
        found[path.relative_to(tmp_path).as_posix()] = "as stdout" if same else inside
    check(f"json/{name}.json", found)


def test_an_unknown_setting_is_refused(run: Run) -> None:
    Path("seats.toml").write_text("question = 1\n")
    _check_sentence(run("ask", CARDS, QUESTION), 2)


# Failures


def _write_questions(name: str, *media: str) -> None:
    common = {"question": QUESTION, "answer": "red", "start": 0, "end": 2}
    items = ({"id": str(number), "media": path, **common} for number, path in enumerate(media))
    Path(name).write_text("\n".join(map(json.dumps, items)))


def _check_sentence(result: Result, code: int) -> None:
    """One line on stderr says what went wrong, and nothing looks like an answer."""
    assert result.exit_code == code, result.stderr
    (line,) = result.stderr.splitlines()
    assert re.fullmatch(r"Error: \S.*\S", line)
    assert "Traceback" not in result.output
    if code != 6:  # the rest of a batch has its answers
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("code", "arguments"),
    FAILURES,
    ids=[f"{code} {' '.join(map(os.path.basename, words))[:60]}" for code, words in FAILURES],
)
def test_a_failure_is_one_sentence_and_a_code(
    run: Run, tmp_path: Path, code: int, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "unknown.toml").write_text("retains = 0.5\n")
    _write_questions("broken.jsonl", CARDS, "noise.mp4")
    _check_sentence(run(*arguments), code)


def test_a_process_fails_like_that_too(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "seats_cli", "ask", "gone.mp4", QUESTION],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
