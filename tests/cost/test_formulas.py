"""The paper's accounting against the authors' numbers, and arithmetic on counts."""

from __future__ import annotations

import pytest

from seats_cli.cost.flops import decode_flops, layer_flops, prefill_flops
from seats_cli.cost.memory import cached_tokens, kv_bytes
from seats_cli.cost.paper import paper_prefill_macs
from seats_cli.cost.selection import comparison_flops, pairs, relevance_flops
from seats_cli.families.base import Architecture
from tests.golden_units import Case, cases_with_result
from tests.shapes import architecture


def _architecture(arguments: dict[str, int]) -> Architecture:
    heads = arguments["num_heads"]
    return architecture(
        num_layers=arguments.get("num_layers", 1),
        hidden_size=arguments["hidden_size"],
        intermediate_size=arguments["intermediate_size"],
        num_heads=heads,
        num_kv_heads=arguments["num_kv_heads"] or heads,
        head_dim=arguments["hidden_size"] // heads,
        vocab_size=arguments.get("vocab_size", 0),
    )


@pytest.mark.parametrize("case", cases_with_result("cost_metrics"), ids=lambda case: case.name)
def test_golden(case: Case) -> None:
    arguments = case.facts["args"]
    shapes = _architecture(arguments)
    if case.facts.get("fn") == "segmented":
        drops = [(layer + 1, left) for layer, left in arguments["drop_events"] or ()]
        left_after, alive = dict(drops), [arguments["initial_seq_len"]]
        for layer in range(1, arguments["num_layers"] + 1):
            alive.append(left_after.get(layer, alive[-1]))
        final = alive.pop()
        macs = paper_prefill_macs(shapes, alive, final) * arguments.get("batch_size", 1)
    else:
        macs = layer_flops(shapes, arguments["seq_len"]) // 2
    assert macs == pytest.approx(case.facts["result"], rel=1e-12)


def test_executed_prefill_is_twice_the_paper_but_for_the_head() -> None:
    shapes = architecture()
    alive = [4000] * 16 + [900] * 12
    head = shapes.hidden_size * shapes.vocab_size
    assert prefill_flops(shapes, alive) == 2 * (paper_prefill_macs(shapes, alive, final=1))
    assert paper_prefill_macs(shapes, alive) - paper_prefill_macs(shapes, alive, 1) == 899 * head


def test_experts_replace_the_dense_mlp() -> None:
    dense = architecture(intermediate_size=768 * 8)
    sparse = architecture(num_experts=128, experts_per_token=8, moe_intermediate_size=768)
    router = 2 * 10 * dense.hidden_size * 128
    assert layer_flops(sparse, 10) == layer_flops(dense, 10) + router


def test_decode_grows_with_the_cache() -> None:
    shapes = architecture()
    one = decode_flops(shapes, [100] * 28, 1)
    assert decode_flops(shapes, [100] * 28, 2) == one + decode_flops(shapes, [101] * 28, 1)
    assert decode_flops(shapes, [100] * 28, 0) == 0


def test_cache_bytes() -> None:
    shapes = architecture()
    alive = [1000] * 16 + [400] * 7 + [60] * 5
    assert cached_tokens(alive, "layerwise") == alive
    assert cached_tokens(alive, "survivors") == [60] * 28
    # 2 x 4 heads x 128 x 2 bytes = 2 KiB for each token and layer
    assert kv_bytes(shapes, cached_tokens(alive, "survivors"), 2) == 60 * 28 * 2048
    with pytest.raises(ValueError, match="kv must be"):
        cached_tokens(alive, "none")


def test_selection_costs_little() -> None:
    shapes = architecture()
    added = comparison_flops(pairs([720] * 30, shapes.hidden_size))
    added += comparison_flops(pairs([2880] * 30, shapes.vision.hidden_size))
    added += 3 * relevance_flops(shapes, 20000)
    assert 0 < added < 0.05 * prefill_flops(shapes, [21600] * 28)


def test_one_count_per_layer() -> None:
    with pytest.raises(ValueError, match="27 token counts for 28 layers"):
        prefill_flops(architecture(), [10] * 27)
