"""Settings, plans, presets, files, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seats_cli
from seats_cli.config import SeatsConfig
from seats_cli.errors import ConfigError
from seats_cli.families.registry import describe_config, family_named, named_config
from seats_cli.schedule import PruningPlan
from tests.shapes import architecture, average_retention

FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")
QWEN2_5 = family_named("qwen2_5_omni")
PRESETS = ("35%", "25%", "15%", "10%")

PUBLISHED = {
    "qwen2_5_omni": {
        "35%": (0.30, 0.65),
        "25%": (0.20, 0.55),
        "15%": (0.10, 0.45),
        "10%": (0.06, 0.35),
    },
    "qwen3_omni_moe": {
        "35%": (0.32, 0.70),
        "25%": (0.22, 0.60),
        "15%": (0.12, 0.50),
        "10%": (0.07, 0.45),
    },
}


def _averages(plan: PruningPlan) -> tuple[float, float]:
    assert plan.num_layers is not None
    where = (plan.num_layers, plan.drop_layers, plan.late_layer)
    return (
        average_retention(plan.initial_video, plan.keep_video, *where),
        average_retention(plan.initial_audio, plan.keep_audio, *where),
    )


# Plans


def test_plan_takes_lists_and_defaults() -> None:
    plan = PruningPlan(
        initial_video=0.42,
        initial_audio=0.91,
        drop_layers=[3, 4, 5],
        keep_video=[0.9298, 0.7949, 0.2986],
        keep_audio=[0.9298, 0.7949, 0.2986],
        late_layer=7,
        temperature=0.3,
        config=SeatsConfig(allocation="adaptive", kv="survivors"),
    )
    assert plan.drop_layers == (3, 4, 5)
    assert plan.keep_video == plan.keep_audio == (0.9298, 0.7949, 0.2986)
    assert plan.for_layers(8).num_layers == 8
    assert hash(plan) == hash(dataclasses.replace(plan))
    assert PruningPlan(1.0, 1).prunes is False
    assert plan.prunes


def test_golden_runs_are_valid_plans() -> None:
    golden = Path(__file__).parent / "golden"
    for family in ("e2e_qwen2_5", "e2e_qwen3"):
        runs = json.loads((golden / family / "cases.json").read_text())["runs"]
        for run in runs.values():
            plan = PruningPlan(
                run["video_encoder_ratio"],
                run["audio_encoder_ratio"],
                drop_layers=run["drop_layers"],
                keep_video=run["video_list"],
                keep_audio=run["audio_list"],
                late_layer=run["late_block_layer"],
            )
            assert plan.for_layers(8).prunes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_video": 0.0}, "initial_video must be above 0 and at most 1, got 0.0"),
        ({"initial_audio": 1.12}, "initial_audio must be above 0 and at most 1, got 1.12"),
        ({"initial_audio": float("nan")}, "initial_audio"),
        ({"initial_audio": True}, "initial_audio"),
        ({"keep_video": [0.5]}, "keep_video has 1 values for 2 drop layers"),
        ({"keep_audio": [0.5, 1.01]}, "keep_audio must be above 0 and at most 1, got 1.01"),
        ({"keep_audio": 0.5}, "keep_audio must be a list"),
        ({"drop_layers": [18, 16]}, "strictly increasing"),
        ({"drop_layers": [16, 16]}, "strictly increasing"),
        ({"drop_layers": [0, 16]}, "drop_layers must be a whole number of at least 1, got 0"),
        ({"drop_layers": [16, 23]}, "drop layers must be below 23"),
        ({"drop_layers": [16, 30]}, "drop layers must be below 23"),
        ({"drop_layers": [16, 28], "late_layer": None}, "drop layers must be below 28"),
        ({"late_layer": 1, "drop_layers": [], "keep_video": [], "keep_audio": []}, "at least 2"),
        ({"late_layer": 29}, "the model has 28 layers"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_plan_refuses(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "initial_video": 0.42,
        "initial_audio": 0.91,
        "drop_layers": [16, 18],
        "keep_video": [0.9, 0.5],
        "keep_audio": [0.9, 0.5],
        "late_layer": 24,
        "num_layers": 28,
    }
    PruningPlan(**good)
    with pytest.raises(ConfigError, match=message):
        PruningPlan(**{**good, **changes})


def test_depth_is_checked_when_it_becomes_known() -> None:
    plan = PruningPlan(0.5, 0.5, late_layer=24)
    with pytest.raises(ConfigError, match="the model has 14 layers"):
        plan.for_layers(14)


# Published settings


def test_published_layers() -> None:
    found = {
        name: describe_config(named_config(name), name)[0]
        for name in ("qwen2.5-omni-7b", "qwen3-omni-30b-a3b", "qwen2.5-omni-3b")
    }
    assert [(a.drop_layers, a.late_layer, a.layers_from) for a in found.values()] == [
        ((16, 18, 20), 24, "paper"),
        ((27, 31, 35), 40, "paper"),
        ((21, 23, 26), 31, "depth"),
    ]
    assert [a.temperature for a in found.values()] == [0.1, 0.3, 0.1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", range(2, 81))
def test_presets_are_reachable_at_any_depth(family: str, depth: int) -> None:
    for preset in PRESETS:
        plan = PruningPlan.resolve(SeatsConfig.preset(preset), architecture(family, depth))
        target = PUBLISHED[family][preset]
        assert _averages(plan) == pytest.approx(target, rel=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_presets_stand_for_the_published_pairs(family: str) -> None:
    for preset, pair in PUBLISHED[family].items():
        assert SeatsConfig.preset(preset).targets(family) == pair
    with pytest.raises(ConfigError, match="one of 35%, 25%, 15%, 10%, got '20%'"):
        SeatsConfig.preset("20%")


def test_paper_plan() -> None:
    plan = PruningPlan.resolve(SeatsConfig.preset("10%"), architecture())
    assert plan.initial_video == pytest.approx(0.084)
    assert plan.initial_audio == pytest.approx(0.49)
    assert plan.keep_video == plan.keep_audio == (0.9298, 0.7949, 0.2986)
    assert (plan.drop_layers, plan.late_layer) == ((16, 18, 20), 24)
    assert (plan.temperature, plan.config.video_window, plan.config.audio_window) == (0.1, 2, 50)
    assert plan.num_layers == 28


@given(first=st.floats(0.001, 1.0), second=st.floats(0.001, 1.0))
def test_interpolated_pairs_are_ordered(first: float, second: float) -> None:
    low, high = sorted((first, second))
    for family in FAMILIES:
        below, above = (family_named(family).retention_pair(share) for share in (low, high))
        assert below[0] <= above[0] + 1e-12
        assert below[1] <= above[1] + 1e-12
        assert 0 < below[0] <= 1
        assert 0 < below[1] <= 1


def test_interpolation() -> None:
    assert QWEN2_5.retention_pair(0.2) == pytest.approx((0.15, 0.5))
    assert QWEN2_5.retention_pair(0.05) == pytest.approx((0.03, 0.175))
    assert QWEN2_5.retention_pair(1.0) == (1.0, 1.0)


# From settings to plans


def test_everything_kept_is_no_pruning() -> None:
    for config in (SeatsConfig(retain=1.0), SeatsConfig(retain_video=1, retain_audio=1)):
        plan = PruningPlan.resolve(config, architecture())
        assert not plan.prunes
        assert (plan.drop_layers, plan.late_layer) == ((), None)


def test_overrides_win_over_the_pair() -> None:
    config = SeatsConfig(retain=0.25, retain_audio=0.4)
    assert config.targets("qwen2_5_omni") == (0.2, 0.4)
    assert SeatsConfig().targets("qwen2_5_omni") == (0.2, 0.55)


def test_a_model_may_have_pairs_of_its_own() -> None:
    own = ((0.3, 0.4, 0.25), (0.1, 0.2, 0.05))
    assert QWEN2_5.retention_pair(0.1, own) == (0.2, 0.05)
    assert QWEN2_5.retention_pair(0.2, own) == pytest.approx((0.3, 0.15))
    assert QWEN2_5.retention_pair(1.0, own) == (1.0, 1.0)
    assert SeatsConfig(retain=0.3, retain_audio=0.5).targets("qwen2_5_omni", own) == (0.4, 0.5)
    described, _ = describe_config(
        {**named_config("cpu-0.5b"), "seats": {"retention_pairs": [[0.1, 0.2, 0.05]]}}, "mine"
    )
    plan = PruningPlan.resolve(SeatsConfig(retain=0.1), described)
    assert (plan.target_video, plan.target_audio) == (0.2, 0.05)


def test_defaults_come_from_the_architecture() -> None:
    shape = architecture(num_layers=14, drop_layers=(6, 9), late_layer=12, temperature=0.2)
    plan = PruningPlan.resolve(SeatsConfig(), shape)
    assert (plan.drop_layers, plan.late_layer, plan.temperature) == ((6, 9), 12, 0.2)


def test_default_drop_layers_give_way_to_an_earlier_late_block() -> None:
    plan = PruningPlan.resolve(SeatsConfig(late_layer=20, encoder_scale=1.5), architecture())
    assert plan.drop_layers == (16, 18)
    no_late = PruningPlan.resolve(SeatsConfig(late_layer="none"), architecture())
    assert (no_late.drop_layers, no_late.late_layer) == ((16, 18, 20), None)


@pytest.mark.parametrize("late_layer", [None, "none", 20])
def test_without_drop_layers_the_initial_fraction_meets_the_target(
    late_layer: int | str | None,
) -> None:
    plan = PruningPlan.resolve(
        SeatsConfig(retain=0.25, drop_layers=[], late_layer=late_layer), architecture()
    )
    assert _averages(plan) == pytest.approx((0.2, 0.55))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain": 0.9}, r"retain_video 0.892 is out of reach.* between 0.684 and 0.821"),
        ({"retain_audio": 1.0}, r"retain_audio 1 is out of reach.* ask for at most 0.82"),
        ({"encoder_scale": 1.6}, r"between 0.219 and 0.263; set encoder_scale to at most 1.46"),
        ({"encoder_scale": 1.1}, r"between 0.150 and 0.181; set encoder_scale to at least 1.22"),
        ({"drop_layers": [16, 18, 23]}, "drop layers must be below 23"),
        ({"late_layer": 40}, "the model has 28 layers"),
    ],
)
def test_unreachable_settings_are_refused_with_a_remedy(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PruningPlan.resolve(SeatsConfig(**changes), architecture())


def test_the_remedy_helps() -> None:
    for changes in ({"encoder_scale": 1.46}, {"encoder_scale": 1.22}, {"retain_audio": 0.82}):
        PruningPlan.resolve(SeatsConfig(**changes), architecture())
    PruningPlan.resolve(SeatsConfig(retain=0.9, late_layer="none"), architecture())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain": 0}, "retain must be above 0 and at most 1, got 0"),
        ({"retain": "10%"}, "retain"),
        ({"retain_video": 1.5}, "retain_video"),
        ({"encoder_scale": -1}, "encoder_scale"),
        ({"drop_layers": [5, 3]}, "strictly increasing"),
        ({"drop_layers": "5"}, "drop_layers must be a list"),
        ({"late_layer": "never"}, "late_layer"),
        ({"late_layer": 1}, "late_layer must be a whole number of at least 2"),
        ({"temperature": 0}, "temperature"),
        ({"kv": 3}, "kv must be one of layerwise, survivors"),
        ({"allocation": "even"}, "allocation must be one of reference, adaptive"),
        ({"video_window": 0}, "video_window"),
        ({"audio_window": 2.5}, "audio_window"),
        ({"method": ""}, "method"),
        ({"still_tolerance": 256}, "still_tolerance"),
    ],
)
def test_config_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SeatsConfig(**changes)


# Files

FULL = SeatsConfig(
    retain=0.2,
    retain_video=0.1,
    retain_audio=1e-05,
    encoder_scale=1.3,
    drop_layers=(3, 5),
    late_layer="none",
    temperature=0.3,
    allocation="adaptive",
    kv="survivors",
)


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.parametrize("config", [SeatsConfig(), FULL, SeatsConfig(drop_layers=(), late_layer=9)])
def test_round_trip(config: SeatsConfig, suffix: str, tmp_path: Path) -> None:
    if suffix == "toml":
        pytest.importorskip("tomllib")
    path = tmp_path / f"settings.{suffix}"
    config.dump(path)
    assert SeatsConfig.load(str(path)) == config
    assert SeatsConfig.from_dict(config.to_dict()) == config


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ConfigError, match="Unknown setting lambda, tau; known are retain, "):
        SeatsConfig.from_dict({"retain": 0.1, "tau": 1, "lambda": 2})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json is not valid JSON"),
        ("a.json", "[1]", "a.json must hold a table"),
        ("a.toml", "retain = ", "a.toml is not valid TOML"),
        ("a.yaml", "retain: 1", "must end in .toml or .json"),
        ("a.toml", None, "a.toml cannot be read: No such file"),
        ("missing/a.json", None, "cannot be read"),
    ],
)
def test_bad_files(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        SeatsConfig.load(path)


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", "retain = 0.1"), ("a.json", '{"retain": 0.1}')]
)
def test_a_byte_order_mark_is_nothing(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    assert SeatsConfig.load(tmp_path / name) == SeatsConfig(retain=0.1)


def test_unwritable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        SeatsConfig().dump(tmp_path / "missing" / "a.toml")


# The package


def test_package_exports() -> None:
    assert seats_cli.SeatsConfig is SeatsConfig
    assert seats_cli.PruningPlan is PruningPlan
    assert {"prune", "SeatsConfig", "__version__"} <= set(dir(seats_cli))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seats_cli.nothing


def test_settings_do_not_import_torch() -> None:
    code = (
        "import sys, seats_cli, seats_cli.cost.flops, seats_cli.cost.paper\n"
        "seats_cli.SeatsConfig.preset('10%')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Other methods


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["random", "fastv-om", "visionzip", "omnidrop"])
def test_the_schedule_is_for_seats_alone(family: str, method: str) -> None:
    config = SeatsConfig(
        retain=0.25, method=method, drop_layers=(3, 5), late_layer=8, encoder_scale=3.0, seed=7
    )
    plan = PruningPlan.resolve(config, architecture(family))
    assert (plan.retention_video, plan.retention_audio) == PUBLISHED[family]["25%"]
    assert (plan.initial_video, plan.initial_audio) == (1.0, 1.0)
    assert plan.drop_layers == ()
    assert plan.late_layer is None
    assert plan.prunes
    assert plan.config.seed == 7
    everything = dataclasses.replace(config, retain=1.0)
    assert not PruningPlan.resolve(everything, architecture(family)).prunes


def test_full_prunes_nothing_whatever_is_asked() -> None:
    plan = PruningPlan.resolve(SeatsConfig(retain=0.1, method="full"), architecture())
    assert not plan.prunes
    assert (plan.retention_video, plan.retention_audio) == (1.0, 1.0)


def test_seats_plan_carries_its_targets() -> None:
    plan = PruningPlan.resolve(SeatsConfig(retain=0.25), architecture())
    assert (plan.retention_video, plan.retention_audio) == (0.20, 0.55)
    assert PruningPlan(0.3, 0.6).retention_audio == 0.6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contextual_ratio", 1.0),
        ("contextual_ratio", -0.1),
        ("fastv_layer", 0),
        ("fastv_layer", 1.5),
        ("seed", -1),
    ],
)
def test_options_of_methods_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        SeatsConfig.from_dict({name: value})


def test_targets_are_checked() -> None:
    with pytest.raises(ConfigError, match="target_video"):
        PruningPlan(0.5, 0.5, target_video=0.0)
