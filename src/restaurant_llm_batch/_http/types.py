"""HTTP types: timeout, response, error and the Transport protocol; bounds of a response; TLS trust."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

from .._fast_init import fast_init
from .._validation import check_positive
from ..errors import ConfigurationError
from .secrets import hide_userinfo

Headers: TypeAlias = Mapping[str, str]


@fast_init
@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """
    An HTTP response.

    Attributes:
        status: The HTTP status.
        headers: The headers; names are case-insensitive.
        body: The body, decompressed.
    """

    status: int
    headers: Headers
    body: bytes

    def __repr__(self) -> str:
        # Not what the service sent: it may have repeated the key.
        return f"{type(self).__name__}(status={self.status}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class Timeout:
    """
    Timeouts of an HTTP request, in seconds.

    Attributes:
        total: Limit on the whole request, from sending it to reading its response.
        connect: Limit on opening a connection.
        read: Limit on the wait for the next bytes of the response; None for no limit but `total`. A model that does
            not stream sends nothing until it has finished, so this limits its generation time.

    Raises:
        ConfigurationError: If one of them is not a number above 0.
    """

    total: float = 600.0
    connect: float = 10.0
    read: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "read":
                continue
            check_positive(f"Timeout.{field.name}", value, f"Timeout({field.name}=30)", unit="seconds")


def as_timeout(value: float | Timeout) -> Timeout:
    """
    Return a `Timeout`; a number becomes its `total`, in seconds.

    Raises:
        ConfigurationError: If the value is neither, or not above 0.
    """
    return value if isinstance(value, Timeout) else Timeout(total=value)


class TransportError(Exception):
    """
    No HTTP response came, or none that can be read.

    Attributes:
        request_may_have_been_sent: Whether the server may have read the request; False if no connection was made.
        timed_out: Whether a timeout was the cause.
        unreadable: Whether a response came that this library refuses to read, such as one with too long headers.
        local_shortage: Whether this process or machine had no file descriptor or buffer left.
    """

    def __init__(
        self,
        message: str,
        *,
        request_may_have_been_sent: bool,
        timed_out: bool = False,
        unreadable: bool = False,
        local_shortage: bool = False,
    ) -> None:
        super().__init__(hide_userinfo(message))
        self.request_may_have_been_sent = request_may_have_been_sent
        self.timed_out = timed_out
        self.unreadable = unreadable
        self.local_shortage = local_shortage


MAX_HEADER_BYTES = 100 * 1024
"""
Maximum size of a response's headers, names and values together, in bytes; longer ones are refused.

It is what h11 accepts, on which httpx is built. aiohttp's default is 8,190 bytes a header.
"""


def headers_too_long() -> TransportError:
    """Return the error for a response whose headers exceed `MAX_HEADER_BYTES`."""
    return TransportError(
        f"the response's headers have more than {MAX_HEADER_BYTES:,} bytes, and are not read; "
        "have the server or gateway send less",
        request_may_have_been_sent=True,
        unreadable=True,
    )


def header_size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the size of a response's headers, names and values together, in bytes."""
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
    return size


class Transport(Protocol):
    """
    Sends HTTP requests. Redirects are returned, not followed.

    Both methods raise `TransportError` if no response came. Optional methods: ``close()`` and ``aclose()``, as of
    backends.
    """

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the response, blocking the thread. Must be thread-safe."""
        ...

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the response. Cancellation must close the connection."""
        ...


def check_transport(transport: object) -> None:
    """
    Check a transport that the user passed; None passes.

    Raises:
        ConfigurationError: If it lacks ``send`` or ``asend``.
    """
    if transport is not None and not (hasattr(transport, "send") and hasattr(transport, "asend")):
        raise ConfigurationError(
            f"transport must have send() and asend(), got a {type(transport).__name__}; "
            "for example transport=HTTPTransport(proxy=...)"
        )


def load_ca_bundle(ca_bundle: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """
    Return an SSL context that trusts the certificate authorities of a PEM file; None if no file is given.

    Raises:
        ConfigurationError: If the file cannot be read or holds no certificates.
    """
    if ca_bundle is None:
        return None
    try:
        return ssl.create_default_context(cafile=os.fspath(ca_bundle))
    except (OSError, ssl.SSLError, TypeError) as error:
        raise ConfigurationError(
            f"ca_bundle must be a file of certificates in PEM format, got {ca_bundle!r}: {error}"
        ) from error


def system_trust() -> ssl.SSLContext:
    """Return an SSL context that trusts the system's authorities, or certifi's if the system has none."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:  # such as a slim container
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def error_text(error: BaseException) -> str:
    """Return an error's message, or its cause's: httpx's own are often empty, on trio also after a failed handshake."""
    cause: BaseException | None = error
    for _ in range(10):  # causes may form a circle
        if cause is None:
            break
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return "no details"


def uses_tls(url: str) -> bool:
    """Return whether a request for a URL needs TLS: any but one of ``http://``."""
    return url[:5].lower() != "http:"


def trust_for(url: str) -> ssl.SSLContext:
    """
    Return the certificates to trust for a URL.

    For one without TLS these are none: to load those of the system takes about 40 ms.
    """
    return system_trust() if uses_tls(url) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
