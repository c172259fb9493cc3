"""Files written for tests and evaluation are real files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from seats_cli.world.clips import write_mp4


@pytest.mark.parametrize("with_sound", [True, False])
def test_written_file_holds_what_was_given(tmp_path: Path, with_sound: bool) -> None:
    path = tmp_path / "clip.mp4"
    frames = np.zeros((24, 64, 96, 3), dtype=np.uint8)
    frames[:12, ..., 0] = 220
    frames[12:, ..., 2] = 220
    times = np.arange(32_000) / 16_000
    audio = (0.4 * np.sin(2 * np.pi * 440 * times)).astype(np.float32) if with_sound else None
    write_mp4(path, frames, 12.0, audio)
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(shown) == 24
        assert shown[0].shape == (64, 96, 3)
        assert np.abs(shown[2].astype(int) - frames[2]).mean() < 12
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(12.0)
        assert len(container.streams.audio) == int(with_sound)
    if with_sound:
        with av.open(str(path)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
        assert samples == pytest.approx(32_000, abs=3 * 1024)
