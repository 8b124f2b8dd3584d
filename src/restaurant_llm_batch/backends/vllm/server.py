"""vLLM server backend: `VLLMServerLLM` calls ``vllm serve`` over its OpenAI-compatible HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..._http.border import acall, call, leaving, reply_without
from ..._http.exchange import HTTPFlow, HTTPRequest, send_request
from ..._http.fields import LearnedFields
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import chat_body, chat_error, read_chat
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._http.secrets import HiddenHeaders, KeyLike, as_secret
from ..._http.status import decode, encode, normalize_base_url, parse_error_body
from ..._http.types import HTTPResponse, Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ...errors import BackendError, ConfigurationError, PermanentBackendError
from ...models import LLMRequest, Message
from ...steps import adrive, drive
from .._schema_forms import SchemaForms, labels_by_number
from ._metrics import VLLMMetrics, read_metrics
from ._single_flight import SingleFlight, TurnClient

_BACKEND = "vllm"

NEUTRAL_SAMPLING: Mapping[str, Any] = MappingProxyType(
    {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
)
"""
Neutral values of the sampling parameters other than temperature.

vLLM fills parameters that a request omits from the model's ``generation_config.json``; Qwen2.5's, for example, sets
top_p to 0.8 and a repetition penalty.
"""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of ``/v1/models``; `max_model_len` is its context length in tokens, None if not reported."""

    id: str
    max_model_len: int | None


