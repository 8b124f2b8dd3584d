"""
Soak of shared limits: real processes that start, stop, pause and die at random, against a server that counts.

    python -m tests.support.sharing file --seconds 60 --seeds 5
    python -m tests.support.sharing redis --seconds 60 --seeds 5 --restart
    python -m tests.support.sharing ray --seconds 60 --seeds 5 --busy 0.95

Exit status 1 if there were ever more calls in flight than the limit, or if the slots were less busy than `--busy` says.
It says how busy those slots were that were not lent to a stopped or dead process, while another process had calls, and
how many messages a second each process sent.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import Nursery, Soaked, soak
from .redis_server import RedisServer

IMPORTED = {"file": ("sqlite3",), "redis": ("redis", "redis.backoff", "redis.retry"), "ray": ("ray",)}
"""What the processes would import one by one, which takes a second of CPU on a busy machine."""


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

        # Each process is a job of its own, for which Ray would start workers in advance, two seconds of CPU each.
        started = {"enable_worker_prestart": False, "prestart_worker_first_driver": False}
        context = ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _system_config=started)
        try:
            yield f"ray://{context.address_info['gcs_address']}", nothing
        finally:
            ray.shutdown()


def tell(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _said(rates: list[float]) -> str:
    if not rates:
        return "no process there for long"
    return f"{sum(rates) / len(rates):.1f} messages a second of each process, {max(rates):.1f} at the most"


def main() -> int:
    """Run the soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.sharing")
    parser.add_argument("broker", choices=["file", "redis", "ray"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--busy", type=float, default=0.0, help="Least share of the slots that may be busy.")
    parser.add_argument("--restart", action="store_true", help="start Redis anew every 15 seconds")
    options = parser.parse_args()
    failed = False
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when Ray is imported, before there is a token
    with Nursery(IMPORTED[options.broker]) as nursery:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
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
                )
            happened = ", ".join(f"{what} {number}" for what, number in sorted(soaked.happened.items()))
            tell(
                f"{options.broker}, seed {seed}: {soaked.calls:,} calls by {soaked.processes} processes, peak "
                f"{soaked.peak} of {options.limit} (and {soaked.peak_apart} of processes that were stopped), "
                f"slots busy {soaked.busy_share:.1%}, {_said(soaked.message_rates)}; {happened}; "
                f"{time.process_time() - began:.1f} s of CPU here"
            )
            for line in soaked.too_many[:5]:
                tell(f"    {line}")
            failed = failed or soaked.peak > options.limit or soaked.busy_share < options.busy
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
