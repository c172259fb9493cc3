"""The Ray cluster of a batch: joining one, and how many models it has room for."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from seats_cli.errors import UsageError

_REACH_S, _JOIN_S = 5, 60  # seconds until a cluster counts as unreachable
_FIND_S = 30  # and until one that nobody named counts as gone
LOCAL, AUTO = "local", "auto"

# Joins a cluster in a process that can be ended: Ray tries for ever, deaf to signals.
_JOIN = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
except Exception as error:
    print(" ".join(str(error).split()))
    sys.exit(1)
"""


@dataclass(frozen=True)
class ClusterOptions:
    """Where a batch runs, and with how many models."""

    # "HOST:PORT" of a head, "auto" for the cluster that this machine is part of, or "local" for one
    # of this process's own. None takes what RAY_ADDRESS says, else "auto", else "local".
    address: str | None = None
    actors: int | None = None  # models; None for as many as there are GPUs, else machines
    gpus_per_actor: float = 1.0  # 0 runs the models on CPUs; 0.5 puts two on each GPU


@dataclass(frozen=True)
class Pool:
    """Actors with a model each, and what each of them has."""

    actors: int
    gpus: float
    cpus: float

    @property
    def sentence(self) -> str:
        """What it is, for a user."""
        models = f"{self.actors} model{'s' if self.actors > 1 else ''}"
        each = " each" if self.actors > 1 else ""
        if self.gpus:
            return f"The cluster runs {models} on {self.gpus:g} GPU{each}."
        return f"The cluster runs {models} on the CPU."


def is_address(text: str) -> bool:
    """Whether a text is what `ClusterOptions.address` takes."""
    return text in (LOCAL, AUTO) or "://" in text or bool(re.fullmatch(r"[^/\s]+:\d+", text))


def check_ray() -> None:
    """Refuse to go on without Ray; imports nothing.

    Raises
    ------
    UsageError
    """
    # Ray Data needs the others.
    missing = [name for name in ("ray", "pyarrow", "pandas") if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"For a run on a cluster, {' and '.join(missing)} must be installed: "
            "pip install 'seats-cli[ray]'."
        )


def plan_pool(nodes: Sequence[dict[str, float]], cluster: ClusterOptions) -> Pool:
    """How many actors, and what each of them gets.

    Parameters
    ----------
    nodes : sequence of dict
        Resources of each machine, "CPU" and "GPU" among them.

    Raises
    ------
    UsageError
        If the machines have no room for them.
    """
    gpus = cluster.gpus_per_actor
    if gpus > 1 and gpus % 1:
        raise UsageError(f"Above 1, `gpus_per_actor` must be a whole number, not {gpus:g}.")
    room = sum(_times(node.get("GPU", 0), gpus) for node in nodes) if gpus else 0
    if room:
        actors = cluster.actors or room
        if actors > room:
            raise UsageError(
                f"The cluster has room for {room} actors with {gpus:g} GPU each, not for {actors}: "
                "lower `actors` or `gpus_per_actor`."
            )
        homes = [node for node in nodes if node.get("GPU", 0) >= gpus]
    else:
        gpus, homes = 0.0, [node for node in nodes if node.get("CPU", 0) > 0]
        actors = cluster.actors or max(1, len(homes))
    cpus = cpu_share([node.get("CPU", 0) for node in homes], actors)
    return Pool(actors, gpus, min(1.0, cpus) if gpus else cpus)


def cpu_share(cpus: Sequence[float], actors: int) -> float:
    """The most CPUs that each of some actors can have, with at least one CPU left for reading.

    Whole ones, or a whole part of one where there are fewer CPUs than actors.

    Parameters
    ----------
    cpus : sequence of float
        Of each machine.
    """
    for share in range(int(max(cpus, default=0)), 0, -1):
        if _fits(cpus, share, actors):
            return float(share)
    parts = next((n for n in range(2, 2 * actors + 2) if _fits(cpus, 1 / n, actors)), 0)
    return 1 / parts if parts else 0.0


def _fits(cpus: Sequence[float], share: float, actors: int) -> bool:
    room = sum(_times(number, share) for number in cpus)
    return room >= actors and sum(cpus) - actors * share >= 1 - 1e-9


def _times(whole: float, part: float) -> int:
    """How often a part is in the whole."""
    return int(whole / part + 1e-9)


@contextlib.contextmanager
def joined(address: str | None) -> Iterator[Any]:
    """Ray, joined to a cluster for the time of the block unless this process is in one already.

    Parameters
    ----------
    address : str or None
        As in `ClusterOptions`.

    Raises
    ------
    UsageError
        If Ray is not installed, or there is no cluster that can be joined.
    """
    check_ray()
    # Read when it is imported: no usage statistics, and none of its own lines between ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # or it keeps lines back for the very end
    import ray
    import ray.util.scheduling_strategies

    with _only_own_output():
        if ray.is_initialized():
            yield ray
            return
        address = address or os.environ.get("RAY_ADDRESS") or None
        if address is None:
            # Left to Ray, the trace of a cluster that was killed would be followed for ever.
            address = AUTO if _refusal(AUTO, _FIND_S) is None else LOCAL
        elif address != LOCAL:
            _check_address(address)
        try:
            with _muted():
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(_unreachable(address or LOCAL, str(error))) from error
        try:
            yield ray
        except BaseException:
            with contextlib.suppress(Exception):  # which would hide what has ended the run
                _part(ray)
            raise
        _part(ray)


def _part(ray: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        ray.shutdown()


def _check_address(address: str) -> None:
    """Refuse a cluster that cannot be joined, within a minute."""
    if "://" in address:
        raise UsageError(
            f"'{address}' is the address of a Ray client: start seats on a machine of the cluster, "
            "and give HOST:PORT of its head or nothing."
        )
    host, _, port = address.rpartition(":")
    if address != AUTO:
        if not is_address(address):
            raise UsageError(f"'{address}' is not the HOST:PORT of a cluster's head.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
        except (OSError, OverflowError) as error:
            raise UsageError(_unreachable(address, str(error))) from error
    why = _refusal(address, _JOIN_S)
    if why is not None:
        raise UsageError(_unreachable(address, why))


def _refusal(address: str, seconds: float) -> str | None:
    """Why a cluster cannot be joined, None if it can."""
    try:
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"what listens there has not answered as one for {seconds:g} s"
    if not joined.returncode:
        return None
    why = joined.stdout.strip().rstrip(".")
    return f"{why} (one that wants a token needs RAY_AUTH_MODE=token here)"


def _unreachable(address: str, why: str) -> str:
    reason = " ".join(why.split()).rstrip(".")[:400]
    return f"The Ray cluster {address} cannot be joined" + (f": {reason}." if reason else ".")


class _OwnOutput:
    """Standard output without what Ray's threads print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write it, or do not."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _only_own_output() -> Iterator[None]:
    """Keep what Ray's threads print (deaths of workers, with advice) off the results.

    They write to standard output whatever Ray is told; deaths are told by `on_notice`.
    """
    usual = sys.stdout
    sys.stdout = _OwnOutput(usual)
    try:
        yield
    finally:
        sys.stdout = usual


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Nothing on standard error, where Ray's C++ part says that it was told to be silent."""
    sys.stderr.flush()
    usual = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(usual, 2)
        os.close(usual)
        os.close(nowhere)
