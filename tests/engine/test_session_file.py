"""Indexed clips: they answer as the clip does, within the bounds of a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seats_cli import ClipSession, SeatsConfig, ask, load_model
from seats_cli.engine import session_file
from seats_cli.engine.clip_prefix import MAX_SETTINGS
from seats_cli.engine.session import AskableModel
from seats_cli.errors import UsageError
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models.random_weights import write_random_checkpoint
from tests.engine.conftest import QUESTIONS, TENTH
from tests.models.test_load import noise_clip

OTHERS = (
    SeatsConfig(retain=0.25, kv="survivors"),
    SeatsConfig(retain=0.35, method="fastv"),
    SeatsConfig(retain=0.35, method="divprune"),
    SeatsConfig(retain=0.35, method="omnidrop"),
)


def told(
    ask_about: Callable[..., Any], question: str, config: SeatsConfig | None, **how: Any
) -> tuple[list[Any], Tensor]:
    """Answer, kept tokens and probabilities; and the logits."""
    logits: list[Tensor] = []
    answer = ask_about(
        question,
        config=config,
        max_new_tokens=4,
        on_logits=lambda step: logits.append(step[:1, -1:].clone()),
        **how,
    )
    kept = [stage.kept.tolist() for stage in answer.trace.stages]
    chances = [choice.probability for choice in answer.choices]
    return [answer.text, answer.token_ids, kept, chances], torch.cat(logits)


def from_file(opened: ClipSession) -> bool:
    """Whether the latest question went on from the states in the index."""
    *_, (_, prefix) = opened._prefixes.prefixes()
    return prefix.mapped


def check_equal(
    loaded: AskableModel,
    clip: Clip,
    path: Path,
    configs: tuple[SeatsConfig | None, ...],
    questions: tuple[str, ...] = QUESTIONS,
) -> None:
    """An index gives bit for bit what the session gives, and what the clip gives alone."""
    opened, session = loaded.open(path), loaded.open(clip)
    for question in questions:
        for config in configs:
            for one in (opened, session):  # what is new to both begins alike
                one.prefill(config)
            found, logits = told(opened.ask, question, config)
            within, same = told(session.ask, question, config)
            alone, wanted = told(
                lambda text, **rest: ask(loaded, clip, text, **rest), question, config
            )
            assert found == within
            assert torch.equal(logits, same)
            assert found[:3] == alone[:3]
            torch.testing.assert_close(logits, wanted, rtol=0.0, atol=1e-4)


def test_answers_are_those_of_the_clip(loaded: AskableModel, clip: Clip, index: Path) -> None:
    """With the settings that were indexed, and with others."""
    check_equal(loaded, clip, index, (TENTH, None))
    check_equal(loaded, clip, index, OTHERS, QUESTIONS[:1])


@pytest.mark.parametrize(
    "how", [{"choices": ("red", "blue")}, {"temperature": 0.9, "seed": 3}], ids=["choices", "drawn"]
)
def test_also_with_choices_and_drawn(
    loaded: AskableModel, clip: Clip, index: Path, how: dict[str, Any]
) -> None:
    opened = loaded.open(index)
    for config in (TENTH, None):
        found = told(opened.ask, QUESTIONS[0], config, **how)
        assert from_file(opened)  # a seed of sampling is not one of the method
        alone = told(
            lambda text, **rest: ask(loaded, clip, text, **rest), QUESTIONS[0], config, **how
        )
        assert found[0][:3] == alone[0][:3]
        torch.testing.assert_close(found[1], alone[1], rtol=0.0, atol=1e-4)


def test_indexed_settings_are_not_read_through_again(loaded: AskableModel, index: Path) -> None:
    opened = loaded.open(index)

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("an encoder ran")

    encoders = (loaded.adapter.visual, loaded.adapter.audio_tower)
    hooks = [layer.register_forward_hook(fail) for one in encoders for layer in _blocks(one)]
    try:
        for config, known in ((TENTH, True), (None, True), (OTHERS[0], False)):
            opened.ask(QUESTIONS[0], config=config, max_new_tokens=1)
            assert from_file(opened) == known
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(encoder: Any) -> Any:
    return encoder.blocks if hasattr(encoder, "blocks") else encoder.layers


def test_an_index_of_some_settings_only(
    loaded: AskableModel, clip: Clip, session: ClipSession, index: Path, tmp_path: Path
) -> None:
    path = tmp_path / "only.seats"
    size = session.save(path, only=True)
    assert size.encoder_bytes == 0
    assert size.bytes < index.stat().st_size
    check_equal(loaded, clip, path, (TENTH, None), QUESTIONS[:1])
    opened = loaded.open(path)
    for config in OTHERS:
        with pytest.raises(UsageError, match="some settings only"):
            opened.ask(QUESTIONS[0], config=config)
    assert opened.ask(QUESTIONS[0], config=TENTH, seed=5).text
    with pytest.raises(UsageError, match="Ask with a setting first"):
        loaded.open(clip).save(path, only=True)


def test_methods_that_look_at_the_clip_again_keep_the_encodings(
    loaded: AskableModel, clip: Clip, tmp_path: Path
) -> None:
    session, path = loaded.open(clip), tmp_path / "fastv.seats"
    session.prefill(OTHERS[1])
    assert session.save(path, only=True).encoder_bytes > 0
    check_equal(loaded, clip, path, (OTHERS[1],), QUESTIONS[:1])
    with pytest.raises(UsageError, match="some settings only"):
        loaded.open(path).ask(QUESTIONS[0], config=TENTH)


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_clips_of_one_modality(loaded: AskableModel, clip: Clip, tmp_path: Path, kind: str) -> None:
    without = {"frames": None, "frame_times": None} if kind == "audio" else {"audio": None}
    alone = replace(clip, **without)
    session = loaded.open(alone, system="Be brief.")
    session.prefill(TENTH)
    session.save(tmp_path / "one.seats")
    opened = loaded.open(tmp_path / "one.seats", system="Be brief.")
    for config in (TENTH, None):
        found, wanted = (told(one.ask, QUESTIONS[0], config) for one in (opened, session))
        assert found[0] == wanted[0]
        assert torch.equal(found[1], wanted[1])
    with pytest.raises(UsageError, match="another system turn"):
        loaded.open(tmp_path / "one.seats", system="Be long.")


def test_any_text_goes_round(loaded: AskableModel, clip: Clip, tmp_path: Path) -> None:
    """What would act on a terminal is spelled out; the system turn is never printed."""
    system, name = "Be brief.\r\nAlways.\x1b[2J", str(tmp_path / "a\x1b[2J\r.mp4")
    Path(name).write_bytes(b"clip")
    told_of = replace(clip, facts=replace(clip.facts, path=name), warnings=(f"{name} is odd.",))
    session = loaded.open(told_of, system=system)
    session.prefill(TENTH)
    session.save(tmp_path / "odd.seats")
    opened = loaded.open(tmp_path / "odd.seats", system=system)
    assert opened.clip.facts.path == name.replace("\x1b", "\\x1b").replace("\r", "\\r")
    assert opened.clip.warnings == (f"{opened.clip.facts.path} is odd.",)
    found, wanted = (told(one.ask, QUESTIONS[0], TENTH) for one in (opened, session))
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])
    Path(name).write_bytes(b"another one")
    (*_, warning) = loaded.open(tmp_path / "odd.seats").clip.warnings
    assert warning.startswith(f"{opened.clip.facts.path} is not the file any more")


def test_facts_of_clips_that_were_changed_by_hand(loaded: AskableModel, tmp_path: Path) -> None:
    """Whatever such a clip says about itself, its index can be opened."""
    for number, clip in enumerate((noise_clip(loaded.sizing.factor), odd_clip(loaded))):
        path = tmp_path / f"{number}.seats"
        session = loaded.open(clip)
        session.save(path)
        opened = loaded.open(path)
        assert clip.frames is not None
        height, width = clip.frames.shape[1:3]
        assert (opened.clip.facts.height, opened.clip.facts.width) == (height, width)
        assert abs(opened.clip.facts.audio_used_s - clip.audio_s) < 0.1
        found, wanted = (told(one.ask, QUESTIONS[0], TENTH) for one in (opened, session))
        assert found[0] == wanted[0]


def odd_clip(loaded: AskableModel) -> Clip:
    """Three frames and a sound that is padded, and facts of none."""
    clip = noise_clip(loaded.sizing.factor)
    assert clip.frames is not None
    assert clip.frame_times is not None
    assert clip.audio is not None
    return replace(
        clip, frames=clip.frames[:3], frame_times=clip.frame_times[:3], audio=clip.audio[:900]
    )


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moe")
    write_random_checkpoint(folder, "moe", 8 << 20)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_families_and_precisions(moe: Path, dtype: str, tmp_path: Path) -> None:
    """Qwen3's DeepStack adds to states behind the first drop."""
    model = load_model(str(moe), dtype=dtype, device="cpu")
    noise = np.random.default_rng(0)
    clip = Clip(
        noise.integers(0, 255, (4, 64, 96, 3), dtype=np.uint8),
        np.arange(4) / 2,
        2.0,
        noise.normal(size=32_000).astype(np.float32),
        MediaFacts("noise", "none", 2.0, 0.0, 2.0, frames_used=4),
    )
    early = SeatsConfig(retain=0.4, drop_layers=(1, 2), late_layer="none")
    session = model.open(clip)
    session.prefill(early)
    path = tmp_path / "noise.seats"
    for only in (False, True):
        session.save(path, only=only)
        found = told(model.open(path).ask, QUESTIONS[0], early)
        within = told(session.ask, QUESTIONS[0], early)
        assert found[0] == within[0]
        assert torch.equal(found[1], within[1])
        # Halves: a product of other shapes is rounded differently.
        alone = told(lambda text, **rest: ask(model, clip, text, **rest), QUESTIONS[0], early)
        assert found[0][:3] == alone[0][:3]
        atol = 1e-4 if dtype == "float32" else 5e-2
        torch.testing.assert_close(found[1], alone[1], rtol=0.0, atol=atol)
    # stored as the model computes, no wider
    largest = max(part.nbytes for _, one in session._prefixes.prefixes() for part in one.keys)
    assert largest == one_layer(path, "settings.0.keys.0")


