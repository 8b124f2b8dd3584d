"""A request as vLLM's engine takes it, its output as a reply, and its exceptions as ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..._llm_response import LLMResponse
from ...errors import (
    BackendError,
    BatchError,
    ConfigurationError,
    PermanentBackendError,
    PromptTooLong,
    TransientBackendError,
)
from ...models import LLMRequest

BACKEND = "vllm-engine"
_INSTALL = "VLLMEngineLLM needs vLLM; write pip install 'restaurant-llm-batch[vllm]'"
_DEAD = (
    "vLLM's engine died, and all requests in it; its log says why. After close() and aclose() the next call "
    "starts another; should that fail too, restart the process"
)
_PASSING = frozenset({"EngineGenerateError", "RetryableRequestError"})
_MAX_ERROR_TEXT = 500


def require_vllm() -> None:
    """
    Check that vLLM is installed, without importing it.

    Raises:
        ConfigurationError: When it is not.
    """
    if find_spec("vllm") is None:
        raise ConfigurationError(_INSTALL)


def vllm_module(name: str) -> Any:
    """
    Import a module of vLLM.

    Raises:
        ConfigurationError: When it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(f"{_INSTALL}. Importing {name} failed: {error}") from error


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as the engine takes it: a prompt of tokens, its sampling, and its priority."""

    prompt: Mapping[str, Any]
    sampling: Any
    priority: int


def prepare(
    request: LLMRequest, tokenizer: Any, context: int, template_arguments: Mapping[str, Any]
) -> Prepared:
    """
    Render a request.

    Args:
        request: The question.
        tokenizer: The model's tokenizer.
        context: The most tokens of prompt and answer together.
        template_arguments: What the chat template is given beside the messages.

    Raises:
        PromptTooLong: When no room is left for an answer.
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
    # With its type it is what vLLM calls a rendered input; without, a raw prompt, which is deprecated.
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
    Return the reply in a finished output.

    Raises:
        TransientBackendError: When the engine gave the request up.
    """
    answer = output.outputs[0]
    reason = str(answer.finish_reason or "stop")
    if reason in ("abort", "error"):
        raise TransientBackendError(f"vLLM gave the request up: {reason}", backend=BACKEND)
    return LLMResponse(
        text=answer.text,
        finish_reason=reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        completion_tokens=len(answer.token_ids),
        model=model,
        cached_tokens=getattr(output, "num_cached_tokens", None) or 0,
    )


def backend_error(error: Exception) -> BackendError:
    """
    Return what an exception of vLLM's means.

    Its classes are known by name, because they move between modules from version to version.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if "EngineDeadError" in names:
        return PermanentBackendError(_DEAD, backend=BACKEND)
    words = f"vLLM: {type(error).__name__}: {str(error)[:_MAX_ERROR_TEXT]}"
    status = getattr(error, "http_status", None)
    if status is not None and int(status) == 503:
        return TransientBackendError(words, backend=BACKEND, status=503)
    if names & _PASSING:
        return TransientBackendError(words, backend=BACKEND)
    return PermanentBackendError(words, backend=BACKEND)


DEFAULTS: Mapping[str, Any] = {
    "scheduling_policy": "priority",  # without it vLLM ignores priorities
    "disable_log_stats": True,
    # Whitespace between fields costs tokens, and some models write nothing else. What a request says about it
    # is ignored by vLLM: only the engine's own setting counts, and only these backends know it.
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
}
"""Engine arguments where the user gives none."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A running engine, and what is needed to prepare requests for it."""

    engine: Any
    tokenizer: Any
    context: int
    model: str

    def prepare(self, request: LLMRequest, template_arguments: Mapping[str, Any]) -> Prepared:
        """Render a request for this engine; see `engine_codec.prepare`."""
        return prepare(request, self.tokenizer, self.context, template_arguments)


def describe(engine: Any) -> LoadedEngine:
    """Read off a running engine, of either colour, what its requests need."""
    config = engine.model_config
    return LoadedEngine(engine, engine.get_tokenizer(), int(config.max_model_len), str(config.model))


def load_sync(arguments: Mapping[str, Any]) -> Any:
    """
    Start a `vllm.LLM`.

    Raises:
        BatchError: When it does not start.
    """
    return _start(lambda vllm, known: vllm.LLM(**known), arguments)


def load_async(arguments: Mapping[str, Any]) -> Any:
    """
    Start an `AsyncLLM`; to be called off the loop that it will run on.

    Raises:
        BatchError: When it does not start.
    """
    return _start(
        lambda vllm, known: vllm.AsyncLLMEngine.from_engine_args(vllm.AsyncEngineArgs(**known)), arguments
    )


def _start(make: Callable[[Any, dict[str, Any]], Any], arguments: Mapping[str, Any]) -> Any:
    vllm = vllm_module("vllm")
    known = {**DEFAULTS, **arguments}
    structure = known["structured_outputs_config"]
    try:
        if isinstance(structure, Mapping):  # which AsyncEngineArgs would not take
            known["structured_outputs_config"] = vllm_module("vllm.config").StructuredOutputsConfig(
                **structure
            )
        return make(vllm, known)
    except BatchError:
        raise
    except Exception as error:
        words, token = f"{type(error).__name__}: {error}", known.get("hf_token")
        secret = isinstance(token, str) and token != "" and token in words
        if secret:
            words = words.replace(str(token), "***")
        kind = ConfigurationError if isinstance(error, TypeError) else PermanentBackendError
        # What it was caused by would show the token.
        raise kind(f"vLLM did not start: {words[:2000]}") from (None if secret else error)
