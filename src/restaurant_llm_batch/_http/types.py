"""HTTP types: requests' timeouts, responses, errors, and the Transport protocol."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Protocol, TypeAlias

from ..errors import ConfigurationError

Headers: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """
    What a server answered.

    Attributes:
        status: The HTTP status.
        headers: The headers; names compare without case.
        body: The body, decompressed.
    """

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Timeout:
    """
    How long to wait for a server, in seconds.

    Attributes:
        total: For the whole exchange, from the moment it is sent.
        connect: For a connection.
        read: For the next bytes of the answer; None for no bound but `total`. A model that does not stream
            sends nothing until it has finished, so this bounds its thinking.

    Raises:
        ConfigurationError: When one of them is not a positive number.
    """

    total: float = 600.0
    connect: float = 10.0
    read: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "read":
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value) or value <= 0:
                raise ConfigurationError(
                    f"Timeout.{field.name} must be a number of seconds above 0, got {value!r}; "
                    f"write for example Timeout({field.name}=30)"
                )


def as_timeout(value: float | Timeout) -> Timeout:
    """
    Return a timeout; a number is the total.

    Raises:
        ConfigurationError: When it is neither, or not above 0.
    """
    return value if isinstance(value, Timeout) else Timeout(total=value)


class TransportError(Exception):
    """
    No answer came.

    Attributes:
        request_may_have_been_sent: Whether the server may have read the request; False when no connection was made.
        timed_out: Whether it was the time that ran out.
    """

    def __init__(self, message: str, *, request_may_have_been_sent: bool, timed_out: bool = False) -> None:
        super().__init__(message)
        self.request_may_have_been_sent = request_may_have_been_sent
        self.timed_out = timed_out


class Transport(Protocol):
    """
    Makes HTTP exchanges; redirects are answers like any other.

    Both methods raise `TransportError` when no answer came. Optional: ``close()`` and ``aclose()``, as for
    backends.
    """

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer, blocking the thread; any number of threads may."""
        ...

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer; being cancelled closes the connection."""
        ...


def trusting(ca_bundle: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """
    Return a context that trusts the authorities in a file, or None for the system's.

    Raises:
        ConfigurationError: When the file cannot be read or holds none.
    """
    if ca_bundle is None:
        return None
    try:
        return ssl.create_default_context(cafile=os.fspath(ca_bundle))
    except (OSError, ssl.SSLError, TypeError) as error:
        raise ConfigurationError(
            f"ca_bundle={ca_bundle!r} is not a file of certificates in PEM form: {error}"
        ) from error


def system_trust() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and certifi's where the system has none."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:  # a slim container, say
        import certifi

        context.load_verify_locations(certifi.where())
    return context
