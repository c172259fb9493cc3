"""Encoders with one attention call per segment length compute what the stock ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seats_cli.models import encoder_attention, load_model, optimize
from seats_cli.models.adapter import Adapter
from seats_cli.models.random_weights import random_model
from seats_cli.models.registry import adapter_for
from tests.engine.golden import FAMILIES, build

# Several clips of different sizes: whole windows, borders and corners, one of a single grid.
GRIDS = ((4, 10, 6), (3, 8, 12), (1, 4, 4), (2, 14, 10))
MEL_FRAMES = (437, 260, 100, 1630)


@pytest.fixture(scope="module", params=FAMILIES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return adapter_for(build(request.param))


def vision(adapter: Adapter, grids: tuple[tuple[int, int, int], ...]) -> Tensor:
    config = adapter.config.vision_config
    grid = torch.tensor(grids)
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(int(grid.prod(1).sum()), values, generator=seeded())
    return adapter.visual(pixels, grid_thw=grid).last_hidden_state


def audio(adapter: Adapter, mel_frames: tuple[int, ...]) -> Tensor:
    sound = torch.randn(
        adapter.config.audio_config.num_mel_bins, sum(mel_frames), generator=seeded()
    )
    return adapter.audio_tower(sound, feature_lens=torch.tensor(mel_frames)).last_hidden_state


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestAgainstStock:
    @pytest.mark.parametrize("grids", [GRIDS, GRIDS[:1], GRIDS[2:3]])
    @torch.no_grad()
    def test_vision(self, adapter: Adapter, grids: Any) -> None:
        stock = vision(adapter, grids)
        with optimize.use_for_encoders(adapter):
            ours = vision(adapter, grids)
        torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("mel_frames", [MEL_FRAMES, (800,), (37,)])
    @torch.no_grad()
    def test_audio(self, adapter: Adapter, mel_frames: tuple[int, ...]) -> None:
        stock = audio(adapter, mel_frames)
        with optimize.use_for_encoders(adapter):
            ours = audio(adapter, mel_frames)
        torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)

    @torch.no_grad()
    def test_a_call_per_window_of_a_grid_instead_of_one_per_segment(
        self, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        sdpa = F.scaled_dot_product_attention

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(len(args[0]))
            return sdpa(*args, **kwargs)

        monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
        vision(adapter, GRIDS[:1])
        stock, calls[:] = list(calls), []
        with optimize.use_for_encoders(adapter):
            vision(adapter, GRIDS[:1])
        assert set(stock) == {1}
        assert sum(calls) == len(stock)  # the same segments
        assert len(calls) <= 6 * len(adapter.visual.blocks)  # windows of a grid
        assert 3 * len(calls) < len(stock)

    def test_gradients(self, adapter: Adapter) -> None:
        weight = next(adapter.audio_tower.layers[0].parameters())
        audio(adapter, (437, 260)).square().mean().backward()
        stock, weight.grad = weight.grad, None
        with optimize.use_for_encoders(adapter):
            audio(adapter, (437, 260)).square().mean().backward()
        ours, weight.grad = weight.grad, None
        assert stock is not None
        assert ours is not None
        assert stock.abs().max() > 0
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-7)


def slowly(query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
    """Attention with a mask between the segments."""
    names = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = names[:, None] == names[None]
    batch = (x.transpose(0, 1)[None] for x in (query, key, value))
    return F.scaled_dot_product_attention(*batch, attn_mask=mask)[0].transpose(0, 1)


rows = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(rows, st.integers(1, 4)), min_size=1, max_size=3))
def test_any_lengths(repeated: list[tuple[list[int], int]]) -> None:
    lengths = [length for row, count in repeated for length in row * count]
    assume(any(lengths))
    packed = [torch.randn(sum(lengths), 2, 8, generator=seeded()) for _ in range(3)]
    ours = encoder_attention.batched_segments(*packed, lengths=tuple(lengths))
    torch.testing.assert_close(ours, slowly(*packed, lengths), rtol=1e-5, atol=1e-5)


def test_patterns_of_two_clips() -> None:
    first, second = (64, 64, 32), (48,)
    found = encoder_attention.patterns(first * 5 + second * 4 + (7,))
    assert [(one.start, one.count, one.size) for one in found] == [
        (0, 5, 160),
        (800, 4, 48),
        (992, 1, 7),
    ]
    assert found[0].segments == ((0, 64), (64, 64), (128, 32))


class TestKernel:
    """PyTorch's variable-length kernel runs on a GPU only; here a slow one stands in."""

    def test_gets_whole_sequences(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lengths, given_to_it = [3, 5, 2], []

        def kernel(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
            given_to_it.append(rest)
            return slowly(q, k, v, lengths)

        monkeypatch.setattr(encoder_attention, "_varlen_kernel", lambda *_: kernel)
        packed = [torch.randn(1, 2, 10, 8, generator=seeded()) for _ in range(3)]
        borders = torch.tensor([0, 3, 8, 10])
        output, weights = encoder_attention.segment_attention(
            torch.nn.Module(), *packed, cu_seq_lens_q=borders, scaling=8**-0.5
        )
        assert weights is None
        assert output.shape == (1, 10, 2, 8)
        ((first, second, longest, other),) = given_to_it
        assert torch.equal(first, borders.int())
        assert torch.equal(second, borders.int())
        assert longest == other == 5
        flat = [x[0].transpose(0, 1) for x in packed]
        torch.testing.assert_close(output[0], slowly(*flat, lengths))

    def test_not_on_a_cpu(self) -> None:
        query = torch.zeros(4, 2, 8, dtype=torch.bfloat16)
        assert encoder_attention._varlen_kernel(query, None, 0.0) is None

    def test_one_segment_without_borders(self) -> None:
        packed = [torch.randn(1, 2, 6, 8, generator=seeded()) for _ in range(3)]
        output, _ = encoder_attention.segment_attention(torch.nn.Module(), *packed)
        expected = F.scaled_dot_product_attention(*packed).transpose(1, 2)
        torch.testing.assert_close(output, expected)

    def test_no_batches_and_no_masks(self) -> None:
        one, two = torch.zeros(1, 2, 6, 8), torch.zeros(2, 2, 6, 8)
        with pytest.raises(ValueError, match="one sequence"):
            encoder_attention.segment_attention(torch.nn.Module(), two, two, two)
        with pytest.raises(ValueError, match="no mask"):
            encoder_attention.segment_attention(
                torch.nn.Module(), one, one, one, torch.zeros(1, 1, 6, 6)
            )


def registered() -> set[str]:
    """Names of all attentions that transformers knows now."""
    return set(ALL_ATTENTION_FUNCTIONS)


class TestSwitch:
    def test_only_the_encoders(self, adapter: Adapter) -> None:
        before = str(adapter.config.to_dict())
        with optimize.use_for_encoders(adapter):
            assert optimize.encoder_attention(adapter) == (optimize.SEGMENTS, optimize.SEGMENTS)
            assert adapter.config._attn_implementation == "sdpa"
            assert adapter.language_model.config._attn_implementation == "sdpa"
            assert optimize.SEGMENTS not in str(adapter.config.to_dict())
        assert str(adapter.config.to_dict()) == before

    def test_left_as_found_after_an_error(self, adapter: Adapter) -> None:
        with optimize.use_for_encoders(adapter, "eager"):
            with pytest.raises(RuntimeError, match="inside"), optimize.use_for_encoders(adapter):
                raise RuntimeError("inside")
            assert optimize.encoder_attention(adapter) == ("eager", "eager")
        assert optimize.encoder_attention(adapter) == ("sdpa", "sdpa")

    def test_registered_while_anybody_uses_it(self, adapter: Adapter) -> None:
        before = registered()
        other = adapter_for(build("qwen2_5"))
        first, second = optimize.use_for_encoders(adapter), optimize.use_for_encoders(other)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert registered() - before == {optimize.SEGMENTS}
        second.__exit__(None, None, None)
        assert registered() == before

    def test_unknown_name(self, adapter: Adapter) -> None:
        with pytest.raises(ValueError, match="magic"), optimize.use_for_encoders(adapter, "magic"):
            pass
        assert optimize.encoder_attention(adapter) == ("sdpa", "sdpa")

    def test_flash_attn_where_it_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda, cpu = torch.device("cuda"), torch.device("cpu")
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
        assert optimize.best_for_encoders(cuda, torch.bfloat16) == "flash_attention_2"
        assert optimize.best_for_encoders(cuda, torch.float32) == optimize.SEGMENTS
        assert optimize.best_for_encoders(cpu, torch.bfloat16) == optimize.SEGMENTS
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
        assert optimize.best_for_encoders(cuda, torch.bfloat16) == optimize.SEGMENTS


class TestLoading:
    def test_sdpa_is_ours_in_the_encoders(self) -> None:
        loaded = load_model("bundled", device="cpu")
        assert loaded.facts.attention == "sdpa"
        assert loaded.facts.encoder_attention == optimize.SEGMENTS
        assert loaded.speedups.encoder_attention == optimize.SEGMENTS
        assert optimize.encoder_attention(loaded.adapter) == ("sdpa", "sdpa")  # between runs
        assert loaded.adapter.language_model.config._attn_implementation == "sdpa"

    @pytest.mark.parametrize("attention", ["stock-sdpa", "eager"])
    def test_stock_on_demand(self, attention: str) -> None:
        loaded = load_model("bundled", device="cpu", attention=attention)
        stock = attention.removeprefix("stock-")
        assert loaded.facts.attention == attention
        assert loaded.facts.encoder_attention == stock
        assert loaded.speedups.encoder_attention is None
        assert optimize.encoder_attention(loaded.adapter) == (stock, stock)

    def test_random_weights_too(self) -> None:
        loaded = random_model("cpu-0.5b", layers=1, hidden=64, device="cpu", dtype="bfloat16")
        assert loaded.facts.encoder_attention == optimize.SEGMENTS
