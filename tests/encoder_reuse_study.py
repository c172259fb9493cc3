"""What settings of the vision encoder save and cost: the tables of docs/stage0.md.

    python -m tests.encoder_reuse_study --limit 600 --seed 58 > study.md

A setting is written like the labels of `seats eval`, "still 4 reuse 0.99" or "keep 35%", and may
end in "from block 1", which no option offers. Unlike `seats eval` this is about the vision encoder
alone: its FLOPs, without the sound's, and the share of units that pass all of its blocks. Still
clips ("moment": a still picture around a few seconds) are told from those that move all along.

A clip is read once, encoded once for each setting, and prefilled once for each setting and budget.
Settings that let the same units follow the same others give the same features, and are asked once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import seats_cli.engine.prune as engine
from seats_cli.config import FULL, SeatsConfig
from seats_cli.cost.flops import vision_flops
from seats_cli.engine.answer import ask
from seats_cli.engine.clip_prefix import PrefixStore
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import EvalProtocol, Item, open_clip
from seats_cli.evaluate.scoring import options_for, prompt_for, score
from seats_cli.evaluate.statistics import ClipBootstrap
from seats_cli.models import LoadedModel, PreparedClip, load_model, need_of, prepare_clip
from seats_cli.selection.alike_units import Likeness

OFF = "off"
MAIN = (
    *("still 4", "still 4 reuse 0.99", "still 4 reuse 0.98"),
    *("reuse 0.99", "reuse 0.985", "reuse 0.98", "reuse 0.97"),
)
_SETTING = re.compile(
    r"(?:still (?P<still>[\d.]+))? ?(?:reuse (?P<reuse>[\d.]+))? ?(?:keep (?P<keep>[\d.]+)%)?"
    r"(?: from block (?P<start>\d+))?"
)


@dataclass(frozen=True)
class Setting:
    """What the vision encoder leaves out, and from which of its blocks on."""

    label: str
    config: SeatsConfig
    start: int | None = None

    @classmethod
    def parse(cls, label: str) -> Setting:
        """From a label; `argparse` reports a ValueError."""
        given = _SETTING.fullmatch(label)
        if given is None or not any(given.group("still", "reuse", "keep")):
            raise ValueError(label)
        still, reuse, keep, start = given.group("still", "reuse", "keep", "start")
        if start is not None and reuse is keep is None:
            raise ValueError(label)  # Stage 0 alone has no start block
        config = SeatsConfig(
            method=FULL,
            still_tolerance=None if still is None else float(still),
            encoder_reuse=None if reuse is None else float(reuse),
            encoder_keep=None if keep is None else float(keep) / 100,
        )
        return cls(label, config, None if start is None else int(start))

    @property
    def likeness(self) -> Likeness | None:
        """The criterion of encoder reuse; None for Stage 0 alone."""
        if not self.config.reuses_states:
            return None
        return Likeness(self.config.encoder_reuse, self.config.encoder_keep, start=self.start)


@dataclass(frozen=True)
class Encoded:
    """What one setting makes of a clip."""

    clip: str
    still: bool  # a "moment"
    units: int
    carried: int
    flops: float  # of the vision encoder on everything
    saved: float


@dataclass(frozen=True)
class Asked:
    """One question with one setting and budget."""

    clip: str
    item: str
    still: bool
    right: bool


Answers = dict[tuple[str, float | None], list[Asked]]  # by label and budget


def encoded(
    loaded: LoadedModel, key: str, still: bool, features: dict[str, Any], setting: Setting | None
) -> tuple[Encoded, tuple[Any, ...]]:
    """Encode the pictures of a clip; also what the features depend on."""
    grids = features["video_grid_thw"]
    units = int(grids.prod(1).sum()) // loaded.adapter.merge_unit
    whole = float(vision_flops(loaded.architecture.vision, grids.tolist()))
    plain = Encoded(key, still, units, units, whole, 0.0)
    if setting is None:
        return plain, ()
    reuse = EncoderReuse(loaded.adapter, setting.config.still_tolerance, setting.likeness)
    with reuse.attach(), torch.no_grad():
        loaded.adapter.visual(features["pixel_values_videos"], grid_thw=grids)
    calls = [reuse.call_facts] if reuse.call_facts is not None else []
    reuse.finish(calls)
    saved = sum(facts.saved_flops for facts in (reuse.facts, reuse.carried_facts) if facts)
    sources = reuse.sources()
    carried = units if sources is None else len(set(sources.tolist()))
    before = None if reuse.packing is None else reuse.packing.chosen[reuse.packing.place]
    depends: list[Any] = [_bytes(before), reuse.approximates if sources is not None else False]
    if _bytes(sources) != _bytes(before):
        depends += [setting.start, _bytes(sources)]
    return replace(plain, carried=carried, saved=saved), tuple(depends) if any(depends) else ()


def _bytes(sources: Tensor | None) -> bytes:
    return b"" if sources is None else sources.numpy().tobytes()


def answers(
    loaded: LoadedModel,
    clip: PreparedClip,
    items: Sequence[Item],
    protocol: EvalProtocol,
    setting: Setting | None,
    budgets: Sequence[float | None],
) -> Iterator[tuple[float | None, Item, bool]]:
    """Ask everything about a clip, with one setting and every budget."""
    cache, prefixes = EncoderCache(), PrefixStore(clip)
    start = None if setting is None else setting.start
    with patch.object(engine, "Likeness", partial(Likeness, start=start)):
        # The statistics that are noted for a pruned run do for an unpruned one, not the reverse.
        for budget in sorted(budgets, key=lambda share: share is None):
            config = SeatsConfig(method=FULL) if setting is None else setting.config
            if budget is not None:
                config = replace(config, method="seats", retain=budget)
            for item in items:
                found = ask(
                    loaded,
                    clip,
                    prompt_for(item, protocol),
                    config=None if config == SeatsConfig(method=FULL) else config,
                    max_new_tokens=protocol.max_new_tokens,
                    choices=options_for(item, protocol),
                    encoder_cache=cache,
                    prefixes=prefixes,
                    evidence=False,
                )
                yield budget, item, score(item, found.text).correct


def study(
    settings: Sequence[Setting], budgets: Sequence[float | None], limit: int, seed: int
) -> tuple[dict[str, list[Encoded]], Answers]:
    """Every setting and budget on the bundled questions of a seed."""
    loaded, questions = load_model("bundled", device="cpu"), synthetic_set(limit, seed=seed)
    protocol = questions.protocol
    encodings: dict[str, list[Encoded]] = {}
    asked: Answers = {}
    for key, items in questions.clips():
        prompts = [prompt_for(item, protocol) for item in items]
        choices = [choice for item in items for choice in options_for(item, protocol)]
        need = need_of(loaded, prompts, [None], protocol.max_new_tokens, choices, protocol.system)
        clip = open_clip(items[0], protocol, loaded.sizing, (loaded.architecture, need))
        prepared = prepare_clip(loaded, clip, system=protocol.system)
        still = items[0].kind == "moment"
        known: dict[tuple[Any, ...], list[tuple[float | None, Item, bool]]] = {}
        for setting in (None, *settings):
            label = OFF if setting is None else setting.label
            one, depends = encoded(loaded, key, still, prepared.features, setting)
            encodings.setdefault(label, []).append(one)
            if depends not in known:
                found = answers(loaded, prepared, items, protocol, setting, budgets)
                known[depends] = list(found)
            for budget, item, right in known[depends]:
                record = Asked(key, item.id, still, right)
                asked.setdefault((label, budget), []).append(record)
        sys.stderr.write(f"\r{len(asked[OFF, budgets[0]])} of {limit} questions ")
    sys.stderr.write("\n")
    return encodings, asked


def savings_table(encodings: dict[str, list[Encoded]]) -> Iterator[str]:
    """Units carried and the vision encoder's FLOPs saved, in Markdown."""
    yield "| setting | carried: still | moving | all | vision FLOPs saved: still | moving | all |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for label, clips in encodings.items():
        parts = [[one for one in clips if one.still is still] for still in (True, False)]
        cells = [
            f"{sum(one.carried for one in part) / sum(one.units for one in part):.0%}"
            for part in (*parts, clips)
            if part
        ]
        cells += [
            f"{sum(one.saved for one in part) / sum(one.flops for one in part):.0%}"
            for part in (*parts, clips)
            if part
        ]
        yield f"| {label} | {' | '.join(cells).replace('%', ' %')} |"


