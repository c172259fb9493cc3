"""Budgets of the methods other than SEATS, as plain arithmetic.

A budget is an average retention over the decoder layers. Nothing here imports torch. Source of
the conversions: the comparison in arXiv 2605.20035; ours refuse what would become negative.
"""

from __future__ import annotations

from seats_cli.errors import ConfigError

# Share of the video that a vision-only method always keeps, whatever the audio costs.
VIDEO_FLOOR = 0.05


def ratio_after_layer(retention: float, layer: int, num_layers: int) -> float:
    """Fraction to keep after `layer` so that the mean over all layers is `retention`.

    Layers up to that one see every token. 0 or below where they alone exceed the budget.
    """
    return (retention * num_layers - layer) / (num_layers - layer)


def spare_audio(
    video: float, audio: float, n_video: int, n_audio: int, floor: float = VIDEO_FLOOR
) -> tuple[float, float]:
    """Shift a budget so that the audio stays whole as far as it reaches.

    Parameters
    ----------
    video, audio : float
        Fractions of either modality to keep; their combined number of tokens is the budget.
    n_video, n_audio : int
        Tokens of each modality.
    floor : float
        Fraction of the video that is always kept; below it audio is dropped instead.

    Returns
    -------
    (float, float)
        Fractions of video and of audio. Unchanged where a modality is absent. The audio's is
        0 or below where the video's floor alone exceeds the budget.
    """
    if not n_video or not n_audio or video >= 1.0 <= audio:
        return video, audio
    budget = int(video * n_video + audio * n_audio)
    left = (budget - n_audio) / n_video
    if left >= floor:
        return left, 1.0
    return floor, (budget - floor * n_video) / n_audio


def floor_count(size: int, ratio: float) -> int:
    """Tokens that stay, rounded down: none for ratio 0, otherwise at least one."""
    return min(max(int(ratio * size), 1), size) if ratio > 0.0 else 0


def require_positive(
    method: str, video: float, audio: float, reach: float, *, share: str = "overall"
) -> None:
    """Refuse fractions that no selection can meet.

    Parameters
    ----------
    video, audio : float
        Fractions to keep of the modalities present; 1 for an absent one.
    reach : float
        The smallest average retention that the method reaches, for the message.
    share : str
        Whose average retention `reach` is.

    Raises
    ------
    ConfigError
        If either fraction is 0 or below.
    """
    if video <= 0.0 or audio <= 0.0:
        raise ConfigError(
            f"This budget is out of reach for {method}: on this prompt it needs an average "
            f"retention of more than {reach:.3g} ({share}); ask for more or use another method."
        )
