"""The moments that an answer rests on: relevance of tokens, added up over time.

Stage II says how relevant every token is to the question. Methods that drop nothing inside the LLM,
and the unpruned model, have no such scores: for these, what the end of the prompt attends to is
read at the layer after which SEATS would drop first, from what that layer has computed anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seats_cli.cost.selection import attention_flops
from seats_cli.cost.token_times import TokenTimes
from seats_cli.engine.cache import cache_of
from seats_cli.models.adapter import SideTensors
from seats_cli.results import Evidence
from seats_cli.schedule import default_layers
from seats_cli.selection.relevance import last_query_relevance

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.media.clip import MediaFacts
    from seats_cli.models.adapter import Adapter
    from seats_cli.schedule import PruningPlan
    from seats_cli.selection.method import Method
    from seats_cli.selection.trace import SelectionTrace

MOST = 5  # moments of an answer
SOUND_S = 1.0  # of a window where no grid sets its length
VIDEO, AUDIO = "video", "audio"


@dataclass(frozen=True, eq=False)
class TokenRelevance:
    """How relevant tokens are to the question."""

    index: Tensor  # LongTensor (n,), on the CPU: their positions in the unpruned prompt, ascending
    scores: Tensor  # float32 Tensor (n,), on the CPU: attention, which sums to at most 1


class EvidenceReader:
    """Finds the evidence of one answer.

    Where no stage has scores, what the prompt's last token attends to is read at a layer: its query
    is worked out from what the layer was given, and keys are those that the layer has put into the
    cache, also where they come from an earlier question about the clip. Nothing is changed.

    Parameters
    ----------
    plan : PruningPlan or None
        Of the run; None for an unpruned one.
    method : Method or None
        The one that runs.
    """

    def __init__(self, adapter: Adapter, plan: PruningPlan | None, method: Method | None) -> None:
        self._adapter = adapter
        self._architecture = adapter.architecture()
        self._method = method
        drops, _ = default_layers(self._architecture)
        self.layer = drops[0] if drops else (len(adapter.layers) + 1) // 2
        last = len(adapter.layers)
        if plan is not None and plan.late_layer is not None:
            last = plan.late_layer - 1  # the last one that sees the clip
        self._read_at = min(self.layer, last)
        self._waiting = True
        self._scores: Tensor | None = None

    def hooks(self) -> Iterator[RemovableHandle]:
        """Of the layer; they act on the first prompt."""
        layer = self._adapter.layers[self._read_at - 1]
        yield layer.register_forward_hook(self._read, with_kwargs=True)

    def _read(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> None:
        if not self._waiting:
            return
        self._waiting = False  # what follows are tokens of the answer
        cache = cache_of(kwargs)
        if cache is None or self._has_scores():
            return
        keys = cache.layers[self._read_at - 1].keys
        hidden = (args[0] if args else kwargs["hidden_states"])[0, -1:].to(keys.device)
        sides = {
            name: SideTensors(tuple(part[..., -1:, :] for part in side.tensors))
            for name, side in self._adapter.layer_side_tensors(kwargs).items()
        }
        query, _ = self._adapter.relevance_query_key(layer, hidden, sides, 0)
        # It stays on the device until the answer is complete: nothing waits for it.
        self._scores = last_query_relevance(query, keys[0])

    def _has_scores(self) -> bool:
        """Whether Stage II will rank tokens. Some methods know only once the prompt has begun."""
        method = self._method
        return method is not None and any(
            map(method.drops_after, range(1, len(self._adapter.layers)))
        )

    def evidence(
        self, trace: SelectionTrace, media: MediaFacts, fps: float | None
    ) -> tuple[Evidence, ...]:
        """The moments of the answer.

        Parameters
        ----------
        trace : SelectionTrace
            Of the run.
        fps : float or None
            Effective frames per second.
        """
        found = stage_relevance(trace, self.layer)
        if found is None and self._scores is not None:
            found = TokenRelevance(self._tokens_read(trace), self._scores.float().cpu())
        if found is None:
            return ()
        times = TokenTimes.of_clip(media, self._architecture, fps)
        return evidence_of(found, trace, times, media)

    def flops(self, trace: SelectionTrace) -> int:
        """What reading took; 0 where Stage II has the scores."""
        if self._scores is None:
            return 0
        return attention_flops(self._architecture, len(self._tokens_read(trace)))

    def _tokens_read(self, trace: SelectionTrace) -> Tensor:
        """Positions of the tokens that the layer has seen."""
        alive = [stage.kept for stage in trace.stages if stage.after_layer < self._read_at]
        return alive[-1] if alive else torch.arange(trace.length)


def stage_relevance(trace: SelectionTrace, layer: int) -> TokenRelevance | None:
    """Relevance from the stage with scores that is nearest to a layer; None without such a stage.

    Parameters
    ----------
    layer : int
        After which SEATS would drop first (from 1): some methods drop behind many layers, and the
        first of them know little of the question.
    """
    scored = [number for number, stage in enumerate(trace.stages) if stage.scores is not None]
    if not scored:
        return None
    chosen = min(scored, key=lambda number: abs(trace.stages[number].after_layer - layer))
    index = trace.stages[chosen - 1].kept if chosen else torch.arange(trace.length)
    scores = trace.stages[chosen].scores
    assert scores is not None
    return TokenRelevance(index, scores)


def evidence_of(
    found: TokenRelevance, trace: SelectionTrace, times: TokenTimes, media: MediaFacts
) -> tuple[Evidence, ...]:
    """The strongest moments, at most `MOST`.

    Parameters
    ----------
    trace : SelectionTrace
        Which tokens of the unpruned prompt are video or audio.
    times : TokenTimes
        When they are.
    media : MediaFacts
        Where reading began and ended. A still picture has no moments.
    """
    if media.duration_s is None:
        return ()
    moments: list[Evidence] = []
    total = 0.0
    for name, mask in ((VIDEO, trace.video_mask), (AUDIO, trace.audio_mask)):
        sums, spans = _windows(name, mask, found, times)
        total += float(sums.sum())
        for strength, (start, end) in zip(sums.tolist(), spans, strict=True):
            if strength > 0.0:
                moments.append(Evidence(start, end, name, strength))
    moments.sort(key=lambda moment: (-moment.share, moment.start_s, moment.modality))
    latest = float("inf") if media.end_s is None else media.end_s
    return tuple(
        Evidence(
            round(media.start_s + moment.start_s, 3),
            # The last grid of a clip may reach beyond it.
            round(
                max(min(media.start_s + moment.end_s, latest), media.start_s + moment.start_s), 3
            ),
            moment.modality,
            moment.share / total,
        )
        for moment in moments[:MOST]
    )


def _windows(
    name: str, mask: Tensor, found: TokenRelevance, times: TokenTimes
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Relevance of each window of a modality, float64 (W,), and where it begins and ends."""
    offered = int(mask.sum())
    if not offered or (name == VIDEO and times.grid is None):
        return np.zeros(0), []
    # 1. The window of each token that is offered: its grid, or as long a stretch of the sound.
    order = np.arange(offered)
    seconds = SOUND_S if times.grid is None else times.grid.seconds
    if name == VIDEO:
        assert times.grid is not None
        window, span = order // times.grid.size, times.video
    else:
        middle = (order + 0.5) / times.audio_tokens_per_s
        window, span = (middle / seconds).astype(np.int64), times.audio
    firsts = np.searchsorted(window, np.arange(window[-1] + 1))
    lasts = np.append(firsts[1:], offered) - 1
    # 2. What the tokens that were there when relevance was measured have of it.
    alive = found.index[mask[found.index]]
    places = (mask.cumsum(0)[alive] - 1).numpy()
    scores = np.nan_to_num(found.scores[mask[found.index]].double().numpy(), posinf=0.0)
    sums = np.bincount(window[places], scores, minlength=len(firsts))
    return sums, [span(int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]
