"""The layers of trained methods: their formula, and their FLOPs in both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import layer_norm, silu

from seats_cli.config import SeatsConfig
from seats_cli.engine.accounting import account
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.models.adapter import Adapter
from seats_cli.models.method_weights import note_folder
from seats_cli.models.optimize import sync_sections
from seats_cli.models.registry import adapter_for
from seats_cli.selection.methods.echoingpixels import pool_budget
from seats_cli.selection.methods.omnisift import SoundSelector
from tests.cost.counting import counted
from tests.engine import golden, test_methods
from tests.engine.conftest import TRAINED, selector_weights, sieve_weights
from tests.engine.golden import FAMILIES

KINDS = ("ragged", "video only", "audio only")


def in_products(family: str) -> tuple[Any, Adapter]:
    """A random model whose attention and experts consist of products that the counter knows."""
    model = golden.build(family, "eager")
    if family == "qwen3":
        model.set_experts_implementation("eager")
    return model, adapter_for(model)


def test_scores_follow_the_formula() -> None:
    own = selector_weights(24, 16, 4)
    audio, video = torch.randn(5, 24), torch.randn(7, 24)

    def normed(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (16,), own[f"{name}.weight"], own[f"{name}.bias"])

    def through(x: Tensor, name: str) -> Tensor:
        return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]

    v, a = normed(through(video, "v_proj"), "v_norm"), normed(through(audio, "a_proj"), "a_norm")
    q, k, value = (
        x @ part.T + bias
        for x, part, bias in zip(
            (a, v, v),
            own["cross_attn.in_proj_weight"].chunk(3),
            own["cross_attn.in_proj_bias"].chunk(3),
            strict=True,
        )
    )
    heads = [slice(4 * head, 4 * head + 4) for head in range(4)]
    mixed = torch.cat(
        [(q[:, h] @ k[:, h].T / 2.0).softmax(-1) @ value[:, h] for h in heads], dim=-1
    )
    x = normed(through(mixed, "cross_attn.out_proj") + a, "post_attn_norm")
    expected = through(silu(through(x, "score_head.0")), "score_head.2")[:, 0].sigmoid()
    found = SoundSelector.of(own, 24)(audio, video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool((found.diff() != 0).any())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_selector_in_both_families(family: str, tmp_path: Path) -> None:
    """What stays of each modality, and every FLOP accounted for, where one is missing, too."""
    model, adapter = in_products(family)
    shape = adapter.architecture()
    own = selector_weights(shape.hidden_size, 16, 4)
    save_file({f"compressor.{k}": v for k, v in own.items()}, tmp_path / "omnisift.safetensors")
    note_folder(adapter.model, tmp_path)
    for kind in KINDS:
        given = golden.inputs(golden.Run(family, test_methods.PROMPTS[family][kind], ""))
        sizes = adapter.media_sizes(given)
        with prune(model, TRAINED) as run, sdpa_kernel(SDPBackend.MATH):
            flops, _ = counted(lambda given=given: model(**given))
        stage = run.trace.stages[0]
        most = run.method.entering(shape, sizes)
        assert 0 < stage.video + stage.audio < sum(run.trace.offered[:2])
        assert stage.video <= most[0]
        assert stage.audio <= most[1]
        cost = account(
            shape,
            run.trace,
            sizes,
            method=run.method,
            decode_steps=0,
            bytes_per_value=4,
            peak_host_bytes=0,
            peak_gpu_bytes=None,
        )
        head = 2 * (len(stage.kept) - 1) * shape.hidden_size * shape.vocab_size
        assert flops - cost.encoder_flops - cost.prefill_flops - head == cost.selection_flops
        assert (cost.selection_flops > 0) == (kind == "ragged")


PROMPTS = [(family, prompt) for family in FAMILIES for prompt in KINDS]


@pytest.mark.parametrize(("family", "prompt"), PROMPTS)
def test_the_refiner_in_both_families(family: str, prompt: str, tmp_path: Path) -> None:
    """One pool, states of text that changed, KV of what stays, and every FLOP accounted for."""
    model, adapter = in_products(family)
    shape = adapter.architecture()
    model.config.seats = {"rope_sections": list(sync_sections(shape.head_dim))}
    save_file(sieve_weights(adapter), tmp_path / "echoingpixels.safetensors")
    note_folder(adapter.model, tmp_path)
    given = golden.inputs(golden.Run(family, test_methods.PROMPTS[family][prompt], ""))
    entered, places = [], []
    hooks = (
        adapter.layers[0].register_forward_pre_hook(
            lambda _module, args, kwargs: entered.append(args[0] if args else None),
            with_kwargs=True,
        ),
        adapter.language_model.rotary_emb.register_forward_pre_hook(
            lambda _module, args, kwargs: places.append([*args, *kwargs.values()][1]),
            with_kwargs=True,
        ),
    )
    config = SeatsConfig(method="echoingpixels", retain_video=0.3, retain_audio=0.45)
    with prune(model, config) as run, sdpa_kernel(SDPBackend.MATH):
        flops, output = counted(lambda: model(**given, use_cache=True))
        cache = getattr(output, cache_argument(model))
        token = torch.tensor([[int(output.logits[0, -1].argmax())]])
        with torch.no_grad():
            further = model(input_ids=token, use_cache=True, **{cache_argument(model): cache})
    for hook in hooks:
        hook.remove()
    trace = run.trace
    video, audio, text = trace.offered
    stage = trace.stages[0]
    assert stage.text == text
    assert stage.video + stage.audio == pool_budget(0.3 * video + 0.45 * audio, video + audio)
    assert {layer.keys.shape[2] for layer in cache.layers} == {len(stage.kept) + 1}
    # The refiner has all positions, the decoder those of the survivors; then the answer's follows.
    whole, survivors, next_one = places
    assert whole.shape[-1] == trace.length
    assert torch.equal(survivors, whole[..., stage.kept])
    assert int(next_one.max()) == int(whole.max()) + 1
    assert bool(further.logits.isfinite().all())
    plain = adapter.language_model.embed_tokens(given["input_ids"][0, stage.kept])
    is_text = ~(trace.video_mask | trace.audio_mask)[stage.kept]
    assert entered[0] is not None
    assert bool((entered[0][0] != plain)[is_text].any(-1).all())
    cost = account(
        shape,
        trace,
        adapter.media_sizes(given),
        method=run.method,
        decode_steps=0,
        bytes_per_value=4,
        peak_host_bytes=0,
        peak_gpu_bytes=None,
    )
    # The refiner holds as much at once as the unpruned prefill.
    assert cost.activation_bytes == cost.full_activation_bytes
    head = 2 * (len(stage.kept) - 1) * shape.hidden_size * shape.vocab_size
    assert flops - cost.encoder_flops - cost.prefill_flops - head == cost.selection_flops
    assert cost.selection_flops > 2 * 2 * trace.length**2 * shape.num_heads * shape.head_dim
