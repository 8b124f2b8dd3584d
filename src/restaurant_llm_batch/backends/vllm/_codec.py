"""vLLM engine codec: prompts and sampling parameters, outputs, exceptions, and engine arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..._http.classify import is_prompt_too_long, says_busy
from ..._llm_response import LLMResponse
from ...errors import (
    BackendError,
    BatchError,
    ConfigurationError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)
from ...models import LLMRequest

BACKEND = "vllm-engine"
_INSTALL = "VLLMEngineLLM needs vLLM; install it with: pip install 'restaurant-llm-batch[vllm]'"
_DEAD = (
    "vLLM's engine died, and all its requests failed; its log says why. After close() and aclose() the next call "
    "starts another engine; if that fails too, restart the process"
)
_TRANSIENT_ERRORS = frozenset({"EngineGenerateError", "RetryableRequestError"})
_MAX_ERROR_TEXT = 500


def require_vllm() -> None:
    """
    Check that vLLM is installed, without importing it.

    Raises:
        ConfigurationError: If it is not.
    """
    if find_spec("vllm") is None:
        raise ConfigurationError(_INSTALL)


def vllm_module(name: str) -> Any:
    """
    Import a module of vLLM.

    Raises:
        ConfigurationError: If it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{_INSTALL}. Importing {name} failed: {error}") from error


@dataclass(frozen=True, slots=True)
class Prepared:
    """A rendered request: token ids of the prompt, sampling parameters, and priority."""

    prompt: Mapping[str, Any]
    sampling: Any
    priority: int


def prepare(
    request: LLMRequest, tokenizer: Any, context: int, template_arguments: Mapping[str, Any]
) -> Prepared:
    """
    Render a request with the model's chat template, and limit its completion to the rest of the context.

    Args:
        request: The request.
        tokenizer: The model's tokenizer.
        context: The model's context length: maximum tokens of prompt and completion together.
        template_arguments: Arguments of the chat template besides the messages.

    Raises:
        PromptTooLong: If the prompt leaves no room for a completion.
    """
    tokens = tokenizer.apply_chat_template(
        [dict(message) for message in request.messages],
        **{"add_generation_prompt": True, **template_arguments, "tokenize": True, "return_dict": False},
    )
    room = context - len(tokens)
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {len(tokens)} tokens, and the model's context of {context} must hold the answer "
            "too",
            backend=BACKEND,
        )
    # "type" marks a rendered input in vLLM's terms; without it vLLM takes a raw prompt, which is deprecated.
    prompt = {"type": "token", "prompt_token_ids": list(tokens)}
    return Prepared(prompt, _sampling(request, min(request.max_tokens, room)), request.priority)


def _sampling(request: LLMRequest, max_tokens: int) -> Any:
    module = vllm_module("vllm.sampling_params")
    structure = None
    if request.schema is not None:
        schema = json.dumps(request.schema, ensure_ascii=False)
        structure = module.StructuredOutputsParams(json=schema)
    return module.SamplingParams(
        temperature=request.temperature,
        max_tokens=max_tokens,
        structured_outputs=structure,
        output_kind=module.RequestOutputKind.FINAL_ONLY,
    )


def read(output: Any, model: str) -> LLMResponse:
    """
    Return the response in a finished output.

    Raises:
        TransientBackendError: If the engine aborted the request.
    """
    completion = output.outputs[0]
    reason = str(completion.finish_reason or "stop")
    if reason in ("abort", "error"):
        raise TransientBackendError(f"vLLM aborted the request: {reason}", backend=BACKEND)
    return LLMResponse(
        text=completion.text,
        finish_reason=reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(completion.token_ids),
        model=model,
        cached_tokens=getattr(output, "num_cached_tokens", None) or 0,
    )


def backend_error(error: Exception) -> BackendError:
    """
    Convert an exception of vLLM.

    Matches classes by name, because they move between modules from version to version.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if "EngineDeadError" in names:
        return PermanentBackendError(_DEAD, backend=BACKEND)
    message = f"vLLM: {type(error).__name__}: {str(error)[:_MAX_ERROR_TEXT]}"
    if is_prompt_too_long(str(error)):
        return PromptTooLong(message, backend=BACKEND)
    status = getattr(error, "http_status", None)
    if status is not None and int(status) == 503:
        if says_busy(str(error)):
            return RateLimited(message, backend=BACKEND, status=503)
        return TransientBackendError(message, backend=BACKEND, status=503)
    if names & _TRANSIENT_ERRORS:
        return TransientBackendError(message, backend=BACKEND)
    return PermanentBackendError(message, backend=BACKEND)


DEFAULTS: Mapping[str, Any] = {
    "scheduling_policy": "priority",  # the default, "fcfs", ignores priorities
    "disable_log_stats": True,
    # Whitespace between JSON fields costs tokens, and some models emit it without end. vLLM ignores the request's
    # own setting, so set it on the engine; only the guidance and xgrammar backends support it.
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
}
"""Default engine arguments; the user's override them. See https://docs.vllm.ai/en/latest/configuration/engine_args.html"""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A running engine with its tokenizer, its context length in tokens, and its model's name."""

    engine: Any
    tokenizer: Any
    context: int
    model: str

    def prepare(self, request: LLMRequest, template_arguments: Mapping[str, Any]) -> Prepared:
        """Render a request for this engine; see the function `prepare`."""
        return prepare(request, self.tokenizer, self.context, template_arguments)


def describe(engine: Any) -> LoadedEngine:
    """Return a running engine, sync or async, with its tokenizer, context length and model name."""
    config = engine.model_config
    return LoadedEngine(engine, engine.get_tokenizer(), int(config.max_model_len), str(config.model))


def load_sync(arguments: Mapping[str, Any]) -> Any:
    """
    Start a `vllm.LLM`.

    Raises:
        BatchError: If it does not start.
    """
    return _start(lambda vllm, engine_arguments: vllm.LLM(**engine_arguments), arguments)


def load_async(arguments: Mapping[str, Any]) -> Any:
    """
    Start an `AsyncLLM`. Call it in a thread, since loading a model takes minutes.

    Raises:
        BatchError: If it does not start.
    """
    return _start(
        lambda vllm, engine_arguments: vllm.AsyncLLMEngine.from_engine_args(
            vllm.AsyncEngineArgs(**engine_arguments)
        ),
        arguments,
    )


def _start(make: Callable[[Any, dict[str, Any]], Any], arguments: Mapping[str, Any]) -> Any:
    vllm = vllm_module("vllm")
    engine_arguments = {**DEFAULTS, **arguments}
    structure = engine_arguments["structured_outputs_config"]
    try:
        if isinstance(structure, Mapping):  # AsyncEngineArgs does not accept a mapping
            engine_arguments["structured_outputs_config"] = vllm_module(
                "vllm.config"
            ).StructuredOutputsConfig(**structure)
        return make(vllm, engine_arguments)
    except BatchError:
        raise
    except Exception as error:
        message, token = f"{type(error).__name__}: {error}", engine_arguments.get("hf_token")
        secret = isinstance(token, str) and token != "" and token in message
        if secret:
            message = message.replace(str(token), "***")
        error_class = ConfigurationError if isinstance(error, TypeError) else PermanentBackendError
        # The cause's message may hold the token.
        raise error_class(f"vLLM did not start: {message[:2000]}") from (None if secret else error)
