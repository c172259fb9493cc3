"""Every question of a set with every configuration; what a clip's questions share is shared."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.memory_stats import free_memory
from seats_cli.errors import ConfigError, SeatsError, out_of_memory_on
from seats_cli.evaluate.distributed import Shard
from seats_cli.evaluate.questions import EvalProtocol, Item, QuestionSet, open_clip
from seats_cli.evaluate.run_folder import COSTS, TIMES, ItemRecord
from seats_cli.evaluate.scoring import options_for, prompt_for, score
from seats_cli.models import PreparedClip, need_of, prepare_clip
from seats_cli.selection.methods.ablation import Ablation

if TYPE_CHECKING:
    from seats_cli.cost.context import Need
    from seats_cli.models import LoadedModel
    from seats_cli.results import Answer, RunSpec


MAX_SEED = 2**31


def evaluate(
    loaded: LoadedModel,
    questions: QuestionSet,
    specs: Sequence[RunSpec],
    *,
    done: Collection[ItemRecord],
    store: Callable[[ItemRecord], None],
    seed: int = 0,
    shard: Shard | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Ask what has not been asked yet and hand each answer on at once.

    A budget that a method cannot reach on a clip is refused before the LLM runs. Such a setting is
    not asked any further from there on, since rows over different questions do not compare; all
    that stand before its first refusal are asked, in every process, so that the first one of the
    whole set does not depend on their number: see `refusals`.

    Parameters
    ----------
    specs : sequence of RunSpec
        Labels must differ; the unpruned model is one whose config is None.
    done : collection of ItemRecord
        Of an earlier run: what they answer is skipped, and what follows a refusal.
    store : callable
        Receives each record as soon as it is there. An item that fails is recorded with its
        error, and the run continues; a refusal is recorded as one.
    seed : int
        Methods that draw at random do so with a seed made of this and the item's id.
    shard : Shard, optional
        Only these clips.
    on_progress : callable, optional
        Called after each record with the number of answers that are not to be waited for any more:
        one, and after a refusal those that will not be asked for, too.
    """
    part = shard or Shard()
    places = {item.id: place for place, item in enumerate(questions.items)}
    waiting = places_to_ask(questions, specs, done, part)
    # The unpruned model comes last: it can use statistics noted for others, not the reverse.
    ordered = sorted(specs, key=lambda spec: spec.config is None)
    for number, (_, items) in enumerate(questions.clips()):
        if not part.has(number):
            continue
        missing = [
            (item, spec)
            for spec in ordered
            for item in items
            if places[item.id] in waiting[spec.label]
        ]
        if not missing:
            continue
        # The clip is as large whichever of its questions and settings are left to be asked.
        need = need_of(
            loaded,
            [prompt_for(item, questions.protocol) for item in items],
            [spec.config for spec in specs],
            questions.protocol.max_new_tokens,
            [choice for item in items for choice in options_for(item, questions.protocol)],
            questions.protocol.system,
        )
        for record in _clip_records(loaded, questions.protocol, missing, seed, need):
            store(record)
            place, left = places[record.item_id], waiting[record.label]
            settled = {one for one in left if one > place} if record.refused else set()
            settled.add(place)
            left -= settled
            if on_progress is not None:
                on_progress(len(settled))


def places_to_ask(
    questions: QuestionSet,
    specs: Sequence[RunSpec],
    done: Collection[ItemRecord],
    shard: Shard,
) -> dict[str, set[int]]:
    """Of each setting, by label, the places in the set of what is to be asked of a part's clips."""
    places = {item.id: place for place, item in enumerate(questions.items)}
    clips = enumerate(questions.clips())
    mine = {places[one.id] for number, (_, items) in clips if shard.has(number) for one in items}
    waiting = {spec.label: set(mine) for spec in specs}
    for record in done:
        if record.label in waiting and record.item_id in places:
            waiting[record.label].discard(places[record.item_id])
    for label, refused in refusals(questions, done).items():
        if label in waiting:
            waiting[label] -= {one for one in mine if one > places[refused.item_id]}
    return waiting


def refusals(questions: QuestionSet, records: Iterable[ItemRecord]) -> dict[str, ItemRecord]:
    """Of each setting that refused one of the questions, by label, the first one in their order."""
    places = {item.id: place for place, item in enumerate(questions.items)}
    refused = [one for one in records if one.refused and one.item_id in places]
    refused.sort(key=lambda one: places[one.item_id], reverse=True)
    return {one.label: one for one in refused}  # of several, the last entry stays


