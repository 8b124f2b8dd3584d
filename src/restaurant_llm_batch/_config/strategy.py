"""Strategy: what runs concurrently, and whether it uses sync or async clients. Three switches, four stages."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Strategy:
    """
    What a run does concurrently. Results are the same under every strategy; only the time differs.

    Attributes:
        search_async: Run the searches of one restaurant concurrently.
        restaurant_async: Run restaurants concurrently.
        llm_async: Call the model through its native async client; otherwise through the blocking client, in worker
            threads if anything else is concurrent.
        threads: Run everything concurrent in worker threads, without an event loop; only with ``llm_async=False``. Use
            `Strategy.threaded()`.

    Raises:
        ConfigurationError: If a switch is not a bool, or the switches contradict each other.
    """

    search_async: bool = False
    restaurant_async: bool = False
    llm_async: bool = False
    threads: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise ConfigurationError(
                    f"Strategy.{field.name} must be True or False, got {value!r}; for example True"
                )
        if self.threads and self.llm_async:
            raise ConfigurationError(
                "Strategy(threads=True) has no event loop for llm_async=True; "
                "use Strategy.threaded() or Strategy.stage(4)"
            )
        if self.threads and not (self.search_async or self.restaurant_async):
            raise ConfigurationError(
                "Strategy(threads=True) has nothing to run concurrently; use Strategy.threaded()"
            )

    @classmethod
    def stage(cls, number: int) -> Strategy:
        """
        Return one of the four stages; each adds to the one before.

        Args:
            number: 1 runs everything in sequence, 2 makes searches concurrent, 3 adds the async model, 4 adds
                concurrent restaurants.

        Raises:
            ConfigurationError: For any other number.
        """
        if number not in (1, 2, 3, 4) or isinstance(number, bool):
            raise ConfigurationError(
                f"stage must be 1, 2, 3 or 4, got {number!r}; for example Strategy.stage(4), or Strategy.threaded()"
            )
        return cls(search_async=number >= 2, llm_async=number >= 3, restaurant_async=number >= 4)

    @classmethod
    def threaded(cls) -> Strategy:
        """Return the strategy for hosts without an event loop: everything runs concurrently in worker threads."""
        return cls(search_async=True, restaurant_async=True, threads=True)

    @property
    def is_concurrent(self) -> bool:
        """Whether anything runs concurrently."""
        return self.search_async or self.restaurant_async or self.llm_async
