"""Random, FastV, VisionZip and their budgets, held to the recorded outputs of single functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seats_cli.errors import ConfigError
from seats_cli.selection.methods.baselines import keep_random_modalities
from seats_cli.selection.methods.budgets import ratio_after_layer, require_positive, spare_audio
from seats_cli.selection.methods.fastv import keep_attended
from seats_cli.selection.methods.visionzip import zip_tokens
from seats_cli.selection.windows import fixed_windows
from tests.golden_units import Case, cases_with_result, family_cases

FASTV = [case for family in ("fastv", "fastv_qwen3") for case in family_cases(family)[1:]]
VISIONZIP = [
    (modality, case)
    for modality in ("video", "audio")
    for case in family_cases(f"visionzip_{modality}")
]
HELPERS = cases_with_result("ratio_helpers")


def _named(function: str) -> list[Case]:
    return [case for case in HELPERS if case.facts["fn"] == function]


def _types(case: Case, letter: str) -> Tensor:
    return torch.tensor([kind == letter for kind in case.facts["token_types"]])


def _stable(case: Case) -> bool:
    return all(case.facts.get(name, True) for name in ("stable", "stable_mask"))


@pytest.mark.parametrize("case", family_cases("random"), ids=lambda case: case.name)
def test_random(case: Case) -> None:
    ids, facts = case.tensors["input_ids"].flatten(), case.facts
    video, audio = ids == facts["video_token_id"], ids == facts["audio_token_id"]
    keep = keep_random_modalities(
        video, audio, facts["video_ratio"], facts["audio_ratio"], facts["torch_seed"]
    )
    assert torch.equal(keep & video, case.tensors["video_keep_mask"].flatten() & video)
    assert torch.equal(keep & audio, case.tensors["audio_keep_mask"].flatten() & audio)
    assert bool(keep[~(video | audio)].all())


@pytest.mark.parametrize("case", FASTV, ids=lambda case: case.name)
def test_fastv(case: Case) -> None:
    facts, video, audio = case.facts, _types(case, "V"), _types(case, "A")
    keep = keep_attended(
        case.tensors["scores"].flatten(),
        video,
        audio,
        facts["video_ratio"],
        facts["audio_ratio"],
        audio_seed=facts["torch_seed"] if facts["method"] == "fastv" else None,
    )
    assert int(keep[video].sum()) == facts["n_video_kept"]
    assert int(keep[audio].sum()) == facts["n_audio_kept"]
    if _stable(case):
        assert torch.equal(keep, case.tensors["keep_mask"].flatten())


@pytest.mark.parametrize(
    ("modality", "case"), VISIONZIP, ids=lambda value: getattr(value, "name", value)
)
def test_visionzip(modality: str, case: Case) -> None:
    facts, tensors = case.facts, case.tensors
    mask = tensors["input_ids"].flatten() == facts[f"{modality}_token_id"]
    if modality == "video":
        _, height, width = tensors["video_grid_thw"][0].tolist()
        window = facts["grid_in_window"] * height * width // 4
    else:
        window = facts["sec_in_audio_window"] * 25
    embeddings = tensors["inputs_embeds"][0].clone()
    keep, merged = zip_tokens(
        embeddings[mask],
        tensors["attn_mean"],
        tensors["attn_key"].mean(0),
        window,
        facts["ratio"],
        facts["contextual_ratio"],
    )
    assert int(keep.sum()) == facts["n_kept_modality"]
    if merged is not None:
        embeddings[mask] = merged
    if _stable(case):
        assert torch.equal(keep, tensors["keep_mask"].flatten()[mask])
        torch.testing.assert_close(embeddings, tensors["embeds_out"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "case", _named("avg_ratio_to_fastv_setting_ratio"), ids=lambda case: case.name
)
def test_ratio_after_layer(case: Case) -> None:
    arguments = case.facts["args"]
    depth = (arguments["fastv_k"], arguments["num_layers"])
    found = [
        ratio_after_layer(arguments[f"avg_{modality}_ratio"], *depth)
        for modality in ("video", "audio")
    ]
    assert found == pytest.approx(case.facts["result"], rel=1e-9)


@pytest.mark.parametrize("case", _named("audio_intact_reallocate"), ids=lambda case: case.name)
def test_spare_audio(case: Case) -> None:
    video, audio, n_video, n_audio, *floor = case.facts["args"].values()
    found = spare_audio(video, audio, n_video, n_audio, *floor)
    assert found == pytest.approx(case.facts["result"], rel=1e-9)


def test_negative_fractions_are_refused() -> None:
    video, audio = spare_audio(0.01, 0.01, 1000, 50)
    assert audio < 0.0
    with pytest.raises(ConfigError, match=r"more than 0\.0476"):
        require_positive("visionzip", video, audio, 50 / 1050)


def test_spare_audio_without_a_modality() -> None:
    assert spare_audio(0.3, 0.65, 0, 100) == (0.3, 0.65)
    assert spare_audio(0.3, 0.65, 100, 0) == (0.3, 0.65)


@pytest.mark.parametrize("case", _named("get_window_idx_list"), ids=lambda case: case.name)
def test_windows(case: Case) -> None:
    arguments = case.facts["args"]
    windows = fixed_windows(arguments["seq_len"], arguments["window_tokens"])
    found = sorted([start, start + size] for size, starts in windows.items() for start in starts)
    assert found == case.facts["result"]
