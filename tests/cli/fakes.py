"""An engine without weights: what the command line calls, answering by the question.

A question that names a trouble ("oom", "crash", ...) causes it; any other is answered with
`PIECES`.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib
import importlib.util
import io
import sys
import time
import wave
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

from seats_cli import errors
from seats_cli.cost.context import DROP_TURNS, Need
from seats_cli.families.generation import Sampling
from seats_cli.media.clip import ReadOptions
from tests.report.sample import CHOICES, FACTS, MODEL, sample_answer


def tiny_wav() -> bytes:
    """A tenth of a second of silence: the command line reads the header of what it is given."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(3_200))
    return buffer.getvalue()


PIECES = ("a ", "red", " card")
WARNINGS = ("The sound ends 3.0 s before the picture.",)
CALLS: dict[str, Any] = {}


def _trouble(name: str) -> BaseException | None:
    import torch  # here: what never asks starts without it

    found: dict[str, BaseException] = {
        "crash": KeyError("deep\ninside"),
        "eof": EOFError("no more"),
        "gpu oom": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 334 GiB."),
        "host oom": MemoryError(),
        "cpu oom": RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        "long": errors.ResourceError("The clip has 63,000 tokens and the model holds 32,768."),
        "full": errors.ResourceError(f"The model holds 32,768: {DROP_TURNS}, or ask less."),
        "ctrl-c": KeyboardInterrupt(),
        "closed": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    }
    return found.get(name)


def load_model(model: str | None, **options: Any) -> SimpleNamespace:
    """A model object with the facts that the command line looks at."""
    from seats_cli.cost.estimate import find_model
    from seats_cli.families.base import FrameSizing

    CALLS["load_model"] = {"model": model, **options}
    if model == "missing/model":
        raise errors.ModelError("missing/model is not on this machine; fetch it with hf download.")
    demonstration = model is None
    facts = dataclasses.replace(MODEL, id=model or "bundled", demonstration=demonstration)
    architecture = find_model("qwen2.5-omni-7b").architecture
    loaded = SimpleNamespace(
        facts=facts, sizing=FrameSizing(), load_s=0.1, notices=(), architecture=architecture
    )
    loaded.open = partial(ClipSession, loaded)
    return loaded


def read_clip(path: str, options: ReadOptions, **others: Any) -> Any:
    """A clip of nothing but facts and a warning."""
    from seats_cli.media.clip import Clip

    CALLS["read_clip"] = {"path": path, **vars(options), **others}
    options.bound(others["sizing"])
    if path.endswith(".txt"):
        raise errors.MediaError(f"{path} holds neither video nor sound.")
    facts = dataclasses.replace(FACTS, path=path)
    return Clip(None, None, None, None, facts, WARNINGS)


def ask(loaded: Any, clip: Any, question: str, **options: Any) -> Any:
    """Stream the pieces and return the sample answer."""
    CALLS["ask"] = {"question": question, **options}
    trouble = _trouble(question)
    if trouble is not None:
        raise trouble
    if question in ("prefill", "endless talk"):  # until something stops it
        for _ in range(600):
            if question == "prefill":
                options["on_layer"]()
            else:
                options["on_text"]("on ")
            time.sleep(0.05)
    choices = CHOICES if options["choices"] else ()
    thinking = "It is a card." if question == "think" else ""
    if thinking:
        options["on_thinking"](thinking)
    if options["on_text"] is not None and not choices:
        for piece in PIECES:
            options["on_text"](piece)
    return sample_answer(
        question=question,
        text=choices[0].text if choices else "".join(PIECES),
        thinking=thinking,
        sampling=Sampling(options["max_new_tokens"] or 128),
        media=clip.facts,
        model=loaded.facts,
        choices=choices,
        finish_reason="length" if question == "endless" else "stop",
        warnings=(*WARNINGS, "The model guessed."),
        history=tuple(options.get("history", ())),
    )


class ClipSession:
    """Asks as `ask` does."""

    def __init__(self, loaded: Any, clip: Any, **_: Any) -> None:
        self.ask = partial(ask, loaded, clip)
        CALLS["session"] = True


def fake_modules() -> dict[str, ModuleType]:
    """Stand-ins by module name, for `sys.modules`."""
    media = importlib.import_module("seats_cli.media")
    models = importlib.util.find_spec("seats_cli.models")  # found, not imported
    assert models is not None
    fakes = {
        "seats_cli.models": {
            "prepare_clip": lambda loaded, clip, **_: clip,
            "need_of": lambda loaded, questions, configs, answer, *others: Need(40, answer or 128),
            "__path__": models.submodule_search_locations,
        },
        "seats_cli.media": {
            "read_clip": read_clip,
            "__path__": media.__path__,
        },
        "seats_cli.engine.answer": {"ask": ask},
        "seats_cli.engine.prune": {"check_method": lambda loaded, config: None},
        "seats_cli.engine.session": {"ClipSession": ClipSession, "load_model": load_model},
    }
    modules = {}
    for name, attributes in fakes.items():
        modules[name] = ModuleType(name)
        vars(modules[name]).update(attributes)
    return modules


if __name__ == "__main__":
    stand_ins = fake_modules()
    if "--real-media" in sys.argv:
        sys.argv.remove("--real-media")
        del stand_ins["seats_cli.media"]
    sys.modules.update(stand_ins)
    from seats_cli.cli.main import main

    main()