def _clip_records(
    loaded: LoadedModel,
    protocol: EvalProtocol,
    missing: Sequence[tuple[Item, RunSpec]],
    seed: int,
    need: Need,
) -> Iterator[ItemRecord]:
    """A record of each pair, all about one clip; none of what follows a spec's refusal."""
    try:
        clip = open_clip(missing[0][0], protocol, loaded.sizing, (loaded.architecture, need))
        prepared = prepare_clip(loaded, clip, system=protocol.system)
    except Exception as error:  # one bad clip must not end the run
        why = _reason(error)
        for item, spec in missing:
            yield replace(_blank(item, spec), error=why)
        return
    encoder_cache = EncoderCache()
    asked = Counter(spec.label for _, spec in missing)
    # Of one setting: they come one after the other. A single question leaves nothing behind.
    shared: dict[str, PrefixStore | None] = {}
    refused: set[str] = set()
    for item, spec in missing:
        if spec.label in refused:
            continue
        # A further question is answered as if alone, but its times are not those of that.
        alone = spec.label not in shared
        if alone:
            several = asked[spec.label] > 1
            shared = {spec.label: PrefixStore(prepared) if several else None}
        try:
            answer = _answer(
                loaded, prepared, item, spec, protocol, seed, encoder_cache, shared[spec.label]
            )
            record = _record(item, spec, answer, timed=alone)
        except ConfigError as error:
            # Nothing was allocated, and collecting would take a while.
            record = replace(_blank(item, spec), error=_reason(error), refused=True)
            refused.add(spec.label)
        except Exception as error:
            record = replace(_blank(item, spec), error=_reason(error))
            free_memory([loaded.model.device])
        yield record


def _answer(
    loaded: LoadedModel,
    clip: PreparedClip,
    item: Item,
    spec: RunSpec,
    protocol: EvalProtocol,
    seed: int,
    encoder_cache: EncoderCache,
    prefixes: PrefixStore | None,
) -> Answer:
    return ask(
        loaded,
        clip,
        prompt_for(item, protocol),
        config=spec.config,
        max_new_tokens=protocol.max_new_tokens,
        seed=zlib.crc32(f"{seed}:{item.id}".encode()) % MAX_SEED,
        choices=options_for(item, protocol),
        encoder_cache=encoder_cache,
        prefixes=prefixes,
        method=None if spec.blind is None else partial(Ablation, ablation=spec.blind),
        evidence=False,  # nobody sees it, and times are those of the model's work
    )


def _blank(item: Item, spec: RunSpec) -> ItemRecord:
    return ItemRecord(
        item_id=item.id,
        clip_key=item.clip_key,
        label=spec.label,
        method=spec.method,
        retain=spec.retain,
        expected=item.answer,
        family=item.family,
        kind=item.kind,
    )


def _record(item: Item, spec: RunSpec, answer: Answer, *, timed: bool) -> ItemRecord:
    """The answer, scored, with what it took; seconds only if all of its work was done for it."""
    verdict = score(item, answer.text)
    alive = answer.trace.alive_per_layer()
    video, audio, _ = answer.trace.offered
    seconds: dict[str, Any] = {}
    if timed:
        seconds = {name: getattr(answer.timing, name) for name in TIMES}
        # The first setting encodes the clip for all of them, which must not make it look slower.
        for name in ("first_token_s", "total_s"):
            seconds[name] -= answer.timing.vision_s + answer.timing.audio_s
    return replace(
        _blank(item, spec),
        given=answer.text,
        thinking=answer.thinking,
        answer_tokens=len(answer.token_ids),
        cut_off=answer.cut_off,
        warnings=answer.warnings,
        correct=verdict.correct,
        unparsed=verdict.unparsed,
        video_tokens=sum(counts[0] for counts in alive) / len(alive),
        audio_tokens=sum(counts[1] for counts in alive) / len(alive),
        offered_video_tokens=video,
        offered_audio_tokens=audio,
        average_retention=answer.trace.average_retention()[2],
        **{name: getattr(answer.cost, name) for name in COSTS},
        **seconds,
    )


def _reason(error: Exception) -> str:
    """One line about what went wrong."""
    if isinstance(error, SeatsError):
        return str(error)
    place = out_of_memory_on(error)
    if place is not None:
        return f"Out of memory on the {place}."
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
