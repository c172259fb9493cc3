"""Questions that share a clip give what each gives alone: answers, kept tokens and logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from seats_cli import ClipSession, SeatsConfig, Turn, ask, load_model
from seats_cli.engine import clip_prefix
from seats_cli.engine.clip_prefix import ClipPrefix, PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.engine.session import AskableModel
from seats_cli.errors import ResourceError, UsageError
from seats_cli.media.clip import Clip
from seats_cli.models import need_of
from seats_cli.results import Answer
from seats_cli.selection.methods import weightless_methods
from tests.engine import golden
from tests.engine.test_outside_method import EveryNth
from tests.models.test_load import noise_clip

QUESTIONS = ("What color is shown first?", "What color is shown last?", "What is heard?")
HISTORY = (Turn("What is shown first?", "A red card."), Turn("And then?", "Blue <|im_end|>\n\n."))


@cache
def model(family: str, attention: str) -> Any:
    return golden.build(family, attention)


def latest(store: PrefixStore) -> ClipPrefix | None:
    """The prefix that was used last; where no new one was made, it is the one from before."""
    return next((prefix for _, prefix in reversed(list(store.prefixes()))), None)


def prompts(run: golden.Run) -> list[dict[str, Any]]:
    """The recorded prompt, and others about the same clip, of other lengths."""
    given = golden.inputs(run)
    ids: Tensor = given["input_ids"]
    behind = torch.tensor([[7, 8, 9, 10, 11]])
    found = []
    for changed in (ids, torch.cat([ids[:, :-2], behind], 1), torch.cat([ids, behind[:, :1]], 1)):
        found.append({**given, "input_ids": changed, "attention_mask": torch.ones_like(changed)})
    return found


def prefill(
    net: Any, prompt: dict[str, Any], config: SeatsConfig, **shared: Any
) -> tuple[list[Any], Tensor]:
    """Kept tokens of every stage, and logits behind the prompt and behind three more tokens."""
    name = cache_argument(net)
    filled = DynamicCache(config=net.config.get_text_config())
    with torch.no_grad(), prune(net, config, **shared) as run:
        logits = [net(**prompt, use_cache=True, **{name: filled}).logits[:, -1:]]
        for token in (3, 4, 5):
            ids = torch.tensor([[token]])
            logits.append(net(input_ids=ids, use_cache=True, **{name: filled}).logits)
    return [stage.kept.tolist() for stage in run.trace.stages], torch.cat(logits)


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_shared_states_change_nothing_in_eager_attention(family: str) -> None:
    check_shared(family, "seats", "layerwise", "eager")


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
@pytest.mark.parametrize("method", tuple(weightless_methods()))
@pytest.mark.parametrize("family", golden.FAMILIES)
def test_shared_states_change_nothing(family: str, method: str, kv: str) -> None:
    check_shared(family, method, kv, "sdpa")


def check_shared(family: str, method: str, kv: str, attention: str) -> None:
    net = model(family, attention)
    run = next(run for run in golden.runs() if run.family == family)
    share = 0.7 if method == "dycoke" else 0.35  # it keeps whole grids
    config = SeatsConfig(retain=share, method=method, kv=kv)
    alone = [prefill(net, prompt, config) for prompt in prompts(run)]
    assert len({logits.flatten()[0].item() for _, logits in alone}) == 3
    for order in list(permutations(range(3)))[:: 1 if method == "seats" else 5]:
        store, encoders = PrefixStore(), EncoderCache()
        reused = []
        for number in order:
            before = latest(store)
            kept, logits = prefill(
                net, prompts(run)[number], config, prefixes=store, encoder_cache=encoders
            )
            reused.append(latest(store) is before)
            assert kept == alone[number][0]
            torch.testing.assert_close(logits, alone[number][1], rtol=0.0, atol=1e-4)
        if method == "seats-plus":  # what enters depends on the question
            assert latest(store) is None
        else:
            assert reused == [False, True, True]


def test_another_clip_of_the_same_size_shares_nothing() -> None:
    net = model("qwen2_5", "sdpa")
    (prompt, *_), config = prompts(golden.runs()[0]), SeatsConfig(retain=0.35)
    other = {**prompt, "pixel_values_videos": prompt["pixel_values_videos"].flip(0)}
    store = PrefixStore()
    prefill(net, prompt, config, prefixes=store)
    before = latest(store)
    kept, logits = prefill(net, other, config, prefixes=store)
    assert latest(store) is not before
    wanted = prefill(net, other, config)
    assert kept == wanted[0]
    assert torch.equal(logits, wanted[1])


def facts(answer: Answer) -> Any:
    kept = [stage.kept.tolist() for stage in answer.trace.stages]
    probabilities = [round(choice.probability, 4) for choice in answer.choices]
    return answer.text, answer.token_ids, kept, probabilities


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.9, "top_p": 0.9, "seed": 3},
        {"choices": ("red", "blue", "dark green"), "history": HISTORY},
    ],
    ids=["greedy", "sampled", "choices in a conversation"],
)
def test_answers_are_those_of_questions_alone(
    loaded: AskableModel, clip: Clip, how: dict[str, Any]
) -> None:
    session = ClipSession(loaded, clip)
    configs = (SeatsConfig(retain=0.1), None, SeatsConfig(retain=0.25, kv="survivors"))
    for config in (*configs, configs[0]):
        for question in QUESTIONS[:2]:
            given = {"config": config, "max_new_tokens": 6, **how}
            assert facts(session.ask(question, **given)) == facts(
                ask(loaded, clip, question, **given)
            )
    assert session.bytes > 0


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-thinking"])
@pytest.mark.parametrize(
    ("method", "kv"),
    [("seats", "layerwise"), ("seats", "survivors"), ("omnidrop", "layerwise"), ("full", "")],
)
def test_follow_up_turns_are_those_of_a_fresh_process(
    hub_repository: Callable[[str], Path], layout: str, method: str, kv: str
) -> None:
    loaded = load_model(str(hub_repository(layout)), device="cpu")
    clip = noise_clip(loaded.sizing.factor, seconds=4)
    session = loaded.open(clip, system="Be brief.")
    config = None if method == "full" else SeatsConfig(retain=0.3, method=method, kv=kv)
    asked = [("What is heard?", HISTORY[:turns]) for turns in (0, 2, 1, 2)]
    seen: list[tuple[Any, Tensor]] = []
    states: set[ClipPrefix | None] = set()
    for number, (question, history) in enumerate((*asked, *asked)):
        logits: list[Tensor] = []
        given = {"config": config, "history": history, "max_new_tokens": 3}
        answer = (
            session.ask(question, on_logits=logits.append, **given)
            if number < len(asked)
            else ask(loaded, clip, question, system="Be brief.", on_logits=logits.append, **given)
        )
        assert answer.history == history
        states.add(latest(session._prefixes))
        seen.append((facts(answer), torch.cat(logits)))
    for (shared, near), (alone, wanted) in zip(seen[: len(asked)], seen[len(asked) :], strict=True):
        assert shared == alone
        torch.testing.assert_close(near, wanted, rtol=0.0, atol=1e-4)
    assert not torch.equal(seen[0][1], seen[1][1])
    assert len(states) == 1


def test_a_history_takes_its_part_of_the_context(loaded: AskableModel, clip: Clip) -> None:
    session, long = loaded.open(clip), (Turn("What?", "red " * 3000),)
    short, known = (
        session.ask("What?", config=None, history=history, max_new_tokens=1).context
        for history in ((), HISTORY)
    )
    need = [need_of(loaded, ["What?"], [None], 1, history=turns) for turns in ((), HISTORY)]
    assert known.entering[2] - short.entering[2] == need[1].text - need[0].text > 20
    with pytest.raises(ResourceError, match=r"enter the LLM|earlier turns"):
        session.ask("What?", config=SeatsConfig(), history=long * 20)


def test_a_failed_question_leaves_the_others_right(loaded: AskableModel, clip: Clip) -> None:
    session, config = ClipSession(loaded, clip), SeatsConfig(retain=0.1)

    def fail(_logits: Tensor) -> None:
        raise RuntimeError("in the middle")

    wanted = [facts(ask(loaded, clip, question, config=config)) for question in QUESTIONS]
    with pytest.raises(RuntimeError, match="in the middle"):
        session.ask(QUESTIONS[0], config=config, on_logits=fail)
    assert facts(session.ask(QUESTIONS[1], config=config)) == wanted[1]
    with pytest.raises(RuntimeError, match="in the middle"):
        session.ask(QUESTIONS[0], config=config, on_logits=fail)
    assert [facts(session.ask(question, config=config)) for question in QUESTIONS] == wanted


def test_a_question_can_be_stopped_before_any_layer(loaded: AskableModel, clip: Clip) -> None:
    given = {"config": SeatsConfig(retain=0.1), "max_new_tokens": 2}
    wanted = [facts(ask(loaded, clip, question, **given)) for question in QUESTIONS[:2]]
    calls: list[int] = []
    loaded.open(clip).ask(QUESTIONS[0], on_layer=lambda: calls.append(1), **given)
    layers = len(loaded.adapter.layers)
    assert len(calls) > 2 * layers  # encoders, prefill, another token

    def stop_after(count: int) -> Callable[[], None]:
        left = iter(range(count))

        def stop() -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt

        return stop

    for count in (0, len(calls) // 3, len(calls) - layers - 2, len(calls) - 1):
        session = loaded.open(clip)
        with pytest.raises(KeyboardInterrupt):
            session.ask(QUESTIONS[0], on_layer=stop_after(count), **given)
        assert not any(part._forward_pre_hooks for part in loaded.model.modules())
        assert facts(session.ask(QUESTIONS[1], **given)) == wanted[1]
        assert facts(session.ask(QUESTIONS[0], **given)) == wanted[0]


def tensors_of(features: dict[str, Any]) -> list[Tensor]:
    return [part for part in features.values() if isinstance(part, Tensor)]


def test_settings_are_bounded_by_number(
    loaded: AskableModel, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_prefix, "MAX_SETTINGS", 2)
    session = ClipSession(loaded, clip)
    held = []
    for share in (0.1, 0.15, 0.25, 0.35):
        session.ask(QUESTIONS[0], config=SeatsConfig(retain=share), max_new_tokens=1)
        held.append(len(session._prefixes))
    assert held == [1, 2, 2, 2]


def test_what_is_held_is_bounded(loaded: AskableModel, clip: Clip) -> None:
    """The latest settings stay; one that is larger alone is answered, and said to be forgotten."""
    few, many = SeatsConfig(retain=0.1), SeatsConfig(retain=0.35)

    def asked(session: ClipSession, *configs: SeatsConfig | None) -> list[Answer]:
        return [
            session.ask(text, config=config, max_new_tokens=3)
            for text, config in zip(QUESTIONS, configs, strict=False)
        ]

    free = ClipSession(loaded, clip)
    features = free.bytes
    assert features >= sum(part.nbytes for part in tensors_of(free._prepared.features))
    sizes = []
    for config in (few, many, None):
        asked(free, config)
        sizes.append(free.bytes)
    assert features < sizes[0] < sizes[1] < sizes[2]
    # 1. Room for all but the oldest.
    session = ClipSession(loaded, clip, max_bytes=sizes[2] - 1)
    asked(session, few, many, None)
    assert session.bytes < sizes[2]
    assert [prefix.plan.config.retain for _, prefix in session._prefixes.prefixes()] == [0.35, None]
    # 2. Room for the features and encodings, and for less than any setting.
    while session._prefixes.forget():
        pass
    encoded = session.bytes
    session = ClipSession(loaded, clip, max_bytes=encoded)
    answers = asked(session, few, few)
    assert not len(session._prefixes)
    assert session.bytes == encoded > features
    assert all("prefill the clip again" in answer.warnings[-1] for answer in answers)
    # 3. None.
    session = ClipSession(loaded, clip, max_bytes=0)
    poor = asked(session, few, few)
    assert session.bytes == features
    assert all("encode and prefill it again" in answer.warnings[-1] for answer in poor)
    alone = [ask(loaded, clip, text, config=few, max_new_tokens=3) for text in QUESTIONS[:2]]
    assert list(map(facts, alone)) == list(map(facts, answers)) == list(map(facts, poor))
    assert not any(answer.warnings for answer in alone)
    with pytest.raises(UsageError, match="max_bytes"):
        ClipSession(loaded, clip, max_bytes=-1)


def test_encodings_are_bounded_by_number(loaded: AskableModel, clip: Clip) -> None:
    session = ClipSession(loaded, clip)
    for window in (1, 2, 3, 4, 5, 1):
        session.ask(QUESTIONS[0], config=SeatsConfig(video_window=window), max_new_tokens=1)
    kept = [known.window for known in session._encoders.encodings("video")]
    assert kept == [3, 4, 5, 1]


class FirstOf(EveryNth):
    """Made by hand, with an offset that its plan does not know."""

    shares = "entry"


def test_methods_made_by_hand_share_no_states(loaded: AskableModel, clip: Clip) -> None:
    """Of one class and one plan, they keep other tokens: no answer may be another one's."""
    session, config = ClipSession(loaded, clip), SeatsConfig(method="full")
    kept = []
    for offset in (0, 5, 0):
        given = {"config": config, "max_new_tokens": 2, "method": partial(FirstOf, offset=offset)}
        found = facts(session.ask(QUESTIONS[0], **given))
        assert found == facts(ask(loaded, clip, QUESTIONS[0], **given))
        kept.append(found[2][0])
    assert kept[0] == kept[2] != kept[1]
    assert not len(session._prefixes)  # nor is one of them saved under a name
