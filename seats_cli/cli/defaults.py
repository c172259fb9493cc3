"""Option values from outside the command line.

For every option that is not about the output, the first of these that has a value wins: the flag,
the environment variable SEATS_<NAME>, `seats.toml` in the working directory, `config.toml` in the
user's application folder, the default. Both files are flat TOML with the option's long name as key
(`max_frames = 128`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from seats_cli.cli.console import NarrowHelp
from seats_cli.cli.option_groups import was_typed
from seats_cli.errors import ConfigError
from seats_cli.files import read_table

# Option names (as Python names them) that may be set in a file or the environment: those of the
# panels Input, Budget and Model of `seats ask`, and what sampling needs. A test compares.
KEYS = (
    "model",
    "device",
    "dtype",
    "attn",
    "revision",
    "offline",
    "start",
    "end",
    "quantize",
    "adapter",
    "fps",
    "max_frames",
    "max_pixels",
    "total_pixels",
    "audio",
    "audio_track",
    "video_track",
    "max_audio",
    "system",
    "allow_local_urls",
    "retain",
    "retain_video",
    "retain_audio",
    "method",
    "full",
    "kv",
    "allocation",
    "skip_still",
    "encoder_reuse",
    "encoder_keep",
    "config",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
)


@dataclass(frozen=True)
class SettingOrigin:
    """A value, and where it came from in the words of messages."""

    value: str | int | float | bool
    origin: str


def settings_files() -> tuple[Path, ...]:
    """The files that are read, the more important first; they need not exist."""
    return Path("seats.toml"), Path(typer.get_app_dir("seats")) / "config.toml"


def load_settings(environ: Mapping[str, str] | None = None) -> dict[str, SettingOrigin]:
    """Every option that is set outside the command line.

    Raises
    ------
    ConfigError
        A file is not TOML, or has a key that is not a setting.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, SettingOrigin] = {}
    for path in reversed(settings_files()):
        found.update(_from_file(path))
    for key in KEYS:
        variable = f"SEATS_{key.upper()}"
        if environ.get(variable):  # set but empty means unset, as for most tools
            found[key] = SettingOrigin(environ[variable], variable)
    return found


class PlainCommand(NarrowHelp, TyperCommand):
    """A command without settings."""


class SettingsCommand(PlainCommand):
    """A command whose options take their defaults from the settings."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Parse the arguments on top of the settings."""
        settings: dict[str, SettingOrigin] = {}
        if not {"-h", "--help"} & set(args):  # help must work whatever the files hold
            settings = load_settings()
            names = {parameter.name for parameter in self.params}
            extra["default_map"] = {
                key: setting.value for key, setting in settings.items() if key in names
            }
        try:
            return super().make_context(info_name, args, parent=parent, **extra)
        except typer.BadParameter as error:
            _name_origin(error, settings)
            raise


def shown_path(path: Path) -> str:
    """The path with the home folder written as `~`."""
    text, home = str(path), str(Path.home())
    return f"~{text[len(home) :]}" if text == home or text.startswith(home + os.sep) else text


def _from_file(path: Path) -> dict[str, SettingOrigin]:
    if not path.is_file():
        return {}
    table = read_table(path)
    origin = shown_path(path)
    for key, value in table.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{origin} sets {key!r}, which is not a setting{hint}")
        if not isinstance(value, str | int | float | bool):
            raise ConfigError(f"{origin} must give one plain value for {key!r}.")
    return {key: SettingOrigin(value, origin) for key, value in table.items()}


def _name_origin(error: typer.BadParameter, settings: Mapping[str, SettingOrigin]) -> None:
    """Add to an error about an option that was not typed where its value came from."""
    context: Any = error.ctx
    name = str(error.param.name) if error.param is not None else ""
    if context is None or name not in settings or was_typed(context, name):
        return
    if context.get_parameter_source(name) is not None:
        error.message = f"{error.message} (from {settings[name].origin})"
