"""Settings files and --config files with anything in them: a run, or exit 2 and one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seats_cli.cli.defaults import KEYS
from tests.cli.fakes import CALLS

FIELDS = [
    "retain",
    "retain_video",
    "retain_audio",
    "encoder_scale",
    "drop_layers",
    "late_layer",
    "video_window",
    "audio_window",
    "temperature",
    "allocation",
    "kv",
    "method",
    "seed",
    "nonsense",
]
# TOML has no null, JSON no dates; both have these.
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["25%", "seats"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)),
    max_leaves=4,
)
tables = st.dictionaries(st.one_of(st.sampled_from([*FIELDS, *KEYS]), st.text(max_size=5)), values)

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def check(result) -> None:
    assert result.exit_code in (0, 2), result.output
    assert "Traceback" not in result.output
    if result.exit_code == 2:
        assert result.stdout == ""
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("Error: ")
        assert "ask" not in CALLS


def toml(value: object) -> str:
    """A value as TOML writes it, which is nearly JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def ask_with(run, clip, *arguments: str):
    CALLS.clear()
    return run("ask", clip, "What?", "-q", *arguments)


@quick
@given(garbage=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
@pytest.mark.parametrize("name", ["a.toml", "a.json"])
def test_bytes_as_a_config(run, clip, name, garbage):
    Path(name).write_bytes(garbage)
    check(ask_with(run, clip, "--config", name))


@quick
@given(table=tables)
def test_wrong_types_in_a_config(run, clip, table):
    Path("a.json").write_text(json.dumps(table))
    check(ask_with(run, clip, "--config", "a.json"))
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()]
    Path("a.toml").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    check(ask_with(run, clip, "--config", "a.toml"))


@quick
@given(table=tables)
def test_wrong_types_in_the_settings(run, clip, table):
    lines = [f"{json.dumps(key)} = {toml(value)}" for key, value in table.items()]
    Path("seats.toml").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    try:
        check(ask_with(run, clip))
        check(run("config"))
    finally:
        Path("seats.toml").unlink()


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_with_every_plain_type(run, clip, key):
    for value in ("false", "true", "0", "5", "-1.5", "inf", '""', '"x"'):
        Path("seats.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
        result = ask_with(run, clip)
        assert result.exit_code != 1, (value, result.output)
        assert "Traceback" not in result.output


@pytest.mark.parametrize("value", ["false", "5", "1.5"])
def test_a_system_turn_is_text(run, clip, value):
    Path("seats.toml").write_text(f"system = {value}\n", encoding="utf-8")
    result = ask_with(run, clip)
    check(result)
    assert result.exit_code == 2
    assert "is not text: put it in quotes (from seats.toml)" in result.stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path),
        lambda path: os.mkfifo(path),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"a": ' * 10_000),
        lambda path: path.write_bytes(b"\xff\xfe" + bytes(100)),
    ],
)
@pytest.mark.parametrize("name", ["a.toml", "a.json"])
def test_odd_files(run, clip, name, make):
    make(Path(name))
    result = ask_with(run, clip, "--config", name)
    assert result.exit_code == 2
    check(result)
    assert ask_with(run, clip, "--config", "absent.toml").exit_code == 2
