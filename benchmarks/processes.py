"""
Many processes: time and CPU of a command with `--processes`, beside the same in one process.

    python benchmarks/processes.py [--restaurants 2000] [--reviews 40] [--processes 1 2 4] [--rounds 3]

The offline model summarises restaurants from an index of this machine, which is work for the processor alone. CPU
seconds are those of the command with all of its processes; the least of the rounds is shown. Where fewer cores are free
than there are processes, compare the CPU seconds and not the time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

PARTS = (
    "국물이 진하고 맛있어요",
    "직원이 친절해요",
    "가격이 비싸요",
    "자리가 좁아요",
    "the soup was great",
    "slow service",
)


def write_reviews(path: Path, restaurants: int, reviews: int) -> None:
    """Write reviews of a few sentences each."""
    random = Random(1)
    with path.open("w", encoding="utf-8") as file:
        for restaurant in range(restaurants):
            for number in range(reviews):
                content = ". ".join(random.choices(PARTS, k=4)) + f" {number}"
                row = {"restaurant_id": restaurant, "review_id": number, "content": content}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def command(*words: str) -> tuple[float, float]:
    """Run the command line, and return the seconds and the CPU seconds that it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "restaurant_llm_batch", *words], check=True, capture_output=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--restaurants", type=int, default=2000)
    parser.add_argument("--reviews", type=int, default=40)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reviews, index = Path(folder) / "reviews.jsonl", str(Path(folder) / "index")
        write_reviews(reviews, options.restaurants, options.reviews)
        command("index", str(reviews), "--into", index)
        print(f"{options.restaurants:,} restaurants, {options.reviews} reviews each, {os.cpu_count()} cores")
        for task, source in (("summarize", index), ("sentiment", str(reviews))):
            for number in (0, *options.processes):
                many = ["--processes", str(number)] if number else []
                rounds = [
                    command(task, source, "-q", "-o", f"{folder}/out", *many) for _ in range(options.rounds)
                ]
                seconds, cpu = (min(times) for times in zip(*rounds, strict=True))
                name = f"--processes {number}" if number else "one process"
                print(f"{task:10} {name:14} {seconds:6.1f} s, {cpu:6.1f} s of CPU")


if __name__ == "__main__":
    main()
