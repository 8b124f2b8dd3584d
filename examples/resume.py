"""Resume: keep every answer in a store, stop in the middle, run again, and pay only for the rest."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

RESTAURANTS = range(1, 21)
STOP_AFTER = 5


def main() -> None:
    """Stop a run after five restaurants, as a crash would, and finish it with a second one."""
    llm = FakeLLM(seconds=0.01)
    limits = Limits(llm=2, open_items=4)  # few restaurants at once, so that some are left when the run stops
    search = FakeSearch(lambda restaurant_id: [f"Restaurant {restaurant_id} is friendly.", "Good food."])
    with TemporaryDirectory() as folder:
        # Commits are on disk before a flow goes on, so a killed process would leave the same file.
        file = Path(folder) / "run.db"
        with BatchRunner(
            llm=llm, search=search, strategy=Strategy.stage(4), limits=limits, store=file
        ) as runner:
            for number, _outcome in enumerate(runner.stream(SummarizeAspects(), RESTAURANTS), 1):
                if number == STOP_AFTER:
                    break
        paid_before = llm.calls

        with BatchRunner(
            llm=llm, search=search, strategy=Strategy.stage(4), limits=limits, store=file
        ) as runner:
            report = runner.run(SummarizeAspects(), RESTAURANTS)

    report.raise_for_failures()
    print(f"restaurants: {len(report.results)}")
    print(f"answers from the store: {report.stats.cache_hits}")
    print(f"model calls before and after the stop: {paid_before} + {llm.calls - paid_before}")


if __name__ == "__main__":
    main()
