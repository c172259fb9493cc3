"""A made-up family from outside of the package: plan, ask and profile run it.

Its model is that of `mini_omni.py`. What the engine still assumes of Qwen's models fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.engine.answer import ask
from seats_cli.engine.comparison import run_comparison
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.profiling import run_profile
from seats_cli.engine.prune import prune
from seats_cli.errors import UsageError
from seats_cli.families import registry as families
from seats_cli.media import Clip
from seats_cli.media.inspection import outline_clip
from seats_cli.media.reader import read_clip
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel, build_inputs, load_model, prepare_clip
from seats_cli.models import registry as adapters
from seats_cli.models.optimize import SEGMENTS, STOCK
from seats_cli.models.random_weights import random_model
from seats_cli.results import RunSpec, Turn
from tests.cost.counting import counted
from tests.families.mini_omni import FAMILY, MiniOmni, MiniOmniAdapter

CLIP = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
CONFIGS = {
    name: SeatsConfig(retain_video=0.6, retain_audio=0.7, method=name)
    for name in (
        "seats",
        "random",
        "fastv-om",
        "visionzip-om",
        "divprune-om",
        "omnizip",
        "omnidrop",
    )
}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """Known to the program while these tests run."""
    families.register_family(FAMILY)
    adapters.register_adapter(MiniOmniAdapter)
    yield
    families.FAMILIES.remove(FAMILY)
    adapters.ADAPTERS.remove(MiniOmniAdapter)


@pytest.fixture(scope="module")
def folder(registered: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint on disk."""
    path = tmp_path_factory.mktemp("mini-omni")
    made = random_model("mini-omni", dtype="float32", device="cpu")
    torch.manual_seed(0)
    for weight in made.model.parameters():
        if weight.ndim > 1:  # large enough that every token makes a difference
            nn.init.normal_(weight, std=1.5 * weight[0].numel() ** -0.5)
    made.model.save_pretrained(path)
    made.processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def loaded(folder: str) -> LoadedModel:
    return load_model(folder, device="cpu", attention="eager")


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    area = 6 * loaded.sizing.factor**2
    return synthetic_clip(6.0, sizing=replace(loaded.sizing, min_pixels=area, max_pixels=area))


def seats(**changes: Any) -> SeatsConfig:
    """Drops at layers 3 and 5 and a late block at layer 8."""
    layers = {"drop_layers": (3, 5), "late_layer": 8}
    return SeatsConfig(retain=0.3, allocation="adaptive", **{**layers, **changes})


