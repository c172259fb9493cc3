"""Devices, precision and memory while loading, on machines that this one only pretends to be."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli.errors import UsageError
from seats_cli.models import devices, load_model
from seats_cli.models.devices import (
    _available_host_bytes,
    device_named,
    dtype_named,
    precision_notices,
)
from seats_cli.models.weight_memory import stored_weights
from tests.models.checkpoints import write_checkpoint

JFK = Path(__file__).parents[2] / "assets" / "jfk.wav"
CUDA, MPS, CPU = (torch.device(kind) for kind in ("cuda", "mps", "cpu"))
# Of torch's types, those that seats does not work on.
OTHER_TYPES = [
    "hip",
    "hpu",
    "lazy",
    "maia",
    "meta",
    "mkldnn",
    "mtia",
    "privateuseone",
    "xla",
    "xpu",
]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Ampere GPUs with 15 GB free on each."""
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "get_device_name", lambda _where=None: "NVIDIA A2")
    monkeypatch.setattr(cuda, "device", lambda _where: nullcontext())
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(cuda, "mem_get_info", lambda _where=None: (15 * 10**9, 16 * 10**9))
    monkeypatch.setattr(cuda, "memory_reserved", lambda _where=None: 0)
    monkeypatch.setattr(cuda, "memory_allocated", lambda _where=None: 0)


def before_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    supported = torch.cuda.is_bf16_supported
    assert supported(including_emulation=False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )


