"""
Soak of shared limits: real processes that start, stop, pause and die at random, against a server that counts.

    python -m tests.support.sharing file --seconds 60 --seeds 5
    python -m tests.support.sharing redis --seconds 60 --seeds 5 --restart
    python -m tests.support.sharing ray --seconds 60 --seeds 5

Exit status 1 if there was ever a call more than the limit in flight. It says how busy the slots were.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import Nursery, Soaked, soak
from .redis_server import RedisServer


@contextmanager
def _broker(kind: str, folder: Path, restart: bool) -> Iterator[tuple[str, Callable[[float], object]]]:
    def nothing(passed: float) -> None:
        """Leave the broker as it is."""

    if kind == "file":
        yield str(folder / "limits.db"), nothing
    elif kind == "redis":
        with RedisServer(folder) as server:
            restarted = [0]

            def again(passed: float) -> None:
                if restart and passed > 15 * (restarted[0] + 1):
                    restarted[0] += 1
                    server.restart()

            yield server.url, again
    else:
        import ray

        context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            yield f"ray://{context.address_info['gcs_address']}", nothing
        finally:
            ray.shutdown()


def tell(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.sharing")
    parser.add_argument("broker", choices=["file", "redis", "ray"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--restart", action="store_true", help="start Redis anew every 15 seconds")
    options = parser.parse_args()
    failed = False
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        nursery = Nursery()
        with (
            tempfile.TemporaryDirectory() as folder,
            _broker(options.broker, Path(folder), options.restart) as (place, meanwhile),
        ):
            began = time.process_time()
            soaked: Soaked = soak(
                nursery,
                place,
                limit=options.limit,
                processes=options.processes,
                seconds=options.seconds,
                seed=seed,
                meanwhile=meanwhile,
                warm_up=30.0 if options.broker == "ray" else 4.0,
            )
        tell(
            f"{options.broker}, seed {seed}: {soaked.calls:,} calls by {soaked.processes} processes, peak "
            f"{soaked.peak} of {options.limit} (and {soaked.peak_apart} of processes that were stopped), slots busy "
            f"{soaked.busy_share:.1%}, {soaked.happened}, {time.process_time() - began:.1f} s of CPU here"
        )
        for line in soaked.too_many[:5]:
            tell(f"    {line}")
        failed = failed or soaked.peak > options.limit
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
