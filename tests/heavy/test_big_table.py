"""A table of 1 GB is read with flat memory, and shows its progress from the first rows on."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 1 << 30
GROWTH = 100 << 20
TEXT = "국물이 진하고 면이 쫄깃하며 직원이 친절하다, 다만 주말에는 오래 기다린다. " * 18

READ = """
import resource, sys
from restaurant_llm_batch.records import read_reviews
table = read_reviews(sys.argv[1], columns={"content": "리뷰"})
rows, steps, first = 0, 0, 0
seen = -1
for review in table:
    rows += 1
    if table.bytes_read != seen:
        steps, seen = steps + 1, table.bytes_read
    if rows == 1:
        first = table.bytes_read
    if rows == 5_000:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(rows, steps, first, table.size, seen, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Return a CSV file of 1 GB, and the number of its reviews."""
    path = tmp_path_factory.mktemp("big") / "reviews.csv"
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("restaurant_id,review_id,리뷰\n")
        while file.tell() < SIZE if rows % 50_000 == 0 else True:
            file.write(f'{rows % 3000},{rows},"{TEXT}{rows}"\n')
            rows += 1
    yield path, rows
    path.unlink()


def test_reviews_of_1_gb_are_read_with_flat_memory(big: tuple[Path, int]) -> None:
    path, written = big
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], check=True, stdout=subprocess.PIPE, text=True
    )
    rows, steps, first, size, read, growth = map(int, done.stdout.split())

    assert rows == written
    assert size == read == path.stat().st_size
    assert 0 < first < size // 1000
    assert steps > 1000
    assert growth < GROWTH


def test_the_command_shows_progress_at_once_and_keeps_its_memory(
    big: tuple[Path, int], tmp_path: Path
) -> None:
    path, _ = big
    command = ["-m", "restaurant_llm_batch", "index", str(path), "--columns", "content=리뷰", "--into"]
    host, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *command, str(tmp_path / "index")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    try:
        counts: list[tuple[int, int]] = []
        shown = ""
        while not counts or counts[-1][0] < 6_000:
            shown = shown[-500:] + os.read(host, 65_536).decode("utf-8", "replace")
            found = re.findall(r"([\d,]+) reviews", shown)
            if found:
                counts.append((int(found[-1].replace(",", "")), private_bytes(process.pid)))
    finally:
        process.terminate()
        process.wait()
        os.close(host)

    assert counts[0][0] <= 512  # two batches: long before 1 % of the file is read
    warm = next(size for count, size in counts if count >= 1_000)
    assert max(size for _, size in counts) - warm < GROWTH


def private_bytes(pid: int) -> int:
    """Return the memory of a process that is not that of files, such as the index."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) << 10
