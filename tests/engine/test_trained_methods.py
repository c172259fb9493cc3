"""Methods with weights: layouts, beside a model, inside a run, in its accounts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typer.testing import CliRunner

from seats_cli.batch.group import BatchSettings
from seats_cli.batch.local import check_budget
from seats_cli.cli.main import app
from seats_cli.cli.to_config import _runnable
from seats_cli.config import SeatsConfig
from seats_cli.cost.token_counts import token_counts
from seats_cli.engine.answer import ask
from seats_cli.engine.profiling import refusal
from seats_cli.engine.prune import check_method, prune
from seats_cli.engine.session import load_model
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.media.reader import read_clip
from seats_cli.models import inputs_from_messages, need_of
from seats_cli.models.load import LoadedModel, outline_model
from seats_cli.models.method_weights import folder_of, of_a_method, stored_for, weights_for
from seats_cli.models.optimize import sync_sections
from seats_cli.models.patching import hooked
from seats_cli.models.registry import adapter_for
from seats_cli.results import RunSpec
from seats_cli.selection.methods import METHODS
from seats_cli.selection.methods.omnisift import SoundSelector
from seats_cli.serve import ServeOptions
from seats_cli.serve.answering import Answerer
from seats_cli.show.trace_file import load_record
from tests.cost.counting import counted
from tests.engine.conftest import CARDS, TRAINED, selector_weights, sieve_weights

QUESTION = "What color is shown first?"
_TEXT = json.loads((BUNDLED_PATH / "config.json").read_text())["text_config"]
HEAD_DIM = _TEXT["hidden_size"] // _TEXT["num_attention_heads"]
# Names and shapes of the published 7B checkpoint (`thinker.compressor.*`).
PUBLISHED = {
    "v_proj.weight": (512, 3584),
    "v_proj.bias": (512,),
    "a_proj.weight": (512, 3584),
    "a_proj.bias": (512,),
    **{
        f"{norm}.{part}": (512,)
        for norm in ("v_norm", "a_norm", "post_attn_norm")
        for part in ("weight", "bias")
    },
    "cross_attn.in_proj_weight": (1536, 512),
    "cross_attn.in_proj_bias": (1536,),
    "cross_attn.out_proj.weight": (512, 512),
    "cross_attn.out_proj.bias": (512,),
    "score_head.0.weight": (256, 512),
    "score_head.0.bias": (256,),
    "score_head.2.weight": (1, 256),
    "score_head.2.bias": (1,),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with random weights of both trained methods beside its own."""
    path = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(BUNDLED_PATH, path)
    selector = {f"compressor.{name}": value for name, value in selector_weights(128, 64, 4).items()}
    save_file(selector, path / "omnisift.safetensors")
    sieve = sieve_weights(load_model("bundled", device="cpu").adapter)
    save_file(sieve, path / "echoingpixels.safetensors")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_model(str(folder), device="cpu")


def test_published_layout() -> None:
    given = {name: torch.empty(shape, device="meta") for name, shape in PUBLISHED.items()}
    made = SoundSelector.of(given, 3584)
    assert {name: tuple(value.shape) for name, value in made.state_dict().items()} == PUBLISHED
    assert sum(value.numel() for value in made.parameters()) == 4_856_321
    assert made.cross_attn.num_heads == 8
    assert of_a_method("thinker.compressor.v_proj.weight")
    assert of_a_method("model.language_model.bidir_encoder.layers.0.mlp.up_proj.weight")
    assert not of_a_method("thinker.model.layers.0.self_attn.q_proj.weight")
    assert not of_a_method("thinker.visual.compressor.v_proj.weight")


