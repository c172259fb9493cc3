"""Whether a record that was read back agrees with itself."""

from __future__ import annotations

import numpy as np

from seats_cli.show.record import AUDIO, TEXT, VIDEO, Record, RecordedStage
from seats_cli.show.typed import MisfitError

_LARGEST_SIDE = 1 << 20  # of a picture, in pixels
_MOST_LAYERS = 10_000
# A grid covers milliseconds to weeks, where even a still picture of a day is one.
_GRID_S = (1e-3, 1e6)
_AUDIO_TOKENS_PER_S = (1e-3, 1e6)


def check_record(record: Record) -> None:
    """Refuse a record whose parts contradict each other.

    Raises
    ------
    MisfitError
        If the raster does not hold the video tokens, or a stage keeps what was not there.
    """
    video, audio, _ = record.offered
    if record.modality.ndim != 1 or not np.isin(record.modality, (TEXT, VIDEO, AUDIO)).all():
        raise MisfitError("the prompt holds an unknown modality")
    grid = record.grid
    if grid is not None and min(grid.grids, grid.rows, grid.columns, grid.frames) < 1:
        raise MisfitError("the grid is empty")
    if video != (0 if grid is None else grid.grids * grid.size):
        raise MisfitError(f"the grid does not hold the {video} video tokens")
    if grid is not None and not _GRID_S[0] <= grid.seconds <= _GRID_S[1]:
        raise MisfitError("a grid takes an impossible time")
    lowest, highest = _AUDIO_TOKENS_PER_S
    if audio and not lowest <= record.audio_tokens_per_s <= highest:
        raise MisfitError("audio tokens take an impossible time")
    if not 0.1 <= record.pixel_shape <= 10.0:
        raise MisfitError("its pixels have an impossible shape")
    for side in (record.media.source_width, record.media.source_height):
        if side is not None and not 1 <= side <= _LARGEST_SIDE:
            raise MisfitError("its picture has an impossible size")
    if not 1 <= record.num_layers <= _MOST_LAYERS:
        raise MisfitError("the model has an impossible number of layers")
    before, layer = np.arange(len(record.modality)), 0
    for number, stage in enumerate(record.stages):
        _check_stage(stage, f"stages[{number}]", before, layer, record.num_layers)
        before, layer = stage.kept, stage.after_layer


def _check_stage(
    stage: RecordedStage, where: str, before: np.ndarray, layer: int, layers: int
) -> None:
    kept = stage.kept
    if not layer <= stage.after_layer <= layers:
        raise MisfitError(f"{where} acts after layer {stage.after_layer} of {layers}, out of order")
    if len(kept) and (np.diff(kept) <= 0).any():
        raise MisfitError(f"{where} lists positions out of order")
    if not np.isin(kept, before).all():
        raise MisfitError(f"{where} keeps tokens that were dropped before")
    if stage.scores is not None and len(stage.scores) != len(before):
        raise MisfitError(f"{where} has {len(stage.scores)} scores for {len(before)} tokens")
    for name in ("video", "audio"):
        for window in stage.windows:
            part = getattr(window, name)
            if part is not None and not (
                0 <= part.kept <= part.offered and 0 <= part.first <= part.last
            ):
                raise MisfitError(f"{where} has an impossible {name} window")
