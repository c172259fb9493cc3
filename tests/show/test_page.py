"""The page: complete, self-contained, safe, small, and honest about numbers."""

from __future__ import annotations

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from seats_cli.media.reader import read_clip
from seats_cli.selection.methods import weightless_methods
from seats_cli.show.overlay import MAX_LEVELS, depth_of
from seats_cli.show.page import render_page
from seats_cli.show.record import AUDIO, VIDEO
from seats_cli.show.svg import mark_heights, mark_tokens, runs
from tests.media.build import Sound, plain, steady, tone, write

EVIL = "<script>alert(1)</script> & \"quotes\" 'single' {{ 7 * 7 }} \ud800"


class _Links(html.parser.HTMLParser):
    """Every address that a page mentions, and every tag."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
        self.links += [value or "" for name, value in attributes if name in names]


def parse(page: str) -> _Links:
    parser = _Links()
    parser.feed(page)
    return parser


def shaded(markup: str) -> int:
    """Tokens that are drawn as kept: widths of the rectangles in groups above level 0."""
    groups = re.findall(r'<g class="k k(\d+)" data-lived="\d+">(.*?)</g>', markup)
    return sum(
        int(width)
        for level, drawn in groups
        if level != "0"
        for width in re.findall(r'width="(\d+)"', drawn)
    )


@pytest.mark.parametrize("method", [None, *sorted(weightless_methods())])
def test_every_method_draws_just_the_tokens_that_enter(ask, method):
    record = ask(method=method).record
    depth = depth_of(record)
    assert len(depth.levels) <= MAX_LEVELS + 1
    for code in (VIDEO, AUDIO):
        lived = depth.lived[record.modality == code]
        assert shaded(mark_tokens(lived[None], depth)) == int((lived > 0).sum())
        assert len(re.findall("<rect", mark_heights(lived, depth))) == len(list(runs(lived)))
        for level in depth.levels:
            of_level = depth.level[record.modality == code] == level.number
            inside = (lived >= level.first_layers) & (lived <= level.last_layers)
            np.testing.assert_array_equal(of_level, inside)


def test_every_patch_is_drawn_in_its_place_with_its_depth(cards):
    grid, depth = cards.record.grid, depth_of(cards.record)
    page = render_page([cards.record], cards.clip)
    lived = depth.lived[cards.record.modality == VIDEO]
    lived = lived.reshape(grid.grids, grid.rows, grid.columns)
    cells = re.findall(r'<g class="cells"[^>]*>(.*?)</svg>', page, re.DOTALL)
    assert len(cells) == grid.grids
    for number, drawn in enumerate(cells):
        found = np.full((grid.rows, grid.columns), -1)
        for layers, rectangles in re.findall(
            r'<g class="k k\d+" data-lived="(\d+)">(.*?)</g>', drawn
        ):
            for x, y, width in re.findall(r'x="(\d+)" y="(\d+)" width="(\d+)"', rectangles):
                row = found[int(y), int(x) : int(x) + int(width)]
                assert len(row) == int(width)
                assert (row == -1).all()  # drawn once
                row[:] = int(layers)
        np.testing.assert_array_equal(found, lived[number])


def test_the_page_needs_nothing_but_itself(cards):
    page = render_page([cards.record], cards.clip)
    found = parse(page)
    assert all(link.startswith(("data:", "#")) for link in found.links)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    assert len(page) < 400_000
    assert found.tags.count("figure") == cards.record.grid.grids
    assert found.tags.count("audio") == 1


def test_what_the_user_wrote_is_text(cards):
    record = dataclasses.replace(
        cards.record,
        question=EVIL,
        answer=EVIL,
        full_answer=EVIL,
        warnings=(EVIL,),
        media=dataclasses.replace(cards.record.media, path=f"a/{EVIL.replace('/', '')}.mp4"),
        model=dataclasses.replace(cards.record.model, id=EVIL),
        plan={EVIL: EVIL},
    )
    page = render_page([record, dataclasses.replace(record, label=EVIL)], cards.clip)
    page.encode("utf-8")
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;alert(1)" in page


def test_several_runs_share_frames_and_sound(ask):
    runs = [ask(method=method) for method in ("seats", "random", None)]
    one = render_page([runs[0].record], runs[0].clip)
    page = render_page([run.record for run in runs], runs[0].clip)
    assert page.count("data:image/webp") == one.count("data:image/webp")
    assert page.count("data:audio") == 1
    assert parse(page).tags.count("section") == 3
    for run in runs:
        assert run.record.label in page


def test_the_numbers_of_the_layers_and_windows_are_those_of_the_trace(cards):
    page = render_page([cards.record], cards.clip)
    rows = re.findall(
        r'<tr data-layer="(\d+)"><th scope="row">\d+</th><td>(\d+)</td><td>(\d+)</td><td>(\d+)<',
        page,
    )
    assert [tuple(map(int, row[1:])) for row in rows] == cards.answer.trace.alive_per_layer()
    assert page.count('<td class="meter"') == 3 * 6 * 2  # drops, windows, modalities


@pytest.mark.parametrize("kind", ["sound", "silent", "one frame", "picture", "portrait", "silence"])
def test_odd_clips(ask, tmp_path, kind):
    path = tmp_path / "clip.mp4"
    if kind == "sound":
        write(tmp_path / "clip.wav", None, [Sound(tone(1.3), codec="pcm_s16le")])
        path = tmp_path / "clip.wav"
    elif kind == "silent":
        write(path, steady(50), [])
    elif kind == "one frame":
        write(path, steady(1), [])
    elif kind == "portrait":
        picture = steady(50)
        picture.frames = [plain((k, 90, 200), 60, 140) for k in range(50)]
        write(path, picture, [Sound(tone(2))])
    elif kind == "silence":
        write(path, steady(50), [Sound(np.zeros((1, 96_000), np.float32))])
    else:
        from PIL import Image

        path = tmp_path / "clip.png"
        Image.fromarray(plain((200, 40, 30), 120, 80)).save(path)
    run = ask(path)
    page = render_page([run.record], run.clip)
    found = parse(page)
    assert found.tags.count("figure") == (0 if kind == "sound" else run.record.grid.grids)
    assert ("audio" in found.tags) == (kind in ("sound", "portrait", "silence"))
    assert "nan" not in re.sub(r"data:[^\"]*", "", page).lower().replace("finance", "")


def test_a_minute_of_large_frames_stays_below_five_megabytes(cards):
    """Noise, which compresses worst, at the largest size of a frame."""
    from seats_cli.cost.token_counts import Grid

    generator = np.random.default_rng(0)
    frame = generator.integers(0, 256, (616, 980, 3)).astype(np.uint8)
    frames = np.broadcast_to(frame, (120, *frame.shape))
    grid = Grid(60, 22, 35, 2, 1.0)
    modality = np.repeat([VIDEO, AUDIO], [60 * grid.size, 1500])
    kept = np.flatnonzero(generator.random(len(modality)) < 0.4)
    stage = dataclasses.replace(cards.record.stages[0], kept=kept, windows=())
    record = dataclasses.replace(cards.record, grid=grid, modality=modality, stages=(stage,))
    sound = generator.normal(0, 0.3, 60 * 16_000).astype(np.float32)
    clip = dataclasses.replace(
        cards.clip, frames=frames, frame_times=np.arange(120) / 2, audio=sound
    )
    assert len(render_page([record], clip)) < 5_000_000


def test_rotation_is_undone(ask, tmp_path):
    """The hard case of the media: a film turned by its metadata, its left half dark."""
    from seats_cli.show.encode import display_aspect

    path = tmp_path / "turned.mp4"
    picture = steady(50)
    picture.frames = [plain(200, 140, 60) for _ in range(50)]
    for frame in picture.frames:
        frame[:, :70] = 20
    write(path, picture, [])
    upright = ask(path)
    assert display_aspect(upright.record) == pytest.approx(140 / 60)
    clip = read_clip(path)
    assert clip.frames[0, :, :20].mean() < 60 < 150 < clip.frames[0, :, -20:].mean()


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_both_families_from_the_run_to_the_page(tmp_path, family):
    """Grids, cells and tokens per second are the family's own, and survive a saved trace."""
    from seats_cli.config import SeatsConfig
    from seats_cli.engine.answer import ask as ask_model
    from seats_cli.media.clip import ReadOptions
    from seats_cli.models import load_model
    from seats_cli.show.capture import record_of
    from seats_cli.show.trace_file import load_record, save_record
    from tests.models.checkpoints import write_checkpoint

    (tmp_path / "model").mkdir()
    write_checkpoint(tmp_path / "model", family)
    loaded = load_model(str(tmp_path / "model"), device="cpu", dtype="float32")
    path = write(tmp_path / "a.mp4", steady(100), [Sound(tone(4))])
    clip = read_clip(path, sizing=loaded.sizing)
    answer = ask_model(loaded, clip, "why?", config=SeatsConfig(), max_new_tokens=2)
    record = record_of(answer, ReadOptions(), loaded.sizing)
    assert record.offered[1] == pytest.approx(4 * record.audio_tokens_per_s, abs=1)
    assert record.grid.columns * loaded.sizing.factor == clip.frames.shape[2]
    assert sum(record.times.video(0, record.offered[0] - 1)) == pytest.approx(4.0)
    save_record(record, tmp_path / "trace.json")
    assert render_page([load_record(tmp_path / "trace.json")], clip) == render_page([record], clip)


def test_evidence_is_named_and_marked(cards):
    """In the list as seconds of the file, in the pictures from where reading began."""
    from seats_cli.results import Evidence

    pieces = (Evidence(7.0, 8.0, "audio", 0.42), Evidence(6.0, 7.0, "video", 0.2))
    media = dataclasses.replace(cards.record.media, start_s=5.0)
    page = render_page(
        [dataclasses.replace(cards.record, evidence=pieces, media=media)], cards.clip
    )
    assert '<button type="button" data-seek="2.0">0:07.0 to 0:08.0 (sound, 42 %)</button>' in page
    assert '<button type="button" data-seek="1.0">0:06.0 to 0:07.0 (picture, 20 %)</button>' in page
    assert re.findall(r'<figure class="rests" data-start="([\d.]+)"', page) == ["1.0"]
    assert "<b>20 % of the relevance</b>" in page
    (x, width), *others = re.findall(
        r'<rect class="rests" x="([\d.]+)" y="1.5" width="([\d.]+)"', page
    )
    assert not others
    assert float(x) == pytest.approx(2 * float(width), abs=0.05)
    none = render_page([dataclasses.replace(cards.record, evidence=())], cards.clip)
    assert "<h2>Evidence" not in none