def test_the_layout_of_echoingpixels_authors(tmp_path: Path, loaded: LoadedModel) -> None:
    """Their names, config.json and sections; not taken for OmniSIFT, whose name is inside."""
    theirs = tmp_path / "theirs"
    shutil.copytree(BUNDLED_PATH, theirs, ignore=shutil.ignore_patterns("omnisift.*"))
    own = {name.partition(".")[2]: part for name, part in sieve_weights(loaded.adapter).items()}
    net = {f"thinker.{k}": v for k, v in load_file(BUNDLED_PATH / "model.safetensors").items()}
    refiner = {f"bidir_encoder.{k}": v for k, v in own.items() if k.startswith("layers.")}
    head = {f"compressor.{k}": v for k, v in own.items() if not k.startswith("layers.")}
    assert len(refiner) == 24
    assert len(head) == 5
    added = {f"thinker.model.{name}": part for name, part in (refiner | head).items()}
    save_file({**net, **added}, theirs / "model.safetensors")
    values = json.loads((BUNDLED_PATH / "config.json").read_text())
    values["model_type"] = "qwen2_5_omni_compress_thinker"
    values["text_config"] |= {
        "model_type": "qwen2_5_omni_compress_text",
        "av_refiner_layers": 2,
        "compression_ratio": 0.2,
    }
    whole = {"model_type": "qwen2_5_omni_compress", "thinker_config": values}
    (theirs / "config.json").write_text(json.dumps(whole))
    assert _runnable(["omnisift", "echoingpixels"], str(theirs), None) == ["echoingpixels"]
    assert not stored_for(theirs, "omnisift")
    found = load_model(str(theirs), device="cpu")
    read = weights_for(found.adapter, "echoingpixels")
    assert read.keys() == own.keys()
    assert all(torch.equal(read[name], own[name]) for name in own)
    # Their code has the published sections unless an environment variable gives others.
    assert "rope_sections" in found.notices[-1]
    assert found.adapter.own_settings()["rope_sections"] == list(sync_sections(HEAD_DIM))
    config = replace(TRAINED, method="echoingpixels")
    trained = answer(found, config)
    with pytest.raises(ModelError, match="no weights for it"):
        answer(found, TRAINED)
    # The same in our layout.
    ours = tmp_path / "ours"
    shutil.copytree(BUNDLED_PATH, ours)
    save_file(sieve_weights(loaded.adapter), ours / "echoingpixels.safetensors")
    values = json.loads((ours / "config.json").read_text())
    values["seats"]["rope_sections"] = list(sync_sections(HEAD_DIM))
    (ours / "config.json").write_text(json.dumps(values))
    same = load_model(str(ours), device="cpu")
    assert not any("rope_sections" in notice for notice in same.notices)
    again = answer(same, config)
    assert torch.equal(again.trace.stages[0].kept, trained.trace.stages[0].kept)
    assert again.token_ids == trained.token_ids


def answer(loaded: LoadedModel, config: SeatsConfig, **how: Any) -> Any:
    clip = read_clip(CARDS, sizing=loaded.sizing)
    return ask(loaded, clip, QUESTION, config=config, max_new_tokens=2, **how)


def test_a_run_and_its_accounts(loaded: LoadedModel) -> None:
    found = answer(loaded, TRAINED)
    stage, cost = found.trace.stages[0], found.cost
    assert stage.video < found.trace.offered[0]
    assert stage.audio < found.trace.offered[1]
    assert found.timing.select_s > 0
    assert cost.executed_flops == cost.encoder_flops + cost.prefill_and_selection_flops
    assert cost.selection_flops > 0
    # of the other form, all but the selector's work is the same
    plain = SeatsConfig(method="omnisift-untrained", retain_video=0.33, retain_audio=0.5)
    other = answer(loaded, plain)
    assert other.trace.stages[0].audio == stage.audio
    assert not torch.equal(other.trace.stages[0].kept, stage.kept)
    assert other.cost.prefill_flops == cost.prefill_flops


@pytest.mark.parametrize("method", ["omnisift", "echoingpixels"])
def test_a_session_gives_the_same(loaded: LoadedModel, method: str) -> None:
    session = loaded.open(read_clip(CARDS, sizing=loaded.sizing))  # type: ignore[attr-defined]
    config = replace(TRAINED, method=method)
    alone = answer(loaded, config)
    for _ in range(2):
        found = session.ask(QUESTION, config=config, max_new_tokens=2)
        assert torch.equal(found.trace.stages[0].kept, alone.trace.stages[0].kept)
        assert found.token_ids == alone.token_ids


SHARED = {  # methods that see nothing of the question until tokens are dropped inside
    *("full", "seats", "random", "visionzip", "visionzip-om", "divprune"),
    *("divprune-om", "dycoke", "omnizip", "omnipack", "omnisift", "omnisift-untrained"),
}
PLUS = {
    "asked": {"question_weight": 0.5, "merging": "both", "relevance_query": "question"},
    "published": {"question_weight": 0.0},
}


