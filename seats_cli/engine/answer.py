"""One question about one clip: inputs, pruned prefill, answer, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.config import FULL, SeatsConfig
from seats_cli.cost.context import ContextUse, context_use
from seats_cli.cost.token_counts import token_counts
from seats_cli.engine.accounting import OwnWork, account
from seats_cli.engine.evidence import EvidenceReader
from seats_cli.engine.generate import Stream, generate, opened_in, refuse_nan, score_choices
from seats_cli.engine.graph_decode import Decoding
from seats_cli.engine.memory_stats import peak_gpu_bytes, peak_host_bytes
from seats_cli.engine.prune import PrunedRun, method_on, prune
from seats_cli.engine.stop_strings import Cut, check_stop, cut_at
from seats_cli.engine.thinking import ThoughtSplitter, split_thoughts
from seats_cli.engine.timing import Clock
from seats_cli.errors import ResourceError, UsageError
from seats_cli.families.generation import USUAL, Sampling
from seats_cli.models.adapter import devices_of
from seats_cli.models.inputs import PreparedClip, build_inputs, longest_answer, sizes_of_clip
from seats_cli.models.optimize import Part, RunSwaps, installed
from seats_cli.models.patching import hooked
from seats_cli.results import Answer, ChoiceScore, Timing, Turn
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import acting_config, with_default_options
from seats_cli.selection.trace import SelectionTrace

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.engine.clip_prefix import PrefixStore
    from seats_cli.engine.encoder_cache import EncoderCache
    from seats_cli.media.clip import Clip
    from seats_cli.models.adapter import Adapter
    from seats_cli.models.load import LoadedModel
    from seats_cli.selection.method import Method


def ask(
    loaded: LoadedModel,
    clip: Clip | PreparedClip,
    question: str | None,
    *,
    config: SeatsConfig | None,
    system: str | None = None,
    history: Sequence[Turn] = (),
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    choices: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    on_thinking: Callable[[str], None] | None = None,
    on_token: Callable[[], None] | None = None,
    read_s: float = 0.0,
    min_new_tokens: int = 0,
    clock: Clock | None = None,
    on_logits: Callable[[torch.Tensor], None] | None = None,
    encoder_cache: EncoderCache | None = None,
    prefixes: PrefixStore | None = None,
    method: Callable[[PruningPlan], Method] | None = None,
    evidence: bool = True,
) -> Answer:
    """Answer a question about a clip.

    Parameters
    ----------
    clip : Clip or PreparedClip
        Prepared by `prepare_clip`, where several questions are asked about it.
    question : str or None
        None asks nothing: for checkpoints that describe what they are given (Qwen3-Omni's
        Captioner), for which it may be empty as well.
    config : SeatsConfig or None
        What to keep; None runs the model unpruned.
    system : str or None
        System turn in place of the chat template's own, "" for an empty one. A prepared clip has
        it from `prepare_clip`.
    history : sequence of Turn
        Earlier questions about the clip and their answers, which the prompt repeats as the chat
        template has them in a conversation. They stand behind the clip, so that Stage I is the
        same as without, and all of them count as the question where a method averages over its
        tokens (`Method.query_tokens`): what "And then?" means is only said before it.
    max_new_tokens : int or None
        Longest answer in tokens, reasoning included. None for what the checkpoint asks for, as far
        as the context leaves room, else 128.
    temperature, top_p, top_k : float or None, int or None
        Sampling; temperature 0 is greedy, top_k 0 draws from all tokens. None for what the
        checkpoint's generation_config asks for, else greedy.
    seed : int
        Seed of sampling and, in place of `config.seed`, of methods that draw at random.
    stop : sequence of str
        The answer ends in front of the first of these strings in it; reasoning is not searched.
        They have no meaning for `choices`.
    choices : sequence of str
        If given, the options are scored by likelihood instead of generating freely. A model that
        thinks does so first.
    on_text : callable, optional
        Receives pieces of the answer as they are generated.
    on_thinking : callable, optional
        The same for what a model reasons before it answers.
    on_token : callable, optional
        Is called for every token of both, also where none makes a piece of text yet, and where a
        captured graph runs no hooks. What it raises ends the answer there.
    read_s : float
        Seconds that reading the clip took, for the report.
    min_new_tokens : int
        The answer does not end before this many tokens, so that runs can be compared.
    clock : Clock, optional
        Measures the stages; a new one by default. It must know the model's devices.
    on_logits : callable, optional
        Receives what the LM head gives at every step, shape (1, 1, V).
    encoder_cache : EncoderCache, optional
        Of this clip: it is encoded once for all questions that share it. The timing of later ones
        then has no encoders in it.
    prefixes : PrefixStore, optional
        Of this clip: what its questions share inside the LLM is worked out once. A `ClipSession`
        has both.
    method : callable, optional
        Makes the method from the plan, in place of the one that the configuration names. Its
        states are not shared: only a name (`register_method`) says that it is the same one again.
    evidence : bool
        Whether to find what the answer rests on in time; nothing else changes without.

    Raises
    ------
    UsageError
        For an empty question or impossible settings.
    ResourceError
        If the history, or what enters the LLM after pruning does not fit the model's context.
    ModelError
        If the model lacks the weights of a trained method, or its output is not a number.
    """
    # 1. The plan and the inputs; nothing has been computed if one of them is impossible.
    clock = clock or Clock(devices_of(loaded.model))
    start = clock.now()
    sampling = loaded.sampling.with_given(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k
    )
    _check_choices(choices)
    check_stop(stop)
    adapter, architecture = loaded.adapter, loaded.architecture
    plan, idle = None, tuple[str, ...]()
    if config is not None:
        config = replace(config, seed=seed)
        if method is None:
            idle = tuple(config.idle_warnings())
        config = acting_config(config) if method is None else with_default_options(config)
        plan = PruningPlan.resolve(config, architecture)
    media = clip.clip if isinstance(clip, PreparedClip) else clip
    # What drops nothing before the LLM may go beyond the context, with a warning; what does has to
    # fit. Sizes are known before minutes are spent on features.
    made = None if plan is None else method_on(adapter, plan, method)
    chosen = made if plan is not None and plan.prunes else None
    early = chosen is not None and chosen.drops_before_llm
    use = partial(
        context_use,
        architecture,
        fps=media.fps,
        answer=longest_answer(loaded, max_new_tokens, choices),
        entering=token_counts if chosen is None else chosen.entering,
    )
    if isinstance(clip, PreparedClip):
        sizes = adapter.media_sizes(clip.features)
    else:
        sizes = sizes_of_clip(architecture, media)
    _check_context(use(sizes=sizes, text=0), early)
    inputs = build_inputs(loaded, clip, question, system=system, history=history)
    prepared = clock.now()
    sizes = adapter.media_sizes(inputs)
    text_tokens = inputs["input_ids"].shape[1] - sum(token_counts(architecture, sizes))
    context = use(sizes=sizes, text=text_tokens)
    if max_new_tokens is None:
        sampling = fitted_length(sampling, sum(context.entering), architecture.max_positions)
        context = replace(context, answer=longest_answer(loaded, sampling.max_new_tokens, choices))
    _check_context(context, early, turns=bool(history))

    # 2. What this run swaps (`models.optimize.SWAPS`), pruned or not.
    decoding = Decoding(adapter, sampling.max_new_tokens)
    parts: dict[str, Part] = {
        "timing": partial(clock.watch, adapter),
        "lm_head": lambda: hooked(lm_head_hooks(adapter, on_logits)),
    }
    if not choices:
        parts["decoding"] = decoding.attach
    run, swaps = None, RunSwaps(adapter, pruned=False, speedups=loaded.speedups)
    running = plan
    if method is not None:  # two of one class and one plan may have been made with other settings
        prefixes = None
    if plan is None and prefixes is not None:  # hooks that keep everything can share it, too
        running = PruningPlan.resolve(SeatsConfig(method=FULL), architecture)
    if running is not None:
        run = prune(
            loaded.model,
            running,
            clock=clock,
            encoder_cache=encoder_cache,
            prefixes=prefixes,
            method=None if made is None else lambda _plan: made,
            optimize=loaded.speedups,
        )
        swaps = run.swaps
    elif encoder_cache is not None:
        parts["encoder_cache"] = partial(encoder_cache.attach, adapter, None)

    reader = EvidenceReader(adapter, running)
    if evidence:
        parts["evidence"] = lambda: hooked(reader.hooks())

    # 3. The answer.
    tokenizer = loaded.processor.tokenizer
    opened = opened_in(tokenizer, inputs["input_ids"])
    tell = Cut(stop, on_text) if stop and on_text is not None else on_text
    splitter = ThoughtSplitter(
        None if choices else tell, on_thinking, opened=opened, wait=loaded.thinks
    )
    stream = Stream(tokenizer, clock, splitter, on_token)
    scores: tuple[ChoiceScore, ...] = ()
    token_ids: tuple[int, ...] = ()
    with torch.inference_mode(), installed(replace(swaps, parts={**swaps.parts, **parts})):
        seed_everything(seed, clock.devices)  # here, where no other thread draws
        if run is not None:
            inputs = run.without_clip(inputs, clip)
        if choices:
            scores, token_ids, cut = score_choices(loaded, inputs, choices, stream, sampling)
            text, finish = max(scores, key=lambda score: score.probability).text, "stop"
            thinking = splitter.thinking
        else:
            whole, token_ids, finish = generate(
                loaded, inputs, stream, sampling, min_new_tokens, stop
            )
            found = split_thoughts(whole, opened=opened)
            text, thinking = cut_at(found.answer, stop)[0].rstrip(), found.thinking
            cut = found.inside and finish == "length"
        if isinstance(tell, Cut):
            tell.finish()
        end = clock.now()
        first = stream.first_token_at or end
        trace = _trace(None if plan is None else run, adapter, inputs)
    if choices and on_text is not None:
        on_text(text)

    # 4. What it cost.
    own = None
    if encoder_cache is not None:
        encoded = encoder_cache.encoded
        own = OwnWork(frozenset(encoded), None) if run is None else run.own_work(encoded)
    timing = Timing(
        load_s=loaded.load_s,
        read_s=read_s,
        preprocess_s=prepared - start,
        vision_s=clock.seconds["vision"],
        audio_s=clock.seconds["audio"],
        select_s=clock.seconds["select"],
        prefill_s=clock.seconds["prefill"],
        first_token_s=first - start,
        decode_s=end - first,
        decode_tokens=max(len(token_ids) - 1, 0),
        total_s=end - start + read_s,
        decoding="" if choices and not token_ids else decoding.how,
    )
    return Answer(
        question=question or "",
        text=text,
        token_ids=token_ids,
        finish_reason=finish,
        media=media.facts,
        effective_fps=media.fps,
        model=loaded.facts,
        architecture=architecture,
        config=config,
        plan=plan,
        trace=trace,
        timing=timing,
        cost=account(
            architecture,
            trace,
            sizes,
            method=None if run is None or plan is None else run.method,
            decode_steps=max(len(token_ids) - 1, 0),
            bytes_per_value=loaded.model.dtype.itemsize,
            peak_host_bytes=peak_host_bytes(),
            peak_gpu_bytes=peak_gpu_bytes(clock.devices or devices_of(loaded.model)),
            still=None if run is None else run.still,
            carried=None if run is None else run.carried,
            evidence_flops=reader.flops(trace),
            own=own,
        ),
        seed=seed,
        choices=scores,
        warnings=(
            *media.warnings,
            *context.warnings(),
            *idle,
            *_remarks(sampling, splitter, bool(choices), cut=cut),
        ),
        system=clip.system if isinstance(clip, PreparedClip) else system,
        thinking=thinking,
        sampling=sampling,
        context=context,
        history=tuple(history),
        evidence=reader.evidence(trace, media.facts, media.fps) if evidence else (),
    )


def _remarks(
    sampling: Sampling, splitter: ThoughtSplitter, choices: bool, *, cut: bool
) -> Iterator[str]:
    """What a user must know of how the reasoning went."""
    limit = f"{sampling.max_new_tokens:,} tokens"
    if cut and choices:
        yield (
            f"The model was still thinking at {limit}, where it was stopped and the options were "
            "compared: a larger `max_new_tokens` lets it come to an end."
        )
    elif cut:
        yield (
            f"The model was still thinking when its length of {limit} ended, so there is no "
            "answer: a larger `max_new_tokens` gives it room, and so does a clip of fewer tokens "
            "(`max_frames`, `max_pixels`) where the context is full."
        )
    elif splitter.inside and not choices:
        yield "The model ended its turn while it was still thinking, so there is no answer."
    if splitter.mistaken:
        yield (
            "What the model wrote before </think> proved to be thinking after it had been handed "
            "on as the answer; the complete answer is without it."
        )


def fitted_length(sampling: Sampling, prompt: int, limit: int) -> Sampling:
    """A checkpoint's own length, as far as the context leaves room: at least the usual 128."""
    own = sampling.max_new_tokens
    least = min(own, USUAL.max_new_tokens)
    return replace(sampling, max_new_tokens=max(min(own, limit - prompt), least))


