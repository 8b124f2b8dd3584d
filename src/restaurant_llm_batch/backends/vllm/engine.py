"""vLLM engine backend: `VLLMEngineLLM` runs a model in this process, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._http.fingerprint import backend_fingerprint
from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._llm_response import LLMResponse
from ...errors import ConfigurationError, PermanentBackendError
from ...models import LLMRequest
from .._schema_forms import SchemaForms, labels_by_number
from ._async_engine import AsyncEngine
from ._codec import BACKEND, require_vllm, vllm_module
from ._metrics import VLLMMetrics, read_metrics
from ._sync_engine import SyncEngine


class VLLMEngineLLM(PickledAsRecipe):
    """
    A model that vLLM runs in this process.

        llm = VLLMEngineLLM("Qwen/Qwen2.5-14B-Instruct-AWQ", max_model_len=8192)

    `complete` drives a `vllm.LLM`: calls of several threads are batched, and later calls join the running batch.
    `acomplete` awaits an `AsyncLLM`; cancellation aborts the request.

    Nothing is loaded before the first call. `complete` and `acomplete` load an engine each, and by default vLLM
    takes nearly all of a GPU's memory, so use one object either with sync or with async strategies, or close one
    engine before using the other. The engine of `acomplete` lives as long as the runner's work on its event loop,
    so keep the runner open over several runs (``with runner:``); that of `complete` lives until `close`. vLLM
    starts processes, so a script's code must be under ``if __name__ == "__main__":``.

    A prompt that exceeds the context fails alone, with `PromptTooLong`. A completion is cut off at the end of the
    context. Requests wait inside vLLM without a time limit.
    """

    _open_arguments = ("llm", "engine")

    def __init__(
        self,
        model: str | None = None,
        *,
        llm: Any = None,
        engine: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **engine_arguments: Any,
    ) -> None:
        """
        Configure a model to load, or use engines that are running.

        Args:
            model: A model name or folder that vLLM can load.
            llm: A `vllm.LLM` for `complete`; nothing else may use it meanwhile. The caller shuts it down.
            engine: An `AsyncLLM` for `acomplete`, used on its own event loop only. The caller shuts it down.
            chat_template_kwargs: Arguments of the chat template besides the messages, such as
                ``{"enable_thinking": False}``, or a ``"chat_template"`` to use instead of the model's.
            engine_arguments: vLLM's engine arguments. Defaults that differ from vLLM's: ``scheduling_policy`` is
                "priority", so that the runner's priorities apply; ``structured_outputs_config`` disables
                whitespace between JSON fields; ``disable_log_stats`` is True.

        Raises:
            ConfigurationError: If vLLM is not installed, or neither or both of a model and an engine are given.
        """
        given = arguments_of(locals())
        self._made_with = given.pop("engine_arguments") | given
        has_engine = llm is not None or engine is not None
        if has_engine == (model is not None) or (has_engine and engine_arguments):
            raise ConfigurationError(
                "VLLMEngineLLM takes a model with its engine arguments, or running engines; for example "
                'VLLMEngineLLM("Qwen/Qwen2.5-14B-Instruct-AWQ", max_model_len=8192) or VLLMEngineLLM(llm=...)'
            )
        name: object = model
        if name is not None and not (isinstance(name, str) and name):
            raise ConfigurationError(f"model must be a name or a folder, got {model!r}")
        if not has_engine:
            require_vllm()
        self._model = model
        arguments = None if model is None else {**engine_arguments, "model": model}
        template_arguments = self._template_arguments = dict(chat_template_kwargs or {})
        running = getattr(llm, "llm_engine", engine)
        self._model_name = model or str(getattr(getattr(running, "model_config", None), "model", ""))
        self._forms = SchemaForms(labels_by_number)  # the engine compiles a grammar
        self._sync_engine = SyncEngine(arguments, template_arguments, llm)
        self._async_engine = AsyncEngine(arguments, template_arguments, engine)

    @property
    def model(self) -> str | None:
        """Name of the model; None if it is not known."""
        return self._model_name or None

    @property
    def fingerprint(self) -> str:
        """Cache key of this backend in a store: backends with equal fingerprints share their replies."""
        return backend_fingerprint("vllm-engine", None, self._model_name, self._template_arguments)

    def __repr__(self) -> str:
        # Not the arguments: a Hugging Face token may be among them.
        return f"{type(self).__name__}({self._model!r})" if self._model else f"{type(self).__name__}(...)"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request, blocking the thread; requests of other threads join the same batch.

        Raises:
            PromptTooLong: If the prompt leaves no room for a completion.
            TransientBackendError: If the engine aborted the request.
            PermanentBackendError: If the engine rejects the request, has died, or does not start.
            ConfigurationError: If vLLM cannot be imported, or does not know an argument.
        """
        return self._sync_engine.complete(self._forms.adapt(request))

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Complete a request without blocking the event loop; cancellation aborts it.

        Raises:
            PromptTooLong: If the prompt leaves no room for a completion.
            TransientBackendError: If the engine aborted the request, or its queue is full.
            PermanentBackendError: If the engine rejects the request, has died, or does not start.
            ConfigurationError: If the event loop is trio's, or the engine runs on another loop; or as `complete`.
        """
        return await self._async_engine.complete(self._forms.adapt(request))

    def metrics(self) -> VLLMMetrics:
        """
        Return the load of the vLLM engines of this process, those of other objects included.

        Start the engine with ``disable_log_stats=False``, so that vLLM keeps the figures.

        Raises:
            PermanentBackendError: If no engine runs here that keeps its figures.
            ConfigurationError: If vLLM cannot be imported.
        """
        prometheus = vllm_module("prometheus_client")
        try:
            return read_metrics(prometheus.generate_latest(prometheus.REGISTRY).decode())
        except PermanentBackendError as error:
            raise PermanentBackendError(
                "no vLLM engine of this process keeps its figures; start it with disable_log_stats=False, and read "
                "them after its first call",
                backend=BACKEND,
            ) from error

    async def ametrics(self) -> VLLMMetrics:
        """Return the same as `metrics`, which takes some milliseconds."""
        return self.metrics()

    def close(self) -> None:
        """Shut down the engine of `complete`; the next call starts it again."""
        self._sync_engine.close()

    async def aclose(self) -> None:
        """Shut down the engine of `acomplete` on the running event loop; the next call starts it again."""
        await self._async_engine.aclose()