class VLLMServerLLM(PickledAsRecipe):
    """
    A model behind ``vllm serve``, or another server that speaks OpenAI's chat API.

        llm = VLLMServerLLM("http://localhost:8000")

    Requests structured output with ``response_format``, which every version supports. Sends the runner's priorities;
    a server started with ``--scheduling-policy priority`` applies them. Cancelling a call closes its connection,
    and vLLM then aborts the request.

    If the server refuses a field, such as one of `sampling`, the request is repeated without it, and later requests
    are sent like that at once; a warning is logged.

    Any number of threads and event loops may share one object; each loop has its own connections.

    Args:
        base_url: The server's address, with or without ``/v1``.
        model: The model's name; None for the first model that the server lists.
        api_key: The key of ``--api-key``, as text or as pydantic's ``SecretStr``.
        timeout: Seconds for a whole request, or a `Timeout` with separate limits.
        sampling: Sampling parameters of every request besides its temperature.
        extra_body: Further fields of every request, which override all others.
        transport: HTTP transport to use instead of an own `HTTPTransport`, for example
            ``HTTPTransport(proxy=...)``.

    Raises:
        ConfigurationError: If an argument has the wrong type or form.
    """

    def __init__(
        self,
        base_url: str = "http://localhost:8000",
        model: str | None = None,
        *,
        api_key: KeyLike | None = None,
        timeout: float | Timeout = Timeout(),
        sampling: Mapping[str, Any] = NEUTRAL_SAMPLING,
        extra_body: Mapping[str, Any] | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._made_with = arguments_of(locals())
        self._secret = as_secret(api_key)
        del api_key  # error trackers show the local variables of an error that is raised below
        name: object = model
        if name is not None and not (isinstance(name, str) and name):
            raise ConfigurationError(
                f'model must be a name, got {model!r}; for example model="Qwen/Qwen2.5-14B"'
            )
        self._url = normalize_base_url(base_url, without="/v1")
        self._model = model
        self._served_name = model  # the name in requests; if None, set by the first call from /v1/models
        self._timeout = as_timeout(timeout)
        self._extra_body = {**sampling, **(extra_body or {})}
        self._learned = LearnedFields(_BACKEND)
        self._client = TurnClient(transport)
        self._naming = SingleFlight()
        self._forms = SchemaForms(labels_by_number)  # the server compiles a grammar
        self._headers = HiddenHeaders({"content-type": "application/json", "accept": "application/json"})
        if self._secret is not None:
            self._headers["authorization"] = f"Bearer {self._secret.reveal()}"

    @property
    def model(self) -> str | None:
        """Name of the model; None if it is not known."""
        return self._served_name

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store: backends with equal fingerprints share their replies."""
        return backend_fingerprint("vllm", self._url, self._model, self._extra_body)

    @property
    def model_fingerprint(self) -> str:
        """What its replies have in common with those of the same model at another address; see `LLMPool`."""
        if self._model is None:
            return self.fingerprint  # whichever model the server has
        return backend_fingerprint("vllm", None, self._model, self._extra_body)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, model={self._model!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request, blocking the thread.

        Raises:
            PromptTooLong: If the prompt exceeds the model's context.
            RateLimited: If the server refuses the call for now, because its queue is full.
            TransientBackendError: If the server is failing or unreachable.
            AuthenticationFailed: If the server rejects the key.
            ContentRefused: If a content filter rejects the prompt, or cuts the reply off.
            PermanentBackendError: If the server rejects the request for another reason.
            RunStopped: If the call was cancelled.
        """
        try:
            return self._safe(drive(self._complete(request), self._client.send))
        except Exception as error:
            failure = leaving(error, _BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Complete a request on the running event loop; raises as `complete`. Cancellation aborts the request."""
        try:
            return self._safe(await adrive(self._complete(request), self._client.asend))
        except Exception as error:
            failure = leaving(error, _BACKEND, self._secret, self._client.proxy_secrets)
        raise failure

    def _safe(self, reply: LLMResponse) -> LLMResponse:
        return reply_without((self._secret, *self._client.proxy_secrets), reply)

    def models(self) -> list[ServedModel]:
        """Return the models that the server lists; raises as `complete`."""
        return call(self._models(), self._client, _BACKEND, self._secret)

    async def amodels(self) -> list[ServedModel]:
        """Return the models that the server lists."""
        return await acall(self._models(), self._client, _BACKEND, self._secret)

    def count_tokens(self, prompt: str | Sequence[Message]) -> int:
        """
        Return the number of tokens of a text, or of a chat rendered with the model's template.

        Raises as `complete`.
        """
        return call(self._count_tokens(prompt), self._client, _BACKEND, self._secret)

    async def acount_tokens(self, prompt: str | Sequence[Message]) -> int:
        """Return the number of tokens of a text, or of a chat rendered with the model's template."""
        return await acall(self._count_tokens(prompt), self._client, _BACKEND, self._secret)

    def metrics(self) -> VLLMMetrics:
        """Return the server's load; raises as `complete`."""
        return call(self._metrics(), self._client, _BACKEND, self._secret)

    async def ametrics(self) -> VLLMMetrics:
        """Return the server's load."""
        return await acall(self._metrics(), self._client, _BACKEND, self._secret)

    def close(self) -> None:
        """Close the connections of blocking calls; the next call opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; the next call opens new ones."""
        await self._client.aclose()

    def _complete(self, request: LLMRequest) -> HTTPFlow[LLMResponse]:
        request = self._forms.adapt(request)
        model = self._served_name or (yield from self._name())
        body = chat_body(request, model, extra_body=self._extra_body)
        if request.priority:
            # Omitted if 0, since servers other than vLLM may reject unknown fields.
            body["priority"] = request.priority
        sending = self._learned.request(body)
        while True:
            try:
                return sending.accepted((yield from self._chat(sending.body)))
            except PermanentBackendError as error:
                if not sending.is_repeated_after(error):
                    raise

    def _chat(self, body: Mapping[str, Any]) -> HTTPFlow[LLMResponse]:
        response = yield from self._send("POST", "/v1/chat/completions", body)
        return read_chat(
            decode(response, _BACKEND, self._secret), _BACKEND, self._secret, headers=response.headers
        )

    def _name(self) -> HTTPFlow[str]:
        """Return the name of the first model; of calls at the same time, one asks for it."""
        return (yield from self._naming.ask(lambda: self._served_name, self._first_model))

    def _first_model(self) -> HTTPFlow[str]:
        models = yield from self._models()
        if not models:
            raise PermanentBackendError(f"{self._url} offers no model", backend=_BACKEND)
        self._served_name = models[0].id
        return self._served_name

    def _models(self) -> HTTPFlow[list[ServedModel]]:
        body = yield from self._fetch_json("GET", "/v1/models")
        listed = body.get("data") if isinstance(body, dict) else None
        if not isinstance(listed, list):
            raise PermanentBackendError(f"{self._url}/v1/models lists no models", backend=_BACKEND)
        return [_served_model(model) for model in listed if isinstance(model, dict) and model.get("id")]

    def _count_tokens(self, prompt: str | Sequence[Message]) -> HTTPFlow[int]:
        model = self._served_name or (yield from self._name())
        if isinstance(prompt, str):
            # The text is a part of a prompt, so do not count a start token.
            content: dict[str, Any] = {"prompt": prompt, "add_special_tokens": False}
        else:
            content = {"messages": [dict(message) for message in prompt]}
        body = yield from self._fetch_json("POST", "/tokenize", {"model": model, **content})
        tokens = body.get("count") if isinstance(body, dict) else None
        if type(tokens) is not int:
            raise PermanentBackendError(f"{self._url}/tokenize returned no token count", backend=_BACKEND)
        return tokens

    def _metrics(self) -> HTTPFlow[VLLMMetrics]:
        response = yield from self._send("GET", "/metrics")
        return read_metrics(response.body.decode("utf-8", "replace"))

    def _fetch_json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HTTPFlow[Any]:
        response = yield from self._send(method, path, body)
        return decode(response, _BACKEND, self._secret)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HTTPFlow[HTTPResponse]:
        content = None if body is None else encode(body)
        request = HTTPRequest(method, self._url + path, self._headers, content, self._timeout)
        response = yield from send_request(request, _BACKEND, self._secret)
        if response.status != 200:
            raise self._error(response)
        return response

    def _error(self, response: HTTPResponse) -> BackendError:
        body = parse_error_body(response.body)
        return chat_error(response.status, body, response.headers, _BACKEND, self._secret)


def _served_model(model: Mapping[str, Any]) -> ServedModel:
    length = model.get("max_model_len")
    return ServedModel(str(model["id"]), length if type(length) is int else None)
