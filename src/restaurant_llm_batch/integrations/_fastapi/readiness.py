"""Readiness of the service: whether the services behind it answer, asked at most once a second for all who ask."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Any

from anyio import Lock, create_task_group, move_on_after, to_thread
from anyio.lowlevel import RunVar

from ..._limits.limiters import as_pool
from ..._runner import BatchRunner
from ..._text import error_text
from ...errors import BackendError, ConfigurationError
from ...models import SearchQuery
from .error_responses import describe_error

log = logging.getLogger("restaurant_llm_batch")

ANSWER_SECONDS = 2.0
"""Seconds that a service has to answer."""
KEPT_SECONDS = 1.0
"""Seconds for which a finding holds: probes of several kinds, and of anybody, cost a service one call a second."""
_ASKING = ("health", "models")
"""Methods of an LLM backend that ask its service whether it is there, without calling the model; the first is used."""
_QUERY = SearchQuery(0, "ready", limit=1)


class Readiness:
    """
    Whether requests would be processed now.

    The LLM backend is asked by `ahealth`, `health`, `amodels` or `models`, if it has one of them; a pool is ready if
    one of its endpoints is. The search is asked by `ahealth` or `health`, or by a search for one review.

    Args:
        runner: The runner with the backends.
    """

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner
        self._llms = [_of_llm(backend) for backend in _endpoints(runner.llm)]
        self._search = None if runner.search is None else _of_search(runner.search)
        self._turn: RunVar[Lock] = RunVar("restaurant_llm_batch readiness")
        self._problem: str | None = None
        self._until = 0.0

    async def problem(self) -> str | None:
        """Return why requests would fail now, in a text without internal details; None if they would not."""
        turn = self._turn.get(None)
        if turn is None:
            turn = Lock()
            self._turn.set(turn)
        async with turn:
            if monotonic() >= self._until:
                before, self._problem = self._problem, await self._ask()
                self._until = monotonic() + KEPT_SECONDS
                if self._problem is not None and self._problem != before:
                    log.warning("not ready: %s", self._problem)
                elif before is not None and self._problem is None:
                    log.warning("ready again")
        return self._problem

    async def _ask(self) -> str | None:
        found: dict[int, str | None] = {}
        asked = [*self._llms, *([] if self._search is None else [self._search])]

        async def ask(number: int, probe: Probe) -> None:
            found[number] = await probe.problem()

        async with create_task_group() as tasks:
            for number, probe in enumerate(asked):
                tasks.start_soon(ask, number, probe)
        llms = [found[number] for number in range(len(self._llms))]
        problems = llms[:1] if llms and None not in llms else []
        problems += [found[number] for number in range(len(self._llms), len(asked))]
        return "; ".join(problem for problem in problems if problem is not None) or None


def _endpoints(llm: Any) -> Iterator[Any]:
    pool = as_pool(llm)
    yield from [llm] if pool is None else pool.endpoint_backends


class Probe:
    """
    Asks one service.

    Args:
        name: Its name for clients.
        ask: Asks it on the event loop; None if it is asked in a thread.
        block: Asks it in a thread; None to take it as ready.
        judge: Returns what is wrong with an answer, or None.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Awaitable[Any]] | None,
        block: Callable[[], Any] | None,
        judge: Callable[[Any], str | None] = lambda _answer: None,
    ) -> None:
        self._name = name
        self._ask = ask
        self._block = block
        self._judge = judge
        self._is_blocked = False

    async def problem(self) -> str | None:
        """Return why the service is not ready, or None."""
        try:
            with move_on_after(ANSWER_SECONDS):
                problem = self._judge(await self._answer())
                return None if problem is None else f"{self._name}: {problem}"
        except (BackendError, ConfigurationError) as error:
            log.debug("%s is not ready: %s", self._name, error_text(error))
            return f"{self._name}: {describe_error(error)}"
        except OSError as error:  # TimeoutError is one
            log.debug("%s is not ready: %s", self._name, error_text(error))
            return f"{self._name} did not answer"
        except Exception as error:  # it has answered, if not as was expected
            log.debug("%s answers with an error: %s", self._name, error_text(error))
            return None
        return f"{self._name} did not answer within {ANSWER_SECONDS:g} seconds"

    async def _answer(self) -> Any:
        if self._ask is not None:
            return await self._ask()
        if self._block is None:
            return None
        if self._is_blocked:  # a call from before, which hangs; no second thread for it
            raise TimeoutError
        self._is_blocked = True
        return await to_thread.run_sync(self._blocking, self._block, abandon_on_cancel=True)

    def _blocking(self, block: Callable[[], Any]) -> Any:
        try:
            return block()
        finally:
            self._is_blocked = False


def _of_llm(llm: Any) -> Probe:
    for name in _ASKING:
        ask, block = getattr(llm, f"a{name}", None), getattr(llm, name, None)
        if callable(ask) or callable(block):
            return Probe("the model", _callable(ask), _callable(block), lambda found: _judge(llm, found))
    return Probe("the model", None, None)


def _of_search(search: Any) -> Probe:
    ask, block = getattr(search, "ahealth", None), getattr(search, "health", None)
    if callable(ask) or callable(block):
        return Probe("the search", _callable(ask), _callable(block))
    if hasattr(search, "asearch"):
        return Probe("the search", lambda: search.asearch(_QUERY), None)
    return Probe("the search", None, lambda: search.search(_QUERY))


def _callable(value: Any) -> Callable[[], Any] | None:
    return value if callable(value) else None


def _judge(llm: Any, found: Any) -> str | None:
    """Return what is wrong with the answer about a model's service: a `RunPodHealth`, models, or anything else."""
    problem = getattr(found, "problem", None)
    if isinstance(problem, str):
        return problem
    wanted, served = getattr(llm, "model", None), found if isinstance(found, list) else []
    ids = {getattr(model, "id", None) for model in served}
    if isinstance(wanted, str) and served and None not in ids and wanted not in ids:
        return "its server does not have the model that is asked for"
    return None
