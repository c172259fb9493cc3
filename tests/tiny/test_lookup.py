"""Labels of tokens, and the taught hops: to the evidence of answers and to names in questions."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from seats_cli.training.build import confirming_layers, lookup_layers
from seats_cli.training.dense import (
    CELL,
    CLASSES,
    LETTERS,
    NAMES,
    PRINTS,
    audio_token_count,
    dense_labels,
    evidence_tokens,
    looked_for,
    read_from,
)
from seats_cli.training.forward import (
    Thinker,
    _first_answers,
    _labels_of_found,
    _looked_up,
    _random_keep,
    _rows_of_evidence,
    attention_loss,
    packed_attention,
    packed_mask,
)
from seats_cli.training.hyperparameters import Hyperparameters
from seats_cli.training.minibatch import TrainingBatch, assemble, drill_batch, training_batch
from seats_cli.world.clips import draft_script, render_script
from seats_cli.world.layouts import Layout, sample_wide_layout
from seats_cli.world.links import Question
from seats_cli.world.script import Backdrop, Script, SpokenWord, Thing
from seats_cli.world.sounds import Sound
from seats_cli.world.truths import Evidence
from seats_cli.world.vocabulary import COLORS, IGNORE, SHAPES
from seats_cli.world.voices import WORDS
from seats_cli.world.wording import HEARD_KINDS, PLACE_NAMES


def two_shots() -> Script:
    """A red square on the left for 2 s, then the word DOG for 2 s; "seven" is said at 2.5 s."""
    times = tuple(0.5 * index for index in range(8))
    layout = Layout(4.0, times, 112, 168, 64_000, 2.0)
    square = Thing(
        "shape", 0, 2, 0.5, 1 / 6, 0.25, color="red", rgb=(255.0, 0.0, 0.0), shape="square"
    )
    word = Thing("text", 2, 4, 0.5, 0.5, 0.2, 3.0, text="DOG", word="dog", font="lato-bold")
    return Script(
        layout=layout,
        plot="test",
        shots=((0.0, 2.0), (2.0, 4.0)),
        backdrops=(Backdrop("plain", (40.0, 40.0, 40.0)),) * 2,
        things=(square, word),
        heard=(SpokenWord("seven", "us", 2.0, 3.0, 0.5, 1, "the number is", word_start=2.5),),
    )


def test_labels_say_what_every_token_shows_and_plays() -> None:
    labels = dense_labels(two_shots())
    video = {name: label.reshape(4, 4, 6) for name, label in labels["video"].items()}
    red, square = COLORS.index("red") + 1, SHAPES.index("square") + 1
    assert (video["color"][:2, 1:3, :2] == red).all()
    assert (video["shape"][:2, 1:3, :2] == square).all()
    assert (video["color"][:2, :, 3:] == 0).all()
    assert (video["print"][2:, 1:3, 2:4] == PRINTS.index("dog") + 1).all()
    assert (video["print"][:2] == 0).all()
    spelled = [
        LETTERS[int(label) - 1]
        for column in range(6)
        for label in (video[f"letter_{place}"][3, 2, column] for place in range(3))
        if label > 0
    ]
    assert spelled == ["d", "o", "g"]
    said = labels["audio"]["word"]
    assert (said[63:75] == WORDS.index("seven") + 1).all()
    assert (said[:62] == 0).all()
    assert (labels["audio"]["kind"][50:75] == HEARD_KINDS.index("speech")).all()
    assert labels["audio_context"]["screen_color"][10] == red
    assert labels["audio_context"]["screen_print"][70] == PRINTS.index("dog") + 1
    assert labels["audio_context"]["words"].tolist() == [0] * 75 + [1] * 25
    # Places are those of the frame, whatever is there: corners and the middle have none.
    place = labels["video_context"]["place"].reshape(4, 4, 6)
    assert (place == place[:1]).all()
    assert place[0, 1:3, 0].tolist() == [PLACE_NAMES.index("left") + 1] * 2
    assert place[0, 0].tolist() == [0, 0, *[PLACE_NAMES.index("top") + 1] * 2, 0, 0]


def test_the_count_is_of_what_was_heard_last() -> None:
    """A state cannot say two numbers: behind two beeps it is 2, though one word was said before."""
    beeps = Sound("beeps", 3.1, 3.8, 0.5, 1000.0, 1000.0, ((3.1, 3.3), (3.6, 3.8)))
    script = two_shots()
    count = dense_labels(replace(script, heard=(*script.heard, beeps)))["audio_context"]["count"]
    assert count.tolist() == [0] * 75 + [1] * 20 + [2] * 5  # of 40 ms each


def test_the_second_shot_is_called_two() -> None:
    """Colours are counted by the shots that have been: classes 1 to 3 are later shots."""
    shot = dense_labels(two_shots())["video_context"]["shot"].reshape(4, -1)
    assert [set(grid.tolist()) for grid in shot] == [{0}, {0}, {1}, {1}]
    assert NAMES["video_context"]["shot"] == ("2", "3", "4")


@pytest.mark.parametrize("seed", range(12))
def test_labels_of_any_script_name_only_what_it_shows_and_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    script = draft_script(rng, sample_wide_layout(rng, 0.5), 0.5)
    labels, layout = dense_labels(script), script.layout
    said = {sound.word for sound in script.heard if isinstance(sound, SpokenWord)}
    words = labels["audio"]["word"]
    assert {WORDS[index - 1] for index in words if index > 0} <= said
    assert len(words) == (audio_token_count(layout.audio_samples) if layout.audio_samples else 0)
    if not script.shots:
        assert all(len(label) == 0 for label in labels["video"].values())
        return
    grids = len(layout.frame_times) // 2
    shape = (grids, layout.height // CELL, layout.width // CELL)
    colors = labels["video"]["color"].reshape(shape)
    for grid, times in enumerate(np.array(layout.frame_times).reshape(-1, 2).tolist()):
        shown = {
            thing.color for thing in script.things for time in times if thing.is_visible(time)
        } | {script.backdrops[script.shot_index(time)].color for time in times}
        assert {COLORS[index - 1] for index in colors[grid].flat if index > 0} <= shown
    for index, shot in enumerate(labels["audio_context"]["shot"]):
        if shot != IGNORE:
            assert shot == script.shot_index((index + 0.5) / 25)


def test_every_label_is_a_class_and_belongs_to_a_token(processor: Any) -> None:
    rng = np.random.default_rng(4)
    for batch in (
        training_batch(rng, processor, tokens=900, questions=6, level=1.0),
        drill_batch(rng, processor, tokens=300),
    ):
        for part, names in CLASSES.items():
            token = processor.video_token if "video" in part else processor.audio_token
            count = int(
                (batch.prefix_ids == processor.tokenizer.convert_tokens_to_ids(token)).sum()
            )
            for name, classes in names.items():
                label = batch.labels[part][name]
                assert label.shape == (batch.size, count)
                assert ((label == IGNORE) | ((label >= 0) & (label < classes))).all(), name


def test_evidence_is_where_the_answer_is_read() -> None:
    script = two_shots()
    box = (0.375, 1 / 12, 0.625, 0.25)
    video, audio = evidence_tokens(script, [Evidence("answer", "video", 0.0, 2.0, box)])
    assert not audio.any()
    grids = video.reshape(4, 4, 6)
    assert grids[:2, 1:3, :2].all()
    assert grids.sum() == 8
    video, audio = evidence_tokens(script, [Evidence("answer", "audio", 2.5, 3.0)])
    assert not video.any()
    assert audio.nonzero()[0].tolist() == list(range(62, 75))


def test_a_name_looks_at_the_sound_where_one_is_involved() -> None:
    seen = Evidence("answer", "video", 0.0, 2.0)
    shown, said = replace(seen, role="cue"), Evidence("cue", "audio", 2.5, 3.0)
    assert looked_for([shown, seen]) == [seen]
    assert looked_for([said, seen]) == [said]
    assert looked_for([shown, replace(said, role="answer")]) == [replace(said, role="answer")]
    alike = replace(shown, box=(0.0, 0.0, 0.5, 0.5))
    assert looked_for([seen, alike]) == [alike]  # what is nowhere might be taken for this
    beside = replace(seen, box=(0.5, 0.5, 1.0, 1.0))
    assert looked_for([beside, alike]) == [beside]


def test_items_of_a_list_are_read_one_by_one() -> None:
    first, second = (Evidence("answer", "video", start, start + 2) for start in (0.0, 2.0))
    listed = Question("color_order", "List the colors.", "red, blue", (first, second))
    assert read_from(listed) == [[first], [second]]
    shown = replace(listed, family="object_count", answer="2")
    assert read_from(shown) == [[first, second]]
    counted = replace(listed, family="color_count", answer="2")
    assert read_from(counted) == [[second]]
    beeps = [replace(part, modality="audio") for part in (first, second)]
    counted = replace(listed, family="beep_count", answer="2", evidence=tuple(beeps))
    ((after,),) = read_from(counted)
    assert (after.modality, after.start, after.end) == ("audio", second.end, second.end + 1)
    counted = shown
    cue = Evidence("cue", "audio", 2.5, 3.0)
    assert read_from(replace(counted, evidence=(cue, second))) == [[second]]


def hop_batch(processor: Any) -> TrainingBatch:
    """Two questions about `two_shots`: one with names, one with a list for an answer."""
    heard = Evidence("answer", "audio", 2.5, 3.0)
    seen = Evidence("answer", "video", 0.0, 2.0, (0.375, 1 / 12, 0.625, 0.25))
    questions = [
        Question("place", "Where is the red square?", "left", (seen,), ("red", "square")),
        Question("color_order", "List the colors.", "red, blue", (seen, heard)),
    ]
    return assemble([render_script(two_shots())], [questions], processor)


def test_hops_point_at_evidence_of_their_own_question(processor: Any) -> None:
    batch = hop_batch(processor)
    kept = torch.arange(len(batch.prefix_ids))[None]
    decode = processor.tokenizer.decode

    (rows, places), right = _rows_of_evidence(batch, kept, batch.looks)
    assert rows.tolist() == [0]  # the last name alone: only there all is said
    assert decode([int(batch.question_ids[0, places[0]])]).strip() == "square"
    video = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
    assert bool((batch.prefix_ids[right[0]] == video).all())
    assert int(right.sum()) == 8

    (_, ends), right = _rows_of_evidence(batch, kept, batch.reads)
    following = [decode([int(batch.target[0, end])]).strip() for end in ends]
    assert following == ["left", "red", "blue"]
    assert right.sum(dim=1).tolist() == [8, 8, 13]

    # What is dropped is not pointed at, and evidence stays where it is wanted.
    wanted = batch.evidence.any(dim=1)
    left = _random_keep(batch.prefix_ids, video, 0.9, wanted)
    assert left.shape == (1, 10)
    assert set(wanted.nonzero()[:, 1].tolist()) & set(left[0].tolist()) == set(
        (wanted[0] & (batch.prefix_ids == video)).nonzero().flatten().tolist()
    )
    assert _rows_of_evidence(batch, left[:, :4], batch.reads)[1].shape == (3, 4)


def test_items_of_two_pictures_are_read_from_both(processor: Any) -> None:
    """One of two is half of the clip or more, and not everywhere; the whole clip is."""
    shots = [Evidence("answer", "video", 0.0, 2.5), Evidence("answer", "video", 2.5, 4.0)]
    questions = [
        Question("color_order", "List the colors.", "red, blue", tuple(shots)),
        Question("color", "What color?", "red", (Evidence("answer", "video", 0.0, 4.0),)),
    ]
    batch = assemble([render_script(two_shots())], [questions], processor)
    kept = torch.arange(len(batch.prefix_ids))[None]
    right = _rows_of_evidence(batch, kept, batch.reads)[1]
    assert right.sum(dim=1).tolist() == [2 * 24, 24, 0]  # grids that are of one shot alone


def test_an_answer_rests_on_what_its_name_looks_at_and_on_what_it_is_read_from(
    processor: Any,
) -> None:
    said = Evidence("cue", "audio", 2.5, 3.0)
    seen = Evidence("answer", "video", 0.0, 2.0, (0.375, 1 / 12, 0.625, 0.25))
    questions = [
        Question("color", "What color is shown?", "red", (seen,)),
        Question("color_when_said", "What when seven is said?", "red", (said, seen), ("seven",)),
    ]
    batch = assemble([render_script(two_shots())], [questions], processor)
    kept = torch.arange(len(batch.prefix_ids))[None]
    (rows, ends), read = _rows_of_evidence(batch, kept, batch.reads)
    same = batch.question_number[rows] == batch.question_number[rows, ends][:, None]
    looked = _looked_up(batch, kept, rows, same & (batch.looks[rows] >= 0))
    assert looked.sum(dim=1).tolist() == [0, 13]
    assert read.sum(dim=1).tolist() == [8, 8]
    assert (looked | read).sum(dim=1).tolist() == [8, 21]


def test_lookups_lie_before_the_layers_that_may_not_see_the_clip(micro_model: Thinker) -> None:
    settings = Hyperparameters()
    deep = SimpleNamespace(
        model=SimpleNamespace(language_model=SimpleNamespace(layers=[None] * settings.layers))
    )
    naming, ending = lookup_layers(deep)
    assert naming < ending < confirming_layers(deep)[0]
    assert len(confirming_layers(deep)) == 3
    assert confirming_layers(deep).stop <= min(settings.cut_layers)
    assert confirming_layers(micro_model) == range(3, 4)


def test_the_first_item_is_what_a_name_is_told(processor: Any) -> None:
    batch = hop_batch(processor)
    first = _first_answers(batch, batch.reads >= 0)
    decode = processor.tokenizer.decode
    assert first[0, 0] == IGNORE
    assert [decode([int(token)]) for token in first[0, 1:]] == ["left", "red"]


def test_found_labels_are_what_all_found_tokens_share() -> None:
    color = torch.tensor([[0, 3, 3, IGNORE, 5]])
    nothing = torch.zeros_like(color)
    labels = {part: dict.fromkeys(names, nothing) for part, names in NAMES.items()}
    labels["video"] = {**labels["video"], "color": color}
    found = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]).bool()
    common = _labels_of_found(labels, torch.tensor([0, 0, 0]), found)
    assert common["video"]["color"].tolist() == [3, IGNORE, IGNORE]
    assert (common["video"]["shape"] == IGNORE).all()
    # A name stands for no count, though all that it found had the same one.
    labels["video_context"] = {**labels["video_context"], "shot": torch.full_like(color, 2)}
    common = _labels_of_found(labels, torch.tensor([0, 0, 0]), found)
    assert (common["video_context"]["shot"] == IGNORE).all()


def test_loss_is_that_of_the_models_own_attention(micro_model: Thinker) -> None:
    torch.manual_seed(0)
    language = micro_model.model.language_model
    states = torch.randn(1, 9, 64)
    rotary = language.rotary_emb(states, torch.arange(9).expand(3, 1, -1))
    mask = packed_mask(torch.zeros(1, 9, dtype=torch.long))
    right = torch.zeros(1, 9, dtype=torch.bool)
    right[0, 2:4] = True
    layer = language.layers[0]
    asking = (torch.tensor([0]), torch.tensor([7]))
    for head in range(len(states)):
        loss = attention_loss(layer, states, rotary, mask, asking, right, head)
        before = language.config._attn_implementation
        language.config._attn_implementation = "eager"  # returns the weights
        weights = layer.self_attn(
            layer.input_layernorm(states),
            position_embeddings=rotary,
            attention_mask=torch.zeros(1, 1, 9, 9).masked_fill(~mask, float("-inf")),
        )[1]
        language.config._attn_implementation = before
        expected = -weights[0, head, 7, 2:4].sum().log()
        torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def test_packed_attention_is_that_of_the_whole_mask() -> None:
    torch.manual_seed(0)
    number = torch.tensor([[0] * 5 + [1, 1, 2, -1], [0] * 5 + [1, 2, 2, 2]])
    mask = packed_mask(number)
    query = torch.randn(2, 4, 9, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(2))
    whole = scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True)
    packed, _ = packed_attention(None, query, key, value, mask, prefix_length=5, scaling=0.3)

    torch.testing.assert_close(packed, whole.transpose(1, 2))
    direction = torch.randn_like(packed)
    inputs = (query, key, value)
    expected = torch.autograd.grad((whole.transpose(1, 2) * direction).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((packed * direction).sum(), inputs), expected)
