"""What users and their scripts rely on, compared with snapshots in `tests/surface/`.

Frozen are the options of every command, the keys of every document and file that a command
writes, the keys of configurations and of seats.toml, exit codes, and the names that the package
exports. Only the package and its command line are imported, so the modules behind them may move.

A change that is meant is written down by

    SEATS_UPDATE_SURFACE=1 python -m pytest tests/test_surface.py

and its diff belongs into the same commit.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import inspect
import json
import os
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub  # noqa: F401 - reads variables that `doctor` reports, before they are set
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

import seats_cli
from seats_cli import SeatsConfig
from seats_cli.cli.main import app, main

ROOT = Path(__file__).parents[1]
SNAPSHOTS = Path(__file__).parent / "surface"
UPDATE = os.environ.get("SEATS_UPDATE_SURFACE", "") not in ("", "0")

GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = dict(GROUP.commands)
CARDS = str(ROOT / "assets" / "cards_words_beeps_12s.mp4")
SPEECH = str(ROOT / "assets" / "jfk.wav")
QUESTION = "What color is shown first?"

Run = Callable[..., Result]
Tree = dict[str, str]

# Runs that succeed. Everything is small; the device is named because a GPU leaves other marks.
SHORT = ("--end", "4", "--fps", "1")
ASK = ("ask", CARDS, QUESTION, *SHORT, "--device", "cpu", "--max-new-tokens", "4")
COMPARE = ("compare", CARDS, QUESTION, *SHORT, "--device", "cpu", "--max-new-tokens", "4")
EVAL = ("--device", "cpu", "-o", "run")
RUNS: dict[str, tuple[str, ...]] = {
    "ask": (*ASK, "--json", "--save-trace", "trace.json", "--html", "page.html"),
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
    "show": ("show", CARDS, QUESTION, *SHORT, "--device", "cpu", "-o", "out", "--with-full"),
}

# Runs that fail, by exit code; 1 and 130 need a defect or a signal, which `tests/cli` has.
GONE = ("--model", "./gone", "--offline")
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
    (5, ("ask", CARDS, "why " * 5000, *SHORT, "--device", "cpu", "--quiet")),
    (6, ("eval", "broken.jsonl", "--device", "cpu", "--quiet", "--json")),
    (6, ("batch", "broken.jsonl", "--device", "cpu", "--quiet", "--json")),
)

# A value of the right kind for every setting, none of them the default.
SETTINGS: dict[str, str | int | float | bool] = {
    "model": "some/model",
    "device": "cpu",
    "dtype": "float32",
    "attn": "eager",
    "revision": "main",
    "offline": True,
    "quantize": "4bit",
    "adapter": "some/adapter",
    "start": "0:01",
    "end": "0:03",
    "fps": 3.0,
    "max_frames": 64,
    "max_pixels": 100_000,
    "total_pixels": 9_000_000,
    "audio": False,
    "audio_track": 1,
    "video_track": 1,
    "max_audio": "0:30",
    "system": "Be brief.",
    "allow_local_urls": True,
    "retain": "10%",
    "retain_video": "20%",
    "retain_audio": "30%",
    "method": "random",
    "full": True,
    "kv": "survivors",
    "allocation": "adaptive",
    "skip_still": 2.0,
    "encoder_reuse": 0.98,
    "encoder_keep": "35%",
    "config": "mine.toml",
    "max_new_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 7,
    "seed": 3,
}
# Every field of a configuration; the bundled model reaches it.
FULL_CONFIG: dict[str, Any] = {
    "retain": 0.25,
    "retain_video": 0.3,
    "retain_audio": 0.5,
    "encoder_scale": 1.4,
    "drop_layers": [8, 9, 10],
    "late_layer": 12,
    "temperature": 0.2,
    "video_window": 4,
    "audio_window": 40,
    "allocation": "adaptive",
    "kv": "survivors",
    "method": "seats",
    "contextual_ratio": 0.1,
    "fastv_layer": 3,
    "seed": 7,
    "still_tolerance": 2.0,
    "encoder_reuse": 0.98,
    "encoder_keep": 0.35,
}

# What every option for a number is tried with, to find what it takes.
PROBES = ("-1", "0", "0.5", "1", "2", "25%", "256", "4294967296", "1e999", "", "x")
# Keys whose values say what they are: compared by value.
CONSTANTS = ("schema_version", "kind", "format")
# Objects whose keys are the user's or the question set's words.
NAMED_BY_DATA = ("settings", "families", "clip_kinds")
# Values that depend on what is installed or on the machine.
VARYING = (
    *("cache_size_bytes", "cuda_build", "flash-attn", "peak_host_bytes", "ram_available_bytes"),
    *("ram_bytes", "triton"),
)


# Snapshots


def check(name: str, found: Any) -> None:
    """Compare with a snapshot, or write it when that was asked for; a missing one is a failure."""
    text = found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False)
    text = text.rstrip("\n") + "\n"
    path = SNAPSHOTS / name
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    where = path.relative_to(ROOT).as_posix()
    remedy = "if that is meant, run SEATS_UPDATE_SURFACE=1 python -m pytest tests/test_surface.py"
    if not path.is_file():
        pytest.fail(f"There is no snapshot {where}; {remedy}", pytrace=False)
    before = path.read_text(encoding="utf-8")
    if before != text:
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), where, "now", lineterm="", n=2
        )
        shown = "\n".join(lines)
        pytest.fail(f"The public surface has changed; {remedy}\n\n{shown}", pytrace=False)


def test_every_snapshot_belongs_to_a_test() -> None:
    wanted = {
        *(f"commands/{name}.json" for name in ("seats", *COMMANDS)),
        *(f"json/{name}.json" for name in RUNS),
        *("config.json", "config.toml", "names.json", "settings.json"),
    }
    stored = {path.relative_to(SNAPSHOTS).as_posix() for path in SNAPSHOTS.rglob("*.*")}
    if UPDATE:
        for name in stored - wanted:
            (SNAPSHOTS / name).unlink()
    else:
        assert stored == wanted


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call `seats` in an empty folder, on no terminal and without the user's settings."""
    for name in [name for name in os.environ if name.startswith("SEATS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or the command line sets the number itself
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, "100")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


# Commands and options. Typer keeps types in another way in every version, so the type is that of
# the command's signature, and the default and the accepted numbers are what parsing makes of them.


def _parsed(command: Any, name: str, *arguments: str) -> dict[str, Any]:
    """The values that a command gets for its arguments, with those it cannot do without."""
    needed = [p.name for p in command.params if p.param_type_name == "argument" and p.required]
    values = command.make_context(name, [*needed, *arguments]).params
    plain = {key: getattr(value, "value", value) for key, value in values.items()}
    return {key: [] if value == () else value for key, value in plain.items()}


def _type(hint: Any) -> Any:
    """The type of one value of an optional or repeated parameter."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    return _type(inner[0]) if inner else hint


def _accepted(command: Any, name: str, option: Any) -> str:
    """Which of the probes an option takes, and as what."""
    found = []
    for probe in PROBES:
        try:
            value = _parsed(command, name, f"{option.opts[0]}={probe}")[option.name]
        except Exception as error:  # of a class that every version of Typer has elsewhere
            if getattr(error, "exit_code", None) != 2:
                raise
        else:
            found.append(f"{probe!r} is {value}")
    return ", ".join(found)


def _parameter(command: Any, name: str, parameter: Any, hint: Any, default: Any) -> dict[str, Any]:
    """One parameter in words that every version of Typer has; what is empty is left out."""
    kind = _type(hint)
    choices = [member.value for member in kind] if issubclass(kind, Enum) else None
    is_option = parameter.param_type_name == "option"
    described = {
        "names": ", ".join(parameter.opts),
        "negations": ", ".join(parameter.secondary_opts),
        "type": "choice" if choices else kind.__name__,
        "choices": ", ".join(choices or ()),
        "accepts": _accepted(command, name, parameter) if kind in (int, float) else None,
        "default": None if parameter.required else default,
        "shown_default": parameter.show_default if parameter.show_default is not True else None,
        "required": parameter.required,
        "multiple": is_option and parameter.multiple,
        "metavar": parameter.metavar,
        "variable": parameter.envvar,
        "panel": parameter.rich_help_panel,
        "hidden": parameter.hidden,
        "help": parameter.help,
    }
    may_be_false = ("default", "shown_default")
    return {
        key: value
        for key, value in described.items()
        if value or (key in may_be_false and value is not None)
    }


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n")]


def _described(command: Any, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A command as users know it; arguments in their order, options by name."""
    hints = typing.get_type_hints(command.callback)
    own = [p for p in command.params if p.name in hints]  # Typer adds some for completion
    described = {
        kind: [
            _parameter(command, name, p, hints[p.name], values[p.name])
            for p in own
            if p.param_type_name == kind
        ]
        for kind in ("argument", "option")
    }
    return {
        "help": _paragraphs(command.help),
        "epilog": _paragraphs(command.epilog),
        "arguments": described["argument"],
        "options": sorted(described["option"], key=lambda option: str(option["names"])),
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_of_a_command_stay(run: Run, name: str) -> None:
    command = COMMANDS[name]
    check(f"commands/{name}.json", _described(command, name, _parsed(command, name)))


def test_commands_and_global_options_stay(run: Run) -> None:
    values = GROUP.make_context("seats", ["doctor"]).params
    described = _described(GROUP, "seats", values)
    check("commands/seats.json", {"commands": list(COMMANDS), **described})


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_help_names_every_option(run: Run, name: str) -> None:
    result = run(*([name] if name else []), "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)  # some CI machines count as terminals
    for parameter in (COMMANDS[name] if name else GROUP).params:
        for word in (*parameter.opts, *parameter.secondary_opts):
            assert word.lower() in text.lower()


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
    before = _files(tmp_path)
    result = run(*RUNS[name])
    assert result.exit_code == 0, result.stderr
    found: dict[str, Tree | str] = {"stdout": _output(name, result.stdout)}
    for path in sorted(_files(tmp_path) - before):
        inside = _read(path)
        same = inside and inside == found["stdout"]
        found[path.relative_to(tmp_path).as_posix()] = "as stdout" if same else inside
    check(f"json/{name}.json", found)


# Configurations and settings


def test_keys_of_a_configuration_stay() -> None:
    fields = {
        field.name: {
            "type": field.type,
            "default": getattr(SeatsConfig(), field.name),
        }
        for field in dataclasses.fields(SeatsConfig)
    }
    check("config.json", {"written": SeatsConfig().to_dict(), "fields": fields})


def test_a_full_configuration_is_written_and_read_as_before(tmp_path: Path) -> None:
    config = SeatsConfig.from_dict(FULL_CONFIG)
    assert config.to_dict() == FULL_CONFIG
    own = {field.name for field in dataclasses.fields(SeatsConfig)} - {"options"}
    assert set(FULL_CONFIG) - own == {"contextual_ratio", "fastv_layer"}  # options of methods
    for name in ("config.toml", "config.json"):
        config.dump(tmp_path / name)
        assert SeatsConfig.load(tmp_path / name) == config
    check("config.toml", (tmp_path / "config.toml").read_text(encoding="utf-8"))
    assert SeatsConfig.load(SNAPSHOTS / "config.toml") == config


def test_settings_and_their_defaults_stay(run: Run) -> None:
    defaults = json.loads(run("config", "--json").stdout)
    assert defaults["settings"].keys() == SETTINGS.keys()
    _write_settings()
    obeyed = {}
    for name, command in COMMANDS.items():
        unset = {p.name: p.name in SETTINGS for p in command.params}
        values = _parsed(command, name)
        paths = {key: str(value) for key, value in values.items() if isinstance(value, Path)}
        obeyed[name] = {key: value for key, value in {**values, **paths}.items() if unset[key]}
    check("settings.json", {**defaults, "obeyed": obeyed})


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_is_taken_from_file_and_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    _write_settings()
    found = json.loads(run("config", "--json").stdout)["settings"][key]
    assert found == {"value": SETTINGS[key], "origin": "seats.toml"}
    monkeypatch.setenv(f"SEATS_{key.upper()}", "1")
    found = json.loads(run("config", "--json").stdout)["settings"][key]
    assert found == {"value": "1", "origin": f"SEATS_{key.upper()}"}


def test_an_unknown_setting_is_refused(run: Run) -> None:
    Path("seats.toml").write_text("question = 1\n")
    _check_sentence(run("ask", CARDS, QUESTION), 2)


def _write_settings() -> None:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in SETTINGS.items())
    Path("seats.toml").write_text("".join(lines))


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


# Names


def _signature(called: Any) -> list[str]:
    return [
        str(parameter.replace(annotation=parameter.empty))
        for parameter in inspect.signature(called).parameters.values()
    ]


def _exported(value: Any) -> dict[str, Any]:
    if not callable(value):
        return {"type": type(value).__name__}
    described: dict[str, Any] = {"type": type(value).__name__, "takes": _signature(value)}
    if inspect.isclass(value):
        arguments = {part.partition("=")[0] for part in described["takes"]}
        members = {key: getattr(value, key) for key in dir(value) if not key.startswith("_")}
        described["attributes"] = {
            key: _signature(member) if callable(member) else type(member).__name__
            for key, member in members.items()
            if key not in arguments
        }
    return described


def test_exported_names_stay() -> None:
    names = {name: _exported(getattr(seats_cli, name)) for name in seats_cli.__all__}
    assert set(names) <= set(dir(seats_cli))
    check("names.json", names)


def test_the_script_starts_the_same_program() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, scripts = text.partition("[project.scripts]\n")
    (target,) = re.findall(r'^seats = "([\w.]+:\w+)"$', scripts.split("\n[")[0], re.MULTILINE)
    module, _, name = target.partition(":")
    assert getattr(import_module(module), name) is main
