"""OpenAI, and whatever else speaks its chat API, through the official SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from anyio import fail_after

from ..._http.abort import TotalTimeout, abortable
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import is_official
from ..._http.secrets import KeyLike, Secret, as_secret
from ..._http.status import normalize_base_url as cleaned
from ..._http.types import Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ...errors import ConfigurationError, TransientBackendError
from ...models import LLMRequest
from ._clients import SDKClients, check_client
from ._codec import BACKEND, body_for, check_arguments, failure_of, reply_from

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_PATH = "/chat/completions"
_URL = "https://api.openai.com/v1"
_NO_KEY = "no-key-needed"
_ONCE: Any = {"max_retries": 0}  # exactly one layer tries again: the runner


class OpenAILLM:
    """
    A model of OpenAI's, or of a service that speaks its chat API.

        llm = OpenAILLM("gpt-4.1-mini")

    The official SDK makes the calls, once each: trying again is the runner's. On asyncio they go over
    aiohttp, with as many connections as there are calls in flight. A call that is cancelled, or given up in
    its thread, closes its connection.

    One object may be used by many threads and event loops; each loop has connections of its own.

    Args:
        model: The model's name.
        api_key: The key, as text or as pydantic's ``SecretStr``; without one, ``OPENAI_API_KEY``.
        base_url: The service's address, with its ``/v1``; without one, ``OPENAI_BASE_URL``, or else OpenAI's.
        organization: The organisation to bill; without one, ``OPENAI_ORG_ID``.
        project: The project to bill; without one, ``OPENAI_PROJECT_ID``.
        timeout: Seconds to wait for an answer, or a `Timeout` that says more; flex processing wants 900.
        service_tier: OpenAI's ``service_tier``, such as "flex" (half the price, slower) or "priority".
        prompt_cache_key: OpenAI's ``prompt_cache_key``: requests that share a key and the beginning of their
            prompt are sent to the same cache. Good for about 15 requests a minute each.
        send_temperature: Whether to send the request's temperature. Reasoning models refuse it: write False.
        max_tokens_field: What the service calls the limit on the answer; without it, "max_completion_tokens"
            for OpenAI and Azure and "max_tokens" for all others.
        extra_body: Further fields of every request, which go before all others.
        transport: What carries the requests; see `restaurant_llm_batch._http.transport`.
        client: A client of the SDK's for blocking calls, such as ``AzureOpenAI(...)``, used as it is and
            never closed; key, address and timeouts are its own, and a call that is given up is not ended.
        async_client: The same for awaited calls; it belongs to one event loop.

    Raises:
        ConfigurationError: When an argument cannot be used, or there is no key.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: KeyLike | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | Timeout = Timeout(),
        service_tier: str | None = None,
        prompt_cache_key: str | None = None,
        send_temperature: bool = True,
        max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        transport: Transport | None = None,
        client: OpenAI | None = None,
        async_client: AsyncOpenAI | None = None,
    ) -> None:
        check_arguments(model, service_tier, prompt_cache_key, max_tokens_field, extra_body)
        check_client(client, "client")
        check_client(async_client, "async_client")
        given = client or async_client
        if given is not None and (api_key, base_url, organization, project, transport) != (None,) * 5:
            raise ConfigurationError(
                "a client of your own has its key, address and transport; pass either those or the client"
            )
        self._model = model
        self._client = client
        self._async_client = async_client
        self._url = _address(base_url, given)
        self._timeout = as_timeout(timeout)
        self._most_tokens = max_tokens_field or (
            "max_completion_tokens" if is_official(self._url) else "max_tokens"
        )
        self._send_temperature = send_temperature
        ours = {"service_tier": service_tier, "prompt_cache_key": prompt_cache_key}
        self._extra_body = {name: value for name, value in ours.items() if value is not None} | dict(
            extra_body or {}
        )
        self._clients: SDKClients | None = None
        if given is None:
            account = {"base_url": self._url, "organization": organization, "project": project}
            self._clients = SDKClients(_key(api_key, self._url), account, transport, self._timeout)

    @property
    def fingerprint(self) -> str:
        """Name what answers, in the keys of a store: equal identities give each other's answers."""
        return backend_fingerprint("openai", self._url, self._model, self._extra_body)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._url!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request.

        Raises:
            PromptTooLong: When the prompt does not fit the model's context, or not into a minute's tokens.
            RateLimited: When the service wants us to slow down.
            TransientBackendError: When it is busy, failing or out of reach.
            AuthenticationFailed: When it does not accept the key.
            QuotaExhausted: When the account has no credit left.
            PermanentBackendError: When it refuses the request for good.
            RunStopped: When the run gave the call up; the connection is closed.
        """
        lent = nullcontext(self._client) if self._client else self._ours("client").sync_client()
        with lent as client:
            return self._post(client, request)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer a request as `complete` does; being cancelled closes the connection."""
        given = self._async_client
        lent = nullcontext(given) if given else self._ours("async_client").async_client()
        async with lent as client:
            return await self._apost(client, request, None if given else self._timeout.total)

    def close(self) -> None:
        """Close the connections of blocking calls; they are made again when needed."""
        if self._clients is not None:
            self._clients.close()

    async def aclose(self) -> None:
        """Close the running loop's connections; they are made again when needed."""
        if self._clients is not None:
            await self._clients.aclose()

    def _post(self, client: OpenAI, request: LLMRequest) -> LLMResponse:
        from httpx2 import Response
        from openai import OpenAIError

        try:
            with abortable(self._timeout.total):
                response = client.post(_PATH, cast_to=Response, body=self._body(request), options=_ONCE)
        except OpenAIError as error:
            failure = failure_of(error)
        except TotalTimeout:
            failure = self._too_late()
        else:
            return reply_from(response)
        raise failure  # out here, so that an error which holds the key is not its context either

    async def _apost(self, client: AsyncOpenAI, request: LLMRequest, total: float | None) -> LLMResponse:
        from httpx2 import Response
        from openai import OpenAIError

        try:
            with fail_after(total):
                response = await client.post(_PATH, cast_to=Response, body=self._body(request), options=_ONCE)
        except OpenAIError as error:
            failure = failure_of(error)
        except TimeoutError:
            failure = self._too_late()
        else:
            return reply_from(response)
        raise failure

    def _too_late(self) -> TransientBackendError:
        return TransientBackendError(
            f"{BACKEND} did not answer within {self._timeout.total:g} seconds", backend=BACKEND
        )

    def _body(self, request: LLMRequest) -> dict[str, Any]:
        return body_for(
            request,
            self._model,
            most_tokens=self._most_tokens,
            temperature=self._send_temperature,
            more=self._extra_body,
        )

    def _ours(self, field: str) -> SDKClients:
        if self._clients is None:
            kind = "AsyncOpenAI" if field == "async_client" else "OpenAI"
            raise ConfigurationError(f"this strategy calls {field}; write {field}=openai.{kind}(...) as well")
        return self._clients


def _address(base_url: str | None, client: OpenAI | AsyncOpenAI | None) -> str:
    if client is not None:
        return str(client.base_url).rstrip("/")
    return cleaned(base_url or os.environ.get("OPENAI_BASE_URL") or _URL)


def _key(given: KeyLike | None, url: str) -> Secret:
    key = as_secret(given) or as_secret(os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")
    if key is None and is_official(url):
        raise ConfigurationError(
            'no API key: set the environment variable OPENAI_API_KEY, or write api_key="sk-..."'
        )
    return key or Secret(_NO_KEY)
