"""Encoder reuse: which merge units an encoder has come to see as alike, by their hidden states.

Pixels differ by noise, light and compression where nothing has happened; after the first blocks of
an encoder the states of such a unit are nearly those that it had before. What is alike is followed,
and the rest is packed, as for Stage 0 (`seats_cli.selection.static_regions`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.selection.static_regions import StillMap

# Grids that are compared with each other at once. The products of all pairs of a place are cheap,
# and leave one wait for the device instead of one for each grid, but grow with the square.
STRETCH = 256
_TRIED = 33  # thresholds that are tried at once to meet a share
_ROUNDS = 3  # of trying; the step of the last is a 32,768th of the pairs seen


@dataclass(frozen=True)
class Likeness:
    """When a unit follows an earlier one: above a cosine, and as many as leave a share.

    With both, whichever carries less. Where to start was measured in docs/stage0.md.
    """

    threshold: float | None = None  # cosine; at 1 nothing is alike
    share: float | None = None  # of each clip's units: carried at most, its first grid in any case
    start: int | None = None  # blocks that run on all units; None: `start_block`


@dataclass(frozen=True)
class CarriedFacts:
    """What of a prompt's frames encoder reuse carried through all blocks of the vision encoder.

    Tokens are those of the prompt.
    """

    threshold: float | None  # cosine that was asked for
    share: float | None  # most of the tokens that were to be carried
    start_block: int  # blocks that run on all that Stage 0 leaves
    blocks: int
    tokens: int
    compared_tokens: int  # those that Stage 0 leaves: all of them without it
    carried_tokens: int
    saved_flops: float  # less what the comparison takes


def start_block(depth: int) -> int:
    """Blocks that run on all units: a quarter of them, and two at least.

    States that come out of the first block do not yet tell what matters from what does not.
    """
    return min(max(2, -(-depth // 4)), depth - 1)


def alike_map(states: Tensor, before: StillMap, likeness: Likeness) -> StillMap:
    """Let units follow the last carried unit of their place whose states are alike.

    The reference is the unit that was last carried at that place, not the previous grid, so that
    slow changes are noticed once they have added up.

    Parameters
    ----------
    states : Tensor, shape (n, d)
        Of every unit, in the order of the prompt; those that Stage 0 left out have the states of
        the unit that they follow.
    before : StillMap
        What is there: every unit its own source, or what Stage 0 has found.
    likeness : Likeness

    Returns
    -------
    StillMap
        On the CPU. Units that were left out before follow whatever their unit follows.
    """
    source = torch.arange(len(states))
    there = before.source.cpu()
    encoded = there == source
    done = 0
    for times, rows, columns in before.grids:
        size = rows * columns
        clip = slice(done, done + times * size)
        found = _clip_sources(
            states[clip].view(times, size, -1),
            encoded[clip].view(times, size),
            likeness,
        )
        source[clip] = found.flatten() + done
        done += times * size
    return StillMap(source[there], before.grids)


def pairs_compared(times: int) -> int:
    """Products of two units' states that are worked out for each place of a clip."""
    sizes = [len(stretch) + (stretch.start > 0) for stretch in _stretches(times)]
    return sum(size**2 for size in sizes if size > 1)


def _stretches(times: int) -> Iterator[range]:
    for start in range(0, times, STRETCH):
        yield range(start, min(start + STRETCH, times))


def _clip_sources(states: Tensor, encoded: Tensor, likeness: Likeness) -> Tensor:
    """The unit of the clip that each follows, LongTensor (times, places), on the CPU."""
    times, size, _ = states.shape
    latest = torch.zeros(size, dtype=torch.long)  # grid in which each place was last carried
    sources = torch.arange(times * size).view(times, size)
    for stretch in _stretches(times):
        # 1. Cosines of all pairs at a place. What was carried last goes ahead of a later stretch.
        part = states[stretch.start : stretch.stop]
        grids = torch.tensor(stretch).unsqueeze(1).expand(-1, size)
        there = encoded[stretch.start : stretch.stop]
        if stretch.start:
            places = torch.arange(size, device=states.device)
            part = torch.cat([states[latest.to(states.device), places][None], part])
            grids = torch.cat([latest[None], grids])
            there = torch.cat([there[:1], there])
        if len(part) == 1:
            continue
        cosines = _cosines(part)
        # 2. One walk through the grids, with the threshold that was asked for or that fits.
        threshold = 1.0 if likeness.threshold is None else likeness.threshold
        if likeness.share is not None:
            budget = int(likeness.share * len(stretch) * size)
            threshold = min(threshold, _fitting(cosines, there, budget, ahead=stretch.start == 0))
        carried, row = (decided[0] for decided in _walk(cosines, there, torch.tensor([threshold])))
        # 3. From rows of the stretch to units of the clip.
        place = torch.arange(size)
        for at in range(1, len(part)):
            followed = grids[row[at], place] * size + place
            grid = int(grids[at, 0])
            sources[grid] = torch.where(carried[at], sources[grid], followed)
            latest = torch.where(carried[at], grid, latest)
    return sources


def _cosines(part: Tensor) -> Tensor:
    """Cosines of the units of each place, on the CPU.

    From (rows, places, d) to float32 (places, rows, rows); at most 1.
    """
    unit = normalize(part.float(), dim=-1).transpose(0, 1)
    return torch.bmm(unit, unit.transpose(1, 2)).clamp_(max=1.0).cpu()


def _walk(cosines: Tensor, encoded: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Decide grid by grid, for K thresholds at once; row 0 is carried.

    Returns
    -------
    carried : BoolTensor, shape (K, rows, places)
    followed : LongTensor, the same shape
        The row that those that are not carried follow.
    """
    places, rows, _ = cosines.shape
    tried = len(thresholds)
    latest = torch.zeros(tried, places, dtype=torch.long)
    carried = torch.ones(tried, rows, places, dtype=torch.bool)
    followed = torch.zeros(tried, rows, places, dtype=torch.long)
    for row in range(1, rows):
        now = cosines[:, row].expand(tried, places, rows)
        found = now.gather(-1, latest[..., None])[..., 0]
        carried[:, row] = (~(found > thresholds[:, None])) & encoded[row]
        followed[:, row] = latest
        latest = torch.where(carried[:, row], row, latest)
    return carried, followed


def _fitting(cosines: Tensor, encoded: Tensor, budget: int, *, ahead: bool) -> float:
    """The highest threshold that carries at most `budget` units; 1 if all may be carried."""
    # 1. Thresholds worth trying are the cosines that a unit can have: with the grid before, and
    #    with the first one.
    if budget >= int(encoded.sum() if ahead else encoded[1:].sum()):
        return 1.0
    seen = torch.cat([cosines.diagonal(-1, 1, 2).flatten(), cosines[:, 1:, 0].flatten()])
    seen = seen.sort().values
    # 2. Narrowed down between two of them, many at once.
    low, high = 0, len(seen) - 1
    best = -1.0 - 1e-6
    for _ in range(_ROUNDS):
        places = torch.linspace(low, high, _TRIED).long()
        carried, _ = _walk(cosines, encoded, seen[places])
        counts = carried[:, 0 if ahead else 1 :].sum((1, 2))
        fits = (counts <= budget).nonzero()[:, 0]
        last = int(fits[-1]) if len(fits) else -1
        if last >= 0:
            best = float(seen[places[last]])
        low = int(places[max(last, 0)])
        high = int(places[min(last + 1, len(places) - 1)])
        if high - low <= 1:
            break
    return best
