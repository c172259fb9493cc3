"""Bytes of weights, encoders and caches: against real models, and against the published sizes."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.cost.memory import CARDS, WeightCounts, encoder_bytes, kv_bytes
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.media.inspection import outline_clip
from seats_cli.models import load_model
from tests.models.checkpoints import write_checkpoint
from tests.test_planning import outline

CLIP = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
DENSE, MOE = "qwen2.5-omni-7b", "qwen3-omni-30b-a3b"
FAMILIES = ("qwen2_5_omni", "qwen3_omni_moe")


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, function, _types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self.live += size
            self._seen[key] = weakref.ref(storage, lambda _: self._drop(key, size))

    def _drop(self, key: int, size: int) -> None:
        self.live -= size
        del self._seen[key]


class TestWeights:
    def test_published_models(self) -> None:
        def gigabytes(name: str, bits: int) -> float:
            return WeightCounts.of(find_model(name).architecture).bytes_in(bits) / 1e9

        assert gigabytes(DENSE, 16) == pytest.approx(17.86, rel=0.001)
        assert gigabytes("qwen2.5-omni-3b", 16) == pytest.approx(9.4, rel=0.01)
        assert gigabytes(MOE, 16) == pytest.approx(63.44, rel=0.001)
        assert gigabytes(DENSE, 4) == pytest.approx(8.5, rel=0.01)
        assert gigabytes(DENSE, 4) < gigabytes(DENSE, 8) < gigabytes(DENSE, 16)

    def test_experts_and_what_surrounds_the_decoder_stay_as_they_are(self) -> None:
        dense, moe = (WeightCounts.of(find_model(name).architecture) for name in (DENSE, MOE))
        assert dense.experts == 0
        assert moe.experts / moe.total == pytest.approx(0.914, abs=0.001)
        assert moe.bytes_in(4) > 0.97 * moe.bytes_in(16)
        assert dense.bytes_in(4) - dense.decoder_linear * 0.5625 == 2 * (
            dense.embedding + dense.encoders
        )

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_real_model(self, tmp_path: Path, family: str) -> None:
        weights = write_checkpoint(tmp_path, family)
        counts = WeightCounts.of(find_model(str(tmp_path)).architecture)
        matrices = {name: value for name, value in weights.items() if value.ndim > 1}
        left_out = ("pos_embed", "audio_bos_eos_token")
        expected = sum(
            value.numel()
            for name, value in matrices.items()
            if not any(part in name for part in left_out)
        )
        assert counts.total == expected
        layers = [value for name, value in matrices.items() if "language_model.layers" in name]
        assert counts.decoder_linear + counts.experts == sum(map(torch.numel, layers))

    def test_tied_embeddings(self) -> None:
        model = find_model("bundled")
        assert model.tied_embeddings
        assert not find_model(DENSE).tied_embeddings
        counts = WeightCounts.of(model.architecture, tied_embeddings=True)
        loaded = load_model("bundled", device="cpu")
        # biases and norms are a larger share of so small a model
        assert counts.total == pytest.approx(loaded.facts.parameters, rel=0.02)


def test_cache_per_token() -> None:
    for name, expected in ((DENSE, 57_344), (MOE, 96 * 1024)):
        architecture = find_model(name).architecture
        assert kv_bytes(architecture, [1] * architecture.num_layers, 2) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", ["bundled", *FAMILIES])
@torch.inference_mode()
def test_encoders_hold_what_is_predicted(tmp_path: Path, model: str, dtype: torch.dtype) -> None:
    """Within 15 % of the bytes of all tensors alive, on clips in which one encoder or both work."""
    name = model
    if model != "bundled":
        write_checkpoint(tmp_path, model)
        name = str(tmp_path)
    loaded = load_model(name, device="cpu", dtype=str(dtype).removeprefix("torch."))
    adapter, shape = loaded.adapter, loaded.architecture
    vision, audio = shape.vision, shape.audio
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2

    def see(grid: tuple[int, int, int]) -> None:
        pixels = torch.zeros(grid[0] * grid[1] * grid[2], values)
        converted = pixels.to(dtype)
        adapter.visual(converted, grid_thw=torch.tensor([grid]))

    def hear(frames: int) -> None:
        sound = torch.zeros(audio.num_mel_bins, frames, dtype=dtype)
        adapter.audio_tower(sound, feature_lens=torch.tensor([frames]))

    for grid, frames in (((8, 16, 16), 0), ((0, 0, 0), 1600)):
        with LiveBytes() as held:
            see(grid) if grid[0] else hear(frames)
        sizes = MediaSizes((grid,) if grid[0] else (), (frames,) if frames else ())
        predicted = encoder_bytes(shape, sizes, dtype.itemsize)
        assert predicted == pytest.approx(held.peak, rel=0.15), (grid, frames)


class TestPlan:
    def test_which_cards(self) -> None:
        clip = outline(30.0, frames=60, side=560)
        for name, bits in ((DENSE, [16, 8, 4]), (MOE, [16])):
            memory = plan_run(clip, find_model(name), SeatsConfig(retain=0.1)).memory
            assert [need.bits for need in memory.needs] == bits
            assert (memory.note is None) == (name == DENSE)
            for need in memory.needs:
                assert need.weight_bytes < need.peak_bytes <= need.full_peak_bytes
                assert list(need.fits) == sorted(need.fits)  # a larger card never fits less
                assert tuple(map(max, need.fits, need.full_fits)) == need.fits
        assert memory.needs[0].fits == tuple(card == 80 for card in CARDS)
        assert memory.note is not None
        assert "91 %" in memory.note

    def test_pruning_makes_room(self) -> None:
        """A long clip of small frames: the cache of the whole prompt is what does not fit."""
        model = find_model(MOE)
        memory = plan_run(outline(1200.0, frames=768), model, SeatsConfig(retain=0.1)).memory
        assert memory.kv_bytes < 0.25 * memory.full_kv_bytes
        assert memory.activation_bytes < memory.full_activation_bytes

    def test_without_a_budget_it_is_ten_per_cent(self) -> None:
        clip, model = outline(30.0, frames=60), find_model(DENSE)
        unpruned = plan_run(clip, model, None).memory
        assert unpruned == plan_run(clip, model, SeatsConfig(retain=0.1)).memory

    def test_it_is_what_the_bundled_model_takes(self) -> None:
        model = find_model("bundled")
        planned = plan_run(outline_clip(CLIP, sizing=model.sizing), model, None)
        assert planned.memory.full_kv_bytes == planned.full_kv_bytes  # both in 16 bits
        assert planned.memory.needs[0].fits == (True,) * len(CARDS)