@pytest.fixture(scope="module")
def session(loaded: LoadedModel) -> Any:
    clip = read_clip(CARDS, sizing=loaded.sizing, max_frames=2, end=2.0)
    return loaded.open(clip)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", [*METHODS, *(f"seats-plus, {kind}" for kind in PLUS)])
def test_what_a_further_question_executes(session: Any, method: str) -> None:
    """To the last FLOP, whatever an earlier question with the method or another one has left."""
    name, _, kind = method.partition(", ")
    options: Any = PLUS.get(kind, {})
    config = SeatsConfig(method=name, retain_video=0.7, retain_audio=0.75, options=options)
    found = []
    for _ in range(2):
        with sdpa_kernel(SDPBackend.MATH):  # of other kernels' products torch counts only some
            flops, answer = counted(partial(session.ask, "What?", config=config, max_new_tokens=1))
        assert flops - answer.cost.evidence_flops == answer.cost.executed_flops
        found.append(answer.cost)
    first, further = found
    # What it takes by itself does not depend on what was asked before.
    for part in ("encoder_flops", "selection_flops", "prefill_flops", "decode_flops"):
        assert getattr(further, part) == getattr(first, part)
    # Neither encoders nor, as far as they are shared, the choice and the prefill run again.
    assert further.executed_flops <= further.prefill_and_selection_flops
    if name in SHARED or kind == "published":
        assert further.executed_flops < 0.5 * first.executed_flops


def test_missing_weights_are_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(BUNDLED_PATH, bare, ignore=shutil.ignore_patterns("omnisift.*"))
    bundled = load_model(str(bare), device="cpu")
    monkeypatch.setattr("seats_cli.engine.answer.build_inputs", None)
    for method in ("omnisift", "echoingpixels"):
        config, sentence = replace(TRAINED, method=method), f"put {method}.safetensors beside"
        with pytest.raises(ModelError, match=sentence):
            answer(bundled, config)
        with pytest.raises(ModelError, match=sentence):
            check_budget(bundled, BatchSettings(config))
        with pytest.raises(ModelError, match=sentence):
            Answerer(bundled, ServeOptions(config=config))
        # A row of its own in `compare`, `profile` and `eval`.
        assert sentence in str(refusal(bundled, RunSpec(method, config)))
    monkeypatch.setattr("seats_cli.cli.sources.read_input", None)
    for command in ("ask", "index", "chat"):
        monkeypatch.setattr(f"seats_cli.cli.{command}.open_model", lambda *_: bundled)
        asked = [] if command in ("index", "chat") else [QUESTION]
        arguments = [command, str(CARDS), *asked, "--method", "omnisift"]
        found = CliRunner().invoke(app, arguments, input=f"{QUESTION}\n")
        assert found.exit_code == 4, (command, found.output, found.exception)
        assert "put omnisift.safetensors beside" in " ".join(found.stderr.split())
    # Without the weights of the model itself, nobody can tell.
    check_budget(outline_model("bundled"), BatchSettings(TRAINED))


@torch.no_grad()
def test_a_prompt_with_only_a_picture_is_refined(loaded: LoadedModel) -> None:
    picture = Image.fromarray(np.arange(112 * 112 * 3, dtype=np.uint8).reshape(112, 112, 3))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    inputs = inputs_from_messages(loaded, [{"role": "user", "content": parts}])
    net, ids = loaded.adapter, inputs["input_ids"][0]
    assert int((ids == net.image_token_id).sum()) == 16
    entered: list[Tensor] = []
    hook = net.layers[0].register_forward_pre_hook(lambda _, args: entered.append(args[0][0]))
    config = replace(TRAINED, method="echoingpixels", retain_video=0.1, retain_audio=0.1)
    with hooked([hook]), prune(loaded.model, config) as run:
        loaded.model(**inputs)
    assert run.trace.stages[0].kept.numel() == len(ids)
    is_text = ids != net.image_token_id
    plain = net.language_model.embed_tokens(ids)
    assert bool((entered[0] != plain)[is_text].any(-1).all())


def test_the_clip_fits_the_refiner(loaded: LoadedModel) -> None:
    for method, entering in (("echoingpixels", token_counts), ("omnisift", None)):
        found = need_of(loaded, [QUESTION], [replace(TRAINED, method=method)], 4).entering
        assert (found == (token_counts,)) == (entering is token_counts)