def one_layer(path: Path, name: str) -> int:
    with path.open("rb") as file:
        begin, end = session_file.read_header(file)[name]["data_offsets"]
    return int(end - begin)


def test_more_settings_than_a_session_keeps(
    loaded: AskableModel, clip: Clip, tmp_path: Path
) -> None:
    session = loaded.open(clip, max_bytes=1)
    configs = [SeatsConfig(retain=share) for share in (0.1, 0.15, 0.2, 0.25, 0.3)]
    for config in configs:
        session.prefill(config)
    stored = session.save(tmp_path / "many.seats").settings
    assert [config.retain for config, _ in stored] == [config.retain for config in configs]
    assert [held for _, held in stored] == sorted(held for _, held in stored)
    opened = loaded.open(tmp_path / "many.seats")
    for config in configs:
        opened.ask(QUESTIONS[0], config=config, max_new_tokens=1)
        assert from_file(opened)


def test_only_what_is_in_the_file_is_held_without_bound(
    loaded: AskableModel, session: ClipSession, index: Path
) -> None:
    opened, free = loaded.open(index, max_bytes=0), loaded.open(index)
    free.ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
    before = opened.bytes
    for share in (0.12, 0.15, 0.2, 0.22, 0.25, 0.3, 0.35, 0.4):
        config = SeatsConfig(retain=share)
        answer = opened.ask(QUESTIONS[0], config=config, max_new_tokens=1)
        assert any("max_bytes" in text for text in answer.warnings)
        free.prefill(config)
    assert not len(opened._prefixes)
    assert opened.bytes == before
    assert len(free._prefixes) == 1 + MAX_SETTINGS
    answer = opened.ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
    assert from_file(opened)
    assert not answer.warnings
    assert opened.bytes == before


def test_after_saving_bounds_hold_again(loaded: AskableModel, clip: Clip, tmp_path: Path) -> None:
    session = loaded.open(clip, max_bytes=0)
    for share in (0.1, 0.15, 0.2, 0.25, 0.3):
        session.prefill(SeatsConfig(retain=share))
    assert len(session._prefixes) == 5
    session.save(tmp_path / "many.seats")
    session.ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
    assert not len(session._prefixes)
