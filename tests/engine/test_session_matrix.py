"""What a session answers is what each question is answered alone, whatever was asked before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seats_cli import ClipSession, SeatsConfig, ask, load_model
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.session import AskableModel
from seats_cli.errors import ModelError
from seats_cli.media.clip import Clip
from seats_cli.models.optimize import STOCK
from seats_cli.results import Answer
from seats_cli.selection.methods import weightless_methods
from tests.engine import golden
from tests.engine.test_session import latest, model, prefill, prompts
from tests.models.test_load import noise_clip

LAYOUTS = ("omni-7b", "omni3-thinking")
QUESTIONS = ("What is shown?", "Which sound is heard at the very end?", "Why?")
ATOL = 1e-4  # of logits in float32


@pytest.fixture(params=LAYOUTS)
def loaded(request: pytest.FixtureRequest, hub_repository: Callable[[str], Path]) -> AskableModel:
    return load_model(str(hub_repository(request.param)), device="cpu")


def clip_of(loaded: AskableModel, kind: str = "both") -> Clip:
    clip = noise_clip(loaded.sizing.factor)
    if kind == "still":  # the second half of the pictures is that of the first half's last
        assert clip.frames is not None
        frames = clip.frames.copy()
        frames[len(frames) // 2 :] = frames[len(frames) // 2 - 1]
        return replace(clip, frames=frames)
    if kind == "image":
        assert clip.frames is not None
        assert clip.frame_times is not None
        return replace(clip, frames=clip.frames[:1], frame_times=clip.frame_times[:1], audio=None)
    if kind == "video":
        return replace(clip, audio=None)
    if kind == "audio":
        return replace(clip, frames=None, frame_times=np.zeros(0), fps=None)
    return clip


def seen(answering: Callable[..., Answer], *what: Any, **how: Any) -> tuple[Any, Tensor]:
    """Everything of an answer that must be equal, and logits, which must be close."""
    logits: list[Tensor] = []
    answer = answering(*what, on_logits=lambda new: logits.append(new.float().clone()), **how)
    kept = [(stage.after_layer, stage.kept.tolist()) for stage in answer.trace.stages]
    rests = [(one.start_s, one.end_s, one.modality) for one in answer.evidence]
    chosen = [(choice.text, round(choice.probability, 4)) for choice in answer.choices]
    costs = (answer.cost.prefill_flops, answer.cost.kv_bytes, answer.cost.still)
    shown = [one.flatten() for one in logits]
    return (answer.text, answer.token_ids, kept, rests, chosen, costs), torch.cat(shown)


def held(session: ClipSession) -> dict[Any, tuple[Tensor, ...]]:
    """The tensors that are kept of every setting."""
    return {
        key: (*one.keys, *one.values, one.entered, one.left, one.ids, one.keep)
        for key, one in session._prefixes.prefixes()
    }


class Asked:
    """Asks questions of a session, and checks each against the question alone."""

    def __init__(self, loaded: AskableModel, clip: Clip, atol: float = ATOL) -> None:
        self.loaded, self.clip, self.atol = loaded, clip, atol
        self.session = ClipSession(loaded, clip)

    def __call__(self, question: str, config: SeatsConfig | None, **how: Any) -> None:
        given = {"config": config, "max_new_tokens": 3, **how}
        before = {
            key: [part.clone() for part in parts] for key, parts in held(self.session).items()
        }
        found, near = seen(self.session.ask, question, **given)
        wanted, logits = seen(ask, self.loaded, self.clip, question, **given)
        assert found == wanted
        torch.testing.assert_close(near, logits, rtol=0.0, atol=self.atol)
        # No question cuts or writes what the next one needs.
        for key, parts in held(self.session).items():
            for part, earlier in zip(parts, before.get(key, parts), strict=True):
                assert torch.equal(part, earlier)


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
def test_any_order_of_methods_budgets_and_questions(loaded: AskableModel, kv: str) -> None:
    configs: list[SeatsConfig | None] = [None, SeatsConfig(retain=0.6, kv=kv)]
    # 0.4: FastV drops first after a third of these few layers.
    configs += [SeatsConfig(retain=0.4, method=method, kv=kv) for method in weightless_methods()]
    turns = [(question, config) for config in configs for question in QUESTIONS[:2]]
    random.Random(kv).shuffle(turns)
    asked = Asked(loaded, clip_of(loaded))
    for question, config in turns:
        asked(question, config)


@pytest.mark.parametrize("kind", ["image", "audio", "video", "still"])
def test_any_kind_of_clip(loaded: AskableModel, kind: str) -> None:
    asked = Asked(loaded, clip_of(loaded, kind))
    still = 2.0 if kind == "still" else None
    config = SeatsConfig(retain=0.4, still_tolerance=still)
    for question, settings in zip(QUESTIONS, (config, None, config), strict=True):
        asked(question, settings)
        asked(question + " And when?", settings)


def test_choices_and_sampling(loaded: AskableModel) -> None:
    asked, config = Asked(loaded, clip_of(loaded)), SeatsConfig(retain=0.3)
    for question in QUESTIONS[:2]:
        for settings in (config, None):
            asked(question, settings, choices=("red", "blue and green"))
            asked(question, settings, temperature=0.9, top_p=0.8, seed=3)


def test_drops_that_come_before_deepstack_ends(loaded: AskableModel) -> None:
    """Features that are added behind the first drop come with every question."""
    asked, config = Asked(loaded, clip_of(loaded)), SeatsConfig(retain=0.4, drop_layers=(1, 2))
    for question in QUESTIONS:
        asked(question, config)
    (prefix,) = (one for _, one in asked.session._prefixes.prefixes())
    assert prefix.depth == 1
    deep = loaded.architecture.family.startswith("qwen3")
    assert prefix.whole is not deep


def test_failures_leave_later_questions_right(loaded: AskableModel) -> None:
    asked, config = Asked(loaded, clip_of(loaded)), SeatsConfig(retain=0.3)
    layers, head = loaded.adapter.layers, loaded.adapter.lm_head

    def broken(*_anything: Any) -> None:
        raise RuntimeError("broken")

    def not_a_number(_module: Any, _args: Any, logits: Tensor) -> Tensor:
        return logits * float("nan")

    def fail(handle: Any, error: type[Exception], settings: SeatsConfig | None) -> None:
        try:
            with pytest.raises(error):
                asked.session.ask(QUESTIONS[2], config=settings, max_new_tokens=3)
        finally:
            handle.remove()

    for settings in (config, None):
        # In the first question and in further ones: in the first layer and in the last, and with
        # the first token of the answer and later.
        for _ in range(2):
            fail(layers[0].register_forward_hook(broken), RuntimeError, settings)
            fail(layers[-1].register_forward_hook(broken), RuntimeError, settings)
            fail(head.register_forward_hook(not_a_number), ModelError, settings)
            left = [2]

            def later(*_anything: Any, left: list[int] = left) -> None:
                left[0] -= 1
                if not left[0]:
                    raise RuntimeError("broken")

            with pytest.raises(RuntimeError, match="broken"):
                asked.session.ask(QUESTIONS[1], config=settings, on_logits=later)
            asked(QUESTIONS[0], settings)
    asked(QUESTIONS[1], config)


def test_stock_modules(loaded: AskableModel) -> None:
    asked = Asked(replace(loaded, speedups=STOCK), clip_of(loaded))
    for question in QUESTIONS:
        asked(question, SeatsConfig(retain=0.3))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, hub_repository: Callable[[str], Path]) -> None:
    """Kept tokens are equal; logits agree to what a product of other shapes rounds differently."""
    loaded = load_model(str(hub_repository("omni-7b")), device="cpu", dtype=dtype)
    asked = Asked(loaded, clip_of(loaded), atol=5e-2)
    for question in QUESTIONS:
        asked(question, SeatsConfig(retain=0.3))


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_padding_shares_nothing(family: str) -> None:
    net, config = model(family, "sdpa"), SeatsConfig(retain=0.35)
    prompt = prompts(next(run for run in golden.runs() if run.family == family))[0]
    ids: Tensor = prompt["input_ids"]
    padded = {
        **prompt,
        "input_ids": torch.cat([ids.new_zeros(1, 3), ids], 1),
        "attention_mask": torch.cat([ids.new_zeros(1, 3), torch.ones_like(ids)], 1),
    }
    store = PrefixStore()
    prefill(net, prompt, config, prefixes=store)
    before = latest(store)
    for given in (padded, prompt, padded):
        kept, logits = prefill(net, given, config, prefixes=store)
        assert latest(store) is before
        wanted, near = prefill(net, given, config)
        assert kept == wanted
        torch.testing.assert_close(logits, near, rtol=0.0, atol=ATOL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu(layout: str, hub_repository: Callable[[str], Path]) -> None:
    loaded = load_model(str(hub_repository(layout)), device="cuda", dtype="float32")
    asked = Asked(loaded, clip_of(loaded), atol=2e-3)
    for question in QUESTIONS:
        for config in (None, SeatsConfig(retain=0.3), SeatsConfig(retain=0.3, method="fastv")):
            asked(question, config, max_new_tokens=16)
