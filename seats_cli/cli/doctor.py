"""`seats doctor` and `seats config`: the machine, and where each setting comes from.

What a bug report needs to know is gathered without ever failing. Paths have the home folder written
as `~`; no user name, host name or environment value that could be a secret is collected.
"""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from seats_cli import __version__
from seats_cli.cli import options as opt
from seats_cli.cli.console import calm_libraries, print_document
from seats_cli.cli.defaults import KEYS, load_settings, settings_files, shown_path
from seats_cli.cli.outputs import print_json
from seats_cli.families.registry import BUNDLED, BUNDLED_PATH

Facts = dict[str, Any]

_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "librosa",
    "numpy",
)
# What runs faster with the first two runs without; the others are for quantize and adapter.
_OPTIONAL = ("flash-attn", "triton", "bitsandbytes", "peft")
# Only these are shown: they change where models come from and what runs, and hold no secret.
_VARIABLES = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "SEATS_DEBUG",
)


def environment() -> dict[str, Facts]:
    """Sections of facts; a probe that fails says so in its place."""
    sections: tuple[tuple[str, Callable[[], Facts]], ...] = (
        ("system", _system),
        ("packages", _packages),
        ("gpu", _gpu),
        ("media", _media),
        ("hub", _hub),
        ("settings", _settings),
        ("model", _model),
    )
    return {name: _guarded(probe) for name, probe in sections}


def _guarded(probe: Callable[[], Facts]) -> Facts:
    try:
        return probe()
    except Exception as error:  # a broken installation is what doctor is there to show
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def _system() -> Facts:
    memory: int | None = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": platform.python_version(),
        "os": platform.platform(),
        "cpu_cores": usable,
        "ram_bytes": memory,
        "ram_available_bytes": _available_memory(),
        "virtual_environment": sys.prefix != sys.base_prefix,
    }


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None  # not Linux
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _packages() -> Facts:
    facts: Facts = {"seats-cli": __version__}
    facts.update({name: _installed(name) for name in _PACKAGES})
    facts.update({name: _installed(name) for name in _OPTIONAL})
    return facts


def _installed(name: str) -> str | None:
    from importlib import metadata  # as long to import as all that a start needs

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpu() -> Facts:
    import torch

    facts: Facts = {
        "cuda_build": torch.version.cuda,
        "cuda_available": torch.cuda.is_available(),
        "mps_available": torch.backends.mps.is_available(),
        "torch_threads": torch.get_num_threads(),
    }
    if facts["cuda_available"]:
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            major, minor = torch.cuda.get_device_capability(index)
            facts[f"gpu{index}"] = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"
            facts[f"gpu{index}_bytes"] = total
            facts[f"gpu{index}_free_bytes"] = free
    return facts


def _media() -> Facts:
    import av

    facts: Facts = {"av": av.__version__}
    for name, version in sorted(av.library_versions.items()):
        facts[name] = ".".join(str(part) for part in version)
    return facts


def _hub() -> Facts:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    facts: Facts = {
        "huggingface-hub": _installed("huggingface-hub"),
        "cache": shown_path(cache),
        "cache_size_bytes": _cache_size(cache),
        "cached_omni_models": [
            "/".join(folder.name.split("--")[1:]) for folder in sorted(cache.glob("models--*mni*"))
        ],
    }
    facts.update({name: os.environ[name] for name in _VARIABLES if name in os.environ})
    return facts


def _cache_size(cache: Path) -> int | None:
    """Bytes of the blobs (snapshots only link to them); None without a cache."""
    if not cache.is_dir():
        return None
    blobs = (blob for blob in cache.glob("*/blobs/*"))
    return sum(blob.stat().st_size for blob in blobs if blob.is_file())


