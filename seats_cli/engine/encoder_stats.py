"""Importance of every audio-visual token, read off the encoders while they run.

Stage I needs the attention that every token receives in the last layer of its encoder. Fused
attention does not give its weights away, so hooks note the queries and keys that the layer's own
projections have computed, and only the sums over the weights are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.engine.timing import Clock
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.schedule import PruningPlan
from seats_cli.selection.alike_units import CarriedFacts
from seats_cli.selection.device import on_device
from seats_cli.selection.importance import pool_mean, received_attention
from seats_cli.selection.method import Method


@dataclass(frozen=True, eq=False)
class EncoderCall:
    """One pass through an encoder, for n LLM tokens in the order in which they enter the prompt."""

    importance: Tensor  # float32 (n,): attention received per token
    lengths: tuple[int, ...]  # tokens of each clip (or sound) of the call
    windows: tuple[int, ...]  # tokens of a selection window in each
    grids: tuple[int, ...] = ()  # tokens of a temporal grid in each clip; empty for sound
    keys: Tensor | None = None  # float32 (n, d): averaged over heads, where the method needs them
    carried: CarriedFacts | None = None  # what encoder reuse did in it
    sources: Tensor | None = None  # LongTensor (n,): `EncoderReuse.sources`


class EncoderStatistics:
    """Hooks on the last attention of both encoders (arXiv 2605.20035, Stage I).

    Parameters
    ----------
    plan : PruningPlan
        Sizes of the selection windows.
    method : Method
        What it needs; if nothing, the attention is left alone and only lengths are noted.
    clock : Clock
        Where the time spent here is added, as "select".
    everything : bool
        Note what any method may need, for an `EncoderCache` that serves several.
    reuse : EncoderReuse, optional
        Knows what the vision encoder is not given, so that importance is that of the whole prompt.
    """

    def __init__(
        self,
        adapter: Adapter,
        plan: PruningPlan,
        method: Method,
        clock: Clock,
        *,
        everything: bool = False,
        reuse: EncoderReuse | None = None,
    ) -> None:
        self._adapter = adapter
        self._reuse = reuse
        self._video_window = plan.config.video_window
        self._audio_window = plan.config.audio_window
        self._clock = clock
        self._importance = everything or method.needs_importance
        self._keys = everything or method.needs_keys
        self._grid_thw = torch.zeros(0, 3, dtype=torch.long)  # on the CPU
        self._mel_frames: list[int] = []
        self._projected: dict[nn.Module, Tensor] = {}
        self._video: list[EncoderCall] = []
        self._audio: list[EncoderCall] = []

    def hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks, one for each handle; they act until these are removed."""
        adapter = self._adapter
        for encoder, enter, attention, leave in (
            (adapter.visual, self._enter_vision, adapter.vision_attention, self._leave_vision),
            (adapter.audio_tower, self._enter_audio, adapter.audio_attention, self._leave_audio),
        ):
            # `generate` runs the encoders before the model's own `forward`, which sees no grids
            # and no lengths then: they are taken from the encoders' arguments (trap 4).
            yield encoder.register_forward_pre_hook(enter, with_kwargs=True)
            yield attention.register_forward_hook(leave, with_kwargs=True)
        if self._importance or self._keys:
            for projection in (*adapter.vision_projections, *adapter.audio_projections):
                yield projection.register_forward_hook(self._note_projection)

    def clear(self) -> None:
        """Forget all calls."""
        if self._reuse is not None:
            self._reuse.finish([call.carried for call in self._video if call.carried])
        self._video.clear()
        self._audio.clear()
        self._projected.clear()

    def calls(self, modality: str) -> list[EncoderCall]:
        """What has been noted of "video" or "audio" so far, in order."""
        return self._video if modality == "video" else self._audio

    def window(self, modality: str) -> int:
        """Size of a selection window: grids of "video", tokens of "audio"."""
        return self._video_window if modality == "video" else self._audio_window

    def video_for(self, tokens: int) -> EncoderCall:
        """The latest vision call that produced that many tokens; images have calls of their own."""
        return _latest(self._video, tokens, "video")

    def audio_for(self, tokens: int) -> EncoderCall:
        """The latest audio call that produced that many tokens."""
        return _latest(self._audio, tokens, "audio")

    def _enter_vision(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # copied to the host before the encoder is given work that the copy would wait for
        self._grid_thw = self._adapter.vision_grids(args, kwargs).cpu()

    def _note_projection(self, module: Any, _args: Any, output: Tensor) -> None:
        self._projected[module] = output

    def _taken(self, projections: Sequence[nn.Module]) -> list[Tensor]:
        """Outputs of these layers of the attention, which are not held any longer."""
        return [self._projected.pop(layer) for layer in projections]

    @torch.no_grad()
    def _leave_vision(self, _module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        # 1. Sizes in LLM tokens: the encoder has `unit` patches for each.
        grid_thw, unit = self._grid_thw, self._adapter.merge_unit
        grids = [(int(t), int(h) * int(w)) for t, h, w in grid_thw.tolist()]
        lengths = tuple(t * patches // unit for t, patches in grids)
        windows = tuple(self._video_window * patches // unit for _, patches in grids)
        importance, keys = torch.zeros(0), None
        with self._clock.stage("select"):
            # 2. Queries and keys of all patches, also of those that Stage 0 did not encode.
            if self._importance or self._keys:
                query, key = self._adapter.vision_query_key(
                    self._taken(self._adapter.vision_projections), kwargs
                )
                if self._reuse is not None:
                    query, key = self._reuse.expand(query), self._reuse.expand(key)
                order = self._adapter.vision_raster_order(grid_thw)
                order = None if order is None else on_device(order, query.device)
            # 3. Per patch, then the mean over the patches of each token, in the prompt's order.
            if self._importance:
                received = received_attention(
                    query, key, [w * unit for w in windows], [n * unit for n in lengths]
                )
                importance = _ordered(pool_mean(received, unit), order)
            if self._keys:
                keys = _ordered(pool_mean(key.float().mean(1), unit), order)
        per_grid = tuple(patches // unit for _, patches in grids)
        carried, sources = None, None
        if self._reuse is not None:
            carried = self._reuse.call_facts
            sources = self._reuse.sources() if self._reuse.approximates else None
        self._video.append(
            EncoderCall(importance, lengths, windows, per_grid, keys, carried, sources)
        )

    def _enter_audio(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self._mel_frames = self._adapter.mel_frames(args, kwargs)

    @torch.no_grad()
    def _leave_audio(self, _module: Any, _args: Any, _kwargs: Any, _output: Any) -> None:
        adapter, family = self._adapter, self._adapter.family
        positions = [family.audio_positions(frames) for frames in self._mel_frames]
        importance, keys = torch.zeros(0), None

        def pooled(values: Tensor) -> Tensor:
            # Each sound by itself: an odd position at its end makes no token.
            return torch.cat(
                [pool_mean(part, family.audio_pool) for part in torch.split(values, positions)]
            )

        with self._clock.stage("select"):
            if self._importance or self._keys:
                query, key = adapter.audio_query_key(self._taken(adapter.audio_projections))
            if self._importance:
                importance = pooled(
                    received_attention(
                        query, key, [family.audio_statistics_window] * len(positions), positions
                    )
                )
            if self._keys:
                keys = pooled(key.float().mean(1))
        lengths = tuple(map(family.audio_tokens, self._mel_frames))
        windows = (self._audio_window,) * len(lengths)
        self._audio.append(EncoderCall(importance, lengths, windows, (), keys))


def _ordered(values: Tensor, order: Tensor | None) -> Tensor:
    """Values in raster order, where the encoder has an order of its own."""
    return values if order is None else values[order]


def _latest(calls: list[EncoderCall], tokens: int, modality: str) -> EncoderCall:
    for call in reversed(calls):
        if sum(call.lengths) == tokens:
            return call
    raise UsageError(
        f"The prompt has {tokens} {modality} tokens, but its encoder did not run inside "
        "prune(...): let the model (or generate) encode the media within the context."
    )
