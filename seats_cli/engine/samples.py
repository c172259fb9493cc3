"""Repetitions of one setting, and the measured run that they amount to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from seats_cli.cost.flops import layer_flops
from seats_cli.cost.latency import Spread, spread
from seats_cli.measurements import MeasuredRun, Segment, Setting

if TYPE_CHECKING:
    from seats_cli.engine.stopwatch import Stopwatch
    from seats_cli.results import Answer


@dataclass(eq=False)
class Subject:
    """A setting under measurement.

    Parameters
    ----------
    setting : Setting
    borders : list of int
        1-based first layers of the segments into which the prefill is split.
    """

    setting: Setting
    borders: list[int] = field(default_factory=lambda: [1])
    samples: list[dict[str, float]] = field(default_factory=list)
    last: Answer | None = None
    host_peak: int = 0
    gpu_peak: int | None = None

    def note(self, watch: Stopwatch, answer: Answer, read_s: float) -> None:
        """Add one repetition: seconds by stage, none of them contained in another."""
        seconds, timing = watch.seconds, answer.timing
        segments = range(len(self.borders))
        inside = sum(seconds[f"select:{number}"] for number in segments)
        entry = seconds["select:entry"]
        sample = {
            "processor": timing.preprocess_s,
            "vision": seconds["vision"] - seconds["select:vision"],
            "audio": seconds["audio"] - seconds["select:audio"],
            "stage1": seconds["select:vision"] + seconds["select:audio"] + entry,
            "prefill": seconds["prefill"] - entry - inside,
            "stage2": inside,
        }
        sample["rest"] = timing.first_token_s - sum(sample.values())
        sample["stage1_statistics"], sample["stage1_choice"] = sample["stage1"] - entry, entry
        sample["prefill_and_selection"] = sample["stage1"] + sample["prefill"] + sample["stage2"]
        sample["first_token"] = timing.first_token_s
        sample["decode_per_token"] = timing.decode_s / max(timing.decode_tokens, 1)
        sample["total"] = read_s + timing.first_token_s + timing.decode_s
        for number in segments:
            sample[f"layers:{number}"] = seconds[f"layers:{number}"] - seconds[f"select:{number}"]
        self.samples.append(sample)
        self.last = answer
        self.host_peak = max(self.host_peak, answer.cost.peak_host_bytes)
        if answer.cost.peak_gpu_bytes is not None:
            self.gpu_peak = max(self.gpu_peak or 0, answer.cost.peak_gpu_bytes)

    def measured(self) -> MeasuredRun:
        """Medians and spreads over the repetitions, of which there must be one."""
        answer = self.last
        assert answer is not None
        times = {name: spread([s[name] for s in self.samples]) for name in self.samples[0]}
        alive = tuple(answer.trace.alive_per_layer())
        return MeasuredRun(
            label=self.setting.label,
            method=self.setting.method,
            retain=self.setting.retain,
            times={name: value for name, value in times.items() if not name.startswith("layers:")},
            segments=tuple(_segments(answer, self.borders, times)),
            alive=alive,
            average_retention=answer.trace.average_retention()[2],
            cost=replace(answer.cost, peak_host_bytes=self.host_peak, peak_gpu_bytes=self.gpu_peak),
            decode_tokens=answer.timing.decode_tokens,
        )


def _segments(
    answer: Answer, borders: Sequence[int], times: dict[str, Spread]
) -> Iterator[Segment]:
    alive = [sum(counts) for counts in answer.trace.alive_per_layer()]
    ends = [*(layer - 1 for layer in borders[1:]), len(alive)]
    for number, (first, last) in enumerate(zip(borders, ends, strict=True)):
        tokens = alive[first - 1]
        flops = sum(layer_flops(answer.architecture, count) for count in alive[first - 1 : last])
        yield Segment(first, last, tokens, times[f"layers:{number}"], flops)