class TestDevices:
    @pytest.mark.parametrize(
        "name",
        [*OTHER_TYPES, "cuda:-1", "cuda:", "cuda:01", "", " cpu", "CUDA", "toast", "cpu:1"],
    )
    def test_whatever_else_is_typed_gets_a_list_of_what_exists(self, name: str) -> None:
        with pytest.raises(UsageError, match=r"This machine has: cpu"):
            device_named(name)

    def test_absent_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for name in ("cuda", "cuda:0", "cuda:3"):
            with pytest.raises(UsageError, match=r"no usable CUDA device here\. .* has: cpu"):
                device_named(name)

    def test_fewer_gpus_than_asked_for(self, gpus: None) -> None:
        assert device_named("cuda:1") == torch.device("cuda:1")
        with pytest.raises(UsageError, match=r"'cuda:3'.*cuda:0 \(NVIDIA A2\), cuda:1 \(NVIDIA"):
            device_named("cuda:3")

    def test_the_only_index_of_a_kind_is_that_kind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert device_named("cpu:0") == CPU
        assert device_named("mps:0") == MPS
        with pytest.raises(UsageError, match="'mps:1'"):
            device_named("mps:1")

    def test_a_command_says_so_in_one_line(self) -> None:
        command = [sys.executable, "-m", "seats_cli", "ask", str(JFK), "What?", "--device", "meta"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("Error: Unknown device 'meta'")


class TestPrecision:
    def test_where_bfloat16_is_computed_in(self, gpus: None) -> None:
        assert dtype_named("auto", CUDA) == torch.bfloat16
        assert dtype_named("auto", CPU) == torch.float32
        assert dtype_named("float16", CUDA) == torch.float16
        assert not precision_notices(CUDA, torch.bfloat16)

    def test_old_gpus(self, gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
        before_ampere(monkeypatch)
        assert dtype_named("auto", CUDA, 3 * 10**9) == torch.float32  # 12 of 15 GB
        assert dtype_named("auto", CUDA, 4 * 10**9) == torch.bfloat16
        assert dtype_named("auto", CUDA, None) == torch.bfloat16
        assert not precision_notices(CUDA, torch.float32)
        (notice,) = precision_notices(CUDA, torch.bfloat16)
        assert "NVIDIA A2 emulates bfloat16" in notice
        (notice,) = precision_notices(CUDA, torch.float16)
        assert "overflow" in notice

    @pytest.mark.parametrize(("newer", "kind"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_mps(self, monkeypatch: pytest.MonkeyPatch, newer: bool, kind: torch.dtype) -> None:
        monkeypatch.setattr(
            torch.backends.mps, "is_macos_or_newer", lambda major, _minor: newer and major == 14
        )
        assert dtype_named("auto", MPS) == kind

    def test_notices_reach_the_loaded_model(self) -> None:
        assert load_model(device="cpu").notices == ()
        assert "overflow" in load_model(device="cpu", dtype="float16").notices[0]


class TestHostMemory:
    def machine(self, root: Path, **files: str) -> Path:
        for name, text in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    def test_memory_and_swap(self, tmp_path: Path) -> None:
        assert _available_host_bytes(tmp_path) is None
        text = "MemTotal: 9 kB\nMemAvailable:    5000 kB\nSwapFree: 300 kB\nHugePages_Total: 0\n"
        assert _available_host_bytes(self.machine(tmp_path, proc__meminfo=text)) == 5300 * 1024

    def test_a_containers_limit(self, tmp_path: Path) -> None:
        root = self.machine(tmp_path, proc__meminfo="MemAvailable: 5000 kB\n")
        cgroup = root / "sys/fs/cgroup"
        cgroup.mkdir(parents=True)
        for limit, free in (("max", 5000 * 1024), ("3000000", 3_000_000 - 2_000_000 + 700_000)):
            (cgroup / "memory.max").write_text(limit)
            (cgroup / "memory.current").write_text("2000000")
            (cgroup / "memory.stat").write_text("inactive_file 600000\nactive_file 100000\n")
            assert _available_host_bytes(root) == free

    def test_an_older_containers_limit(self, tmp_path: Path) -> None:
        root = self.machine(tmp_path, proc__meminfo="MemAvailable: 5000 kB\n")
        memory = root / "sys/fs/cgroup/memory"
        memory.mkdir(parents=True)
        (memory / "memory.limit_in_bytes").write_text("1000000")
        (memory / "memory.usage_in_bytes").write_text("900000")
        (memory / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 50000\n")
        assert _available_host_bytes(root) == 150_000


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
class TestWeights:
    def test_headers_tell_what_is_loaded(self, tmp_path: Path, family: str) -> None:
        weights = write_checkpoint(tmp_path, family)
        stored = stored_weights(tmp_path)
        assert stored is not None
        # the talker's are left out
        assert stored.elements == sum(value.numel() for value in weights.values())
        assert stored.dtypes == {"F32"}
        assert stored.bytes_in(torch.bfloat16) == stored.elements * 2
        fused = sum(value.numel() for name, value in weights.items() if ".experts." in name)
        assert stored.apart == ({"F32": fused} if fused else {})
        assert bool(fused) == (family == "qwen3_omni_moe")
        assert stored.host_bytes_in(torch.float32) == 4 * fused  # the rest is mapped
        assert stored.host_bytes_in(torch.bfloat16) == stored.bytes_in(torch.bfloat16)

    def test_damaged_files_are_left_to_loading(self, tmp_path: Path, family: str) -> None:
        write_checkpoint(tmp_path, family)
        shard = tmp_path / "model-00001-of-00002.safetensors"
        whole = shard.read_bytes()
        for broken in (whole[:100], b"\xff" * 20, b"", (3).to_bytes(8, "little") + b"[1]"):
            shard.write_bytes(broken)
            assert stored_weights(tmp_path) is None
        shard.unlink()
        assert stored_weights(tmp_path) is None
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps([]))
        assert stored_weights(tmp_path) is None

    def test_a_gpu_gets_each_tensor_at_once(
        self, tmp_path: Path, family: str, gpus: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """transformers places tensors by the map while it reads; a CPU's need none."""
        write_checkpoint(tmp_path, family)
        given: dict[str, Any] = {}

        class Reached(BaseException):
            pass

        def from_pretrained(**kwargs: Any) -> None:
            given.update(kwargs)
            raise Reached

        from seats_cli.models.registry import adapter_class

        model = adapter_class(family).model_class()
        monkeypatch.setattr(model, "from_pretrained", from_pretrained)
        for device, expected in (
            ("cuda:1", {"": torch.device("cuda:1")}),
            ("cuda", {"": CUDA}),
            ("spread", "auto"),
            ("cpu", None),
        ):
            with pytest.raises(Reached):
                load_model(str(tmp_path), device=device)
            assert given["device_map"] == expected


def test_the_allocator_is_left_as_it_adjusts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(devices, "_mallopt", lambda: lambda *given: calls.append(given))
    with devices.returning_freed_memory():
        assert calls == [(-3, 1 << 20)]
    assert calls[1:] == [(-3, 32 << 20), (-1, 64 << 20)]
    monkeypatch.setattr(devices, "_mallopt", lambda: None)
    with devices.returning_freed_memory():
        pass
    assert len(calls) == 3
