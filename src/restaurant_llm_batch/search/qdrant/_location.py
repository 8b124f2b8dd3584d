"""Qdrant location: a server URL, a local folder, memory, or the user's client; validated, with client options."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..._http.body import ACCEPT_ENCODING, DEFAULT_MAX_ANSWER, check_max_answer
from ..._http.proxies import ProxySelector
from ..._http.secrets import HiddenHeaders, Secret
from ..._http.types import trust_for
from ..._validation import check_positive, check_whole
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

MEMORY = ":memory:"
_KEEPALIVE_EXPIRY = 4.0
"""Seconds; Qdrant closes connections that were idle for 5 seconds, so close them before it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """
    A validated location of a collection.

    Attributes:
        name: Its name in messages and reprs.
        local: Whether qdrant-client runs in local mode, which is blocking and not thread-safe.
        secret: The API key, or None.
        client: The user's sync client, which is never closed here, or None.
        async_client: The user's async client, which is never closed here, or None.
        grpc: Whether to use gRPC.
        max_answer: Greatest size of an answer in bytes, decompressed.
        options: Arguments of the client's constructor, without the key.
    """

    name: str
    local: bool = False
    secret: Secret | None = None
    client: QdrantClient | None = None
    async_client: AsyncQdrantClient | None = None
    grpc: bool = False
    max_answer: int = DEFAULT_MAX_ANSWER
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_user_client(self) -> bool:
        """Whether the user passed a client."""
        return self.client is not None or self.async_client is not None

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the environment's proxies, to redact them in errors."""
        return () if self.local or self.has_user_client else ProxySelector(None).secrets

    def make(self) -> QdrantClient:
        """Create a sync client."""
        from qdrant_client import QdrantClient

        return QdrantClient(**self._all_options(), **self._rest_options(is_async=False))

    def make_async(self) -> AsyncQdrantClient:
        """Create an async client. May run in any thread: the client binds to the event loop of its first call."""
        from qdrant_client import AsyncQdrantClient

        return AsyncQdrantClient(**self._all_options(), **self._rest_options(is_async=True))

    def _all_options(self) -> dict[str, Any]:
        options = dict(self.options)
        headers = HiddenHeaders()
        if not self.local and not self.grpc:
            options.pop("pool_size", None)
            headers["accept-encoding"] = ACCEPT_ENCODING
        if self.secret is not None:
            # As a header, because `api_key=` logs a warning for each client of an http:// server.
            headers["api-key"] = self.secret.reveal()
        if headers:
            options["headers"] = headers
        if self.grpc:
            # gRPC reads the environment by itself, and takes any of the proxies for any URL.
            proxy = ProxySelector(None).proxy_for(options["url"])
            options["grpc_options"] = {
                "grpc.enable_http_proxy": int(proxy is not None),
                "grpc.max_receive_message_length": self.max_answer,
            }
        return options

    def _rest_options(self, *, is_async: bool) -> dict[str, Any]:
        """Return the arguments that qdrant-client passes on to httpx."""
        if self.local:
            return {}
        # trust_env=False: `ProxySelector` reads the environment for all clients alike.
        url = self.options["url"]
        proxy, trust = ProxySelector(None).proxy_for(url), trust_for(url)
        if self.grpc:
            return {"trust_env": False, "proxy": proxy, "verify": trust}
        import httpx

        from ._transport import AsyncBoundedTransport, BoundedTransport

        pool_size = self.options.get("pool_size")
        # The runner's concurrency limiters bound the calls in flight, so the pool should neither make a call
        # wait nor drop connections. qdrant-client's default keeps 20 idle connections, on localhost none.
        limits = httpx.Limits(
            max_connections=pool_size, max_keepalive_connections=pool_size, keepalive_expiry=_KEEPALIVE_EXPIRY
        )
        make = AsyncBoundedTransport if is_async else BoundedTransport
        transport = make(
            self.options["timeout"],
            self.max_answer,
            limits=limits,
            proxy=proxy,
            trust_env=False,
            verify=trust,
        )
        return {"transport": transport, "limits": limits, "trust_env": False}


def resolve_location(
    *,
    url: str | None,
    path: str | os.PathLike[str] | None,
    client: QdrantClient | None,
    async_client: AsyncQdrantClient | None,
    api_key: Secret | None,
    prefer_grpc: bool,
    grpc_port: int,
    timeout: float,
    pool_size: int | None,
    max_answer: int,
) -> Location:
    """
    Validate the arguments that locate a collection; see `QdrantSearch`.

    Raises:
        ConfigurationError: If no location or several are passed, or one is invalid; the message gives an example.
    """
    own = client is not None or async_client is not None
    if (url is not None) + (path is not None) + own != 1:
        raise ConfigurationError(
            'say where the collection is, once: url="http://localhost:6333", url=":memory:", path="folder", '
            "or client= and async_client= of your own"
        )
    remote = url is not None and url != MEMORY
    if not remote and (api_key is not None or prefer_grpc or pool_size is not None):
        raise ConfigurationError("api_key, prefer_grpc and pool_size are for url= of a server")
    if own:
        return _user_clients(client, async_client)
    if not remote:
        where = {"location": MEMORY} if path is None else {"path": os.fspath(path)}
        # `QdrantClients` serializes local calls with a lock, so SQLite's check for a single thread is not needed.
        options = {**where, "force_disable_check_same_thread": True}
        return Location(name=MEMORY if path is None else repr(os.fspath(path)), local=True, options=options)
    return Location(
        name=_check_url(str(url)),
        secret=api_key,
        grpc=prefer_grpc,
        max_answer=check_max_answer(max_answer),
        options={
            "url": url,
            "timeout": math.ceil(_checked_seconds(timeout, "timeout", "timeout=30.0")),
            # The check would request the server's version in an extra thread, and only ever warns.
            "check_compatibility": False,
            "prefer_grpc": prefer_grpc,
            "grpc_port": _checked_integer(grpc_port, "grpc_port", "grpc_port=6334"),
            "pool_size": None
            if pool_size is None
            else _checked_integer(pool_size, "pool_size", "pool_size=64"),
        },
    )


def _user_clients(client: QdrantClient | None, async_client: AsyncQdrantClient | None) -> Location:
    if async_client is not None and _is_local(async_client.init_options):
        raise ConfigurationError(
            "async_client is in local mode, which blocks the event loop: "
            "pass client=QdrantClient(...) instead, which serves sync and async calls"
        )
    local = client is not None and _is_local(client.init_options)
    return Location(name="the user's client", local=local, client=client, async_client=async_client)


def _is_local(options: Mapping[str, Any]) -> bool:
    return options.get("location") == MEMORY or options.get("path") is not None


def _check_url(url: str) -> str:
    example = 'for example url="http://localhost:6333" or url="https://xyz.cloud.qdrant.io:6333"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"url is not a valid URL; {example}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Do not quote the URL, since it may hold a key.
        raise ConfigurationError("url must not hold a key or a query: pass the key as api_key=")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"url {url!r} must be http(s)://host[:port]; {example}")
    return url


def _checked_seconds(value: float, field: str, example: str) -> float:
    check_positive(field, value, example, unit="seconds")
    return value


def _checked_integer(value: int, field: str, example: str) -> int:
    check_whole(field, value, 1, example)
    return value
