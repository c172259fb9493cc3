"""Stages, places and segments from marks; events are faked, so that their times are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seats_cli.engine.timing import Clock, EventMarks, HostMarks, Stopwatch, marks_for
from seats_cli.models.adapter import devices_of


class Device:
    """A device whose time only passes when it is told to, and whose events count waits."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.events = self.waits = 0

    def work(self, ms: float) -> None:
        self.ms += ms

    def recorded(self) -> Any:
        device, at = self, self.ms
        self.events += 1

        class Event:
            reached = False

            def synchronize(self) -> None:
                device.waits += 1

            def elapsed_time(self, end_event: Any) -> float:
                assert device.waits, "an event was read before the device had come to it"
                return end_event.at - at

        event = Event()
        event.at = at  # type: ignore[attr-defined]
        return event


class Part(nn.Module):
    """A module that takes some time, and what is inside it after that."""

    def __init__(self, device: Device, ms: float, inside: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.device, self.ms = device, ms
        self.inside = nn.ModuleList(inside or [])

    def forward(self, **_kwargs: Tensor) -> None:
        self.device.work(self.ms)
        for module in self.inside:
            module()


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def adapter(device: Device) -> Any:
    layers = [Part(device, 2.0**number) for number in range(4)]
    return SimpleNamespace(
        visual=Part(device, 100.0),
        audio_tower=Part(device, 50.0),
        language_model=Part(device, 5.0, layers),
        layers=layers,
    )


def test_stages_sum_up_and_nest(device: Device) -> None:
    clock = Clock(marks=EventMarks(device.recorded))
    for _ in range(2):
        with clock.stage("outer"):
            device.work(3.0)
            with clock.stage("inner"):
                device.work(4.0)
        device.work(100.0)
    assert device.waits == 0
    assert clock.seconds["outer"] == pytest.approx(0.014)
    assert clock.seconds["inner"] == pytest.approx(0.008)
    assert clock.seconds["never"] == 0
    assert device.waits == 1  # one wait for all marks


def test_seconds_can_be_read_in_between(device: Device) -> None:
    clock = Clock(marks=EventMarks(device.recorded))
    for expected in (0.001, 0.002):
        with clock.stage("a"):
            device.work(1.0)
        assert clock.seconds["a"] == pytest.approx(expected)


def test_a_stage_that_failed_is_not_measured(device: Device) -> None:
    clock = Clock(marks=EventMarks(device.recorded))
    with pytest.raises(ZeroDivisionError), clock.stage("a"):
        raise ZeroDivisionError
    assert clock.seconds["a"] == 0


def test_a_clock_without_devices_marks_nothing(adapter: Any) -> None:
    clock = Clock()
    with clock.stage("a"):
        pass
    with clock.watch(adapter):
        adapter.visual()
    assert not clock.seconds


def test_prefill_by_segments_and_selection_by_place(device: Device, adapter: Any) -> None:
    watch = Stopwatch((), (1, 2, 4), marks=EventMarks(device.recorded))

    def select(ms: float) -> Any:
        def hook(*_args: Any) -> None:
            with watch.stage("select"):
                device.work(ms)

        return hook

    with watch.watch(adapter):
        adapter.visual.register_forward_hook(select(0.1), prepend=True)
        adapter.language_model.register_forward_pre_hook(select(0.2))
        adapter.layers[0].register_forward_hook(select(0.3))
        adapter.layers[2].register_forward_hook(select(0.4))
        adapter.visual()
        adapter.audio_tower()
        adapter.language_model(inputs_embeds=torch.zeros(1, 7, 2))
        prefill_events = device.events
        adapter.language_model(inputs_embeds=torch.zeros(1, 1, 2))  # a token of the answer
    assert device.waits == 0
    ms = {name: 1000 * value for name, value in watch.seconds.items()}
    assert ms["vision"] == pytest.approx(100.1)
    assert ms["audio"] == pytest.approx(50.0)
    assert ms["prefill"] == pytest.approx(5.0 + 1 + 2 + 4 + 8 + 0.2 + 0.3 + 0.4)
    assert ms["select:vision"] == pytest.approx(0.1)
    assert ms["layers:0"] == pytest.approx(1.3)
    assert ms["layers:1"] == pytest.approx(2 + 4 + 0.4)
    assert ms["layers:2"] == pytest.approx(8.0)
    assert ms["select:0"] == pytest.approx(0.3)
    assert ms["select:1"] == pytest.approx(0.4)
    assert device.events == prefill_events + 6  # only what was selected in that step
    assert device.waits == 1


def test_which_marks_suit_which_devices() -> None:
    cpu, first, second = (torch.device(name) for name in ("cpu", "cuda:0", "cuda:1"))
    assert isinstance(marks_for([cpu]), HostMarks)
    assert isinstance(marks_for([torch.device("mps")]), HostMarks)
    assert isinstance(marks_for([first]), EventMarks)
    assert isinstance(marks_for([first, cpu]), EventMarks)
    # Events on different devices cannot be subtracted.
    assert isinstance(marks_for([first, second]), HostMarks)


def test_host_marks_wait_for_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    clock = Clock([torch.device("cuda:0"), torch.device("cuda:1")])
    with clock.stage("a"):
        assert waited == ["cuda:0", "cuda:1"]
    assert len(waited) == 4
    assert clock.seconds["a"] > 0
    clock.now()
    assert len(waited) == 6


def test_devices_of_a_model() -> None:
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, device="meta")])
    assert devices_of(model) == (torch.device("cpu"),)