@torch.no_grad()
def by_hand(model: MiniOmni, states: Tensor, answer: Sequence[int], run: Any) -> Tensor:
    """Logits behind the last of some answer tokens, with every layer's tokens chosen by a mask.

    Parameters
    ----------
    model : MiniOmni
    states : Tensor, shape (1, S, D)
        Embeddings of the whole prompt.
    answer : sequence of int
    run : PrunedRun
        Tells which tokens are alive, and what becomes of the cache.
    """
    prompt, trace = states.shape[1], run.trace
    states = torch.cat([states, model.model.embed_tokens(torch.tensor([answer]).long())], 1)
    length = states.shape[1]
    rotary = model.model.rotary_emb(states, torch.arange(length)[None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    alive = torch.ones(length, dtype=torch.bool)
    for number, layer in enumerate(model.model.layers, start=1):
        for stage in trace.stages:
            if stage.after_layer == number - 1:
                alive = torch.isin(torch.arange(length), stage.kept) | (
                    torch.arange(length) >= prompt
                )
        seen = causal & alive | torch.eye(length, dtype=torch.bool)
        if (
            run.plan.config.kv == "survivors"
        ):  # the answer sees only what the last layer is left with
            lost = ~torch.isin(torch.arange(prompt), trace.stages[-1].kept)
            seen[prompt:, :prompt] &= ~lost
        mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
        out = layer(states, attention_mask=mask[None, None], position_embeddings=rotary)
        states = out[0] if isinstance(out, tuple) else out
    logits: Tensor = model.lm_head(model.model.norm(states))[0, -1]
    return logits


def embeddings(model: MiniOmni, inputs: dict[str, Any]) -> Tensor:
    """What the decoder is given of an unpruned prompt."""
    found: list[Tensor] = []
    handle = model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: found.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with handle, torch.no_grad():
        model(**inputs)
    return found[0]


def test_encoders_without_packed_segments_stay_stock(loaded: LoadedModel) -> None:
    assert loaded.speedups == STOCK
    assert loaded.facts.encoder_attention != SEGMENTS


def test_pictures_and_sound_take_turns(loaded: LoadedModel, clip: Clip) -> None:
    ids = build_inputs(loaded, clip, "What color?")["input_ids"][0]
    video, audio = ids == loaded.adapter.video_token_id, ids == loaded.adapter.audio_token_id
    kinds = (video + 2 * audio.int())[video | audio].tolist()
    assert kinds == (6 * [1] + 10 * [2]) * 6
    assert loaded.facts.family == "mini_omni"


def test_a_conversation_goes_on_behind_the_clip(loaded: LoadedModel, clip: Clip) -> None:
    alone = build_inputs(loaded, clip, "What?", system="Be brief.")["input_ids"][0]
    history = [Turn("What?", "A card."), Turn("And then?", "A dot.")]
    ids = build_inputs(loaded, clip, "Why?", system="Be brief.", history=history)["input_ids"][0]
    end = int(torch.isin(alone, torch.tensor([loaded.adapter.audio_token_id])).nonzero()[-1]) + 1
    assert ids[:end].equal(alone[:end])
    said = "\nWhat?\nassistant: A card.\nuser: And then?\nassistant: A dot.\nuser: Why?"
    assert loaded.processor.tokenizer.decode(ids[end:]) == f"{said}\nassistant: "


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
def test_a_pruned_answer_is_that_of_the_masks(loaded: LoadedModel, clip: Clip, kv: str) -> None:
    inputs, model = build_inputs(loaded, clip, "What color?"), loaded.model
    states = embeddings(model, inputs)
    with prune(model, seats(kv=kv)) as run, torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    counts = run.trace.alive_per_layer()
    assert [sum(count[:2]) for count in counts] == sorted(
        (sum(count[:2]) for count in counts), reverse=True
    )
    assert len({count[:2] for count in counts}) == 4  # Stage I, two drops and the late block
    answer = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    for step, logits in enumerate(out.logits):
        expected = by_hand(model, states, answer[:step], run)
        torch.testing.assert_close(logits[0], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gaps_in_one_row_of_positions_are_no_borders(
    folder: str, clip: Clip, attention: str
) -> None:
    """Without a cache, transformers reads them as packed sequences."""
    loaded = load_model(folder, device="cpu", attention=attention)
    inputs, model = build_inputs(loaded, clip, "What color?"), loaded.model
    states = embeddings(model, inputs)
    with prune(model, seats()) as run, torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0, -1]
    if attention == "sdpa":
        model = load_model(folder, device="cpu", attention="eager").model
    torch.testing.assert_close(logits, by_hand(model, states, [], run), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [None, *CONFIGS.values()], ids=["full", *CONFIGS])
def test_every_flop_is_accounted_for(
    loaded: LoadedModel, clip: Clip, config: SeatsConfig | None
) -> None:
    prepared = prepare_clip(loaded, clip)  # mel features are a product too
    executed, answer = counted(
        lambda: ask(loaded, prepared, "What color?", config=config, max_new_tokens=1)
    )
    cost = answer.cost
    counted_flops = cost.encoder_flops + cost.prefill_flops + cost.selection_flops
    assert executed == counted_flops + cost.evidence_flops


def test_the_plan_is_what_happens(folder: str, loaded: LoadedModel) -> None:
    found, config = find_model(folder), seats()
    assert (found.architecture, found.sizing) == (loaded.architecture, loaded.sizing)
    assert found.architecture == replace(find_model("mini-omni").architecture, vocab_size=768)
    clip = read_clip(CLIP, fps=1, sizing=found.sizing)
    answer = ask(loaded, clip, "What color?", config=config, max_new_tokens=1)
    outline = outline_clip(CLIP, fps=1, sizing=found.sizing)
    planned = plan_run(outline, found, config, text_tokens=answer.trace.offered[2])
    assert planned.offered == answer.trace.offered
    assert planned.alive == tuple(answer.trace.alive_per_layer())
    assert planned.prefill_flops == answer.cost.prefill_flops
    assert planned.encoder_flops == pytest.approx(answer.cost.encoder_flops, rel=0.02)


def test_encoders_run_once_for_many_questions(loaded: LoadedModel, clip: Clip) -> None:
    memory, questions = EncoderCache(), ("What color?", "What is heard?")
    fresh = [ask(loaded, clip, text, config=seats(), max_new_tokens=3) for text in questions]
    runs: list[None] = []
    handle = loaded.adapter.vision_attention.register_forward_hook(lambda *_: runs.append(None))
    with handle:
        for answer in fresh:
            again = ask(
                loaded,
                clip,
                answer.question,
                config=seats(),
                max_new_tokens=3,
                encoder_cache=memory,
            )
            assert again.token_ids == answer.token_ids
    assert len(runs) == 1


def test_options_are_scored(loaded: LoadedModel, clip: Clip) -> None:
    choices = ("red", "dark blue", "red and green")
    answer = ask(loaded, clip, "What color?", config=seats(), choices=choices)
    assert sum(choice.probability for choice in answer.choices) == pytest.approx(1.0)
    alone = ask(loaded, clip, "What color?", config=seats(), choices=choices[:2])
    ratio = [choice.probability for choice in answer.choices]
    assert alone.choices[0].probability == pytest.approx(ratio[0] / (ratio[0] + ratio[1]))


def test_profile_and_compare(loaded: LoadedModel, clip: Clip) -> None:
    specs = [RunSpec(name, config) for name, config in CONFIGS.items()]
    profile = run_profile(
        loaded, lambda: clip, "What color?", specs, repeats=1, warm_ups=0, new_tokens=2
    )
    assert not profile.failed
    assert [run.label for run in profile.runs] == ["full", *CONFIGS]
    compared = run_comparison(loaded, clip, "What color?", specs, max_new_tokens=2)
    assert [run.label for run in compared.runs] == ["full", *CONFIGS]


def test_what_the_family_lacks_is_said(loaded: LoadedModel, clip: Clip) -> None:
    with pytest.raises(UsageError, match=r"still_tolerance.*Mini-Omni"):
        ask(loaded, clip, "What color?", config=seats(still_tolerance=0.0))
    with pytest.raises(ValueError, match="adapter for 'mini_omni'"):
        adapters.register_adapter(MiniOmniAdapter)


def run(*arguments: str) -> Any:
    """A command in this process, its JSON document read."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_line(folder: str) -> None:
    clip = [str(CLIP), "--fps", "1"]
    asked = run("ask", *clip, "What color?", "--model", folder, "--max-new-tokens", "2")
    planned = run("plan", *clip, "--model", folder)
    named = run("plan", *clip, "--model", "mini-omni")
    assert planned["tokens"]["offered"]["video"] == asked["tokens"]["offered"]["video"]
    assert named["tokens"] == planned["tokens"]
    profiled = run(
        *("profile", *clip, "--random-weights", "mini-omni", "--retain", "25%"),
        *("--repeats", "1", "--warm-ups", "0", "--new-tokens", "2", "--layers", "6"),
    )
    assert profiled["model"]["family"] == "mini_omni"
    assert [found["label"] for found in profiled["runs"]] == ["full", "seats 25%"]
