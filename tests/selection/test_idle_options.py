"""What the method that runs does not have or follow is named, and changes nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.cli.to_config import _by_method
from seats_cli.config import IGNORED, OPTION_METHODS, WINDOWS, SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.engine.clip_prefix import setting_key
from seats_cli.engine.prune import prune
from seats_cli.selection.methods import METHODS, acting_config, weightless_methods
from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import _config
from tests.engine import test_methods
from tests.test_planning import outline

CLIP = str(Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4")
ALLOCATION = "`allocation` has no effect here: it is a setting of the method seats."
LAYER = "`fastv_layer` has no effect here: it is an option of the methods fastv and fastv-om."
WINDOW = (
    "`video_window` has no effect here: it is a setting of methods that choose in windows, such as "
    "seats."
)
EVERYTHING = "--retain has no effect here: the method full keeps everything."
BOTH = {"fastv_layer": 3, "contextual_ratio": 0.1}


def test_a_configuration_knows_what_has_no_effect() -> None:
    assert set(OPTION_METHODS["contextual_ratio"]) == {"visionzip", "visionzip-om"}
    assert all(methods <= set(METHODS) for methods in OPTION_METHODS.values())
    config = SeatsConfig(method="seats", options=BOTH)
    assert config.idle_options == ["contextual_ratio", "fastv_layer"]
    assert list(config.idle_warnings())[1] == LAYER
    assert SeatsConfig(method="fastv", options=BOTH).idle_options == ["contextual_ratio"]
    assert acting_config(SeatsConfig(method="fastv-om", options=BOTH)).options == {"fastv_layer": 3}
    assert not SeatsConfig().idle_options
    plus = SeatsConfig(method="seats", options={"merging": "entry"})
    assert "the method seats-plus." in next(plus.idle_warnings())


def test_only_seats_follows_settings_of_the_schedule() -> None:
    schedule = {"allocation": "adaptive", "drop_layers": (3, 5), "encoder_scale": 1.2}
    config = SeatsConfig(method="divprune", kv="survivors", **schedule)
    assert config.idle_options == ["allocation", "drop_layers", "encoder_scale"]
    assert next(config.idle_warnings()) == ALLOCATION
    left = config.without_options(["allocation", "encoder_scale"])
    assert left.idle_options == ["drop_layers"]
    assert left.kv == "survivors"
    assert not SeatsConfig(**schedule).idle_options
    assert not SeatsConfig(method="seats-plus", **schedule).idle_options
    assert not SeatsConfig(method="divprune").idle_options
    # Sessions and indexes know such runs for the same one.
    same = acting_config(SeatsConfig(method="divprune", kv="survivors"))
    assert acting_config(config) == same


def test_not_every_method_chooses_in_windows() -> None:
    windows = {"video_window": 4, "audio_window": 40}
    config = SeatsConfig(method="divprune", **windows)
    assert config.idle_options == ["audio_window", "video_window"]
    assert list(config.idle_warnings())[1] == WINDOW
    assert SeatsConfig(method="visionzip", **windows).idle_options == ["audio_window"]
    for name in ("seats", "seats-plus", "divprune-om", "visionzip-om"):
        assert not SeatsConfig(method=name, **windows).idle_options
    assert not config.without_options(WINDOWS).idle_options
    assert acting_config(config) == acting_config(SeatsConfig(method="divprune"))


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize("setting", WINDOWS)
def test_what_is_said_of_windows_is_so(method: str, setting: str) -> None:
    """With a third of the window, the tokens that enter are others where it is not ignored."""

    def entering(window: int) -> torch.Tensor:
        given: dict[str, Any] = {"retain_video": 0.4, "retain_audio": 0.4, setting: window}
        config = SeatsConfig(method=method, seed=3, **given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return test_methods.run("qwen2_5", "audio and video", config)[0].stages[0].kept

    ignored = setting in IGNORED[method]
    assert torch.equal(entering(3 if setting == "video_window" else 30), entering(1)) is ignored


def test_the_method_that_keeps_everything_has_no_budget() -> None:
    config = SeatsConfig(method="full", retain=0.1, retain_audio=0.2)
    assert list(config.idle_warnings()) == [
        "`retain` has no effect here: the method full keeps everything.",
        "`retain_audio` has no effect here: the method full keeps everything.",
    ]
    assert acting_config(config) == SeatsConfig(method="full")


def test_a_budget_for_the_method_that_keeps_everything_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ["ask", CLIP, "What is shown?", "--method", "full", "--max-new-tokens", "1"]
    monkeypatch.setenv("SEATS_RETAIN_VIDEO", "20%")  # a setting for other methods
    for budget, told in (((), []), (("--retain", "10%"), [EVERYTHING])):
        result = CliRunner().invoke(app, [*asked, *budget, "--end", "2", "--json"])
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)["warnings"]
        assert [warning for warning in found if "no effect" in warning] == told
        assert result.stderr.count("no effect") == len(told)


def test_a_temperature_belongs_to_the_published_allocation() -> None:
    config = SeatsConfig(temperature=0.3, allocation="adaptive")
    assert list(config.idle_warnings()) == [
        "`temperature` has no effect here: it is a setting of the allocation reference."
    ]
    assert acting_config(config) == acting_config(SeatsConfig(allocation="adaptive"))
    assert not SeatsConfig(temperature=0.3).idle_options
    other = SeatsConfig(method="random", temperature=0.3, allocation="adaptive")
    assert "of the method seats." in list(other.idle_warnings())[1]


def test_a_method_from_outside_is_not_spoken_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "mine", METHODS["random"])
    everything: dict[str, Any] = {"retain": 0.1, "video_window": 4, "audio_window": 40}
    config = SeatsConfig(method="mine", **everything)
    assert not config.idle_options
    monkeypatch.setitem(IGNORED, "mine", frozenset({"retain"}))
    assert list(config.idle_warnings()) == [
        "`retain` has no effect here: the method mine does not follow it."
    ]


def test_the_library_warns_and_the_states_are_the_same_ones() -> None:
    net = test_methods.model("qwen2_5")
    given = test_methods.inputs("qwen2_5", "one window")
    option = {"fastv_layer": 3}
    with pytest.warns(UserWarning, match="`fastv_layer` has no effect"):
        idle = prune(net, SeatsConfig(retain=0.3, options=option))
    plain = prune(net, SeatsConfig(retain=0.3))
    for run in (idle, plain):
        with torch.no_grad(), run:
            net(**given)
    assert torch.equal(idle.trace.stages[-1].kept, plain.trace.stages[-1].kept)
    assert setting_key(idle.plan, idle.method) == setting_key(plain.plan, plain.method)
    own = prune(net, SeatsConfig(method="fastv", retain=0.9, options=option))
    usual = prune(net, SeatsConfig(method="fastv", retain=0.9))
    assert setting_key(own.plan, own.method) != setting_key(usual.plan, usual.method)


def test_a_plan_says_so() -> None:
    def told(config: SeatsConfig) -> str:
        return " ".join(plan_run(outline(4.0), find_model("cpu-0.5b"), config).warnings)

    assert LAYER in told(SeatsConfig(options={"fastv_layer": 3}))
    assert "fastv_layer" not in told(SeatsConfig())
    own = told(SeatsConfig(method="seats-plus", options={"merging": "entry"}))
    assert "FLOPs of selection are predicted as those of seats: what seats-plus and its" in own


def test_several_methods_need_one_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    base = SeatsConfig(options=BOTH)
    found = dict(_by_method(base, ("seats", "fastv", "random")))
    told = capsys.readouterr().err
    assert "fastv_layer" not in told
    assert "`contextual_ratio` has no effect" in told
    assert {name: sorted(config.options) for name, config in found.items()} == {
        "seats": ["contextual_ratio"],  # repeated in the results
        "fastv": ["contextual_ratio", "fastv_layer"],
        "random": ["contextual_ratio"],
    }
    assert _by_method(base, ()) == []


def test_several_methods_need_one_that_follows_it(capsys: pytest.CaptureFixture[str]) -> None:
    base = SeatsConfig(allocation="adaptive")
    found = dict(_by_method(base, ("seats", "random")))
    assert capsys.readouterr().err == ""
    assert (found["seats"].allocation, found["random"].allocation) == ("adaptive", "reference")
    found = dict(_by_method(base, ("divprune", "random")))
    assert capsys.readouterr().err.count("--allocation has no effect here") == 1
    assert found["divprune"].allocation == "adaptive"  # repeated in the results


def test_a_flag_that_the_method_does_not_follow_is_named() -> None:
    flags = ("--method", "divprune", "--allocation", "adaptive", "--retain", "10%")
    rest = ("--max-new-tokens", "1", "--end", "2", "--json")
    result = CliRunner().invoke(app, ["ask", CLIP, "What is shown?", *flags, *rest])
    assert result.exit_code == 0, result.stderr
    flag = ALLOCATION.replace("`allocation`", "--allocation")
    assert result.stderr.count(flag) == 1
    assert json.loads(result.stdout)["warnings"].count(flag) == 1


@pytest.mark.parametrize("command", ["ask", "compare"])
def test_commands_say_it_on_stderr_and_in_json(command: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('retain = 0.1\nfastv_layer = 3\nmethod = "divprune"\nvideo_window = 4\n')
    budget = ("--config", str(file), "--max-new-tokens", "1", "--end", "2", "--json")
    result = CliRunner().invoke(app, [command, CLIP, "What is shown?", *budget])
    assert result.exit_code == 0, result.stderr
    for sentence in (LAYER, WINDOW):
        assert result.stderr.count(sentence) == 1
        assert json.loads(result.stdout)["warnings"].count(sentence) == 1


def test_a_request_with_another_method_leaves_the_servers_options() -> None:
    server = ServeOptions(config=SeatsConfig(method="fastv", options=BOTH))

    def asked(**given: Any) -> SeatsConfig:
        found = _config(given, server)
        assert found is not None
        return found

    assert asked(retain=0.1).options == {"fastv_layer": 3}
    assert asked(method="visionzip").options == {"contextual_ratio": 0.1}
    assert asked(method="seats").options == {}
    assert asked(method="fastv-om", fastv_layer=5).options == {"fastv_layer": 5}
    kept = asked(method="seats", fastv_layer=5)
    assert list(kept.idle_warnings()) == [LAYER]
    server = ServeOptions(config=SeatsConfig(allocation="global"))
    assert not asked(method="random").idle_options
    assert asked(retain=0.1).allocation == "global"
