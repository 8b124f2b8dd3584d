"""
How long `import restaurant_llm_batch` takes, in fresh interpreters.

    python benchmarks/import_time.py [--rounds 11]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CODE = (
    "import time; began = time.perf_counter(); import restaurant_llm_batch; "
    "print(time.perf_counter() - began)"
)


def main() -> None:
    """Measure and print the median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    times = []
    for _ in range(parser.parse_args().rounds):
        said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        times.append(float(said.stdout) * 1000)
    print(f"import restaurant_llm_batch: median {statistics.median(times):.0f} ms, best {min(times):.0f} ms")


if __name__ == "__main__":
    main()
