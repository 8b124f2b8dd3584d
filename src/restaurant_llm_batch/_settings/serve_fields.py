"""Fields of `BatchSettings` for `serve`: its address, who may use it, and its limits."""

from __future__ import annotations

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from .setting import Names, Shares, setting


class ServeFields(BaseSettings):
    """The service of `serve`."""

    batch_serve_host: str = setting(
        "127.0.0.1",
        "serve.host",
        "Address to serve at; 0.0.0.0 for all addresses of this machine, with a token or behind a proxy.",
        option="--host",
    )
    batch_serve_port: int = setting(
        8000, "serve.port", "Port to serve at; 0 for any free port.", option="--port", ge=0, le=65535
    )
    batch_serve_workers: int = setting(
        1,
        "serve.workers",
        "Processes that serve. Limits hold for all of them together; an index folder is then only read.",
        option="--workers",
        ge=1,
        le=256,
    )
    batch_serve_token: SecretStr | None = setting(
        None,
        "serve.token",
        "Bearer token that requests must have; by default none, and everyone is answered.",
    )
    batch_serve_api_keys: SecretStr | None = setting(
        None,
        "serve.api_keys",
        "Keys, with commas between them, of which requests must have one, as a token or in the header X-API-Key; "
        "NAME:KEY names the client, for the log and its own jobs.",
    )
    batch_serve_shares: Shares | None = setting(
        None,
        "serve.shares",
        "Shares of the named clients, such as shop=3,kiosk=1; 1 by default. While several wait, each gets its share of "
        "the limits.",
        option="--shares",
    )
    batch_serve_cors: Names | None = setting(
        None,
        "serve.cors",
        "Origins whose pages may call the service from a browser, with commas between them, such as "
        "https://example.com; * for all.",
        option="--cors",
    )
    batch_serve_allowed_hosts: Names | None = setting(
        None,
        "serve.allowed_hosts",
        "Names in the header Host that are answered, with commas between them, * for all; by default localhost, "
        "127.0.0.1 and [::1] if served at one of these, else all.",
        option="--allowed-hosts",
    )
    batch_serve_connections: int = setting(
        1000,
        "serve.connections",
        "Connections of a worker at most; of more, those that wait are closed.",
        option="--connections",
        ge=1,
    )
    batch_serve_drain_seconds: float = setting(
        20.0,
        "serve.drain",
        "Seconds that requests in flight have to finish after Ctrl-C or SIGTERM.",
        option="--drain",
        ge=0,
        le=3600,
    )
    batch_serve_max_items: int = setting(
        200, "serve.max_items", "Restaurants of a request at most.", option="--max-items", ge=1
    )
    batch_serve_max_reviews: int = setting(
        10_000,
        "serve.max_reviews",
        "Reviews of a request at most, over all of its restaurants.",
        option="--max-reviews",
        ge=1,
    )
    batch_serve_max_calls: int = setting(
        1000,
        "serve.max_calls",
        "Calls of the model that the reviews of a request may need at most.",
        option="--max-calls",
        ge=1,
    )
    batch_serve_max_jobs: int = setting(
        100,
        "serve.max_jobs",
        "Jobs of a client that wait at most; POST /api/v1/jobs takes them if there is a record.",
        option="--max-jobs",
        ge=1,
    )
    batch_serve_job_days: float = setting(
        7.0, "serve.job_days", "Days for which jobs that have ended are kept.", gt=0
    )
    batch_serve_uploads: bool = setting(
        False,
        "serve.uploads",
        "Whether clients may index reviews by POST /api/v1/vector/upload; those of a file are lost at the end.",
        option="--uploads/--no-uploads",
    )