def test_weights_that_are_wrong(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(BUNDLED_PATH, other)
    wrong = {f"compressor.{name}": value for name, value in selector_weights(96, 64, 4).items()}
    save_file(wrong, other / "omnisift.safetensors")
    sieve = load_file(folder / "echoingpixels.safetensors")
    del sieve["av_refiner.layers.0.mlp.up_proj.weight"]
    save_file(sieve, other / "echoingpixels.safetensors")
    loaded = load_model(str(other), device="cpu")
    reasons = {
        "omnisift": r"size \(size mismatch for v_proj.weight: .*\[64, 96\].*\): use those",
        "echoingpixels": r'size \(Missing key.*"layers.0.mlp.up_proj.weight"\): use those',
    }
    for method, reason in reasons.items():
        with pytest.raises(ModelError, match=reason):
            check_method(loaded, replace(TRAINED, method=method))
    sieve["av_refiner.layers.0.mlp.up_proj.weight"] = torch.zeros(40, 128)
    for name in ("av_refiner.score_head.0.weight", "av_refiner.layers.1.mlp.gate_proj.weight"):
        save_file(
            {key: value for key, value in sieve.items() if key != name},
            other / "echoingpixels.safetensors",
        )
        lacking = name.removeprefix("av_refiner.").replace(".", r"\.")
        with pytest.raises(ModelError, match=rf"size \({lacking} is missing\): use those"):
            check_method(
                load_model(str(other), device="cpu"), replace(TRAINED, method="echoingpixels")
            )
    # Heads that are not the decoder's: one and a half of them.
    wide = HEAD_DIM * 3 // 2
    for part in ("k_proj", "v_proj"):
        at = f"av_refiner.layers.0.self_attn.{part}"
        sieve |= {f"{at}.weight": torch.zeros(wide, 128), f"{at}.bias": torch.zeros(wide)}
    save_file(sieve, other / "echoingpixels.safetensors")
    with pytest.raises(ModelError, match=f"not multiples of the decoder's head width, {HEAD_DIM}:"):
        check_method(load_model(str(other), device="cpu"), replace(TRAINED, method="echoingpixels"))
    assert len(stored_for(folder, "omnisift")) == len(PUBLISHED)
    assert stored_for(BUNDLED_PATH, "omnisift")
    assert not stored_for(BUNDLED_PATH, "echoingpixels")


def test_a_snapshot_of_the_hub(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are found by the name that a model was loaded with, by seats or by transformers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commits = tmp_path / "models--somebody--trained", ("a" * 40, "b" * 40)
    for commit in commits:
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in folder.iterdir():
            if file.suffix != ".safetensors":
                (snapshot / file.name).symlink_to(file)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commits[0])
    # The newest one as published, an older one without them.
    selector = load_file(folder / "omnisift.safetensors")
    own = load_file(BUNDLED_PATH / "model.safetensors")
    inside = {f"thinker.{name}": value.half() for name, value in selector.items()}
    save_file({**own, **inside}, repository / "snapshots" / commits[0] / "model.safetensors")
    (repository / "snapshots" / commits[1] / "model.safetensors").symlink_to(
        BUNDLED_PATH / "model.safetensors"
    )
    newest = load_model("somebody/trained", device="cpu")
    assert newest.facts.revision == commits[0]
    found = weights_for(newest.adapter, "omnisift")
    expected = {name.partition(".")[2]: value.half().float() for name, value in selector.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    older = load_model("somebody/trained", revision="bbbbbbb", device="cpu")
    with pytest.raises(ModelError, match="no weights for it"):
        weights_for(older.adapter, "omnisift")
    # A notebook's own model is known by the id that it was loaded with, as is one inside of it.
    net = type(newest.model).from_pretrained(
        "somebody/trained", cache_dir=tmp_path, local_files_only=True
    )
    assert net.name_or_path == "somebody/trained"
    assert weights_for(adapter_for(net), "omnisift").keys() == expected.keys()
    inner = adapter_for(newest.model)
    assert folder_of(inner) == repository / "snapshots" / commits[0]
    monkeypatch.setattr(newest.model, "name_or_path", "")
    monkeypatch.setattr("seats_cli.models.method_weights._FOLDERS", {})
    assert folder_of(inner) is None
    inner.whole = net
    assert folder_of(inner) == repository / "snapshots" / commits[0]
    # "all" looks at the revision that is to be loaded.
    for commit, there in zip(commits, (["omnisift"], []), strict=True):
        assert _runnable(["omnisift"], "somebody/trained", commit[:7]) == there


def test_an_index_notices_other_weights(loaded: LoadedModel, folder: Path, tmp_path: Path) -> None:
    clip = read_clip(CARDS, sizing=loaded.sizing, max_frames=2, end=3.0)
    session = loaded.open(clip)  # type: ignore[attr-defined]
    for config in (TRAINED, SeatsConfig(retain=0.1)):
        session.prefill(config)
    session.save(tmp_path / "all.seats")
    session.save(tmp_path / "only.seats", only=True)
    same = load_model(str(folder), device="cpu")
    for name in ("all", "only"):
        opened = same.open(tmp_path / f"{name}.seats")
        assert opened.clip.warnings == clip.warnings
        assert opened.ask(QUESTION, config=TRAINED, max_new_tokens=1).text is not None
        assert next(opened._prefixes.prefixes())[1].mapped
        (saved,) = (part.entry_flops for part in opened._index.facts.settings if part.weights)
        found = opened.ask("And then?", config=TRAINED, max_new_tokens=1).cost
        assert found.selection_flops == saved > 0
        assert found.executed_flops < found.prefill_flops
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    drawn = {
        f"compressor.{name}": part for name, part in selector_weights(128, 64, 4, seed=1).items()
    }
    save_file(drawn, other / "omnisift.safetensors")
    changed = load_model(str(other), device="cpu")
    opened = changed.open(tmp_path / "all.seats")
    found = opened.ask(QUESTION, config=TRAINED, max_new_tokens=1)
    assert "other weights of 'omnisift'" in " ".join(found.warnings)
    alone = ask(changed, clip, QUESTION, config=TRAINED, max_new_tokens=1)
    assert torch.equal(found.trace.stages[0].kept, alone.trace.stages[0].kept)
    before = session.ask(QUESTION, config=TRAINED, max_new_tokens=1)
    assert not torch.equal(found.trace.stages[0].kept, before.trace.stages[0].kept)
    opened = changed.open(tmp_path / "only.seats")
    with pytest.raises(UsageError, match="other weights of 'omnisift': index the clip again"):
        opened.ask(QUESTION, config=TRAINED)
    assert opened.ask(QUESTION, config=SeatsConfig(retain=0.1), max_new_tokens=1).trace.stages


def test_all_says_what_it_leaves_out(folder: Path) -> None:
    arguments = ["compare", str(CARDS), QUESTION, "--methods", "all", "--retain", "35%"]
    arguments += ["--end", "4", "--fps", "1", "--max-new-tokens", "1", "--json"]
    found = CliRunner().invoke(app, [*arguments, "--model", str(folder)])
    assert found.exit_code == 0
    assert '"omnisift"' in found.stdout
    assert '"echoingpixels"' in found.stdout
    assert "leaves out" not in found.stderr


@pytest.mark.parametrize("method", ["omnisift", "echoingpixels"])
def test_show_draws_what_they_keep(folder: Path, tmp_path: Path, method: str) -> None:
    """Pictures and the saved trace are those of the run that answers."""
    trace, out = tmp_path / "trace.json", tmp_path / "drawn"
    arguments = ["ask", str(CARDS), QUESTION, "--model", str(folder), "--end", "4", "--fps", "1"]
    arguments += ["--method", method, "--retain", "35%", "--max-new-tokens", "1"]
    asked = CliRunner().invoke(app, [*arguments, "--save-trace", str(trace)])
    assert asked.exit_code == 0, asked.stderr
    drawn = CliRunner().invoke(app, ["show", "--trace", str(trace), str(CARDS), "-o", str(out)])
    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stdout == asked.stdout
    for name in ("frames.png", "sound.png", "layers.png"):
        assert min(Image.open(out / name).size) > 50
    assert method in (out / "index.html").read_text()
    (stage,) = load_record(trace).stages
    loaded = load_model(str(folder), device="cpu")
    clip = read_clip(CARDS, sizing=loaded.sizing, end=4.0, fps=1.0)
    config = replace(SeatsConfig.preset("35%"), method=method)
    (alone,) = ask(loaded, clip, QUESTION, config=config, max_new_tokens=1).trace.stages
    assert stage.kept.tolist() == alone.kept.tolist()
