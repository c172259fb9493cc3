"""`seats show` and the options of `ask` and `compare`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction

import av
import pytest
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.media.reader import read_clip
from seats_cli.show.encode import display_aspect
from seats_cli.show.trace_file import load_record
from tests.media.build import Sound, plain, steady, tone, turn, write
from tests.show.conftest import CARDS, QUESTION, SPEECH

FILES = {"index.html", "frames.png", "sound.png", "layers.png", "trace.json"}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call `seats` in an empty folder and without the user's settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(part) for part in arguments])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder drawn by the bundled model, and what the command printed."""
    folder = tmp_path_factory.mktemp("drawn")
    result = CliRunner().invoke(
        app,
        ["show", str(CARDS), QUESTION, "--end", "5", "-o", str(folder / "out"), "--with-full"],
    )
    return folder / "out", result


def test_everything_is_written(drawn):
    folder, result = drawn
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "red\n"
    assert {path.name for path in folder.iterdir()} == FILES
    record = load_record(folder / "trace.json")
    assert (record.answer, record.full_answer) == ("red", "red")
    assert record.media.path == str(CARDS)
    assert "Answer, unpruned" in (folder / "index.html").read_text()


def test_a_saved_trace_is_drawn_without_torch(drawn, tmp_path):
    folder, _ = drawn
    code = (
        "import sys\n"
        "from seats_cli.cli.main import main\n"
        f"sys.argv = ['seats', 'show', '--trace', {str(folder / 'trace.json')!r}, '-o', 'again',"
        " '--video', 'film.mp4']\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "red\n[]\n"
    for name in FILES - {"trace.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert read_clip(tmp_path / "film.mp4").facts.duration_s == pytest.approx(5.0, abs=0.1)


def test_another_clip_is_refused(run, drawn):
    folder, _ = drawn
    result = run("show", "--trace", folder / "trace.json", SPEECH, "-o", "out")
    assert result.exit_code == 2
    assert "is not the clip of this trace" in result.stderr


def test_only_its_own_files_are_replaced(run, drawn, tmp_path):
    folder, _ = drawn
    trace = folder / "trace.json"
    assert run("show", "--trace", trace, "-o", "out").exit_code == 0
    again = run("show", "--trace", trace, "-o", "out")
    assert again.exit_code == 0
    assert "Replaced out/index.html" in again.stderr
    (tmp_path / "out" / "layers.png").write_bytes(b"my picture")
    refused = run("show", "--trace", trace, "-o", "out")
    assert refused.exit_code == 2
    assert "was not made by seats" in refused.stderr
    assert (tmp_path / "out" / "layers.png").read_bytes() == b"my picture"


def test_the_clip_itself_is_never_overwritten(run, tmp_path):
    clip = write(tmp_path / "clip.mp4", steady(50), [Sound(tone(2))])
    before = clip.read_bytes()
    for target in (clip, tmp_path / "link.mp4"):
        if target != clip:
            target.symlink_to(clip)
        result = run("show", clip, QUESTION, "--video", target)
        assert result.exit_code == 2, result.stderr
    assert clip.read_bytes() == before
    assert run("show", clip, QUESTION, "--video", "film.mp4").exit_code == 0
    film = (tmp_path / "film.mp4").read_bytes()
    result = run("show", "film.mp4", QUESTION, "--video", "film.mp4")
    assert result.exit_code == 2
    assert "is the clip itself" in result.stderr
    assert (tmp_path / "film.mp4").read_bytes() == film
    assert sorted(path.name for path in tmp_path.glob(".*")) == []  # no half files


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "-o DIR"),
        (["show", "-o", "out"], "Give a VIDEO"),
        (["show", "--trace", "none.json", "-o", "out"], "cannot be read"),
        (["show", "--trace", "none.txt", "-o", "out"], ".json or .safetensors"),
        (["show", "--trace", "t.json", CARDS, "why?", "-o", "out"], "leave QUESTION out"),
        (["show", "--trace", "t.json", "--retain", "10%", "-o", "out"], "--retain has no effect"),
        (["show", CARDS, QUESTION, "-o", "no/such/folder"], "does not exist"),
        (["show", CARDS, QUESTION, "-o", CARDS], "is a file"),
        (["show", CARDS, QUESTION, "--video", "film.avi"], "must end in .mp4"),
        (["ask", CARDS, QUESTION, "--html", "no/page.html"], "does not exist"),
        (["ask", CARDS, QUESTION, "--html", "."], "was not made by seats"),
        (["ask", CARDS, QUESTION, "--html", "/dev/null"], "was not made by seats"),
        (["ask", CARDS, QUESTION, "--save-trace", "trace.txt"], "must end in .json"),
        (["ask", CARDS, QUESTION, "--also", "What?", "--save-trace", "t.json"], "one question"),
        (["compare", CARDS, QUESTION, "--html", "no/page.html"], "does not exist"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(run, monkeypatch, arguments, words):
    monkeypatch.setitem(sys.modules, "seats_cli.models", None)
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_ask_writes_page_trace_and_strip(run, tmp_path):
    result = run(
        *("ask", CARDS, QUESTION, "--html", "a.html", "--save-trace", "a.safetensors", "--map"),
        *("--json", "--no-stream"),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["answer"] == "red"
    assert "video" in result.stderr
    assert "full block" in result.stderr
    record = load_record(tmp_path / "a.safetensors")
    assert record.question == QUESTION
    again = run("show", "--trace", "a.safetensors", "-o", "out")
    assert again.exit_code == 0, again.stderr
    assert (tmp_path / "out" / "index.html").read_text() == (tmp_path / "a.html").read_text()


def test_several_questions_share_a_page(run, tmp_path):
    result = run("ask", CARDS, QUESTION, "--also", "What color is shown last?", "--html", "a.html")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "a.html").read_text()
    assert "What color is shown last?" in page
    assert page.count('<section class="run"') == 2


def test_a_trace_remembers_how_the_clip_was_read(run, tmp_path):
    clip = write(tmp_path / "clip.mp4", steady(150), [Sound(tone(6))])
    (tmp_path / "away").mkdir()
    asked = run(
        *("show", clip, QUESTION, "--start", "1", "--end", "4", "--fps", "4", "-o", "out"),
        *("--max-pixels", "4000", "--no-audio", "--full", "-q"),
    )
    assert asked.exit_code == 0, asked.stderr
    record = load_record(tmp_path / "out" / "trace.json")
    assert record.plan is None
    assert (record.read.start, record.read.end, record.read.audio) == (1.0, 4.0, False)
    page = (tmp_path / "out" / "index.html").read_bytes()
    drawn = run("show", "--trace", "out/trace.json", "-o", "again")
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "again" / "index.html").read_bytes() == page
    clip.unlink()
    missing = run("show", "--trace", "out/trace.json", "-o", "again")
    assert missing.exit_code == 3


def test_compare_draws_all_runs(run, tmp_path):
    result = run("compare", CARDS, QUESTION, "--methods", "seats,random", "--html", "c.html")
    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "c.html").read_text()
    assert page.count('<section class="run"') == 3
    assert "random 25%" in page


@pytest.mark.parametrize(("degrees", "aspect"), [(0, 160 / 72), (90, 72 / 160)])
def test_pixels_that_are_not_square(run, tmp_path, degrees, aspect):
    """A page and a film in the shape of the display, as players show the clip."""
    plainly, clip = tmp_path / "plain.mp4", tmp_path / "clip.mp4"
    with av.open(str(plainly), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 72, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(25):
            frame = av.VideoFrame.from_ndarray(plain(90, 80, 72), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    turn(plainly, clip, degrees)
    result = run("show", clip, QUESTION, "-o", "out", "--video", "film.mp4")
    assert result.exit_code == 0, result.stderr
    assert display_aspect(load_record(tmp_path / "out" / "trace.json")) == pytest.approx(aspect)
    facts = read_clip(tmp_path / "film.mp4").facts
    assert facts.source_width / facts.source_height == pytest.approx(aspect, rel=0.03)
    page = (tmp_path / "out" / "index.html").read_text()
    assert f'<svg viewBox="0 0 100 {100 / aspect:.3f}"' in page
