"""OpenAI LLM backend: chat completions of OpenAI, Azure and compatible services through the official SDK."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from anyio import fail_after

from ..._http.abort import TotalTimeout, abortable
from ..._http.border import leaving, reply_without
from ..._http.fields import LearnedFields
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import is_official
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._http.secrets import KeyLike, Secret, as_secret
from ..._http.status import encode, normalize_base_url
from ..._http.types import Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ...errors import BackendError, ConfigurationError, PermanentBackendError, TransientBackendError
from ...models import LLMRequest
from ._clients import SDKClients, check_client
from ._codec import BACKEND, backend_error, body_for, check_arguments, read_response
from ._strict import StrictCache

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_PATH = "/chat/completions"
_URL = "https://api.openai.com/v1"
_NO_KEY = "no-key-needed"
_NO_RETRIES: Any = {"max_retries": 0}  # only the runner retries


class OpenAILLM(PickledAsRecipe):
    """
    A model of OpenAI, or of a service with an OpenAI-compatible chat API.

        llm = OpenAILLM("gpt-4.1-mini")

    Calls go through the official SDK without its retries, since the runner retries. On asyncio they go over aiohttp,
    with as many connections as calls in flight. Cancelling a call closes its connection, also in a worker thread.

    If the model refuses a field, such as the temperature, the request is repeated without it or in another form, and
    later requests are sent like that at once; a warning is logged.

    Any number of threads and event loops may share one object; each loop has its own connections.

    Args:
        model: The model's name.
        api_key: The key, as text or as pydantic's ``SecretStr``; None for ``OPENAI_API_KEY``.
        base_url: The service's base URL including ``/v1``; None for ``OPENAI_BASE_URL`` or OpenAI's own.
        organization: The organization to bill; None for ``OPENAI_ORG_ID``.
        project: The project to bill; None for ``OPENAI_PROJECT_ID``.
        timeout: Seconds for a whole request, or a `Timeout` with separate limits; flex processing needs 900.
        service_tier: OpenAI's ``service_tier``, such as "flex" (half the price, slower) or "priority".
        prompt_cache_key: OpenAI's ``prompt_cache_key``: requests with the same key and prompt prefix go to the
            same cache. One key serves about 15 requests per minute.
        send_temperature: Whether to send the request's temperature; False saves reasoning models one refused request.
        max_tokens_field: The service's name of the field that limits completion tokens; None for
            "max_completion_tokens" with OpenAI and Azure and "max_tokens" with all others.
        extra_body: Further fields of every request, which override all others.
        transport: HTTP transport to use instead of an own `HTTPTransport`, for example
            ``HTTPTransport(proxy=...)``.
        client: A sync client of the SDK for blocking calls, such as ``AzureOpenAI(...)``. It keeps its own key,
            address and timeouts, is never closed, and its calls cannot be aborted.
        async_client: The same for async calls; it belongs to one event loop.

    Raises:
        ConfigurationError: If an argument has the wrong type or value, or there is no key.
    """

    _key_variable = "OPENAI_API_KEY"

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
        self._made_with = arguments_of(locals())
        secret = as_secret(api_key)
        del api_key  # error trackers show the local variables of an error that is raised below
        check_arguments(model, service_tier, prompt_cache_key, max_tokens_field, extra_body)
        check_client(client, "client")
        check_client(async_client, "async_client")
        user_client = client or async_client
        if user_client is not None and (secret, base_url, organization, project, transport) != (None,) * 5:
            raise ConfigurationError(
                "client= and async_client= have their own key, address and transport; pass either those or a client"
            )
        self._model = model
        self._client = client
        self._async_client = async_client
        self._url = self._made_with["base_url"] = _base_url(base_url, user_client)
        self._chat_url = self._url + _PATH
        self._timeout = as_timeout(timeout)
        self._max_tokens_field = max_tokens_field or (
            "max_completion_tokens" if is_official(self._url) else "max_tokens"
        )
        self._send_temperature = send_temperature
        options = {"service_tier": service_tier, "prompt_cache_key": prompt_cache_key}
        self._extra_body = {name: value for name, value in options.items() if value is not None} | dict(
            extra_body or {}
        )
        self._learned = LearnedFields(BACKEND)
        self._strict = StrictCache()
        self._clients: SDKClients | None = None
        if user_client is None:
            account = {"base_url": self._url, "organization": organization, "project": project}
            secret = _key(secret, self._url)
            self._clients = SDKClients(secret, account, transport, self._timeout)
        self._secret = secret or _key_of_client(user_client)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._model

    @property
    def base_url(self) -> str:
        """The service's base URL."""
        return self._url

    @property
    def secret(self) -> Secret:
        """The key, which no repr shows."""
        return self._secret or Secret(_NO_KEY)

    @property
    def learned_fields(self) -> LearnedFields:
        """The fields that the model is known to refuse."""
        return self._learned

    def request_body(self, request: LLMRequest) -> dict[str, Any]:
        """Return the body of a request, without fields that the model is known to refuse."""
        return self._learned.apply(self._body(request))

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store: backends with equal fingerprints share their replies."""
        return backend_fingerprint("openai", self._url, self._model, self._extra_body)

    @property
    def model_fingerprint(self) -> str:
        """What its replies have in common with those of the same model at another address; see `LLMPool`."""
        return backend_fingerprint("openai", None, self._model, self._extra_body)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._url!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request, blocking the thread.

        Raises:
            PromptTooLong: If the prompt exceeds the model's context, or the account's tokens per minute.
            RateLimited: If the service refuses the call for now, because of a rate limit or overload.
            TransientBackendError: If the service is failing or unreachable.
            AuthenticationFailed: If the service rejects the key.
            QuotaExhausted: If the account has no credit left.
            ContentRefused: If a content filter rejects the prompt, or cuts the reply off.
            PermanentBackendError: If the service rejects the request for another reason.
            RunStopped: If the call was cancelled; its connection is closed.
        """
        try:
            return self._safe(self._complete(request))
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._proxy_secrets)
        raise failure

    def _safe(self, reply: LLMResponse) -> LLMResponse:
        return reply_without((self._secret, *self._proxy_secrets), reply)

    def _complete(self, request: LLMRequest) -> LLMResponse:
        borrowed = nullcontext(self._client) if self._client else self._own_clients("client").sync_client()
        sending = self._learned.request(self._body(request))
        with borrowed as client:
            while True:
                try:
                    return sending.accepted(self._post(client, sending.body))
                except PermanentBackendError as error:
                    if not sending.is_repeated_after(error):
                        raise

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete a request on the running event loop; raises as `complete`. Cancellation closes the connection."""
        try:
            return self._safe(await self._acomplete(request))
        except Exception as error:
            failure = leaving(error, BACKEND, self._secret, self._proxy_secrets)
        raise failure

    async def _acomplete(self, request: LLMRequest) -> LLMResponse:
        own = self._async_client
        borrowed = nullcontext(own) if own else self._own_clients("async_client").async_client()
        total = None if own else self._timeout.total
        sending = self._learned.request(self._body(request))
        async with borrowed as client:
            while True:
                try:
                    return sending.accepted(await self._apost(client, sending.body, total))
                except PermanentBackendError as error:
                    if not sending.is_repeated_after(error):
                        raise

    def close(self) -> None:
        """Close the connections of blocking calls; the next call opens new ones."""
        if self._clients is not None:
            self._clients.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; the next call opens new ones."""
        if self._clients is not None:
            await self._clients.aclose()

    def _post(self, client: OpenAI, body: dict[str, Any]) -> LLMResponse:
        from httpx2 import Response
        from openai import OpenAIError

        failure: BackendError
        try:
            with abortable(self._timeout.total):
                response = client.post(**self._arguments(body), cast_to=Response, options=_NO_RETRIES)
        except OpenAIError as error:
            failure = backend_error(error)
        except TotalTimeout:
            failure = self._timeout_error()
        else:
            return read_response(response)
        raise failure  # not inside `except`: an error that holds the key must not become its __context__

    async def _apost(self, client: AsyncOpenAI, body: dict[str, Any], total: float | None) -> LLMResponse:
        from httpx2 import Response
        from openai import OpenAIError

        failure: BackendError
        try:
            with fail_after(total):
                response = await client.post(**self._arguments(body), cast_to=Response, options=_NO_RETRIES)
        except OpenAIError as error:
            failure = backend_error(error)
        except TimeoutError:
            failure = self._timeout_error()
        else:
            return read_response(response)
        raise failure

    @property
    def _proxy_secrets(self) -> tuple[Secret, ...]:
        return () if self._clients is None else self._clients.proxy_secrets

    def _arguments(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a client's `post` that say what is sent where."""
        if self._clients is None:  # the user's own client; Azure's reads the model from the body
            return {"path": _PATH, "body": body}
        # Encoded here, and with the whole URL, since the SDK takes longer for both.
        return {"path": self._chat_url, "content": encode(body)}

    def _timeout_error(self) -> TransientBackendError:
        return TransientBackendError(
            f"{BACKEND} did not answer within {self._timeout.total:g} seconds", backend=BACKEND
        )

    def _body(self, request: LLMRequest) -> dict[str, Any]:
        return body_for(
            request,
            self._model,
            max_tokens_field=self._max_tokens_field,
            send_temperature=self._send_temperature,
            extra_body=self._extra_body,
            strict=self._strict,
        )

    def _own_clients(self, field: str) -> SDKClients:
        if self._clients is None:
            class_name = "AsyncOpenAI" if field == "async_client" else "OpenAI"
            raise ConfigurationError(
                f"this strategy calls {field}, which was not passed; pass {field}=openai.{class_name}(...) as well"
            )
        return self._clients


def _base_url(base_url: str | None, client: OpenAI | AsyncOpenAI | None) -> str:
    if client is not None:
        return str(client.base_url).rstrip("/")
    return normalize_base_url(base_url or os.environ.get("OPENAI_BASE_URL") or _URL)


def _key_of_client(client: OpenAI | AsyncOpenAI | None) -> Secret | None:
    key = getattr(client, "api_key", None)
    return Secret(key) if isinstance(key, str) and key else None


def _key(key: Secret | None, url: str) -> Secret:
    key = key or as_secret(os.environ.get("OPENAI_API_KEY"), "OPENAI_API_KEY")
    if key is None and is_official(url):
        raise ConfigurationError(
            'no API key: set the environment variable OPENAI_API_KEY, or pass api_key="sk-..."'
        )
    return key or Secret(_NO_KEY)
