"""Indexed clips: nothing else is taken for one, and one is written whole, over no other file."""

from __future__ import annotations

import errno
import json
import math
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

from seats_cli import ClipSession, load_model
from seats_cli.engine import session_file
from seats_cli.engine.session import AskableModel
from seats_cli.errors import UsageError
from seats_cli.media.clip import Clip
from seats_cli.models.checkpoint import fingerprint
from seats_cli.results import Answer
from tests.engine.conftest import CARDS, QUESTIONS, TENTH
from tests.shapes import video_tokens


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
    "shape": (
        "does not fit",
        lambda h: h["video.tokens"].update(shape=[1, math.prod(h["video.tokens"]["shape"])]),
    ),
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


def test_the_file_can_be_read_by_other_programs(
    loaded: AskableModel, clip: Clip, index: Path
) -> None:
    from safetensors.torch import load_file

    tensors = load_file(index)
    assert clip.frames is not None
    tokens = video_tokens(*clip.frames.shape[:3])
    width = loaded.model.config.text_config.hidden_size
    assert tensors["video.tokens"].shape == (tokens, width)
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