def accuracy_table(asked: Answers) -> Iterator[str]:
    """Right answers, and the difference to the same budget without, in Markdown."""
    yield "| budget | setting | right: still | moving | lost, won | points |"
    yield "|---|---|---:|---:|---:|---:|"
    for (label, budget), found in sorted(asked.items(), key=lambda one: -(one[0][1] or 1.0)):
        mine = np.array([one.right for one in found])
        before = np.array([one.right for one in asked[OFF, budget]])
        still = np.array([one.still for one in found])
        parts = [mine[part] for part in (still, ~still)]
        right = [f"{100 * part.mean():.1f} %" if len(part) else "-" for part in parts]
        cells = ["", ""]
        if label != OFF:
            clips = ClipBootstrap([one.clip for one in found])
            points = clips.difference(mine, before, np.ones(len(mine), dtype=bool))
            assert points is not None
            cells[0] = f"{(before & ~mine).sum()}, {(mine & ~before).sum()}"
            cells[1] = f"{100 * points.low:.1f} to {100 * points.high:.1f}"
        name = "unpruned" if budget is None else f"{budget:.0%}".replace("%", " %")
        yield f"| {name} | {label} | {' | '.join((*right, *cells))} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=600, help="questions")
    parser.add_argument("--seed", type=int, default=58, help="of the set")
    parser.add_argument("--retain", type=float, nargs="*", default=[0.25, 0.1])
    parser.add_argument("--settings", type=Setting.parse, nargs="+", default=MAIN)
    options = parser.parse_args()
    settings = [one if isinstance(one, Setting) else Setting.parse(one) for one in options.settings]
    encodings, asked = study(settings, (None, *options.retain), options.limit, options.seed)
    for line in (*savings_table(encodings), "", *accuracy_table(asked)):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
