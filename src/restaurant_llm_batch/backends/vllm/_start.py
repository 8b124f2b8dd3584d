"""Starting vLLM's engines in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import BatchError, ConfigurationError, PermanentBackendError
from ...models import LLMRequest
from ._codec import Prepared, prepare, vllm_module

DEFAULTS: Mapping[str, Any] = {
    "scheduling_policy": "priority",  # without it vLLM ignores priorities
    "disable_log_stats": True,
    # Whitespace between fields costs tokens, and some models write nothing else. What a request says about it
    # is ignored by vLLM: only the engine's own setting counts, and only these backends know it.
    "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
}
"""Engine arguments where the user gives none."""


@dataclass(frozen=True, slots=True)
class Started:
    """A running engine, and what is needed to prepare requests for it."""

    engine: Any
    tokenizer: Any
    context: int
    model: str

    def prepare(self, request: LLMRequest, template_arguments: Mapping[str, Any]) -> Prepared:
        """Render a request for this engine; see `engine_codec.prepare`."""
        return prepare(request, self.tokenizer, self.context, template_arguments)


def describe(engine: Any) -> Started:
    """Read off a running engine, of either colour, what its requests need."""
    config = engine.model_config
    return Started(engine, engine.get_tokenizer(), int(config.max_model_len), str(config.model))


def start_blocking(arguments: Mapping[str, Any]) -> Any:
    """
    Start a `vllm.LLM`.

    Raises:
        BatchError: When it does not start.
    """
    return _start(lambda vllm, known: vllm.LLM(**known), arguments)


def start_awaited(arguments: Mapping[str, Any]) -> Any:
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
