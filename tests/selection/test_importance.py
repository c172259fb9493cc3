"""Attention statistics against dense computations in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seats_cli.selection import importance
from seats_cli.selection.importance import pool_mean, received_attention
from seats_cli.selection.relevance import last_query_relevance
from tests.golden_units import Case, family_cases, family_facts


def _dense(query: Tensor, key: Tensor) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * query.shape[-1] ** -0.5
    return scores.softmax(-1).mean(0).sum(0).float()


@pytest.fixture
def query_key() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(37, 3, 8, generator=generator), torch.randn(37, 3, 8, generator=generator)


@pytest.mark.parametrize("limit", [1 << 24, 400, 1])
def test_received_attention(
    query_key: tuple[Tensor, Tensor], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "MAX_WEIGHTS", limit)
    query, key = query_key
    received = received_attention(query, key, 10)
    parts = zip(query.split(10), key.split(10), strict=True)
    assert torch.allclose(received, torch.cat([_dense(*part) for part in parts]), atol=1e-5)
    assert received.sum().item() == pytest.approx(37, rel=1e-5)


def test_received_attention_ends_windows_at_clips(query_key: tuple[Tensor, Tensor]) -> None:
    query, key = query_key
    lengths = [12, 25]
    together = received_attention(query, key, [5, 9], lengths)
    alone = [
        received_attention(q, k, window)
        for q, k, window in zip(query.split(lengths), key.split(lengths), (5, 9), strict=True)
    ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_half_precision_runs_in_float32(query_key: tuple[Tensor, Tensor]) -> None:
    query, key = (part.bfloat16() for part in query_key)
    received = received_attention(query, key, 37)
    assert received.dtype == torch.float32
    assert torch.allclose(received, _dense(query, key), atol=1e-5)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="same shape"):
        received_attention(torch.zeros(4, 2, 8), torch.zeros(5, 2, 8), 2)
    with pytest.raises(ValueError, match="query must"):
        last_query_relevance(torch.zeros(4, 8), torch.zeros(2, 5, 6))
    with pytest.raises(ValueError, match="not a multiple"):
        last_query_relevance(torch.zeros(4, 8), torch.zeros(3, 5, 8))
    with pytest.raises(ValueError, match="dimensions"):
        pool_mean(torch.zeros(2, 2, 2), 2)


def test_pool_mean_drops_the_tail() -> None:
    assert pool_mean(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), 2).tolist() == [2.0, 6.0]
    assert pool_mean(torch.tensor([1.0]), 2).tolist() == []


def _rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    turned = torch.cat((-states[..., half:], states[..., :half]), -1)
    return states * cos + turned * sin


def _final_angles(case: Case, sections: list[int], name: str) -> Tensor:
    """Rotary factors (S, d); Qwen2.5's still hold one row per M-RoPE axis."""
    values = case.tensors[name]
    if values.ndim == 3:
        return values[0]
    parts = values.split(sections * 2, -1)
    return torch.cat([part[index % 3] for index, part in enumerate(parts)], -1)[0]


@pytest.mark.parametrize(
    "family", ["top_down_layer", "top_down_layer_qwen3", "fastv", "fastv_qwen3"]
)
def test_golden_relevance(family: str) -> None:
    config = family_facts(family)["config"]
    layer, *cases = family_cases(family)
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    sections = config["rope_scaling"]["mrope_section"]
    eps = config["rms_norm_eps"]

    def project(hidden: Tensor, name: str, count: int) -> Tensor:
        weights = layer.tensors
        states = hidden @ weights[f"self_attn.{name}_proj.weight"].T
        states = states + weights.get(f"self_attn.{name}_proj.bias", torch.zeros(()))
        states = states.view(len(hidden), count, -1)
        norm = weights.get(f"self_attn.{name}_norm.weight")
        return states if norm is None else _rms_norm(states, norm, eps)

    checked = 0
    for case in cases:
        if "hidden_states" not in case.tensors:
            continue
        hidden = _rms_norm(
            case.tensors["hidden_states"][0], layer.tensors["input_layernorm.weight"], eps
        )
        cos, sin = (_final_angles(case, sections, name).unsqueeze(1) for name in ("cos", "sin"))
        key = _rotate(project(hidden, "k", key_heads), cos, sin).transpose(0, 1)
        query = _rotate(project(hidden[-1:], "q", heads), cos[-1:], sin[-1:])[0]
        relevance = last_query_relevance(query, key)
        assert torch.allclose(relevance, case.tensors["scores"], atol=2e-6), case.name
        checked += 1
    assert checked
