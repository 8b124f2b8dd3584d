"""vLLM in this process, without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._http.fingerprint import backend_fingerprint
from ..._llm_response import LLMResponse
from ...errors import ConfigurationError
from ...models import LLMRequest
from ._async_engine import AsyncEngine
from ._codec import require_vllm
from ._sync_engine import SyncEngine


class VLLMEngineLLM:
    """
    A model that vLLM runs in this process.

        llm = VLLMEngineLLM("Qwen/Qwen2.5-14B-Instruct-AWQ", max_model_len=8192)

    `complete` drives a `vllm.LLM`: calls of several threads are worked on together, and one that comes later
    joins those under way. `acomplete` awaits an `AsyncLLM`; cancelling it aborts the request.

    Nothing is loaded before the first call. Each colour then loads an engine of its own, and by default vLLM
    takes nearly all of a GPU's memory: use strategies of one colour with one object, or close the one before
    the other. The engine of `acomplete` lives as long as the runner's work on its event loop, so keep the
    runner open over several runs (``with runner:``); that of `complete` lives until `close`. vLLM starts
    processes, so a script must stand under ``if __name__ == "__main__":``.

    A prompt that does not fit the context fails alone, as `PromptTooLong`; an answer that would not fit is
    cut off at the context's end. Requests wait inside vLLM without a time limit.
    """

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
        Name a model, or hand over engines that run already.

        Args:
            model: A name or folder that vLLM can load.
            llm: A `vllm.LLM` for `complete`; nothing else may use it meanwhile. It stays yours to shut down.
            engine: An `AsyncLLM` for `acomplete`, used on its own loop only; it stays yours to shut down.
            chat_template_kwargs: What the chat template is given beside the messages, such as
                ``{"enable_thinking": False}``, or a ``"chat_template"`` to use instead of the model's.
            engine_arguments: vLLM's engine arguments. Where they are not given, ``scheduling_policy`` is
                "priority", so that the runner's priorities are obeyed; ``structured_outputs_config`` asks for
                JSON without whitespace between its fields; ``disable_log_stats`` is true.

        Raises:
            ConfigurationError: When vLLM is not installed, or neither or both of model and engine are given.
        """
        given = llm is not None or engine is not None
        if given == (model is not None) or (given and engine_arguments):
            raise ConfigurationError(
                "VLLMEngineLLM takes a model with its engine arguments, or running engines; for example "
                'VLLMEngineLLM("Qwen/Qwen2.5-14B-Instruct-AWQ", max_model_len=8192) or VLLMEngineLLM(llm=...)'
            )
        named: object = model
        if named is not None and not (isinstance(named, str) and named):
            raise ConfigurationError(f"model must be a name or a folder, got {model!r}")
        if not given:
            require_vllm()
        self._model = model
        arguments = None if model is None else {**engine_arguments, "model": model}
        template_arguments = self._template_arguments = dict(chat_template_kwargs or {})
        running = getattr(llm, "llm_engine", engine)
        self._named = model or str(getattr(getattr(running, "model_config", None), "model", ""))
        self._sync_engine = SyncEngine(arguments, template_arguments, llm)
        self._async_engine = AsyncEngine(arguments, template_arguments, engine)

    @property
    def fingerprint(self) -> str:
        """Name what answers, in the keys of a store: equal identities give each other's answers."""
        return backend_fingerprint("vllm-engine", None, self._named, self._template_arguments)

    def __repr__(self) -> str:
        # Not the arguments: a Hugging Face token may be among them.
        return f"{type(self).__name__}({self._model!r})" if self._model else f"{type(self).__name__}(...)"

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request, together with those of other threads.

        Raises:
            PromptTooLong: When the prompt leaves no room for an answer.
            TransientBackendError: When the engine gave the request up.
            PermanentBackendError: When the engine refuses it, has died, or does not start.
            ConfigurationError: When vLLM cannot be imported, or does not know an argument.
        """
        return self._sync_engine.complete(request)

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        """
        Answer a request without blocking the loop.

        Raises:
            PromptTooLong: When the prompt leaves no room for an answer.
            TransientBackendError: When the engine gave the request up, or has no room for more.
            PermanentBackendError: When the engine refuses it, has died, or does not start.
            ConfigurationError: When the loop is trio's, or the engine runs on another; or as in `complete`.
        """
        return await self._async_engine.complete(request)

    def close(self) -> None:
        """Shut down the engine of `complete`; it is started again when it is next asked."""
        self._sync_engine.close()

    async def aclose(self) -> None:
        """Shut down the engine of `acomplete` on this loop; it is started again when it is next asked."""
        await self._async_engine.aclose()
