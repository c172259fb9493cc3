"""Indexed clips: they answer as the clip does, and nothing else is taken for one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli import ClipSession, SeatsConfig, ask, load_model, read_clip
from seats_cli.engine import session_file
from seats_cli.engine.clip_prefix import MAX_SETTINGS
from seats_cli.engine.session import AskableModel
from seats_cli.errors import UsageError
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models.checkpoint import fingerprint
from seats_cli.models.random_weights import write_random_checkpoint
from seats_cli.results import Answer
from tests.models.test_load import noise_clip

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
QUESTIONS = ("What color is shown first?", "What is heard?")
TENTH = SeatsConfig(retain=0.1)
OTHERS = (
    SeatsConfig(retain=0.25, kv="survivors"),
    SeatsConfig(retain=0.35, method="fastv"),
    SeatsConfig(retain=0.35, method="divprune"),
    SeatsConfig(retain=0.35, method="omnidrop"),
)


@pytest.fixture(scope="module")
def loaded() -> AskableModel:
    return load_model("bundled", device="cpu")


@pytest.fixture(scope="module")
def clip(loaded: AskableModel) -> Clip:
    return read_clip(CARDS, sizing=loaded.sizing)


@pytest.fixture(scope="module")
def session(loaded: AskableModel, clip: Clip) -> ClipSession:
    """Has been asked with two settings."""
    session = loaded.open(clip)
    for config in (TENTH, None):
        session.prefill(config)
    return session


@pytest.fixture(scope="module")
def index(session: ClipSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "cards.seats"
    session.save(path)
    return path


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


# ------------------------------------------------------------- guards


def test_another_model_precision_or_attention_is_refused(loaded: AskableModel, index: Path) -> None:
    for attention, dtype in (("eager", "float32"), ("sdpa", "bfloat16")):
        other = load_model("bundled", device="cpu", attention=attention, dtype=dtype)
        with pytest.raises(
            UsageError, match=f"not {'bfloat16' if dtype != 'float32' else 'eager'}"
        ):
            other.open(index)
    other = load_model("bundled", device="cpu")
    weight = other.adapter.layers[3].self_attn.q_proj.weight
    mark = fingerprint(other.adapter, other.processor)
    with torch.no_grad():
        weight += 1e-3
    assert fingerprint(other.adapter, other.processor) != mark
    with pytest.raises(UsageError, match="other weights"):
        other.open(index)


def changed(path: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an index with another header, which `change` has been given."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["index"] = json.loads(header["__metadata__"]["index"])
    change(header)
    sealed(header["__metadata__"], json.dumps(header["__metadata__"]["index"]))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return target


def sealed(metadata: dict[str, str], document: str) -> None:
    """Put in what an index says about itself, with a checksum that fits, as a forger would."""
    sums = json.loads(metadata["crc32"])
    sums["index"] = session_file.checksum(document.encode())
    metadata.update(index=document, crc32=json.dumps(sums))


def about(header: dict[str, Any]) -> dict[str, Any]:
    return header["__metadata__"]["index"]


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "older": (
        "format '0'.*index the clip again",
        lambda h: h["__metadata__"].update(format_version="0"),
    ),
    "newer": ("format '9'.*update seats", lambda h: h["__metadata__"].update(format_version="9")),
    "seats": ("made by seats 0.0.1", lambda h: about(h).update(seats_version="0.0.1")),
    "other": ("seats did not write", lambda h: h["__metadata__"].update(format="pt")),
    "extra": ("unknown 'run'", lambda h: about(h).update(run="rm")),
    "lacks": ("lacks 'fps'", lambda h: about(h).pop("fps")),
    "type": ("must be", lambda h: about(h).update(fps="2")),
    "escape": ("control characters", lambda h: about(h).update(warnings=["\x1b[2J"])),
    "depth": ("other layers", lambda h: about(h)["settings"][0].update(depth=2)),
    "choice": ("impossible number", lambda h: about(h)["settings"][0].update(entry_flops=-1)),
    "method": ("damaged", lambda h: about(h)["settings"][0]["config"].update(method="none")),
    "class": ("unknown kind", lambda h: about(h)["encodings"][0].update(output="Popen")),
    "window": ("lacks 'video.3", lambda h: about(h)["encodings"][0].update(windows=[3])),
    "huge": ("damaged", lambda h: h["template"].update(shape=[1 << 40])),
    "shape": ("does not fit", lambda h: h["video.tokens"].update(shape=[1, 180 * 128])),
    "dtype": ("does not fit", lambda h: h["video.tokens"].update(dtype="I32")),
    "width": ("encoded", lambda h: about(h)["media"].update(width=0)),
    "height": ("encoded", lambda h: about(h)["media"].update(height=672)),
    "frames": ("encoded|not fit", lambda h: about(h)["media"].update(frames_used=2)),
    "silent": ("encoded", lambda h: about(h)["media"].update(audio_used_s=0.0)),
    "long": ("encoded", lambda h: about(h)["media"].update(audio_used_s=13.0)),
    "vast": ("source_width", lambda h: about(h)["media"].update(source_width=10**30)),
    "negative": ("duration_s", lambda h: about(h)["media"].update(duration_s=-1)),
    "end": ("end_s", lambda h: about(h)["media"].update(end_s=-5.0)),
    "order": ("end_s", lambda h: about(h)["media"].update(start_s=7.0, end_s=5.0)),
    "start": ("start_s", lambda h: about(h)["media"].update(start_s=1e300)),
    "track": ("audio_track", lambda h: about(h)["media"].update(audio_track=-1)),
    "turned": ("rotation_deg", lambda h: about(h)["media"].update(rotation_deg=-(10**30))),
    "fps": ("fps", lambda h: about(h).update(fps=1e7)),
    "still": ("fps", lambda h: about(h).update(fps=0.0)),
    "flat": ("pixel_shape", lambda h: about(h).update(pixel_shape=0.0)),
    "path": ("lacks 'inputs", lambda h: about(h).update(tensors=["../../etc/passwd"])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_contradicts_itself_is_refused(
    loaded: AskableModel, index: Path, tmp_path: Path, name: str
) -> None:
    reason, change = CHANGES[name]
    path = changed(index, tmp_path / "changed.seats", change)
    with pytest.raises(UsageError, match=reason) as caught:
        loaded.open(path).ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["video.tokens", "settings.0.keys.3", "audio.50.importance"])
def test_what_is_not_a_number_is_refused(
    loaded: AskableModel, index: Path, tmp_path: Path, name: str
) -> None:
    raw = bytearray(index.read_bytes())
    with index.open("rb") as file:
        header = session_file.read_header(file)
    begin = 8 + int.from_bytes(raw[:8], "little") + header[name]["data_offsets"][0]
    raw[begin : begin + 4] = np.float32("nan").tobytes()
    (tmp_path / "nan.seats").write_bytes(raw)
    with pytest.raises(UsageError, match="not a number"):
        loaded.open(tmp_path / "nan.seats").ask(QUESTIONS[0], config=TENTH)


@pytest.fixture(scope="module")
def answered(loaded: AskableModel, index: Path) -> Answer:
    return loaded.open(index).ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_file_ends_in_one_sentence(
    loaded: AskableModel, index: Path, answered: Answer, tmp_path: Path, data: st.DataObject
) -> None:
    """Cut off, or with bytes changed: one sentence, or it still answers as before."""
    raw = bytearray(index.read_bytes())
    path, head = tmp_path / "damaged.seats", 8 + int.from_bytes(raw[:8], "little")
    where = data.draw(st.sampled_from(("cut", "header", "document", "tensors")))
    forged = where == "document"  # with a checksum that fits
    first, last = (head, len(raw)) if where == "tensors" else (8, head)
    if where == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    elif not forged:
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(first, last - 1))] ^= data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    if forged:
        rewrite(path, data)
    try:
        answer = loaded.open(path).ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
    except UsageError as error:
        reason = str(error)
    else:
        reason = ""
        assert forged or answer.token_ids == answered.token_ids
        assert where != "cut"
    assert "\n" not in reason


def rewrite(path: Path, data: st.DataObject) -> None:
    """Another number, text or nothing somewhere in what an index says about itself."""

    def change(header: dict[str, Any]) -> None:
        part: Any = about(header)
        while True:
            at = data.draw(
                st.sampled_from(list(part) if isinstance(part, dict) else range(len(part)))
            )
            if not isinstance(part[at], dict | list) or not part[at]:
                break
            part = part[at]
        numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
        part[at] = data.draw(st.none() | st.booleans() | numbers | st.text(max_size=9))

    changed(path, path, change)


def test_a_bit_that_has_flipped_is_noticed(
    loaded: AskableModel, index: Path, tmp_path: Path
) -> None:
    """Also where the number is still one: in every tensor that the answer needs."""
    path, raw = tmp_path / "flipped.seats", index.read_bytes()
    with index.open("rb") as file:
        header = session_file.read_header(file)
    start = 8 + int.from_bytes(raw[:8], "little")
    for name in ("settings.0.keys.3", "settings.0.left", "ids", "template"):
        flipped = bytearray(raw)
        flipped[start + header[name]["data_offsets"][0] + 1] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UsageError, match=rf"{name}.* not what was written.*index the clip"):
            loaded.open(path).ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)


def test_other_files_are_not_taken_for_an_index(loaded: AskableModel, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04" + bytes(100), b"\xff" * 100, (10).to_bytes(8, "little")):
        path = tmp_path / "other.seats"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="not an index"):
            loaded.open(path)
    with pytest.raises(UsageError, match="cannot be read"):
        loaded.open(tmp_path / "gone.seats")
    with pytest.raises(UsageError, match="cannot be read"):
        loaded.open(tmp_path)
    os.mkfifo(tmp_path / "pipe.seats")
    with pytest.raises(UsageError, match="not a file"):
        loaded.open(tmp_path / "pipe.seats")


# ------------------------------------------------------------ writing


def test_an_index_appears_whole_or_not_at_all(
    session: ClipSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cards.seats"
    session.save(path)
    before = path.read_bytes()
    for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()):
        with monkeypatch.context() as patched:
            patched.setattr(session_file, "_write", failing(error))
            with pytest.raises((UsageError, KeyboardInterrupt)):
                session.save(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def failing(error: BaseException) -> Callable[..., int]:
    def write(file: Any, *_: Any) -> int:
        file.write(b"half")
        raise error

    return write


def test_only_an_index_is_overwritten(session: ClipSession, tmp_path: Path) -> None:
    path = tmp_path / "diary.seats"
    path.write_text("Dear diary")
    with pytest.raises(UsageError, match="not overwritten"):
        session.save(path)
    assert path.read_text() == "Dear diary"
    with pytest.raises(UsageError, match=r"a \.seats file"):
        session.save(tmp_path / "cards.mp4")
    with pytest.raises(UsageError, match="cannot be written"):
        session.save(tmp_path / "gone" / "cards.seats")


def test_the_file_can_be_read_by_other_programs(index: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(index)
    assert tensors["video.tokens"].shape == (180, 128)
    assert all(part.data_ptr() % part.element_size() == 0 for part in tensors.values())


@pytest.fixture
def media(tmp_path: Path) -> Path:
    path = tmp_path / CARDS.name
    path.write_bytes(CARDS.read_bytes())
    return path


def test_a_clip_that_has_changed_is_told(
    loaded: AskableModel, clip: Clip, media: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cards.seats"
    loaded.open(replace(clip, facts=replace(clip.facts, path=str(media)))).save(path)
    # 1. Unchanged, touched, and gone.
    for step in (lambda: None, media.touch, lambda: media.rename(tmp_path / "away.mp4")):
        step()
        assert not any("not the file" in text for text in loaded.open(path).clip.warnings)
    # 2. Changed, in size or in a byte.
    raw = bytearray(CARDS.read_bytes())
    raw[-1] ^= 1
    for content in (raw, raw + b"!"):
        media.write_bytes(content)
        answer = loaded.open(path).ask(QUESTIONS[0], config=TENTH, max_new_tokens=1)
        assert any("not the file any more" in text for text in answer.warnings)


def test_another_file_of_that_name_is_not_the_one_that_was_read(
    loaded: AskableModel, session: ClipSession, media: Path, tmp_path: Path
) -> None:
    """It is where it was, or beside the index: one place where it is unchanged is enough."""
    folder = tmp_path / "indices"
    folder.mkdir()
    path, beside = folder / "cards.seats", folder / media.name
    session.save(path, file=media)
    renamed = changed(path, path, lambda h: about(h)["file"].update(name=str(media)))

    def warned() -> bool:
        return any("not the file" in text for text in loaded.open(renamed).clip.warnings)

    beside.write_bytes(b"unrelated")
    assert not warned()
    media.rename(tmp_path / "away.mp4")
    assert warned()
    beside.write_bytes(CARDS.read_bytes())
    assert not warned()
    media.write_bytes(b"unrelated")
    assert not warned()


def test_no_index_makes_anybody_read_a_vast_file(
    loaded: AskableModel, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vast = tmp_path / "vast.bin"
    size = session_file.MOST_HASHED + 1
    with vast.open("wb") as file:
        file.truncate(size)  # sparse: it takes no room
    monkeypatch.setattr(session_file.IndexedFile, "of", lambda *_: pytest.fail("it was read"))
    facts = {"name": str(vast), "bytes": size, "modified_ns": 1, "sha256": "0"}
    path = changed(index, tmp_path / "far.seats", lambda h: about(h).update(file=facts))
    assert not loaded.open(path).clip.warnings


def test_an_index_of_an_index_is_a_copy(loaded: AskableModel, index: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="indexed already"):
        loaded.open(index).save(tmp_path / "again.seats")


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
