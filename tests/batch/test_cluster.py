"""Which cluster, and how many models it has room for."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.batch import cluster
from seats_cli.batch.cluster import (
    ClusterOptions,
    check_ray,
    cpu_share,
    is_address,
    joined,
    plan_pool,
)
from seats_cli.errors import UsageError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed (extra ray)"
)


@pytest.mark.parametrize("text", ["auto", "local", "10.0.0.1:6379", "head:6379", "[::1]:6379"])
def test_addresses(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize("text", ["items.jsonl", "", "head", "--out", "a/b:1", "c:\\x", "a b:1"])
def test_what_is_no_address(text: str) -> None:
    assert not is_address(text)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(UsageError, match=r"ray must be installed: pip install 'seats-cli\[ray\]'"):
        check_ray()
    with pytest.raises(UsageError, match=r"seats-cli\[ray\]"), joined(None):
        pass


@pytest.mark.parametrize(
    ("cpus", "actors", "share"),
    [
        ([2], 2, 0.5),  # half a CPU each, one for reading
        ([2], 1, 1),
        ([1], 1, 0),
        ([16], 1, 15),
        ([16, 16], 2, 15),
        ([8, 8, 8], 2, 8),  # a third machine reads
        ([4, 4], 8, 0.5),
        ([], 3, 0),
    ],
)
def test_cpus_of_an_actor(cpus: list[float], actors: int, share: float) -> None:
    assert cpu_share(cpus, actors) == share


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(1, 30))
def test_shares_fit_and_leave_a_cpu_for_reading(cpus: list[int], actors: int) -> None:
    share = cpu_share(cpus, actors)
    if share == 0:
        assert sum(cpus) <= 1
        return
    assert sum(int(number / share + 1e-9) for number in cpus) >= actors
    assert sum(cpus) - actors * share >= 1 - 1e-6


@pytest.mark.parametrize(
    ("nodes", "options", "expected"),
    [
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8}], {}, (2, 1, 1)),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_actor": 0.5}, (4, 0.5, 1)),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_actor": 2.0}, (1, 2, 1)),
        ([{"CPU": 8, "GPU": 2}], {"gpus_per_actor": 0.0}, (1, 0, 7)),
        ([{"CPU": 8, "GPU": 2}], {"actors": 1}, (1, 1, 1)),
        ([{"CPU": 4}, {"CPU": 4}], {}, (2, 0, 3)),
        ([{"CPU": 2}], {"actors": 2}, (2, 0, 0.5)),
        # Two GPUs that are in different machines are not two for one actor.
        ([{"CPU": 4, "GPU": 1}, {"CPU": 4, "GPU": 1}], {"gpus_per_actor": 2.0}, (2, 0, 3)),
    ],
)
def test_pools(
    nodes: list[dict[str, float]], options: dict[str, Any], expected: tuple[float, ...]
) -> None:
    pool = plan_pool(nodes, ClusterOptions(**options))
    assert (pool.actors, pool.gpus, pool.cpus) == expected


def test_pools_that_are_refused() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}]
    with pytest.raises(UsageError, match="room for 2 actors with 1 GPU each, not for 3"):
        plan_pool(nodes, ClusterOptions(actors=3))
    with pytest.raises(UsageError, match=r"must be a whole number, not 1.5"):
        plan_pool(nodes, ClusterOptions(gpus_per_actor=1.5))


@needs_ray
def test_an_address_that_cannot_be_reached() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening
        port = free.getsockname()[1]
        with (
            pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port} cannot be joined: "),
            joined(f"127.0.0.1:{port}"),
        ):
            pass


@needs_ray
@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:many"])
def test_addresses_of_something_else(address: str) -> None:
    with pytest.raises(UsageError, match=r"HOST:PORT"), joined(address):
        pass


@needs_ray
def test_what_listens_but_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_JOIN_S", 1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match="has not answered as one for 1 s"), joined(address):
            pass
