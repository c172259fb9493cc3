"""Real exceptions of the libraries, as the user reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from seats_cli.cli.runtime import explain
from tests.cli.fakes import CALLS, tiny_wav


def caught(action) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as info:
        action()
    return info.value


@pytest.mark.parametrize(
    ("action", "place"),
    [
        (lambda: torch.empty(1 << 55, dtype=torch.uint8), "host"),
        (lambda: np.empty(1 << 55, np.uint8), "host"),
    ],
)
def test_out_of_memory_for_real(action, place):
    sentence, code = explain(caught(action))
    assert code == 5
    assert f"memory on the {place}" in sentence
    for flag in ("--max-frames", "--max-pixels", "--retain", "--dtype"):
        assert flag in sentence


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9 GB)",
    ],
)
def test_out_of_memory_in_other_words(text):
    sentence, code = explain(RuntimeError(text))
    assert code == 5
    assert "GPU" in sentence


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        OSError(12, "Cannot allocate memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_out_of_memory_of_the_system(error):
    sentence, code = explain(error)
    assert code == 5
    assert "memory on the host" in sentence


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that nobody may write to")
@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "clip.wav", "What?", "--html", "/proc/page.html"),
        ("ask", "clip.wav", "What?", "--save-trace", "/proc/trace.json"),
        ("ask", "clip.wav", "What?", "--html", "a-file/page.html"),
        ("compare", "clip.wav", "What?", "--html", "/proc/page.html"),
        ("profile", "clip.wav", "--csv", "/proc/x.csv"),
        ("profile", "clip.wav", "--plot", "/proc/x.png"),
        ("show", "clip.wav", "What?", "-o", "/proc/drawn"),
        ("show", "clip.wav", "What?", "--video", "/proc/film.mp4"),
        ("eval", "synthetic", "-o", "/proc/results"),
        ("eval", "synthetic", "-o", "a-file"),
        ("eval", "synthetic", "-o", "a-file/results"),
    ],
)
def test_places_that_cannot_be_written_are_refused_before_the_work(run, arguments):
    Path("clip.wav").write_bytes(tiny_wav())
    Path("a-file").touch()
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert arguments[-1] in result.stderr
    assert "load_model" not in CALLS
