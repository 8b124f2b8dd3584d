"""Ray broker: limits in a named, detached actor, for the processes of a Ray cluster."""

from __future__ import annotations

from time import monotonic
from typing import Any

from .._validation import check_positive
from ..errors import ConfigurationError
from ._broker import Broker, perform
from ._lender import Lender
from ._messages import LOAN_SECONDS, BrokerUnavailable, Command

NAMESPACE = "restaurant-llm-batch"
START_SECONDS = 30.0
"""Seconds to wait for the actor when it is first used: its process has to start."""


class LimitActor:
    """
    The actor: performs commands one after the other.

    An actor of its name may have lent slots before it was made, so it lends none while loans of that one may go on.
    """

    def __init__(self) -> None:
        self._lenders: dict[str, Lender] = {}
        self._made_at = monotonic()

    def perform(self, name: str, command: Command) -> Any:
        """Perform a command on a limit."""
        known = self._lenders.get(name)
        now = monotonic()
        may_be_lost = known is None and now - self._made_at < LOAN_SECONDS
        self._lenders[name], answer = perform(known, name, command, now, may_be_lost=may_be_lost)
        return answer

    def names(self) -> list[str]:
        """Return the names of the limits."""
        return sorted(self._lenders)


class RayBroker(Broker):
    """
    Keeps shared limits in a Ray actor, for all processes of a cluster. It needs the extra ``ray``.

    The actor is made at the first use, takes no CPU of the cluster, and lives on when the job that has made it ends
    (it is detached). If its process or node dies, Ray makes it again. Nothing is lent in its first two seconds, and
    members go on with their loans meanwhile. To end it:
    ``ray.kill(ray.get_actor(name, namespace="restaurant-llm-batch"))``.

    Args:
        name: The actor's name.
        timeout: Seconds to wait for the actor, less than a loan lasts.

    Raises:
        ConfigurationError: If an argument is invalid, or the package `ray` is not installed.
    """

    def __init__(self, name: str = "limits", *, timeout: float = 1.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigurationError(
                "RayBroker needs the package ray: pip install 'restaurant-llm-batch[ray]'"
            ) from error
        given: object = name
        if not isinstance(given, str) or not given:
            raise ConfigurationError(
                f"RayBroker needs the name of an actor, got {name!r}; for example 'limits'"
            )
        check_positive("RayBroker timeout", timeout, "timeout=1.0", unit="seconds")
        self._ray: Any = ray
        self._name = given
        self._timeout = timeout
        self._actor: Any = None

    @property
    def place(self) -> str:
        """The actor's name."""
        return f"ray://{self._name}"

    def perform(self, name: str, command: Command) -> Any:
        """Perform a command on a limit, in the actor."""
        return self._call("perform", name, command)

    def names(self) -> list[str]:
        """Return the names of the limits."""
        return list(self._call("names"))

    def _call(self, method: str, *arguments: Any) -> Any:
        ray = self._ray
        if not ray.is_initialized():
            raise ConfigurationError("RayBroker needs a running Ray; call ray.init() first")
        try:
            timeout = self._timeout if self._actor is not None else START_SECONDS
            if self._actor is None:
                self._actor = self._find()
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=timeout)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ConfigurationError):
                raise cause from None
            raise BrokerUnavailable(f"{type(cause).__name__}: {cause}") from error
        except ray.exceptions.ActorDiedError as error:
            self._actor = None  # it was ended for good: the next use makes another
            raise BrokerUnavailable(f"its actor has ended: {type(error).__name__}") from error
        except (ray.exceptions.RayError, OSError) as error:
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error
        except Exception as error:  # Ray raises a plain one for an actor of an earlier session
            self._actor = None
            raise BrokerUnavailable(f"{type(error).__name__}: {error}") from error

    def _find(self) -> Any:
        actor = self._ray.remote(LimitActor)
        return actor.options(
            name=self._name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            num_cpus=0,
        ).remote()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (self._name, self._timeout)


def _made_again(name: str, timeout: float) -> RayBroker:
    return RayBroker(name, timeout=timeout)
