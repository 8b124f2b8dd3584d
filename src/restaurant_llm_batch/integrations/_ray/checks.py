"""Checks of what a `RayBatch` is given, before Ray begins, and of the runner that is made."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..._config.limits import Limits
from ..._runner.runner import BatchRunner
from ..._store.disks import file_system_of, is_network
from ...errors import ConfigurationError
from ...records._recording import Recording
from ...sharing import SharedLimiter

log: logging.Logger = logging.getLogger("restaurant_llm_batch")

EXAMPLE = "def make_runner(**options): return BatchRunner(llm=..., **options)"
_KEY_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""Ends of the names of environment variables that hold keys."""
_SHORTEST_KEY = 12
_LIKE_A_KEY = re.compile(rb"\b(?:sk-|rpa_|hf_|gsk_|AIza)[A-Za-z0-9_-]{20,200}")
"""How keys of services begin."""


def check_function(make_runner: object, needed: Sequence[str]) -> None:
    """Check that a function makes runners, and takes what it is given."""
    if isinstance(make_runner, BatchRunner):
        raise ConfigurationError(
            "RayBatch makes a runner in each actor: pass a function that makes it, not a runner; "
            f"for example {EXAMPLE}"
        )
    if not callable(make_runner):
        raise ConfigurationError(
            f"make_runner must be a function, got {make_runner!r}; for example {EXAMPLE}"
        )
    try:
        parameters = inspect.signature(make_runner).parameters.values()
    except (TypeError, ValueError):  # of a function that does not tell
        return
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return
    taken = {one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    missing = [name for name in needed if name not in taken]
    if missing:
        raise ConfigurationError(
            f"make_runner must take {' and '.join(missing)} and pass it on to BatchRunner; for example {EXAMPLE}"
        )


def check_pickled(given: object, arguments: object) -> None:
    """
    Check that what goes to the actors can be pickled.

    Raises:
        ConfigurationError: It cannot.
    """
    from ray import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps((given, arguments))
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the function or the task cannot be sent to the actors: {error}; make what it refers to inside the "
            f"function, for example {EXAMPLE}"
        ) from error
    _warn_of_keys(pickled)


def _warn_of_keys(pickled: bytes) -> None:
    """Warn of a key in what Ray sends to its workers, and keeps where everyone in the cluster can read it."""
    found = [
        f"the value of {name}"
        for name, value in os.environ.items()
        if name.upper().endswith(_KEY_NAMES) and len(value) >= _SHORTEST_KEY and os.fsencode(value) in pickled
    ]
    if not found and _LIKE_A_KEY.search(pickled):
        found = ["what looks like a key"]
    if found:
        log.warning(
            "the function or the task of a RayBatch holds %s, which Ray sends to all workers and keeps unencrypted; "
            "read it from the environment inside of the function, and set it there, for example with "
            'ray.init(runtime_env={"env_vars": ...})',
            " and ".join(sorted(found)),
        )


def checked_record(record: Any) -> Any:
    """Return the record that an actor writes by itself, if that is safe where it is."""
    path = record.path if isinstance(record, Recording) else record
    system = file_system_of(path)
    if is_network(system):
        raise ConfigurationError(
            f"record {os.fspath(path)!r} is on {system}, where SQLite files that several processes write are damaged; "
            "use RayBatch.map, which records in the process of the driver, or a path on a disk of the machine"
        )
    return record


def check_runner(runner: object, options: Mapping[str, Any]) -> BatchRunner:
    """
    Return the runner that a function has made.

    Args:
        runner: What it returned.
        options: What it was given.

    Raises:
        ConfigurationError: It is no runner, or has not what the function was given.
    """
    if not isinstance(runner, BatchRunner):
        raise ConfigurationError(
            f"make_runner must return a BatchRunner, got {runner!r}; for example {EXAMPLE}"
        )
    given: object = options.get("limits")
    lost = [
        f"limits ({one.name})"
        for one in (fields(given) if isinstance(given, Limits) else ())
        if isinstance(limit := getattr(given, one.name), SharedLimiter)
        and getattr(runner.limits, one.name) is not limit
    ]
    if "store" in options and runner.parts.config.store is not options["store"]:
        lost.append("store")
    if lost:
        raise ConfigurationError(
            f"make_runner was given {' and '.join(lost)} and made a runner with others; pass on what it is given, "
            f"for example {EXAMPLE}"
        )
    return runner


def tell_of_limits(limits: Limits | None, runner: BatchRunner) -> None:
    """Say that a limit of this actor is not one of all actors."""
    number = runner.limits.llm
    if limits is None and isinstance(number, int):
        log.info(
            "this process makes up to %d LLM calls at once, and so does each other one: for one limit of all actors, "
            "pass limits=Limits(llm=%d) to RayBatch",
            number,
            number,
        )
