"""Arguments of `LLMPool`: named endpoints with their limits, weights and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..._config.limits import Limits, as_limiter
from ..._engine.wave_service import wave_service_of
from ..._limits.aimd import AdaptiveLimit
from ..._limits.concurrency import ConcurrencyLimiter
from ..._limits.endpoints import EndpointSpec
from ..._limits.limiters import as_pool
from ..._validation import is_number
from ...errors import ConfigurationError
from ...protocols import AsyncLLMBackend, LLMBackend

Endpoint: TypeAlias = LLMBackend | AsyncLLMBackend
Limit: TypeAlias = int | AdaptiveLimit | ConcurrencyLimiter
Endpoints: TypeAlias = Sequence[Endpoint] | Mapping[str, Endpoint]

_EXAMPLE = 'for example LLMPool({"a": VLLMServerLLM("http://a:8000"), "b": VLLMServerLLM("http://b:8000")})'


class Arguments:
    """
    The arguments, checked.

    Args:
        endpoints: The endpoints, as given.
        limits: Their limits, as given.
        weights: Their weights, as given.
        fallback: Which are used only if others have no room, as given.

    Attributes:
        backends: The endpoints by their names.
        specs: What a limiter knows of each, in the same order.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(self, endpoints: object, limits: object, weights: object, fallback: object) -> None:
        self.backends: dict[str, Endpoint] = {}
        self._given = len(self._add(endpoints, "endpoints"))
        if not self.backends:
            raise ConfigurationError(f"LLMPool needs at least one endpoint; {_EXAMPLE}")
        ranks = self._ranks(fallback)
        self._shares = self._by_name(weights, "weights", None)
        self._limits = self._by_name(limits, "limits", 8)
        if isinstance(limits, ConcurrencyLimiter) and len(self.backends) > 1:
            raise ConfigurationError(
                "a limiter as LLMPool's limits would be one limit for all endpoints; give each its own, for example "
                "limits={name: limiter, ...}, or Limits(llm_total=limiter) to the runner"
            )
        self.specs: list[EndpointSpec] = [
            EndpointSpec(name, *self._limiter(name), self._weight(name), ranks.get(name, 0))
            for name in self.backends
        ]

    def _add(self, endpoints: object, field: str) -> list[str]:
        """Add endpoints, and return their names."""
        if isinstance(endpoints, Mapping):
            named = list(endpoints.items())
        elif isinstance(endpoints, Iterable) and not isinstance(endpoints, (str, bytes)):
            named = [(_kind(backend), backend) for backend in endpoints]
            first = len(self.backends) + 1
            named = [(f"{kind}-{number}", backend) for number, (kind, backend) in enumerate(named, first)]
        else:
            raise ConfigurationError(
                f"LLMPool.{field} must be a list of backends, or backends by name, got {endpoints!r}; {_EXAMPLE}"
            )
        for name, backend in named:
            self._add_one(name, backend, field)
        return [name for name, _ in named]

    def _add_one(self, name: object, backend: Any, field: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ConfigurationError(
                f"the name of an endpoint must be a text of printable characters, got {name!r}; {_EXAMPLE}"
            )
        is_backend = callable(getattr(backend, "complete", None)) or callable(
            getattr(backend, "acomplete", None)
        )
        if isinstance(backend, type) or not is_backend:
            raise ConfigurationError(
                f"LLMPool.{field}: {name!r} must be an LLM backend, with complete() or acomplete(), "
                f"got {backend!r}; {_EXAMPLE}"
            )
        if as_pool(backend) is not None:
            raise ConfigurationError(f"LLMPool.{field}: {name!r} is a pool; name its endpoints here instead")
        if wave_service_of(backend) is not None:
            raise ConfigurationError(
                f"LLMPool.{field}: {name!r} sends calls in batches, which no pool can share; give it to the runner, "
                "without a pool"
            )
        if name in self.backends:
            raise ConfigurationError(f"LLMPool: two endpoints have the name {name!r}; {_EXAMPLE}")
        if any(backend is other for other in self.backends.values()):
            raise ConfigurationError(
                f"LLMPool.{field}: {name!r} is the same object as another endpoint; for a larger share give it a "
                "weight, for example weights=[2, 1]"
            )
        self.backends[name] = backend

    def _ranks(self, fallback: object) -> dict[str, int]:
        """Return the ranks of endpoints that are used only if others have no room, adding those that are new."""
        if fallback is None or fallback is False:
            return {}
        if fallback is True:
            return {name: rank for rank, name in enumerate(self.backends)}
        if isinstance(fallback, Mapping):
            names = self._add(fallback, "fallback")
        else:
            is_one = isinstance(fallback, str) or not isinstance(fallback, Iterable)
            given: list[Any] = [fallback] if is_one else list(fallback)  # type: ignore[call-overload]
            names = [self._fallback_name(one) for one in given]
        if len(set(names)) == len(self.backends):
            raise ConfigurationError(
                "LLMPool.fallback names every endpoint, so there is none to fall back from; fallback=True uses them in "
                "the order in which they are given"
            )
        return {name: rank for rank, name in enumerate(names, 1)}

    def _fallback_name(self, given: Any) -> str:
        if isinstance(given, str):
            if given not in self.backends:
                known = ", ".join(map(repr, self.backends))
                raise ConfigurationError(f"LLMPool.fallback: there is no endpoint {given!r}, only {known}")
            return given
        for name, backend in self.backends.items():
            if backend is given:
                return name
        return self._add([given], "fallback")[0]

    def _by_name(self, given: object, field: str, default: object) -> dict[str, Any]:
        """
        Return a value for each endpoint: the same for all, or those of a list or by name.

        A list may leave out the endpoints that only `fallback` has.
        """
        names = list(self.backends)
        if isinstance(given, Mapping):
            unknown = [name for name in given if name not in self.backends]
            if unknown:
                known = ", ".join(map(repr, names))
                raise ConfigurationError(
                    f"LLMPool.{field}: there is no endpoint {unknown[0]!r}, only {known}"
                )
            return {name: given.get(name, default) for name in names}
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            if len(given) not in (len(names), self._given):
                raise ConfigurationError(
                    f"LLMPool.{field} has {len(given)} entries, but there are {len(names)} endpoints; "
                    f"give one for each, or some by name, as {field}={{{names[0]!r}: 4}}"
                )
            return {**dict.fromkeys(names, default), **dict(zip(names, given, strict=False))}
        return dict.fromkeys(names, given)

    def _limiter(self, name: str) -> tuple[ConcurrencyLimiter, bool]:
        """Return the limiter of an endpoint, and whether others may share it."""
        given = self._limits[name]
        try:
            Limits(llm=given)
        except ConfigurationError as error:
            reason = str(error).replace("Limits.llm", f"LLMPool.limits[{name!r}]", 1)
            raise ConfigurationError(
                reason.partition("; for example")[0] + "; for example limits=8"
            ) from None
        limiter = as_limiter(given)
        if limiter.rate is not None:
            raise ConfigurationError(
                f"LLMPool.limits[{name!r}] has limits per minute, which hold for all LLM calls of a runner; "
                "give them to Limits(requests_per_minute=..., tokens_per_minute=...), or to a SharedLimiter there"
            )
        return limiter, limiter is given

    def _weight(self, name: str) -> float | None:
        weight = self._shares[name]
        if weight is not None and (not is_number(weight) or weight <= 0):
            raise ConfigurationError(
                f"LLMPool.weights[{name!r}] must be a number above 0, got {weight!r}; for example weights=[2, 1]"
            )
        return None if weight is None else float(weight)


def _kind(backend: object) -> str:
    """Return a short name for the kind of a backend: "openai" for an `OpenAILLM`."""
    name = type(backend).__name__.removesuffix("LLM").removesuffix("Server").lower()
    return name or "endpoint"
