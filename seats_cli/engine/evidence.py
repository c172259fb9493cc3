"""What an answer rests on in time: relevance of tokens, added up over windows of the clip.

Stage II of SEATS measures how relevant every token is to the question. Other methods and the
unpruned model have no such scores, or have them of other layers: for these, what the end of the
prompt attends to is read at the layers after which SEATS would drop, from what they have computed
anyway. One layer finds what decides a question less often than all three together (docs/eval.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seats_cli.cost.selection import query_flops
from seats_cli.cost.token_counts import TokenTimes
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
    from seats_cli.selection.trace import SelectionTrace

MOST = 5  # pieces of evidence of an answer
SOUND_S = 1.0  # of a window where no grid sets its length
VIDEO, AUDIO = "video", "audio"


class EvidenceReader:
    """Finds the evidence of one answer.

    SEATS has measured relevance itself, at its drop layers. In other runs, what the prompt's last
    token attends to is read at the layers that SEATS would have chosen: its query is worked out
    from what the layer was given, and keys are those that the layer has put into the cache, also
    where they come from an earlier question about the clip. Nothing is changed.

    Parameters
    ----------
    plan : PruningPlan or None
        Of the run; None for an unpruned one.
    """

    def __init__(self, adapter: Adapter, plan: PruningPlan | None) -> None:
        self._adapter = adapter
        self._architecture = adapter.architecture()
        self._scored = () if plan is None else plan.drop_layers
        depth = len(adapter.layers)
        # The last layer that sees the clip.
        last = depth if plan is None or plan.late_layer is None else plan.late_layer - 1
        drops, _ = default_layers(self._architecture)
        within = tuple(layer for layer in drops if layer <= last)
        self.layers = () if self._scored else within or (min(last, (depth + 1) // 2),)
        # float32 (n,) by layer, what the last token attends to of the tokens that the layer has
        # seen: on the device until the answer is complete, so that nothing waits for it.
        self.attention: dict[int, Tensor] = {}

    def hooks(self) -> Iterator[RemovableHandle]:
        """Of the layers that are read; they act on the first prompt."""
        for number in self.layers:
            layer = self._adapter.layers[number - 1]
            yield layer.register_forward_hook(partial(self._leave, number), with_kwargs=True)

    def _leave(
        self, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any
    ) -> None:
        cache = cache_of(kwargs)
        if number in self.attention or cache is None:
            return  # a token of the answer
        keys = cache.layers[number - 1].keys
        hidden = (args[0] if args else kwargs["hidden_states"])[0, -1:].to(keys.device)
        sides = {
            name: SideTensors(tuple(part[..., -1:, :] for part in side.tensors))
            for name, side in self._adapter.layer_side_tensors(kwargs).items()
        }
        query, _ = self._adapter.relevance_query_key(layer, hidden, sides, 0)
        self.attention[number] = last_query_relevance(query, keys[0])

    def evidence(
        self, trace: SelectionTrace, media: MediaFacts, fps: float | None
    ) -> tuple[Evidence, ...]:
        """Of the answer, the strongest first.

        Parameters
        ----------
        trace : SelectionTrace
            Of the run.
        fps : float or None
            Effective frames per second.
        """
        relevance = torch.zeros(trace.length, dtype=torch.float64)
        for number, scores in self.attention.items():
            relevance[_alive(trace, number)] += scores.double().cpu()
        for stage in trace.stages:
            if stage.scores is not None and stage.after_layer in self._scored:
                relevance[_alive(trace, stage.after_layer)] += stage.scores.double()
        times = TokenTimes.of_clip(media, self._architecture, fps)
        return evidence_of(relevance, trace, times, media)

    def flops(self, trace: SelectionTrace) -> int:
        """What reading took; 0 where Stage II has the scores."""
        return sum(
            query_flops(self._architecture, len(_alive(trace, number))) for number in self.attention
        )


def _alive(trace: SelectionTrace, layer: int) -> Tensor:
    """Positions in the unpruned prompt of the tokens that a layer has seen."""
    alive = [stage.kept for stage in trace.stages if stage.after_layer < layer]
    return alive[-1] if alive else torch.arange(trace.length)


def evidence_of(
    relevance: Tensor,
    trace: SelectionTrace,
    times: TokenTimes,
    media: MediaFacts,
    *,
    most: int | None = MOST,
) -> tuple[Evidence, ...]:
    """The strongest windows.

    Parameters
    ----------
    relevance : float64 Tensor, shape (S,)
        Of each token of the unpruned prompt, on any scale; 0 for one that was dropped before it
        was measured. What is not a number counts as 0.
    trace : SelectionTrace
        Which tokens are video or audio.
    times : TokenTimes
        When they are.
    media : MediaFacts
        Where reading began and ended. A still picture has no evidence.
    most : int or None
        How many; None for every window with any relevance.
    """
    if media.duration_s is None:
        return ()
    windows: list[Evidence] = []
    for modality, mask in ((VIDEO, trace.video_mask), (AUDIO, trace.audio_mask)):
        sums, spans = _windows(modality, relevance[mask].numpy(), times)
        for strength, (start, end) in zip(sums.tolist(), spans, strict=True):
            windows.append(Evidence(start, end, modality, strength))
    total = sum(window.share for window in windows)
    windows = [window for window in windows if window.share > 0.0]
    windows.sort(key=lambda window: (-window.share, window.start_s, window.modality))
    latest = float("inf") if media.end_s is None else media.end_s
    return tuple(
        Evidence(
            round(media.start_s + window.start_s, 3),
            # The last grid, or the last token of the sound, may reach beyond the end.
            round(
                max(min(media.start_s + window.end_s, latest), media.start_s + window.start_s), 3
            ),
            window.modality,
            window.share / total,
        )
        for window in windows[:most]
    )


def _windows(
    modality: str, relevance: npt.NDArray[np.float64], times: TokenTimes
) -> tuple[npt.NDArray[np.float64], list[tuple[float, float]]]:
    """Relevance of each window of one modality, (W,), and where it begins and ends.

    A window is a temporal grid, or as long a stretch of the sound: `SOUND_S` without a picture.
    """
    if not len(relevance) or (modality == VIDEO and times.grid is None):
        return np.zeros(0), []
    order = np.arange(len(relevance))
    if modality == VIDEO and times.grid is not None:
        window, span = order // times.grid.size, times.video
    else:
        seconds = SOUND_S if times.grid is None else times.grid.seconds
        middle = (order + 0.5) / times.audio_tokens_per_s
        window, span = np.floor(middle / seconds).astype(np.int64), times.audio
    # A window may be shorter than an audio token, and then have none.
    numbers, firsts = np.unique(window, return_index=True)
    lasts = np.append(firsts[1:], len(order)) - 1
    finite = np.nan_to_num(relevance, posinf=0.0, neginf=0.0)
    sums = np.asarray(np.bincount(window, finite)[numbers], np.float64)
    return sums, [span(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
