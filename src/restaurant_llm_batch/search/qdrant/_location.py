"""Where a collection lives: a server, a folder, memory, or a client of the user's own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..._http.secrets import KeyLike, Secret, as_secret
from ...errors import ConfigurationError

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, QdrantClient

MEMORY = ":memory:"
# Qdrant hangs up on a connection that was idle for 5 seconds; ours must not be the one to find out.
_IDLE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """
    Where to go, checked.

    Attributes:
        name: What to call it in messages and a repr.
        local: Whether qdrant-client itself is the engine; it serves one thread at a time, and blocks.
        secret: The key, or None.
        client: The user's own client, never closed by us.
        async_client: Likewise.
        grpc: Whether gRPC is spoken.
        options: How to make a client, without the key.
    """

    name: str
    local: bool = False
    secret: Secret | None = None
    client: QdrantClient | None = None
    async_client: AsyncQdrantClient | None = None
    grpc: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether clients were given."""
        return self.client is not None or self.async_client is not None

    def make(self) -> QdrantClient:
        """Make a blocking client."""
        from qdrant_client import QdrantClient

        return QdrantClient(**self._all_options())

    def make_async(self) -> AsyncQdrantClient:
        """Make an async client; in any thread, since it belongs to the loop of its first call only."""
        from qdrant_client import AsyncQdrantClient

        return AsyncQdrantClient(**self._all_options())

    def _all_options(self) -> dict[str, Any]:
        options = dict(self.options)
        if self.secret is not None:
            # As a header, because `api_key=` warns at every client about a server inside a private network.
            options["headers"] = {"api-key": self.secret.reveal()}
        if not self.local and not self.grpc:
            import httpx

            most = options.pop("pool_size", None)
            # How many calls there are is for the runner's gates to say, so the pool never makes one wait,
            # and keeps what it has: qdrant-client would keep 20, on localhost none, and make new ones.
            options["limits"] = httpx.Limits(
                max_connections=most, max_keepalive_connections=most, keepalive_expiry=_IDLE
            )
        return options


def resolve_location(
    *,
    url: str | None,
    path: str | os.PathLike[str] | None,
    client: QdrantClient | None,
    async_client: AsyncQdrantClient | None,
    api_key: KeyLike | None,
    prefer_grpc: bool,
    grpc_port: int,
    timeout: float,
    pool_size: int | None,
) -> Location:
    """
    Check where a collection is said to be.

    Raises:
        ConfigurationError: Nothing is named, or too much, or it cannot be; says what to write.
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
        return _own(client, async_client)
    if not remote:
        where = {"location": MEMORY} if path is None else {"path": os.fspath(path)}
        # Threads take turns, see `SDKClients`, so SQLite need not insist on one.
        options = {**where, "force_disable_check_same_thread": True}
        return Location(name=MEMORY if path is None else repr(os.fspath(path)), local=True, options=options)
    return Location(
        name=_check_url(str(url)),
        secret=as_secret(api_key),
        grpc=prefer_grpc,
        options={
            "url": url,
            "timeout": math.ceil(_number(timeout, "timeout", "such as 30.0, in seconds")),
            # It would ask for the server's version in a thread of its own, and only ever warn.
            "check_compatibility": False,
            "prefer_grpc": prefer_grpc,
            "grpc_port": _whole(grpc_port, "grpc_port"),
            "pool_size": None if pool_size is None else _whole(pool_size, "pool_size"),
        },
    )


def _own(client: QdrantClient | None, async_client: AsyncQdrantClient | None) -> Location:
    if async_client is not None and _is_local(async_client.init_options):
        raise ConfigurationError(
            "async_client is in local mode, which blocks the event loop: "
            "pass client=QdrantClient(...) instead, it serves both colours"
        )
    local = client is not None and _is_local(client.init_options)
    return Location(name="the client given", local=local, client=client, async_client=async_client)


def _is_local(options: Mapping[str, Any]) -> bool:
    return options.get("location") == MEMORY or options.get("path") is not None


def _check_url(url: str) -> str:
    example = 'write url="http://localhost:6333" or "https://xyz.cloud.qdrant.io:6333"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"url is not one: {example}") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not repeated here, since what stands there is often a key.
        raise ConfigurationError("url must not hold a key or a query: pass the key as api_key=")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigurationError(f"url {url!r} is no server's: {example}")
    return url


def _number(value: object, field: str, example: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    raise ConfigurationError(f"{field} must be a number above 0, {example}; got {value!r}")


def _whole(value: object, field: str) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{field} must be an integer from 1, got {value!r}")
    return value
