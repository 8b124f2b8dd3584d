"""Strategy: what runs side by side, in which colour. Three switches, four stages."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Strategy:
    """
    How a run is carried out. Results are the same under every strategy; only the time differs.

    Attributes:
        search_async: The searches of one restaurant run side by side.
        restaurant_async: Restaurants run side by side.
        llm_async: The model is called through its native async client; otherwise through the blocking one,
            in worker threads as soon as anything else is side by side.
        threads: What runs side by side runs in worker threads, without any event loop; only with
            ``llm_async=False``. Use `Strategy.threaded()`.

    Raises:
        ConfigurationError: When a switch is not a bool, or the switches contradict each other.
    """

    search_async: bool = False
    restaurant_async: bool = False
    llm_async: bool = False
    threads: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise ConfigurationError(f"Strategy.{field.name} must be True or False, got {value!r}")
        if self.threads and self.llm_async:
            raise ConfigurationError(
                "Strategy(threads=True) has no event loop for llm_async=True; "
                "write Strategy.threaded() or Strategy.stage(4)"
            )
        if self.threads and not (self.search_async or self.restaurant_async):
            raise ConfigurationError(
                "Strategy(threads=True) has nothing to run side by side; write Strategy.threaded()"
            )

    @classmethod
    def stage(cls, number: int) -> Strategy:
        """
        Return one of the four stages: 1 nothing async, 2 searches, 3 and the model, 4 and restaurants.

        Raises:
            ConfigurationError: For any other number.
        """
        if number not in (1, 2, 3, 4) or isinstance(number, bool):
            raise ConfigurationError(
                f"there is no stage {number!r}; write Strategy.stage(1), (2), (3) or (4), "
                "or Strategy.threaded()"
            )
        return cls(search_async=number >= 2, llm_async=number >= 3, restaurant_async=number >= 4)

    @classmethod
    def threaded(cls) -> Strategy:
        """Return the strategy for hosts that cannot have an event loop: everything in worker threads."""
        return cls(search_async=True, restaurant_async=True, threads=True)

    @property
    def is_concurrent(self) -> bool:
        """Whether anything at all runs side by side."""
        return self.search_async or self.restaurant_async or self.llm_async
