"""What the method that runs does not have or follow is named, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.cli.to_config import _by_method
from seats_cli.config import OPTION_METHODS, SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.engine.clip_prefix import setting_key
from seats_cli.engine.prune import prune
from seats_cli.selection.methods import METHODS, acting_config
from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import _config
from tests.engine import test_methods
from tests.test_planning import outline

CLIP = str(Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4")
ALLOCATION = "`allocation` has no effect here: it is a setting of the method seats."
LAYER = "`fastv_layer` has no effect here: it is an option of the methods fastv and fastv-om."
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
    file.write_text("retain = 0.1\nfastv_layer = 3\n")
    budget = ("--config", str(file), "--max-new-tokens", "1", "--end", "2", "--json")
    result = CliRunner().invoke(app, [command, CLIP, "What is shown?", *budget])
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(LAYER) == 1
    assert json.loads(result.stdout)["warnings"].count(LAYER) == 1


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