def seed_everything(seed: int, devices: Sequence[torch.device]) -> None:
    """Seed what draws; `torch.manual_seed` takes longer than a small layer for all backends."""
    if {device.type for device in devices} == {"cpu"}:
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _check_choices(choices: Sequence[str]) -> None:
    if choices and (len(set(choices)) < 2 or not all(choice.strip() for choice in choices)):
        raise UsageError("`choices` needs at least two different, non-empty options.")


def _check_context(use: ContextUse, early: bool, *, turns: bool = False) -> None:
    """Refuse what does not fit although tokens were dropped before the LLM, or without any clip."""
    alone = use.entering[2] + use.answer > use.limit
    if alone or (early and not use.fits):
        raise ResourceError(use.refusal(turns=turns))


def lm_head_hooks(
    adapter: Adapter, on_logits: Callable[[torch.Tensor], None] | None
) -> Iterator[RemovableHandle]:
    """Run the LM head on the last position only, check what it gives, and hand it on."""
    head = adapter.lm_head
    yield head.register_forward_pre_hook(_last_position)
    yield head.register_forward_hook(refuse_nan)
    if on_logits is not None:
        yield head.register_forward_hook(lambda _module, _args, output: on_logits(output))


def _last_position(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    # Trap 10. A batch is that of multiple choice, which needs the scores of all its positions.
    hidden = args[0]
    return (hidden[:, -1:],) if len(hidden) == 1 else None


def _trace(run: PrunedRun | None, adapter: Adapter, inputs: dict[str, Any]) -> SelectionTrace:
    """The run's trace; of an unpruned run, one without stages."""
    if run is not None:
        return run.trace
    ids = inputs["input_ids"][0].cpu()
    return SelectionTrace(
        len(adapter.layers), ids == adapter.video_token_id, ids == adapter.audio_token_id
    )
