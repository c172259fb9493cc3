"""The token counts that a plan leads to, before anything runs.

Counts per modality are exact for SEATS with exact totals (`allocation="adaptive"`); the
published allocation may miss the total of a drop by a few tokens, because every window keeps
at least one token of each modality.
"""

from __future__ import annotations

from seats_cli.architecture import Architecture
from seats_cli.cost.sizes import (
    MediaSizes,
    audio_windows,
    kept_of_window,
    token_counts,
    video_windows,
)
from seats_cli.plan import PruningPlan

Counts = tuple[int, int, int]


def predicted_counts(
    plan: PruningPlan | None, architecture: Architecture, sizes: MediaSizes, text: int
) -> tuple[list[Counts], Counts]:
    """Video, audio and text tokens in each layer, and after the last one.

    Parameters
    ----------
    plan : PruningPlan or None
        None for an unpruned run.
    architecture : Architecture
    sizes : MediaSizes
        Pictures and sound of the prompt.
    text : int
        Text tokens of the prompt.

    Returns
    -------
    alive : list of (int, int, int)
        Tokens that each layer processes.
    final : (int, int, int)
        Tokens that leave the last layer.
    """
    video, audio = token_counts(architecture, sizes)
    if plan is None or not plan.prunes:
        return [(video, audio, text)] * architecture.num_layers, (video, audio, text)
    if plan.initial_video < 1.0:
        windows = video_windows(architecture, sizes, plan.video_window)
        video = sum(kept_of_window(size, plan.initial_video) for size in windows)
    if plan.initial_audio < 1.0:
        windows = audio_windows(architecture, sizes, plan.audio_window)
        audio = sum(kept_of_window(size, plan.initial_audio) for size in windows)
    ratios = {
        layer: (kept_video, kept_audio)
        for layer, kept_video, kept_audio in zip(
            plan.drop_layers, plan.keep_video, plan.keep_audio, strict=True
        )
    }
    alive: list[Counts] = []
    for layer in range(1, architecture.num_layers + 1):
        alive.append((video, audio, text))
        if layer in ratios:
            video, audio = (
                kept_of_window(size, ratio) if size else 0
                for size, ratio in zip((video, audio), ratios[layer], strict=True)
            )
        if plan.late_layer is not None and layer == plan.late_layer - 1:
            video = audio = 0
    return alive, (video, audio, text)


def average_retention(alive: list[Counts], offered: Counts) -> float | None:
    """Mean over the layers of the share of audio-visual tokens alive; None without any."""
    whole = len(alive) * (offered[0] + offered[1])
    return sum(video + audio for video, audio, _ in alive) / whole if whole else None
