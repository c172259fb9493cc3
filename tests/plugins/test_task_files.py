"""The task files for lmms-eval say what `seats eval` does; all but one test run without it."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from seats_cli import plugins
from seats_cli.evaluate.benchmarks import BENCHMARKS
from seats_cli.evaluate.questions import EvalProtocol

TASKS = Path(plugins.__file__).parent / "tasks"
NAMES = ("daily-omni", "lvomnibench", "omnivideobench")
READING = ("fps", "max_frames", "min_tokens_per_grid", "max_tokens_per_grid")


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as that name."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(path: Path) -> dict[str, Any]:
    found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return {**read(path.parent / found["include"]), **found} if "include" in found else found


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_read_and_asked_as_by_seats_eval(name: str) -> None:
    task = read(TASKS / f"{name.replace('-', '_')}.yaml")
    assert task["task"] == name.replace("-", "_")
    protocol: EvalProtocol = BENCHMARKS[name]._protocol()
    reading = {field: getattr(protocol, field) for field in READING}
    assert task["model_specific_generation_kwargs"] == {"seats": reading, "default": {}}
    assert task["generation_kwargs"]["max_new_tokens"] == protocol.max_new_tokens
    assert task["generation_kwargs"]["do_sample"] is False
    (index,) = task["dataset_kwargs"]["data_files"].values()
    (entry,) = (TASKS / index).read_text(encoding="utf-8").splitlines()
    root = f"{name.replace('-', '_').upper()}_ROOT"
    assert json.loads(entry) == {"benchmark": name, "root": root}


def test_all_task_files_are_known_and_their_functions_exist() -> None:
    files = sorted(TASKS.glob("*.yaml"))
    assert [path.stem for path in files] == [name.replace("-", "_") for name in NAMES]
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: .ci/matrix lmms-eval")
    for path in files:
        for value in read(path).values():
            if isinstance(value, str) and value.startswith("seats_cli.plugins."):
                module, _, function = value.rpartition(".")
                assert callable(getattr(import_module(module), function))
