"""What the paper's authors set when they measure, for numbers that are to be compared with theirs.

All of it is from their public code (github.com/xxayt/SEATS, commit c553732):
`scripts/base/eval_*_omni_zip.sh` for the frames, `models/simple/qwen*_omni_zip.py` in their copy of
lmms-eval for system turns and budgets, `tasks/*/*.yaml` there for the length of answers. Where that
differs from what the models' own documentation says, the latter is this project's default.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import BENCHMARKS

if TYPE_CHECKING:
    from seats_cli.evaluate.questions import EvalProtocol
    from seats_cli.evaluate.run_folder import ItemRecord
    from seats_cli.models import LoadedModel

# Qwen2.5-Omni's turn for speaking, and what is added to it in two of the benchmarks. In the others
# the turn is empty, because `a + b if ... else ""` takes the whole sum as its first branch.
SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech. Please analyze "
    "the video carefully and select the most appropriate answer from the given options."
)
WITH_SYSTEM = ("daily-omni", "worldsense")
# Of the whole video, in merged tokens. With at least 128 a grid it only lowers the largest grid
# from 144 to 134 where there are more than 341 frames.
TOTAL_TOKENS = 24_576
# What the feature extractor takes of a sound; the rest is dropped without a word.
MAX_AUDIO_S = 300.0
# The script for Qwen3-Omni has another bound for long videos.
FEWER_FRAMES = {"qwen3_omni_moe": {"omnivideobench": 196, "video-mme": 196, "lvomnibench": 196}}
LONGER_ANSWERS = {"worldsense": 1024}
# Frames per second that the processors assume, because the rate is not handed to them.
ASSUMED_FPS = {"qwen2_5_omni": 2.0, "qwen3_omni_moe": 1.0}
SETTLED = ("fps", "max_frames", "max_new_tokens", "system")


def check_published(name: str, given: Collection[str]) -> None:
    """Refuse what the paper has no numbers for, before a model is loaded.

    Parameters
    ----------
    name : str
        Of the question set.
    given : collection of str
        Fields of the protocol that the user set.

    Raises
    ------
    UsageError
        If the set is none of the paper's, or the user set what is settled by it.
    """
    if name not in BENCHMARKS:
        raise UsageError(
            f"`as_published` is for the paper's benchmarks, {', '.join(BENCHMARKS)}, not {name}."
        )
    for field in SETTLED:
        if field in given:
            raise UsageError(f"`as_published` sets `{field}`: leave one of them out.")


def published_protocol(name: str, protocol: EvalProtocol, family: str) -> EvalProtocol:
    """A benchmark's protocol as the authors have it for a family of models.

    Raises
    ------
    UsageError
        If the family has no published numbers.
    """
    if family not in ASSUMED_FPS:
        raise UsageError(
            f"`as_published` is for Qwen2.5-Omni and Qwen3-Omni, which the paper measures; the "
            f"model is of the family {family}."
        )
    return replace(
        protocol,
        as_published=True,
        system=SYSTEM if name in WITH_SYSTEM else "",
        max_frames=FEWER_FRAMES.get(family, {}).get(name, protocol.max_frames),
        total_tokens=TOTAL_TOKENS,
        states_fps=False,
        max_audio_s=MAX_AUDIO_S,
        max_new_tokens=LONGER_ANSWERS.get(name, protocol.max_new_tokens),
    )


def run_notes(
    loaded: LoadedModel, protocol: EvalProtocol, records: Sequence[ItemRecord]
) -> tuple[str, ...]:
    """What a reader must know of how the questions were asked, in sentences for the report."""
    notes = []
    if protocol.as_published:
        turn = "their system turn" if protocol.system else "an empty system turn"
        notes.append(
            f"As published: {turn}, at most {protocol.max_frames} frames and "
            f"{protocol.total_tokens:,} video tokens (but at least 128 a grid), sound up to "
            f"{MAX_AUDIO_S:g} s, and no frame rate for the processor, which assumes "
            f"{ASSUMED_FPS[loaded.facts.family]:g} frames per second, as in the "
            "code of the paper's authors. What a prompt says around the question is in other words "
            "than theirs."
        )
    if loaded.thinks:
        cut = sum(record.cut_off and not record.given for record in records)
        own = loaded.sampling
        limit = protocol.max_new_tokens or own.max_new_tokens
        notes.append(
            f"The model thinks before it answers, and what follows </think> is scored: at most "
            f"{limit:,} tokens or what the context leaves, temperature {own.temperature:g}, top-p "
            f"{own.top_p:g}, top-k {own.top_k}. {cut} of {len(records)} answers were cut off while "
            "it was still thinking and count as unread."
        )
    warned = [record for record in records if record.warnings]
    if warned:
        notes.append(
            f"{len(warned):,} of {len(records):,} answers came with warnings, the first: "
            f"{warned[0].warnings[0]} answers.jsonl has all of them."
        )
    sizes: dict[str, set[tuple[int | None, int | None]]] = {}
    for record in records:
        if record.error is None:
            offered = (record.offered_video_tokens, record.offered_audio_tokens)
            sizes.setdefault(record.item_id, set()).add(offered)
    apart = sum(len(found) > 1 for found in sizes.values())
    if apart:
        notes.append(
            f"{apart:,} questions were asked about clips of another size under some settings, "
            "because settings of an earlier run left them more or less room: compare settings "
            "that ran together."
        )
    return tuple(notes)
