"""Option groups: dataclasses on the inside, flat options outside; flags for parameter names."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from seats_cli.cli import option_groups
from seats_cli.cli import options as opt
from seats_cli.cli.main import app
from seats_cli.cli.option_groups import Omit, grouped, was_typed, with_flags
from seats_cli.cli.profile import RepeatFlags
from seats_cli.config import ModelOptions
from seats_cli.errors import ConfigError, UsageError
from seats_cli.media.clip import ReadOptions
from tests.cli.fakes import CALLS


@dataclasses.dataclass(frozen=True)
class Base:
    """A dataclass of a library, which knows no flags."""

    width: float = 1.5
    height: int | None = None
    hidden: bool = False


@dataclasses.dataclass(frozen=True)
class Flags(Base):
    """The same on the command line."""

    height: Annotated[int | None, typer.Option("--tall", min=1, rich_help_panel="Size")]
    kind: Annotated[opt.Format, typer.Option("--kind", rich_help_panel="Look")] = "csv"
    width: Annotated[float, typer.Option("--wide", rich_help_panel="Size")]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(option_groups, "FLAGS", {})
    option_groups._options.cache_clear()  # it notes flags too


def command_of(found: dict[str, Any], group: Any = Flags) -> typer.Typer:
    def draw(
        context: typer.Context,
        name: Annotated[str, typer.Argument()],
        *,
        size: group,  # type: ignore[valid-type]
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        """Draw something."""
        found.update(name=name, size=size, loud=loud, typed=was_typed(context, "height"))

    draw.__annotations__["size"] = group
    app = typer.Typer()
    app.command()(grouped(draw))
    return app


@pytest.mark.usefixtures("flags")
class TestGroup:
    def test_defaults_are_those_of_the_dataclass(self) -> None:
        found: dict[str, Any] = {}
        assert CliRunner().invoke(command_of(found), ["x"]).exit_code == 0
        assert found == {"name": "x", "size": Flags(1.5, None, False, "csv"), "loud": False} | {
            "typed": False
        }
        assert isinstance(found["size"], Base)

    def test_what_was_typed(self) -> None:
        found: dict[str, Any] = {}
        line = ["x", "--tall", "3", "--wide", "2", "--kind", "md", "--loud"]
        assert CliRunner().invoke(command_of(found), line).exit_code == 0
        assert found["size"] == Flags(2.0, 3, False, "md")
        assert type(found["size"].kind) is str
        assert (found["loud"], found["typed"]) == (True, True)

    def test_help_has_the_order_of_the_declarations(self) -> None:
        text = CliRunner().invoke(command_of({}), ["--help"]).stdout
        places = [text.index(word) for word in ("Size", "--tall", "--wide", "Look", "--kind")]
        assert places == sorted(places)
        assert "Draw something." in text
        assert "hidden" not in text

    def test_omitted_fields_keep_their_default(self) -> None:
        found: dict[str, Any] = {}
        app = command_of(found, Annotated[Flags, Omit("height")])
        assert CliRunner().invoke(app, ["x", "--tall", "3"]).exit_code == 2
        assert CliRunner().invoke(app, ["x", "--wide", "3"]).exit_code == 0
        assert found["size"] == Flags(3.0, None, False, "csv")

    def test_one_name_has_one_flag(self) -> None:
        command_of({})

        @dataclasses.dataclass(frozen=True)
        class Other:
            height: Annotated[int, typer.Option("--high")] = 1

        with pytest.raises(ValueError, match="height is --tall in one command and --high"):
            command_of({}, Other)


def test_no_command_takes_more_than_12_parameters() -> None:
    """Of the functions as they are written: a group is one parameter."""
    counts = {}
    for path in Path(inspect.getfile(opt)).parent.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        for part in source.split("@grouped\n")[1:]:
            signature = part[: part.index(") -> None:")]
            name = signature.partition("(")[0]
            counts[name] = sum(
                line.startswith("    ") and line[4].isidentifier() and ":" in line
                for line in signature.splitlines()
            )
    assert set(counts) == {
        f"def {name}"
        for name in ("ask", "chat", "index", "plan", "compare", "show", "batch", "serve", "mcp")
    } | {
        "def profile",
        "def evaluate",
    }
    assert max(counts.values()) <= 12, counts


def test_groups_have_the_names_of_the_library() -> None:
    from seats_cli.config import SETTINGS
    from seats_cli.engine.answer import ask
    from seats_cli.engine.profiling import run_profile
    from seats_cli.models import load_model

    def names(group: type) -> set[str]:
        return {field.name for field in dataclasses.fields(group)}

    assert names(opt.ReadFlags) == names(ReadOptions)
    assert (
        names(opt.ModelFlags) == names(ModelOptions) == {*inspect.signature(load_model).parameters}
    )
    assert names(opt.GenerationFlags) <= {*inspect.signature(ask).parameters}
    assert names(RepeatFlags) <= {*inspect.signature(run_profile).parameters}
    assert names(opt.BudgetFlags) - {"full", "config_file"} <= {*SETTINGS}


@pytest.mark.parametrize(
    ("sentence", "translated"),
    [
        (
            "Use `start` and `end`, or a lower `max_frames`.",
            "Use --start and --end, or a lower --max-frames.",
        ),
        ("max_pixels 3 is less than 784.", "--max-pixels 3 is less than 784."),
        ("Allow more with max_frames.", "Allow more with --max-frames."),
        ("Use `attention=eager` here.", "Use --attn eager here."),
        ('Use `dtype="bfloat16"` or retain less.', "Use --dtype bfloat16 or retain less."),
        ("For example max_frames=64, `retain=0.1`.", "For example --max-frames 64, --retain 0.1."),
        ("`offline=True` or `audio=False`", "--offline or --no-audio"),
        ("`still_tolerance` is Stage 0's", "--skip-still is Stage 0's"),
        ("The end must be after the start.", "The end must be after the start."),
        ("The file max_frames.mp4 or /tmp/max_audio", "The file max_frames.mp4 or /tmp/max_audio"),
        (
            "the key 'max_audio' of http://x/?max_audio=3",
            "the key 'max_audio' of http://x/?max_audio=3",
        ),
        ("`encoder_scale` has no flag.", "`encoder_scale` has no flag."),
        ("Already --max-frames and --attn eager.", "Already --max-frames and --attn eager."),
    ],
)
def test_parameters_become_flags(sentence: str, translated: str) -> None:
    assert with_flags(sentence) == translated


def test_errors_of_the_library_name_flags(
    run: Any, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    def refuse(error: Exception) -> Any:
        def ask(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(sys.modules["seats_cli.engine.answer"], "ask", ask)
        return run("ask", clip, "What?", "-q")

    result = refuse(UsageError("Use a lower max_frames or `dtype=bfloat16`."))
    assert result.stderr.splitlines()[-1] == "Error: Use a lower --max-frames or --dtype bfloat16."
    # What a configuration complains about may stand in a file: keys stay keys.
    result = refuse(ConfigError("Unknown setting x; known are retain_video, kv."))
    assert result.stderr.splitlines()[-1] == "Error: Unknown setting x; known are retain_video, kv."


def test_warnings_name_flags_in_the_document_too(run: Any, clip: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("tests.cli.fakes.WARNINGS", ("Sampled thinly: allow more `max_frames`.",))
    result = run("ask", clip, "What?", "--json")
    assert "Warning: Sampled thinly: allow more --max-frames." in result.stderr
    assert json.loads(result.stdout)["warnings"][0] == "Sampled thinly: allow more --max-frames."


@pytest.mark.parametrize("name", ["random", "Full", "seats"])
def test_a_question_with_a_method(run: Any, clip: str, name: str) -> None:
    assert run("ask", clip, "What?", "--method", name, "--retain", "10%").exit_code == 0
    config = CALLS["ask"]["config"]
    assert (config.method, config.retain) == (name.lower(), 0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "guess"), "--method 'guess' is not a selection method: choose from "),
        (("--method", "random", "--full"), "--full prunes nothing"),
    ],
)
def test_a_method_that_is_refused(
    run: Any, clip: str, arguments: tuple[str, ...], words: str
) -> None:
    result = run("ask", clip, "What?", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        ("ask", "{clip}", "What?", "--html", "page.html", "--save-trace", "trace.json", "--map"),
        ("compare", "{clip}", "What?", "--retain", "25%", "--html", "page.html"),
        ("show", "{clip}", "What?", "-o", "out", "--video", "film.mp4"),
        ("plan", "{clip}"),
    ],
)
def test_the_header_of_a_file_is_read_once(
    line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many later steps need what it says: sizes, tracks, the shape of pixels."""
    from seats_cli.media import probe, reader

    read = probe.probe
    headers = []

    def counting(path: Any) -> Any:
        headers.append(str(path))
        return read(path)

    clip = Path(__file__).parents[2] / "assets" / "sees_cat_says_dog.mp4"
    monkeypatch.setattr(probe, "probe", counting)
    monkeypatch.setattr(reader, "probe", counting)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    arguments = [part.format(clip=clip) for part in line]
    short = ["--max-new-tokens", "2", "--end", "2"]
    result = CliRunner().invoke(app, [*arguments, *short])
    assert result.exit_code == 0, result.stderr
    assert headers == [str(clip)]
