"""vLLM, through the server that speaks OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..._http.exchange import HTTPClient, HTTPRequest, send_request
from ..._http.fingerprint import backend_fingerprint
from ..._http.openai_api import chat_body, chat_error, read_chat
from ..._http.secrets import KeyLike, as_secret
from ..._http.status import decode, encode
from ..._http.status import normalize_base_url as cleaned
from ..._http.types import HTTPResponse, Timeout, Transport, as_timeout
from ..._llm_response import LLMResponse
from ...errors import ConfigurationError, PermanentBackendError
from ...models import LLMRequest, Message
from ...steps import Flow, adrive, drive
from ._metrics import VLLMMetrics, read_metrics

_BACKEND = "vllm"

NEUTRAL_SAMPLING: Mapping[str, Any] = MappingProxyType(
    {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
)
"""
Sampling that changes nothing but what `temperature` does.

A server applies the model's own ``generation_config.json`` to whatever a request leaves out: Qwen2.5's, for
one, samples with top_p 0.8 and a repetition penalty.
"""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server offers; `max_model_len` is its context in tokens, or None when not told."""

    id: str
    max_model_len: int | None


class VLLMServerLLM:
    """
    A model behind ``vllm serve``, or another server that speaks OpenAI's chat API.

        llm = VLLMServerLLM("http://localhost:8000")

    Structured output is asked for with ``response_format``, which every version understands; the runner's
    priorities are passed on, and obeyed by a server started with ``--scheduling-policy priority``. A call
    that is cancelled closes its connection, and vLLM then aborts the request.

    One object may be used by many threads and event loops; each loop has connections of its own.

    Args:
        base_url: The server's address, with or without ``/v1``.
        model: The model's name; without one, the first that the server offers.
        api_key: The key of ``--api-key``, as text or as pydantic's ``SecretStr``.
        timeout: Seconds to wait for an answer, or a `Timeout` that says more.
        sampling: Sampling parameters of every request beside its temperature.
        extra_body: Further fields of every request, which go before all others.
        transport: What carries the requests; see `restaurant_llm_batch._http.transport`.

    Raises:
        ConfigurationError: When an argument cannot be used.
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
        named: object = model
        if named is not None and not (isinstance(named, str) and named):
            raise ConfigurationError(
                f'model must be a name, got {model!r}; for example model="Qwen/Qwen2.5-14B"'
            )
        self._url = cleaned(base_url, without="/v1")
        self._model = model
        self._served = model  # the name in requests; the server's own once it was asked
        self._secret = as_secret(api_key)
        self._timeout = as_timeout(timeout)
        self._extra_body = {**sampling, **(extra_body or {})}
        self._client = HTTPClient(transport)
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if self._secret is not None:
            self._headers["authorization"] = f"Bearer {self._secret.reveal()}"

    @property
    def fingerprint(self) -> str:
        """Name what answers, in the keys of a store: equal identities give each other's answers."""
        return backend_fingerprint("vllm", self._url, self._model, self._extra_body)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r}, model={self._model!r})"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request.

        Raises:
            PromptTooLong: When the prompt does not fit the model's context.
            TransientBackendError: When the server is busy, failing or out of reach.
            AuthenticationFailed: When the server wants another key.
            PermanentBackendError: When it refuses the request for good.
        """
        return drive(self._complete(request), self._client.send)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """Answer a request as `complete` does; being cancelled aborts it at the server."""
        return await adrive(self._complete(request), self._client.asend)

    def models(self) -> list[ServedModel]:
        """Return the models that the server offers; raises as `complete` does."""
        return drive(self._models(), self._client.send)

    async def amodels(self) -> list[ServedModel]:
        """Return the models that the server offers."""
        return await adrive(self._models(), self._client.asend)

    def count_tokens(self, prompt: str | Sequence[Message]) -> int:
        """
        Return how many tokens a text, or a chat with its template around it, has for the model.

        Raises as `complete` does.
        """
        return drive(self._count_tokens(prompt), self._client.send)

    async def acount_tokens(self, prompt: str | Sequence[Message]) -> int:
        """Return how many tokens a text or a chat has for the model."""
        return await adrive(self._count_tokens(prompt), self._client.asend)

    def metrics(self) -> VLLMMetrics:
        """Return how full the server is; raises as `complete` does."""
        return drive(self._metrics(), self._client.send)

    async def ametrics(self) -> VLLMMetrics:
        """Return how full the server is."""
        return await adrive(self._metrics(), self._client.asend)

    def close(self) -> None:
        """Close the connections of blocking calls; they are made again when needed."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the running loop's connections; they are made again when needed."""
        await self._client.aclose()

    def _complete(self, request: LLMRequest) -> Flow[LLMResponse]:
        model = self._served or (yield from self._first_model())
        body = chat_body(request, model, extra_body=self._extra_body)
        if request.priority:
            # Left out where it says nothing: servers other than vLLM may refuse what they do not know.
            body["priority"] = request.priority
        answer = yield from self._answer("POST", "/v1/chat/completions", body)
        return read_chat(
            decode(answer, _BACKEND, self._secret), _BACKEND, self._secret, headers=answer.headers
        )

    def _first_model(self) -> Flow[str]:
        models = yield from self._models()
        if not models:
            raise PermanentBackendError(f"{self._url} offers no model", backend=_BACKEND)
        self._served = models[0].id  # calls that ask at the same time get the same answer
        return self._served

    def _models(self) -> Flow[list[ServedModel]]:
        answer = yield from self._ask("GET", "/v1/models")
        offered = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(offered, list):
            raise PermanentBackendError(f"{self._url}/v1/models lists no models", backend=_BACKEND)
        return [_served(model) for model in offered if isinstance(model, dict) and model.get("id")]

    def _count_tokens(self, prompt: str | Sequence[Message]) -> Flow[int]:
        model = self._served or (yield from self._first_model())
        if isinstance(prompt, str):
            # A text on its own begins no prompt, so no start token counts.
            what: dict[str, Any] = {"prompt": prompt, "add_special_tokens": False}
        else:
            what = {"messages": [dict(one) for one in prompt]}
        answer = yield from self._ask("POST", "/tokenize", {"model": model, **what})
        tokens = answer.get("count") if isinstance(answer, dict) else None
        if type(tokens) is not int:
            raise PermanentBackendError(f"{self._url}/tokenize counts no tokens", backend=_BACKEND)
        return tokens

    def _metrics(self) -> Flow[VLLMMetrics]:
        answer = yield from self._answer("GET", "/metrics")
        return read_metrics(answer.body.decode("utf-8", "replace"))

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Flow[Any]:
        answer = yield from self._answer(method, path, body)
        return decode(answer, _BACKEND, self._secret)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Flow[HTTPResponse]:
        answer = yield from send_request(self._send(method, path, body), _BACKEND)
        if answer.status != 200:
            raise self._error(answer)
        return answer

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> HTTPRequest:
        content = None if body is None else encode(body)
        return HTTPRequest(method, self._url + path, self._headers, content, self._timeout)

    def _error(self, answer: HTTPResponse) -> Exception:
        try:
            body = decode(answer, _BACKEND, self._secret)
        except Exception:
            body = answer.body.decode("utf-8", "replace")
        return chat_error(answer.status, body, answer.headers, _BACKEND, self._secret)


def _served(model: Mapping[str, Any]) -> ServedModel:
    length = model.get("max_model_len")
    return ServedModel(str(model["id"]), length if type(length) is int else None)
