"""One model and the latest clips, as the plugins share them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seats_cli import SeatsConfig, Turn, ask, read_clip
from seats_cli.config import ModelOptions
from seats_cli.errors import ConfigError, MediaError
from seats_cli.media.clip import ReadOptions
from seats_cli.plugins.clip_model import ClipModel, ClipSource, config_from

ASSETS = Path(__file__).parents[2] / "assets"
CARDS = ASSETS / "cards_words_beeps_12s.mp4"
FIRST, LAST = "What color is shown first?", "What color is shown last?"


@pytest.fixture(scope="module")
def clips() -> ClipModel:
    return ClipModel(ModelOptions(device="cpu"))


def test_answers_are_those_of_ask_and_the_clip_is_read_once(clips: ClipModel) -> None:
    config = SeatsConfig.preset("25%")
    source = ClipSource(path=str(CARDS))
    first = clips.ask(source, FIRST, config=config)
    turns = (Turn(FIRST, first.text),)
    then = clips.ask(ClipSource(path=str(CARDS)), LAST, config=config, history=turns)
    full = clips.ask(source, LAST, config=None)
    assert first.timing.read_s > 0
    assert then.timing.read_s == full.timing.read_s == 0
    clip = read_clip(CARDS, sizing=clips.loaded.sizing)
    assert first.text == ask(clips.loaded, clip, FIRST, config=config).text
    assert then.text == ask(clips.loaded, clip, LAST, config=config, history=turns).text
    assert full.text == ask(clips.loaded, clip, LAST, config=None).text


def test_a_file_that_changes_is_read_again(clips: ClipModel, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    shutil.copy(CARDS, path)
    read = ReadOptions(end=4.0, fps=1.0)
    config = SeatsConfig.preset("25%")
    assert clips.ask(ClipSource(path=str(path)), FIRST, config=config, read=read).media.path == str(
        path
    )
    shutil.copy(ASSETS / "jfk.wav", path)
    again = clips.ask(ClipSource(path=str(path)), FIRST, config=config, read=read)
    assert again.timing.read_s > 0
    assert again.media.video_codec is None


def test_bytes_are_a_clip(clips: ClipModel) -> None:
    read = ReadOptions(end=4.0, fps=1.0)
    config = SeatsConfig.preset("25%")
    held = clips.ask(ClipSource(content=CARDS.read_bytes()), FIRST, config=config, read=read)
    file = clips.ask(ClipSource(path=str(CARDS)), FIRST, config=config, read=read)
    assert (held.text, held.token_ids) == (file.text, file.token_ids)
    assert held.media.path == "the attachment"


def test_no_more_clips_are_kept_than_allowed() -> None:
    clips = ClipModel(ModelOptions(device="cpu"), max_bytes=1)
    source, config = ClipSource(path=str(CARDS)), SeatsConfig.preset("25%")
    for end in (2.0, 2.0):
        answer = clips.ask(source, FIRST, config=config, read=ReadOptions(end=end, fps=1.0))
        assert answer.timing.read_s > 0


def test_a_url_must_not_lead_to_this_machine(clips: ClipModel) -> None:
    source = ClipSource(url="http://127.0.0.1:9/clip.mp4")
    with pytest.raises(MediaError, match="own network") as caught:
        clips.ask(source, FIRST, config=None)
    assert "allow_local_urls" not in str(caught.value)  # which no plugin has


def test_reading_a_clip_can_be_ended(clips: ClipModel) -> None:
    class LeftError(Exception):
        pass

    calls = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 3:  # the first call comes before the clip is opened
            raise LeftError

    source, read = ClipSource(path=str(CARDS)), ReadOptions(end=6.0)
    with pytest.raises(LeftError):
        clips.ask(source, FIRST, config=None, read=read, check=check)
    # Nothing was encoded, and nothing is kept of it.
    assert calls == [0, 1, 2]
    again = clips.ask(source, FIRST, config=None, read=read, max_new_tokens=1)
    assert again.timing.read_s > 0


def test_a_longer_question_about_an_open_clip_fits_too(clips: ClipModel) -> None:
    """Where no talk is expected, a clip takes all of the context that its questions leave."""
    small = replace(clips.loaded.architecture, max_positions=480)

    def without_talks() -> ClipModel:
        model = ClipModel(ModelOptions(device="cpu"), talks=False)
        model.loaded = replace(clips.loaded, architecture=small)
        return model

    asked = without_talks()
    source, read = ClipSource(path=str(CARDS)), ReadOptions(fps=4.0)
    how: dict[str, Any] = {"config": None, "read": read, "max_new_tokens": 4}
    longer = FIRST + " Tell me only the color" * 12

    first = asked.ask(source, FIRST, **how)
    assert first.timing.read_s > 0
    assert asked.ask(source, LAST, **how).timing.read_s == 0
    then = asked.ask(source, longer, **how)
    assert then.timing.read_s > 0  # anew, with less of the clip
    assert sum(then.trace.offered[:2]) < sum(first.trace.offered[:2])
    assert asked.ask(source, longer, **how).timing.read_s == 0
    assert asked.ask(source, FIRST, **how).timing.read_s == 0
    # What is known before decides at once.
    known = without_talks()
    at_once = known.ask(source, FIRST, others=(longer,), **how)
    assert at_once.trace.offered[:2] == then.trace.offered[:2]
    assert known.ask(source, longer, **how).timing.read_s == 0


def test_settings() -> None:
    assert config_from() == SeatsConfig.preset("25%")
    assert config_from("10%") == config_from(0.1) == SeatsConfig(retain=0.1)
    assert config_from(method=" Random ", kv="survivors") == SeatsConfig(
        retain=0.25, method="random", kv="survivors"
    )
    assert config_from(full=True) is None
    assert config_from(method="full") is None


@pytest.mark.parametrize("retain", ["0", "110%", "-1", "nan", "much", 2, "%"])
def test_impossible_shares(retain: str | float) -> None:
    with pytest.raises(ConfigError, match="`retain` is a share"):
        config_from(retain)


def test_full_contradicts_a_budget() -> None:
    with pytest.raises(ConfigError, match="`full` prunes nothing"):
        config_from("10%", full=True)
