"""Damaged media files in numbers: `python -m tests.fuzz_media --count 2000 --seed 1`.

Every mutant is read by `read_clip` in a process of its own kind, with a limit on its time and
on its memory. Allowed are a clip and a `MediaError` of one sentence; anything else, and a
process that dies or hangs, is a failure. Failing files are kept.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.mutants import mutant, sources

ROOT = Path(__file__).parents[1]
TIME_LIMIT_S = 20.0
MEMORY_LIMIT_MIB = 2048


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: "clip", "refused", or a kind of failure."""

    number: int
    kind: str
    damage: str
    source: str
    seconds: float
    peak_mib: int = 0
    said: str = ""

    @property
    def failed(self) -> bool:
        """Whether this must not happen."""
        return self.kind not in ("clip", "refused")


class Worker:
    """A process that reads files one after the other, and is replaced when it fails."""

    def __init__(self, time_limit_s: float, memory_mib: int) -> None:
        self.time_limit_s = time_limit_s
        self.memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        """The worker's report on a file."""
        if self._process is None:
            command = [sys.executable, "-m", "tests.fuzz_media", "--worker", str(self.memory_mib)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=ROOT
            )
            assert self._process.stdout is not None
            self._process.stdout.readline()  # the imports are done; they do not count
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        if not select.select([process.stdout], [], [], self.time_limit_s)[0]:
            self.close()
            return {"kind": "hang", "said": f"over {self.time_limit_s:g} s"}
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._process = None
            return {"kind": "crash", "said": f"exit code {code}"}
        report: dict[str, Any] = json.loads(line)
        return report

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def serve(memory_mib: int) -> None:
    """The worker's side: a path per line in, a report per line out."""
    from seats_cli.media import read_clip

    # The stacks of the decoders' threads count as address space, used or not.
    limit = (memory_mib + 20 * (os.cpu_count() or 1)) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            clip = read_clip(line.rstrip("\n"))
            report = {"kind": "clip", "said": " ".join(clip.warnings)}
            if clip.frames is None and clip.audio is None:
                report = {"kind": "empty clip"}
        except BaseException as error:
            report = _judge(error)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({**report, "peak_mib": peak}), flush=True)


def _judge(error: BaseException) -> dict[str, str]:
    from seats_cli.errors import MediaError

    said = str(error)
    # FFmpeg's own refusal of a claim above 2 GiB comes before it takes any, as a MediaError.
    if isinstance(error, MemoryError):
        return {"kind": "memory", "said": said}
    if not isinstance(error, MediaError):
        return {"kind": "traceback", "said": traceback.format_exc()}
    if not (said.endswith(".") and said.isprintable() and len(said) < 500):
        return {"kind": "no sentence", "said": said}
    return {"kind": "refused", "said": said}


def fuzz(
    count: int,
    seed: int,
    *,
    workers: int = 1,
    keep: Path | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    memory_mib: int = MEMORY_LIMIT_MIB,
) -> list[Outcome]:
    """Read `count` mutants; the same seed gives the same files on every machine with the same
    encoders, whatever the number of workers.
    """
    pool: list[Worker] = []
    mine = threading.local()

    def one(number: int) -> Outcome:
        if not hasattr(mine, "worker"):
            mine.worker = Worker(time_limit_s, memory_mib)
            pool.append(mine.worker)
        rng = random.Random(f"{seed}/{number}")
        path = rng.choice(paths)
        data, damage = mutant(path.read_bytes(), contents, rng)
        target = folder / f"{number}{path.suffix}"
        target.write_bytes(data)
        began = time.monotonic()
        report = mine.worker.read(target)
        outcome = Outcome(
            number, damage=damage, source=path.name, seconds=time.monotonic() - began, **report
        )
        if outcome.failed and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            target.replace(keep / target.name)
        else:
            target.unlink()
        return outcome

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sources").mkdir()
        paths = sources(folder / "sources")
        contents = [path.read_bytes() for path in paths]
        try:
            with ThreadPoolExecutor(workers) as threads:
                return list(threads.map(one, range(count)))
        finally:
            for worker in pool:
                worker.close()


def summary(outcomes: list[Outcome], seed: int) -> dict[str, Any]:
    """The numbers of a run."""
    slowest = max(outcomes, key=lambda o: o.seconds)
    return {
        "seed": seed,
        "count": len(outcomes),
        "outcomes": dict(collections.Counter(o.kind for o in outcomes)),
        "failures": [asdict(o) for o in outcomes if o.failed],
        "slowest_s": round(slowest.seconds, 2),
        "slowest_number": slowest.number,
        "peak_mib": max(o.peak_mib for o in outcomes),
    }


def _table(outcomes: list[Outcome]) -> str:
    kinds = sorted({o.kind for o in outcomes})
    lines = [f"{'damage':<12}" + "".join(f"{kind:>12}" for kind in kinds)]
    for damage in sorted({name for o in outcomes for name in o.damage.split("+")}):
        counts = collections.Counter(o.kind for o in outcomes if damage in o.damage.split("+"))
        lines.append(f"{damage:<12}" + "".join(f"{counts[kind]:>12}" for kind in kinds))
    return "\n".join(lines)


def main() -> None:
    """Run and report; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_failures")
    parser.add_argument("--worker", type=int, metavar="MIB", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        serve(arguments.worker)
        return
    outcomes = fuzz(arguments.count, arguments.seed, workers=arguments.workers, keep=arguments.keep)
    failures = [outcome for outcome in outcomes if outcome.failed]
    print(_table(outcomes))
    for outcome in failures:
        print(f"\n{outcome.kind}: {arguments.keep / str(outcome.number)}.* ({outcome.damage})")
        print(outcome.said)
    print(json.dumps(summary(outcomes, arguments.seed)))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
