"""What is built from this repository installs and runs without it.

The wheel is built from the source distribution, as index builders do, by the setuptools of this
environment, and installed into one that sees the dependencies of this environment and nothing of
the repository. Nothing is downloaded.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from packaging.metadata import Metadata

import seats_cli

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "LICENSES", "docs")
BESIDE = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "tests")
MEGABYTE = 1_000_000

BUILD = """
import os, sys, tarfile
import setuptools.build_meta as backend
work = sys.argv[1]
archive = backend.build_sdist(work)
with tarfile.open(f"{work}/{archive}") as file:
    file.extractall(work, filter="data")
os.chdir(f"{work}/{archive.removesuffix('.tar.gz')}")
backend.build_wheel(work)
"""

MAKE_A_CLIP = """
import av, numpy as np
with av.open("blue first.mp4", "w") as container:
    stream = container.add_stream("mpeg4", rate=8, options={"qscale": "2"})
    stream.width, stream.height, stream.pix_fmt = 140, 84, "yuv420p"
    for index in range(32):
        color = (0, 0, 255) if index < 16 else (0, 160, 0)
        picture = np.full((84, 140, 3), color, dtype=np.uint8)
        for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)
"""


@dataclass(frozen=True)
class Built:
    """The two files that would be published, and what the wheel says about itself."""

    sdist: Path
    wheel: Path
    names: frozenset[str]
    metadata: Metadata
    entry_points: configparser.ConfigParser


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    work = tmp_path_factory.mktemp("wheel")
    source = work / "repository"
    source.mkdir()
    for name in (*SOURCES, *BESIDE, "constraints.txt", ".ci", "assets", "seats_cli"):
        path = ROOT / name
        if path.is_dir():
            # The recorded numbers are two thirds of the tests' bytes, and only cost time here.
            numbers = ("*.safetensors",) if name == "tests" else ()
            ignored = shutil.ignore_patterns("__pycache__", *numbers)
            shutil.copytree(path, source / name, ignore=ignored)
        else:
            shutil.copy(path, source / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(work)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = work.glob("*.whl")
    (sdist,) = work.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        entry_points = configparser.ConfigParser()
        entry_points.read_string(file.read(f"{info}/entry_points.txt").decode())
        # Unknown fields, versions, requirements, licence expressions and such are errors here.
        metadata = Metadata.from_email(file.read(f"{info}/METADATA"), validate=True)
    return Built(sdist, wheel, frozenset(names), metadata, entry_points)


@pytest.fixture(scope="module")
def run(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program of a clean environment, in a folder outside of the repository."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home / "env", with_pip=False)
    scripts = home / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path("python").with_suffix(".exe" if os.name == "nt" else "")
    # A folder that a .pth names is searched, but the .pth files in it are not read: the editable
    # installation of the repository in this environment stays out.
    paths = {"base": str(home / "env"), "platbase": str(home / "env")}
    library = Path(sysconfig.get_path("purelib", vars=paths))
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (library / "dependencies.pth").write_text("\n".join(sorted(dependencies)), encoding="utf-8")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "SEATS_")) and key != "VIRTUAL_ENV"
    }
    # A shell is named by its argument: `make` runs the tests from one that Typer does not know.
    kept["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    folder = home / "elsewhere"
    folder.mkdir()

    def call(program: str, *arguments: str) -> str:
        command = [str(scripts / program), *arguments]
        done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    quiet = ["--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    # From another folder and without this environment's own installation in sight.
    command = [*pip, *quiet, "--ignore-installed", str(built.wheel)]
    subprocess.run(command, cwd=home, env=kept, check=True)
    return call


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seats_cli").rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".pyo")
    }
    assert {name for name in built.names if ".dist-info/" not in name} == package
    for name in ("py.typed", "models/bundled/model.safetensors", "show/assets/page.html.j2"):
        assert f"seats_cli/{name}" in built.names
    assert any(re.fullmatch(r"seats_cli/world/assets/.*\.ogg", name) for name in built.names)
    assert built.wheel.name.endswith("-py3-none-any.whl")
    assert built.wheel.stat().st_size < 25 * MEGABYTE


def test_the_source_distribution_holds_what_tests_and_pages_need(built: Built) -> None:
    with tarfile.open(built.sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers()}
    needed = {"assets/CREDITS.md", "docs/images/show-light.png", "tests/structure.py", ".ci/run"}
    assert {*needed, "tests/surface/names.json", "docs/configs/kv/survivors.toml"} <= names
    assert {name for name in (*SOURCES, *BESIDE) if (ROOT / name).is_file()} <= names
    assert built.sdist.stat().st_size < 40 * MEGABYTE


def test_licence_files_are_the_texts_that_the_expression_names(built: Built) -> None:
    expression = built.metadata.license_expression
    assert expression is not None
    files = built.metadata.license_files
    assert files is not None
    assert all(any(name.endswith(f"/licenses/{file}") for name in built.names) for file in files)
    assert {"LICENSE", "docs/licences.md", "seats_cli/world/assets/LICENCES.md"} <= {*files}
    texts = {Path(file).stem for file in files if file.startswith("LICENSES/")} | {"MIT"}
    assert {*expression.split(" AND ")} == texts
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_metadata_are_complete(built: Built) -> None:
    metadata = built.metadata
    assert metadata.name == "seats-cli"
    assert str(metadata.version) == seats_cli.__version__
    assert metadata.summary
    assert metadata.keywords
    assert metadata.classifiers
    assert metadata.requires_python == ">=3.10"
    # Beside a licence expression, an index takes no licence classifier.
    assert not [line for line in metadata.classifiers if line.startswith("License ::")]
    shown = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    public = "\n".join(page.read_text(encoding="utf-8") for page in shown)
    assert metadata.project_urls
    assert all(address in public for address in metadata.project_urls.values())


def test_the_description_reads_alone(built: Built) -> None:
    assert built.metadata.description_content_type == "text/markdown"
    text = built.metadata.description
    assert text is not None
    tokens = MarkdownIt().enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    targets = [child.attrGet("href") or child.attrGet("src") for child in inline]
    addresses = [str(target) for target in targets if target]
    assert addresses
    assert not [address for address in addresses if not address.startswith("https://")]
    # Nothing but links and pictures went: code is as it was, and every heading is still there.
    readme = MarkdownIt().enable("table").parse((ROOT / "README.md").read_text(encoding="utf-8"))
    assert _code(tokens) == _code(readme)
    assert [token.tag for token in tokens if token.type == "heading_open"] == [
        token.tag for token in readme if token.type == "heading_open"
    ]
    assert "seats ask" in "".join(_code(tokens))
    assert "](" not in re.sub(r"```.*?```|\]\(https://[^)]*\)", "", text, flags=re.DOTALL)


def test_every_version_is_the_package_s(built: Built) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == seats_cli.__version__
    assert citation["license"] in str(built.metadata.license_expression).split(" AND ")
    bibtex = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"version = {{{seats_cli.__version__}}}" in bibtex
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert all(name in bibtex for name in names)
    assert citation["preferred-citation"]["title"] in bibtex


def test_licences_of_all_requirements_are_stated(built: Built) -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+)(?: \(\w+\))? \| ([\w. ]+) \|", page, re.MULTILINE))
    needed = [one for one in built.metadata.requires_dist or () if "extra" not in str(one.marker)]
    assert {one.name for one in needed} <= rows.keys()
    assert re.search(rf"PyAV {version('av')}", page) or version("av") != rows["av"]


def test_both_names_start_the_program(built: Built, run: Callable[..., str]) -> None:
    targets = dict(built.entry_points["console_scripts"])
    assert targets.keys() == {"seats", "seats-cli"}
    assert {*targets.values()} == {"seats_cli.cli.main:main"}
    for name in targets:
        assert run(name, "--version") == f"seats {seats_cli.__version__}\n"


def test_completion_is_for_the_installed_name(run: Callable[..., str]) -> None:
    assert "complete -o default -F _seats_completion seats" in run(
        "seats", "--show-completion", "bash"
    )


def test_the_installed_program_answers_without_the_repository(run: Callable[..., str]) -> None:
    where = run("python", "-c", "import seats_cli; print(seats_cli.__file__)").strip()
    assert not Path(where).is_relative_to(ROOT)
    assert "environment" in where
    run("python", "-c", MAKE_A_CLIP)
    questions = ("What color is shown first?", "--also", "What color is shown last?")
    # In a session both questions are answered on lines of their own.
    assert "blue" in run("seats", "ask", "blue first.mp4", *questions)


def _code(tokens: list[Any]) -> list[str]:
    return [token.content for token in tokens if token.type == "fence"]
