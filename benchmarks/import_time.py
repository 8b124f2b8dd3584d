"""
How long `import restaurant_llm_batch` takes, and a program's usual line of imports, in fresh interpreters.

    python benchmarks/import_time.py [--rounds 11] [--beside SRC]

`--beside` measures another version by turns with this one: the `src` folder of its source tree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

LINES = (
    "import restaurant_llm_batch",
    "from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects",
)
CODE = """
import sys, time
began = time.process_time()
{}
took = time.process_time() - began
print(took, sum(name.startswith("restaurant_llm_batch") for name in sys.modules))
"""


def measure(line: str, source: Path) -> tuple[float, int]:
    """Return the milliseconds of CPU that a line takes, and how many modules of ours it loads."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-c", CODE.format(line)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    took, modules = said.stdout.split()
    return float(took) * 1000, int(modules)


def main() -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--beside", type=Path, metavar="SRC")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parents[1] / "src"
    sources = [here] if arguments.beside is None else [here, arguments.beside.resolve()]
    for line in LINES:
        rounds = [[measure(line, source) for source in sources] for _ in range(arguments.rounds)]
        print(line)
        for number, source in enumerate(sources):
            times = [one[number][0] for one in rounds]
            modules = rounds[0][number][1]
            print(
                f"  {source}: median {statistics.median(times):.0f} ms, best {min(times):.0f} ms, {modules} modules"
            )


if __name__ == "__main__":
    main()