def _settings() -> Facts:
    facts: Facts = {
        shown_path(path): "found" if path.is_file() else "none" for path in settings_files()
    }
    for key, setting in load_settings().items():
        value = setting.value
        shown = shown_path(Path(value)) if isinstance(value, str) and "/" in value else value
        facts[key] = f"{shown} (from {setting.origin})"
    return facts


def _model() -> Facts:
    chosen = load_settings().get("model")
    name = BUNDLED if chosen is None else str(chosen.value)
    facts: Facts = {"default": shown_path(Path(name))}
    card = bundled_card()
    facts["bundled_installed"] = _bundled_weights()
    facts["bundled_trained_on"] = None if card is None else training_summary(card)
    return facts


def _bundled_weights() -> bool:
    return (BUNDLED_PATH / "model.safetensors").is_file()


def bundled_card() -> str | None:
    """The model card of the bundled model, None when it is not installed."""
    card = BUNDLED_PATH / "MODEL_CARD.md"
    return card.read_text(encoding="utf-8") if card.is_file() else None


def training_summary(card: str) -> str:
    """The first paragraph under a heading that mentions training, else the first one."""
    heading, first = "", ""
    for block in (block.strip() for block in card.split("\n\n")):
        lines = [line for line in block.splitlines() if line.strip()]
        if lines and lines[0].startswith("#"):
            heading, lines = lines[0].lower(), lines[1:]
        if not lines or lines[0] == "---":
            continue
        paragraph = " ".join(line.strip() for line in lines)
        if "train" in heading:
            return paragraph
        first = first or paragraph
    return first


_WIDTH = 80


def doctor(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Report the environment, in a form to paste into an issue."""
    calm_libraries(debug=debug, quiet=True)
    sections = environment()
    if as_json:
        _print_json(sections)
        return
    print_document("\n\n".join(_section(name, facts) for name, facts in sections.items()))


def _print_json(content: dict[str, Any]) -> None:
    from seats_cli.report.documents import SCHEMA_VERSION
    from seats_cli.results import jsonable

    print_json(jsonable({"schema_version": SCHEMA_VERSION, **content}))


def _section(name: str, facts: dict[str, Any]) -> str:
    """One section as a Markdown heading and list."""
    lines = [f"### {name}", ""]
    for key, value in facts.items():
        text = f"- {_label(key)}: {_shown(key, value)}"
        lines += textwrap.wrap(
            text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def _label(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ") if key.islower() else key


def _shown(key: str, value: Any) -> str:
    from seats_cli.report.phrases import format_bytes

    if key.endswith("_bytes"):
        return format_bytes(value)
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def config(context: typer.Context, as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Show each setting with its value and origin.

    The first of flag, SEATS_<NAME>, ./seats.toml, the user's config.toml and default wins.
    """
    settings = load_settings()
    defaults = _defaults(context)
    rows = {
        key: (settings[key].value, settings[key].origin)
        if key in settings
        else (defaults.get(key), "default")
        for key in KEYS
    }
    if as_json:
        values = {key: {"value": value, "origin": origin} for key, (value, origin) in rows.items()}
        _print_json({"settings": values})
        return
    lines = []
    for key, (value, origin) in rows.items():
        shown = "-" if value is None else str(getattr(value, "value", value))
        lines.append(f"{key:<18}{shown:<24} {origin}")
    lines.append(f"files: {', '.join(shown_path(path) for path in settings_files())}")
    print_document("\n".join(lines))


def _defaults(context: typer.Context) -> dict[str, Any]:
    """Defaults as the commands declare them, so that they stand in one place only.

    Where nothing is passed on by default, the words of the help say what happens.
    """
    group: Any = context.find_root().command
    found: dict[str, Any] = {}
    parameters = [one for name in group.commands for one in group.commands[name].params]
    # `seats ask` has the last word on what it shares with others.
    for parameter in [*parameters, *group.commands["ask"].params]:
        words = parameter.show_default if isinstance(parameter.show_default, str) else None
        found[parameter.name] = words if parameter.default is None else parameter.default
    return found
